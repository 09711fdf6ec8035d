"""The table of docs/gpu.md of Triton's kernels, as `cuda_kernels` has one of CUDA C++.

Registers and shared memory are the compiler's; work is counted by hand for zh_en: the loss of one batch of 3,500 pairs
among themselves, 2,400 wide, both ways; the search of 10,500 pairs; else one layer or one call on float32 rows of 300.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from cuda_kernels import COLUMNS, occupancy
from cuda_kernels import KERNELS as CUDA
from markers import table

__all__ = ["Specialisation", "triton_table"]


class Specialisation(NamedTuple):
    """What the compiler made of a kernel for one launch.

    Attributes:
        name: "module.kernel".
        choices: what was known when it was compiled, by the argument's name.
        pointers: types that its pointers have.
        warps: of a program.
        registers: of a thread.
        shared: bytes of a program.
    """

    name: str
    choices: Mapping[str, Any]
    pointers: frozenset[str]
    warps: int
    registers: int
    shared: int


class Kernel(NamedTuple):
    """What is known of a kernel before it has run; as in `cuda_kernels`, but for its `choices` that serve zh_en."""

    name: str
    choices: dict[str, Any]
    gflop: float
    gigabytes: float
    bound: str
    predicted: str
    overturned: str


def _as_cuda(start: str) -> tuple[float, float]:
    """GFLOP and GB of the kernel of CUDA C++ that does the same."""
    found = next(kernel for kernel in CUDA if kernel.name.startswith(start))
    return found.gflop, found.gigabytes


_ATTENTION, _FUSION, _LOSS, _SEARCH, _SCALE = (
    "relation_reflection_attention", "low_rank_fusion", "contrastive_loss", "alignment_search", "modality_scale",
)  # fmt: skip
_PAIRS, _WIDE, _RANKED, _ROWS = 3500, 2400, 10_500, 38_960
_SCORES = 4 * _PAIRS**2 / 1e9  # gigabytes of logits
_STRIP = 4 * _RANKED**2 / 1e9
_ONE_PRODUCT = 2 * _PAIRS**2 * _WIDE / 1e9
_TILES = (-(-_PAIRS // 128)) ** 2 * 2 * 128 * _WIDE * 4 / 1e9  # what tiles of 128 x 128 read
_INPUTS = 3 * 4 * _ROWS * 300 / 1e9
_LAYER = {"TRIPLE": False, "BD": 512}
_FUSED = {"M": 3, "PRECISION": "tf32"}

KERNELS = (
    Kernel(f"{_ATTENTION}._forward", _LAYER | {"TANH": True}, *_as_cuda("walk<attention::Forward"), "bytes", "0.5",
           "below `walk` of CUDA C++ by a quarter: blocks of 8 edges idle where rows have four; let CUDA serve"),
    Kernel(f"{_ATTENTION}._backward_source", _LAYER | {"DIRECT": True}, *_as_cuda("walk<attention::BackwardSource"),
           "bytes", "0.45", "below 0.4: its registers leave 12 warps; blocks of 4 edges"),
    Kernel(f"{_ATTENTION}._backward_set", {"BD": 512}, *_as_cuda("walk<attention::BackwardSet"), "bytes", "0.5",
           "as `_forward`"),
    Kernel(f"{_FUSION}._forward", _FUSED | {"KEEP": False}, *_as_cuda("tile_products<float, tf32, fusion::Forward"),
           "products", "0.4", "below 0.3: no wgmma was chosen for it, or `products kept` is faster: take that"),
    Kernel(f"{_FUSION}._projection_gradient", _FUSED | {"KEPT": False},
           *_as_cuda("tile_products<float, tf32, fusion::ProjectionGradient"), "products", "0.35", "as `_forward`"),
    Kernel("_product._product", {"SCALE": True, "ADD": False, "PRECISION": "tf32", "ROUND": False}, _ONE_PRODUCT,
           _TILES + _SCORES, "products", "0.5",
           "below 0.4: cuBLAS fills the panel and an elementwise kernel scales it"),
    Kernel(f"{_LOSS}._row_softmax", {}, 0, _SCORES, "bytes", "0.5",
           "it counts beside the products: their epilogue keeps maximum and sum of its tile"),
    Kernel(f"{_LOSS}._column_softmax", {}, 0, _SCORES, "latency", "0.07 ms: 55 turns of 1.2 us",
           "above 0.15 ms: 110 programs are too few; cut the rows as well and join in order"),
    Kernel(f"{_LOSS}._bias_gradient", {}, 0, _SCORES, "latency", "0.1 ms: 55 turns of 1.8 us",
           "above 0.2 ms: as `_column_softmax`"),
    Kernel(f"{_LOSS}._temperature_gradient", {"BOTH": True}, 0, _SCORES, "bytes", "0.5", "as `_row_softmax`"),
    Kernel(f"{_LOSS}._weights", {"BOTH": True}, 0, 2 * _SCORES, "bytes", "0.6",
           "below 0.4: exponentials are what it waits for"),
    Kernel(f"{_LOSS}._through_length", {}, 0, 4 * 4 * _PAIRS * _WIDE / 1e9, "bytes", "0.6", "it counts"),
    Kernel(f"{_SEARCH}._best", {"C": 16, "column_stride": 1}, 0, _STRIP, "bytes", "0.3",
           "below 0.15: insertions are what it waits for; a threshold from a sample of columns first"),
    Kernel(f"{_SEARCH}._best", {"C": 16, "row_stride": 1}, 0, _STRIP, "bytes", "0.3",
           "below half of the line above: strips that fit L2, or one kernel for both directions"),
    Kernel(f"{_SEARCH}._count", {"column_stride": 1}, 0, _STRIP, "bytes", "0.5", "as `_best`"),
    Kernel(f"{_SEARCH}._count", {"row_stride": 1}, 0, _STRIP, "bytes", "0.5", "as `_best`"),
    Kernel(f"{_SCALE}._forward", {"QUERY": True, "MASKED": False}, 0, _INPUTS, "bytes", "0.6",
           "below 0.4: tanh is what it waits for; its series by a table"),
    Kernel(f"{_SCALE}._backward", {"QUERY": True, "MASKED": False, "ADD": True}, 0, 3 * _INPUTS, "bytes", "0.5",
           "below 0.4: as `_forward`, or its registers leave 12 warps; 16 rows a program"),
)  # fmt: skip


def triton_table(compiled: Sequence[Specialisation], release: str) -> str:
    """Markdown: a row a kernel, as it was compiled for sm_90 on float32 rows.

    Raises:
        ValueError: a kernel of the table was not compiled.
    """
    rows = []
    for k in KERNELS:
        served = [
            one
            for one in compiled
            if one.name == k.name
            and "bf16" not in one.pointers
            and all(one.choices.get(key) == value for key, value in k.choices.items())
        ]
        if not served:
            raise ValueError(f"no specialisation of {k.name} has {k.choices}")
        row = max(served, key=lambda one: one.registers)
        warps = occupancy(row.registers, 32 * row.warps, row.shared)
        work = [f"{x:.2f}" if x else "" for x in (k.gflop, k.gigabytes)]
        asked = ", ".join(f"{key}={value}" for key, value in k.choices.items() if key.endswith("stride"))
        name = f"`{k.name}`" + (f" ({asked})" if asked else "")
        cells = [name, *work, row.registers, f"{row.shared / 1024:.0f}", warps]
        rows.append([*cells, k.bound, k.predicted, k.overturned])
    return table(
        f"Compiled by Triton {release} for sm_90; of 64 warps an SM can hold.",
        COLUMNS,
        rows,
    )
