"""Ensemble: similarities are the mean of its members', whole and by rows, and it is written and read back."""

from __future__ import annotations

import pytest
import torch

from loginmea_fast import AlignmentGraph, LoginMEA
from loginmea_fast.errors import CheckpointError, ConfigError
from loginmea_fast.nn import Ensemble, members_of
from tests.helpers.graphs import sizes_of
from tests.training.synthetic import synthetic_pair

PAIR = synthetic_pair()
FEATURES = {name: feature.values for name, feature in PAIR.features.items()}
DIMS = {name: values.shape[1] for name, values in FEATURES.items()}


def build(graph: AlignmentGraph, members: int = 3) -> Ensemble:
    torch.manual_seed(5)
    return Ensemble(
        [LoginMEA(*sizes_of(graph), DIMS, hidden_dim=8, aggregation="channels") for _ in range(members)]
    )


@pytest.fixture
def graph() -> AlignmentGraph:
    return PAIR.graph()


def test_a_similarity_is_the_mean_of_the_members(graph):
    ensemble = build(graph)
    output = ensemble(FEATURES, graph.view())
    own = [member(FEATURES, graph.view()).joint for member in members_of(ensemble)]
    assert not torch.equal(own[0], own[1]), "members begin with parameters of their own"
    expected = torch.stack([rows @ rows.T for rows in own]).mean(0)
    torch.testing.assert_close(output.joint @ output.joint.T, expected)
    assert output.joint.shape == (PAIR.num_entities, ensemble.embedding_dim)
    torch.testing.assert_close(ensemble.joint_rows(FEATURES, graph.view()), output.joint)
    some = torch.tensor([7, 3, 3])
    torch.testing.assert_close(ensemble.joint_rows(FEATURES, graph.view(some)), output.joint[some])
    assert output.unnormalized.shape == output.joint.shape
    assert ensemble.parts == 3 * [("graph", 24), ("relation", 24), ("image", 24)]
    view = graph.view(some.unique())
    torch.testing.assert_close(ensemble(FEATURES, view).joint, output.joint[some.unique()])
    assert output.graph.shape[1] == sum(
        member(FEATURES, graph.view()).graph.shape[1] for member in ensemble.members
    )
    assert {name: part.shape[1] for name, part in output.modalities.items()} == dict.fromkeys(DIMS, 24)


def test_gradients_reach_every_member(graph):
    ensemble = build(graph)
    ensemble(FEATURES, graph.view(torch.arange(6))).joint.square().sum().backward()
    assert all(parameter.grad is not None for parameter in ensemble.parameters())


def test_renewed_members_are_new(graph):
    ensemble = build(graph)
    again = ensemble.renewed()
    assert [p.shape for p in again.parameters()] == [p.shape for p in ensemble.parameters()]
    assert not torch.equal(again.members[0].entity_embedding, ensemble.members[0].entity_embedding)


def test_it_is_written_and_read_back(graph, tmp_path):
    ensemble = build(graph, 2)
    ensemble.save_pretrained(tmp_path / "two", graph)
    state = torch.get_rng_state()
    again = Ensemble.from_pretrained(tmp_path / "two", graph)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(again(FEATURES, graph.view()).joint, ensemble(FEATURES, graph.view()).joint)
    with pytest.raises(
        CheckpointError, match=r"holds an ensemble of 2 models; read it with Ensemble\.from_pretrained"
    ):
        LoginMEA.from_pretrained(tmp_path / "two", graph)
    ensemble.members[0].save_pretrained(tmp_path / "one", graph)
    with pytest.raises(CheckpointError, match=r"holds one model; read it with LoginMEA\.from_pretrained"):
        Ensemble.from_pretrained(tmp_path / "one", graph)


def test_what_is_no_ensemble_is_refused(graph):
    with pytest.raises(ConfigError, match="at least one model; got none"):
        Ensemble([])
    one = LoginMEA(*sizes_of(graph), DIMS, hidden_dim=8)
    for other in (
        LoginMEA(81, graph.num_relations, DIMS, hidden_dim=8),
        LoginMEA(*sizes_of(graph), DIMS, hidden_dim=4),
    ):
        with pytest.raises(ConfigError, match="one graph and the same arguments"):
            Ensemble([one, other])
