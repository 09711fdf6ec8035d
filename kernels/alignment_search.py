"""What follows the products of alignment search, in Triton: lists and counts of each row of a strip of cosines.

The vendor's library writes a strip, float32; these kernels look along its rows, and along its columns where they are
given its transpose. They do not know of which products the strip is made, so what float32 proves of them holds for
every dtype. What rounding leaves undecided goes to a buffer, to be scored again in float64.
"""

from __future__ import annotations

import triton
import triton.language as tl
from loginmea_fast.kernels._grid import grid
from torch import Tensor

__all__ = ["PLACE_BITS", "best", "count"]

PLACE_BITS = 14  # of a place in a block, in the codes of the undecided: way << 28 | left << 14 | right
TILE = {
    "BM": 16,
    "BN": 128,
}  # scores that a program looks at: 16 a thread, and rows enough for every processor


@triton.jit
def _cosines(strip, im, jn, num_rows, num_columns, row_stride, column_stride):
    """Cosines [BM, BN] of rows im and columns jn; 0 where there are none."""
    mask = (im < num_rows)[:, None] & (jn < num_columns)[None, :]
    return tl.load(strip + im[:, None] * row_stride + jn[None, :] * column_stride, mask=mask, other=0.0)


@triton.jit
def _best(
    strip, shift, values, index, scale, first_column, num_rows, num_columns, row_stride, column_stride,
    C: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
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
        shifts = tl.load(shift + jn, mask=jn < num_columns, other=float("inf"))
        # [BM, BN]; -infinity beyond the last column
        score = (
            scale * _cosines(strip, im, jn, num_rows, num_columns, row_stride, column_stride)
            - shifts[None, :]
        )
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
    strip, above, below, high, low, counts, undecided, num_undecided, capacity, scale,
    pair_shift, first_code, row_code, column_code, num_rows, num_columns, row_stride, column_stride,
    BM: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    """counts_i += #{j: scale s'_ij - high_j > above_i}; undecided where `scale s'_ij - low_j >= below_i` but not so."""
    im = tl.program_id(0).to(tl.int64) * BM + tl.arange(0, BM)
    inside = im < num_rows
    over = tl.load(above + im, mask=inside, other=float("inf"))
    under = tl.load(below + im, mask=inside, other=float("inf"))
    found = tl.load(counts + im, mask=inside, other=0)
    for start in range(0, num_columns, BN):
        jn = start + tl.arange(0, BN).to(tl.int64)
        score = scale * _cosines(strip, im, jn, num_rows, num_columns, row_stride, column_stride)  # [BM, BN]
        least = tl.load(high + jn, mask=jn < num_columns, other=float("inf"))
        most = tl.load(low + jn, mask=jn < num_columns, other=float("inf"))
        is_above = (score - least[None, :] > over[:, None]).to(tl.int32)
        found += tl.sum(is_above, 1)
        # What may be above but is not certain to be; the pair itself is not its own rival.
        is_open = (score - most[None, :] >= under[:, None]) & (im[:, None] + pair_shift != jn[None, :])
        is_open = is_open.to(tl.int32) & (1 - is_above)
        of_row = tl.sum(is_open, 1)
        if tl.sum(of_row, 0) > 0:
            base = tl.atomic_add(num_undecided + im * 0, of_row, mask=of_row > 0)
            at = base[:, None] + tl.cumsum(is_open, 1) - is_open
            code = first_code + im[:, None] * row_code + jn[None, :] * column_code
            tl.store(undecided + at, code.to(tl.int32), mask=(is_open > 0) & (at < capacity))
    tl.store(counts + im, found, mask=inside)


def best(strip: Tensor, shift: Tensor, values: Tensor, index: Tensor, scale: float, first: int) -> None:
    """Offer all scores `scale s'_ij - shift_j` to the lists of the rows.

    Args:
        strip: cosines s', float32 [M, N], of any strides: the transpose serves the columns.
        shift: float32 [N].
        values: float32 [M, C], C a power of two; changed in place.
        index: int32 [M, C]; changed in place.
        scale: factor of the cosines.
        first: what the index of column 0 is.
    """
    _best[grid(triton.cdiv(len(strip), TILE["BM"]))](
        strip, shift, values, index, scale, first, *strip.shape, *strip.stride(), C=values.shape[1], **TILE
    )


def count(
    strip: Tensor,
    row_thresholds: tuple[Tensor, Tensor],
    column_shifts: tuple[Tensor, Tensor],
    counts: Tensor,
    undecided: Tensor,
    num_undecided: Tensor,
    scale: float,
    pair_shift: int,
    codes: tuple[int, int, int],
) -> None:
    """Count the columns that are certainly above each row's threshold and note those that may be.

    Args:
        strip: cosines s', float32 [M, N], of any strides.
        row_thresholds: `above`, `below`, float32 [M].
        column_shifts: `high`, `low`, float32 [N].
        counts: int32 [M]; added to.
        undecided: int32 buffer of codes; as many as it holds are written.
        num_undecided: int32 [1]; added to, also beyond what the buffer holds.
        scale: factor of the cosines.
        pair_shift: row m and column m + pair_shift are a pair.
        codes: that of the first score, and what a row and a column further add to it.
    """
    # In reach, or just out of it.
    shift = pair_shift if abs(pair_shift) < 1 << PLACE_BITS else 1 << PLACE_BITS
    _count[grid(triton.cdiv(len(strip), TILE["BM"]))](
        strip, *row_thresholds, *column_shifts, counts, undecided, num_undecided, len(undecided), scale,
        shift, *codes, *strip.shape, *strip.stride(), **TILE,
    )  # fmt: skip
