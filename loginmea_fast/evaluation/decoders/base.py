"""What every decoder takes and gives: sparse scores over the union of both sides' best candidates, and matched pairs.

No matrix of all scores exists: a decoder sees the k best candidates of every entity, left to right and right to left,
and whatever lies outside of both lists is none of its candidates.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal, NamedTuple

import numpy as np
from torch import Tensor

from loginmea_fast import ops
from loginmea_fast.errors import ConfigError, InputError
from loginmea_fast.log import log

__all__ = [
    "Candidates",
    "Decoder",
    "Matching",
    "TopK",
    "check_number",
    "decoder_names",
    "find_candidates",
    "get_decoder",
    "register_decoder",
]


class TopK(NamedTuple):
    """The best candidates of every entity of one side: scores [n, k] and rows of the other side, int64 [n, k]."""

    scores: Tensor
    index: Tensor  # type: ignore[assignment]  # a tuple's `index` is no loss


@dataclass(frozen=True)
class Candidates:
    """Scores of pairs of rows, each pair once, by left row and then right row.

    Attributes:
        left: int64 [E].
        right: int64 [E].
        scores: floating point [E]; larger is better.
        num_left: n, rows of the left side; each has a candidate.
        num_right: m, rows of the right side; each has a candidate.
    """

    left: np.ndarray
    right: np.ndarray
    scores: np.ndarray
    num_left: int
    num_right: int

    @classmethod
    def from_topk(cls, to_right: TopK, to_left: TopK) -> Candidates:
        """The union of both sides' lists.

        Args:
            to_right: the best right rows of every left row, [n, k].
            to_left: the best left rows of every right row, [m, k'].

        Raises:
            InputError: an empty side, a score that is not finite, or a row that is not there.
        """
        sizes = len(to_right.index), len(to_left.index)
        parts = []
        for name, lists, count, other in (
            ("to_right", to_right, *sizes),
            ("to_left", to_left, *sizes[::-1]),
        ):
            scores, index = (t.cpu().numpy() for t in lists)
            if count == 0 or index.ndim != 2 or index.shape[1] == 0 or scores.shape != index.shape:
                raise InputError(
                    f"{name} must list at least one candidate for at least one row, scores and index [n, k] alike; "
                    f"got {list(scores.shape)} and {list(index.shape)}. A side without entities has nothing to decode"
                )
            if not np.isfinite(scores).all():
                row = int((~np.isfinite(scores)).any(1).argmax())
                raise InputError(
                    f"{name} holds a score that is not finite, in row {row}; check the embeddings"
                )
            if index.min() < 0 or index.max() >= other:
                raise InputError(
                    f"{name} must list rows 0 to {other - 1}; got {index.min()} to {index.max()}"
                )
            parts.append((np.repeat(np.arange(count), index.shape[1]), index.reshape(-1), scores.reshape(-1)))
        (a, b, first), (d, c, second) = parts
        key = np.concatenate([a, c]) * sizes[1] + np.concatenate([b, d])
        key, place = np.unique(key, return_index=True)
        left, right = np.divmod(key, sizes[1])
        return cls(left, right, np.concatenate([first, second])[place], *sizes)

    def with_scores(self, scores: np.ndarray) -> Candidates:
        """The same pairs with other scores [E]."""
        return Candidates(self.left, self.right, scores, self.num_left, self.num_right)

    def only(self, stays: np.ndarray) -> tuple[Candidates, np.ndarray, np.ndarray]:
        """The pairs that stay, bool [E], and of both sides the rows, int64, that still have one, as numbered here."""
        left, new_left = np.unique(self.left[stays], return_inverse=True)
        right, new_right = np.unique(self.right[stays], return_inverse=True)
        kept = Candidates(new_left, new_right, self.scores[stays], len(left), len(right))
        return kept, left, right

    @cached_property
    def starts(self) -> np.ndarray:
        """int64 [n + 1], where each left row begins."""
        return np.searchsorted(self.left, np.arange(self.num_left + 1))

    def best_of_left(self) -> np.ndarray:
        """int64 [n], the place in `scores` of each left row's best pair; of equal ones the first."""
        return _first_best(self.scores, self.left, self.num_left)

    def best_of_right(self) -> np.ndarray:
        """int64 [m], the same of each right row."""
        return _first_best(self.scores, self.right, self.num_right)

    def mutual(self, threshold: float = -np.inf) -> Matching:
        """Pairs that are the best of both their rows, with scores of at least `threshold`."""
        best = self.best_of_left()
        chosen = best[self.best_of_right()[self.right[best]] == best]
        return self.matching(chosen[self.scores[chosen] >= threshold])

    def matching(self, places: np.ndarray) -> Matching:
        """The pairs at these places as matched, by left row."""
        places = np.sort(places)
        pairs = np.stack([self.left[places], self.right[places]], 1)
        return Matching(pairs, self.scores[places], self.num_left)


@dataclass(frozen=True)
class Matching:
    """What a decoder makes of candidates.

    Attributes:
        pairs: int64 [P, 2], left and right rows that are matched, by left row.
        scores: [P], how good each is: a cosine, CSLS or a probability.
        plan: scores of all candidates by which they rank; None where a decoder only matches.
        num_left: n, rows of the left side, matched or not.
        converged: whether an iteration came to its end; the last iterate is given where it did not.
        iterations: how many there were; 0 without any.
    """

    pairs: np.ndarray
    scores: np.ndarray
    num_left: int
    plan: Candidates | None = None
    converged: bool = True
    iterations: int = 0

    def best(self, k: int) -> tuple[np.ndarray, np.ndarray]:
        """The k best right rows of every left row: scores [n, k] and rows [n, k].

        Without a plan these are the matched pairs alone. -infinity and -1 stand where there are none.
        """
        left, right, values = self.pairs[:, 0], self.pairs[:, 1], self.scores
        if self.plan is not None:
            left, right, values = self.plan.left, self.plan.right, self.plan.scores
        order = np.lexsort((-values, left))
        column = np.arange(len(order)) - np.searchsorted(left[order], left[order])
        order, column = order[column < k], column[column < k]
        scores = np.full((self.num_left, k), -np.inf, dtype=values.dtype)
        index = np.full((self.num_left, k), -1)
        scores[left[order], column], index[left[order], column] = values[order], right[order]
        return scores, index

    def above(self, threshold: float) -> Matching:
        """Without pairs that score below `threshold`: what is left out has no counterpart.

        Raises:
            InputError: a threshold that is no number.
        """
        kept = self.scores >= check_number("threshold", threshold)
        return replace(self, pairs=self.pairs[kept], scores=self.scores[kept])


@dataclass(frozen=True)
class Decoder:
    """A way from candidates to matches.

    Attributes:
        name: how the configuration calls it.
        decode: candidates -> matching.
        scores: what candidates it wants scored by.
        summary: one line for help.
    """

    name: str
    decode: Callable[[Candidates], Matching]
    scores: Literal["cosine", "csls"]
    summary: str

    def match(self, candidates: Candidates) -> Matching:
        """`decode`, with a warning where an iteration did not come to its end."""
        matching = self.decode(candidates)
        if not matching.converged:
            log.warning(
                "%s did not converge in %d iterations; its last iterate is taken",
                self.name,
                matching.iterations,
            )
        return matching


_DECODERS: dict[str, Decoder] = {}


def register_decoder(
    name: str, decode: Callable[[Candidates], Matching], scores: Literal["cosine", "csls"], summary: str
) -> None:
    """Make a decoder known by its name, to the configuration, to `decode` and to evaluation."""
    _DECODERS[name] = Decoder(name, decode, scores, summary)


def decoder_names() -> tuple[str, ...]:
    """Names of all decoders."""
    return tuple(_DECODERS)


def get_decoder(name: str, *, or_all: bool = False) -> Decoder:
    """The decoder called `name`.

    Args:
        name: of a decoder.
        or_all: whether the caller takes "all" as well, for the message.

    Raises:
        ConfigError: there is none.
    """
    if name not in _DECODERS:
        names = ", ".join([*_DECODERS, *(["all"] if or_all else [])])
        raise ConfigError(f"decoder must be one of {names}; got {name!r}", key="decoder")
    return _DECODERS[name]


def find_candidates(
    left: Tensor, right: Tensor, k: int = 100, csls_k: int = 0, backend: str = "auto"
) -> Candidates:
    """The k best candidates of every row, both ways, by cosine or CSLS.

    Args:
        left: [n, D].
        right: [m, D].
        k: candidates of each row; all of the other side where it has fewer.
        csls_k: neighbours of CSLS, at most as many as the smaller side has rows; 0 scores by cosine.
        backend: of the search.

    Raises:
        InputError: an empty side, a k below one, or embeddings that do not fit.
    """
    if len(left) == 0 or len(right) == 0:
        raise InputError(
            f"decoding needs entities on both sides; got {len(left)} on the left and {len(right)} on the right"
        )
    if not isinstance(k, int) or isinstance(k, bool) or k < 1:
        raise InputError(f"k must be a whole number of at least 1; got {k!r}")
    # Where the smaller side has no k rows, every row of the other lists all of them: nothing is lost.
    k = min(k, len(left), len(right))
    to_right, to_left = ops.alignment_topk_both(left, right, k, csls_k, backend=backend)
    return Candidates.from_topk(TopK(*to_right), TopK(*to_left))


def check_number(name: str, value: object) -> float:
    """The value of a setting, or `InputError` where it is no number."""
    if not isinstance(value, numbers.Real) or isinstance(value, bool) or math.isnan(value):
        raise InputError(f"{name} must be a number; got {value!r}")
    return float(value)


def _first_best(scores: np.ndarray, rows: np.ndarray, count: int) -> np.ndarray:
    order = np.lexsort((-scores, rows))  # stable: of equal scores the first stays first
    return order[np.searchsorted(rows[order], np.arange(count))]
