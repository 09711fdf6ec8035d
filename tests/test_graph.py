"""AlignmentGraph against brute force over triples (docs/model.md, Graph)."""

from __future__ import annotations

from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from loginmea_fast import graph as graph_module
from loginmea_fast.errors import CheckpointError, InputError
from loginmea_fast.graph import AlignmentGraph
from loginmea_fast.ops import neighbor_mean, relation_reflectors
from tests.helpers.compare import assert_close
from tests.helpers.graphs import ALWAYS_THERE, graphs, triples_of


def brute_force_sets(triples: np.ndarray, num_relations: int) -> dict[tuple[int, int], Counter[int]]:
    """(destination, source) -> multiset of relation ids, one triple at a time."""
    sets: dict[tuple[int, int], Counter[int]] = defaultdict(Counter)
    for h, r, t in triples.tolist():
        sets[h, t][r] += 1
        sets[t, h][r + num_relations] += 1
    return sets


def contents_of(graph: AlignmentGraph, s: int) -> Counter[int]:
    a, b = graph.set_rel_ptr[s : s + 2].tolist()
    return Counter(
        dict(zip(graph.set_relation[a:b].tolist(), graph.set_count[a:b].int().tolist(), strict=True))
    )


def check(triples: np.ndarray, num_entities: int, num_relations: int) -> None:
    graph = AlignmentGraph.from_triples(triples, num_entities, num_relations)
    expected = brute_force_sets(triples, num_relations)
    source, destination = graph.edge_index().tolist()
    in_order = list(zip(destination, source, strict=True))
    assert in_order == sorted(expected)
    sets = graph.dst_set.tolist()
    assert all(contents_of(graph, s) == expected[edge] for s, edge in zip(sets, in_order, strict=True))
    distinct = {frozenset(c.items()) for c in expected.values()}
    assert graph.num_relation_sets == len(distinct)

    walked = []
    for j in range(num_entities):
        span = slice(*graph.src_ptr[j : j + 2].tolist())
        walked += [
            (j, *row)
            for row in zip(graph.src_set[span].tolist(), graph.src_destination[span].tolist(), strict=True)
        ]
    assert walked == sorted((j, s, i) for (i, j), s in zip(in_order, sets, strict=True))
    assert [in_order[e] for e in graph.src_edge.tolist()] == [(i, j) for j, _, i in walked]
    assert graph.dst_set[graph.set_edge.long()].tolist() == sorted(sets)
    assert graph.set_ptr.diff().tolist() == np.bincount(sets, minlength=graph.num_relation_sets).tolist()
    assert sorted(graph.visit_order.tolist()) == list(range(num_entities))
    neighbors = [{i} | {j for d, j in in_order if d == i} for i in range(num_entities)]
    assert graph.neighborhood_size.tolist() == [len(n) for n in neighbors]

    x = torch.randn(num_entities, 5, dtype=torch.float64, requires_grad=True)
    mean = torch.stack([x[sorted(n)].mean(0) for n in neighbors])
    assert_close(neighbor_mean(x, graph), mean, "neighbor_mean")
    g = torch.randn_like(mean)
    (wanted,) = torch.autograd.grad(mean, x, g)
    (got,) = torch.autograd.grad(neighbor_mean(x, graph), x, g)
    assert_close(got, wanted, "neighbor_mean gradient")

    p = torch.randn(2 * num_relations, 3, dtype=torch.float64, requires_grad=True)
    rows = [p[sorted(contents_of(graph, s).elements())].mean(0) for s in range(graph.num_relation_sets)]
    u = torch.nn.functional.normalize(torch.stack(rows), dim=1, eps=1e-12)
    assert_close(relation_reflectors(p, graph), u, "relation_reflectors")
    g = torch.randn_like(u)
    (wanted,) = torch.autograd.grad(u, p, g)
    (got,) = torch.autograd.grad(relation_reflectors(p, graph), p, g)
    assert_close(got, wanted, "relation_reflectors gradient")


@pytest.mark.parametrize("name", [n for n in ALWAYS_THERE if n != "no edges"])
def test_always_there(name: str) -> None:
    check(*triples_of(name))


