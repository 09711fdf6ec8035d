r"""Alignment search by its formulas, in float64: the truth, and the same truth streamed.

Left rows `x_i` [D], i < n, and right rows `y_j` [D], j < m (CSLS: Conneau et al., ICLR 2018, section 2.3):

    s_ij = (x_i / |x_i|) . (y_j / |y_j|)        a zero row has no direction: its cosine with anything is 0
    r_i  = mean of the k largest s_i. ,   r_j = mean of the k largest s_.j
    c_ij = 2 s_ij - r_i - r_j                   with CSLS;   c_ij = s_ij without

    rank_b = 1 + #{j : c_ij > c_b} + 1/2 #{j : c_ij = c_b}      of pair b = (i, j_b) with score c_b, over those j that
                                                                are no partner of i; and the same down the columns

Pair b is (row b, row b) unless a table says otherwise. A row may have several partners, none of them another's rival.

Two scores are *equal* when they differ by no more than `TIE` = 2^-46 (1.4e-14): some ten times what float64 sums
of a few thousand terms lose. So a tie does not depend on the order in which a machine adds.
Where order matters (top k, nearest), equal scores stand by index.

There is no gradient: a rank is piecewise constant.

`dense_*` write the formulas down and hold every score. `alignment_ranks`, `alignment_topk`, `mutual_nearest`
do the same arithmetic block by block, hold O(n + m) numbers and one block of scores, and are the `reference`
backend. Sides are sequences of matrices, one below the other, so that further candidates need no copy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

TIE = 2.0**-46
ROWS, COLUMNS = 1024, 4096  # one block of scores, 32 MiB in float64

Side = Sequence[Tensor]
Tick = Callable[[int], None]


def unit_rows(rows: Tensor) -> Tensor:
    """Rows in float64 divided by their length; a zero row stays zero."""
    rows = rows.to(torch.float64)
    norm = rows.norm(dim=1, keepdim=True)
    return rows / torch.where(norm > 0, norm, 1)


def best_first(scores: Tensor, index: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k best of each row, larger scores first, equal ones by index; scores and index are [rows, candidates]."""
    bound = int(index.max()) + 1
    above = scores - scores.topk(k, dim=1).values[:, -1:]
    tier = (above > TIE).to(torch.int64) - (above < -TIE).to(torch.int64)  # 0: equal to the k-th
    chosen = (tier * bound - index).topk(k, dim=1).indices
    scores, order = scores.gather(1, chosen).sort(dim=1, descending=True)
    index = index.gather(1, chosen).gather(1, order)
    drops = torch.zeros_like(index)
    drops[:, 1:] = (scores[:, :-1] - scores[:, 1:] > TIE).cumsum(1)
    order = (drops * bound + index).argsort(dim=1)
    return scores.gather(1, order), index.gather(1, order)


def first_best(scores: Tensor) -> tuple[Tensor, Tensor]:
    """Largest score of each row and the first place that equals it."""
    largest = scores.amax(1)
    return largest, (scores >= largest[:, None] - TIE).to(torch.uint8).argmax(1)


def dense_scores(left: Tensor, right: Tensor, csls_k: int = 0) -> Tensor:
    """The scores c [n, m] in float64."""
    scores = unit_rows(left) @ unit_rows(right).T
    if csls_k:
        left_mean = scores.topk(csls_k, dim=1).values.mean(1, keepdim=True)
        right_mean = scores.topk(csls_k, dim=0).values.mean(0, keepdim=True)
        scores = 2 * scores - left_mean - right_mean
    return scores


