"""Operators over a view against the same operators over the whole graph: the rows asked for, and every gradient."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from loginmea_fast import AlignmentGraph
from loginmea_fast.errors import BackendError, InputError
from loginmea_fast.graph import View
from loginmea_fast.ops import neighbor_mean, relation_reflection_attention, relation_reflection_layers
from loginmea_fast.ops.graph_mean import csr_product
from loginmea_fast.ops.relation_reflection_attention import _attention, _index_of, _layers
from loginmea_fast.reference import relation_reflection_attention as reference
from tests.helpers.compare import assert_close
from tests.helpers.graphs import ALWAYS_THERE
from tests.ops.test_relation_reflection_attention import cut_graph, make_graph

# Two layers of sums in another order; a bfloat16 layer reads what the one below has rounded.
BOUNDS = {torch.float32: (1e-4, 2e-5), torch.float64: (1e-10, 1e-11), torch.bfloat16: (6e-2, 1.6e-2)}


def device_of(backend: str) -> str:
    return "cuda" if backend in ("cuda", "triton") and torch.cuda.is_available() else "cpu"


@pytest.fixture(params=["reference", "cpu", "triton", "cuda"])
def backend(request: pytest.FixtureRequest) -> str:
    """Every backend that can serve here; the others skip with the reason that users would read."""
    name: str = request.param
    graph = make_graph("one node").to(device_of(name))
    x = torch.zeros(1, 2, device=graph.device)
    try:
        relation_reflection_attention(x, x.new_zeros(graph.num_relation_sets, 2), None, graph, backend=name)
    except BackendError as error:
        pytest.skip(str(error))
    return name


def rows_of(graph: AlignmentGraph, count: int) -> Tensor:
    return torch.randperm(graph.num_entities, generator=torch.Generator().manual_seed(count))[:count]


def leaves_of(
    graph: AlignmentGraph, width: int, layers: int, triple: bool, dtype: torch.dtype
) -> list[Tensor]:
    """x, reflectors, logits, relation vectors and, in triple mode, neighbour vectors."""
    generator = torch.Generator().manual_seed(width)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    wide = torch.float64 if dtype == torch.float64 else torch.float32
    sets = graph.num_relation_sets
    leaves = [
        normal(graph.num_entities, width).tanh().to(dtype),
        F.normalize(normal(sets, width), dim=1).to(dtype),
        normal(layers, sets).to(wide),
        (normal(layers, width) / width**0.5).to(wide),
    ]
    return leaves + ([(normal(layers, width) / width**0.5).to(wide)] if triple else [])


def outcome(
    graph: AlignmentGraph, rows: Tensor, leaves: list[Tensor], backend: str, by_view: bool
) -> list[Tensor]:
    """The rows of all layers and the gradients of all leaves."""
    leaves = [t.detach().to(graph.device).requires_grad_() for t in leaves]
    x, u, c, v, w = [*leaves, None][:5]
    if by_view:
        seen = View.of(graph, rows, len(c))
        out = relation_reflection_layers(seen.take(x), u, c, seen, w, backend=backend, relation_vectors=v)
    else:
        out = relation_reflection_layers(x, u, c, graph, w, backend=backend, relation_vectors=v)[rows]
    upstream = torch.linspace(-1, 1, out.numel(), device=out.device).view_as(out).to(out.dtype)
    return [out.detach(), *torch.autograd.grad(out, leaves, upstream)]


def assert_same(got: list[Tensor], wanted: list[Tensor], dtype: torch.dtype, what: str) -> None:
    # dc, dv and dw are sums whose terms cancel; their errors are held to the size of the terms.
    term = wanted[0].double().norm(dim=1).max().item() if wanted[0].numel() else 1.0
    names = ("out", "dx", "du", "dc", "dv", "dw")
    for name, a, b in zip(names, got, wanted, strict=False):
        shift = term if name in ("dc", "dv", "dw") else 0.0
        assert_close(a.double() + shift, b.double() + shift, f"{name} ({what})", bounds=BOUNDS[dtype])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("triple", [False, True], ids=["relation", "triple"])
@pytest.mark.parametrize("case", ALWAYS_THERE)
def test_layers_of_a_view(backend: str, case: str, triple: bool, dtype: torch.dtype) -> None:
    if backend == "triton" and device_of(backend) == "cpu" and dtype != torch.float32:
        pytest.skip("Triton's interpreter is wrong in bfloat16 and slow in float64")
    graph = make_graph(case).to(device_of(backend))
    for layers, count, width in ((1, 1, 5), (2, 3, 63), (3, 2, 5), (2, graph.num_entities, 5), (2, 0, 5)):
        rows = rows_of(graph, count).to(graph.device)
        leaves = leaves_of(graph, width, layers, triple, dtype)
        got, wanted = (outcome(graph, rows, leaves, backend, by_view) for by_view in (True, False))
        assert_same(got, wanted, dtype, f"{case}, {layers} layers, {count} rows")


@pytest.mark.parametrize("triple", [False, True], ids=["relation", "triple"])
def test_rows_cut_into_parts(backend: str, triple: bool) -> None:
    if backend == "triton" and device_of(backend) == "cpu":
        pytest.skip("90,000 edges take Triton's interpreter minutes")
    graph = cut_graph().to(device_of(backend))
    rows = torch.cat([torch.tensor([0]), 1 + rows_of(graph, 3000) % 9999]).unique().flip(0).to(graph.device)
    leaves = leaves_of(graph, 5, 2, triple, torch.float32)
    got, wanted = (outcome(graph, rows, leaves, backend, by_view) for by_view in (True, False))
    assert_same(got, wanted, torch.float32, "cut rows")


@pytest.mark.parametrize("triple", [False, True], ids=["relation", "triple"])
def test_one_layer_and_the_formula(backend: str, triple: bool) -> None:
    graph = make_graph("random").to(device_of(backend))
    rows = rows_of(graph, 4).to(graph.device)
    x, u, c, _, w = [*leaves_of(graph, 7, 1, triple, torch.float32), None][:5]
    seen = graph.view(rows, 1)
    x, u, c, w = (None if t is None else t.to(graph.device) for t in (x, u, c, w))
    vector = None if w is None else w[0]
    y = relation_reflection_attention(seen.take(x), u, c[0], seen, vector, "tanh", backend)
    wide = None if vector is None else vector.double()
    expected = reference.relation_reflection_attention(
        x.double(), u.double(), c[0].double(), graph, wide, "tanh"
    )
    assert_close(y, expected[rows], "y")
    by_formula = reference.relation_reflection_layers(seen.take(x), u, c, seen, w)
    assert_close(by_formula[:, 7:], expected[rows], "formula")


def test_bitwise_the_same_for_any_number_of_threads() -> None:
    graph = cut_graph()
    rows, before, results = rows_of(graph, 500), torch.get_num_threads(), []
    leaves = leaves_of(graph, 5, 2, True, torch.float32)
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(outcome(graph, rows, leaves, "auto", True))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(map(torch.equal, results[0], other))


@pytest.mark.parametrize("backend_name", ["reference", "auto"])
def test_opcheck(backend_name: str) -> None:
    graph = make_graph("random")
    for layers in (1, 2):
        seen = graph.view(rows_of(graph, 3), layers)
        leaves = [t.requires_grad_() for t in leaves_of(graph, 5, layers, True, torch.float64)]
        x, u, c, v, w = (seen.take(leaves[0]).detach().requires_grad_(), *leaves[1:])
        rest = (x, u, c, v, w, _index_of(seen))
        for activates in (False, True):
            torch.library.opcheck(_layers, (*rest, layers, activates, "tanh", backend_name))
        if layers == 1:
            torch.library.opcheck(_attention, (*rest, "tanh", backend_name))


@pytest.mark.parametrize("triple", [False, True], ids=["relation", "triple"])
def test_rows_asked_for_twice_and_most_of_them(backend: str, triple: bool) -> None:
    """The result is always of the rows asked for, in their order."""
    graph = make_graph("random").to(device_of(backend))
    for rows in (torch.tensor([3, 7, 3]), torch.arange(30).flip(0), torch.arange(30).repeat(2)):
        rows = rows.to(graph.device)
        x, u, c, _, w = [*leaves_of(graph, 7, 2, triple, torch.float32), None][:5]
        x, u, c, w = (None if t is None else t.to(graph.device) for t in (x, u, c, w))
        seen = graph.view(rows)
        got = relation_reflection_layers(seen.take(x), u, c, seen, w, backend=backend)
        wanted = relation_reflection_layers(x, u, c, graph, w, backend=backend)[rows]
        assert_close(got, wanted.double(), "rows")
        by_formula = reference.relation_reflection_layers(seen.take(x), u, c, seen, w)
        assert_close(by_formula, wanted.double(), "formula")


@pytest.mark.parametrize("native_kernels", [True, False], ids=["cpu", "plain"])
@pytest.mark.parametrize("case", ALWAYS_THERE)
def test_neighbor_means_of_a_view(case: str, native_kernels: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGINMEA_BACKEND", "auto" if native_kernels else "reference")
    graph = make_graph(case)
    seen = View.of(graph, rows_of(graph, min(2, graph.num_entities)), 1)
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        x = torch.randn(graph.num_entities, 9).to(dtype).requires_grad_()
        got, wanted = neighbor_mean(x, seen), neighbor_mean(x, graph)[seen.entities]
        assert_close(got, wanted.double(), "means", dtype)
        upstream = torch.randn(got.shape).to(dtype)
        (a,), (b,) = (torch.autograd.grad(y, x, upstream) for y in (got, wanted))
        assert_close(a, b.double(), "gradient", dtype)


@pytest.mark.parametrize("native_kernels", [True, False], ids=["cpu", "plain"])
def test_products_of_some_rows(native_kernels: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGINMEA_BACKEND", "auto" if native_kernels else "reference")
    graph = make_graph("random")
    bags = (torch.rand(40, 23) * (torch.rand(40, 23) > 0.7)).to_sparse_csr()
    seen = graph.view(rows_of(graph, 2), 1)
    x = torch.randn(23, 6, requires_grad=True)
    got, wanted = csr_product(bags, x, seen), (bags.to_dense() @ x)[seen.entities]
    assert_close(got, wanted.double(), "product")
    upstream = torch.randn_like(got)
    (a,), (b,) = (torch.autograd.grad(y, x, upstream) for y in (got, wanted))
    assert_close(a, b.double(), "gradient")


def test_operators_of_some_rows_check() -> None:
    graph = make_graph("random")
    seen = graph.view(rows_of(graph, 2), 1)
    ops = torch.ops.loginmea_fast
    x = torch.randn(40, 5, requires_grad=True)
    size = graph.neighborhood_size
    index = (graph.dst_ptr, graph.dst_source, graph.src_ptr, graph.src_destination)
    own = (size - graph.degrees()).int()
    torch.library.opcheck(
        ops.neighborhood_mean.default, (*index, own, size, graph.visit_order, x, seen.entities, seen.local)
    )
    ones = torch.ones(graph.num_edges)
    forth, back = (graph.dst_ptr, graph.dst_source, ones), (graph.src_ptr, graph.src_destination, ones)
    torch.library.opcheck(ops.sparse_product.default, (*forth, *back, x, seen.entities, seen.local))


def test_a_view_of_other_layers_or_rows() -> None:
    graph = make_graph("random")
    x, u, c, v = leaves_of(graph, 5, 2, False, torch.float32)
    seen = graph.view(rows_of(graph, 2), 3)
    with pytest.raises(InputError, match=r"of 3 layers and 2 are to be walked.*depth=2"):
        relation_reflection_layers(seen.take(x), u, c, seen, relation_vectors=v)
    seen = graph.view(rows_of(graph, 2), 1)
    with pytest.raises(InputError, match=r"x must have shape \[\d+, any\] = \[entities, width\]"):
        relation_reflection_attention(x[:1], u, c[0], seen)
