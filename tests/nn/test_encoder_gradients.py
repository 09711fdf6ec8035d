"""The whole encoder, both fused operators in it: the gradient of every parameter beside that of the plain formulas."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from loginmea_fast import AlignmentGraph, LoginMEA
from loginmea_fast.data import load
from tests.helpers.graphs import sizes_of, triples_of

DIMS = {"image": 13, "relation": 9, "attribute": 11}
BOUND = 1e-5  # relative L2 error of a parameter's gradient, float32 beside float64


def _well_scaled(model: LoginMEA) -> None:
    """At the authors' initial scale some gradients are 1e-13, and a bias hides errors: here every one counts."""
    for name, parameter in model.named_parameters():
        fan_in = parameter.shape[-2] if "factor_list" in name else 1
        with torch.no_grad():
            parameter.normal_().mul_(fan_in**-0.5)
            if name.endswith("bias"):
                parameter.zero_()


def _worst_gradient_error(graph: AlignmentGraph, width: int, rank: int, attention: str) -> float:
    torch.manual_seed(0)
    fused = LoginMEA(*sizes_of(graph), DIMS, hidden_dim=width, rank=rank, attention=attention)
    _well_scaled(fused)
    features = {m: torch.randn(graph.num_entities, c) for m, c in DIMS.items()}
    direction = torch.randn(graph.num_entities, fused.embedding_dim)
    (fused(features, graph.view()).joint * direction).sum().backward()

    plain = LoginMEA(
        *sizes_of(graph), DIMS, hidden_dim=width, rank=rank, attention=attention, compute_dtype=torch.float64
    ).double()
    plain.load_state_dict(fused.state_dict())
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("LOGINMEA_BACKEND", "reference")
        joint = plain({m: f.double() for m, f in features.items()}, graph.view()).joint
        (joint * direction.double()).sum().backward()

    truth = dict(plain.named_parameters())
    errors = {}
    for name, parameter in fused.named_parameters():
        expected = truth[name].grad
        assert expected is not None, name
        assert parameter.grad is not None, name
        assert expected.norm() > 1e-3, f"{name}: no gradient to compare"
        errors[name] = ((parameter.grad - expected).norm() / expected.norm()).item()
    return max(errors.values())


@pytest.mark.parametrize(
    ("case", "attention"),
    [
        ("random", "relation"),
        ("random", "triple"),
        ("hub", "relation"),
        ("hub", "triple"),
        ("isolated nodes", "relation"),
    ],
)
def test_gradients_of_every_parameter(case: str, attention: str) -> None:
    graph = AlignmentGraph.from_triples(*triples_of(case))
    assert _worst_gradient_error(graph, width=37, rank=3, attention=attention) <= BOUND


def test_gradients_on_a_real_pair_of_graphs(dataset: Callable[[str], Path]) -> None:
    """zh_en whole, 38,960 entities, at a width at which the plain formulas are quick."""
    pair = load(dataset("dbp15k/zh_en"), format="dbp15k")
    assert _worst_gradient_error(pair.graph(), width=24, rank=2, attention="relation") <= BOUND
