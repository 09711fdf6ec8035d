"""Exact answers from approximate passes: what the fast backends of alignment_search share.

A pass gives scores with a proven bound on their error. A list of the best approximate scores is settled by scoring
its entries again in float64: it holds the true best k if the k-th of them lies above whatever the list turned away,
which is at most the list's smallest value plus the bound. The few rows for which it does not are done again, first
by passes with a smaller bound, then by the reference. Counts come exact from the passes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from loginmea_fast.mapped import release
from loginmea_fast.reference import alignment_search as reference
from loginmea_fast.reference.alignment_search import TIE, Tick

ROUNDING = 4e-6  # passes add and compare in float32, on numbers up to 10
LIST_BYTES = 2**27
AGAIN_ROWS = 4096
WORKING_BYTES = 2**27  # of rows in float64
PROBE = 512  # pairs on which a narrow pass is tried
PARTNERS = 2**20  # pairs of partners of one entity that are compared at a time
UNDECIDED = 1 / 50  # share of scores beyond which computing them again costs more than a narrow pass saves

Best = tuple[Tensor, Tensor]  # scores float64 [rows, k] and index int64 [rows, k]


@dataclass
class Side:
    """Matrices one below the other, as a backend's passes take them.

    Attributes:
        parts: the matrices; elements of a row are adjacent.
        inverse: 1 / |row|, 0 for a zero row; float64 [rows].
        slack: a row's share in the bound on the error of its cosines; float32 [rows].
    """

    parts: list[Tensor]
    inverse: Tensor
    slack: Tensor

    def __len__(self) -> int:
        return len(self.inverse)

    def head(self) -> Side:
        """The first matrix alone."""
        rows = len(self.parts[0])
        return Side(self.parts[:1], self.inverse[:rows].contiguous(), self.slack[:rows].contiguous())

    def blocks(self, step: int) -> Iterator[tuple[slice, Tensor]]:
        """Blocks of at most `step` rows, about equal, none across two parts: where they are, and the rows."""
        first = 0
        for part in self.parts:
            for rows in part.tensor_split(-(-len(part) // step)) if len(part) else ():
                yield slice(first, first + len(rows)), rows
                release(rows)
                first += len(rows)

    def rows(self, index: Tensor) -> Tensor:
        """Copies of the rows at an index."""
        return reference.rows_at(self.parts, index)


@dataclass
class Scoring:
    """The scores c_ij = scale s_ij - left_i - right_j; means float64 [rows], zeros without CSLS."""

    scale: float
    left: Tensor
    right: Tensor

    def swapped(self) -> Scoring:
        """The same scores, seen from the right."""
        return Scoring(self.scale, self.right, self.left)


@dataclass
class Lists:
    """The best approximate `scale s'_ij - mean_j` of some rows and the j; -infinity and -1 fill a list up."""

    values: Tensor  # float32 [rows, capacity]
    index: Tensor  # int32 [rows, capacity]

    @classmethod
    def empty(cls, shape: tuple[int, ...], device: torch.device) -> Lists:
        """Lists to which nothing has been offered."""
        return cls(
            torch.full(shape, -torch.inf, device=device),
            torch.full(shape, -1, dtype=torch.int32, device=device),
        )


class Passes(Protocol):
    """What a backend provides."""

    narrow: bool  # bfloat16 products

    def wide(self) -> Passes:
        """The same backend with the smallest bound it has."""

    def capacity(self, k: int, candidates: int) -> int:
        """Length of a list: room for the k best and for those that the bound cannot tell from them."""

    def side(self, parts: list[Tensor]) -> Side:
        """Norms and slack of matrices; a norm is NaN where a row is not finite."""

    def best(
        self,
        left: Side,
        right: Side,
        scoring: Scoring,
        row_capacity: int,
        columns: Lists | None,
        tick: Tick,
    ) -> Iterator[tuple[slice, Lists]]:
        """Lists of left rows, a block at a time; those of right rows grow in `columns` until the last block."""

    def counts(
        self, left: Side, right: Side, scoring: Scoring, own: Tensor, tick: Tick
    ) -> tuple[Tensor, int]:
        """Exact counts and how many scores were computed again.

        Counts are int64 [4, pairs]: above and equal in the row, above and equal in the column of each pair.
        """

    def cosines(self, left: Side, rows: slice, right: Side, index: Tensor) -> Tensor:
        """Float64 cosines of left rows and right rows `index` (int32 [rows, count]); -infinity where negative."""


def pair_cosines(left: Side, i: Tensor, right: Side, j: Tensor) -> Tensor:
    """Float64 cosines of left rows i and right rows j, int64 [pairs] both."""
    step = max(1, WORKING_BYTES // (24 * left.parts[0].shape[1]))
    cosines = torch.empty(len(i), dtype=torch.float64, device=i.device)
    for a, b, out in zip(i.split(step), j.split(step), cosines.split(step), strict=True):
        dots = torch.linalg.vecdot(left.rows(a).to(torch.float64), right.rows(b).to(torch.float64))
        out.copy_(dots * left.inverse[a] * right.inverse[b])
    return cosines


def best(
    passes: Passes, left: Side, right: Side, k: int, scoring: Scoring, both: bool, tick: Tick
) -> tuple[Best, Best | None]:
    """The k best right rows of every left row and, with `both`, the k best left rows of every right row.

    Where a side has fewer rows than k, all of them.
    """
    row_k, column_k = (min(k, len(side)) for side in (right, left))
    row_capacity = passes.capacity(row_k, len(right))
    column_capacity = passes.capacity(column_k, len(left))
    if both and 8 * len(right) * column_capacity > LIST_BYTES:
        to_right, _ = best(passes, left, right, k, scoring, False, tick)
        to_left, _ = best(passes, right, left, k, scoring.swapped(), False, lambda done: None)
        return to_right, to_left
    device = left.inverse.device
    columns = Lists.empty((len(right), column_capacity), device) if both else None
    to_right = _unsettled(len(left), row_k, device)
    for rows, lists in passes.best(left, right, scoring, row_capacity, columns, tick):
        _settle(passes, left, rows, right, lists, scoring, to_right)
    to_right = _again(passes, left, right, scoring, to_right)
    if columns is None:
        return to_right, None
    to_left = _unsettled(len(right), column_k, device)
    for rows, _ in right.blocks(AGAIN_ROWS):
        lists = Lists(columns.values[rows], columns.index[rows])
        _settle(passes, right, rows, left, lists, scoring.swapped(), to_left)
    return to_right, _again(passes, right, left, scoring.swapped(), to_left)


def csls(passes: Passes, left: Side, right: Side, csls_k: int, tick: Tick) -> Scoring:
    """Means of the `csls_k` best cosines of every row, exact to float64."""
    zeros = [
        torch.zeros(len(side), dtype=torch.float64, device=side.inverse.device) for side in (left, right)
    ]
    scoring = Scoring(1.0, *zeros)
    if csls_k == 0:
        return scoring
    to_right, to_left = best(passes, left, right, csls_k, scoring, True, tick)
    assert to_left is not None
    return Scoring(2.0, to_right[0].mean(1), to_left[0].mean(1))


def alignment_ranks(
    passes: Passes, left: Side, right: Side, pairs: Tensor, csls_k: int, tick: Tick
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Ranks both ways, float64 [B], and ties both ways, int64 [B], of pairs [B, 2] of left and right rows.

    The passes count for pairs of rows at the same place, which most are. The others are gathered, set before all rows,
    and what is counted among the gathered ones taken off again.
    """
    scoring = csls(passes, left, right, csls_k, tick)
    i, j = pairs.unbind(1)
    own = torch.empty(len(pairs), dtype=torch.float64, device=pairs.device)
    counts = torch.empty(4, len(pairs), dtype=torch.int64, device=pairs.device)
    length = min(len(left.parts[0]), len(right.parts[0]))
    level = torch.zeros(length + 1, dtype=torch.bool, device=pairs.device)
    level[i[(i == j) & (i < length)]] = True
    aligned = int(
        level.to(torch.uint8).argmin()
    )  # rows 0 to aligned - 1 are paired with the row at their place
    in_place = (i == j) & (i < aligned)
    if aligned:
        there = _own(passes, left, right, scoring, aligned)
        if passes.narrow and _undecided(passes, left, right, scoring, there) > UNDECIDED:
            passes = passes.wide()
            left, right = passes.side(left.parts), passes.side(right.parts)
        own[in_place] = there[i[in_place]]
        counts[:, in_place] = passes.counts(left, right, scoring, there, tick)[0][:, i[in_place]]
    others = (~in_place).nonzero()[:, 0]
    for chosen in others.split(AGAIN_ROWS) if len(others) else ():
        own[chosen], counts[:, chosen] = _count_gathered(passes, left, right, scoring, i[chosen], j[chosen])
    for way, entity in enumerate((i, j)):
        take_off_partners(entity, in_place, own, counts[2 * way], counts[2 * way + 1])
    above_lr, ties_lr, above_rl, ties_rl = counts
    return 1 + above_lr + ties_lr / 2, 1 + above_rl + ties_rl / 2, ties_lr.clone(), ties_rl.clone()


