"""How sure a match is: calibrated on known links that the method did not see, and on entities made to have no partner.

An entity that is to be matched has a counterpart or has none, and known links say only how the first kind looks. Each
held-out link therefore counts twice: as it stands, and with its right entity taken out of the candidates, which makes
its left entity one without a counterpart, whose match is wrong whatever it is. What share of the entities have a
counterpart is estimated from how the entities without a known link look (`calibration.matchable_share`), and the two
kinds are weighted by it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from loginmea_fast.evaluation.calibration import Calibrator, Reliability, matchable_share, reliability
from loginmea_fast.runs.aligning.matching import Matched, Pool

__all__ = ["FEW", "Confidence", "Judged", "calibrate", "judge", "share_of_counterparts"]

FEW = 30  # held-out links below which a confidence is a rough guess
_FOLDS = 5


@dataclass(frozen=True)
class Judged:
    """Held-out links, matched as all others are by a method that does not know them, and judged.

    Attributes:
        features: [P, F] of the matches of their left entities.
        correct: bool [P].
        link: int64 [P], which held-out link a match is of.
        alone: [Q, F], features of the matches once the right entities are gone; all of them are wrong.
        alone_link: int64 [Q], which held-out link each is of.
        present_nearest: for both sides [B, F], of the nearest candidate of an entity with its counterpart there.
        absent_nearest: for both sides [B', F], the same with its counterpart gone.
        links: how many there are, matched or not.
    """

    features: np.ndarray
    correct: np.ndarray
    link: np.ndarray
    alone: np.ndarray
    alone_link: np.ndarray
    present_nearest: tuple[np.ndarray, np.ndarray]
    absent_nearest: tuple[np.ndarray, np.ndarray]
    links: int


def judge(pool: Pool, held: np.ndarray, decoder: str) -> Judged:
    """Match a pool in which held-out links [B, 2] are entities like any other, and judge their matches."""
    nobody = np.empty(0, dtype=np.int64)
    whole, lonely = pool.decoded(decoder), pool.without(nobody, held[:, 1]).decoded(decoder)
    # The other way only the nearest are looked at, which needs no matches of its own.
    lonely_back = replace(whole, pool=pool.without(held[:, 0], nobody))
    features, correct, link = _judged(whole, held)
    alone, _, alone_link = _judged(lonely, held)
    return Judged(
        features,
        correct,
        link,
        alone,
        alone_link,
        (whole.nearest(0, held[:, 0]), whole.nearest(1, held[:, 1])),
        (lonely.nearest(0, held[:, 0]), lonely_back.nearest(1, held[:, 1])),
        len(held),
    )


def _judged(found: Matched, held: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features of the matches of held-out left entities, which of them are right, and which links they are of."""
    left, right = found.left, found.right
    chosen = np.isin(left, held[:, 0])
    known = set(map(tuple, held.tolist()))
    correct = np.array(
        [pair in known for pair in zip(left[chosen].tolist(), right[chosen].tolist(), strict=True)],
        dtype=bool,
    )
    order = np.argsort(held[:, 0], kind="stable")
    link = order[np.searchsorted(held[order, 0], left[chosen])]
    return found.features[chosen], correct, link


@dataclass(frozen=True)
class Confidence:
    """What calibration found.

    Attributes:
        right: features of a match -> the probability that it is right.
        counterpart: for both sides, features of the nearest candidate -> the probability of having a counterpart, for
            an entity that has one as probably as not.
        shares: for both sides, the share of the entities without a known link that have a counterpart.
        links: held-out links that it rests on.
        reliability: of their matches, each judged by a calibration that did not see it.
        recalled: confidences of the held-out links that were matched rightly, judged likewise.
    """

    right: Calibrator
    counterpart: tuple[Calibrator, Calibrator]
    shares: tuple[float, float]
    links: int
    reliability: Reliability
    recalled: np.ndarray

    @property
    def rough(self) -> bool:
        """Whether so few links were held out that confidences are a rough guess."""
        return self.links < FEW

    def recall(self, threshold: float) -> float:
        """The share of the held-out links that are found with at least this confidence."""
        return float((self.recalled >= threshold).sum()) / max(self.links, 1)

    def without_counterpart(self, features: np.ndarray, side: int) -> np.ndarray:
        """The probability that entities have no counterpart, by the features [P, F] of their nearest candidates."""
        share = self.shares[side]
        present = share * (found := self.counterpart[side](features))
        absent = (1 - share) * (1 - found)
        return absent / np.maximum(present + absent, 1e-300)


def share_of_counterparts(judged: Judged, side: int, nearest: np.ndarray) -> tuple[Calibrator, float]:
    """What tells entities with a counterpart from those without, and the share of those behind `nearest` with one."""
    present, absent = judged.present_nearest[side], judged.absent_nearest[side]
    features = np.concatenate([present, absent])
    truth = np.arange(len(features)) < len(present)
    balance = np.where(truth, 1.0, len(present) / max(len(absent), 1))
    tells = Calibrator(features, truth, balance, isotonic=False)
    return tells, matchable_share(tells(nearest))


def calibrate(rounds: list[Judged], found: Matched) -> Confidence:
    """Calibrate on judged links, for matches of entities without a known link.

    Args:
        rounds: one for each method that was trained without some of the links; each link is judged in one.
        found: the matches.
    """
    judged = _joined(rounds)
    tells = [share_of_counterparts(judged, side, found.nearest(side)) for side in (0, 1)]
    share = tells[0][1]
    features = np.concatenate([judged.features, judged.alone])
    correct = np.concatenate([judged.correct, np.zeros(len(judged.alone), dtype=bool)])
    link = np.concatenate([judged.link, judged.alone_link])
    weights = np.concatenate([np.full(len(judged.features), share), np.full(len(judged.alone), 1 - share)])
    apart = _apart(features, correct, weights, link, judged.links)
    first = len(judged.features)
    return Confidence(
        Calibrator(features, correct, weights),
        (tells[0][0], tells[1][0]),
        (tells[0][1], tells[1][1]),
        judged.links,
        reliability(apart, correct, weights),
        apart[:first][judged.correct],
    )


def _apart(
    features: np.ndarray, correct: np.ndarray, weights: np.ndarray, link: np.ndarray, links: int
) -> np.ndarray:
    """Confidences of matches, each by a calibration on the others alone."""
    folds = min(_FOLDS, links)
    found = np.empty(len(features))
    if folds < 2:
        return Calibrator(features, correct, weights)(features)
    fold = (np.random.default_rng(0).permutation(links) % folds)[link]
    for number in range(folds):
        rest = fold != number
        found[~rest] = Calibrator(features[rest], correct[rest], weights[rest])(features[~rest])
    return found


def _joined(rounds: list[Judged]) -> Judged:
    offsets = np.cumsum([0, *(one.links for one in rounds)])
    shifted = list(zip(rounds, offsets, strict=False))

    def both(name: str) -> tuple[np.ndarray, np.ndarray]:
        left, right = (np.concatenate([getattr(one, name)[side] for one in rounds]) for side in (0, 1))
        return left, right

    return Judged(
        np.concatenate([one.features for one in rounds]),
        np.concatenate([one.correct for one in rounds]),
        np.concatenate([one.link + first for one, first in shifted]),
        np.concatenate([one.alone for one in rounds]),
        np.concatenate([one.alone_link + first for one, first in shifted]),
        both("present_nearest"),
        both("absent_nearest"),
        int(offsets[-1]),
    )
