from __future__ import annotations

import math
import os
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from loginmea_fast.errors import BackendError, InputError
from loginmea_fast.graph import AlignmentGraph, View
from loginmea_fast.ops.relation_reflection_attention import (
    _attention,
    _index_of,
    _layers,
    relation_reflection_attention,
    relation_reflection_layers,
)
from loginmea_fast.reference import relation_reflection_attention as reference
from loginmea_fast.training.memory import measure_peak_memory
from tests.emulation import library
from tests.helpers.compare import assert_close
from tests.helpers.graphs import ALWAYS_THERE, graphs, triples_of

BACKENDS = ("reference", "cpu", "triton", "cuda")
DTYPES = (torch.float32, torch.float64, torch.bfloat16)
WIDTHS = (1, 63, 300, 301)
# Two layers: each rounds what the other made of its roundings.
BOUNDS = {torch.float32: (1e-4, 2e-5), torch.float64: (1e-10, 1e-11), torch.bfloat16: (6e-2, 1.6e-2)}


class Inputs(NamedTuple):
    x: Tensor
    reflectors: Tensor
    set_logits: Tensor
    neighbor_vectors: Tensor | None

    def map(self, change: Callable[[Tensor], Tensor]) -> Inputs:
        return Inputs(*(None if t is None else change(t) for t in self))

    def leaves(self) -> list[Tensor]:
        return [t for t in self if t is not None]


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    """Every backend that can serve here; the others skip with the reason that users would read."""
    name: str = request.param
    try:
        _run(make_graph("one node"), make_inputs(make_graph("one node"), 2).map(Tensor.float), backend=name)
    except BackendError as error:
        pytest.skip(str(error))
    return name


def _device(backend: str) -> str:
    return "cuda" if backend in ("cuda", "triton") and torch.cuda.is_available() else "cpu"


def make_graph(case: str) -> AlignmentGraph:
    triples, entities, relations = triples_of(case)
    if len(triples) == 0:
        empty = torch.zeros(2, 0, dtype=torch.int64)
        return AlignmentGraph.from_edges(empty, empty[0], entities, 2 * relations)
    return AlignmentGraph.from_triples(triples, entities, relations)


def cut_graph() -> AlignmentGraph:
    """A hub and enough edges that every kernel cuts rows: 30,000 out of one entity, 60,000 elsewhere."""
    rng = np.random.default_rng(1)
    hub = np.stack([np.zeros(30000, int), rng.integers(0, 3, 30000), rng.integers(1, 20000, 30000)], 1)
    rest = np.stack([rng.integers(0, n, 60000) for n in (20000, 40, 20000)], 1)
    return AlignmentGraph.from_triples(np.concatenate([hub, rest]), 20000, 40)


def make_inputs(
    graph: AlignmentGraph,
    width: int,
    layers: int = 2,
    triple: bool = False,
    dtype: torch.dtype = torch.float64,
) -> Inputs:
    generator = torch.Generator().manual_seed(width)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    x = normal(graph.num_entities, width).tanh().to(dtype)
    reflectors = F.normalize(normal(graph.num_relation_sets, width), dim=1).to(dtype)
    logits = normal(layers, graph.num_relation_sets)
    vectors = normal(layers, width) / width**0.5 if triple else None
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    return Inputs(x, reflectors, logits.to(wide), None if vectors is None else vectors.to(wide))


def _run(
    graph: AlignmentGraph, inputs: Inputs, activation: str | None = "tanh", backend: str = "cpu"
) -> Tensor:
    device = _device(backend)
    i = inputs.map(lambda t: t.to(device))
    return relation_reflection_layers(
        i.x, i.reflectors, i.set_logits, graph.to(device), i.neighbor_vectors, activation, backend
    )


def _results(
    graph: AlignmentGraph, inputs: Inputs, activation: str | None, backend: str, upstream: Tensor
) -> tuple[Tensor, list[Tensor]]:
    leaves = inputs.map(lambda t: t.detach().requires_grad_())
    out = _run(graph, leaves, activation, backend)
    return out.detach(), list(torch.autograd.grad(out, leaves.leaves(), upstream.to(out)))


