"""How sure a match is: calibrated on known links that the method did not see, and on entities made to have no partner.

An entity that is to be matched has a counterpart or has none, and known links say only how the first kind looks. Each
held-out link therefore counts twice: as it stands, and with one of its entities taken out of the graphs before anything
is learned, which makes the other one without a counterpart, whose match is wrong whatever it is. Taking it out of the
candidates afterwards would not do: methods that learn from their own matches make the wrong ones of such entities look
right. What share of the entities have a counterpart is estimated from how the entities without a known link look
(`calibration.matchable_share`), and the two kinds are weighted by it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from loginmea_fast.evaluation.calibration import Calibrator, Reliability, matchable_share, reliability
from loginmea_fast.runs.aligning.matching import Matched, Pool

__all__ = [
    "FEW",
    "Confidence",
    "Judged",
    "apart_from_others",
    "calibrate",
    "judge",
    "judge_alone",
    "judge_run",
    "together",
]

FEW = 30  # held-out links below which a confidence is a rough guess
_FOLDS = 5
Sides = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Judged:
    """Held-out links, matched as all others are by a method that does not know them, and judged.

    Attributes:
        features: [P, F] of the matches of left entities whose counterpart is there.
        correct: bool [P].
        link: int64 [P], which held-out link a match is of.
        alone: [Q, F], features of the matches of left entities whose counterpart is gone; all of them are wrong.
        alone_link: int64 [Q], which held-out link each is of.
        nearest: for both sides [B, F], of the nearest candidate of an entity with its counterpart there.
        nearest_link: for both sides int64 [B].
        alone_nearest: for both sides [B', F], the same with its counterpart gone.
        alone_nearest_link: for both sides int64 [B'].
        links: int64, held-out links whose counterparts were there, matched or not.
        lonely: int64, held-out links whose right entity was gone, matched or not.
    """

    features: np.ndarray
    correct: np.ndarray
    link: np.ndarray
    alone: np.ndarray
    alone_link: np.ndarray
    nearest: Sides
    nearest_link: Sides
    alone_nearest: Sides
    alone_nearest_link: Sides
    links: np.ndarray
    lonely: np.ndarray


def judge(found: Matched, held: np.ndarray, number: np.ndarray) -> Judged:
    """Judge the matches of a pool in which held-out links are entities like any other.

    Args:
        found: the matches.
        held: int64 [B, 2].
        number: int64 [B], by which each is known in other rounds.
    """
    features, link = _matches_of(found, held[:, 0], number)
    chosen = np.isin(found.left, held[:, 0])
    known = set(map(tuple, held.tolist()))
    pairs = zip(found.left[chosen].tolist(), found.right[chosen].tolist(), strict=True)
    correct = np.array([pair in known for pair in pairs], dtype=bool)
    nearest = [_nearest_of(found, side, held[:, side], number) for side in (0, 1)]
    none = _nothing(found)
    return Judged(
        features,
        correct,
        link,
        *none,
        (nearest[0][0], nearest[1][0]),
        (nearest[0][1], nearest[1][1]),
        (none[0], none[0]),
        (none[1], none[1]),
        number,
        number[:0],
    )


def judge_alone(
    found: tuple[Matched, Matched],
    left: np.ndarray,
    right: np.ndarray,
    numbers: tuple[np.ndarray, np.ndarray],
) -> Judged:
    """Judge the matches of entities whose counterparts are gone.

    Args:
        found: matches of a pool without the counterparts of `left`, and of one without those of `right`.
        left: int64 [B], entities.
        right: int64 [B'].
        numbers: int64 [B] and [B'], of the links that they are of.
    """
    none = _nothing(found[0])
    nearest = [
        _nearest_of(found[side], side, entities, numbers[side]) for side, entities in enumerate((left, right))
    ]
    return Judged(
        none[0],
        none[1].astype(bool),
        none[1],
        *_matches_of(found[0], left, numbers[0]),
        (none[0], none[0]),
        (none[1], none[1]),
        (nearest[0][0], nearest[1][0]),
        (nearest[0][1], nearest[1][1]),
        none[1],
        numbers[0],
    )


def judge_run(pool: Pool, held: np.ndarray, decoder: str) -> Judged:
    """Judge held-out links [B, 2] both ways by one pool, where nothing can be learned anew: a run that is trained."""
    nobody = np.empty(0, dtype=np.int64)
    number = np.arange(len(held))
    whole, lonely = pool.decoded(decoder), pool.without(nobody, held[:, 1]).decoded(decoder)
    # The other way only the nearest are looked at, which needs no matches of its own.
    lonely_back = replace(whole, pool=pool.without(held[:, 0], nobody))
    alone = judge_alone((lonely, lonely_back), held[:, 0], held[:, 1], (number, number))
    return together([judge(whole, held, number), alone])


def together(rounds: list[Judged]) -> Judged:
    """All rounds as one."""

    def joined(name: str) -> np.ndarray:
        return np.concatenate([getattr(one, name) for one in rounds])

    def both(name: str) -> Sides:
        left, right = (np.concatenate([getattr(one, name)[side] for one in rounds]) for side in (0, 1))
        return left, right

    return Judged(
        joined("features"),
        joined("correct"),
        joined("link"),
        joined("alone"),
        joined("alone_link"),
        both("nearest"),
        both("nearest_link"),
        both("alone_nearest"),
        both("alone_nearest_link"),
        joined("links"),
        joined("lonely"),
    )


def _nothing(found: Matched) -> tuple[np.ndarray, np.ndarray]:
    return found.features[:0], np.empty(0, dtype=np.int64)


def _matches_of(found: Matched, left: np.ndarray, number: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Features of the matches of left entities, and which links they are of."""
    chosen = np.isin(found.left, left)
    return found.features[chosen], _numbers(left, number, found.left[chosen])


def _nearest_of(
    found: Matched, side: int, entities: np.ndarray, number: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Features of the nearest candidates of entities of a side that have any, and which links they are of."""
    own = found.pool.right if side else found.pool.left
    return found.nearest(side, entities), _numbers(entities, number, own[np.isin(own, entities)])


def _numbers(entities: np.ndarray, number: np.ndarray, of: np.ndarray) -> np.ndarray:
    if not len(of):
        return np.empty(0, dtype=np.int64)
    order = np.argsort(entities, kind="stable")
    found: np.ndarray = number[order[np.searchsorted(entities[order], of)]]
    return found


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
        known: confidences of all of their matches.
        weights: how many matches each of these stands for.
    """

    right: Calibrator
    counterpart: tuple[Calibrator, Calibrator]
    shares: tuple[float, float]
    links: int
    reliability: Reliability
    recalled: np.ndarray
    known: np.ndarray
    weights: np.ndarray

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
    present, absent = judged.nearest[side], judged.alone_nearest[side]
    features = np.concatenate([present, absent])
    truth = np.arange(len(features)) < len(present)
    balance = np.where(truth, 1.0, len(present) / max(len(absent), 1))
    link = np.concatenate([judged.nearest_link[side], judged.alone_nearest_link[side]])
    apart = apart_from_others(features, truth, balance, link, plain=True)
    tells = Calibrator(features, truth, balance, plain=True)
    return tells, matchable_share(tells(nearest), apart[truth], apart[~truth])


def calibrate(judged: Judged, found: Matched) -> Confidence:
    """Calibrate on judged links, for matches of entities without a known link.

    Args:
        judged: links held out, in all rounds together.
        found: the matches.
    """
    tells = [share_of_counterparts(judged, side, found.nearest(side)) for side in (0, 1)]
    share = tells[0][1]
    features = np.concatenate([judged.features, judged.alone])
    correct = np.concatenate([judged.correct, np.zeros(len(judged.alone), dtype=bool)])
    link = np.concatenate([judged.link, judged.alone_link])
    # As many as there are links, matched or not: both kinds may be left unmatched.
    present, absent = (
        part / max(len(own), 1) for part, own in ((share, judged.links), (1 - share, judged.lonely))
    )
    weights = np.concatenate([np.full(len(judged.features), present), np.full(len(judged.alone), absent)])
    weights *= len(judged.links)
    apart = apart_from_others(features, correct, weights, link)
    first = len(judged.features)
    return Confidence(
        Calibrator(features, correct, weights),
        (tells[0][0], tells[1][0]),
        (tells[0][1], tells[1][1]),
        len(judged.links),
        reliability(apart, correct, weights),
        apart[:first][judged.correct],
        apart,
        weights,
    )


def apart_from_others(
    features: np.ndarray,
    correct: np.ndarray,
    weights: np.ndarray,
    link: np.ndarray,
    plain: bool = False,
) -> np.ndarray:
    """Probabilities of matches, each by a calibration on those of other links alone."""
    links, place = np.unique(link, return_inverse=True)
    folds = min(_FOLDS, len(links))
    found = np.empty(len(features))
    if folds < 2:
        return Calibrator(features, correct, weights, plain)(features)
    fold = (np.random.default_rng(0).permutation(len(links)) % folds)[place]
    for number in range(folds):
        rest = fold != number
        found[~rest] = Calibrator(features[rest], correct[rest], weights[rest], plain)(features[~rest])
    return found