@given(graphs())
def test_any_graph(case: tuple[np.ndarray, int, int]) -> None:
    check(*case)


@given(st.integers(0, 2**32 - 1))
def test_breadth_first_survives_many_components(seed: int) -> None:
    rng = np.random.default_rng(seed)
    pairs = rng.permutation(400).reshape(-1, 2)
    triples = np.stack([pairs[:, 0], np.zeros(200, np.int64), pairs[:, 1]], 1)
    graph = AlignmentGraph.from_triples(triples, 410, 1)
    assert sorted(graph.visit_order.tolist()) == list(range(410))


def test_more_components_than_breadth_first_steps() -> None:
    pairs = np.arange(6000).reshape(-1, 2)
    triples = np.stack([pairs[:, 0], np.zeros(3000, np.int64), pairs[:, 1]], 1)
    graph = AlignmentGraph.from_triples(triples, 6000, 1)
    assert sorted(graph.visit_order.tolist()) == list(range(6000))


def test_repeated_parallel_and_looped_triples_make_one_edge_each() -> None:
    graph = AlignmentGraph.from_triples(torch.tensor([[0, 0, 1], [0, 0, 1], [0, 1, 1], [2, 0, 2]]), 4, 2)
    assert graph.num_edges == 3
    assert contents_of(graph, int(graph.dst_set[1])) == Counter({2: 2, 3: 1})  # 1 <- 0, inverses
    assert contents_of(graph, int(graph.dst_set[2])) == Counter({0: 1, 2: 1})  # 2 <- 2, relation and inverse
    assert graph.summary()["entities_without_triples"] == 1
    assert graph.summary()["incidences"] == 8


def test_directed_edges_as_pyg_holds_them() -> None:
    edge_index = torch.tensor([[0, 0, 2], [1, 1, 0]])
    graph = AlignmentGraph.from_edges(edge_index, torch.tensor([0, 3, 1]), 3, 4)
    assert graph.edge_index().tolist() == [[2, 0], [0, 1]]
    assert contents_of(graph, int(graph.dst_set[1])) == Counter({0: 1, 3: 1})


@pytest.mark.parametrize(
    ("triples", "message"),
    [
        (np.zeros((0, 3), np.int64), "at least one triple"),
        (np.zeros((4, 2), np.int64), r"shape \[triples, 3\]"),
        (np.zeros((4, 3)), "integers"),
        (np.array([[0, 0, 1], [0, 0, 7]]), r"triple 1 has tail 7, outside \[0, 3\)"),
        (np.array([[-1, 0, 1]]), "head -1"),
        (np.array([[0, 9, 1]]), r"relation 9, outside \[0, 2\)"),
    ],
)
def test_bad_triples(triples: np.ndarray, message: str) -> None:
    with pytest.raises(InputError, match=message):
        AlignmentGraph.from_triples(triples, 3, 2)