def _truth(
    graph: AlignmentGraph, inputs: Inputs, out: Tensor, activation: str | None, upstream: Tensor
) -> tuple[Tensor, list[Tensor]]:
    """Each layer in float64 from the values that the layer below stored, and the gradient at those values."""
    i = inputs.map(lambda t: t.double())
    layers, width = i.set_logits.shape[0], i.x.shape[1]
    edges = reference.Edges.of(graph)
    stored = list(out.cpu().double().split(width, dim=1))
    z, lse = [i.x], []
    for layer in range(layers):
        w = None if i.neighbor_vectors is None else i.neighbor_vectors[layer]
        output, denominator = reference.relation_reflection_forward(
            stored[layer], i.reflectors, i.set_logits[layer], edges, w, activation
        )
        z.append(output)
        lse.append(denominator)
    grads = reference.relation_reflection_layers_backward(
        list(upstream.double().split(width, dim=1)),
        stored,
        torch.stack(lse),
        i.reflectors,
        i.set_logits,
        [edges] * layers,
        i.neighbor_vectors,
        activation,
    )
    return torch.cat(z, dim=1), [g for g in grads if g is not None]


def _assert_gradients(
    actual: list[Tensor], expected: list[Tensor], out: Tensor, upstream: Tensor, what: str, dtype: torch.dtype
) -> None:
    """dc and dw are sums of a (h . m - D), whose terms cancel; their errors are held to the size of the terms."""
    term = (upstream.double().norm(dim=1).max() * out.double().norm(dim=1).max()).cpu() / out.shape[1] ** 0.5
    for name, a, e in zip(("dx", "du", "dc", "dw"), actual, expected, strict=False):
        shift = term if name in ("dc", "dw") else 0.0
        assert_close(a.cpu().double() + shift, e + shift, f"{name} ({what})", bounds=BOUNDS[dtype])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("triple", [False, True], ids=["relation", "triple"])
@pytest.mark.parametrize("case", ALWAYS_THERE)
def test_layers_and_every_gradient(backend: str, case: str, triple: bool, dtype: torch.dtype) -> None:
    if backend == "triton" and _device(backend) == "cpu" and dtype != torch.float32:
        pytest.skip("Triton's interpreter is wrong in bfloat16 and slow in float64")
    graph = make_graph(case)
    for width in WIDTHS:
        for activation in ("tanh", None):
            inputs = make_inputs(graph, width, triple=triple, dtype=dtype)
            upstream = torch.randn(graph.num_entities, 3 * width).to(dtype)
            out, grads = _results(graph, inputs, activation, backend, upstream)
            expected, expected_grads = _truth(graph, inputs, out, activation, upstream)
            what = f"{case}, width {width}, {activation}"
            assert_close(out, expected, f"out ({what})", bounds=BOUNDS[dtype])
            _assert_gradients(grads, expected_grads, out, upstream, what, dtype)


@pytest.mark.parametrize("triple", [False, True], ids=["relation", "triple"])
@pytest.mark.parametrize(
    ("width", "dtype"),
    [
        *((width, dtype) for dtype in (torch.float32, torch.bfloat16) for width in (64, 330, 600, 1024)),
        (64, torch.float64),
    ],
    ids=str,
)
def test_rows_as_wide_as_every_layout(backend: str, width: int, dtype: torch.dtype, triple: bool) -> None:
    """With WIDTHS every branch of `with_layout` is taken, on a graph whose rows are cut and joined."""
    interpreted = backend == "triton" and _device(backend) == "cpu"
    if interpreted and dtype != torch.float32:
        pytest.skip("Triton's interpreter is wrong in bfloat16 and slow in float64")
    graph = make_graph("parallel" if interpreted else "hub")
    inputs = make_inputs(graph, width, triple=triple, dtype=dtype)
    upstream = torch.randn(graph.num_entities, 3 * width).to(dtype)
    out, grads = _results(graph, inputs, "tanh", backend, upstream)
    expected, expected_grads = _truth(graph, inputs, out, "tanh", upstream)
    assert_close(out, expected, "out", bounds=BOUNDS[dtype])
    _assert_gradients(grads, expected_grads, out, upstream, f"width {width}", dtype)


