from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

import loginmea_fast as lf
from loginmea_fast.data import AlignmentPair
from loginmea_fast.data.sketch import sketch
from loginmea_fast.data.values import value_feature
from loginmea_fast.errors import ConfigError, DataError, InputError
from loginmea_fast.evaluation.decoders import Candidates
from loginmea_fast.runs.aligning import methods
from loginmea_fast.runs.aligning.matching import match_features
from tests.training.synthetic import synthetic_pair, with_values

SMALL = {"propagation_width": 128, "backend": "reference"}


@pytest.fixture(scope="module")
def pair() -> AlignmentPair:
    """600 entities a side, graph alone."""
    whole = synthetic_pair(600, degree=5, relations=12)
    return replace(whole, features={})


@pytest.fixture(scope="module")
def found(pair: AlignmentPair) -> lf.Alignment:
    return lf.align(pair, method="propagate", seeds=pair.links[:200], **SMALL)


def test_matches_are_right_and_confidence_says_so(pair: AlignmentPair, found: lf.Alignment) -> None:
    assert found.measured is not None
    assert found.measured["precision"] > 0.9
    assert found.measured["recall"] > 0.5
    assert found.measured["calibration_error"] < 0.1
    assert found.held_out == 200
    assert len(found.known) == 200
    assert len(found.withheld) == 400
    assert found.expected_precision >= 0.95


def test_columns_are_of_one_length_the_surest_first(found: lf.Alignment) -> None:
    count = len(found.left)
    assert len(set(found.left.tolist())) == len(set(found.right.tolist())) == count, "one to one"
    for column in (found.right, found.score, found.margin, found.mutual, found.confidence):
        assert len(column) == count
    assert bool((found.confidence.diff() <= 0).all())
    assert bool(((found.confidence >= 0) & (found.confidence <= 1)).all())
    assert len(found) == int((found.confidence >= found.threshold).sum())


def test_known_entities_are_not_matched_again(found: lf.Alignment) -> None:
    for side, entities in ((0, found.left), (1, found.right)):
        assert not torch.isin(entities, found.known[:, side]).any()
        assert not torch.isin(found.unmatched, found.known[:, side]).any()
    assert not torch.isin(found.candidates.match, found.known[:, 1]).any()


def test_who_is_matched_is_not_called_unmatched(found: lf.Alignment) -> None:
    kept = found.accepted
    assert not torch.isin(found.unmatched, torch.cat([found.left[kept], found.right[kept]])).any()


def test_it_repeats(pair: AlignmentPair, found: lf.Alignment) -> None:
    again = lf.align(pair, method="propagate", seeds=pair.links[:200], **SMALL)
    assert torch.equal(again.left, found.left)
    assert torch.equal(again.confidence, found.confidence)


def test_the_other_direction(pair: AlignmentPair, found: lf.Alignment) -> None:
    back = lf.align(pair, method="propagate", seeds=pair.links[:200], direction="right_to_left", **SMALL)
    assert torch.isin(back.left, pair.left_entities).all()
    assert torch.isin(back.right, pair.right_entities).all()
    assert torch.isin(back.candidates.entity, pair.right_entities).all()
    here, there = (
        set(zip(a.left[a.accepted].tolist(), a.right[a.accepted].tolist(), strict=True))
        for a in (found, back)
    )
    assert len(here & there) > 0.9 * min(len(here), len(there))


@pytest.mark.parametrize("decoder", ["csls", "mutual", "sinkhorn"])
def test_other_decoders(pair: AlignmentPair, decoder: str) -> None:
    found = lf.align(pair, method="propagate", seeds=pair.links[:200], decoder=decoder, **SMALL)
    assert found.measured is not None
    assert found.measured["precision"] > 0.85
    if decoder == "mutual":
        assert bool(found.mutual.all())
    if decoder == "csls":
        assert len(found.left) == 400


def test_a_higher_precision_accepts_less(pair: AlignmentPair, found: lf.Alignment) -> None:
    strict = lf.align(pair, method="propagate", seeds=pair.links[:200], precision=0.9999, **SMALL)
    assert strict.threshold > found.threshold
    assert len(strict) < len(found)


