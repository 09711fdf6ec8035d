"""The passes of alignment_search on a GPU: packing, products, and scores that are undecided.

Rows are packed divided by their length, rounded to bfloat16 or to the digits that TF32 keeps. So tensor cores multiply
them without another rounding, whether or not the user has allowed TF32.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from loginmea_fast.kernels._operands import in_tf32
from loginmea_fast.ops._search_exact import (
    ROUNDING,
    WORKING_BYTES,
    Lists,
    Passes,
    Scoring,
    Side,
    pair_cosines,
)
from loginmea_fast.ops._wide_products import wide_product
from loginmea_fast.reference import alignment_search as reference
from loginmea_fast.reference.alignment_search import TIE, Tick

PACKED_BYTES = 2**28  # of one side's rows that are packed at a time
MOST_ROWS = 2**14
SCORE_BYTES = 2**28  # of scores that are in memory at a time
ROOM = 1 / 64  # for undecided scores, of the scores of a block
LEAST_ROOM = 1024
LARGEST_LIST = 128  # that a kernel keeps; longer ones are sorted by PyTorch
PLACE_BITS = 14  # of a place in a block, in the codes of undecided scores


@dataclass
class Packed:
    """A block of a side: where it is, its rows as the products take them, and the block's values."""

    places: slice
    rows: Tensor  # [rows, width] bfloat16 or float32
    shift: Tensor  # means, float32 [rows]
    high: Tensor  # mean + slack
    low: Tensor  # mean - slack
    above: Tensor  # high + own score; infinity for rows that are no pair
    below: Tensor  # low + own score; infinity for rows that are no pair