@pytest.mark.parametrize("triple", [False, True], ids=["relation", "triple"])
@pytest.mark.parametrize(
    ("width", "dtype"),
    [
        (8, torch.float32),
        # 48 KiB of shared memory, which with what the kernel declares must be asked for.
        (192, torch.float32),
        (300, torch.float32),
        (24, torch.bfloat16),
        (30, torch.float64),
        (63, torch.float32),  # no multiple of 16 bytes: without a ring
    ],
    ids=str,
)
def test_cuda_rings_bring_the_same_rows(
    width: int, dtype: torch.dtype, triple: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = make_graph("hub")
    inputs = make_inputs(graph, width, triple=triple, dtype=dtype)
    upstream = torch.randn(graph.num_entities, 3 * width)
    try:
        directly = _results(graph, inputs, "tanh", "cuda", upstream)
    except BackendError as error:
        pytest.skip(str(error))
    from loginmea_fast.ops import _dispatch

    if _dispatch.capability(directly[0]) < (9, 0):
        pytest.skip("bulk copies are of compute capability 9.0 and later")
    monkeypatch.setenv("LOGINMEA_HOPPER", "1")
    by_ring = _results(graph, inputs, "tanh", "cuda", upstream)
    assert_close(by_ring[0], directly[0], "output", dtype=dtype)
    for number, (ring, direct) in enumerate(zip(by_ring[1], directly[1], strict=True)):
        assert_close(ring, direct, f"gradient {number}", dtype=dtype)


@pytest.mark.parametrize("triple", [False, True], ids=["relation", "triple"])
def test_rows_cut_into_parts(backend: str, triple: bool) -> None:
    if backend == "triton" and _device(backend) == "cpu":
        pytest.skip("90,000 edges take Triton's interpreter minutes")
    graph = cut_graph()
    inputs = make_inputs(graph, 5, triple=triple, dtype=torch.float32)
    upstream = torch.randn(graph.num_entities, 15)
    out, grads = _results(graph, inputs, "tanh", backend, upstream)
    expected, expected_grads = _truth(graph, inputs, out, "tanh", upstream)
    assert_close(out, expected, "out")
    _assert_gradients(grads, expected_grads, out, upstream, "cut rows", torch.float32)


@pytest.mark.parametrize("case", ALWAYS_THERE)
def test_hand_derived_gradient_is_that_of_the_formula(case: str) -> None:
    graph = make_graph(case)
    for triple in (False, True):
        for activation in ("tanh", None):
            inputs = make_inputs(graph, 7, triple=triple).map(lambda t: t.requires_grad_())
            out = reference.relation_reflection_layers(
                inputs.x, inputs.reflectors, inputs.set_logits, graph, inputs.neighbor_vectors, activation
            )
            upstream = torch.randn_like(out)
            expected = torch.autograd.grad(out, inputs.leaves(), upstream)
            with torch.no_grad():
                _, actual = _truth(graph, inputs, out, activation, upstream)
            for name, a, e in zip(("dx", "du", "dc", "dw"), actual, expected, strict=False):
                assert_close(a, e, f"{name} of {case}")


def _brute_force(
    triples: np.ndarray, x: Tensor, relations: Tensor, v: Tensor, w: Tensor | None, num_relations: int
) -> Tensor:
    """The paper's formula, one entity after another, straight from the triples."""
    y = torch.zeros_like(x)
    both = [(h, r, t) for h, r, t in triples] + [(t, r + num_relations, h) for h, r, t in triples]
    for i in range(len(x)):
        edges: dict[int, list[int]] = {}
        for destination, r, source in both:
            if destination == i:
                edges.setdefault(source, []).append(r)
        logits, messages = [], []
        for j, ids in edges.items():
            u = F.normalize(relations[ids].mean(0), dim=0, eps=1e-12)
            messages.append(x[j] - 2 * (x[j] @ u) * u)
            logits.append(v @ u + (0 if w is None else w @ messages[-1]))
        if messages:
            y[i] = torch.stack(logits).softmax(0) @ torch.stack(messages)
    return y


@given(graphs(), st.booleans())
def test_against_a_loop_over_triples(drawn: tuple[np.ndarray, int, int], triple: bool) -> None:
    from loginmea_fast.ops import relation_reflectors

    triples, entities, num_relations = drawn
    graph = AlignmentGraph.from_triples(triples, entities, num_relations)
    generator = torch.Generator().manual_seed(0)
    x, relations, v, w = (
        torch.randn(*shape, 4, generator=generator, dtype=torch.float64)
        for shape in ((entities,), (2 * num_relations,), (), ())
    )
    reflectors = relation_reflectors(relations, graph)
    expected = _brute_force(triples, x, relations, v, w if triple else None, num_relations)
    for backend in ("reference", "auto"):
        y = relation_reflection_attention(
            x, reflectors, reflectors @ v, graph, w if triple else None, backend=backend
        )
        assert_close(y, expected, backend)


@pytest.mark.parametrize("triple", [False, True], ids=["relation", "triple"])
@pytest.mark.parametrize("case", ["parallel", "isolated nodes"])
def test_gradcheck(case: str, triple: bool) -> None:
    graph = make_graph(case)
    inputs = make_inputs(graph, 3, triple=triple).map(lambda t: t.requires_grad_())
    vectors = (inputs.neighbor_vectors,) if triple else ()
    arguments = (inputs.x, inputs.reflectors, inputs.set_logits, *vectors)
    assert torch.autograd.gradcheck(
        lambda x, u, c, *w: relation_reflection_layers(x, u, c, graph, *w, backend="auto"), arguments
    )
    assert torch.autograd.gradcheck(
        lambda x, u, c, *w: relation_reflection_attention(
            x, u, c[0], graph, *(t[0] for t in w), backend="auto"
        ),
        arguments,
    )


@pytest.mark.parametrize("backend_name", ["reference", "auto"])
def test_opcheck(backend_name: str) -> None:
    graph = make_graph("parallel")
    inputs = make_inputs(graph, 5, triple=True).map(lambda t: t.requires_grad_())
    v = torch.randn(2, 5, dtype=torch.float64, requires_grad=True)
    rest = (inputs.neighbor_vectors, _index_of(graph), 2, False, "tanh", backend_name)
    torch.library.opcheck(_layers, (inputs.x, inputs.reflectors, inputs.set_logits, v, *rest))
    activates = (*rest[:3], True, *rest[4:])
    torch.library.opcheck(_layers, (inputs.x, inputs.reflectors, inputs.set_logits, v, *activates))
    torch.library.opcheck(_layers, (inputs.x, inputs.reflectors, None, v, None, *rest[1:]))
    c, v, w = (t[:1].detach().requires_grad_() for t in (inputs.set_logits, v, inputs.neighbor_vectors))
    rest = (_index_of(graph), "none", backend_name)
    torch.library.opcheck(_attention, (inputs.x, inputs.reflectors, c, v, w, *rest))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("triple", [False, True], ids=["relation", "triple"])
@pytest.mark.parametrize("with_logits", [False, True], ids=["vectors", "vectors and logits"])
def test_logits_from_relation_vectors(
    backend: str, with_logits: bool, triple: bool, dtype: torch.dtype
) -> None:
    """v . u inside the operator is the product outside it, forward and for every gradient."""
    if backend == "triton" and _device(backend) == "cpu" and dtype != torch.float32:
        pytest.skip("Triton's interpreter is wrong in bfloat16 and slow in float64")
    graph = make_graph("random").to(_device(backend))
    inputs = make_inputs(graph, 37, triple=triple, dtype=dtype)
    wide = inputs.set_logits.dtype
    inputs = inputs.map(lambda t: t.to(_device(backend)).requires_grad_())
    v = torch.randn(2, 37, dtype=wide, device=_device(backend), requires_grad=True)
    c = inputs.set_logits if with_logits else None
    leaves = [t for t in (inputs.x, inputs.reflectors, c, v, inputs.neighbor_vectors) if t is not None]
    product = v @ inputs.reflectors.to(wide).t()
    results = []
    for logits, vectors in ((c, v), (product if c is None else c + product, None)):
        out = relation_reflection_layers(
            inputs.x,
            inputs.reflectors,
            logits,
            graph,
            inputs.neighbor_vectors,
            backend=backend,
            relation_vectors=vectors,
        )
        upstream = torch.linspace(-1, 1, out.numel(), device=out.device).view_as(out).to(dtype)
        results.append([out, *torch.autograd.grad(out, leaves, upstream)])
    for k, (inside, outside) in enumerate(zip(*results, strict=True)):
        assert_close(inside, outside.double(), f"result {k}", dtype=dtype, bounds=BOUNDS[dtype])


def test_attention_is_one_of_the_layers(backend: str) -> None:
    graph = make_graph("random").to(_device(backend))
    inputs = make_inputs(graph, 33, triple=True, dtype=torch.float32).map(lambda t: t.to(_device(backend)))
    out = _run(graph, inputs, "tanh", backend)
    z = inputs.x
    for layer in range(2):
        z = relation_reflection_attention(
            z,
            inputs.reflectors,
            inputs.set_logits[layer],
            graph,
            inputs.neighbor_vectors[layer],
            "tanh",
            backend,
        )
        assert torch.equal(out[:, 33 * (layer + 1) : 33 * (layer + 2)], z)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("triple", [False, True], ids=["relation", "triple"])
def test_bitwise_the_same_for_any_number_of_threads(triple: bool, dtype: torch.dtype) -> None:
    graph = cut_graph()
    inputs = make_inputs(graph, 5, triple=triple, dtype=dtype)
    upstream = torch.randn(graph.num_entities, 15).to(dtype)
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2, 3, 2):
            torch.set_num_threads(threads)
            results.append(_results(graph, inputs, "tanh", "auto", upstream))
    finally:
        torch.set_num_threads(before)
    first_out, first_grads = results[0]
    for out, grads in results[1:]:
        assert torch.equal(out, first_out)
        assert all(torch.equal(a, b) for a, b in zip(grads, first_grads, strict=True))


