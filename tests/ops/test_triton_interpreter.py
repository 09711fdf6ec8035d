"""A few cases of every operator's Triton kernels under Triton's interpreter, where there is no GPU.

TRITON_INTERPRET must be set before Triton is imported, so they run in a process of their own; with it set, `pytest
tests/ops` runs all cases, which takes half an hour.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers.cases import assert_cases_pass

triton = pytest.importorskip("triton", reason="Triton is not installed")
TRITON = tuple(int(part) for part in triton.__version__.split(".")[:2])

CASES = (
    "relation_reflection_attention.py::test_saturated_rows_have_finite_gradients[triton]",
    "relation_reflection_attention.py::test_nan_reaches_neighbours_and_no_others[triton-triple]",
    "views.py::test_one_layer_and_the_formula[triton-triple]",
    "views.py::test_layers_of_a_view[triton-parallel-triple-torch.float32]",
    "low_rank_fusion.py::test_output_and_gradients_are_those_of_the_formula"
    "[triton-(13, 1, (3, 17), 301)-torch.float32-scaled]",
    "low_rank_fusion.py::test_a_projection_or_a_rank_weight_of_zero[triton]",
    "low_rank_fusion.py::test_modality_scale_is_the_formula[37-widths3-torch.float32-triton]",
    "low_rank_fusion.py::test_adaptive_fusion_is_scale_and_fusion[torch.float32-query-triton]",
    "low_rank_fusion.py::test_an_absent_modality_is_zero_beside_a_nan[triton]",
    "low_rank_fusion.py::test_rows_of_any_length_have_their_direction[1e-30-torch.float32-triton]",
    "low_rank_fusion.py::test_an_absent_modality_has_no_weight_and_no_gradient[torch.float32-query-triton]",
    "contrastive_loss.py::test_a_low_temperature_does_not_overflow[triton-both ways]",
    "contrastive_loss.py::test_zero_rows_have_no_direction[triton]",
    "contrastive_loss_to_keys.py::test_loss_and_every_gradient[triton-(9, 30, 63)-torch.float32-out-as they are]",
    "contrastive_loss_to_keys.py::test_loss_and_every_gradient[triton-(9, 30, 63)-torch.float32-in-unit]",
    "contrastive_loss_to_keys.py::test_reductions_with_and_without_what_is_optional[triton-absent1-none]",
    "contrastive_loss_to_keys.py::test_keys_of_both_sides_and_known_links_left_out[triton]",
    "contrastive_loss_to_keys.py::test_a_temperature_that_is_learned[triton-both ways]",
    "contrastive_loss_to_keys.py::test_a_query_without_negatives_says_nothing[triton]",
    "contrastive_loss_to_keys.py::test_row_weights_have_a_gradient_where_nothing_else_has[triton-both ways-mean]",
    "contrastive_loss_to_keys.py::test_strided_arguments[triton]",
    "contrastive_loss_to_keys.py::test_one_number_expanded_to_all[triton]",
    "contrastive_loss.py::test_strided_and_expanded_arguments[triton]",
    "low_rank_fusion.py::test_strided_arguments_and_an_expanded_gradient[triton]",
    "relation_reflection_attention.py::test_strided_input_and_expanded_gradient[triton]",
    "alignment_search.py::test_ranks_equal_a_brute_force[triton-shape3-ties-None]",
    "alignment_search.py::test_topk_and_mutual_pairs_equal_the_dense_ones[triton-shape2-random-bfloat16]",
    "alignment_search.py::test_blocks_of_several_strips[triton-ties-None]",
    "alignment_search.py::test_a_full_buffer_of_undecided_scores[triton-3]",
)


@pytest.mark.skipif(TRITON < (3, 3), reason="the interpreter of Triton before 3.3 crashes")
def test_kernels_are_right_under_the_interpreter(tmp_path: Path) -> None:
    assert_cases_pass(CASES, {"TRITON_INTERPRET": "1"}, tmp_path)
