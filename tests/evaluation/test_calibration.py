from __future__ import annotations

import numpy as np
import pytest

from loginmea_fast.errors import InputError
from loginmea_fast.evaluation.calibration import (
    Calibrator,
    lowest_threshold,
    matchable_share,
    reliability,
)
from loginmea_fast.evaluation.matches import match_metrics


def drawn(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features, the true probability of being right, and what came out."""
    generator = np.random.default_rng(seed)
    features = generator.normal(size=(count, 3))
    truth = 1 / (1 + np.exp(-2 * features[:, 0] + features[:, 1]))
    return features, truth, generator.random(count) < truth


@pytest.mark.parametrize("count", [200, 5000])
def test_probabilities_are_those_that_matches_were_drawn_by(count: int) -> None:
    features, _, correct = drawn(count)
    calibrator = Calibrator(features, correct)
    others, truth, came = drawn(20_000, seed=1)
    found = calibrator(others)
    assert np.abs(found - truth).mean() < (0.08 if count == 200 else 0.035)
    assert reliability(found, came).error < (0.06 if count == 200 else 0.02)


def test_a_forest_bends_what_a_line_cannot() -> None:
    generator = np.random.default_rng(0)
    score = generator.uniform(-3, 3, size=(5000, 1))
    truth = np.where(np.abs(score[:, 0]) > 1, 0.9, 0.2)
    came = generator.random(len(score)) < truth
    bent = np.abs(Calibrator(score, came)(score) - truth).mean()
    straight = np.abs(Calibrator(score, came, plain=True)(score) - truth).mean()
    assert bent < 0.1 < 0.2 < straight


def test_weights_stand_for_as_many_matches() -> None:
    features, _, correct = drawn(300)
    weights = np.arange(300) % 3
    repeated = np.repeat(np.arange(300), weights)
    found = Calibrator(features, correct, weights, plain=True)(features)
    other = Calibrator(features[repeated], correct[repeated], plain=True)
    # Features are scaled by the rows, which differ; the penalty is weak enough for that not to show.
    np.testing.assert_allclose(found, other(features), atol=5e-3)


@pytest.mark.parametrize("right", [True, False])
def test_few_matches_of_one_kind_make_nothing_certain(right: bool) -> None:
    found = Calibrator(np.zeros((3, 2)), np.full(3, right))(np.ones((2, 2)))
    assert found.tolist() == [0.8, 0.8] if right else [0.2, 0.2]
    assert Calibrator(np.empty((0, 2)), np.empty(0, dtype=bool))(np.ones((1, 2))).tolist() == [0.5]


def test_a_reliability_table_by_hand() -> None:
    table = reliability(np.array([0.95, 0.95, 0.92, 0.05, 1.0]), np.array([1, 1, 0, 0, 1], dtype=bool))
    assert [(entry["low"], entry["matches"]) for entry in table.bins] == [(0.0, 1), (0.9, 4)]
    assert table.bins[1]["precision"] == 0.75
    assert table.bins[1]["confidence"] == pytest.approx(0.955)
    assert table.error == pytest.approx((4 * 0.205 + 0.05) / 5)
    weighted = reliability(np.array([0.95, 0.92]), np.array([True, False]), np.array([3.0, 0.0]))
    assert weighted.error == pytest.approx(0.05)
    assert reliability(np.empty(0), np.empty(0, dtype=bool)).error == 0


@pytest.mark.parametrize(("confidence", "correct"), [([0.5], [True, False]), ([1.5], [True])])
def test_what_is_no_probability_is_refused(confidence: list[float], correct: list[bool]) -> None:
    with pytest.raises(InputError, match="confidence"):
        reliability(np.array(confidence), np.array(correct))


def test_the_threshold_is_the_lowest_with_the_expected_precision() -> None:
    confidence = np.array([0.99, 0.97, 0.9, 0.9, 0.6])
    assert lowest_threshold(confidence, 0.95) == 0.97  # both of 0.9, or neither: with both it is 0.94
    assert lowest_threshold(confidence, 0.94) == 0.9
    assert lowest_threshold(confidence, 0.5) == 0.6
    assert lowest_threshold(confidence, 0.995) == 0.995
    assert lowest_threshold(np.empty(0), 0.95) == 0.95
    with pytest.raises(InputError, match="precision"):
        lowest_threshold(confidence, 0)


def test_the_threshold_leaves_room_for_what_few_known_matches_may_get_wrong() -> None:
    confidence = np.linspace(1, 0.8, 101)
    plain = lowest_threshold(confidence, 0.95)
    few, many = (np.linspace(1, 0.5, count) for count in (60, 60_000))
    assert plain == pytest.approx(0.9)
    assert plain < lowest_threshold(confidence, 0.95, few) < 1
    assert lowest_threshold(confidence, 0.95, many) == pytest.approx(plain, abs=0.01)
    heavy = lowest_threshold(confidence, 0.95, few, np.full(60, 1000.0))
    assert heavy == pytest.approx(plain, abs=0.01), "a weight stands for as many matches"
    assert lowest_threshold(confidence, 0.95, np.empty(0)) == 0.95, "each match for itself"


def test_promised_precision_is_held_more_often_than_not() -> None:
    """Of 40 drawn worlds; without the margin about half of them fall short."""
    held = {False: 0, True: 0}
    for seed in range(40):
        features, _, correct = drawn(300, seed)
        others, truth, _ = drawn(5000, seed + 100)
        calibrator = Calibrator(features, correct)
        known, sure = calibrator(features), calibrator(others)
        for margin in held:
            threshold = lowest_threshold(sure, 0.8, known if margin else None)
            held[margin] += truth[sure >= threshold].mean() >= 0.8
    assert held[True] >= 30
    assert held[True] > held[False] + 4


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_the_share_of_entities_with_a_counterpart_is_found(share: float) -> None:
    generator = np.random.default_rng(0)
    half = 4000

    def score(has: np.ndarray) -> np.ndarray:
        return generator.normal(size=len(has)) + np.where(has, 1.0, -1.0)

    has = np.arange(2 * half) < half
    tells = Calibrator(score(has)[:, None], has, plain=True)
    wild = generator.random(10_000) < share
    for distort in (lambda p: p, np.sqrt):  # the classifier need not be calibrated
        said, seen = distort(tells(score(wild)[:, None])), distort(tells(score(has)[:, None]))
        assert matchable_share(said, seen[has], seen[~has]) == pytest.approx(share, abs=0.03)


def test_without_entities_or_a_difference_all_have_a_counterpart() -> None:
    nobody, some = np.empty(0), np.full(3, 0.4)
    assert matchable_share(nobody, some, some) == 1
    assert matchable_share(some, some, nobody) == 1
    assert matchable_share(some, some, some) == 1


def test_only_matches_of_known_entities_are_judged() -> None:
    matches = [("a", "x"), ("b", "y"), ("c", "z"), ("d", "u")]
    gold = [("a", "x"), ("b", "w"), ("e", "z")]
    found = match_metrics(matches, gold, [0.95, 0.6, 0.4, 0.1])
    assert (found["matches"], found["judged"], found["right"], found["links"]) == (4, 3, 1, 3)
    assert found["precision"] == found["recall"] == pytest.approx(1 / 3)
    above = {entry["threshold"]: entry for entry in found["curve"]}
    assert above[0.5]["precision"] == 0.5
    assert above[0.9]["precision"] == 1
    assert above[0.99] == {
        "threshold": 0.99,
        "matches": 0,
        "judged": 0,
        "right": 0,
        "precision": 0.0,
        "recall": 0.0,
        "f1": 0.0,
    }
    assert found["calibration"]["matches"] == 3
    with pytest.raises(InputError, match="known links"):
        match_metrics(matches, [])


@pytest.mark.parametrize(("held_out", "asked"), [(50, 0.975), (250, 0.963)])
def test_the_margin_that_docs_tell(held_out: int, asked: float) -> None:
    known = np.full(held_out, 0.999)
    for mean, accepted in ((asked, True), (asked - 0.002, False)):
        threshold = lowest_threshold(np.full(10, mean), 0.95, known)
        assert (threshold == mean) == accepted
