"""Weights of a softmax that is sure are less than a float resolves: no kernel computes with them at a crawl."""

from __future__ import annotations

import platform

import pytest
import torch
from torch import Tensor

from loginmea_fast.graph import AlignmentGraph
from loginmea_fast.ops import (
    contrastive_loss,
    contrastive_loss_to_keys,
    low_rank_fusion,
    neighbor_mean,
    propagate,
    relation_reflection_layers,
)
from loginmea_fast.ops.modality_scale import modality_scale
from loginmea_fast.reference import contrastive_loss as reference
from tests.helpers.compare import assert_close
from tests.helpers.graphs import triples_of

pytestmark = pytest.mark.skipif(
    platform.machine() not in ("x86_64", "AMD64"), reason="other processors lose no time by such numbers"
)

TINY = torch.finfo(torch.float32).tiny


def _subnormals(tensor: Tensor) -> int:
    """How many there are; by their bits, as a thread that takes them for zero cannot tell."""
    size = tensor.detach().contiguous().view(torch.int32) & 0x7FFFFFFF
    return int(((size > 0) & (size < 0x00800000)).sum())


def _sure() -> dict[str, Tensor]:
    """Queries beside their partners, and keys of weight e^-86, or a fortieth of it where the loss is a mean."""
    generator = torch.Generator().manual_seed(0)
    queries, keys = torch.randn(40, 24, generator=generator), torch.randn(700, 24, generator=generator)
    keys[:40] = queries + 0.1 * keys[:40]
    bias = torch.full((700,), -86.0)
    bias[:80] = 0
    return {"queries": 0.1 * queries, "keys": 0.1 * keys, "key_bias": bias}


def test_a_gradient_holds_none() -> None:
    leaves = {name: tensor.requires_grad_() for name, tensor in _sure().items()}
    options = {"positives": torch.arange(40), "temperature": 1.0, "normalize": False}
    contrastive_loss_to_keys(**leaves, **options, backend="cpu").backward()
    exact = {name: leaf.detach().double().requires_grad_() for name, leaf in leaves.items()}
    reference.contrastive_loss_to_keys(**exact, **options).backward()
    far = exact["keys"].grad[80:].abs()
    assert ((far > 0) & (far < TINY)).any(), "the case makes no weight that small"
    for name, leaf in leaves.items():
        assert _subnormals(leaf.grad) == 0, name
        assert_close(leaf.grad, exact[name].grad, name)


def test_other_code_computes_with_them_as_before() -> None:
    """Neither this thread nor those that torch shares with the kernels stay as the kernels need them."""
    graph = AlignmentGraph.from_triples(*triples_of("random"))
    x = torch.randn(graph.num_entities, 32, requires_grad=True)
    u = torch.randn(graph.num_relation_sets, 32, requires_grad=True)
    factors = [torch.randn(2, 33, 16) for _ in range(2)]
    formed = [
        relation_reflection_layers(x, u, torch.zeros(2, len(u)), graph, backend="cpu"),
        neighbor_mean(x, graph),
        propagate(x, u, graph, backend="cpu"),
        low_rank_fusion([x, x], factors, torch.ones(1, 2), torch.zeros(1, 16), backend="cpu"),
        modality_scale([x, x], torch.randn(1, 32), backend="cpu"),
        contrastive_loss(x, x, 0.1, backend="cpu"),
    ]
    torch.autograd.backward([tensor.sum() for tensor in formed if tensor.requires_grad])
    small = torch.full((1 << 22,), 1e-40)
    assert _subnormals(small * 1) == len(small)
