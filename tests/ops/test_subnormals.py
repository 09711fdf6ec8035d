"""Weights of a softmax that is sure are less than a float resolves: no kernel computes with them at a crawl."""

from __future__ import annotations

import platform
from collections.abc import Callable

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
    relation_reflectors,
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


def test_a_gradient_of_the_loss_holds_none() -> None:
    """Queries beside their partners, and keys of weight e^-86, of which the mean of the losses takes a fortieth."""
    generator = torch.Generator().manual_seed(0)
    queries, keys = torch.randn(40, 24, generator=generator), torch.randn(700, 24, generator=generator)
    keys[:40] = queries + 0.1 * keys[:40]
    bias = torch.full((700,), -86.0)
    bias[:80] = 0
    leaves = {"queries": 0.1 * queries, "keys": 0.1 * keys, "key_bias": bias}
    leaves = {name: tensor.requires_grad_() for name, tensor in leaves.items()}
    options = {"positives": torch.arange(40), "temperature": 1.0, "normalize": False}
    contrastive_loss_to_keys(**leaves, **options, backend="cpu").backward()
    exact = {name: leaf.detach().double().requires_grad_() for name, leaf in leaves.items()}
    reference.contrastive_loss_to_keys(**exact, **options).backward()
    far = exact["keys"].grad[80:].abs()
    assert ((far > 0) & (far < TINY)).any(), "the case makes no weight that small"
    for name, leaf in leaves.items():
        assert _subnormals(leaf.grad) == 0, name
        assert_close(leaf.grad, exact[name].grad, name)


GRAPH = AlignmentGraph.from_triples(*triples_of("random"))
COUNT, SETS = GRAPH.num_entities, GRAPH.num_relation_sets


def _fusion(x: Tensor, y: Tensor, w: Tensor, v: Tensor) -> Tensor:
    return low_rank_fusion([x, y], [w, v], torch.ones(1, 2), torch.zeros(1, 16), backend="cpu")


# What is computed of some leaves, whose gradients no torch operator comes near.
KERNELS: dict[str, tuple[Callable[..., Tensor], tuple[tuple[int, ...], ...]]] = {
    "attention": (
        lambda x, u, c: relation_reflection_layers(x, u, c, GRAPH, backend="cpu"),
        ((COUNT, 32), (SETS, 32), (2, SETS)),
    ),
    "attention over triples": (
        lambda x, u, c, w: relation_reflection_layers(x, u, c, GRAPH, w, backend="cpu"),
        ((COUNT, 32), (SETS, 32), (2, SETS), (2, 32)),
    ),
    "reflectors": (lambda r: relation_reflectors(r, GRAPH), ((2 * GRAPH.num_relations, 32),)),
    "neighbour mean": (lambda x: neighbor_mean(x, GRAPH), ((COUNT, 32),)),
    "fusion": (_fusion, ((50, 32), (50, 32), (2, 33, 16), (2, 33, 16))),
    "modality scale": (lambda x, q: modality_scale([x], q, backend="cpu"), ((50, 32), (1, 32))),
}


@pytest.mark.parametrize("kernel", KERNELS)
def test_small_gradients_make_none(kernel: str) -> None:
    """Upstream gradients between 1e-38 and 1e-36, whose products with weights are less than a float resolves."""
    function, shapes = KERNELS[kernel]
    generator = torch.Generator().manual_seed(1)
    leaves = [torch.randn(shape, generator=generator).requires_grad_() for shape in shapes]
    out = function(*leaves)
    upstream = 10 ** (-38 + 2 * torch.rand(out.shape, generator=generator, dtype=torch.float64)).clamp_min(
        -37.9
    )
    for leaf, gradient in zip(leaves, torch.autograd.grad(out, leaves, upstream.float()), strict=True):
        assert _subnormals(gradient) == 0, list(leaf.shape)


def test_propagation_makes_none() -> None:
    x = torch.full((COUNT, 32), 1e-37)
    weights = torch.full((SETS, 32), 0.01)
    assert _subnormals(propagate(x, weights, GRAPH, normalize=False, backend="cpu")) == 0


def test_other_code_computes_with_them_as_before() -> None:
    """Neither this thread nor those that torch shares with the kernels stay as the kernels need them."""
    for function, shapes in KERNELS.values():
        leaves = [torch.randn(shape).requires_grad_() for shape in shapes]
        function(*leaves).sum().backward()
    x = torch.randn(COUNT, 32, requires_grad=True)
    contrastive_loss(x, x, 0.1, backend="cpu").backward()
    propagate(x.detach(), torch.randn(SETS, 32), GRAPH, backend="cpu")
    small = torch.full((1 << 22,), 1e-40)
    assert _subnormals(small * 1) == len(small)
