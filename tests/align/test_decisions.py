"""Decisions: accepted pairs are matches and teach, rejected ones never come back, and a wrong table names its lines."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

import loginmea_fast as lf
from loginmea_fast.data import AlignmentPair
from loginmea_fast.data.split import is_among
from loginmea_fast.errors import DataError
from loginmea_fast.runs.aligning import Decisions, methods, procedure, read_decisions
from loginmea_fast.runs.aligning.methods import Method, divide_links
from loginmea_fast.training.bootstrapping import Bootstrapping
from tests.training.synthetic import synthetic_pair, thinned

SMALL = {"propagation_width": 64, "backend": "reference", "pivots": False, "progress": False}


@pytest.fixture(scope="module")
def pair() -> AlignmentPair:
    return thinned(replace(synthetic_pair(400, degree=5, relations=12), features={}), 0.5)


@pytest.fixture(scope="module")
def found(pair: AlignmentPair) -> lf.Alignment:
    return lf.align(pair, method="propagate", seeds=pair.links[:60], **SMALL)


def pairs(left: torch.Tensor, right: torch.Tensor) -> set[tuple[int, int]]:
    return set(zip(left.tolist(), right.tolist(), strict=True))


@pytest.mark.parametrize("direction", ["left_to_right", "right_to_left"])
def test_what_is_rejected_never_comes_back_and_what_is_accepted_is_a_match(pair, found, direction) -> None:
    gold = set(map(tuple, pair.links.tolist()))
    order = (found.confidence - found.threshold).abs().argsort(stable=True)[:100]
    judged = torch.stack([found.left[order], found.right[order]], 1)
    right = torch.tensor([tuple(row) in gold for row in judged.tolist()])
    assert 10 < int(right.sum()) < 90
    decisions = Decisions(judged[right], judged[~right])
    again = lf.align(
        pair,
        method="propagate",
        seeds=pair.links[:60],
        decisions=decisions,
        direction=direction,
        **SMALL,
    )
    matched = pairs(again.left, again.right)
    assert not matched & set(map(tuple, decisions.rejected.tolist()))
    accepted = set(map(tuple, decisions.accepted.tolist()))
    assert accepted <= pairs(again.left[again.accepted], again.right[again.accepted])
    assert again.source is not None
    assert again.source.count("accepted") == len(accepted)
    assert again.report()["decisions"] == {"accepted": len(accepted), "rejected": int((~right).sum())}
    assert not accepted & set(map(tuple, again.withheld.tolist()))

    def right_ones(alignment: lf.Alignment) -> int:
        return len(pairs(alignment.left[alignment.accepted], alignment.right[alignment.accepted]) & gold)

    assert right_ones(again) > right_ones(found)


def test_the_precision_is_asked_of_what_nobody_decided_on(pair, monkeypatch) -> None:
    """Pairs that people are certain of must not make room for less certain ones."""
    asked = []
    lowest = procedure.lowest_threshold

    def watched(confidence, *others):
        asked.append(confidence)
        return lowest(confidence, *others)

    monkeypatch.setattr(procedure, "lowest_threshold", watched)
    decisions = Decisions(pair.links[60:160], pair.links[:0])
    again = lf.align(pair, method="propagate", seeds=pair.links[:60], decisions=decisions, **SMALL)
    assert again.source is not None
    decided = torch.tensor([source == "accepted" for source in again.source])
    assert int(decided.sum()) == 100
    assert sorted(asked[0].tolist()) == sorted(again.confidence[~decided].tolist())


def test_certain_pairs_do_not_hide_that_nothing_else_is_sure_enough(pair) -> None:
    decisions = Decisions(pair.links[60:70], pair.links[:0])
    again = lf.align(
        pair, method="propagate", seeds=pair.links[:60], decisions=decisions, precision=1.0, **SMALL
    )
    assert int(again.accepted.sum()) == 10
    assert any("no match is sure enough" in note for note in again.notes)


@pytest.mark.parametrize("bootstrap", [False, True])
def test_the_model_never_proposes_what_is_rejected(pair, monkeypatch, bootstrap: bool) -> None:
    """What bootstrapping proposes without decisions is rejected, and then joins no more."""
    trained = replace(pair, features=synthetic_pair(400, degree=5, relations=12).features, links=pair.links)
    ways = {"bootstrap": True, "bootstrap_start": 0, "bootstrap_every": 1, "bootstrap_window": 1, "rounds": 0}
    keys = {"epochs": 4, "hidden_dim": 16, "seed_ratio": 0.3, "propagation": "none", "progress": False}
    keys |= ways if bootstrap else {"rounds": 1, "certainty": 0.3}
    joined = []
    begin, round_ = Bootstrapping.begin, Bootstrapping.round
    monkeypatch.setattr(Bootstrapping, "begin", lambda own, links: joined.append(links) or begin(own, links))

    def watched(own, *arguments):
        count = round_(own, *arguments)
        joined.append(own.joined[len(own.joined) - count :])
        return count

    monkeypatch.setattr(Bootstrapping, "round", watched)
    lf.fit(trained, **keys)
    proposed = torch.cat(joined)
    assert len(proposed)
    joined.clear()
    train = trained.split(0.3, 0.05, 0).train
    proposed = proposed[~is_among(proposed, train)]
    lf.fit(replace(trained, rejected=proposed), **keys)
    assert joined
    assert not bool(is_among(torch.cat(joined), proposed).any())


def test_propagation_is_told_what_is_rejected_also_where_entities_are_gone(pair, monkeypatch) -> None:
    seen = []
    rounds = methods.propagate_rounds

    def watched(graph, links, *arguments, rejected, **options):
        seen.append((graph.num_entities, len(rejected)))
        return rounds(graph, links, *arguments, rejected=rejected, **options)

    monkeypatch.setattr(methods, "propagate_rounds", watched)
    rejected = torch.stack([pair.links[:50, 0], pair.links[:50, 1].roll(1)], 1)
    own = replace(pair, rejected=rejected[:20])  # the pair's own stay rejected beside the decisions
    lf.align(
        own,
        method="propagate",
        seeds=pair.links[:60],
        decisions=Decisions(rejected[:0], rejected[10:]),
        **SMALL,
    )
    whole = pair.num_entities
    assert {count for entities, count in seen if entities == whole} == {50}
    fewer = [count for entities, count in seen if entities < whole]
    assert fewer
    assert all(0 < count < 50 for count in fewer)


def test_a_known_link_among_the_pairs_rejected_ones_is_refused(pair) -> None:
    own = replace(pair, rejected=torch.cat([pair.links[:1], pair.links[70:71]]))
    with pytest.raises(
        DataError, match=f"{pair.uris[int(pair.links[0, 0])]}.* are rejected, but they are a known link"
    ):
        lf.align(own, method="propagate", seeds=pair.links[:60], **SMALL)
    accepted = Decisions(pair.links[65:75], pair.links[:0])
    with pytest.raises(DataError, match="are accepted, but the pair has them among its rejected ones"):
        lf.align(own, method="propagate", seeds=pair.links[1:60], decisions=accepted, **SMALL)


@pytest.mark.parametrize("method", ["model", "propagate"])
@pytest.mark.parametrize("folds", [None, 1, 3])
def test_what_was_decided_is_always_learned_from(method: Method, folds: int | None) -> None:
    links = torch.arange(100).view(50, 2)
    for one in divide_links(links[:40], method, folds, 0, links[40:]).rounds:
        assert torch.equal(one.learned[-10:], links[40:])
        assert 0 < len(one.held) == 40 - len(one.learned[:-10])
        assert bool(torch.isin(one.held, links[:40]).all())


def test_candidates_are_without_what_is_rejected(pair, found) -> None:
    rejected = torch.stack([found.left, found.right], 1)[:50]
    again = lf.align(
        pair,
        method="propagate",
        seeds=pair.links[:60],
        decisions=Decisions(rejected[:0], rejected),
        **SMALL,
    )
    candidates = again.candidates
    listed = {
        (int(entity), other)
        for entity, row in zip(candidates.entity, candidates.match.tolist(), strict=True)
        for other in row
    }
    assert not listed & set(map(tuple, rejected.tolist()))


def test_decisions_against_known_links_are_refused(pair, tmp_path) -> None:
    known = pair.links[:60]
    with pytest.raises(DataError, match="are rejected, but they are a known link"):
        lf.align(pair, method="propagate", seeds=known, decisions=Decisions(known[:0], known[3:4]), **SMALL)
    file = tmp_path / "d.tsv"
    rows = [
        f"{pair.uris[a]}\t{pair.uris[b]}\t" for a, b in (*pair.links[100:101].tolist(), *known[3:4].tolist())
    ]
    file.write_text(f"{rows[0]}accepted\n{rows[1]}rejected\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"d\.tsv, line 2: .* are rejected, but they are a known link"):
        lf.align(pair, method="propagate", seeds=known, decisions=read_decisions(file, pair), **SMALL)
    other = torch.tensor([[int(known[3, 0]), int(pair.links[200, 1])]])
    with pytest.raises(DataError, match="has the known link to"):
        lf.align(pair, method="propagate", seeds=known, decisions=Decisions(other, known[:0]), **SMALL)
    again = lf.align(
        pair, method="propagate", seeds=known, decisions=Decisions(known[:5], known[:0]), **SMALL
    )
    assert again.report()["decisions"]["accepted"] == 0, "they are known already"


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([], "holds no decision"),
        (["{0}\t" + 200_000 * "x" + "\taccepted"], "line 2 cannot be read"),
        (["{0}\t{1}\tmaybe"], r"line 2: expected left TAB right TAB accepted or rejected"),
        (["{0}\t{1}"], "line 2: expected left TAB right"),
        (["{0}\tnobody\taccepted"], "line 2: graph 2 has no entity 'nobody'.* other data"),
        (["{0}\t{1}\taccepted", "{0}\t{1}\trejected"], "lines 2 and 3: .* both accepted and rejected"),
        (["{0}\t{1}\taccepted", "{0}\t{3}\taccepted"], "lines 2 and 3: .* accepted with two partners"),
    ],
)
def test_a_wrong_table_names_its_lines(pair, tmp_path: Path, lines: list[str], message: str) -> None:
    names = [pair.uris[entity] for link in pair.links[:2].tolist() for entity in link]
    file = tmp_path / "decisions.tsv"
    file.write_text("\n".join(["left\tright\tdecision", *(line.format(*names) for line in lines)]) + "\n")
    with pytest.raises(DataError, match=message):
        read_decisions(file, pair)


def test_a_table_is_read_with_a_header_or_without_each_pair_once(pair, tmp_path: Path) -> None:
    (a, b), (c, d) = pair.links[:2].tolist()
    uris = pair.uris
    body = f"{uris[a]}\t{uris[b]}\taccepted\n\n{uris[c]}\t{uris[d]}\treject\n{uris[a]}\t{uris[b]}\tAccept\n"
    head = "left\tright\tdecision\n"
    for table in (body, head + body, f"\n{head}{body}{head}{body}"):
        (tmp_path / "d.tsv").write_text(table)
        found = read_decisions(tmp_path / "d.tsv", pair)
        assert found.accepted.tolist() == [[a, b]]
        assert found.rejected.tolist() == [[c, d]]