def _own(passes: Passes, left: Side, right: Side, scoring: Scoring, pairs: int) -> Tensor:
    """Scores of the first rows with the row at their place."""
    partner = torch.arange(pairs, dtype=torch.int32, device=left.inverse.device)[:, None]
    cosines = passes.cosines(left, slice(0, pairs), right, partner)[:, 0]
    return scoring.scale * cosines - scoring.left[:pairs] - scoring.right[:pairs]


def _count_gathered(
    passes: Passes, left: Side, right: Side, scoring: Scoring, i: Tensor, j: Tensor
) -> tuple[Tensor, Tensor]:
    """Scores of pairs (i, j) and their counts, in which the pair itself ties."""
    a, b = passes.side([left.rows(i)]), passes.side([right.rows(j)])
    means = Scoring(scoring.scale, scoring.left[i], scoring.right[j])
    return count_among(passes, a, b, means, left, right, scoring)


def count_among(
    passes: Passes, a: Side, b: Side, means: Scoring, left: Side, right: Side, scoring: Scoring
) -> tuple[Tensor, Tensor]:
    """Scores of the pairs of rows at the same place of `a` and `b`, whose means are `means`; their counts among others.

    Where a row of a pair is among the others, the pair itself ties.
    """
    own = _own(passes, a, b, means, len(a))
    before_left, before_right = (
        Side(
            few.parts + rows.parts, torch.cat([few.inverse, rows.inverse]), torch.cat([few.slack, rows.slack])
        )
        for few, rows in ((a, left), (b, right))
    )
    everywhere = Scoring(
        scoring.scale, torch.cat([means.left, scoring.left]), torch.cat([means.right, scoring.right])
    )
    total, _ = passes.counts(before_left, before_right, everywhere, own, lambda done: None)
    among, _ = passes.counts(a, b, means, own, lambda done: None)
    return own, total - among


