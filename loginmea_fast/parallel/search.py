"""Ranks of links among rows that lie divided among processes: the numbers of `ops.alignment_ranks`, merged over shards.

Rows of links are gathered some thousands at a time and counted against the rows of each process; counts of disjoint
candidates add up. For CSLS the rows of one side pass by those of the other, block by block, and what each process finds
best is merged. Scores are the same float64 numbers wherever they are computed, so ranks are those of one process.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeVar

import torch
from torch import Tensor

from loginmea_fast import ops
from loginmea_fast.mapped import room_for
from loginmea_fast.ops import _search_exact as exact
from loginmea_fast.ops._search_exact import Passes, Scoring, Side
from loginmea_fast.ops.alignment_search import AlignmentRanks, search_passes, search_side
from loginmea_fast.parallel.world import World

__all__ = ["SpreadRows", "of_all_rows"]

T = TypeVar("T")
_BLOCK = 4096  # rows that pass from process to process at a time


class SpreadRows:
    """Rows [count, D] of which every process holds some; stands where rows are ranked.

    Args:
        world: the processes.
        here: [n, D], those of this process.
        owner: int64 [count], which process holds each, the same in all; `here` is in this order.
    """

    def __init__(self, world: World, here: Tensor, owner: Tensor) -> None:
        self.world, self.here, self.owner = world, here, owner
        self._place = torch.full_like(owner, -1)
        self._place[owner == world.rank] = torch.arange(len(here))

    def __len__(self) -> int:
        return len(self.owner)

    def __getitem__(self, rows: slice) -> SpreadRows:
        """A run of them, which are a run here as well."""
        start, stop, step = rows.indices(len(self))
        assert step == 1, "a run has no gaps"
        first, end = (int((self._place[:place] >= 0).sum()) for place in (start, max(start, stop)))
        return SpreadRows(self.world, self.here[first:end], self.owner[rows])

    def gathered(self, index: Tensor | None = None) -> Tensor:
        """The rows at an index, or all, in every process; a collective."""
        return _gathered(self.world, self.here, self.owner, self._place, index)

    def collected(self) -> Tensor | None:
        """All rows, in process 0; None elsewhere. A collective."""
        counts = torch.bincount(self.owner, minlength=self.world.size).tolist()
        out = None
        if self.world.leads:
            out = room_for(len(self.owner), self.here.shape[1], self.here.dtype, self.here.device)
        for process, part in enumerate(self.world.collect(self.here, counts)):
            assert out is not None, "parts come to process 0"
            out[(self.owner == process).nonzero()[:, 0].to(out.device)] = part
        return out

    def ranks(self, other: SpreadRows, csls_k: int, pairs: Tensor, backend: str = "auto") -> AlignmentRanks:
        """As `ops.alignment_ranks(self, other, csls_k, pairs=pairs)`, in every process; a collective.

        Args:
            other: the right rows.
            csls_k: neighbours in the means; 0 ranks by cosine.
            pairs: int64 [B, 2], the same in all processes.
            backend: of the search.
        """
        passes = search_passes("alignment_ranks", self.here, backend)
        if passes is None:  # the formula has no passes that could be merged
            return ops.alignment_ranks(
                self.gathered(), other.gathered(), csls_k, backend=backend, pairs=pairs
            )
        left, right = (search_side(passes, rows.here) for rows in (self, other))
        scale, means = 1.0, [_zeros(rows) for rows in (self, other)]
        if csls_k:
            scale = 2.0
            of_own = _means(passes, self, other, left, right, csls_k)
            means = [
                _gathered(self.world, mean, rows.owner, rows._place, None)
                for mean, rows in zip(of_own, (self, other), strict=True)
            ]
        own_means = [
            mean[(rows.owner == self.world.rank).to(mean.device)]
            for mean, rows in zip(means, (self, other), strict=True)
        ]
        mine = Scoring(scale, *own_means)
        own, counts = [], []
        for i, j in (chosen.unbind(1) for chosen in pairs.split(_BLOCK)):
            a, b = (passes.side([rows.gathered(k)]) for rows, k in ((self, i), (other, j)))
            scores, found = exact.count_among(
                passes, a, b, Scoring(scale, means[0][i], means[1][j]), left, right, mine
            )
            own.append(scores)
            counts.append(found)
        above_lr, ties_lr, above_rl, ties_rl = total = torch.cat(counts, 1)
        self.world.sum_([total])
        nowhere = torch.zeros(len(pairs), dtype=torch.bool)
        for entity, above, ties in ((pairs[:, 0], above_lr, ties_lr), (pairs[:, 1], above_rl, ties_rl)):
            exact.take_off_partners(entity, nowhere, torch.cat(own), above, ties)
        ranks = 1 + above_lr + ties_lr / 2, 1 + above_rl + ties_rl / 2
        # As `ops.alignment_ranks`: float32 has halves up to 2^22.
        kinds = (torch.float32 if len(rows) < 2**22 else torch.float64 for rows in (other, self))
        ranks_lr, ranks_rl = (of.to(kind) for of, kind in zip(ranks, kinds, strict=True))
        return AlignmentRanks((ranks_lr, ranks_rl), (ties_lr, ties_rl))


def of_all_rows(rows: Tensor | SpreadRows, work: Callable[[Tensor], T]) -> T:
    """What `work` makes of all rows; where they lie divided, process 0 collects them, works, and tells the others."""
    if not isinstance(rows, SpreadRows):
        return work(rows)
    whole = rows.collected()

    def lead() -> T:
        assert whole is not None, "process 0 has collected them"
        return work(whole)

    return rows.world.first(lead)


def _means(
    passes: Passes, lefts: SpreadRows, rights: SpreadRows, left: Side, right: Side, k: int
) -> tuple[Tensor, Tensor]:
    """Means of the k best cosines of own left and own right rows among the rows of all processes."""
    world = lefts.world
    to_right, to_left = (_nothing(len(side), k, left) for side in (left, right))
    for process, rows, block in _passing(rights):
        among, seen = passes.side([block]), _nothing(len(block), k, left)
        if len(left):
            cosines = Scoring(1.0, *(torch.zeros_like(side.inverse) for side in (left, among)))
            forth, back = exact.best(passes, left, among, k, cosines, True, lambda done: None)
            assert back is not None
            to_right = torch.cat([to_right, forth[0]], 1).topk(k).values
            seen[:, : len(left)] = back[0]
        parts = world.gather_tensors(seen, process)
        if parts is not None:
            to_left[rows] = torch.cat(parts, 1).topk(k).values
    return to_right.mean(1), to_left.mean(1)


def _zeros(rows: SpreadRows) -> Tensor:
    return torch.zeros(len(rows), dtype=torch.float64, device=rows.here.device)


def _nothing(rows: int, k: int, like: Side) -> Tensor:
    return like.inverse.new_full((rows, k), -torch.inf)


def _passing(rows: SpreadRows) -> Iterator[tuple[int, slice, Tensor]]:
    """Blocks of the rows of each process in turn, in every process: whose, which of its own, and the rows."""
    counts = torch.bincount(rows.owner, minlength=rows.world.size).tolist()
    for process, count in enumerate(counts):
        for first in range(0, count, _BLOCK):
            places = slice(first, min(first + _BLOCK, count))
            if process == rows.world.rank:
                block = rows.here[places].contiguous()
            else:
                block = rows.here.new_empty(places.stop - first, rows.here.shape[1])
            yield process, places, rows.world.broadcast(block, process)


def _gathered(world: World, here: Tensor, owner: Tensor, place: Tensor, index: Tensor | None) -> Tensor:
    owner, place = (owner, place) if index is None else (owner[index], place[index])
    out = here.new_empty(len(owner), *here.shape[1:])
    for process in range(world.size):
        where = (owner == process).nonzero()[:, 0]
        if process == world.rank:
            part = here[place[where].to(here.device)]
        else:
            part = here.new_empty(len(where), *here.shape[1:])
        out[where.to(out.device)] = world.broadcast(part, process)
    return out
