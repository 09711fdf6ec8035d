"""From candidates to matches, and what of a match tells whether it is right."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from loginmea_fast.data.split import is_among
from loginmea_fast.evaluation.decoders import Candidates, find_candidates, get_decoder
from loginmea_fast.evaluation.embedding import Embedding
from loginmea_fast.runs.aligning.evidence import Evidence

__all__ = ["FEATURES", "Matched", "Pool", "find_pool", "match_features"]

FEATURES = ("score", "margin", "margin_back", "mutual")


@dataclass(frozen=True)
class Pool:
    """Entities of both graphs that may be matched, and their candidates.

    Attributes:
        left: int64 [n], entities; row i of the candidates is `left[i]`.
        right: int64 [m].
        candidates: scores of pairs of rows; every row has one.
        learned: int64 [T, 2], links that the embedding was learned from.
        embedding: of all entities.
        evidence: of the pair; where the pool is flipped it is still asked from graph 1 to graph 2.
        is_flipped: whether graph 2 is on the left.
    """

    left: np.ndarray
    right: np.ndarray
    candidates: Candidates
    learned: np.ndarray
    embedding: Embedding
    evidence: Evidence
    is_flipped: bool = False

    def without(self, left: np.ndarray, right: np.ndarray) -> Pool:
        """The pool without these entities; one that loses its last candidate goes as well."""
        c = self.candidates
        stays = ~np.isin(self.left, left)[c.left] & ~np.isin(self.right, right)[c.right]
        return self._only(stays)

    def excluding(self, pairs: Tensor) -> Pool:
        """The pool without these pairs of entities, int64 [R, 2], as candidates; see `without` for who goes as well."""
        c = self.candidates
        found = torch.from_numpy(np.stack([self.left[c.left], self.right[c.right]], 1))
        return self._only(~is_among(found, pairs).numpy())

    def flipped(self) -> Pool:
        """The same from right to left."""
        c = self.candidates
        order = np.lexsort((c.left, c.right))
        turned = Candidates(c.right[order], c.left[order], c.scores[order], c.num_right, c.num_left)
        return replace(
            self, left=self.right, right=self.left, candidates=turned, is_flipped=not self.is_flipped
        )

    def decoded(self, decoder: str) -> Matched:
        """What a decoder makes of the pool."""
        if not len(self.candidates.scores):
            nobody = np.empty(0, dtype=np.int64)
            nothing = np.empty((0, len(FEATURES) + len(self.evidence.names)))
            return Matched(self, self.candidates, nobody, nobody, nothing, True)
        matching = get_decoder(decoder).decode(self.candidates)
        plan = matching.plan or self.candidates
        left, right = self.left[matching.pairs[:, 0]], self.right[matching.pairs[:, 1]]
        key = plan.left * plan.num_right + plan.right
        places = np.searchsorted(key, matching.pairs[:, 0] * plan.num_right + matching.pairs[:, 1])
        features = self.features(plan, places, left, right)
        return Matched(self, plan, left, right, features, matching.converged)

    def features(
        self, scores: Candidates, places: np.ndarray, left: np.ndarray, right: np.ndarray
    ) -> np.ndarray:
        """Features [P, F] of the candidates at `places`, given matches of entities `left` and `right`."""
        a, b = self.left[scores.left[places]], self.right[scores.right[places]]
        matched = np.stack([left, right], 1)
        if self.is_flipped:
            a, b, matched = b, a, matched[:, ::-1]
        measures = self.evidence(a, b, np.concatenate([self.learned, matched]))
        return np.concatenate([match_features(scores, places), measures], 1)

    def _only(self, stays: np.ndarray) -> Pool:
        kept, left, right = self.candidates.only(stays)
        return replace(self, left=self.left[left], right=self.right[right], candidates=kept)


def find_pool(
    embedding: Embedding,
    left: Tensor,
    right: Tensor,
    learned: Tensor,
    evidence: Evidence,
    k: int,
    csls_k: int,
    backend: str = "auto",
) -> Pool:
    """The k best candidates, both ways, of entities `left` [n] and `right` [m], by an embedding learned from links."""
    csls_k = min(csls_k, len(left), len(right))
    rows = embedding.embed(torch.cat([left, right]))
    candidates = find_candidates(rows[: len(left)], rows[len(left) :], k, csls_k, backend)
    return Pool(left.numpy(), right.numpy(), candidates, learned.numpy(), embedding, evidence)


@dataclass(frozen=True)
class Matched:
    """Matches of a pool.

    Attributes:
        pool: what was matched.
        plan: the scores by which candidates rank, as the decoder left them.
        left: int64 [P], entities.
        right: int64 [P].
        features: [P, F] of the matches: `FEATURES`, then what the evidence names.
        converged: whether the decoder came to its end.
    """

    pool: Pool
    plan: Candidates
    left: np.ndarray
    right: np.ndarray
    features: np.ndarray
    converged: bool

    def nearest(self, side: int, entities: np.ndarray | None = None) -> np.ndarray:
        """Features [Q, F] of the best candidate of every entity of a side, or of those `entities` that are there."""
        candidates = self.pool.candidates
        if not len(candidates.scores):
            return np.empty((0, self.features.shape[1]))
        places = candidates.best_of_right() if side else candidates.best_of_left()
        if entities is not None:
            places = places[np.isin(self.pool.right if side else self.pool.left, entities)]
        return self.pool.features(candidates, places, self.left, self.right)


def match_features(candidates: Candidates, places: np.ndarray) -> np.ndarray:
    """What of the candidates at `places` tells whether they are right: [P, 4], as `FEATURES` names them.

    The score; by how much it is above the best other candidate of its left row, and of its right row, negative where
    another is better; and 1 where it is the best of both. Who has no other candidate gets the widest margin there is.
    """
    scores = candidates.scores.astype(np.float64)
    if not len(places):
        return np.empty((0, len(FEATURES)))
    margins = [
        _margins(scores, rows, count)[places]
        for rows, count in ((candidates.left, candidates.num_left), (candidates.right, candidates.num_right))
    ]
    mutual = (margins[0] >= 0) & (margins[1] >= 0)
    return np.stack([scores[places], *margins, mutual.astype(np.float64)], 1)


def _margins(scores: np.ndarray, rows: np.ndarray, count: int) -> np.ndarray:
    """Of every candidate its distance from the best other candidate of the same row."""
    order = np.lexsort((-scores, rows))
    starts = np.searchsorted(rows[order], np.arange(count + 1))
    best = scores[order[starts[:-1]]]
    several = np.diff(starts) > 1
    second = np.full(count, np.nan)
    second[several] = scores[order[starts[:-1][several] + 1]]
    first = np.zeros(len(scores), dtype=bool)
    first[order[starts[:-1]]] = True
    margin = scores - np.where(first, second[rows], best[rows])
    alone = np.isnan(margin)
    widest = margin[~alone].max() if not alone.all() else 0.0
    return np.where(alone, max(widest, 0.0), margin)