def test_backward_holds_no_row_an_edge() -> None:
    """Relation sets spread at random: each part of the edges meets most of them."""
    entities, sets, edges, width = 2_000, 4_000, 300_000, 256
    generator = torch.Generator().manual_seed(0)
    ends = torch.randint(entities, (2, edges), generator=generator)
    graph = AlignmentGraph.from_edges(
        ends, torch.randint(sets, (edges,), generator=generator), entities, sets
    )
    x = torch.randn(entities, width, requires_grad=True)
    u = torch.nn.functional.normalize(torch.randn(graph.num_relation_sets, width))
    out = relation_reflection_attention(x, u, torch.zeros(graph.num_relation_sets), graph, backend="cpu")
    with measure_peak_memory(torch.device("cpu")) as memory:
        (dx,) = torch.autograd.grad(out.sum(), x)
    assert dx.isfinite().all()
    features_and_reflectors = (entities + graph.num_relation_sets) * width * 4
    assert memory.peak - memory.before < 4 * features_and_reflectors < graph.num_edges * width * 4 / 4


def test_strided_input_and_expanded_gradient(backend: str) -> None:
    graph = make_graph("random").to(_device(backend))
    inputs = make_inputs(graph, 6, dtype=torch.float32).map(lambda t: t.to(_device(backend)))
    wide = torch.full((graph.num_entities, 17), math.nan, device=_device(backend))
    wide[:, 4:10] = inputs.x
    variants = (inputs.x, wide[:, 4:10], inputs.x.t().contiguous().t())
    results = []
    for x in variants:
        leaf = x.detach().requires_grad_()
        y = relation_reflection_attention(
            leaf, inputs.reflectors.t().contiguous().t(), inputs.set_logits[0], graph, backend=backend
        )
        y.sum().backward()
        results.append((y.detach(), leaf.grad))
    for y, grad in results[1:]:
        assert torch.equal(y, results[0][0])
        assert torch.equal(grad, results[0][1])


