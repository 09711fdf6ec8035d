from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from loginmea_fast.errors import InputError
from loginmea_fast.graph import AlignmentGraph
from loginmea_fast.ops import neighbor_mean, relation_reflectors
from loginmea_fast.ops.graph_mean import csr_product, sparse_product
from tests.helpers.compare import assert_close
from tests.helpers.graphs import ALWAYS_THERE, triples_of

BACKENDS = ("reference", "auto")
DTYPES = (torch.float32, torch.float64, torch.bfloat16)
WIDTHS = (1, 63, 300, 301)
CASES = tuple(case for case in ALWAYS_THERE if case != "no edges")


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The vendor's library and this package's, where it can serve."""
    monkeypatch.setenv("LOGINMEA_BACKEND", request.param)
    return str(request.param)


def make_graph(case: str) -> AlignmentGraph:
    return AlignmentGraph.from_triples(*triples_of(case))


def _plain_reflectors(relations: Tensor, graph: AlignmentGraph) -> Tensor:
    """Row after row, straight from docs/model.md, Reflectors."""
    rows = []
    for s in range(graph.num_relation_sets):
        members = slice(int(graph.set_rel_ptr[s]), int(graph.set_rel_ptr[s + 1]))
        count = graph.set_count[members].to(relations.dtype)
        rows.append((count @ relations[graph.set_relation[members].long()]) / count.sum())
    return F.normalize(torch.stack(rows), dim=1, eps=1e-12)


def _plain_neighbor_mean(x: Tensor, graph: AlignmentGraph) -> Tensor:
    rows = []
    for i in range(graph.num_entities):
        neighbors = graph.dst_source[int(graph.dst_ptr[i]) : int(graph.dst_ptr[i + 1])].tolist()
        rows.append(x[sorted({i, *neighbors})].mean(0))
    return torch.stack(rows)


Operator = Callable[[Tensor, AlignmentGraph], Tensor]
PAIRS = {
    "reflectors": (relation_reflectors, _plain_reflectors, lambda g: 2 * g.num_relations),
    "neighbor mean": (neighbor_mean, _plain_neighbor_mean, lambda g: g.num_entities),
}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("which", PAIRS)
def test_against_a_loop(backend: str, which: str, case: str, dtype: torch.dtype) -> None:
    operator, plain, rows = PAIRS[which]
    graph = make_graph(case)
    for width in WIDTHS:
        x = torch.randn(rows(graph), width).to(dtype).requires_grad_()
        truth = x.detach().double().requires_grad_()
        y, expected = operator(x, graph), plain(truth, graph)
        assert y.dtype == dtype
        assert_close(y, expected, f"{which}, width {width}")
        upstream = torch.randn(y.shape).to(dtype)
        (grad,) = torch.autograd.grad(y, x, upstream)
        (expected_grad,) = torch.autograd.grad(expected, truth, upstream.double())
        # A unit row of width 1 has no direction to change: its gradient is rounding.
        if width > 1 or which != "reflectors":
            assert_close(grad, expected_grad, f"gradient of {which}, width {width}")


@pytest.mark.parametrize("which", PAIRS)
def test_gradcheck(backend: str, which: str) -> None:
    operator, _, rows = PAIRS[which]
    graph = make_graph("parallel")
    x = torch.randn(rows(graph), 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda t: operator(t, graph), x)


@pytest.mark.parametrize("which", PAIRS)
def test_bitwise_the_same_for_any_number_of_threads(which: str) -> None:
    operator, _, rows = PAIRS[which]
    graph = make_graph("hub")
    x = torch.randn(rows(graph), 301, requires_grad=True)
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            y = operator(x, graph)
            results.append((y, *torch.autograd.grad(y, x, torch.ones_like(y))))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize("which", PAIRS)
def test_strided_rows_and_expanded_gradient(backend: str, which: str) -> None:
    operator, _, rows = PAIRS[which]
    graph = make_graph("random")
    wide = torch.full((rows(graph), 17), math.nan)
    wide[:, 4:11] = torch.randn(rows(graph), 7)
    results = []
    for x in (wide[:, 4:11].contiguous(), wide[:, 4:11], wide[:, 4:11].t().contiguous().t()):
        leaf = x.detach().requires_grad_()
        y = operator(leaf, graph)
        results.append((y.detach(), *torch.autograd.grad(y.sum(), leaf)))
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_a_set_without_direction(backend: str) -> None:
    """Relations that cancel: the sum is 0, so is the reflector, and nothing divides by its length."""
    edges = torch.tensor([[0, 0, 1], [1, 1, 0]])
    graph = AlignmentGraph.from_edges(edges, torch.tensor([0, 1, 1]), 2, 2)
    relations = torch.stack([torch.ones(4), -torch.ones(4)]).requires_grad_()
    reflectors = relation_reflectors(relations, graph)
    sizes = graph.set_rel_ptr.diff()
    assert torch.equal(reflectors[sizes == 2], torch.zeros(1, 4))
    (grad,) = torch.autograd.grad((reflectors * torch.arange(4.0)).sum(), relations)
    assert grad.isfinite().all()


def test_nan_stays_where_it_belongs(backend: str) -> None:
    graph = make_graph("random")
    x = torch.randn(graph.num_entities, 5)
    x[3] = math.nan
    source, destination = graph.edge_index()
    reached = torch.zeros(graph.num_entities, dtype=torch.bool)
    reached[destination[source == 3]] = True
    reached[3] = True
    assert torch.equal(neighbor_mean(x, graph).isnan().all(1), reached)


def test_opcheck(backend: str) -> None:
    graph = make_graph("parallel")
    ones = torch.rand(graph.num_edges)
    by_source = torch.rand(graph.num_edges)
    x = torch.randn(graph.num_entities, 5, requires_grad=True)
    forth, back = (graph.dst_ptr, graph.dst_source, ones), (graph.src_ptr, graph.src_destination, by_source)
    torch.library.opcheck(sparse_product, (*forth, *back, x))
    ops = torch.ops.loginmea_fast
    members = (graph.set_rel_ptr, graph.set_relation, graph.set_count)
    transposed = (graph.rel_ptr, graph.rel_set, graph.rel_count)
    relations = torch.randn(2 * graph.num_relations, 5, requires_grad=True)
    torch.library.opcheck(ops.relation_reflectors.default, (*members, *transposed, relations))
    size = graph.neighborhood_size
    index = (graph.dst_ptr, graph.dst_source, graph.src_ptr, graph.src_destination)
    own = (size - graph.degrees()).int()
    torch.library.opcheck(ops.neighborhood_mean.default, (*index, own, size, graph.visit_order, x))


@pytest.mark.parametrize("which", PAIRS)
def test_bad_input_says_what_was_expected(which: str) -> None:
    operator, _, rows = PAIRS[which]
    graph = make_graph("random")
    with pytest.raises(InputError, match="must have shape"):
        operator(torch.zeros(rows(graph) + 1, 5), graph)
    with pytest.raises(InputError, match="must have dtype"):
        operator(torch.zeros(rows(graph), 5, dtype=torch.int64), graph)


def test_a_sparse_matrix_may_have_32_bit_indices(backend: str) -> None:
    wide = torch.bernoulli(torch.full((7, 5), 0.4)).to_sparse_csr()
    parts = wide.crow_indices().int(), wide.col_indices().int()
    narrow = torch.sparse_csr_tensor(*parts, wide.values(), wide.shape)
    x = torch.randn(5, 3, requires_grad=True)
    (one,), (other,) = (torch.autograd.grad(csr_product(m, x).square().sum(), x) for m in (wide, narrow))
    assert torch.equal(one, other)
