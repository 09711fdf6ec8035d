"""Entities without a counterpart: a threshold below which a match is none.

Most graphs hold entities that the other does not. `Matching.above` leaves out what scores below a threshold; the one to
take is learned here from matches whose truth is known, those of validation links.
"""

from __future__ import annotations

import numpy as np

from loginmea_fast.errors import InputError

__all__ = ["best_threshold"]


def best_threshold(scores: np.ndarray, correct: np.ndarray, partners: int | None = None) -> float:
    """The threshold with the largest F1.

    Args:
        scores: [P] of matched pairs.
        correct: bool [P], which of them are right.
        partners: entities that have a partner, matched rightly or not; P by default.

    Returns:
        A score: pairs of at least that are kept. Of equally good ones the lowest, which keeps most.

    Raises:
        InputError: no pairs, other numbers of scores and flags, or a score that is not finite.
    """
    scores, correct = np.asarray(scores, dtype=np.float64), np.asarray(correct, dtype=bool)
    if scores.shape != correct.shape or scores.ndim != 1 or len(scores) == 0:
        raise InputError(
            f"a threshold needs scores and flags of the same pairs, at least one; got {list(scores.shape)} and "
            f"{list(correct.shape)}"
        )
    if not np.isfinite(scores).all():
        row = int((~np.isfinite(scores)).argmax())
        raise InputError(f"a threshold needs finite scores; got {scores[row]} in row {row}")
    order = np.argsort(-scores, kind="stable")
    kept, right = np.arange(1, len(scores) + 1), correct[order].cumsum()
    f1 = 2 * right / (kept + (len(scores) if partners is None else partners))
    last = np.append(scores[order][1:] != scores[order][:-1], True)  # equal scores stay together
    f1 = np.where(last, f1, -1.0)
    best = np.flatnonzero(f1 == f1.max())[-1]
    return float(scores[order][best])
