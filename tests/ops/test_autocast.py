"""Under autocast, in bfloat16 and in float16: every operator answers, and its sums stay what they are."""

from __future__ import annotations

import importlib

import pytest
import torch
from torch import Tensor

from loginmea_fast import AlignmentGraph, LoginMEA, ops
from loginmea_fast.errors import BackendError
from loginmea_fast.nn import LowRankFusion, RelationReflectionAttention
from loginmea_fast.ops.low_rank_fusion import adaptive_low_rank_fusion, low_rank_fusion
from loginmea_fast.ops.modality_scale import modality_scale
from tests.helpers.compare import assert_close
from tests.helpers.graphs import sizes_of, triples_of

HALVES = [torch.bfloat16, torch.float16]


@pytest.fixture(params=["reference", "auto"])
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("LOGINMEA_BACKEND", request.param)
    return str(request.param)


@pytest.fixture
def graph() -> AlignmentGraph:
    return AlignmentGraph.from_triples(*triples_of("random"))


def output_and_gradient(call, x: Tensor, half: torch.dtype | None) -> tuple[Tensor, Tensor]:
    leaf = x.clone().requires_grad_()
    with torch.autocast("cpu", half or torch.bfloat16, enabled=half is not None):
        y = call(leaf)
        (gradient,) = torch.autograd.grad(y, leaf, torch.ones_like(y))  # backward inside, the worst case
    return y.detach(), gradient


@pytest.mark.parametrize("half", HALVES, ids=str)
@pytest.mark.parametrize(
    "operator", ["neighbor_mean", "relation_reflectors", "attention", "layers", "triple"]
)
def test_sums_over_a_graph_are_not_rounded(backend, graph, operator, half) -> None:
    reflectors = ops.relation_reflectors(torch.randn(2 * graph.num_relations, 9), graph)
    vector, logits = torch.randn(9), torch.randn(2, graph.num_relation_sets)
    calls = {
        "neighbor_mean": lambda x: ops.neighbor_mean(x, graph),
        "relation_reflectors": lambda x: ops.relation_reflectors(x[: 2 * graph.num_relations], graph),
        "attention": lambda x: ops.relation_reflection_attention(
            x, reflectors, None, graph, relation_vector=vector
        ),
        "layers": lambda x: ops.relation_reflection_layers(x, reflectors, logits, graph),
        "triple": lambda x: ops.relation_reflection_attention(
            x, reflectors, None, graph, relation_vector=vector, neighbor_vector=vector
        ),
    }
    x = torch.randn(graph.num_entities, 9)
    outside, inside = (output_and_gradient(calls[operator], x, h) for h in (None, half))
    assert all(torch.equal(a, b) for a, b in zip(inside, outside, strict=True))


@pytest.mark.parametrize("half", HALVES, ids=str)
def test_arguments_from_products_in_half_precision(backend, graph, half) -> None:
    linear = torch.nn.Linear(9, 9)
    x, table = torch.randn(graph.num_entities, 9), torch.randn(2 * graph.num_relations, 9)
    with torch.autocast("cpu", half):
        rows = linear(x)
        assert rows.dtype == half
        reflectors = ops.relation_reflectors(linear(table), graph)
        y = ops.relation_reflection_attention(rows, reflectors, None, graph, relation_vector=linear(x)[0])
        mean = ops.neighbor_mean(rows, graph)
    (y.sum() + mean.sum()).backward()
    assert y.dtype == mean.dtype == (half if half == torch.bfloat16 else torch.float32)
    assert linear.weight.grad.isfinite().all()


@pytest.mark.parametrize("half", HALVES, ids=str)
def test_fusion(backend, half) -> None:
    x, w = [torch.randn(20, 6) for _ in range(2)], [torch.randn(2, 7, 5) / 3 for _ in range(2)]
    small, query = (torch.randn(1, 2), torch.randn(1, 5)), torch.randn(1, 6)
    computes_in = torch.bfloat16 if half == torch.bfloat16 else torch.float32
    with torch.autocast("cpu", half):
        # Some arguments come from products in half precision, the small ones too.
        given = [x[0].to(half), x[1]]
        y = low_rank_fusion(given, w, *(t.to(half) for t in small))
        adaptive = adaptive_low_rank_fusion(given, query.to(half), w, *small)
        scale = modality_scale(given, query.to(half))
    assert y.dtype == adaptive.dtype == computes_in
    assert scale.dtype == torch.float32
    assert_close(y, low_rank_fusion(x, w, *small).double(), "fusion", bounds=(4e-2, 2e-2))
    exact = adaptive_low_rank_fusion(x, query, w, *small)
    assert_close(adaptive, exact.double(), "adaptive fusion", bounds=(4e-2, 2e-2))


