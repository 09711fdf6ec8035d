"""How a graph is cut for a GPU: every edge once, short pieces, cut rows first and in order."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest
import torch
from loginmea_fast.kernels._segments import SEGMENT, Schedule, Segments, schedule_of
from torch import Tensor

from loginmea_fast.graph import AlignmentGraph
from loginmea_fast.ops.relation_reflection_attention import _index_of
from tests.helpers.graphs import ALWAYS_THERE, triples_of


def make(case: str) -> AlignmentGraph:
    if case == "every length around a segment":
        lengths = (1, SEGMENT - 1, SEGMENT, SEGMENT + 1, 2 * SEGMENT, 2 * SEGMENT + 1)
        heads = np.repeat(np.arange(len(lengths)), lengths)
        tails = np.concatenate([np.arange(n) for n in lengths]) + len(lengths)
        triples = np.stack([heads, np.zeros_like(heads), tails], 1)
        return AlignmentGraph.from_triples(triples, int(tails.max()) + 1, 1)
    triples, entities, relations = triples_of(case)
    if len(triples) == 0:
        empty = torch.zeros(2, 0, dtype=torch.int64)
        return AlignmentGraph.from_edges(empty, empty[0], entities, 2 * relations)
    return AlignmentGraph.from_triples(triples, entities, relations)


def schedule(graph: AlignmentGraph) -> Schedule:
    return schedule_of(_index_of(graph), graph.num_relation_sets)


def assert_cut(segments: Segments, ptr: Tensor) -> None:
    row, start, stop = (t.tolist() for t in segments[:3])
    rows = len(ptr) - 1
    pieces: dict[int, list[tuple[int, int]]] = {r: [] for r in range(rows)}
    for r, a, b in zip(row, start, stop, strict=True):
        assert 0 <= b - a <= SEGMENT
        pieces[r].append((a, b))
    for r in range(rows):
        assert pieces[r], f"row {r} has no segment, so nothing writes it"
        ends = [end for piece in pieces[r] for end in piece]
        assert [ends[0], ends[-1]] == ptr[r : r + 2].tolist()
        assert ends[1:-1:2] == ends[2::2], f"the pieces of row {r} do not meet"
    assert segments.shared.tolist() == [r for r in range(rows) if len(pieces[r]) > 1]
    shared_ptr = segments.shared_ptr.tolist()
    assert shared_ptr[0] == 0
    assert shared_ptr[-1] == segments.parts
    for k, r in enumerate(segments.shared.tolist()):
        assert row[shared_ptr[k] : shared_ptr[k + 1]] == [r] * len(pieces[r])
    assert all(len(pieces[r]) == 1 for r in row[segments.parts :])


@pytest.mark.parametrize("case", [*ALWAYS_THERE, "every length around a segment"])
def test_segments_cover_every_edge_once(case: str) -> None:
    graph = make(case)
    s = schedule(graph)
    assert_cut(s.by_destination, graph.dst_ptr)
    assert_cut(s.by_source, graph.src_ptr)
    assert_cut(s.by_set, graph.set_ptr)
    if case == "every length around a segment":
        assert s.by_destination.parts
        assert s.by_set.parts


@pytest.mark.parametrize("case", ALWAYS_THERE)
def test_edges_by_set(case: str) -> None:
    graph = make(case)
    s = schedule(graph)
    edge = s.set_edge.long()
    assert torch.equal(edge.sort().values, torch.arange(graph.num_edges))
    sets = torch.repeat_interleave(torch.arange(graph.num_relation_sets), graph.set_ptr.diff())
    assert torch.equal(graph.src_set[edge].long(), sets)
    sources = torch.repeat_interleave(torch.arange(graph.num_entities), graph.src_ptr.diff())
    assert torch.equal(s.set_source.long(), sources[edge])
    assert torch.equal(s.set_destination, graph.src_destination[edge])


def test_made_once_and_gone_with_the_graph() -> None:
    graph = make("random")
    segments = schedule(graph).by_destination
    assert schedule(graph).by_destination is segments
    row = weakref.ref(segments.row)
    del graph, segments
    gc.collect()
    assert row() is None
