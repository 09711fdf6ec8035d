from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

import loginmea_fast as lf
from loginmea_fast.data import AlignmentPair
from loginmea_fast.errors import DataError
from loginmea_fast.runs.aligning.pivots import find_pivots, normal_name, weigh_pivots
from tests.training.synthetic import synthetic_pair

SMALL = {"propagation_width": 128, "backend": "reference"}


def labeled(left: dict[str, str], right: dict[str, str], values: tuple = (None, None)) -> AlignmentPair:
    """Entities with names, by label."""
    return AlignmentPair.from_labeled_triples(
        [(entity, "near", next(iter(left))) for entity in left],
        [(entity, "near", next(iter(right))) for entity in right],
        attributes=tuple(
            [(entity, "label", name) for entity, name in side.items()] + list(more or ())
            for side, more in zip((left, right), values, strict=True)
        ),
        modalities=(),
    )


def found(pair: AlignmentPair) -> set[tuple[str, str]]:
    return {(pair.uris[a], pair.uris[b]) for a, b in find_pivots(pair).links.tolist()}


@pytest.mark.parametrize(
    ("name", "normal"),
    [
        ("Zürich", "zurich"),
        ("ZURICH ", "zurich"),
        ("St.-Gallen (Kanton)", "st gallen kanton"),
        ("A", ""),
        ("...", ""),
        ("ﬁsh", "fish"),
        ("東京都", "東京都"),
    ],
)
def test_names_without_spelling(name: str, normal: str) -> None:
    assert normal_name(name) == normal


def test_equal_names_that_are_unique_on_both_sides() -> None:
    pair = labeled(
        {"a1": "Zürich", "a2": "Paris", "a3": "Paris", "a4": "Rome", "a5": "X"},
        {"b1": "zurich", "b2": "Paris", "b3": "Oslo", "b4": "rome", "b5": "X"},
    )
    assert found(pair) == {("a1", "b1"), ("a4", "b4")}
    assert find_pivots(pair).counts["equal names"] == 2


def test_attributes_that_identify() -> None:
    codes = [f"C{n:03}" for n in range(30)]
    left = {f"a{n}": f"left {n}" for n in range(30)}
    right = {f"b{n}": f"right {n}" for n in range(30)}
    values = (
        [(f"a{n}", "iso", code) for n, code in enumerate(codes)]
        + [(f"a{n}", "kind", "country") for n in range(30)],
        [(f"b{29 - n}", "code", code.lower()) for n, code in enumerate(codes)]
        + [(f"b{n}", "kind", "country") for n in range(30)],
    )
    pair = labeled(left, right, values)
    assert found(pair) == {(f"a{n}", f"b{29 - n}") for n in range(30)}
    assert find_pivots(pair).counts["identifier iso = code"] == 30


def test_sources_that_contradict_each_other_give_none() -> None:
    codes = [f"C{n:03}" for n in range(30)]
    left = {f"a{n}": f"name {n}" for n in range(30)}
    right = {f"b{n}": f"name {n}" for n in range(30)}
    values = (
        [(f"a{n}", "iso", code) for n, code in enumerate(codes)],
        [(f"b{n ^ 1 if n < 2 else n}", "code", code) for n, code in enumerate(codes)],
    )
    assert found(labeled(left, right, values)) == {(f"a{n}", f"b{n}") for n in range(2, 30)}


def test_the_same_identifier_but_no_mere_number() -> None:
    pair = labeled({"http://x/1": "one", "7": "two"}, {"https://x/1": "eins", "7": "zwei"})
    assert found(pair) == {("http://x/1", "https://x/1")}


@pytest.mark.parametrize("share", [0.7, 0.9, 1.0])
def test_pivots_are_weighed_by_what_a_method_says_that_does_not_know_them(share: float) -> None:
    generator = np.random.default_rng(0)
    right = generator.random(20_000) < share
    probability = generator.random(20_000) ** 0.2  # that the method is right: near one for many
    agrees = right & (generator.random(20_000) < probability)
    found, trust = weigh_pivots(agrees, share * probability)
    assert trust == pytest.approx(share, abs=0.05)
    assert found.mean() == pytest.approx(share, abs=0.08)
    if share < 1:
        assert found[right].mean() > found[~right].mean() + 0.4


def test_what_contradicts_a_pivot_counts_by_how_sure_it_is() -> None:
    agrees = np.array([True] * 50 + [False] * 3)
    found, _ = weigh_pivots(agrees, np.array([0.96] * 50 + [0.95, 0.5, 0.0]))
    assert found[0] > 0.99
    assert found[50] < 0.5 < found[51] < found[52]
    assert weigh_pivots(np.empty(0, dtype=bool), np.empty(0))[1] == 0.5


@pytest.fixture(scope="module")
def named() -> AlignmentPair:
    """500 entities a side: 200 with equal names, of which 20 are wrong."""
    pair = replace(synthetic_pair(500, degree=5, relations=12), features={})
    names = [f"left {i}" if i < 500 else f"right {i}" for i in range(1000)]
    for number, (a, b) in enumerate(pair.links[:200].tolist()):
        other = int(pair.links[number + 300, 1]) if number < 20 else b
        names[a] = names[other] = f"same {number}"
    return replace(pair, names=names)


def test_no_link_but_names(named: AlignmentPair) -> None:
    found = lf.align(named, method="propagate", seeds=[], **SMALL)
    assert found.pivots["equal names"] < 200
    assert found.measured is not None
    assert found.measured["precision"] > 0.9
    assert found.measured["recall"] > 0.45
    assert found.source is not None
    columns = found.columns()
    assert columns["source"].count("equal names") <= 200
    assert columns["source"].count("matched") > 50
    said = " ".join(found.notes)
    assert "unsupervised" in said
    assert "rough guess" in said
    kept = {
        a
        for a, source, sure in zip(found.left.tolist(), found.source, found.accepted.tolist(), strict=True)
        if source == "equal names" and sure
    }
    assert len(kept & set(named.links[:20, 0].tolist())) < 10, "most wrong pivots are found out"
    assert len(kept & set(named.links[20:200, 0].tolist())) > 160, "and most right ones stay"
    found.to_frame()


def test_few_links_are_helped_by_pivots_and_judge_them(named: AlignmentPair) -> None:
    found = lf.align(named, method="propagate", seeds=named.links[:40:4], **SMALL)
    assert any("of the pivots with a known entity 5 of 10 are right" in note for note in found.notes)
    assert found.source is not None
    plain = lf.align(named, method="propagate", seeds=named.links[:40:4], pivots=False, **SMALL)
    assert plain.source is None
    assert plain.pivots == {}


def test_many_links_do_without_unless_asked(named: AlignmentPair) -> None:
    seeds = named.links[200:260]
    assert lf.align(named, method="propagate", seeds=seeds, **SMALL).source is None
    assert lf.align(named, method="propagate", seeds=seeds, pivots=True, **SMALL).source is not None


def test_neither_link_nor_pivot_says_what_to_give() -> None:
    pair = replace(synthetic_pair(60), features={})
    pair = replace(pair, names=[f"{'l' if i < 60 else 'r'} {i}" for i in range(120)])
    with pytest.raises(DataError, match=r"no known link and no pivot.*Give a few known pairs as seeds"):
        lf.align(pair, method="propagate", seeds=torch.empty(0, 2, dtype=torch.int64), **SMALL)
    with pytest.raises(DataError, match="no known link; give some"):
        lf.align(pair, method="propagate", seeds=[], pivots=False, **SMALL)
