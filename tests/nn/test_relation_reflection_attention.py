"""The layer as PyTorch Geometric users call it, against one edge at a time."""

from __future__ import annotations

import pickle

import pytest
import torch

from loginmea_fast.errors import ConfigError, InputError
from loginmea_fast.nn import RelationReflectionAttention
from tests.helpers.compare import assert_close

EDGE_INDEX = torch.tensor([[0, 0, 1, 2, 2, 3, 3], [1, 1, 2, 0, 2, 1, 1]])
EDGE_TYPE = torch.tensor([0, 2, 1, 1, 0, 2, 2])


def one_edge_at_a_time(layer: RelationReflectionAttention, x: torch.Tensor) -> torch.Tensor:
    sets: dict[tuple[int, int], list[int]] = {}
    for source, destination, relation in zip(*EDGE_INDEX.tolist(), EDGE_TYPE.tolist(), strict=True):
        sets.setdefault((destination, source), []).append(relation)
    rows = []
    for node in range(len(x)):
        messages, logits = [], []
        for (destination, source), relations in sets.items():
            if destination == node:
                u = torch.nn.functional.normalize(layer.relation_embedding[relations].mean(0), dim=0)
                messages.append(x[source] - 2 * (x[source] @ u) * u)
                logit = layer.relation_vector @ u
                if layer.neighbor_vector is not None:
                    logit = logit + layer.neighbor_vector @ messages[-1]
                logits.append(logit)
        total = torch.zeros_like(x[0])
        if messages:
            total = torch.stack(logits).softmax(0) @ torch.stack(messages)
        rows.append(torch.tanh(total) if layer.activation else total)
    return torch.stack(rows)


@pytest.mark.parametrize("attention", ["relation", "triple"])
@pytest.mark.parametrize("activation", [None, "tanh"])
@pytest.mark.parametrize("num_relations", [3, 4])
def test_equals_one_edge_at_a_time(attention: str, activation: str | None, num_relations: int) -> None:
    torch.manual_seed(0)
    layer = RelationReflectionAttention(5, num_relations, attention, activation).double()
    x = torch.randn(4, 5, dtype=torch.float64, requires_grad=True)
    got, wanted = layer(x, EDGE_INDEX, EDGE_TYPE), one_edge_at_a_time(layer, x)
    assert_close(got, wanted, "y")
    direction, inputs = torch.randn_like(wanted), [x, *layer.parameters()]
    for a, b in zip(
        torch.autograd.grad(got, inputs, direction),
        torch.autograd.grad(wanted, inputs, direction),
        strict=True,
    ):
        assert_close(a, b, "gradient")


def test_index_is_kept_while_the_graph_is_the_same() -> None:
    layer = RelationReflectionAttention(5, 3)
    x, edge_index = torch.randn(4, 5), EDGE_INDEX.clone()
    first = layer(x, edge_index, EDGE_TYPE)
    graph = layer._graph_of(x, edge_index, EDGE_TYPE)
    assert layer._graph_of(x, edge_index, EDGE_TYPE) is graph
    assert layer._graph_of(x, edge_index.clone(), EDGE_TYPE) is not graph
    edge_index[1, 0] = 3  # in place: the same object, another graph
    assert not torch.equal(layer(x, edge_index, EDGE_TYPE), first)
    assert layer(torch.randn(6, 5), edge_index, EDGE_TYPE).shape == (6, 5)


def test_a_saved_layer_leaves_its_index_behind() -> None:
    layer = RelationReflectionAttention(5, 3)
    x = torch.randn(4, 5)
    expected = layer(x, EDGE_INDEX, EDGE_TYPE)
    again = pickle.loads(pickle.dumps(layer))
    assert again._indexed is None
    assert torch.equal(again(x, EDGE_INDEX, EDGE_TYPE), expected)


def test_bad_arguments() -> None:
    with pytest.raises(ConfigError, match="num_relations must be at least 1"):
        RelationReflectionAttention(5, 0)
    with pytest.raises(ConfigError, match="relation, triple"):
        RelationReflectionAttention(5, 3, "dot")
    with pytest.raises(ConfigError, match="\"tanh\" or None; got 'relu'"):
        RelationReflectionAttention(5, 3, activation="relu")
    layer = RelationReflectionAttention(5, 3)
    with pytest.raises(InputError, match="edge_type holds 3; this layer has 3 relations"):
        layer(torch.randn(4, 5), EDGE_INDEX, EDGE_TYPE + 1)
    with pytest.raises(InputError, match=r"edge \d has (source|destination) 3, outside \[0, 3\)"):
        layer(torch.randn(3, 5), EDGE_INDEX, EDGE_TYPE)
    with pytest.raises(InputError, match="must have shape"):
        layer(torch.randn(4, 6), EDGE_INDEX, EDGE_TYPE)
    with pytest.raises(
        InputError, match=r"edge_type must be an int64 tensor; got NoneType.*a relation for every edge"
    ):
        layer(torch.randn(4, 5), EDGE_INDEX, None)
    with pytest.raises(InputError, match="edge_index must be an int64 tensor; got list"):
        layer(torch.randn(4, 5), EDGE_INDEX.tolist(), EDGE_TYPE)
    with pytest.raises(InputError, match="edge_type must hold integers"):
        layer(torch.randn(4, 5), EDGE_INDEX, torch.full((7,), torch.nan))