def dense_ranks(scores: Tensor, pairs: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Ranks both ways [B] float64 and ties both ways [B] int64 of pairs [B, 2] of rows and columns."""
    rows, columns = pairs.unbind(1)
    rivals = scores.clone()
    rivals[rows, columns] = -torch.inf  # no partner is a rival

    def ranks(rivals: Tensor) -> tuple[Tensor, Tensor]:
        above = rivals - scores[rows, columns][:, None]
        ties = (above.abs() <= TIE).sum(1)
        return 1 + (above > TIE).sum(1) + ties / 2, ties

    (ranks_lr, ties_lr), (ranks_rl, ties_rl) = ranks(rivals[rows]), ranks(rivals.T[columns])
    return ranks_lr, ranks_rl, ties_lr, ties_rl


def dense_topk(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k best of each row, larger first, equal scores by index."""
    return best_first(scores, torch.arange(scores.shape[1], device=scores.device).expand_as(scores), k)


def dense_mutual_nearest(scores: Tensor) -> Tensor:
    """Pairs [P, 2] each of which is the other's best."""
    return mutual(first_best(scores)[1], first_best(scores.T)[1])


def mutual(to_right: Tensor, to_left: Tensor) -> Tensor:
    """Pairs (i, to_right[i]) with to_left[to_right[i]] = i, by i."""
    left = torch.arange(len(to_right), device=to_right.device)
    kept = to_left[to_right] == left
    return torch.stack([left[kept], to_right[kept]], 1)


def length(side: Side) -> int:
    """Rows of a side."""
    return sum(len(part) for part in side)


def block(side: Side, start: int, stop: int) -> Tensor:
    """Rows start to stop of a side."""
    chosen, first = [], 0
    for part in side:
        lo, hi = max(start - first, 0), min(stop - first, len(part))
        if lo < hi:
            chosen.append(part[lo:hi])
        first += len(part)
    return chosen[0] if len(chosen) == 1 else torch.cat(chosen)


def spans(rows: int, step: int) -> Iterator[tuple[int, int]]:
    """(start, stop) of blocks of at most `step` rows."""
    return ((start, min(start + step, rows)) for start in range(0, rows, step))


def tiles(left: Side, right: Side, tick: Tick) -> Iterator[tuple[slice, slice, Tensor]]:
    """Every block of cosines: rows, columns, s; `tick` is told how many scores are done."""
    for top, bottom in spans(length(left), ROWS):
        rows = unit_rows(block(left, top, bottom))
        for start, stop in spans(length(right), COLUMNS):
            yield slice(top, bottom), slice(start, stop), rows @ unit_rows(block(right, start, stop)).T
            tick((bottom - top) * (stop - start))


def neighbourhood_means(left: Side, right: Side, k: int, tick: Tick) -> tuple[Tensor, Tensor]:
    """Mean of the k best cosines of every left row [n] and of every right row [m]."""
    device = left[0].device
    best_left = torch.full((length(left), k), -torch.inf, dtype=torch.float64, device=device)
    best_right = torch.full((length(right), k), -torch.inf, dtype=torch.float64, device=device)
    for rows, columns, scores in tiles(left, right, tick):
        best_left[rows] = torch.cat([best_left[rows], scores], 1).topk(k, dim=1).values
        best_right[columns] = torch.cat([best_right[columns], scores.T], 1).topk(k, dim=1).values
    return best_left.mean(1), best_right.mean(1)


def csls_means(left: Side, right: Side, csls_k: int, tick: Tick) -> tuple[float, Tensor, Tensor]:
    """(a, r_left, r_right) of c = a s - r_left - r_right; (1, 0, 0) without CSLS."""
    if csls_k:
        return 2.0, *neighbourhood_means(left, right, csls_k, tick)
    zeros = [torch.zeros(length(side), dtype=torch.float64, device=side[0].device) for side in (left, right)]
    return 1.0, zeros[0], zeros[1]


def rows_at(side: Side, index: Tensor) -> Tensor:
    """Rows of a side at an index."""
    rows = side[0].new_empty(len(index), side[0].shape[1])
    first = 0
    for part in side:
        inside = (index >= first) & (index < first + len(part))
        rows[inside] = part[index[inside] - first]
        first += len(part)
    return rows


def alignment_ranks(
    left: Side, right: Side, pairs: Tensor, csls_k: int, tick: Tick
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Ranks both ways [B] float64 and ties both ways [B] int64 of pairs [B, 2] of left and right rows."""
    count, device = len(pairs), pairs.device
    scale, mean_left, mean_right = csls_means(left, right, csls_k, tick)
    i, j = pairs.unbind(1)
    own = torch.empty(count, dtype=torch.float64, device=device)
    for start, stop in spans(count, ROWS):
        a, b = unit_rows(rows_at(left, i[start:stop])), unit_rows(rows_at(right, j[start:stop]))
        own[start:stop] = (a * b).sum(1)
    own = scale * own - mean_left[i] - mean_right[j]
    above_lr, above_rl, ties_lr, ties_rl = (
        torch.zeros(count, dtype=torch.int64, device=device) for _ in range(4)
    )
    orders = [side.argsort() for side in (i, j)]
    sorted_sides = [side[order] for side, order in zip((i, j), orders, strict=True)]
    for rows, columns, cosine in tiles(left, right, tick):
        scores = scale * cosine - mean_left[rows, None] - mean_right[columns]
        here = _inside(sorted_sides[0], orders[0], rows)
        here = here[(j[here] >= columns.start) & (j[here] < columns.stop)]
        scores[i[here] - rows.start, j[here] - columns.start] = -torch.inf  # no partner is a rival
        for way, (places, matrix, above, ties) in enumerate(
            ((rows, scores, above_lr, ties_lr), (columns, scores.T, above_rl, ties_rl))
        ):
            for chosen in _inside(sorted_sides[way], orders[way], places).split(ROWS):
                difference = matrix[pairs[chosen, way] - places.start] - own[chosen, None]
                above[chosen] += (difference > TIE).sum(1)
                ties[chosen] += (difference.abs() <= TIE).sum(1)
    return 1 + above_lr + ties_lr / 2, 1 + above_rl + ties_rl / 2, ties_lr, ties_rl


def _inside(values: Tensor, order: Tensor, places: slice) -> Tensor:
    """Those in `order` whose value, ascending in `values`, is one of `places`."""
    start, stop = torch.searchsorted(values, torch.tensor([places.start, places.stop], device=values.device))
    return order[start:stop]


def topk_rows(
    queries: Side, keys: Side, k: int, scale: float, mean_queries: Tensor, mean_keys: Tensor, tick: Tick
) -> tuple[Tensor, Tensor]:
    """The k best keys of each query under given means: scores float64 [Q, k], index int64 [Q, k]."""
    shape, device = (length(queries), k), queries[0].device
    values = torch.full(shape, -torch.inf, dtype=torch.float64, device=device)
    index = torch.zeros(shape, dtype=torch.int64, device=device)
    for rows, columns, cosine in tiles(queries, keys, tick):
        scores = scale * cosine - mean_queries[rows, None] - mean_keys[columns]
        places = torch.arange(columns.start, columns.stop, device=device).expand_as(scores)
        merged = torch.cat([values[rows], scores], 1), torch.cat([index[rows], places], 1)
        values[rows], index[rows] = best_first(*merged, k)
    return values, index


def alignment_topk(queries: Side, keys: Side, k: int, csls_k: int, tick: Tick) -> tuple[Tensor, Tensor]:
    """Scores float64 [Q, k] and index int64 [Q, k] of the k best keys of the first matrix of queries.

    Further matrices of queries count in the means of CSLS alone.
    """
    scale, mean_queries, mean_keys = csls_means(queries, keys, csls_k, tick)
    return topk_rows(queries[:1], keys, k, scale, mean_queries[: len(queries[0])], mean_keys, tick)


def alignment_topk_both(
    left: Side, right: Side, k: int, csls_k: int, tick: Tick
) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Scores float64 [rows, k] and index int64 [rows, k] of left rows and of right rows."""
    scale, mean_left, mean_right = csls_means(left, right, csls_k, tick)
    to_right = topk_rows(left, right, k, scale, mean_left, mean_right, tick)
    return to_right, topk_rows(right, left, k, scale, mean_right, mean_left, lambda done: None)


def mutual_nearest(left: Side, right: Side, csls_k: int, tick: Tick) -> Tensor:
    """Pairs [P, 2] each of which is the other's best."""
    scale, mean_left, mean_right = csls_means(left, right, csls_k, tick)
    device = left[0].device
    best = [
        torch.full((length(side),), -torch.inf, dtype=torch.float64, device=device) for side in (left, right)
    ]
    nearest = [torch.zeros(length(side), dtype=torch.int64, device=device) for side in (left, right)]
    for rows, columns, cosine in tiles(left, right, tick):
        scores = scale * cosine - mean_left[rows, None] - mean_right[columns]
        for way, (places, others, matrix) in enumerate(((rows, columns, scores), (columns, rows, scores.T))):
            largest, place = first_best(matrix)
            better = largest > best[way][places] + TIE  # an equal one further on does not displace the first
            best[way][places] = torch.where(better, largest, best[way][places])
            nearest[way][places] = torch.where(better, others.start + place, nearest[way][places])
    return mutual(*nearest)
