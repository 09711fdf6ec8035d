"""The model over a view: numbers and gradients of the whole graph, and what is no view of it."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from loginmea_fast import AlignmentGraph, LoginMEA, data
from loginmea_fast.errors import InputError
from loginmea_fast.graph import View
from loginmea_fast.nn import FeatureProjection, Features, projection
from tests.helpers.graphs import sizes_of

DIMS = {"image": 11, "relation": 7, "attribute": 5}
ZH_EN = Path(os.environ.get("LOGINMEA_DATA") or "../shared/data") / "dbp15k" / "zh_en"
MODELS = {
    "fused": {},
    "channels": {"aggregation": "channels"},
    "both": {"aggregation": "both"},
    "triple": {"attention": "triple"},
    "three layers": {"depth": 3, "aggregation": "channels"},
    "without the graph encoder": {"use_graph_encoder": False},
    "without global aggregation": {"use_global_aggregation": False},
    "summed": {"use_low_rank": False},
}


def make_graph() -> AlignmentGraph:
    """So sparse that a few hops do not reach everything."""
    rng = np.random.default_rng(0)
    triples = np.stack([rng.integers(0, n, 110) for n in (100, 6, 100)], 1)
    return AlignmentGraph.from_triples(triples, 100, 6)


@pytest.fixture
def graph() -> AlignmentGraph:
    return make_graph()


def features_of(graph: AlignmentGraph) -> Features:
    generator = torch.Generator().manual_seed(1)
    values = {name: torch.randn(graph.num_entities, d, generator=generator) for name, d in DIMS.items()}
    values["relation"] = values["relation"].relu().to_sparse_csr()
    values["attribute"] = values["attribute"].half()
    return Features(values, {"image": torch.rand(graph.num_entities, generator=generator) > 0.3})


def outcome(model: LoginMEA, features: Features, view: View, **more: Tensor) -> dict[str, Tensor]:
    """The output and the gradient of every parameter."""
    model.zero_grad()
    output = model(features, view, **more)
    found = {"joint": output.joint, **output.modalities}
    if output.graph is not None:
        found["graph"] = output.graph
    total = torch.stack([(t * torch.linspace(-1, 1, t.numel()).view_as(t)).sum() for t in found.values()])
    total.sum().backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return {**{name: t.detach() for name, t in found.items()}, **gradients}


def assert_same(got: dict[str, Tensor], wanted: dict[str, Tensor], bound: float) -> None:
    assert got.keys() == wanted.keys()
    for name, truth in wanted.items():
        error = (got[name] - truth).norm() / truth.norm().clamp_min(1e-6)
        assert error < bound, f"{name} is off by {error:.1e}"


@pytest.mark.parametrize("name", MODELS)
def test_numbers_and_gradients_are_those_of_the_whole_graph(graph: AlignmentGraph, name: str) -> None:
    torch.manual_seed(0)
    model, features = (
        LoginMEA(*sizes_of(graph), DIMS, hidden_dim=6, rank=3, **MODELS[name]),
        features_of(graph),
    )
    for rows in (torch.tensor([7]), torch.tensor([30, 2, 11])):
        hidden = {"hidden": torch.tensor([2, 5])} if model.graph_encoder is not None else {}
        wanted = outcome(model, features, View(graph, rows), **hidden)
        view = graph.view(rows, model.depth)
        assert view.num_entities < graph.num_entities
        assert_same(outcome(model, features, view, **hidden), wanted, 1e-5)
        torch.testing.assert_close(
            model.joint_rows(features, view), model.joint_rows(features, graph.view())[rows]
        )


def test_rows_given_twice_and_most_of_them(graph: AlignmentGraph) -> None:
    model, features = LoginMEA(*sizes_of(graph), DIMS, hidden_dim=6, rank=3), features_of(graph)
    many = torch.arange(99, -1, -1)
    for rows in (torch.tensor([7, 7, 1]), many, torch.cat([many, many[:7]])):
        view, truth = graph.view(rows), model(features, graph.view()).joint[rows]
        assert (view.entities is None) == (len(rows) > 50)
        assert_same(outcome(model, features, view), outcome(model, features, View(graph, rows)), 1e-5)
        torch.testing.assert_close(model.joint_rows(features, view), truth)
        torch.testing.assert_close(model.joint_rows(features, View(graph, rows)), truth)


def test_a_batch_reads_no_more_than_it_needs(graph: AlignmentGraph) -> None:
    """What lies outside of the receptive field may be anything."""
    model, features = (
        LoginMEA(*sizes_of(graph), DIMS, hidden_dim=6, rank=3, aggregation="both"),
        features_of(graph),
    )
    rows = torch.tensor([7])
    view = graph.view(rows, 2)
    expected = model(features, view).joint
    outside = torch.ones(graph.num_entities, dtype=torch.bool)
    outside[view.entities] = False
    assert outside.any()
    features["image"][outside] = torch.nan
    assert torch.equal(model(features, view).joint, expected)


def test_what_is_no_view_of_the_model(graph: AlignmentGraph) -> None:
    model, features = LoginMEA(*sizes_of(graph), DIMS, hidden_dim=6, rank=3), features_of(graph)
    triples = np.array([[0, 0, 1], [1, 1, 2]])
    for other, sizes in (((99, 6), "99 entities and 6"), ((100, 2), "100 entities and 2")):
        seen = AlignmentGraph.from_triples(triples, *other).view(torch.tensor([1]))
        with pytest.raises(
            InputError, match=rf"has {sizes} relations, .* built for 100 and 6; give the graph"
        ):
            model(features, seen)
        with pytest.raises(InputError, match=f"has {sizes}"):
            model.joint_rows(features, seen)
    for wrong in (torch.tensor([1]), graph, None):
        with pytest.raises(InputError, match=r"takes a view: graph\.view\(\) of everything.*; got "):
            model(features, wrong)
    with pytest.raises(InputError, match=r"of 3 layers, the model has 2; make it by .*depth=2"):
        model(features, graph.view(torch.tensor([1]), depth=3))
    with pytest.raises(
        InputError, match=r"the view is on cpu, the model on meta; make it of graph\.to\('meta'\)"
    ):
        model.to("meta")(features, graph.view())


@pytest.mark.parametrize("layout", ["dense", "sparse"])
def test_features_on_another_device_are_named(graph: AlignmentGraph, layout: str) -> None:
    """A kernel of one device that is handed an address of another reads what is not there."""
    model, features = LoginMEA(*sizes_of(graph), DIMS, hidden_dim=6, rank=3), features_of(graph)
    name = next(iter(features))
    own = features[name] if layout == "dense" else features[name].to_sparse_csr()
    elsewhere = {**features, name: own.to("meta")}
    with pytest.raises(
        InputError, match=rf"features of modality '{name}' are on meta, the model on cpu; move"
    ):
        model(elsewhere, graph.view())
    with pytest.raises(
        InputError, match=rf"features of modality '{name}' are on meta, the model on cpu; move"
    ):
        model.joint_rows(elsewhere, graph.view())
    absent = {name: torch.ones(len(own), dtype=torch.bool, device="meta")}
    with pytest.raises(InputError, match=rf"present\['{name}'\] is on meta, the graph on cpu; move it with"):
        model(features, graph.view(), absent)


def test_a_compiled_model_takes_a_view(graph: AlignmentGraph) -> None:
    model, features = LoginMEA(*sizes_of(graph), DIMS, hidden_dim=6, rank=3), features_of(graph)
    features = Features({name: t.to_dense().float() for name, t in features.items()})
    view = graph.view(torch.tensor([4, 9]))
    wanted = outcome(model, features, view)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    model.zero_grad()
    output = compiled(features, view)
    torch.testing.assert_close(output.joint, wanted["joint"])


@pytest.mark.skipif(not ZH_EN.is_dir(), reason=f"no data at {ZH_EN}")
def test_a_batch_of_real_data() -> None:
    pair = data.load(ZH_EN, modalities=["relation", "attribute"])
    graph, features = pair.graph(), {name: f.values for name, f in pair.features.items()}
    torch.manual_seed(0)
    model = LoginMEA(
        *sizes_of(graph), {n: f.shape[1] for n, f in features.items()}, hidden_dim=64, aggregation="channels"
    )
    rows = torch.cat([pair.links[:500].t().reshape(-1), pair.left_entities[-1000:]]).unique()
    rows = rows[torch.randperm(len(rows))]
    wanted = outcome(model, features, View(graph, rows))
    assert_same(outcome(model, features, graph.view(rows)), wanted, 2e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
def test_dense_features_are_taken_row_by_row_or_projected_all(
    graph: AlignmentGraph, dtype: torch.dtype, bias: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(projection, "_ROWS", 4)
    features = torch.randn(graph.num_entities, 9).to(dtype)
    layer = FeatureProjection(9, 5, bias=bias)
    for rows, most in ((torch.tensor([7]), False), (torch.arange(0, 100, 2), True)):
        view = graph.view(rows)
        assert (2 * view.num_entities > graph.num_entities) == most
        results = []
        for out in (layer(features, view), layer(features)[view.entities]):
            gradients = torch.autograd.grad((out * torch.arange(5.0)).sin().sum(), layer.parameters())
            results.append([out.detach(), *gradients])
        for got, wanted in zip(*results, strict=True):
            torch.testing.assert_close(got, wanted)


def test_a_projection_of_some_rows_checks(graph: AlignmentGraph) -> None:
    weight, bias = torch.randn(5, 9, requires_grad=True), torch.randn(5, requires_grad=True)
    features = torch.randn(graph.num_entities, 9).half()
    arguments = (features, weight, bias, torch.tensor([3, 1, 50]))
    torch.library.opcheck(torch.ops.loginmea_fast.narrow_projection.default, arguments)
