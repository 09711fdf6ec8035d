"""Views: which entities and edges the layers need, natively and in plain PyTorch, and what is wrong with rows."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from loginmea_fast import AlignmentGraph, native, view
from loginmea_fast.errors import InputError
from loginmea_fast.graph import View
from tests.helpers.graphs import ALWAYS_THERE, graphs
from tests.ops.test_relation_reflection_attention import make_graph


def edges_of(graph: AlignmentGraph) -> list[tuple[int, int, int]]:
    """(destination, source, set) of every edge."""
    source, destination = graph.edge_index().tolist()
    return list(zip(destination, source, graph.dst_set.tolist(), strict=True))


def assert_exact(graph: AlignmentGraph, rows: torch.Tensor, depth: int) -> None:
    """The definition, one edge at a time."""
    seen = View.of(graph, rows, depth)
    edges, wanted = edges_of(graph), set(rows.tolist())
    needed = [wanted]
    for _ in range(depth):
        needed.append(wanted | {j for i, j, _ in edges if i in needed[-1]})
    assert seen.entities is not None
    assert seen.local is not None
    ids = seen.entities.tolist()
    assert ids[: len(rows)] == rows.tolist()
    assert seen.num_rows == len(rows)
    assert [int(n) for n in seen.local[seen.entities]] == list(range(len(ids)))
    assert int((seen.local >= 0).sum()) == seen.num_entities == len(ids)
    for layer, block in enumerate(seen.blocks):
        sources, destinations = needed[depth - layer], needed[depth - layer - 1]
        assert set(ids[: block.sources]) == sources
        assert block.sources == len(sources)
        assert set(ids[: block.destinations]) == destinations
        assert block.destinations == len(destinations)
        degree = block.dst_ptr.diff()
        into = torch.repeat_interleave(torch.arange(block.destinations), degree)
        listed = [
            (ids[i], ids[j], s)
            for i, j, s in zip(into.tolist(), block.dst_source.tolist(), block.dst_set.tolist(), strict=True)
        ]
        assert sorted(listed) == sorted(e for e in edges if e[0] in destinations)
        out = torch.repeat_interleave(torch.arange(block.sources), block.src_ptr.diff())
        by_source = zip(block.src_destination.tolist(), out.tolist(), block.src_set.tolist(), strict=True)
        assert [listed[e] for e in block.src_edge.tolist()] == [(ids[i], ids[j], s) for i, j, s in by_source]
        for ptr, sets in ((block.dst_ptr, block.dst_set), (block.src_ptr, block.src_set)):
            for first, end in zip(ptr[:-1].tolist(), ptr[1:].tolist(), strict=True):
                assert sets[first:end].tolist() == sorted(sets[first:end].tolist())


@pytest.fixture(params=["native", "plain"])
def builder(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "plain":
        monkeypatch.setattr(view, "_library", lambda graph: None)
    elif reason := native.unavailable("cpu"):
        pytest.skip(reason)
    return str(request.param)


@pytest.mark.parametrize("case", ALWAYS_THERE)
def test_every_layer_has_its_entities_and_edges(builder: str, case: str) -> None:
    graph = make_graph(case)
    order = torch.randperm(graph.num_entities, generator=torch.Generator().manual_seed(0))
    for count in (0, 1, 3, graph.num_entities):
        for depth in (1, 2, 3):
            assert_exact(graph, order[:count], depth)


@given(graphs(), st.data())
def test_any_graph_and_any_rows(drawn: tuple[np.ndarray, int, int], data: st.DataObject) -> None:
    graph = AlignmentGraph.from_triples(*drawn)
    rows = data.draw(st.lists(st.integers(0, graph.num_entities - 1), unique=True))
    assert_exact(graph, torch.tensor(rows, dtype=torch.int64), data.draw(st.integers(1, 3)))


@pytest.mark.skipif(native.unavailable("cpu") is not None, reason="needs the CPU library")
def test_native_and_plain_are_the_same_bit_for_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    for case in ALWAYS_THERE:
        graph = make_graph(case)
        rows = torch.arange(graph.num_entities).flip(0)[: 1 + graph.num_entities // 3]
        found = []
        for library in (native.load("cpu"), None):
            monkeypatch.setattr(view, "_library", lambda graph, library=library: library)
            found.append(view._build(graph, rows, 2, view._numbered(rows, graph)))
        for a, b in zip(found[0].blocks, found[1].blocks, strict=True):
            assert all(map(torch.equal, a, b)), case


def test_kept_while_the_links_stay() -> None:
    graph = make_graph("random")
    rows = torch.tensor([5, 1])
    first = graph.view(rows)
    assert graph.view(rows.clone()).blocks is first.blocks
    assert graph.view(rows.flip(0)).blocks is not first.blocks
    again = graph.view(rows)
    graph.dst_set[:] = graph.dst_set.flip(0)
    changed = graph.view(rows)
    assert changed.blocks is not again.blocks
    place = int(graph.dst_ptr[5])
    degree = int(changed.blocks[0].dst_ptr[1])
    assert changed.blocks[0].dst_set[:degree].tolist() == sorted(
        graph.dst_set[place : place + degree].tolist()
    )


def test_rows_asked_for_more_than_once_or_nearly_all() -> None:
    graph = make_graph("random")
    rows = torch.tensor([5, 1, 5, 9])
    seen, plain = graph.view(rows), graph.view(torch.tensor([1, 5, 9]))
    assert seen.blocks is plain.blocks
    assert torch.equal(seen.rows, rows)
    assert torch.equal(seen.entities[seen.again], rows)
    table = torch.arange(40)
    assert torch.equal(seen.first(seen.take(table)), rows)
    assert torch.equal(seen.asked().first(seen.asked().take(table)), rows)
    once, again = seen.once()
    assert torch.equal(once.first(once.take(table))[again], rows)
    for most in (torch.arange(21), torch.arange(21).repeat(2)):
        whole = graph.view(most)
        assert whole.entities is None
        assert torch.equal(whole.first(table), most)
        assert torch.equal(whole.asked().first(whole.asked().take(table)), most)
        assert len(whole.asked().entities) == 21
    assert graph.view(torch.arange(20).repeat(3)).entities is not None, "twenty of forty, however often"


def test_whoever_asks_for_the_formula_has_nothing_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGINMEA_BACKEND", "reference")
    monkeypatch.setattr(native, "load", lambda device: pytest.fail("a library was asked for"))
    assert_exact(make_graph("random"), torch.tensor([3, 1]), 2)


def test_everything() -> None:
    graph = make_graph("random")
    whole, table = graph.view(), torch.arange(graph.num_entities)
    assert (whole.num_rows, whole.num_entities, whole.blocks) == (40, 40, ())
    assert whole.take(table) is table
    assert whole.first(table) is table


@pytest.mark.parametrize(
    ("rows", "depth", "message"),
    [
        (torch.tensor([3, 40]), 2, r"rows\[1\] is entity 40, outside \[0, 40\)"),
        (torch.tensor([-1]), 2, r"rows\[0\] is entity -1, outside"),
        (torch.tensor([0.5]), 2, r"int64 tensor \[rows\] of entities; got torch.float32 \[1\]"),
        (torch.zeros(2, 2, dtype=torch.int64), 2, r"got torch.int64 \[2, 2\]"),
        ([1, 2], 2, "got list"),
        (torch.tensor([3]), 0, "at least one layer; got depth 0"),
    ],
)
def test_wrong_rows(rows: torch.Tensor, depth: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make_graph("random").view(rows, depth)
