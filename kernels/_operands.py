"""What the launches of low-rank fusion are given, of Triton and of CUDA C++ alike: operands packed in aligned tiles.

Depths and widths are padded to PAD and blocks of rows to BLOCK_ROWS, so that inner loops need no mask. With
total = sum of padded d_m and columns = K padded d, modality m has the columns part(m) of t and w:

    t [block, total]         rows t_m = r_m x_m side by side, of one block; zero in the padding
    w [columns, total]       factors, o_k folded into the first: row k padded_d + j is column j of W'^(k), all m
    constants [M, columns]   row 0 of the same, float32

For precision "tf32" t and w are rounded to its digits here, once, and not wherever a tile is read. Both have the depth
running fastest, which is how tensor cores of every generation take them.

Forward a block is one wave of tiles on an H100 at the usual width, and its t, which each tile reads once a rank, lies
in L2. Backward dP of a block is about as large as L2. LOGINMEA_FUSION_ROWS asks for other blocks backward: fewer
and fuller products, and all of dP in memory. No card has shown yet which is faster.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

__all__ = ["BLOCK_ROWS", "PAD", "Operands", "in_tf32", "round_up"]

# Of t in a block of the forward pass and of dP in one of the backward pass; an H100 has 50 MiB of L2, an A100 40.
T_BYTES, DP_BYTES = 12 << 20, 48 << 20
PAD, BLOCK_ROWS = 64, 128  # every tile of csrc/cuda/tile.cuh and of the Triton kernels divides them


def round_up(n: int, multiple: int) -> int:
    """The least multiple that is no less than n."""
    return (n + multiple - 1) // multiple * multiple


def in_tf32(x: Tensor) -> Tensor:
    """Float32 in the digits that TF32 keeps, to nearest, ties to even: tensor cores round such numbers no further."""
    bits = x.view(torch.int32)
    rounded = ((bits + 0xFFF + ((bits >> 13) & 1)) & ~0x1FFF).view(torch.float32)
    return torch.where(x.isnan(), x, rounded)  # a NaN's bits could carry over


def _rows_asked_for() -> int | None:
    """Rows of a block of the backward pass that LOGINMEA_FUSION_ROWS asks for, or None.

    Raises:
        ValueError: it is no whole number above 0.
    """
    asked = os.environ.get("LOGINMEA_FUSION_ROWS", "")
    if asked and not (asked.isdecimal() and int(asked) > 0):
        raise ValueError(f"LOGINMEA_FUSION_ROWS must be a whole number above 0; got {asked!r}")
    return int(asked) if asked else None


class Operands:
    """Sizes, the factors packed for this call, and room for a block of rows.

    Args:
        inputs: as in `low_rank_fusion`.
        factors: as there, like `rank_weights` and `row_scale`.
        rank_weights: as there.
        row_scale: as there.
        precision: of products.
        backward: whether a block is followed by its dP.

    Attributes:
        inputs: x_m [B, d_m], the elements of a row adjacent.
        scale: [B, M] float32, or None for ones.
        dtype: of the inputs, `compute` that of t and w; `precision` "ieee", "tf32" or "bfloat16".
        rows: B, `count` M, `rank` K, `width` d, `padded` d padded.
    """

    def __init__(
        self,
        inputs: Sequence[Tensor],
        factors: Sequence[Tensor],
        rank_weights: Tensor,
        row_scale: Tensor | None,
        precision: str,
        backward: bool,
    ) -> None:
        self.inputs = [x if x.stride(1) == 1 or x.shape[1] == 1 else x.contiguous() for x in inputs]
        self.scale = None if row_scale is None else row_scale.float().contiguous()
        self.dtype, self.precision = inputs[0].dtype, precision
        self.rows, self.count = inputs[0].shape[0], len(inputs)
        self.rank, _, self.width = factors[0].shape
        self.padded = round_up(self.width, PAD)
        self.columns = self.rank * self.padded
        self.starts = [0]
        for x in inputs:
            self.starts.append(self.starts[-1] + round_up(x.shape[1], PAD))
        self.total = self.starts[-1]
        self.compute = torch.bfloat16 if precision == "bfloat16" else torch.float32
        w = inputs[0].new_zeros(self.rank, self.padded, self.total, dtype=self.compute)
        constants = inputs[0].new_zeros(self.count, self.rank, self.padded, dtype=torch.float32)
        for m, factor in enumerate(factors):
            folded = factor.float() * rank_weights.float().T[:, :, None] if m == 0 else factor
            columns = slice(self.starts[m], self.starts[m] + factor.shape[1] - 1)
            w[:, : self.width, columns] = folded[:, 1:].transpose(1, 2)
            constants[m, :, : self.width] = folded[:, 0]
        if precision == "tf32":
            w = in_tf32(w)
        self.w, self.constants = w.view(self.columns, self.total), constants.view(self.count, self.columns)
        asked = _rows_asked_for()
        numbers, room = (self.count * self.columns, DP_BYTES) if backward else (max(self.total, 1), T_BYTES)
        most = max(room // (numbers * self.w.element_size()), BLOCK_ROWS)
        if backward and asked is not None:
            most = asked
        self.block = round_up(min(most, max(self.rows, 1)), BLOCK_ROWS)
        self.t = self.w.new_empty(self.block, self.total)

    def part(self, m: int) -> slice:
        """Columns of t and w that belong to a modality."""
        return slice(self.starts[m], self.starts[m + 1])

    def groups(self) -> Iterator[slice]:
        """Modalities whose products are one launch: all if they are of one padded width, else each by itself."""
        alike = all(start == m * self.starts[1] for m, start in enumerate(self.starts))
        size = self.count if alike else 1
        yield from (slice(m, m + size) for m in range(0, self.count, size))

    def side_by_side(self, table: Tensor, group: slice) -> Tensor:
        """A view of a table [n, total] as [modalities of a group, n, padded width]."""
        columns = table[:, self.starts[group.start] : self.starts[group.stop]]
        size = group.stop - group.start
        return columns.unflatten(1, (size, columns.shape[1] // size)).transpose(0, 1)