def test_entities_without_a_counterpart_are_found() -> None:
    """Half of graph 1 has none: its partners are taken out of graph 2."""
    whole = replace(synthetic_pair(800, degree=6, relations=12), features={})
    lost = whole.links[400:, 1]
    stays = ~torch.isin(torch.arange(whole.num_entities), lost)
    new = stays.cumsum(0) - 1
    kept = stays[whole.triples[:, 0]] & stays[whole.triples[:, 2]]
    triples = whole.triples[kept].clone()
    triples[:, 0], triples[:, 2] = new[triples[:, 0]], new[triples[:, 2]]
    links = whole.links[:400].clone()
    links[:, 1] = new[links[:, 1]]
    names = [f"e{i}" for i in range(int(stays.sum()))]
    pair = replace(
        whole,
        uris=names,
        names=names,
        right_entities=torch.arange(800, 1200),
        triples=triples,
        num_left_triples=int((triples[:, 0] < 800).sum()),
        links=links,
    )
    found = lf.align(pair, method="propagate", seeds=links[:200], **SMALL)
    assert found.measured is not None
    assert found.measured["precision"] > 0.9
    assert found.counterparts[0] == pytest.approx(1 / 3, abs=0.1)
    assert found.counterparts[1] > 0.9
    dangling = torch.arange(400, 800)
    judged = found.unmatched[found.unmatched < 800]
    right = int(torch.isin(judged, dangling).sum())
    assert right / len(judged) > 0.85
    assert right / len(dangling) > 0.5


def test_few_links_are_all_held_out_in_turn_and_said_to_be_few(pair: AlignmentPair) -> None:
    found = lf.align(pair, method="propagate", seeds=pair.links[:20], pivots=False, **SMALL)
    assert found.held_out == 20
    assert any("rough guess" in note for note in found.notes)
    assert not any("--folds" in note for note in found.notes)
    trained = synthetic_pair(400, degree=5, relations=12)
    quick = {"epochs": 1, "rounds": 0, "hidden_dim": 8, "propagation": "none", "progress": False}
    one = lf.align(trained, seeds=trained.links[:40], **quick)
    assert one.held_out == 8
    assert any("--folds 5 (folds=5) holds each of the 40 known links out once" in note for note in one.notes)
    some = lf.align(pair, method="propagate", seeds=pair.links[:60], **SMALL)
    assert some.held_out == 60
    assert not some.notes


def test_a_single_link_gives_no_confidence_but_an_answer(pair: AlignmentPair) -> None:
    found = lf.align(pair, method="propagate", seeds=pair.links[:1], pivots=False, **SMALL)
    assert found.held_out == 0
    assert np.isnan(found.expected_recall)
    assert any("0 held-out links" in note for note in found.notes)


def test_the_model_is_trained_without_the_links_that_calibrate() -> None:
    pair = synthetic_pair(120, degree=5)
    found = lf.align(
        pair, seeds=pair.links[:80], epochs=15, hidden_dim=16, rank=2, backend="reference", progress=False
    )
    assert found.method == "model"
    assert found.held_out == 16
    assert len(found.withheld) == 40
    assert found.evidence.keys() == {"neighbors", "relation", "image"}
    assert found.shares.keys() == {"graph", "relation", "image", "labels"}
    torch.testing.assert_close(sum(found.shares.values()), torch.ones(len(found.left), dtype=torch.float64))
    crossed = lf.align(
        pair,
        seeds=pair.links[:80],
        folds=2,
        epochs=2,
        hidden_dim=8,
        rank=2,
        backend="reference",
        progress=False,
    )
    assert crossed.held_out == 80


def test_a_run_calibrates_by_its_validation_links_and_measures_its_test_links(tmp_path) -> None:
    pair = synthetic_pair(120, degree=5)
    settings = {"epochs": 10, "hidden_dim": 16, "rank": 2, "backend": "reference", "valid_ratio": 0.4}
    result = lf.fit(pair, seed_ratio=0.5, out=tmp_path / "run", progress=False, **settings)
    found = lf.align(result)
    assert found.held_out == len(result.problem.split.valid) == 24
    assert len(found.withheld) == 60
    assert any("which also chose its epoch" in note for note in found.notes)
    loaded = lf.align(lf.runs.load_run(tmp_path / "run", pair))
    assert torch.equal(loaded.left, found.left)
    with pytest.raises(ConfigError, match="leave seeds"):
        lf.align(result, seeds=pair.links[:3])


def test_a_share_of_the_links_may_be_the_known_ones(pair: AlignmentPair) -> None:
    found = lf.align(pair, method="propagate", seed_ratio=0.25, **SMALL)
    assert len(found.known) == 150
    assert len(found.withheld) == 450


