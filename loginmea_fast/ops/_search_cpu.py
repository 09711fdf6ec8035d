"""The passes of alignment_search by the native CPU library (csrc/cpu/alignment_search.h)."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from loginmea_fast import native
from loginmea_fast.ops._search_exact import Lists, Passes, Scoring, Side
from loginmea_fast.reference.alignment_search import TIE, Tick

PACKED_BYTES = 48 * 2**20  # of the rows that are packed at a time
PACKED_ROWS = 2**16  # of narrow matrices: beyond it their lists would need more memory than they
CALL_FLOPS = 1e11  # of a thread in one call: a fraction of a second, after which an interrupt is seen
CALL_BYTES = 2**26  # of columns in one call: of a mapped matrix so much is in memory at once
NORM_ROWS = 2**14  # whose norms are found at a time
PANEL = 256  # columns that a thread takes at a time


class CpuPasses:
    """Blocks of packed rows against runs of columns, which the threads share out."""

    def __init__(self, narrow: bool) -> None:
        self.narrow = narrow
        self._native = native.load("cpu")
        self._threads = torch.get_num_threads()

    def wide(self) -> Passes:
        """Float32 products."""
        return CpuPasses(narrow=False)

    def capacity(self, k: int, candidates: int) -> int:
        """Length of a list."""
        return min(candidates, 2 * k + 12 if self.narrow else k + 8)

    def side(self, parts: list[Tensor]) -> Side:
        """Norms and slack of matrices."""
        parts = [rows if rows.stride(1) == 1 else rows.contiguous() for rows in parts]
        length = sum(len(rows) for rows in parts)
        side = Side(parts, torch.empty(length, dtype=torch.float64), torch.empty(length))
        for where, rows in side.blocks(NORM_ROWS):
            inverse, slack = side.inverse[where].data_ptr(), side.slack[where].data_ptr()
            self._native.search_norms(*_matrix(rows), *rows.shape, self.narrow, inverse, slack, self._threads)
        return side

    def best(
        self,
        left: Side,
        right: Side,
        scoring: Scoring,
        row_capacity: int,
        columns: Lists | None,
        tick: Tick,
    ) -> Iterator[tuple[slice, Lists]]:
        """Lists of left rows, a block at a time; those of right rows grow in `columns`."""
        left_shift, right_shift = scoring.left.float(), scoring.right.float()
        column_capacity = columns.values.shape[1] if columns else 0
        for places, rows, packed in self._packed(left):
            lists = Lists.empty((self._threads, len(rows), row_capacity), rows.device)
            for targets, keys in self._runs(right, rows):
                at = targets.start * column_capacity
                self._native.search_lists(
                    packed.data_ptr(),
                    places.start,
                    len(rows),
                    *_matrix(keys),
                    targets.start,
                    *keys.shape,
                    right.inverse[targets].data_ptr(),
                    self.narrow,
                    scoring.scale,
                    left_shift[places].data_ptr(),
                    right_shift[targets].data_ptr(),
                    lists.values.data_ptr(),
                    lists.index.data_ptr(),
                    row_capacity,
                    columns.values.view(-1)[at:].data_ptr() if columns else 0,
                    columns.index.view(-1)[at:].data_ptr() if columns else 0,
                    column_capacity,
                    self._threads,
                )
                tick(len(rows) * len(keys))
            yield places, _merged(lists)

    def counts(
        self, left: Side, right: Side, scoring: Scoring, own: Tensor, tick: Tick
    ) -> tuple[Tensor, int]:
        """Exact counts, and how many scores were computed again."""
        counts = torch.zeros(4, len(own), dtype=torch.int64)
        undecided = 0
        for places, rows, packed in self._packed(left):
            for targets, keys in self._runs(right, rows):
                tick(len(rows) * len(keys))
                if min(places.start, targets.start) >= len(own):
                    continue  # further candidates on both sides: no pair is ranked here
                undecided += self._native.search_counts(
                    packed.data_ptr(),
                    *_matrix(rows)[:2],
                    places.start,
                    len(rows),
                    *_matrix(keys)[:2],
                    targets.start,
                    len(keys),
                    native.dtype_code(rows.dtype),
                    rows.shape[1],
                    left.inverse[places].data_ptr(),
                    right.inverse[targets].data_ptr(),
                    self.narrow,
                    scoring.scale,
                    scoring.left[places].data_ptr(),
                    scoring.right[targets].data_ptr(),
                    left.slack[places].data_ptr(),
                    right.slack[targets].data_ptr(),
                    own.data_ptr(),
                    len(own),
                    TIE,
                    counts.data_ptr(),
                    self._threads,
                )
        return counts, undecided

    def cosines(self, left: Side, rows: slice, right: Side, index: Tensor) -> Tensor:
        """Float64 cosines of left rows and right rows `index`; -infinity where negative."""
        index = index.contiguous()
        cosines = torch.empty(index.shape, dtype=torch.float64)
        table = torch.tensor([[part.data_ptr(), len(part), part.stride(0)] for part in right.parts])
        first = 0
        for part in left.parts:
            start, stop = max(rows.start - first, 0), min(rows.stop - first, len(part))
            if start < stop:
                to = slice(first + start - rows.start, first + stop - rows.start)
                self._native.search_cosines(
                    *_matrix(part[start:stop]),
                    stop - start,
                    part.shape[1],
                    left.inverse[first + start :].data_ptr(),
                    table.data_ptr(),
                    right.inverse.data_ptr(),
                    index[to].data_ptr(),
                    index.shape[1],
                    cosines[to].data_ptr(),
                    self._threads,
                )
            first += len(part)
        return cosines

    def _packed(self, side: Side) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """Blocks of rows, and the same rows packed as the left operand of the products."""
        width = side.parts[0].shape[1]
        tiles = PACKED_BYTES // self._native.search_packed_bytes(1, width, self.narrow)
        step = min(max(PANEL, 6 * tiles), PACKED_ROWS)
        for places, rows in side.blocks(step):
            size = self._native.search_packed_bytes(len(rows), width, self.narrow)
            packed = torch.empty(size + 64, dtype=torch.uint8)
            packed = packed[-packed.data_ptr() % 64 :]  # cache lines
            inverse = side.inverse[places].data_ptr()
            self._native.search_pack(
                *_matrix(rows), *rows.shape, inverse, self.narrow, packed.data_ptr(), self._threads
            )
            yield places, rows, packed

    def _runs(self, side: Side, rows: Tensor) -> Iterator[tuple[slice, Tensor]]:
        """Columns for one call each."""
        flops = 2.0 * rows.numel() * PANEL
        panels = min(int(CALL_FLOPS / flops), CALL_BYTES // (PANEL * self._threads * rows[:1].nbytes))
        return side.blocks(PANEL * self._threads * max(2, panels))


def _matrix(rows: Tensor) -> tuple[int, int, int]:
    """Address, elements from row to row, dtype."""
    return rows.data_ptr(), rows.stride(0), native.dtype_code(rows.dtype)


def _merged(lists: Lists) -> Lists:
    """One list a row from those of the threads, [threads, rows, capacity]."""
    threads, rows, capacity = lists.values.shape
    if threads == 1:
        return Lists(lists.values[0], lists.index[0])
    values, chosen = lists.values.transpose(0, 1).reshape(rows, -1).topk(capacity)
    return Lists(values, lists.index.transpose(0, 1).reshape(rows, -1).gather(1, chosen))
