"""What is kept beside tensors: computed once, again when they were changed in place, gone with them."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from loginmea_fast.kernels._segments import schedule_of
from torch import Tensor

from loginmea_fast import AlignmentGraph, native
from loginmea_fast.derived import Derived
from loginmea_fast.ops.graph_mean import csr_product
from loginmea_fast.ops.relation_reflection_attention import _index_of, relation_reflection_attention
from tests.helpers.graphs import triples_of


def features() -> Tensor:
    return (torch.rand(5, 7) * (torch.rand(5, 7) > 0.4)).to_sparse_csr()


def gradient(matrix: Tensor, x: Tensor) -> Tensor:
    leaf = x.clone().requires_grad_()
    (grad,) = torch.autograd.grad((csr_product(matrix, leaf) * torch.arange(15.0).view(5, 3)).sum(), leaf)
    return grad


def plain_gradient(matrix: Tensor) -> Tensor:
    return matrix.to_dense().t() @ torch.arange(15.0).view(5, 3)


def test_values_changed_in_place_give_their_own_gradient() -> None:
    matrix, x = features(), torch.randn(7, 3)
    torch.testing.assert_close(gradient(matrix, x), plain_gradient(matrix))
    matrix.values().mul_(3)
    torch.testing.assert_close(gradient(matrix, x), plain_gradient(matrix))


def test_columns_changed_in_place_give_their_own_gradient() -> None:
    matrix = torch.sparse_csr_tensor(
        torch.tensor([0, 2, 4]), torch.tensor([0, 1, 0, 1]), torch.arange(1.0, 5.0), (2, 3)
    )
    upstream = torch.tensor([[1.0], [2.0]])

    def through(matrix: Tensor) -> Tensor:
        leaf = torch.zeros(3, 1, requires_grad=True)
        return torch.autograd.grad((csr_product(matrix, leaf) * upstream).sum(), leaf)[0]

    assert through(matrix)[2] == 0
    matrix.col_indices().add_(1)
    assert torch.equal(through(matrix), matrix.to_dense().t() @ upstream)
    assert through(matrix)[0] == 0


def test_a_schedule_follows_its_graph() -> None:
    graph = AlignmentGraph.from_triples(*triples_of("random"))
    first = schedule_of(_index_of(graph), graph.num_relation_sets)
    assert schedule_of(_index_of(graph), graph.num_relation_sets) is first
    assert schedule_of(_index_of(graph), graph.num_relation_sets + 1) is not first
    graph.src_set[:] = graph.src_set.flip(0)
    changed = schedule_of(_index_of(graph), graph.num_relation_sets)
    again = [
        t.detach() for t in _index_of(graph)
    ]  # as compiled code, saved tensors and other wrappers have them
    assert schedule_of(again, graph.num_relation_sets) is changed, (
        "made again, which a CUDA graph cannot capture"
    )
    assert torch.equal(changed.set_edge, torch.argsort(graph.src_set, stable=True).int())


@pytest.mark.skipif(native.unavailable("cpu") is not None, reason="needs the CPU library")
def test_edges_are_put_in_order_once_a_graph_and_again_when_it_changes(monkeypatch) -> None:
    graph = AlignmentGraph.from_triples(*triples_of("random"))
    library, made = native.load("cpu"), []

    class Counting:
        def __getattr__(self, name: str) -> object:
            if name == "relation_reflection_stream":
                made.append(name)
            return getattr(library, name)

    x = torch.randn(graph.num_entities, 5, requires_grad=True)
    u = torch.nn.functional.normalize(torch.randn(graph.num_relation_sets, 5))
    c, w = torch.randn(graph.num_relation_sets), torch.randn(5)

    def outcome() -> list[Tensor]:
        found = []
        for neighbor_vector in (None, w):  # either mode walks the same edges
            y = relation_reflection_attention(x, u, c, graph, neighbor_vector, backend="cpu")
            found += [y.detach(), *torch.autograd.grad(y.square().sum(), x)]
        return found

    monkeypatch.setattr(native, "load", lambda device: Counting())
    first, again = outcome(), outcome()
    assert len(made) == 1
    assert all(map(torch.equal, first, again))
    graph.dst_set[:] = graph.dst_set.roll(1)
    y = relation_reflection_attention(x, u, c, graph, backend="cpu").detach()
    assert len(made) == 2
    expected = relation_reflection_attention(x, u, c, graph, backend="reference").detach()
    torch.testing.assert_close(y, expected)


def test_freed_with_its_key() -> None:
    kept: Derived[Tensor] = Derived()
    key = torch.ones(3)
    value = weakref.ref(kept.of(key, [key], lambda: torch.zeros(2)))
    assert value() is kept.of(key, [key], lambda: torch.ones(2))
    del key
    gc.collect()
    assert value() is None


@pytest.mark.parametrize("derive", ["features", "schedule", "layer"])
def test_tensors_of_inference_mode_count_no_changes_and_keep_nothing(derive: str) -> None:
    with torch.inference_mode():
        if derive == "features":
            matrix, x = features(), torch.eye(7)
            csr_product(matrix, x)
            matrix.values().mul_(2)
            torch.testing.assert_close(csr_product(matrix, x), matrix.to_dense())
        elif derive == "schedule":
            graph = AlignmentGraph.from_triples(*triples_of("random"))
            index = [t.clone() for t in _index_of(graph)]
            first = schedule_of(index, graph.num_relation_sets)
            assert schedule_of(index, graph.num_relation_sets) is not first
        else:
            from loginmea_fast.nn import RelationReflectionAttention

            layer, edges = RelationReflectionAttention(3, 2), torch.tensor([[0, 1], [1, 0]])
            kinds, x = torch.zeros(2, dtype=torch.int64), torch.randn(2, 3)
            one = layer(x, edges, kinds)
            edges[:, 1] = torch.tensor([0, 1])
            assert not torch.equal(layer(x, edges, kinds), one)
