"""Relation-reflection attention on a GPU: the walk over layers and the room that it needs, for Triton and CUDA alike.

Sums, h = dL/dy, the gradient from layer to layer and all partial results are float32, or float64 for float64, whatever
the dtype of the rows: of what lies between the arguments and the results nothing is rounded.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from loginmea_fast.kernels._launches import Forward, Set, Source
from loginmea_fast.kernels._segments import schedule_of
from loginmea_fast.ops._attention_chain import Chain

__all__ = ["relation_reflection_backward", "relation_reflection_forward"]


def relation_reflection_forward(chain: Chain, kernels: Any) -> None:
    """Fill z_1 ... z_L and lse, given z_0 and logits.

    `kernels` is the module of Triton's or of CUDA's launches, whose functions have the same names and arguments.
    """
    sets, width = chain.reflectors.shape
    reflectors, vectors = _aligned(chain, kernels)
    for layer, index in enumerate(chain.of_layers()):
        segments = schedule_of(index, sets).by_destination
        sums = chain.logits.new_empty(segments.parts, width)
        kernels.forward(Forward(
            segments, index[1], index[2], kernels.rows(chain.z[layer]), reflectors, chain.logits[layer],
            _row(vectors, layer), chain.activation == "tanh",
            chain.z[layer + 1], chain.lse[layer], sums, chain.logits.new_empty(2, segments.parts),
        ))  # fmt: skip


def relation_reflection_backward(
    chain: Chain, grads: Sequence[Tensor | None], kernels: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """The gradient of the chain, given dL/dz_k for the rows of z_L (None where z_k got none but the chain's).

    Returns:
        dx in the dtype of z, du [U, d], dc [L, U] and dw [L, d] or None in the dtype of the sums.
    """
    z, logits = chain.z, chain.logits
    reflectors, vectors = _aligned(chain, kernels)
    sets, width = reflectors.shape
    layers = len(logits)
    tanh, graphs = chain.activation == "tanh", chain.of_layers()
    du, dc = logits.new_zeros(reflectors.shape), torch.empty_like(logits)
    dw = None if vectors is None else torch.empty_like(vectors)
    upstream = grads[layers]
    assert upstream is not None
    direct_rows = len(upstream)
    # The lowest layer has the most rows and edges; those above take the first of its room.
    all_h, all_dx, all_along = (
        logits.new_empty(z[1].shape),
        logits.new_empty(z[0].shape),
        logits.new_empty(len(z[1])),
    )
    all_terms = logits.new_empty(graphs[0][4].numel(), 4)
    upstream = kernels.rows(upstream)
    for layer in reversed(range(layers)):
        index, given, vector = graphs[layer], grads[layer], _row(vectors, layer)
        x, direct = kernels.rows(z[layer]), None if given is None else kernels.rows(given)
        schedule = schedule_of(index, sets)
        by_source, by_set = schedule.by_source, schedule.by_set
        rows, edges = len(z[layer + 1]), index[4].numel()
        h, along, dx = all_h[:rows], all_along[:rows], all_dx[: len(x)]
        terms = all_terms[:edges]
        source_sums, set_sums = (logits.new_empty(s.parts, width) for s in (by_source, by_set))
        kernels.through_activation(upstream, z[layer + 1], tanh, h, along)
        kernels.backward_source(Source(
            by_source, index[4], index[5], x, reflectors, logits[layer], vector,
            h, along, chain.lse[layer], direct, direct_rows, dx, source_sums, terms,
        ))  # fmt: skip
        kernels.backward_set(Set(
            by_set, schedule.set_edge, schedule.set_source, schedule.set_destination, x,
            h, terms, du, dc[layer], set_sums, logits.new_empty(1, by_set.parts),
        ))  # fmt: skip
        if dw is not None and vector is not None:
            slopes = _sums(terms[:, 2].contiguous(), index[3])
            tilts = _sums(terms[:, 3].index_select(0, schedule.set_edge), schedule.set_ptr)
            du.addr_(tilts, vector)
            # sum of dl (x_j - 2 (x_j . u) u), by source and by set
            dw[layer] = _weighted(x, slopes, index[3]) + _weighted(reflectors, tilts, schedule.set_ptr)
        upstream = dx
    return upstream.to(z[0].dtype), du, dc, dw


def _aligned(chain: Chain, kernels: Any) -> tuple[Tensor, Tensor | None]:
    """Reflectors and w as kernels read them: contiguous tensors may still begin within another's memory."""
    vectors = chain.neighbor_vectors
    return kernels.rows(chain.reflectors), None if vectors is None else kernels.rows(vectors)


def _sums(values: Tensor, ptr: Tensor) -> Tensor:
    """Sums of the numbers [E] of each row of a CSR."""
    return torch.segment_reduce(values, "sum", offsets=ptr, unsafe=True)  # checks would wait for the device


def _weighted(rows: Tensor, weights: Tensor, ptr: Tensor) -> Tensor:
    """Sum of rows [N, d] by weights, of those alone that have an edge: zero times a NaN would reach all."""
    some = torch.where((ptr.diff() > 0)[:, None], rows.to(weights.dtype), 0.0)
    return some.T @ weights


def _row(vectors: Tensor | None, layer: int) -> Tensor | None:
    return None if vectors is None else vectors[layer]
