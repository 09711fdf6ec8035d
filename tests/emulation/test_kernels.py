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
    f"{ATTENTION}test_rows_as_wide_as_every_layout[cuda-330-torch.bfloat16-relation]",
    f"{ATTENTION}test_rows_as_wide_as_every_layout[cuda-600-torch.float32-triple]",
    f"{ATTENTION}test_rows_as_wide_as_every_layout[cuda-64-torch.float64-triple]",
    f"{ATTENTION}test_arguments_that_begin_within_other_memory[cuda-reflectors]",
    f"{ATTENTION}test_nan_reaches_neighbours_and_no_others[cuda-triple]",
    f"{ATTENTION}test_saturated_rows_have_finite_gradients[cuda]",
    f"{ATTENTION}test_cuda_rings_bring_the_same_rows[8-torch.float32-triple]",
    "views.py::test_layers_of_a_view[cuda-parallel-triple-torch.float32]",
    f"{FORMULA}[cuda-(0, 2, (3, 5), 4)-torch.float32-scaled]",
    f"{FORMULA}[cuda-(6, 2, (128, 300, 301), 16)-torch.float32-scaled]",
    f"{FORMULA}[cuda-(50, 3, (1, 2, 3, 4, 5), 1)-torch.bfloat16-scaled]",
    f"{FORMULA}[cuda-(400, 2, (65, 64, 63), 130)-torch.bfloat16-plain]",
    f"{FORMULA}[cuda-(70, 3, (9, 2, 7, 4), 66)-torch.float32-plain]",
    f"{FORMULA}[cuda-(9, 2, (4, 1, 2, 3, 2, 6), 33)-torch.bfloat16-scaled]",
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


@pytest.mark.slow
def test_fusion_serves_cards_that_give_a_block_99_kib(tmp_path: Path) -> None:
    library.build(library.sources())
    # The wider and the narrower tile; a ring, which asks for as much on cards that have it.
    cases = (
        f"{FUSION}test_kept_products_give_the_same_gradients[cuda-(13, 1, (3, 17), 301)-torch.float32]",
        f"{FORMULA}[cuda-(50, 3, (1, 2, 3, 4, 5), 1)-torch.bfloat16-scaled]",
        f"{ATTENTION}test_cuda_rings_bring_the_same_rows[192-torch.float32-relation]",
    )
    assert_cases_pass(cases, {library.SEED: "1", library.SHARED: "99"}, tmp_path)


def test_a_backend_that_refuses_over_the_emulator_fails(tmp_path: Path) -> None:
    case = f"{ATTENTION}test_saturated_rows_have_finite_gradients[cuda]"
    too_old = {library.SEED: "1", "LOGINMEA_EMULATED_CUDA_DRIVER": "12040"}
    with pytest.raises(AssertionError, match=r"the emulated backend must serve: .*needs a driver"):
        assert_cases_pass([case], too_old, tmp_path)
    with pytest.raises(AssertionError, match="over the emulator no test has passed"):
        assert_cases_pass(
            [f"{FORMULA}[cuda-(1, 1, (1,), 1)-torch.float64-plain]"], {library.SEED: "1"}, tmp_path
        )
    not_float64 = (
        "low_rank_fusion: backend 'cuda' cannot serve this call: its products are float32 or bfloat16"
    )
    assert not library.wrongly_refused(not_float64)
    assert not library.wrongly_refused("bulk copies are of compute capability 9.0 and later")


def test_a_card_with_too_little_shared_memory_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    kernels = library.load(library.build(library.sources()))
    operand, row = torch.zeros(128, 64), torch.zeros(1, 64)

    def wire(table: torch.Tensor) -> tuple[int, ...]:
        return table.data_ptr(), *table.shape, table.stride(0), native.dtype_code(table.dtype)

    monkeypatch.setenv(library.SHARED, "64")
    words = r"fusion_forward: needs 82944 bytes of shared memory a block, and this card gives it 65280; .*reference"
    with pytest.raises(ValueError, match=words):
        kernels.fusion_forward(
            *map(wire, (operand, operand, row)), [0, 64], False, wire(row), (0, 0, 0, 0, 0), wire(operand), 0, 8, 1, 0
        )  # fmt: skip


def test_a_driver_that_is_too_old_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    kernels = library.load(library.build(library.sources()))
    assert kernels.card_reason() == ""
    monkeypatch.setenv("LOGINMEA_EMULATED_CUDA_DRIVER", "12040")
    assert kernels.card_reason().startswith(
        "needs a driver for CUDA 13.0, this one is for CUDA 12.4; update it"
    )
