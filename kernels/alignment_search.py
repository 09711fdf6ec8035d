"""Alignment search in Triton: cosines in tiles that stay in registers, with lists and counts of each row as epilogue.

Both kernels look along rows only; columns are served by a second launch with the sides exchanged. Rows come divided by
their length and rounded to what the tensor cores multiply (bfloat16, or float32 with the digits of TF32), so products
are exact and only sums are rounded. What rounding leaves undecided goes to a buffer, to be scored again in float64.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

__all__ = ["PLACE_BITS", "best", "count"]

PLACE_BITS = 14  # of a place in a block, in the codes of the undecided: exchanged << 28 | left << 14 | right


@triton.jit
def _cosines(
    rows, columns, im, jn, num_rows, num_columns, width, BM: tl.constexpr, BN: tl.constexpr, BD: tl.constexpr
):
    """Products [BM, BN] of rows im and columns jn, both packed [., width]."""
    total = tl.zeros([BM, BN], tl.float32)
    for start in range(0, width, BD):
        d = start + tl.arange(0, BD)
        x_mask, y_mask = (
            (im < num_rows)[:, None] & (d < width)[None, :],
            (d < width)[:, None] & (jn < num_columns)[None, :],
        )
        x = tl.load(rows + im[:, None] * width + d[None, :], mask=x_mask, other=0.0)  # [BM, BD]
        y = tl.load(columns + jn[None, :] * width + d[:, None], mask=y_mask, other=0.0)  # [BD, BN]
        total = tl.dot(x, y, total, input_precision="tf32")
    return total


@triton.jit
def _best(
    rows, columns, shift, values, index, scale, first_column, num_rows, num_columns, width,
    C: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    """Lists of the C largest `scale s'_ij - shift_j` of each row, in no order, taken up and left in memory."""
    im = tl.program_id(0).to(tl.int64) * BM + tl.arange(0, BM)
    slots = tl.arange(0, C)
    places = im[:, None] * C + slots[None, :]
    inside = (im < num_rows)[:, None]
    best = tl.load(values + places, mask=inside, other=float("inf"))  # [BM, C]; nothing beats infinity
    where = tl.load(index + places, mask=inside, other=-1)
    smallest = tl.min(best, 1)
    for start in range(0, num_columns, BN):
        jn = start + tl.arange(0, BN).to(tl.int64)
        total = _cosines(rows, columns, im, jn, num_rows, num_columns, width, BM, BN, BD)
        shifts = tl.load(shift + jn, mask=jn < num_columns, other=float("inf"))
        score = scale * total - shifts[None, :]  # [BM, BN]; -infinity beyond the last column
        largest = tl.max(score, 1)
        # Each turn puts the largest score of every row that has one to offer into its list, all rows at once.
        while tl.max((largest > smallest).to(tl.int32), 0) > 0:
            at = tl.argmax(score, 1)
            offers = (largest > smallest)[:, None]
            taken = offers & (slots[None, :] == tl.argmin(best, 1)[:, None])
            best = tl.where(taken, largest[:, None], best)
            where = tl.where(taken, (first_column + start + at).to(tl.int32)[:, None], where)
            score = tl.where(offers & (tl.arange(0, BN)[None, :] == at[:, None]), float("-inf"), score)
            smallest, largest = tl.min(best, 1), tl.max(score, 1)
    tl.store(values + places, best, mask=inside)
    tl.store(index + places, where, mask=inside)


@triton.jit
def _count(
    rows, columns, above, below, high, low, counts, undecided, num_undecided, capacity, scale,
    pair_shift, num_rows, num_columns, width,
    EXCHANGED: tl.constexpr, BITS: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    """counts_i += #{j: scale s'_ij - high_j > above_i}; undecided where `scale s'_ij - low_j >= below_i` but not so."""
    im = tl.program_id(0) * BM + tl.arange(0, BM)
    inside = im < num_rows
    over = tl.load(above + im, mask=inside, other=float("inf"))
    under = tl.load(below + im, mask=inside, other=float("inf"))
    found = tl.load(counts + im, mask=inside, other=0)
    for start in range(0, num_columns, BN):
        jn = start + tl.arange(0, BN)
        score = scale * _cosines(
            rows, columns, im.to(tl.int64), jn.to(tl.int64), num_rows, num_columns, width, BM, BN, BD
        )
        least = tl.load(high + jn, mask=jn < num_columns, other=float("inf"))
        most = tl.load(low + jn, mask=jn < num_columns, other=float("inf"))
        is_above = (score - least[None, :] > over[:, None]).to(tl.int32)
        found += tl.sum(is_above, 1)
        # What may be above but is not certain to be; the pair itself is not its own rival.
        is_open = (score - most[None, :] >= under[:, None]) & (im[:, None] + pair_shift != jn[None, :])
        is_open = is_open.to(tl.int32) & (1 - is_above)  # [BM, BN]
        of_row = tl.sum(is_open, 1)
        if tl.sum(of_row, 0) > 0:
            base = tl.atomic_add(num_undecided + im * 0, of_row, mask=of_row > 0)
            at = base[:, None] + tl.cumsum(is_open, 1) - is_open
            if EXCHANGED:
                code = (1 << 2 * BITS) + (jn << BITS)[None, :] + im[:, None]
            else:
                code = (im << BITS)[:, None] + jn[None, :]
            tl.store(undecided + at, code, mask=(is_open > 0) & (at < capacity))
    tl.store(counts + im, found, mask=inside)