@pytest.mark.parametrize("offset", ["x", "reflectors", "neighbor_vectors"])
def test_arguments_that_begin_within_other_memory(backend: str, offset: str) -> None:
    """Contiguous, and not where four columns can be read at a time: nothing that is asked of a caller."""
    if backend == "triton" and _device(backend) == "cpu":
        pytest.skip("Triton's kernels ask for no alignment, and its interpreter takes seconds")
    graph = make_graph("random")
    inputs = make_inputs(graph, 600, triple=True, dtype=torch.float32).map(lambda t: t.to(_device(backend)))
    given = getattr(inputs, offset)
    flat = torch.empty(1 + given.numel(), device=given.device)
    moved = inputs._replace(**{offset: flat[1:].view_as(given).copy_(given)})
    upstream = torch.randn(graph.num_entities, 1800)
    out, grads = _results(graph, moved, "tanh", backend, upstream)
    expected, expected_grads = _truth(graph, inputs.map(Tensor.cpu), out, "tanh", upstream)
    assert_close(out, expected, "out")
    _assert_gradients(grads, expected_grads, out, upstream, offset, torch.float32)


@pytest.mark.parametrize("triple", [False, True], ids=["relation", "triple"])
def test_nan_reaches_neighbours_and_no_others(backend: str, triple: bool) -> None:
    graph = make_graph("random")
    inputs = make_inputs(graph, 5, layers=1, triple=triple, dtype=torch.float32)
    inputs.x[3] = math.nan
    out = _run(graph, inputs, "tanh", backend)[:, 5:]
    source, destination = graph.edge_index()
    reached = torch.zeros(graph.num_entities, dtype=torch.bool)
    reached[destination[source == 3]] = True
    assert torch.equal(out.isnan().all(dim=1).cpu(), reached)
    assert torch.equal(out.isnan().any(dim=1).cpu(), reached)


