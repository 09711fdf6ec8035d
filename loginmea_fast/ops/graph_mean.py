"""Means over the graph: relation reflectors (DESIGN 2.2) and neighbour means (2.5).

Both are products with a sparse matrix of fixed values, which the vendor's sparse library computes at the speed of
memory; the gradient is the product with the transpose, kept beside it, so that sums run in a fixed order both ways.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from loginmea_fast.errors import InputError
from loginmea_fast.graph import AlignmentGraph
from loginmea_fast.ops._launch import check_float, check_shape

# PyTorch calls its CSR tensors beta at first use; the two products below are covered by this project's tests.
warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta state", category=UserWarning)

__all__ = ["neighbor_mean", "relation_reflectors", "sparse_product"]


def relation_reflectors(relation_embedding: Tensor, graph: AlignmentGraph) -> Tensor:
    """Unit reflector of every relation set: u_s = p_s / max(|p_s|, 1e-12), p_s the mean over the set (DESIGN 2.2).

    Args:
        relation_embedding: [2R, d], one row a relation id, inverses last.
        graph: whose relation sets are meant; a relation that occurs twice in a set counts twice.

    Returns:
        [U, d], unit rows. Computed once a step, used by every layer.

    Raises:
        InputError: wrong shape, dtype or device.
    """
    check_float("relation_embedding", relation_embedding)
    check_shape(
        "relation_embedding", relation_embedding, (2 * graph.num_relations, None), "[2 x relations, width]"
    )
    _check_device("relation_embedding", relation_embedding, graph)
    total = sparse_product(
        graph.set_rel_ptr,
        graph.set_relation,
        graph.set_count,
        graph.rel_ptr,
        graph.rel_set,
        graph.rel_count,
        relation_embedding,
    )
    # The mean's divisor cancels in the direction, so the sum is normalised; a zero sum stays zero.
    return F.normalize(total, dim=1, eps=1e-12)


def neighbor_mean(x: Tensor, graph: AlignmentGraph) -> Tensor:
    """Mean of each entity and its distinct neighbours (DESIGN 2.5): the graph encoder's input.

    Args:
        x: [N, d], entity embeddings.
        graph: whose edges are meant. An entity without triples keeps its own row.

    Returns:
        [N, d].

    Raises:
        InputError: wrong shape, dtype or device.
    """
    check_float("x", x)
    check_shape("x", x, (graph.num_entities, None), "[entities, width]")
    _check_device("x", x, graph)
    ones = x.new_ones(graph.num_edges, dtype=torch.float32)
    total = sparse_product(
        graph.dst_ptr, graph.dst_source, ones, graph.src_ptr, graph.src_destination, ones, x
    )
    size = graph.neighborhood_size[:, None]
    # One's own row is added unless a self loop has brought it in already.
    return torch.addcmul(total, size - graph.degrees()[:, None], x) / size


def _check_device(name: str, tensor: Tensor, graph: AlignmentGraph) -> None:
    if tensor.device != graph.device:
        raise InputError(
            f"{name} is on {tensor.device}, the graph on {graph.device}; move it with graph.to()"
        )


@torch.library.custom_op("loginmea_fast::sparse_product", mutates_args=())
def sparse_product(
    ptr: Tensor, index: Tensor, value: Tensor, t_ptr: Tensor, t_index: Tensor, t_value: Tensor, x: Tensor
) -> Tensor:
    """Rows ptr/index/value of a sparse matrix times x; t_* is the same matrix transposed, for the gradient."""
    # Sums of half precision are kept in float32; the vendor's CPU product has no bfloat16.
    wide = x if x.dtype == torch.float64 else x.float()
    matrix = torch.sparse_csr_tensor(
        ptr, index.long(), value.to(wide.dtype), size=(ptr.numel() - 1, x.shape[0]), check_invariants=False
    )
    return (matrix @ wide.contiguous()).to(x.dtype)


@sparse_product.register_fake
def _(
    ptr: Tensor, index: Tensor, value: Tensor, t_ptr: Tensor, t_index: Tensor, t_value: Tensor, x: Tensor
) -> Tensor:
    return x.new_empty(ptr.shape[0] - 1, x.shape[1])


def _save_for_backward(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:6])


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    ptr, index, value, t_ptr, t_index, t_value = ctx.saved_tensors
    return *[None] * 6, sparse_product(t_ptr, t_index, t_value, ptr, index, value, grad)


sparse_product.register_autograd(_backward, setup_context=_save_for_backward)
