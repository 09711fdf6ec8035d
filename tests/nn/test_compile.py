"""torch.compile of the model: no graph break at an operator, and the same numbers."""

from __future__ import annotations

import pytest
import torch

from loginmea_fast import AlignmentGraph, LoginMEA
from tests.helpers.graphs import sizes_of, triples_of

DIMS = {"image": 11, "relation": 7}


def model_and_features() -> tuple[LoginMEA, AlignmentGraph, dict[str, torch.Tensor]]:
    torch.manual_seed(0)
    graph = AlignmentGraph.from_triples(*triples_of("random"))
    model = LoginMEA(*sizes_of(graph), DIMS, hidden_dim=6, rank=3)
    return model, graph, {m: torch.randn(graph.num_entities, c) for m, c in DIMS.items()}


def joint_and_gradients(
    call, model: LoginMEA, graph: AlignmentGraph, features: dict[str, torch.Tensor]
) -> list[torch.Tensor]:
    model.zero_grad()
    joint = call(features, graph.view(torch.tensor([1, 2, 3]))).joint
    (joint * torch.linspace(-1, 1, joint.numel()).view_as(joint)).sum().backward()
    return [joint, *[p.grad.clone() for p in model.parameters()]]


@pytest.mark.parametrize("compiler", ["aot_eager", "inductor"])
def test_whole_graph(compiler: str) -> None:
    model, graph, features = model_and_features()
    wanted = joint_and_gradients(model, model, graph, features)
    # fullgraph raises at the first graph break.
    got = joint_and_gradients(torch.compile(model, fullgraph=True, backend=compiler), model, graph, features)
    for a, b in zip(got, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_sparse_features_compile_too() -> None:
    model, graph, features = model_and_features()
    features = {**features, "relation": features["relation"].relu().to_sparse_csr()}
    wanted = joint_and_gradients(model, model, graph, features)
    got = joint_and_gradients(torch.compile(model, backend="aot_eager"), model, graph, features)
    for a, b in zip(got, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)