@pytest.mark.parametrize(
    ("edge_index", "edge_type", "ids", "message"),
    [
        (torch.zeros(3, 2).long(), torch.zeros(2).long(), 2, r"shape \[2, edges\]"),
        (torch.zeros(2, 2).long(), torch.zeros(2).long(), 3, "even"),
        (torch.tensor([[0.7], [1.2]]), torch.zeros(1).long(), 2, "edge_index must hold integers.*float32"),
        (torch.zeros(2, 1).long(), torch.tensor([1.5]), 2, "edge_type must hold integers.*float32"),
        (torch.zeros(2, 1).long(), torch.tensor([True]), 2, "edge_type must hold integers.*bool"),
        (torch.tensor([[5], [0]]), torch.zeros(1).long(), 2, "edge 0 has source 5.*check num_entities"),
        (torch.zeros(2, 1).long(), torch.tensor([2]), 2, r"type 2, outside \[0, 2\); check num_relation_ids"),
    ],
)
def test_bad_edges(edge_index: torch.Tensor, edge_type: torch.Tensor, ids: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        AlignmentGraph.from_edges(edge_index, edge_type, 3, ids)


def test_more_than_32_bits_can_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("loginmea_fast.graph._INT32_MAX", 7)
    triples = np.zeros((4, 3), np.int64)
    AlignmentGraph.from_triples(triples[:3], 7, 1)
    with pytest.raises(InputError, match=r"can have 7 typed edges, inverses included.*got 8"):
        AlignmentGraph.from_triples(triples, 3, 1)
    with pytest.raises(InputError, match=r"can have 7 entities.*got 8"):
        AlignmentGraph.from_triples(triples[:3], 8, 1)
    with pytest.raises(InputError, match="typed edges"):
        AlignmentGraph.from_edges(torch.zeros(2, 8).long(), torch.zeros(8).long(), 3, 2)


def test_save_and_load(tmp_path: Path) -> None:
    graph = AlignmentGraph.from_triples(*triples_of("random"))
    graph.save(tmp_path / "graph.safetensors")
    again = AlignmentGraph.load(tmp_path / "graph.safetensors")
    assert again.summary() == graph.summary()
    assert all(torch.equal(a, b) for a, b in zip(graph.index, again.index, strict=True))


def test_load_says_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="cannot be read"):
        AlignmentGraph.load(tmp_path / "missing.safetensors")
    graph = AlignmentGraph.from_triples(*triples_of("random"))
    path = tmp_path / "graph.safetensors"
    graph.save(path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="cannot be read"):
        AlignmentGraph.load(path)
    from safetensors.torch import save_file

    save_file({"x": torch.zeros(1)}, path)
    with pytest.raises(CheckpointError, match="holds no AlignmentGraph"):
        AlignmentGraph.load(path)
    save_file({"x": torch.zeros(1)}, path, metadata={"alignment_graph": '{"version": 999}'})
    with pytest.raises(CheckpointError, match="newer version"):
        AlignmentGraph.load(path)


def test_means_check_their_arguments() -> None:
    triples, n, r = triples_of("random")
    graph = AlignmentGraph.from_triples(triples, n, r)
    for mean in (relation_reflectors, neighbor_mean):
        with pytest.raises(InputError, match=r"graph must be an AlignmentGraph.*from_edges; got Tensor"):
            mean(torch.randn(2 * r, 4), graph.edge_index())  # type: ignore[arg-type]
    with pytest.raises(InputError, match="relation_embedding must have shape"):
        relation_reflectors(torch.randn(2 * r + 1, 4), graph)
    with pytest.raises(InputError, match="x must have shape"):
        neighbor_mean(torch.randn(n + 1, 4), graph)
    with pytest.raises(InputError, match="dtype"):
        neighbor_mean(torch.zeros(n, 4, dtype=torch.int64), graph)
    with pytest.raises(InputError, match="meta"):
        neighbor_mean(torch.zeros(n, 4, device="meta"), graph)


def test_opcheck() -> None:
    from loginmea_fast.ops.graph_mean import sparse_product

    triples, n, r = triples_of("random")
    graph = AlignmentGraph.from_triples(triples, n, r)
    x = torch.randn(n, 4, requires_grad=True)
    ones = torch.ones(graph.num_edges)
    args = (graph.dst_ptr, graph.dst_source, ones, graph.src_ptr, graph.src_destination, ones, x)
    torch.library.opcheck(sparse_product, args)


def test_no_edges_at_all() -> None:
    graph = AlignmentGraph.from_edges(torch.zeros(2, 0).long(), torch.zeros(0).long(), 3, 2)
    assert (graph.num_edges, graph.num_relation_sets) == (0, 0)
    x = torch.randn(3, 4)
    assert torch.equal(neighbor_mean(x, graph), x)


@pytest.mark.parametrize(
    ("limit", "width", "count"),
    [(3, 1, 50), (3, 2, 50), (1000, 3, 50), (5, 1, 1), (10**7, 3, 60), (2, 5, 400)],
)
def test_equal_relation_sets_are_found_however_they_are_compared(limit: int, width: int, count: int) -> None:
    rng = np.random.default_rng(0)
    rows = np.sort(rng.integers(0, limit, (count, width)), axis=1)
    rows[count // 2 :] = rows[: count - count // 2]
    _, first, kind = np.unique(rows, axis=0, return_index=True, return_inverse=True)
    got_first, got_kind = graph_module._distinct(rows, limit)
    assert np.array_equal(got_first, first)
    assert np.array_equal(got_kind, kind.reshape(-1))
