"""Parts of a graph: seeds kept together, no edges between parts, and updates that stay in theirs."""

from __future__ import annotations

import importlib.util

import pytest
import torch

from loginmea_fast import AlignmentGraph
from loginmea_fast.errors import ConfigError
from loginmea_fast.training import Config
from loginmea_fast.training.partition import partition
from loginmea_fast.training.sampling import Sampler
from tests.helpers.graphs import ALWAYS_THERE, triples_of
from tests.training.synthetic import synthetic_pair
from tests.training.test_loop import assert_same_parameters, losses, quiet_fit

PAIR = synthetic_pair()


@pytest.mark.parametrize("case", [case for case in ALWAYS_THERE if case != "no edges"])
def test_a_graph_within_its_parts_is_that_of_the_triples_within(case: str) -> None:
    triples, entities, relations = triples_of(case)
    graph = AlignmentGraph.from_triples(triples, entities, relations)
    part = torch.randint(0, 2, (entities,), generator=torch.Generator().manual_seed(0))
    found = graph.within(part)
    kept = (part[triples[:, 0]] == part[triples[:, 2]]).numpy()
    expected = AlignmentGraph.from_triples(triples[kept], entities, relations)
    assert torch.equal(found.edge_index(), expected.edge_index())
    assert torch.equal(found.neighborhood_size, expected.neighborhood_size)
    # Sets keep the numbers of the whole: they are compared by what they hold.
    for mine, theirs in zip(found.dst_set.tolist(), expected.dst_set.tolist(), strict=True):
        sets = [
            g.set_relation[g.set_rel_ptr[s] : g.set_rel_ptr[s + 1]]
            for g, s in ((found, mine), (expected, theirs))
        ]
        assert torch.equal(*sets)
    both = found.src_edge.long()
    destination = found.edge_index()[1]
    assert torch.equal(destination[both].int(), found.src_destination)
    assert torch.equal(found.dst_set[both], found.src_set)
    assert torch.equal(found.dst_set[found.set_edge.long()].sort().values, found.dst_set.sort().values)
    assert graph.within(torch.zeros_like(part)).num_edges == graph.num_edges


def test_two_clusters_are_found_and_what_is_kept_together_is() -> None:
    left = [[i, 0, (i + k) % 20] for i in range(20) for k in (1, 2, 3)]
    triples = torch.tensor([*left, *([h + 20, r, t + 20] for h, r, t in left), [0, 0, 20]])
    graph = AlignmentGraph.from_triples(triples, 40, 1)
    nobody = torch.full((40,), -1)
    found = partition(graph, nobody, 2, seed=0)
    assert found.part[:20].unique().numel() == found.part[20:].unique().numel() == 1
    assert found.cut == pytest.approx(2 / graph.num_edges)
    assert found.graph.num_edges == graph.num_edges - 2
    assert torch.equal(partition(graph, nobody, 2, seed=0).part, found.part)
    together = nobody.clone()
    together[[3, 30, 39]] = 0
    together[[5, 22]] = 1
    kept = partition(graph, together, 3, seed=0)
    assert kept.part[[3, 30, 39]].unique().numel() == kept.part[[5, 22]].unique().numel() == 1
    assert kept.part.unique().numel() == 3


def test_an_update_stays_in_its_parts() -> None:
    config = Config(partitions=4, batch_size=3)
    graph = PAIR.graph()
    sampler = Sampler(config, PAIR, PAIR.links[:20], graph)
    seen = []
    for epoch in range(2):
        order = [sampler.positions(epoch, update) for update in range(len(sampler.spans))]
        assert torch.cat(order).sort().values.tolist() == list(range(20))
        seen.append(torch.cat(order).tolist())
        for update, positions in enumerate(order):
            rows = sampler.links[positions].reshape(-1)
            parts = sampler._part[rows].unique()
            further = sampler.further(positions, 5, epoch, update)
            view = sampler.graph.view(torch.cat([rows, further]).unique(), 2)
            needed = torch.arange(graph.num_entities) if view.entities is None else view.entities
            if view.entities is not None:
                assert torch.isin(sampler._part[needed], parts).all()
            assert torch.isin(sampler._part[further], parts).all()
    assert seen[0] != seen[1]


def test_training_by_parts_repeats_and_reports_what_was_cut(tmp_path) -> None:
    keys = {"partitions": 3, "updates": 2, "share_seeds": True, "epochs": 4}
    found = quiet_fit(**keys)
    assert all(0 < r["cut_edges"] < 1 for r in found.history if r["event"] == "epoch")
    assert found.metrics["cosine"]["left_to_right"]["hits@1"] >= 0
    again = quiet_fit(out=tmp_path / "run", **keys)
    assert_same_parameters(again.model.state_dict(), found.model.state_dict())
    exact = quiet_fit(**{**keys, "partitions": 0})
    one = quiet_fit(**{**keys, "partitions": 1})
    assert losses(exact.history) == losses(one.history) != losses(found.history)


def test_what_cannot_be(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        ConfigError, match=r"partitions is 900, and there are \d+ entities and links; lower it"
    ):
        quiet_fit(partitions=900)
    with pytest.warns(UserWarning, match="partitions save nothing: an epoch is one update"):
        quiet_fit(partitions=3, updates=0, epochs=1)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        ConfigError, match=r"pymetis is not installed; pip install 'loginmea-fast\[partition\]'"
    ):
        quiet_fit(partitions=3)
