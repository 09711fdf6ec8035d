"""The table of docs/gpu.md: what each CUDA kernel does on zh_en, what it occupies, and what is predicted of it.

Registers, shared memory and spills are the compiler's; work is counted by hand from the sources, for float32 rows of
300 columns, one layer or one call; predictions are judgements, written down before a card could confirm them.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from markers import table

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from bench.gpu.work import ZH_EN

__all__ = ["COLUMNS", "KERNELS", "Compiled", "kernel_table", "occupancy"]

COLUMNS = "kernel | GFLOP | GB | registers | shared, KiB | warps | bound by | predicted share | what would overturn it"


class Compiled(NamedTuple):
    """A line of the compiler's report."""

    source: str
    name: str
    arch: str
    registers: int
    spilled: int
    shared: int


class Kernel(NamedTuple):
    """What is known of a kernel before it has run.

    Attributes:
        name: in the report, with the instantiation that serves zh_en.
        threads: a block.
        dynamic: shared memory beside what the kernel declares, bytes.
        gflop: multiplications and additions, 1e9.
        gigabytes: rows that are read and written, whether L2 or memory gives them.
        bound: which floor is the larger on an H100.
        predicted: share of that floor.
        overturned: what a record would have to show for another design.
    """

    name: str
    threads: int
    dynamic: int
    gflop: float
    gigabytes: float
    bound: str
    predicted: str
    overturned: str


