from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from loginmea_fast.errors import InputError
from loginmea_fast.graph import AlignmentGraph
from loginmea_fast.native import unavailable
from loginmea_fast.ops import propagate
from tests.helpers.compare import assert_close
from tests.helpers.graphs import ALWAYS_THERE, triples_of

BACKENDS = (
    "reference",
    pytest.param("cpu", marks=pytest.mark.skipif(bool(unavailable("cpu")), reason=str(unavailable("cpu")))),
)
# Width and groups: one weight an edge, one a column, and groups of columns.
SHAPES = ((1, 1), (63, 1), (63, 63), (300, 300), (301, 43), (300, 1), (96, 3))


def make_graph(case: str) -> AlignmentGraph:
    triples, entities, relations = triples_of(case)
    if case == "no edges":
        nothing = torch.zeros(2, 0, dtype=torch.int64)
        return AlignmentGraph.from_edges(nothing, nothing[0], entities, 2 * relations)
    return AlignmentGraph.from_triples(triples, entities, relations)


def plain(x: Tensor, weights: Tensor, graph: AlignmentGraph, own: Tensor | None, normalize: bool) -> Tensor:
    """Edge after edge, in float64."""
    x, weights = x.double(), weights.double().repeat_interleave(x.shape[1] // weights.shape[1], 1)
    y = torch.zeros_like(x) if own is None else own.double()[:, None] * x
    source, destination = graph.edge_index()
    for j, i, s in zip(source.tolist(), destination.tolist(), graph.dst_set.tolist(), strict=True):
        y[i] += weights[s] * x[j]
    if normalize:
        length = y.norm(dim=1, keepdim=True)
        y = torch.where(length > 1e-12, y / length, 0.0)
    return y


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("case", ALWAYS_THERE)
@pytest.mark.parametrize("backend", BACKENDS)
def test_against_a_loop(backend: str, case: str, dtype: torch.dtype) -> None:
    graph = make_graph(case)
    for width, groups in SHAPES:
        x = torch.randn(graph.num_entities, width).to(dtype)
        weights = torch.randn(graph.num_relation_sets, groups)
        own = torch.rand(graph.num_entities)
        for mine, normalize in ((None, False), (own, True)):
            y = propagate(x, weights, graph, mine, normalize, backend=backend)
            assert y.dtype == dtype
            expected = plain(x, weights, graph, mine, normalize)
            assert_close(y, expected, f"width {width}, {groups} groups, normalize {normalize}")


@pytest.mark.parametrize("groups", [1, 301])
def test_bitwise_the_same_for_any_number_of_threads(groups: int) -> None:
    graph = make_graph("hub")
    x, weights = torch.randn(graph.num_entities, 301), torch.randn(graph.num_relation_sets, groups)
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(propagate(x, weights, graph))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(results[0], other) for other in results[1:])


@pytest.mark.parametrize("backend", BACKENDS)
def test_strided_rows(backend: str) -> None:
    graph = make_graph("random")
    wide = torch.full((graph.num_entities, 17), math.nan)
    wide[:, 4:11] = torch.randn(graph.num_entities, 7)
    weights = torch.randn(graph.num_relation_sets, 7)
    results = [
        propagate(x, w, graph, backend=backend)
        for x in (wide[:, 4:11].contiguous(), wide[:, 4:11], wide[:, 4:11].t().contiguous().t())
        for w in (weights, weights.t().contiguous().t())
    ]
    assert all(torch.equal(results[0], other) for other in results[1:])


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_row_that_nothing_reaches_is_zero_and_nan_stays(backend: str) -> None:
    graph = make_graph("isolated nodes")
    x = torch.randn(graph.num_entities, 5)
    alone = graph.degrees() == 0
    assert alone.any()
    y = propagate(x, torch.ones(graph.num_relation_sets, 1), graph, backend=backend)
    assert torch.equal(y[alone], torch.zeros_like(y[alone]))
    source, destination = graph.edge_index()
    x[source[0]] = math.nan
    reached = torch.zeros(graph.num_entities, dtype=torch.bool)
    reached[destination[source == source[0]]] = True
    y = propagate(x, torch.ones(graph.num_relation_sets, 1), graph, backend=backend)
    assert torch.equal(y.isnan().all(1), reached)


def test_opcheck() -> None:
    graph = make_graph("parallel")
    x, weights = torch.randn(graph.num_entities, 6), torch.rand(graph.num_relation_sets, 3)
    index = (graph.dst_ptr, graph.dst_source, graph.dst_set, graph.visit_order)
    torch.library.opcheck(torch.ops.loginmea_fast.propagate.default, (x, weights, None, *index, True, "auto"))


def test_what_is_propagated_has_no_gradient() -> None:
    graph = make_graph("random")
    x = torch.randn(graph.num_entities, 4, requires_grad=True)
    assert not propagate(x, torch.ones(graph.num_relation_sets, 1), graph).requires_grad


def test_bad_input_says_what_was_expected() -> None:
    graph = make_graph("random")
    x, weights = torch.randn(graph.num_entities, 6), torch.rand(graph.num_relation_sets, 1)
    with pytest.raises(InputError, match="x must have shape"):
        propagate(x[1:], weights, graph)
    with pytest.raises(InputError, match="set_weights must have shape"):
        propagate(x, weights[1:], graph)
    with pytest.raises(InputError, match="the 4 weights of a relation set must divide the 6 columns"):
        propagate(x, weights.expand(-1, 4), graph)
    with pytest.raises(InputError, match="own must have shape"):
        propagate(x, weights, graph, torch.ones(3))
    with pytest.raises(InputError, match="graph must be an AlignmentGraph"):
        propagate(x, weights, graph.edge_index())  # type: ignore[arg-type]
