"""Confidence that can be believed: probabilities from scores, by matches whose truth is known, and how good they are.

Logistic regression and a random forest over a few features, the mean of the two, for one bends too little and the other
too much; over it, of matches that it did not learn from, Platt's sigmoid (1999). Of matches said to be 0.9 sure nine in
ten should be right: the reliability table and the expected calibration error (Naeini et al., AAAI 2015) say how nearly
that is so.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from loginmea_fast.errors import InputError

__all__ = ["Calibrator", "Reliability", "lowest_threshold", "matchable_share", "reliability"]

_ENOUGH = 100  # matches from which forest and sigmoid are worth their freedom
_TREES = 100
_LEAF = 8  # matches in a leaf of a tree
_FOLDS = 5
_BINS = 10


@dataclass(frozen=True)
class Reliability:
    """What matches of a confidence were worth.

    Attributes:
        bins: one entry a bin that holds a match: `low`, `high`, `matches`, mean `confidence`, and the share that is
            right, `precision`.
        error: expected calibration error: the mean distance of confidence and precision over the bins, by how many
            matches each holds.
        matches: how many there are.
    """

    bins: tuple[dict[str, float], ...]
    error: float
    matches: int

    def as_dict(self) -> dict[str, Any]:
        """The same, JSON-ready."""
        return {"matches": self.matches, "error": self.error, "bins": list(self.bins)}


def reliability(
    confidence: np.ndarray, correct: np.ndarray, weights: np.ndarray | None = None, bins: int = _BINS
) -> Reliability:
    """The reliability table of matches.

    Args:
        confidence: [P], from 0 to 1.
        correct: bool [P].
        weights: [P], how many matches each stands for; 1 by default.
        bins: of equal width.

    Raises:
        InputError: other numbers of confidences and flags, or a confidence outside 0 to 1.
    """
    confidence, correct = np.asarray(confidence, dtype=np.float64), np.asarray(correct, dtype=bool)
    if confidence.shape != correct.shape or confidence.ndim != 1:
        raise InputError(
            f"reliability needs a confidence and a flag a match; got {list(confidence.shape)} and {list(correct.shape)}"
        )
    if len(confidence) and not (confidence.min() >= 0 and confidence.max() <= 1):
        raise InputError("a confidence must be from 0 to 1; give probabilities, not scores")
    weight = np.ones(len(confidence)) if weights is None else np.asarray(weights, dtype=np.float64)
    place = np.minimum((confidence * bins).astype(np.int64), bins - 1)
    entries, error, total = [], 0.0, max(float(weight.sum()), 1e-300)
    for number in range(bins):
        here = (place == number) & (weight > 0)
        if not here.any():
            continue
        mass = float(weight[here].sum())
        said, right = (float((values[here] * weight[here]).sum() / mass) for values in (confidence, correct))
        error += mass / total * abs(said - right)
        entries.append(
            {
                "low": number / bins,
                "high": (number + 1) / bins,
                "matches": int(here.sum()),
                "confidence": said,
                "precision": right,
            }
        )
    return Reliability(tuple(entries), error, len(confidence))


class Calibrator:
    """The probability that a match is right, from its features.

    Args:
        features: [P, F] of matches whose truth is known, finite.
        correct: bool [P], which of them are right.
        weights: [P], how many matches each stands for; 1 by default.
        plain: logistic regression alone, as with fewer than 100 matches: else a forest stands beside it, and a sigmoid
            corrects their mean by matches that it was not learned from.
    """

    def __init__(
        self,
        features: np.ndarray,
        correct: np.ndarray,
        weights: np.ndarray | None = None,
        plain: bool = False,
    ) -> None:
        weight = np.ones(len(features)) if weights is None else np.asarray(weights, dtype=np.float64)
        there = weight > 0
        features, correct, weight = features[there], np.asarray(correct, dtype=bool)[there], weight[there]
        self._constant: float | None = None
        self._sigmoid: Any = None
        if len(features) == 0 or correct.all() or not correct.any():
            # Nothing to tell apart: Laplace's rule of succession, by which no few matches make certain.
            self._constant = (float(weight[correct].sum()) + 1) / (float(weight.sum()) + 2)
            return
        wide = not plain and len(features) >= _ENOUGH
        self._mean = _Mean(features, correct, weight, wide)
        if not wide:
            return
        # By probabilities that each match had no part in, else what was overfitted is taken for certain.
        apart = np.empty(len(features))
        fold = np.random.default_rng(0).permutation(len(features)) % _FOLDS
        for number in range(_FOLDS):
            rest = fold != number
            if correct[rest].all() or not correct[rest].any():
                return
            apart[~rest] = _Mean(features[rest], correct[rest], weight[rest], wide)(features[~rest])
        from sklearn.linear_model import LogisticRegression

        self._sigmoid = LogisticRegression(C=1e3).fit(_logit(apart), correct, sample_weight=weight)

    def __call__(self, features: np.ndarray) -> np.ndarray:
        """Probabilities [P] of features [P, F]."""
        if self._constant is not None:
            return np.full(len(features), self._constant)
        if len(features) == 0:
            return np.empty(0)
        found = self._mean(features)
        return found if self._sigmoid is None else _second(self._sigmoid.predict_proba(_logit(found)))


class _Mean:
    """The mean of logistic regression and, if `wide`, a random forest; of matches right and wrong."""

    def __init__(self, features: np.ndarray, correct: np.ndarray, weight: np.ndarray, wide: bool) -> None:
        from sklearn.ensemble import RandomForestClassifier
        from sklearn.linear_model import LogisticRegression

        self._centre, self._spread = features.mean(0), np.maximum(features.std(0), 1e-9)
        self._models: list[Any] = [LogisticRegression(C=1.0, max_iter=1000)]
        if wide:
            self._models.append(
                RandomForestClassifier(_TREES, min_samples_leaf=_LEAF, max_features=0.5, random_state=0)
            )
        for model in self._models:
            model.fit(self._scaled(features), correct, sample_weight=weight)

    def __call__(self, features: np.ndarray) -> np.ndarray:
        scaled = self._scaled(features)
        found: np.ndarray = np.mean([_second(model.predict_proba(scaled)) for model in self._models], axis=0)
        return found

    def _scaled(self, features: np.ndarray) -> np.ndarray:
        return (features - self._centre) / self._spread


def _second(columns: np.ndarray) -> np.ndarray:
    return columns[:, 1]


def _logit(probability: np.ndarray) -> np.ndarray:
    bounded = np.clip(probability, 1e-6, 1 - 1e-6)
    found: np.ndarray = np.log(bounded / (1 - bounded))[:, None]
    return found


def lowest_threshold(
    confidence: np.ndarray,
    precision: float,
    known: np.ndarray | None = None,
    weights: np.ndarray | None = None,
) -> float:
    """The lowest confidence at which the matches that are at least as sure are right to `precision`, as expected.

    The expected precision of matches is the mean m of their confidences. It rests on the known matches that are as
    sure, n of them, and may therefore be too high as well as too low: where they are given, `precision` is to be
    reached even if it is one standard error too high, the root of (m (1 - m) + 1 / (4 n)) / n (as in Wilson's interval,
    1927).

    Args:
        confidence: [P] of all matches.
        precision: wanted, above 0 and up to 1.
        known: [K], confidences of the matches that the confidences rest on; None asks for no margin.
        weights: [K], how many matches each of these stands for; 1 by default.

    Returns:
        A confidence; where there is no such, `precision` itself: each match that is as sure is right to it.

    Raises:
        InputError: a precision outside its range.
    """
    if not 0 < precision <= 1:
        raise InputError(f"the precision must be above 0 and at most 1; got {precision!r}")
    order = np.sort(np.asarray(confidence, dtype=np.float64))[::-1]
    last = np.append(order[1:] != order[:-1], True) if len(order) else np.empty(0, dtype=bool)
    expected = np.cumsum(order) / np.arange(1, len(order) + 1)
    if known is not None:
        weight = np.ones(len(known)) if weights is None else np.asarray(weights, dtype=np.float64)
        rising = np.argsort(known, kind="stable")
        above = np.append(np.cumsum(weight[rising][::-1])[::-1], 0.0)  # of the known ones from each place on
        count = np.maximum(above[np.searchsorted(known[rising], order)], 1.0)
        expected -= np.sqrt((expected * (1 - expected) + 0.25 / count) / count)
    enough = np.flatnonzero(last & (expected >= precision))
    return float(order[enough[-1]]) if len(enough) else float(precision)


def matchable_share(probability: np.ndarray, with_counterpart: np.ndarray, without: np.ndarray) -> float:
    """The share of entities that have a counterpart, from a classifier and what it says of entities of either kind.

    If entities of a kind look here as they do where their kind is known, the mean of what the classifier says is that
    of the two kinds, weighted by the share: the adjusted count of probabilities (Bella et al., ICDM 2010). It asks no
    calibration of the classifier, unlike maximisation of a likelihood, which few examples lead astray.

    Args:
        probability: [P], of having a counterpart, by the classifier.
        with_counterpart: [B], the same of entities that have one, by classifiers that did not learn from them.
        without: [B'], the same of entities that have none.

    Returns:
        From 0 to 1; 1 where there are no entities, or nothing that tells the kinds apart.
    """
    if not (len(probability) and len(with_counterpart) and len(without)):
        return 1.0
    low, high = float(without.mean()), float(with_counterpart.mean())
    return float(np.clip((probability.mean() - low) / (high - low), 0, 1)) if high > low else 1.0