def test_a_nan_without_edges_reaches_no_gradient(backend: str) -> None:
    graph = AlignmentGraph.from_triples(torch.tensor([[0, 0, 1], [1, 1, 2], [2, 0, 0]]), 5, 2)
    inputs = make_inputs(graph, 5, layers=2, triple=True, dtype=torch.float32)
    inputs.x[3] = math.nan
    upstream = torch.ones(graph.num_entities, 15)
    _, grads = _results(graph, inputs, "tanh", backend, upstream)
    assert all(grad.isfinite().all() for grad in grads)


def test_a_logit_of_minus_infinity_leaves_a_relation_set_out(backend: str) -> None:
    graph = make_graph("hub")
    inputs = make_inputs(graph, 5, layers=1, dtype=torch.float32)
    # The first edges of the hub are left out, more than a program takes at a time; so is half of all else.
    inputs.set_logits[0, graph.dst_set[:250].unique().long()] = -math.inf
    inputs.set_logits[0, -2:] = 1.0
    inputs.set_logits[0, ::2] = -math.inf
    out = _run(graph, inputs, "tanh", backend)[:, 5:].cpu()
    edges = reference.Edges.of(graph)
    expected, _ = reference.relation_reflection_forward(
        inputs.x.double(), inputs.reflectors.double(), inputs.set_logits[0].double(), edges, None, "tanh"
    )
    assert not expected.isnan().all()
    assert torch.equal(out.isnan(), expected.isnan())  # an entity all of whose sets are left out
    assert_close(out.nan_to_num(), expected.nan_to_num(), "out", bounds=BOUNDS[torch.float32])