def take_off_partners(
    entity: Tensor, in_place: Tensor, own: Tensor, above: Tensor, ties: Tensor, tie: float = TIE
) -> None:
    """Take partners of the same entity out of the counts of each pair; itself too where it was counted."""
    _, group, sizes = entity.unique(return_inverse=True, return_counts=True)
    order = group.argsort(stable=True)
    starts = sizes.cumsum(0) - sizes
    several = ((sizes[group] > 1) | ~in_place).nonzero()[:, 0]
    if len(several) == 0:
        return
    for chosen in several.split(max(1, PARTNERS // int(sizes.max()))):
        each = sizes[group[chosen]]
        pair = chosen.repeat_interleave(each)
        place = torch.arange(len(pair), device=pair.device) - (each.cumsum(0) - each).repeat_interleave(each)
        partner = order[starts[group[pair]] + place]
        counted = (partner != pair) | ~in_place[pair]
        difference = own[partner] - own[pair]
        above.index_add_(0, pair, -((difference > tie) & counted).to(torch.int64))
        ties.index_add_(0, pair, -((difference.abs() <= tie) & counted).to(torch.int64))


def alignment_topk(passes: Passes, queries: Side, keys: Side, k: int, csls_k: int, tick: Tick) -> Best:
    """Scores float64 [Q, k] and index int64 [Q, k] of the first matrix of queries; all count in the means."""
    scoring = csls(passes, queries, keys, csls_k, tick)
    first = queries.head()
    scoring = Scoring(scoring.scale, scoring.left[: len(first)].contiguous(), scoring.right)
    return best(passes, first, keys, k, scoring, False, tick)[0]


def alignment_topk_both(
    passes: Passes, left: Side, right: Side, k: int, csls_k: int, tick: Tick
) -> tuple[Best, Best]:
    """Scores float64 [rows, k] and index int64 [rows, k] of left rows and of right rows."""
    to_right, to_left = best(passes, left, right, k, csls(passes, left, right, csls_k, tick), True, tick)
    assert to_left is not None
    return to_right, to_left


def mutual_nearest(passes: Passes, left: Side, right: Side, csls_k: int, tick: Tick) -> Tensor:
    """Pairs [P, 2]."""
    to_right, to_left = best(
        passes, left, right, 1, csls(passes, left, right, csls_k, tick), both=True, tick=tick
    )
    assert to_left is not None
    return reference.mutual(to_right[1][:, 0], to_left[1][:, 0])


def _undecided(passes: Passes, left: Side, right: Side, scoring: Scoring, own: Tensor) -> float:
    """Share of the scores of some pairs, spread over all, that these passes leave undecided."""
    some = slice(0, len(own), -(-len(own) // PROBE))
    a, b = (
        Side([side.parts[0][some]], side.inverse[some].contiguous(), side.slack[some].contiguous())
        for side in (left, right)
    )
    means = Scoring(scoring.scale, scoring.left[some].contiguous(), scoring.right[some].contiguous())
    _, undecided = passes.counts(a, b, means, own[some].contiguous(), lambda done: None)
    return undecided / len(a) ** 2


def _unsettled(rows: int, k: int, device: torch.device) -> Best:
    """Room for results; index -1 says that a row is not settled."""
    scores = torch.empty(rows, k, dtype=torch.float64, device=device)
    return scores, torch.full((rows, k), -1, device=device)


def _settle(
    passes: Passes, queries: Side, rows: slice, keys: Side, lists: Lists, scoring: Scoring, out: Best
) -> None:
    """Write the exact best of those rows whose lists prove it."""
    k = out[0].shape[1]
    bound = scoring.scale * (queries.slack[rows] + keys.slack.max()) + ROUNDING
    floor = (
        lists.values.amin(1) + bound
    )  # nothing that the list turned away scores more; -infinity: it took all
    hopeful = lists.values >= (lists.values.topk(k).values[:, -1] - 2 * bound)[:, None]
    index = torch.where(hopeful, lists.index, -1)
    mean = scoring.left[rows, None]
    scores = scoring.scale * passes.cosines(queries, rows, keys, index) - mean
    index = index.to(torch.int64)
    scores -= scoring.right[index.clamp_min(0)]
    scores, index = reference.best_first(scores, index, k)
    settled = scores.amin(1) + mean[:, 0] - TIE > floor
    out[0][rows] = scores
    out[1][rows] = torch.where(settled[:, None], index, -1)


def _again(passes: Passes, queries: Side, keys: Side, scoring: Scoring, out: Best) -> Best:
    """Do the rows again that are not settled."""
    zero = (queries.inverse == 0).nonzero()[:, 0]  # all their cosines are 0, so one answer serves them all
    if len(zero):
        shifts = scoring.right.new_zeros(1, len(keys)) - scoring.right
        places = torch.arange(len(keys), device=shifts.device)[None]
        scores, index = reference.best_first(shifts, places, out[0].shape[1])
        out[0][zero], out[1][zero] = scores - scoring.left[zero, None], index
    open_rows = (out[1][:, 0] < 0).nonzero()[:, 0]
    if len(open_rows) == 0:
        return out
    k = out[0].shape[1]
    wide = passes.wide()
    wide_keys = wide.side(keys.parts) if passes.narrow else None
    for chosen in open_rows.split(AGAIN_ROWS):
        rows = queries.rows(chosen)
        means = Scoring(scoring.scale, scoring.left[chosen], scoring.right)
        if wide_keys is not None:
            scores, index = best(wide, wide.side([rows]), wide_keys, k, means, False, lambda done: None)[0]
        else:
            scores, index = reference.topk_rows(
                [rows], keys.parts, k, means.scale, means.left, means.right, lambda done: None
            )
        out[0][chosen], out[1][chosen] = scores, index
    return out