class DevicePasses:
    """Blocks of packed rows against blocks of packed columns: the vendor's products, and kernels for what follows."""

    def __init__(self, narrow: bool) -> None:
        self.narrow = narrow

    def offer(
        self, rows: Packed, columns: Packed, scale: float, row_lists: Lists, column_lists: Lists | None
    ) -> None:
        """Offer the scores of a block to the lists of its rows and of its columns."""
        from loginmea_fast.kernels import alignment_search as kernels

        for strip, cosines in _strips(rows, columns):
            some = Lists(row_lists.values[strip], row_lists.index[strip])
            kernels.best(cosines, columns.shift, some.values, some.index, scale, columns.places.start)
            if column_lists is not None:
                first = rows.places.start + strip.start
                kernels.best(
                    cosines.T, rows.shift[strip], column_lists.values, column_lists.index, scale, first
                )

    def count(
        self,
        rows: Packed,
        columns: Packed,
        scale: float,
        counts: list[Tensor],
        codes: Tensor,
        used: Tensor,
    ) -> None:
        """Add what is certainly above to the counts of rows and columns, and note what is undecided.

        A code is int32, way << 28 | row << 14 | column: way 0 asks about the row, way 1 about the column. `used`
        counts codes, also those for which there is no room.
        """
        from loginmea_fast.kernels import alignment_search as kernels

        down = 1 << kernels.PLACE_BITS
        for strip, cosines in _strips(rows, columns):
            shift = rows.places.start + strip.start - columns.places.start
            first = strip.start * down
            kernels.count(
                *(
                    cosines,
                    (rows.above[strip], rows.below[strip]),
                    (columns.high, columns.low),
                    counts[0][strip],
                ),
                *(codes, used, scale, shift, (first, down, 1)),
            )
            kernels.count(
                *(cosines.T, (columns.above, columns.below), (rows.high[strip], rows.low[strip]), counts[1]),
                *(codes, used, scale, -shift, (down * down + first, 1, down)),
            )

    def wide(self) -> Passes:
        """Products with the digits of TF32."""
        return type(self)(narrow=False)

    def capacity(self, k: int, candidates: int) -> int:
        """Length of a list: a power of two."""
        return 1 << (2 * k + 11 if self.narrow else k + 5).bit_length()

    def side(self, parts: list[Tensor]) -> Side:
        """Norms and slack of matrices."""
        width = parts[0].shape[1]
        inverse, slack = [], []
        for part in parts:
            for start, stop in reference.spans(len(part), _block_rows(width, 8, WORKING_BYTES)):
                rows = part[start:stop].to(torch.float64)
                norm = rows.norm(dim=1)
                inverse.append(torch.where(norm > 0, 1 / norm, 0).where(norm.isfinite(), torch.nan))
                lost = rows * inverse[-1][:, None] - self._packed(rows, inverse[-1]).to(torch.float64)
                slack.append(lost.norm(dim=1))
        # Tensor cores may truncate where they add: four roundings for each of the width's sums cover that.
        summed = 4 * (width + 4) * 2.0**-24
        return Side(parts, torch.cat(inverse), (1.01 * torch.cat(slack) + 0.51 * summed).float())

    def best(
        self, left: Side, right: Side, scoring: Scoring, row_capacity: int, columns: Lists | None, tick: Tick
    ) -> Iterator[tuple[slice, Lists]]:
        """Lists of left rows, a block at a time; those of right rows grow in `columns`."""
        for rows in self._blocks(left, scoring.left, scoring.scale):
            lists = Lists.empty((len(rows.rows), row_capacity), rows.rows.device)
            for keys in self._blocks(right, scoring.right, scoring.scale):
                there = (
                    None
                    if columns is None
                    else Lists(columns.values[keys.places], columns.index[keys.places])
                )
                if max(row_capacity, there.values.shape[1] if there else 0) <= LARGEST_LIST:
                    self.offer(rows, keys, scoring.scale, lists, there)
                else:
                    _offer_by_sorting(rows, keys, scoring.scale, lists, there)
                tick(len(rows.rows) * len(keys.rows))
            yield rows.places, lists

    def counts(
        self, left: Side, right: Side, scoring: Scoring, own: Tensor, tick: Tick
    ) -> tuple[Tensor, int]:
        """Exact counts, and how many scores were computed again."""
        pairs, device = len(own), own.device
        counts = torch.zeros(4, pairs, dtype=torch.int64, device=device)
        room = int(ROOM * min(len(left), MOST_ROWS) * min(len(right), MOST_ROWS)) + LEAST_ROOM
        codes = torch.empty(room, dtype=torch.int32, device=device)
        again = 0
        for rows in self._blocks(left, scoring.left, scoring.scale, own):
            for keys in self._blocks(right, scoring.right, scoring.scale, own):
                tick(len(rows.rows) * len(keys.rows))
                if min(rows.places.start, keys.places.start) >= pairs:
                    continue  # further candidates on both sides: no pair is ranked here
                used = torch.zeros(1, dtype=torch.int32, device=device)
                above = [torch.zeros(len(b.rows), dtype=torch.int32, device=device) for b in (rows, keys)]
                self.count(rows, keys, scoring.scale, above, codes, used)
                undecided = int(used)
                if undecided <= len(codes):
                    for way, block in enumerate((rows, keys)):
                        inside = max(0, min(pairs, block.places.stop) - block.places.start)
                        counts[2 * way, block.places.start : block.places.start + inside] += above[way][
                            :inside
                        ]
                    starts = rows.places.start, keys.places.start
                    self._decide(left, right, scoring, own, codes[:undecided].to(torch.int64), starts, counts)
                else:
                    self._count_all(left, rows.places, right, keys.places, scoring, own, counts)
                again += undecided
        return counts, again

    def cosines(self, left: Side, rows: slice, right: Side, index: Tensor) -> Tensor:
        """Float64 cosines of left rows and right rows `index`; -infinity where negative."""
        i = torch.arange(rows.start, rows.stop, device=index.device)[:, None].expand_as(index).reshape(-1)
        j = index.reshape(-1).to(torch.int64)
        cosines = pair_cosines(left, i, right, j.clamp_min(0))
        return cosines.where(j >= 0, -torch.inf).view(index.shape)

    def _decide(
        self,
        left: Side,
        right: Side,
        scoring: Scoring,
        own: Tensor,
        codes: Tensor,
        starts: tuple[int, int],
        counts: Tensor,
    ) -> None:
        """Count undecided scores by their float64 values."""
        mask = (1 << PLACE_BITS) - 1
        way, i, j = (
            codes >> 2 * PLACE_BITS,
            (codes >> PLACE_BITS & mask) + starts[0],
            (codes & mask) + starts[1],
        )
        scores = scoring.scale * pair_cosines(left, i, right, j) - scoring.left[i] - scoring.right[j]
        pair = torch.where(way == 1, j, i)
        difference = scores - own[pair]
        for row, counted in ((0, difference > TIE), (1, difference.abs() <= TIE)):
            place = ((2 * way + row) * len(own) + pair)[counted]
            counts.view(-1).index_add_(0, place, torch.ones_like(place))

    def _count_all(
        self,
        left: Side,
        rows: slice,
        right: Side,
        columns: slice,
        scoring: Scoring,
        own: Tensor,
        counts: Tensor,
    ) -> None:
        """Count a block in float64, where too much of it is undecided to be written down."""
        for start, stop in reference.spans(rows.stop - rows.start, reference.ROWS):
            for first, last in reference.spans(columns.stop - columns.start, reference.COLUMNS):
                i = torch.arange(rows.start + start, rows.start + stop, device=own.device)
                j = torch.arange(columns.start + first, columns.start + last, device=own.device)
                a = reference.unit_rows(reference.block(left.parts, int(i[0]), int(i[-1]) + 1))
                b = reference.unit_rows(reference.block(right.parts, int(j[0]), int(j[-1]) + 1))
                scores = scoring.scale * (a @ b.T) - scoring.left[i, None] - scoring.right[j]
                rival = i[:, None] != j
                for way, (pair, matrix, others) in enumerate(((i, scores, rival), (j, scores.T, rival.T))):
                    pair = pair[pair < len(own)]
                    difference = matrix[: len(pair)] - own[pair, None]
                    counts[2 * way, pair] += ((difference > TIE) & others[: len(pair)]).sum(1)
                    counts[2 * way + 1, pair] += ((difference.abs() <= TIE) & others[: len(pair)]).sum(1)

    def _packed(self, rows: Tensor, inverse: Tensor) -> Tensor:
        """Rows divided by their length, rounded to what tensor cores multiply."""
        unit = (rows.to(torch.float64) * inverse[:, None]).to(torch.float32)
        if self.narrow:
            return unit.to(torch.bfloat16)
        return in_tf32(unit)

    def _blocks(self, side: Side, mean: Tensor, scale: float, own: Tensor | None = None) -> Iterator[Packed]:
        width = side.parts[0].shape[1]
        step = min(MOST_ROWS, _block_rows(width, 2 if self.narrow else 4, PACKED_BYTES))
        for places, rows in side.blocks(step):
            packed = torch.empty(
                rows.shape, dtype=torch.bfloat16 if self.narrow else torch.float32, device=rows.device
            )
            inverse = side.inverse[places]
            for start, stop in reference.spans(len(rows), _block_rows(width, 12, WORKING_BYTES)):
                packed[start:stop] = self._packed(rows[start:stop], inverse[start:stop])
            slack = scale * side.slack[places] + ROUNDING / 2
            high, low = mean[places] + slack, mean[places] - slack
            above, below = (torch.full_like(high, torch.inf) for _ in range(2))
            if own is not None:
                pairs = own[places]
                above[: len(pairs)], below[: len(pairs)] = (
                    high[: len(pairs)] + pairs,
                    low[: len(pairs)] + pairs,
                )
            yield Packed(places, packed, *(t.float() for t in (mean[places], high, low, above, below)))