def test_rows_wider_than_a_backend_takes() -> None:
    from loginmea_fast.ops._attention_cuda import unsupported

    served = {torch.float32: (1024, 511), torch.bfloat16: (1024, 511), torch.float64: (384, 319)}
    for dtype, widths in served.items():
        assert all(unsupported(dtype, width) is None for width in widths)
        for width in (widths[0] + 4, widths[1] + 2):
            assert f"these have {width}" in (unsupported(dtype, width) or "")


def test_saturated_rows_have_finite_gradients(backend: str) -> None:
    graph = make_graph("random")
    inputs = make_inputs(graph, 5, dtype=torch.float32)
    scaled = inputs._replace(x=inputs.x * 40)
    upstream = torch.randn(graph.num_entities, 15)
    out, grads = _results(graph, scaled, "tanh", backend, upstream)
    assert (out[:, 5:].abs() == 1).any()
    _, expected = _truth(graph, scaled, out, "tanh", upstream)
    _assert_gradients(grads, expected, out, upstream, "saturated", torch.float32)


def test_activation_to_the_last_digits(backend: str) -> None:
    """One self loop an entity and no reflection: y = x, so that tanh and D = h . y stand alone."""
    values = torch.cat(
        [torch.linspace(-12, 12, 4001), torch.logspace(-30, 1, 500), -torch.logspace(-30, 1, 500)]
    )
    entities = torch.arange(len(values))
    device = _device(backend)
    graph = AlignmentGraph.from_edges(
        torch.stack([entities, entities]), torch.zeros(len(values), dtype=torch.int64), len(values), 2
    ).to(device)
    x = values[:, None].to(device)
    no_reflection, logits = (
        torch.zeros(1, 1, device=device),
        torch.zeros(1, device=device, requires_grad=True),
    )
    z = relation_reflection_attention(x, no_reflection, logits, graph, activation="tanh", backend=backend)
    expected = values.double().tanh()
    error = ((z[:, 0].cpu().double() - expected).abs() / expected.abs().clamp_min(1e-37)).max().item()
    assert error < 3e-7
    # dc = sum of h . m - D: nothing but the rounding of z, through (1 - z^2) x - (1 - z^2) atanh(z).
    (leftover,) = torch.autograd.grad(z.sum(), logits)
    assert leftover.abs().item() < 1e-7 * len(values)


def test_compiles_without_a_break() -> None:
    graph = make_graph("random")
    inputs = make_inputs(graph, 5, triple=True, dtype=torch.float32)

    def model(x: Tensor, u: Tensor, c: Tensor, w: Tensor) -> Tensor:
        return relation_reflection_layers(x.tanh(), u, c, graph, w).sum(1).sin()

    leaves = inputs.map(lambda t: t.requires_grad_()).leaves()
    eager = model(*leaves)
    compiled = torch.compile(model, fullgraph=True)(*leaves)
    assert_close(compiled, eager.double(), "forward")
    upstream = torch.randn_like(eager)
    grads = (torch.autograd.grad(y, leaves, upstream) for y in (compiled, eager))
    for actual, expected in zip(*grads, strict=True):
        assert_close(actual, expected.double(), "gradient")


