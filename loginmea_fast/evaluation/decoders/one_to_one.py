"""The assignment: every entity is matched once, so that the sum of the scores is largest.

As many pairs as the candidates allow are matched, and among those sets the one with the largest sum of scores is
taken: exact by scipy's sparse solver (Jonker and Volgenant's shortest augmenting paths) up to `EXACT_PAIRS` candidates.
Beyond it pairs are taken greedily, the best first, whose sum is at least half of the largest.
"""

from __future__ import annotations

import numpy as np

from loginmea_fast.evaluation.decoders.base import Candidates, Matching, register_decoder

__all__ = ["greedy", "one_to_one"]

EXACT_PAIRS = 3_000_000


def one_to_one(candidates: Candidates) -> Matching:
    """A matching in which no row stands twice."""
    if len(candidates.scores) > EXACT_PAIRS:
        return greedy(candidates)
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import min_weight_full_bipartite_matching

    n, m = candidates.num_left, candidates.num_right
    # A stand-in for every left row keeps the problem feasible; it costs more than all that can be gained without it.
    scores = candidates.scores.astype(np.float64)
    cost = scores.max() - scores + 1  # not 0, which would be no edge
    alone = cost.max() * (min(n, m) + 1)
    data = np.concatenate([cost, np.full(n, alone)])
    rows = np.concatenate([candidates.left, np.arange(n)])
    columns = np.concatenate([candidates.right, m + np.arange(n)])
    left, right = min_weight_full_bipartite_matching(csr_array((data, (rows, columns)), shape=(n, m + n)))
    matched = right < m
    key = candidates.left * m + candidates.right
    return candidates.matching(np.searchsorted(key, left[matched].astype(np.int64) * m + right[matched]))


def greedy(candidates: Candidates) -> Matching:
    """Pairs by falling score, each taken if both its rows are free.

    Round by round: the pairs that are best for both their rows are those that the greedy walk takes next.
    """
    order = np.lexsort((candidates.right, candidates.left, -candidates.scores))
    left, right = candidates.left[order], candidates.right[order]
    place = np.arange(len(order))
    taken = []
    while len(place):
        first = [
            np.full(count, len(order)) for count in (candidates.num_left, candidates.num_right)
        ]  # the best place of each row
        for rows, best in zip((left[place], right[place]), first, strict=True):
            np.minimum.at(best, rows, place)
        chosen = place[(first[0][left[place]] == place) & (first[1][right[place]] == place)]
        taken.append(chosen)
        gone = [np.zeros(len(best), dtype=bool) for best in first]
        gone[0][left[chosen]], gone[1][right[chosen]] = True, True
        place = place[~(gone[0][left[place]] | gone[1][right[place]])]
    return candidates.matching(order[np.concatenate(taken)])


register_decoder("one_to_one", one_to_one, "csls", "the one-to-one assignment with the largest sum of CSLS")
