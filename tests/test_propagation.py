"""Alignment by propagated labels: exact repeats, the views against loops, leaks, bad input, real data."""

from __future__ import annotations

import time
import weakref

import pytest
import torch
import torch.nn.functional as F

import loginmea_fast as lf
from loginmea_fast import propagation
from loginmea_fast.errors import InputError
from loginmea_fast.graph import AlignmentGraph
from loginmea_fast.ops import alignment_ranks
from loginmea_fast.propagation import VIEWS, cautions, join, late_weight, propagate_labels, propagate_rounds


def twins(entities: int = 60, triples: int = 240, relations: int = 5, alone: int = 0) -> AlignmentGraph:
    """A random graph and its copy, ids shifted by `entities` and relations by `relations`; the last ids stand alone."""
    generator = torch.Generator().manual_seed(3)
    limits = (entities - alone, relations, entities - alone)
    left = torch.stack([torch.randint(n, (triples,), generator=generator) for n in limits], 1)
    right = left + torch.tensor([entities, relations, entities])
    return AlignmentGraph.from_triples(torch.cat([left, right]), 2 * entities, 2 * relations)


def links(first: int, last: int, entities: int = 60) -> torch.Tensor:
    return torch.stack([torch.arange(first, last), torch.arange(first, last) + entities], 1)


def hits(embedding: torch.Tensor, pairs: torch.Tensor) -> float:
    scores = embedding[pairs[:, 0]] @ embedding[pairs[:, 1]].T
    return (scores.argmax(1) == torch.arange(len(pairs))).float().mean().item()


@pytest.mark.parametrize("views", [VIEWS, ("entities",), ("entities", "relations"), ("triples",)])
def test_a_copy_is_found_by_every_view(views: tuple[str, ...]) -> None:
    found = propagate_labels(twins(), links(0, 20), views, width=256)
    assert found.embedding.shape[1] == (320 if views == VIEWS else 256)
    lengths = found.embedding.norm(dim=1)
    torch.testing.assert_close(lengths[found.reached], torch.ones(int(found.reached.sum())))
    assert not lengths[~found.reached].any()
    # Random unit rows would find one in forty.
    assert hits(found.embedding, links(20, 60)) > 0.8


