"""One step of label propagation: sums over neighbours, weighted by relation set, rows normalised.

The formula heads the reference. What is propagated is not trained, so the operator has no gradient. On the CPU a
kernel of this package computes it with the normalisation inside; elsewhere the reference does, by the vendor's
sparse products.
"""

from __future__ import annotations

import torch
from torch import Tensor

from loginmea_fast.errors import InputError
from loginmea_fast.graph import AlignmentGraph
from loginmea_fast.ops._dispatch import (
    check_float,
    check_graph,
    check_same_device,
    check_shape,
    choose_backend,
    native_reason,
    operator,
)
from loginmea_fast.reference import propagation as reference

__all__ = ["propagate"]


def propagate(
    x: Tensor,
    set_weights: Tensor,
    graph: AlignmentGraph,
    own: Tensor | None = None,
    normalize: bool = True,
    backend: str = "auto",
) -> Tensor:
    """One step over the graph: y_i = n_i (own_i x_i + sum over the edges e = (i <- j) of w_s(e) x_j).

    A relation set has G weights, and the columns of x are G groups of equal size, each with its own: G = 1 weights
    edges, G = D is a product element by element.

    Args:
        x: [N, D], what each entity has; float32, float64 or bfloat16.
        set_weights: [U, G], weights of every relation set; G divides D. Rounded to the dtype that sums are kept in.
        graph: whose edges are walked.
        own: [N], weight of an entity's own row; None for zeros.
        normalize: n_i = 1 / length of the row (0 for a row no longer than 1e-12); else n_i = 1.
        backend: "auto", "reference" or "cpu".

    Returns:
        [N, D], dtype and device of `x`, without a gradient.

    Raises:
        InputError: shapes, dtypes or devices do not fit.
        BackendError: the backend asked for by name cannot serve.
    """
    check_float("x", x)
    check_float("set_weights", set_weights)
    check_graph(graph)
    check_shape("x", x, (graph.num_entities, None), "[entities, width]")
    check_shape("set_weights", set_weights, (graph.num_relation_sets, None), "[relation sets, groups]")
    width, groups = x.shape[1], set_weights.shape[1]
    if groups == 0 or width % groups:
        raise InputError(
            f"the {groups} weights of a relation set must divide the {width} columns of x; take 1, or {width}"
        )
    if own is not None:
        check_float("own", own)
        check_shape("own", own, (graph.num_entities,), "[entities]")
    check_same_device(x=x, set_weights=set_weights, own=own, graph=graph.dst_ptr)
    return _propagate(
        x.detach(),
        set_weights.detach(),
        None if own is None else own.detach(),
        graph.dst_ptr,
        graph.dst_source,
        graph.dst_set,
        graph.visit_order,
        normalize,
        backend,
    )


@operator("propagate")
def _propagate(
    x: Tensor,
    set_weights: Tensor,
    own: Tensor | None,
    ptr: Tensor,
    source: Tensor,
    edge_set: Tensor,
    order: Tensor,
    normalize: bool,
    backend: str,
) -> Tensor:
    if choose_backend("propagate", backend, {"cpu": lambda: native_reason(x, "cpu")}) == "reference":
        return reference.propagate(x, set_weights, own, ptr, source, edge_set, normalize)
    from loginmea_fast import native

    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    x = x if x.stride(1) == 1 and x.stride(0) >= x.shape[1] else x.contiguous()
    weights = set_weights.to(dtype).contiguous()
    own = None if own is None else own.to(dtype).contiguous()
    y = x.new_empty(x.shape)
    native.load("cpu").propagate(
        native.dtype_code(x.dtype),
        x.shape[0], x.shape[1], weights.shape[1],
        ptr.data_ptr(), source.data_ptr(), edge_set.data_ptr(), order.data_ptr(),
        weights.data_ptr(), 0 if own is None else own.data_ptr(),
        normalize, reference.SHORTEST_ROW,
        x.data_ptr(), x.stride(0), y.data_ptr(), y.stride(0),
        torch.get_num_threads(),
    )  # fmt: skip
    return y


@_propagate.register_fake
def _(x, set_weights, own, ptr, source, edge_set, order, normalize, backend):  # type: ignore[no-untyped-def]
    return x.new_empty(x.shape)