def best(
    rows: Tensor, columns: Tensor, shift: Tensor, values: Tensor, index: Tensor, scale: float, first: int
) -> None:
    """Offer all scores `scale s'_ij - shift_j` to the lists of the rows.

    Args:
        rows: packed, [M, D], bfloat16 or float32, contiguous.
        columns: packed, [N, D].
        shift: float32 [N].
        values: float32 [M, C], C a power of two; changed in place.
        index: int32 [M, C]; changed in place.
        scale: factor of the cosines.
        first: what the index of column 0 is.
    """
    (m, width), (n, _) = rows.shape, columns.shape
    tile = _tile(rows)
    _best[(triton.cdiv(m, tile["BM"]),)](
        rows, columns, shift, values, index, scale, first, m, n, width, C=values.shape[1], **tile
    )


def count(
    rows: Tensor,
    columns: Tensor,
    row_thresholds: tuple[Tensor, Tensor],
    column_shifts: tuple[Tensor, Tensor],
    counts: Tensor,
    undecided: Tensor,
    num_undecided: Tensor,
    scale: float,
    pair_shift: int,
    exchanged: bool,
) -> None:
    """Count the columns that are certainly above each row's threshold and note those that may be.

    Args:
        rows: packed, [M, D], bfloat16 or float32, contiguous.
        columns: packed, [N, D].
        row_thresholds: `above`, `below`, float32 [M].
        column_shifts: `high`, `low`, float32 [N].
        counts: int32 [M]; added to.
        undecided: int32 buffer of codes; as many as it holds are written.
        num_undecided: int32 [1]; added to, also beyond what the buffer holds.
        scale: factor of the cosines.
        pair_shift: row m and column m + pair_shift are a pair.
        exchanged: whether rows are rows of the right side.
    """
    (m, width), (n, _) = rows.shape, columns.shape
    tile = _tile(rows)
    shift = (
        pair_shift if abs(pair_shift) < 1 << PLACE_BITS else 1 << PLACE_BITS
    )  # in reach, or just out of it
    _count[(triton.cdiv(m, tile["BM"]),)](
        rows, columns, *row_thresholds, *column_shifts, counts, undecided, num_undecided, len(undecided), scale,
        shift, m, n, width, EXCHANGED=exchanged, BITS=PLACE_BITS, **tile,
    )  # fmt: skip


def _tile(rows: Tensor) -> dict[str, int]:
    """Tile sizes and warps: 128 x 128 scores are 64 registers a thread, and so is the copy that `best` empties."""
    return {
        "BM": 128,
        "BN": 128,
        "BD": 64 if rows.dtype == torch.bfloat16 else 32,
        "num_warps": 8,
        "num_stages": 3,
    }