def test_autocast_takes_the_wider_dtype() -> None:
    graph = make_graph("random")
    inputs = make_inputs(graph, 5, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        y = relation_reflection_attention(inputs.x.bfloat16(), inputs.reflectors, inputs.set_logits[0], graph)
    assert y.dtype == torch.float32


def test_second_derivative_is_refused() -> None:
    graph = make_graph("random")
    inputs = make_inputs(graph, 5).map(lambda t: t.requires_grad_())
    out = _run(graph, inputs, backend="auto")
    with pytest.raises(BackendError, match="differentiated once"):
        torch.autograd.grad(out.sum(), inputs.x, create_graph=True)


def _call(**changes: object) -> Tensor:
    graph = make_graph("random")
    inputs = make_inputs(graph, 5, dtype=torch.float32)
    arguments = {
        "x": inputs.x,
        "reflectors": inputs.reflectors,
        "set_logits": inputs.set_logits,
        "graph": graph,
        "neighbor_vectors": None,
    }
    return relation_reflection_layers(**(arguments | changes))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x": torch.zeros(39, 5)}, r"x must have shape \[40, any\]"),
        ({"x": torch.zeros(40, 6)}, r"reflectors must have shape \[\d+, 6\].*got \[\d+, 5\]"),
        (
            {"x": torch.zeros(40, 5, dtype=torch.float16)},
            "x must have dtype float32, float64, bfloat16; got float16",
        ),
        ({"x": torch.zeros(40, 5, dtype=torch.float64)}, "one dtype"),
        ({"x": torch.zeros(40, 5, device="meta")}, "one device"),
        ({"set_logits": torch.zeros(2, 3)}, "set_logits must have shape"),
        ({"set_logits": torch.zeros(0, 0)}, "at least one row"),
        ({"set_logits": None}, "set_logits or relation_vectors must have"),
        ({"relation_vectors": torch.zeros(3, 5)}, r"relation_vectors must have shape \[2, 5\]"),
        ({"neighbor_vectors": torch.zeros(2, 4)}, r"neighbor_vectors must have shape \[2, 5\]"),
        ({"activation": "relu"}, 'activation must be "tanh" or None'),
        ({"backend": "fast"}, "backend must be one of"),
        ({"graph": torch.zeros(2, 3)}, "graph must be an AlignmentGraph.*got Tensor"),
    ],
)
def test_bad_input_says_what_was_expected(changes: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        _call(**changes)


@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device can serve")
@pytest.mark.skipif(library.SEED in os.environ, reason="the emulator serves")
@pytest.mark.parametrize("name", ["cuda", "triton"])
def test_a_backend_that_cannot_serve_says_why(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(BackendError, match="cannot serve this call"):
        _call(backend=name)


def test_graph_on_another_device() -> None:
    with pytest.raises(InputError, match=r"x is on cpu, the graph on meta.*graph\.to"):
        _call(graph=make_graph("random").to("meta"))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("part", [None, 3, 1], ids=["all", "a third", "every entity"])
@pytest.mark.parametrize("case", ["random", "hub", "isolated nodes", "no edges"])
def test_an_input_that_is_activated_inside(
    backend: str, case: str, part: int | None, dtype: torch.dtype
) -> None:
    """The numbers of tanh outside, forward and every gradient, of a graph and of a view; none is activated twice."""
    if backend == "triton" and _device(backend) == "cpu" and dtype != torch.float32:
        pytest.skip("Triton's interpreter is wrong in bfloat16 and slow in float64")
    graph = make_graph(case).to(_device(backend))
    where: AlignmentGraph | View = graph
    if part is not None:
        where = graph.view(torch.arange(0, graph.num_entities, part, device=graph.device), 2)
    inputs = make_inputs(graph, 37, triple=True, dtype=dtype).map(lambda t: t.to(_device(backend)))
    results = []
    for inside in (True, False):
        leaves = inputs.map(lambda t: t.detach().requires_grad_())
        x = leaves.x if part is None else where.take(leaves.x)
        out = relation_reflection_layers(
            x if inside else torch.tanh(x),
            leaves.reflectors,
            leaves.set_logits,
            where,
            leaves.neighbor_vectors,
            backend=backend,
            activate_input=inside,
        )
        upstream = torch.linspace(-1, 1, out.numel(), device=out.device).view_as(out).to(dtype)
        results.append([out, *torch.autograd.grad(out, leaves.leaves(), upstream)])
    for name, inner, outer in zip(("out", "dx", "du", "dc", "dw"), *results, strict=True):
        assert_close(inner, outer.double(), name, dtype=dtype, bounds=BOUNDS[dtype])
    plain = [
        relation_reflection_layers(
            inputs.x, inputs.reflectors, inputs.set_logits, graph, None, None, backend, activate_input=a
        )
        for a in (True, False)
    ]
    assert torch.equal(*plain), "without an activation there is nothing to apply"