@pytest.mark.parametrize("half", HALVES, ids=str)
def test_modules(backend, graph, half) -> None:
    torch.manual_seed(0)
    layer, fusion = RelationReflectionAttention(6, 2), LowRankFusion([6, 6], 5, 2)
    linear, x = torch.nn.Linear(6, 6), torch.randn(3, 6)
    edges, kinds = torch.tensor([[0, 1, 2], [1, 2, 0]]), torch.tensor([0, 1, 1])
    dims = {"image": 11, "relation": 7}
    model = LoginMEA(*sizes_of(graph), dims, hidden_dim=6, rank=3)
    features = {m: torch.randn(graph.num_entities, c) for m, c in dims.items()}
    features["relation"] = features["relation"].relu().to_sparse_csr()
    exact = model(features, graph.view()).joint
    with torch.autocast("cpu", half):
        total = layer(linear(x), edges, kinds).sum() + fusion([linear(x), x]).sum()
        joint = model(features, graph.view()).joint
    (total + joint.sum()).backward()
    assert (joint - exact).abs().max() < 0.03
    for parameter in (*layer.parameters(), *fusion.parameters(), *model.parameters()):
        assert parameter.grad.isfinite().all()


def test_native_precision_of_cuda_is_read_and_never_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """A setting of the process is every thread's: a call that it does not suit is refused."""
    from loginmea_fast.ops._fusion_cuda import unsupported

    settings = []
    monkeypatch.setattr(torch, "set_float32_matmul_precision", settings.append)
    monkeypatch.setattr(torch, "get_float32_matmul_precision", lambda: "high")
    assert unsupported(torch.float32, 3, "tf32") is None
    assert unsupported(torch.float32, 3, "bfloat16") is None
    assert unsupported(torch.bfloat16, 3, "ieee") is None
    assert "set_float32_matmul_precision('high')" in (unsupported(torch.float32, 3, "ieee") or "")
    monkeypatch.setattr(torch, "get_float32_matmul_precision", lambda: "highest")
    assert unsupported(torch.float32, 3, "ieee") is None
    assert settings == []


def _transforms(call, x: Tensor):
    from torch.autograd import forward_ad

    def forward_mode() -> None:
        with forward_ad.dual_level():
            call(forward_ad.make_dual(x, torch.ones_like(x)))

    return {
        "grad": lambda: torch.func.grad(lambda v: call(v).sum())(x),
        "vjp": lambda: torch.func.vjp(call, x),
        "jvp": lambda: torch.func.jvp(call, (x,), (torch.ones_like(x),)),
        "vmap": lambda: torch.func.vmap(call)(x[None]),
        "forward mode": forward_mode,
    }


@pytest.mark.parametrize("transform", ["grad", "vjp", "jvp", "vmap", "forward mode"])
@pytest.mark.parametrize(
    "operator",
    ["attention", "layers", "neighbor_mean", "reflectors", "fusion", "adaptive", "scale", "loss"],
)
def test_transforms_of_torch_func_are_refused_in_a_sentence(graph, operator, transform) -> None:
    reflectors = ops.relation_reflectors(torch.randn(2 * graph.num_relations, 4), graph)
    w, small = [torch.randn(2, 5, 3)], (torch.ones(1, 2), torch.ones(1, 3))
    calls = {
        "attention": lambda x: ops.relation_reflection_attention(x, reflectors, None, graph),
        "layers": lambda x: ops.relation_reflection_layers(
            x, reflectors, torch.zeros(1, graph.num_relation_sets), graph
        ),
        "neighbor_mean": lambda x: ops.neighbor_mean(x, graph),
        "reflectors": lambda x: ops.relation_reflectors(x[: 2 * graph.num_relations], graph),
        "fusion": lambda x: low_rank_fusion([x], w, *small),
        "adaptive": lambda x: adaptive_low_rank_fusion([x], None, w, *small),
        "scale": lambda x: modality_scale([x]),
        "loss": lambda x: ops.contrastive_loss(x, x, 0.1),
    }
    x = torch.randn(graph.num_entities, 4)
    with pytest.raises(BackendError, match=r"is inside (a transform of torch.func|forward-mode)") as caught:
        _transforms(calls[operator], x)[transform]()
    assert "\n" not in str(caught.value)


def test_the_checks_are_nothing_to_a_compiler() -> None:
    dispatch = importlib.import_module("loginmea_fast.ops._dispatch")

    def checked(x: Tensor) -> Tensor:
        dispatch.check_float("x", x)
        return x + 1

    compiled = torch.compile(checked, fullgraph=True, backend="eager")
    assert torch.equal(compiled(torch.zeros(2)), torch.ones(2))