def _strips(rows: Packed, columns: Packed) -> Iterator[tuple[slice, Tensor]]:
    """Cosines of a few rows with all columns, float32."""
    for start, stop in reference.spans(len(rows.rows), _block_rows(len(columns.rows), 4, SCORE_BYTES)):
        yield slice(start, stop), wide_product(rows.rows[start:stop], columns.rows.T)


def _block_rows(width: int, bytes_of_element: int, limit: int) -> int:
    return max(1, limit // (width * bytes_of_element))


def _offer_by_sorting(
    rows: Packed, columns: Packed, scale: float, row_lists: Lists, column_lists: Lists | None
) -> None:
    """Lists too long for a kernel: PyTorch's own top k, a strip of the block at a time."""
    for start, stop in reference.spans(len(rows.rows), max(1, WORKING_BYTES // (16 * len(columns.rows)))):
        strip = slice(start, stop)
        cosines = scale * (rows.rows[strip].float() @ columns.rows.float().T)
        _merge(
            cosines - columns.shift,
            columns.places.start,
            Lists(row_lists.values[strip], row_lists.index[strip]),
        )
        if column_lists is not None:
            _merge((cosines - rows.shift[strip, None]).T, rows.places.start + start, column_lists)


def _merge(scores: Tensor, first: int, lists: Lists) -> None:
    index = torch.arange(first, first + scores.shape[1], dtype=torch.int32, device=scores.device)
    values, chosen = torch.cat([lists.values, scores], 1).topk(lists.values.shape[1], dim=1)
    lists.index.copy_(torch.cat([lists.index, index.expand_as(scores)], 1).gather(1, chosen))
    lists.values.copy_(values)
