"""A few cases of every CUDA kernel, executed on the CPU; `make test-emulated` runs all of them with several seeds."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from loginmea_fast import native
from tests.emulation import library
from tests.helpers.cases import assert_cases_pass

pytestmark = pytest.mark.skipif(
    shutil.which("g++") is None, reason="no g++, which compiles kernels for the CPU"
)

ATTENTION, FUSION = "relation_reflection_attention.py::", "low_rank_fusion.py::"
FORMULA = f"{FUSION}test_output_and_gradients_are_those_of_the_formula"
GROUPS = f"{FUSION}test_cuda_tiles_of_warpgroups_are_those_of_warps"
CASES = (
    f"{ATTENTION}test_layers_and_every_gradient[cuda-no edges-relation-torch.float32]",
    f"{ATTENTION}test_layers_and_every_gradient[cuda-hub-triple-torch.float32]",
    f"{ATTENTION}test_layers_and_every_gradient[cuda-hub-relation-torch.bfloat16]",
    f"{ATTENTION}test_layers_and_every_gradient[cuda-random-triple-torch.float64]",
    f"{ATTENTION}test_nan_reaches_neighbours_and_no_others[cuda-triple]",
    f"{ATTENTION}test_saturated_rows_have_finite_gradients[cuda]",
    f"{ATTENTION}test_cuda_rings_bring_the_same_rows[8-torch.float32-triple]",
    "views.py::test_layers_of_a_view[cuda-parallel-triple-torch.float32]",
    f"{FORMULA}[cuda-(0, 2, (3, 5), 4)-torch.float32-scaled]",
    f"{FORMULA}[cuda-(6, 2, (128, 300, 301), 16)-torch.float32-scaled]",
    f"{FORMULA}[cuda-(50, 3, (1, 2, 3, 4, 5), 1)-torch.bfloat16-scaled]",
    f"{FORMULA}[cuda-(400, 2, (65, 64, 63), 130)-torch.bfloat16-plain]",
    f"{FUSION}test_kept_products_give_the_same_gradients[cuda-(13, 1, (3, 17), 301)-torch.float32]",
    f"{GROUPS}[(6, 2, (128, 300, 301), 16)-tf32-again]",
    f"{GROUPS}[(50, 3, (1, 2, 3, 4, 5), 1)-bfloat16-again]",
    f"{FUSION}test_products_of_lower_precision_keep_float32_sums[cuda-tf32]",
)


@pytest.mark.slow
def test_kernels_equal_the_formulas(tmp_path: Path) -> None:
    library.build(library.sources())  # here, where a compiler's words are seen whole
    assert_cases_pass(CASES, {library.SEED: "1"}, tmp_path)


def test_a_table_that_no_launch_takes_is_named() -> None:
    kernels = library.load(library.build(library.sources()))
    table, nothing = torch.zeros(4, 1028), (0, 0, 0, 0, 0)
    segments = 0, 0, 0, 0, 0, 0, 0, 0
    for rows, logits, words in (
        (table, nothing, "attention_forward: .* widths up to 1024 .* got 1028"),
        (table[:, :8].contiguous(), table[:, 0].double(), "expected a table of float32, got float64"),
        (table[:, :8].half(), nothing, "expected float32, float64 or bfloat16, got float16"),
    ):
        wire = rows.data_ptr(), *rows.shape, rows.stride(0), native.dtype_code(rows.dtype)
        if isinstance(logits, torch.Tensor):
            logits = logits.data_ptr(), len(logits), 1, 1, native.dtype_code(logits.dtype)
        with pytest.raises(ValueError, match=words):
            kernels.attention_forward(
                segments, 0, 0, wire, wire, logits, nothing, True, wire, *[nothing] * 3, False, 0
            )


def test_a_driver_that_is_too_old_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    kernels = library.load(library.build(library.sources()))
    assert kernels.card_reason() == ""
    monkeypatch.setenv("LOGINMEA_EMULATED_CUDA_DRIVER", "12040")
    assert kernels.card_reason().startswith(
        "needs a driver for CUDA 13.0, this one is for CUDA 12.4; update it"
    )