def test_the_same_again_by_seed_and_another_by_another() -> None:
    graph = twins()
    first, again, other = (
        propagate_labels(graph, links(0, 20), width=64, seed=s).embedding for s in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_the_entities_view_is_its_formula() -> None:
    graph, seeds, width = twins(), links(0, 20), 32
    labels = torch.zeros(120, width)
    drawn = F.normalize(torch.randn(20, width, generator=torch.Generator().manual_seed(5)), dim=1)
    labels[seeds[:, 0]], labels[seeds[:, 1]] = drawn, drawn
    said = graph.degrees().clamp_min(1).float() ** -0.25
    sizes = graph._set_sizes().float()
    source, destination = graph.edge_index()
    adjacency = torch.zeros(120, 120)
    adjacency[destination, source] = sizes[graph.dst_set.long()] * said[source]
    adjacency += torch.diag(0.3 * adjacency.sum(1))
    x = labels
    for _ in range(2):
        x = F.normalize(adjacency @ x, dim=1)
    found = propagate_labels(graph, seeds, ("entities",), width=width, seed=5).embedding
    torch.testing.assert_close(found, x, rtol=1e-4, atol=1e-5)


def test_triples_tell_apart_what_only_relations_tell() -> None:
    """Entities 1 and 2 have the same neighbour, by relations of their own, which seeds 3 to 6 identify."""
    left = torch.tensor([[0, 0, 1], [0, 1, 2], [3, 0, 4], [5, 1, 6]])
    right = left + torch.tensor([7, 2, 7])
    graph = AlignmentGraph.from_triples(torch.cat([left, right]), 14, 4)
    seeds = links(0, 1, 7)
    seeds = torch.cat([seeds, links(3, 7, 7)])
    by_entities = propagate_labels(graph, seeds, ("entities",), width=512).embedding
    assert by_entities[1] @ by_entities[9] > 0.99
    by_triples = propagate_labels(graph, seeds, ("triples",), width=512).embedding
    assert by_triples[1] @ by_triples[8] > by_triples[1] @ by_triples[9] + 0.2


def test_a_seed_does_not_find_its_partner_by_its_own_label_in_folds() -> None:
    """A link between entities without likeness: whole, its label joins them; in folds nothing does."""
    triples = torch.tensor([[0, 0, 1], [2, 1, 3], [4, 2, 5], [6, 3, 7]])
    graph = AlignmentGraph.from_triples(triples, 8, 4)
    seeds = torch.tensor([[0, 2], [4, 6]])
    whole = propagate_labels(graph, seeds, ("entities",), width=64).embedding
    folds = propagate_labels(graph, seeds, ("entities",), width=64, folds=2)
    assert whole[0] @ whole[2] > 0.99
    assert not folds.reached[seeds.reshape(-1)].any()
    assert torch.equal(folds.embedding[1], whole[1])


def test_rounds_find_more_and_propose_no_seed() -> None:
    graph, seeds = twins(), links(0, 8)
    plain = propagate_labels(graph, seeds, width=256).embedding
    found, pairs = propagate_rounds(graph, seeds, torch.arange(60), torch.arange(60, 120), 2, width=256)
    assert not torch.isin(pairs, seeds).any()
    assert hits(found.embedding, links(8, 60)) >= hits(plain, links(8, 60))
    assert (pairs[:, 0] + 60 == pairs[:, 1]).float().mean() > 0.8


def test_a_rejected_pair_is_not_learned_from() -> None:
    graph, seeds = twins(), links(0, 8)
    sides = torch.arange(60), torch.arange(60, 120)
    rejected = propagate_rounds(graph, seeds, *sides, 1, width=256)[1][::2]
    found, pairs = propagate_rounds(graph, seeds, *sides, 1, width=256, rejected=rejected)
    assert len(pairs)
    assert not {*map(tuple, pairs.tolist())} & {*map(tuple, rejected.tolist())}
    assert torch.equal(
        found.embedding, propagate_labels(graph, torch.cat([seeds, pairs]), width=256).embedding
    )


def test_who_is_not_reached_is_counted() -> None:
    found = propagate_labels(twins(alone=10), links(0, 20), width=64)
    assert not found.reached[50:60].any()
    assert found.one_sided == 0
    assert propagate_labels(twins(alone=10), links(45, 53), width=64).one_sided == 3
    assert torch.equal(found.feature().present, found.reached)
    with pytest.raises(InputError, match="each of the 4 known links has an entity without a neighbour"):
        propagate_labels(twins(alone=10), torch.tensor([[0, 110], [50, 60], [51, 61], [52, 62]]))


def pair_of(triples: list[list[int]], size: int) -> lf.data.AlignmentPair:
    """Entities 0 to size - 1 on the left, as many on the right, and the same triples in both."""
    left = torch.tensor(triples)
    names = [str(entity) for entity in range(2 * size)]
    return lf.data.AlignmentPair(
        "pair",
        names,
        names,
        torch.arange(size),
        torch.arange(size, 2 * size),
        torch.cat([left, left + torch.tensor([size, 0, size])]),
        len(left),
        1,
        links(0, size, size),
    )


def test_it_is_said_where_labels_reach_few() -> None:
    couple = pair_of([[0, 0, 1], [2, 0, 2]], 3)  # 0 and 1 know each other, 2 itself
    (told,) = cautions(couple, links(0, 2, 3))
    assert told.startswith(
        "labels of the known links can reach 0 of 1 entities without a link in the left graph and 0 of 1 in the right; "
        "give links in further parts of the graphs"
    )
    chain = [[i, 0, i + 1] for i in range(9)]
    assert cautions(pair_of(chain, 10), links(0, 1, 10)) == []
    split = [triple for triple in chain if triple[0] != 5]  # 0 to 5 and 6 to 9
    assert cautions(pair_of(split, 10), links(0, 1, 10)) == [], "5 of 9"
    (told,) = cautions(pair_of(split, 10), links(7, 8, 10))
    assert "can reach 3 of 9 entities" in told
    assert cautions(pair_of(split, 10), links(0, 10, 10)) == [], "nobody is left"


def test_labels_that_join_nothing_are_counted_and_reach_nobody() -> None:
    alone = pair_of([[0, 0, 1], [2, 0, 3]], 5)
    few, reached = cautions(alone, torch.tensor([[0, 5], [2, 9]]))  # 9 has no neighbour
    assert few == "1 of 2 known links have an entity without a neighbour, so that their labels join nothing"
    assert "can reach 1 of 3 entities without a link in the left graph and 1 of 3 in the right" in reached
    assert cautions(alone, torch.tensor([[0, 5], [2, 7]])) == []


def test_joined_cosines_are_the_weighted_mean() -> None:
    e, f = torch.randn(6, 5), F.normalize(torch.randn(6, 7), dim=1)
    unit = F.normalize(e, dim=1)
    joined = join(3 * e, f, 0.5)
    torch.testing.assert_close(joined @ joined.T, (unit @ unit.T + 0.25 * f @ f.T) / 1.25)
    with pytest.raises(InputError, match="got 6 and 5 rows"):
        join(e, f[:5], 1.0)
    with pytest.raises(InputError, match="finite and not negative; got nan"):
        join(e, f, float("nan"))


def test_the_late_weight_is_what_validation_prefers() -> None:
    good = F.normalize(torch.randn(40, 16), dim=1).repeat(2, 1)
    noise = torch.randn(80, 16)
    pairs, left, right = links(0, 20, 40), torch.arange(40), torch.arange(40, 80)
    assert late_weight(good, F.normalize(noise, dim=1), pairs, left, right) == 0.0
    assert late_weight(noise, good, pairs, left, right, weights=(0.0, 0.5, 8.0)) == 8.0
    with pytest.raises(InputError, match="got 7 weights and 0 links"):
        late_weight(good, good, pairs[:0], left, right)
    with pytest.raises(InputError, match="must be finite and not negative; got -1"):
        late_weight(good, good, pairs, left, right, weights=(0.5, -1))
    with pytest.raises(InputError, match="got 80 and 79 rows"):
        late_weight(good, good[:79], pairs, left, right)
    with pytest.raises(InputError, match="rows of finite numbers"):
        late_weight(good.index_fill(0, torch.tensor([3]), float("nan")), good, pairs, left, right)


def test_the_usual_weight_is_kept_unless_links_speak_clearly() -> None:
    good = F.normalize(torch.randn(60, 16), dim=1).repeat(2, 1)
    vague = good + 0.6 * torch.randn(120, 16)
    pairs, left, right = links(0, 40, 60), torch.arange(60), torch.arange(60, 120)

    def choose(model: torch.Tensor, beside: torch.Tensor, usual: float | None) -> float:
        return late_weight(model, F.normalize(beside, dim=1), pairs, left, right, usual=usual)

    assert choose(good, torch.randn(120, 16), None) == 0.0
    assert choose(good, good, 0.7) == 0.7, "all are equally good"
    assert choose(good, good, 0.6) == 0.5, "the nearest of those to choose from"
    assert choose(good, torch.randn(120, 16), 2.0) < 1.0, "noise harms most links"
    assert choose(vague, good, 0.0) > 0.0


@pytest.mark.parametrize(
    ("count", "better", "kept"), [(1, 1, True), (225, 1, True), (225, 3, True), (225, 12, False)]
)
def test_a_few_links_do_not_overturn_the_usual_weight(
    count: int, better: int, kept: bool, monkeypatch: pytest.MonkeyPatch
) -> None:

    def ranks(*_: object) -> torch.Tensor:
        """Without the rows beside the model, `better` links are found that otherwise come second."""
        found = torch.full((7, count), 0.5, dtype=torch.float64)
        found[1:, better:] = found[0] = 1
        return found

    monkeypatch.setattr(propagation, "_reciprocal_ranks", ranks)
    rows = torch.eye(2 * count)
    chosen = late_weight(
        rows, rows, links(0, count, count), torch.arange(count), torch.arange(count) + count, usual=0.7
    )
    assert chosen == (0.7 if kept else 0.0)


@pytest.mark.parametrize("csls_k", [0, 4, 50])
def test_weights_are_judged_by_the_ranks_of_joined_rows(csls_k: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows without labels among them, without a model's, and without either; and a partner that ties with a rival."""
    monkeypatch.setattr(propagation, "_RANKED", 16)
    monkeypatch.setattr(propagation, "_TIE", 1e-12)  # in float64, where chance brings none near
    sides = []
    for rows in (40, 70):
        model = F.normalize(torch.randn(rows, 8, dtype=torch.float64), dim=1)
        labels = F.normalize(torch.randn(rows, 12, dtype=torch.float64), dim=1)
        labels[rows // 3 : rows // 2] = 0
        model[rows // 3 + 4 : rows // 2 + 4] = 0
        model[rows - 1], labels[rows - 1] = model[0], labels[0]
        sides.append((model, labels))
    weights = (0.0, 0.5, 2.0)
    found = propagation._reciprocal_ranks(*sides, 25, weights, csls_k)
    for weight, reciprocal in zip(weights, found, strict=True):
        left, right = (join(model, labels, weight) for model, labels in sides)
        ranks = alignment_ranks(left[:25], right[:25], min(csls_k, 40), left[25:], right[25:])
        mean = (ranks[0].double().reciprocal() + ranks[1].double().reciprocal()) / 2
        torch.testing.assert_close(reciprocal, mean)


def test_bad_input_says_what_was_expected() -> None:
    graph = twins(alone=10)
    for seeds, options, message in (
        (links(0, 0), {}, "no known link whose label could travel"),
        (links(0, 3).float(), {}, "seeds must be int64"),
        (links(58, 62), {}, "outside 0 to 119"),
        (links(55, 60), {}, "each of the 5 known links has an entity without a neighbour"),
        (links(0, 3), {"views": ("triple",)}, "unknown views triple"),
        (links(0, 3), {"views": ("relations",)}, "part of 'entities' or 'triples'"),
        (links(0, 3), {"folds": 4}, "from 2 to the 3 seeds"),
        (links(0, 3), {"width": 0}, "at least 1"),
    ):
        with pytest.raises(InputError, match=message):
            propagate_labels(graph, seeds, **options)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"known link \[60, 0\] has no left entity in its place"):
        propagate_rounds(graph, links(0, 3).flip(1), torch.arange(60), torch.arange(60, 120))
    with pytest.raises(InputError, match=r"known link \[0, 1\] has no right entity in its place"):
        propagate_rounds(graph, torch.tensor([[0, 1]]), torch.arange(60), torch.arange(60, 120))


@pytest.mark.slow
def test_zh_en_by_structure_alone(dataset) -> None:
    """LightEA finds .665 of the test links by CSLS; processor seconds, as other work on the machine is no slowness."""
    pair = lf.data.load(dataset("dbp15k/zh_en"), modalities=["relation"])
    split = pair.split(0.3, valid_ratio=0.0)
    graph = pair.graph()
    started = time.process_time()
    found = propagate_labels(graph, split.train)
    seconds = time.process_time() - started
    left, right = (found.embedding[ids] for ids in split.test.unbind(1))
    ranks, _ = lf.ops.alignment_ranks(left, right, csls_k=10)
    assert (ranks <= 1).float().mean() > 0.68
    assert seconds < 20  # of two cores: ten times what it takes alone


def test_rows_are_let_go_of_before_the_next_round_forms_them_again(monkeypatch: pytest.MonkeyPatch) -> None:
    formed = []

    def propagate(*args: object, **more: object) -> propagation.Propagated:
        assert all(one() is None for one in formed), "two embeddings at once"
        found = propagate_labels(*args, **more)
        formed.append(weakref.ref(found.embedding))
        return found

    monkeypatch.setattr(propagation, "propagate_labels", propagate)
    propagate_rounds(twins(), links(0, 20), torch.arange(60), torch.arange(60, 120), rounds=2, width=64)
    assert len(formed) == 3