_LAYOUT = "Layout<float, 4, 3>"
_FORWARD, _SOURCE, _SET = (
    f"<attention::{name}<{_LAYOUT}>>" for name in ("Forward", "BackwardSource", "BackwardSet")
)
_RING = 5 * 4 * 2 * 300 * 4  # edges ahead, warps, rows, columns, bytes
_TILED = "fusion::Forward<float, Tile<4>>"
_N, _E, _U = ZH_EN
_D, _K, _M, _PAD = 300, 8, 3, 320
_ROW = 4 * _D / 1e9  # gigabytes
_STAGES = 3 * (128 + 64) * 36 * 4
_PRODUCTS = 2 * _N * _K * _M * _D * (_D + 1) / 1e9
# Every tile of 128 x 64 reads its operands of all modalities once a rank.
_TILES = -(-_N // 128) * (_PAD // 64) * _K * (128 + 64) * _M * _PAD * 4 / 1e9
# By warpgroups two ranks at once: the row tile once for both.
_GROUP_TILES = -(-_N // 128) * (_PAD // 64) * (_K // 2) * (128 + 2 * 64) * _M * _PAD * 4 / 1e9
_GROUP_STAGES = 6 * (128 + 2 * 64) * 128
_WRITTEN = _N * _K * _M * _PAD * 4 / 1e9  # dP

KERNELS = (
    Kernel(f"walk{_FORWARD}", 128, 0, 6 * _E * _D / 1e9, (2 * _E + _N) * _ROW, "bytes", "0.6",
           "below 0.5: loads wait for the edge before; a ring of rows by bulk copies"),
    Kernel(f"walk_ring{_FORWARD}", 128, _RING, 6 * _E * _D / 1e9, (2 * _E + _N) * _ROW, "bytes", "0.75",
           "below walk: its rows come fast enough without; delete the ring"),
    Kernel(f"join{_FORWARD}", 256, 0, 0, 0, "latency", "under 2 % of a layer",
           "more than that: hubs are to be cut into longer segments"),
    Kernel(f"attention::through_activation<{_LAYOUT}, float>", 128, 0, 8 * _N * _D / 1e9, 3 * _N * _ROW, "bytes", "0.8",
           "it counts: join it to the source pass of the layer above"),
    Kernel(f"walk{_SOURCE}", 128, 0, 10 * _E * _D / 1e9, (2 * _E + 3 * _N) * _ROW, "bytes", "0.55",
           "below 0.5 at this occupancy: fewer registers, or rows by bulk copies"),
    Kernel(f"walk_ring{_SOURCE}", 128, _RING, 10 * _E * _D / 1e9, (2 * _E + 3 * _N) * _ROW, "bytes", "0.7",
           "below 0.6 at 16 warps: shuffles of three dot products are what it waits for; two edges at once"),
    Kernel(f"walk{_SET}", 128, 0, 4 * _E * _D / 1e9, (2 * _E + 2 * _U) * _ROW, "bytes", "0.6",
           "two thirds of BackwardSource or more: one source pass with private reflector sums, as on the CPU"),
    Kernel(f"join{_SET}", 256, 0, 0, 0, "latency", "under 2 % of a layer",
           "more than that: sets are to be cut into longer segments"),
    Kernel("fusion::pack_rows<float, float>", 256, 0, _N * _M * _D / 1e9, 2 * _N * _M * _ROW, "bytes", "0.7",
           "it counts: pack once a step and not once a pass"),
    Kernel(f"tile_products<float, tf32, {_TILED}>", 256, _STAGES, _PRODUCTS, _TILES, "products",
           "0.35", "above 0.45: operands from L2 are not what it waits for, and wgmma would gain less than twice"),
    Kernel(f"tile_products<float, exact, {_TILED}>", 256, _STAGES, 3 * _PRODUCTS, _TILES, "products",
           "0.3", "below 0.25: registers leave one block an SM; two accumulators a warp row"),
    Kernel("tile_products<float, tf32, fusion::ProjectionGradient<float, float, Tile<4>, 3>>", 256, _STAGES, _PRODUCTS,
           _TILES + _WRITTEN, "products", "0.3",
           "slower than cuBLAS into kept products and one elementwise kernel: take those"),
    Kernel("group_products<float, fusion::Forward<float, GroupTile<2>>>", 384, _GROUP_STAGES, _PRODUCTS,
           _GROUP_TILES, "products", "0.6",
           "below 0.45: stages do not come fast enough from L2; row tiles of 256 by a cluster of two blocks"),
    Kernel("group_products<float, fusion::ProjectionGradient<float, float, GroupTile<2>, 3>>", 384, _GROUP_STAGES,
           _PRODUCTS, _GROUP_TILES + _WRITTEN, "products", "0.5",
           "below 0.4: dP is written by 8 bytes a lane while nothing multiplies; store it by tensor copies"),
    Kernel("fusion::input_gradient<float>", 256, 0, 3 * _N * _M * _D / 1e9, 3 * _N * _M * _ROW, "bytes", "0.7",
           "it counts: an epilogue of the product before it"),
)  # fmt: skip


def occupancy(registers: int, threads: int, shared: int) -> int:
    """Warps that an SM of compute capability 9.0 holds at once (CUDA C++ Programming Guide, technical limits)."""
    warps = threads // 32
    by_registers = 65536 // (-(-registers * 32 // 256) * 256) // warps  # whole warps, 256 registers at a time
    by_shared = 228 * 1024 // (shared + 1024)  # a block's own kilobyte included
    return warps * min(by_registers, by_shared, 64 // warps, 32)


def kernel_table(compiled: Sequence[Compiled], release: str) -> str:
    """Markdown: a row a kernel, as it was compiled for sm_90, or for sm_90a where it is for that alone.

    Raises:
        KeyError: a kernel of the table was not compiled.
    """
    found: Mapping[str, Compiled] = {
        row.name: row for arch in ("sm_90a", "sm_90") for row in compiled if row.arch == arch
    }
    rows = []
    for k in KERNELS:
        row = found[k.name]
        shared = row.shared + k.dynamic
        warps = occupancy(row.registers, k.threads, shared)
        work = [f"{x:.2f}" if x else "" for x in (k.gflop, k.gigabytes)]
        spilled = f" ({row.spilled} B spilled)" if row.spilled else ""
        cells = [f"`{k.name}`", *work, f"{row.registers}{spilled}", f"{shared / 1024:.0f}", warps]
        rows.append([*cells, k.bound, k.predicted, k.overturned])
    return table(
        f"Compiled by nvcc {release} for sm_90; of 64 warps an SM can hold.",
        COLUMNS,
        rows,
    )