def test_margins_by_hand() -> None:
    candidates = Candidates(
        np.array([0, 0, 1, 2]), np.array([0, 1, 0, 1]), np.array([0.9, 0.4, 0.8, 0.7]), 3, 2
    )
    features = match_features(candidates, np.arange(4))
    np.testing.assert_allclose(features[:, 0], candidates.scores)
    np.testing.assert_allclose(
        features[:, 1], [0.5, -0.5, 0.5, 0.5]
    )  # who has one candidate: the widest there is
    np.testing.assert_allclose(features[:, 2], [0.1, -0.3, -0.1, 0.3])
    assert features[:, 3].tolist() == [1, 0, 0, 1]


def test_nothing_to_learn_from_or_to_align(pair: AlignmentPair) -> None:
    with pytest.raises(DataError, match="no known link"):
        lf.align(replace(pair, links=pair.links[:0]), method="propagate", pivots=False, **SMALL)
    with pytest.raises(DataError, match="nothing is left to align"):
        lf.align(pair, method="propagate", **SMALL)
    with pytest.raises(InputError, match="must have an entity of graph 1"):
        lf.align(pair, method="propagate", seeds=pair.links[:5].flip(1), **SMALL)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"method": "magic"}, "method must be one of"),
        ({"decoder": "magic"}, "decoder must be one of"),
        ({"direction": "up"}, "direction must be one of"),
        ({"precision": 0}, "precision must be above 0"),
        ({"k": 0}, r"k \(--candidates\) must be a whole number"),
        ({"epoch": 3}, "epoch"),
        ({"method": "propagate", "modalities": ["smell"]}, "no modality 'smell'"),
    ],
)
def test_wrong_arguments(pair: AlignmentPair, wrong: dict, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        lf.align(pair, **wrong)


def test_the_report_is_json(found: lf.Alignment) -> None:
    report = json.loads(json.dumps(found.report(), allow_nan=False))
    assert report["matches"] == len(found)
    assert report["known_links"] == 200


def test_links_that_an_official_split_tests_by_are_not_learned_from(pair: AlignmentPair) -> None:
    split = lf.data.Split(pair.links[:150], pair.links[150:200], pair.links[200:])
    found = lf.align(replace(pair, official_split=split), method="propagate", **SMALL)
    assert len(found.known) == 200
    assert len(found.withheld) == 400


def test_tables_of_rows_are_aligned_by_what_the_rows_say() -> None:
    """No triples and two known pairs: neither labels to propagate nor links to weigh modalities by."""
    names = ["Café Central", "Hotel Sacher", "Naschmarkt", "Prater", "Schönbrunn", "Stephansdom"]
    sides = [
        [(f"{side}{i}", "name", f"{name}{more}") for i, name in enumerate(names)]
        for side, more in (("m", ""), ("t", " Wien"))
    ]
    pair = AlignmentPair.from_labeled_triples(
        None, None, [("m0", "t0"), ("m1", "t1")], attributes=tuple(sides)
    )
    found = lf.align(pair, method="propagate", progress=False, **SMALL)
    columns = found.columns(every=True)
    assert len(found.left) >= 4
    assert all(a[1:] == b[1:] for a, b in zip(columns["left"], columns["right"], strict=True))
    with pytest.raises(DataError, match="neither triples nor names nor values"):
        lf.align(pair.with_features({}), method="propagate", pivots=False, progress=False, **SMALL)


def test_values_are_weighed_by_links_that_have_not_taught_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """What links have taught would look better on these than it is; what entities are matched by is of them all."""
    plain = synthetic_pair()
    links = plain.links[:30]
    pair = with_values(plain, links[:6])
    by_all, by_others, by_none = (
        sketch(value_feature(pair.values, 80, known)[0]) for known in (links, links[6:], links[:0])
    )
    assert torch.equal(by_others, by_none)
    assert not torch.equal(by_others, by_all), "those held out alone teach anything"
    weighed = []

    def watched(labels, beside, pair, chosen, *rest):
        weighed.append((chosen, beside[0][0]))
        return [1.0]

    monkeypatch.setattr(methods, "weights_by_links", watched)
    config = lf.Config.build(SMALL, modalities=["value"])
    found = methods.embed_by("propagate", config, False)(pair, links)
    ((chosen, rows),) = weighed
    assert torch.equal(chosen, links[:6])
    assert torch.equal(rows, by_others)
    part = found.rows[:, -by_all.shape[1] :]
    torch.testing.assert_close(torch.nn.functional.normalize(part, dim=1), by_all)
