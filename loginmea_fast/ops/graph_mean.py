"""Means over the graph: relation reflectors (docs/model.md, Reflectors) and neighbour means (Graph encoder).

Both are products with a sparse matrix of fixed values whose transpose is kept beside it, so that the gradient is such
a product too and sums run in a fixed order both ways. On the CPU kernels of this package compute them, with the
normalisation and the division inside; elsewhere the vendor's sparse library does.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor

from loginmea_fast.derived import Derived
from loginmea_fast.errors import InputError
from loginmea_fast.graph import AlignmentGraph, View
from loginmea_fast.ops._dispatch import (
    check_float,
    check_graph,
    check_same_device,
    check_shape,
    check_view,
    choose_backend,
    native_reason,
    operator,
    under_autocast,
)

# PyTorch calls its CSR tensors beta at first use; the two products below are covered by this project's tests.
warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta state", category=UserWarning)

__all__ = ["csr_product", "neighbor_mean", "relation_reflectors", "sparse_product"]

# What is no longer than this has no direction.
_EPS = 1e-12


def relation_reflectors(relation_embedding: Tensor, graph: AlignmentGraph) -> Tensor:
    """Unit reflector of every relation set: u_s = p_s / max(|p_s|, 1e-12), p_s the mean over the set (docs/model.md).

    Args:
        relation_embedding: [2R, d], one row a relation id, inverses last.
        graph: whose relation sets are meant; a relation that occurs twice in a set counts twice.

    Returns:
        [U, d], unit rows. Computed once a step, used by every layer.

    Raises:
        InputError: wrong shape, dtype or device.
    """
    (relation_embedding,) = under_autocast(relation_embedding)
    check_float("relation_embedding", relation_embedding)
    check_graph(graph)
    check_shape(
        "relation_embedding", relation_embedding, (2 * graph.num_relations, None), "[2 x relations, width]"
    )
    _check_device("relation_embedding", relation_embedding, graph)
    members = graph.set_rel_ptr, graph.set_relation, graph.set_count
    reflectors, _ = _reflectors(*members, graph.rel_ptr, graph.rel_set, graph.rel_count, relation_embedding)
    return reflectors


def neighbor_mean(x: Tensor, graph: AlignmentGraph | View) -> Tensor:
    """Mean of each entity and its distinct neighbours (docs/model.md, Graph encoder): the graph encoder's input.

    Args:
        x: [N, d], entity embeddings.
        graph: whose edges are meant. An entity without triples keeps its own row.

    Returns:
        [N, d]; of a view [n_0, d], the means of `view.entities`.

    Raises:
        InputError: wrong shape, dtype or device.
    """
    (x,) = under_autocast(x)
    check_float("x", x)
    view = check_view(graph)
    whole: AlignmentGraph = view.graph
    check_shape("x", x, (whole.num_entities, None), "[entities, width]")
    _check_device("x", x, whole)
    # One's own row is added unless a self loop has brought it in already.
    own = whole.neighborhood_size - whole.degrees()
    return _neighborhood_mean(
        whole.dst_ptr,
        whole.dst_source,
        whole.src_ptr,
        whole.src_destination,
        own.int(),
        whole.neighborhood_size,
        whole.visit_order,
        x,
        view.entities,
        view.local,
    )


_transposes: Derived[tuple[Tensor, Tensor, Tensor]] = Derived()


def csr_product(matrix: Tensor, x: Tensor, view: View | None = None) -> Tensor:
    """A sparse matrix of fixed values, or some of its rows, times x.

    Its transpose, which the gradient needs, is made once.

    A matrix whose tensors torch has changed in place is transposed anew. A change through a NumPy view of them goes
    unseen: make a new matrix then.

    Args:
        matrix: [rows, columns], sparse CSR.
        x: [columns, d].
        view: of a graph with an entity a row, where only the rows of its entities are wanted.

    Returns:
        [rows, d].

    Raises:
        InputError: they are on different devices.
    """
    check_same_device(matrix=matrix, x=x)

    def transpose() -> tuple[Tensor, Tensor, Tensor]:
        t = matrix.detach().to_sparse_csc()
        return t.ccol_indices().long(), t.row_indices(), t.values()

    parts = matrix.crow_indices(), matrix.col_indices(), matrix.values()
    # Kernels read 64-bit row pointers; SciPy's matrices have 32.
    transposed = _transposes.of(parts[0], parts, transpose)
    chosen, places = (None, None) if view is None else (view.entities, view.local)
    return sparse_product(parts[0].long(), *parts[1:], *transposed, x, chosen, places)


def _check_device(name: str, tensor: Tensor, graph: AlignmentGraph) -> None:
    if tensor.device != graph.device:
        raise InputError(
            f"{name} is on {tensor.device}, the graph on {graph.device}; move it with graph.to()"
        )


def _native(op: str, x: Tensor) -> Any:
    """The CPU library where it can serve, else None."""
    if choose_backend(op, "auto", {"cpu": lambda: native_reason(x, "cpu")}) != "cpu":
        return None
    from loginmea_fast import native

    return native.load("cpu")


def _sum_dtype(x: Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def _row_sums(
    ptr: Tensor,
    index: Tensor,
    x: Tensor,
    value: Tensor | None = None,
    out_scale: Tensor | None = None,
    in_scale: Tensor | None = None,
    own: Tensor | None = None,
    order: Tensor | None = None,
    chosen: Tensor | None = None,
    targets: Tensor | None = None,
    places: Tensor | None = None,
) -> Tensor:
    """Sums of rows of x, see csrc/cpu/graph_mean.h; scales and `own` in the dtype of the sums.

    Of the rows `chosen` alone where they are given; `targets` then says where each row goes, or -1.
    """
    rows = ptr.numel() - 1
    library = _native("row_sums", x)
    if library is not None and (value is None or value.dtype == torch.float32):
        from loginmea_fast import native

        x = x if x.stride(1) == 1 and x.stride(0) >= x.shape[1] else x.contiguous()
        y = x.new_empty(rows if chosen is None else len(chosen), x.shape[1])
        index, value = index.contiguous(), None if value is None else value.contiguous()
        library.row_sums(
            native.dtype_code(x.dtype),
            rows, x.shape[1],
            ptr.data_ptr(), index.data_ptr(), index.element_size(),
            native.address(order), native.address(targets), native.address(places),
            native.address(value), native.address(out_scale), native.address(in_scale), native.address(own),
            x.data_ptr(), x.stride(0), y.data_ptr(), len(y),
            torch.get_num_threads(),
        )  # fmt: skip
        return y
    # Sums of half precision are kept in float32; the vendor's CPU product has no bfloat16.
    wide = x.to(_sum_dtype(x))
    if places is not None:
        wide = torch.where(places[:, None] < 0, 0.0, wide[places.clamp_min(0)])
    if in_scale is not None:
        wide = wide * in_scale[:, None]
    value = wide.new_ones(index.numel()) if value is None else value.to(wide.dtype)
    matrix = torch.sparse_csr_tensor(ptr, index.long(), value, size=(rows, len(wide)), check_invariants=False)
    total = matrix @ wide.contiguous()
    if own is not None:
        total = torch.addcmul(total, own[:, None], wide)
    if out_scale is not None:
        total = total * out_scale[:, None]
    return (total if chosen is None else total[chosen]).to(x.dtype)


@operator("sparse_product")
def sparse_product(
    ptr: Tensor,
    index: Tensor,
    value: Tensor,
    t_ptr: Tensor,
    t_index: Tensor,
    t_value: Tensor,
    x: Tensor,
    chosen: Tensor | None = None,
    places: Tensor | None = None,
) -> Tensor:
    """Rows ptr/index/value of a sparse matrix times x; t_* is the same matrix transposed, for the gradient.

    Only the rows `chosen` where these are given, and then `places` says for each row where it stands among them, or -1.
    """
    return _row_sums(ptr, index, x, value, chosen=chosen, targets=places)


@sparse_product.register_fake
def _(ptr, index, value, t_ptr, t_index, t_value, x, chosen=None, places=None):  # type: ignore[no-untyped-def]
    return x.new_empty(ptr.shape[0] - 1 if chosen is None else chosen.shape[0], x.shape[1])


@operator("sparse_product_backward")
def _sparse_product_backward(
    t_ptr: Tensor, t_index: Tensor, t_value: Tensor, places: Tensor | None, grad: Tensor
) -> Tensor:
    """The product with the transpose."""
    return _row_sums(t_ptr, t_index, grad, t_value, places=places)


@_sparse_product_backward.register_fake
def _(t_ptr, t_index, t_value, places, grad):  # type: ignore[no-untyped-def]
    return grad.new_empty(t_ptr.shape[0] - 1, grad.shape[1])


def _save_matrix(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[3:6], inputs[8])


def _through_product(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    return *[None] * 6, _sparse_product_backward(*ctx.saved_tensors, grad), None, None


sparse_product.register_autograd(_through_product, setup_context=_save_matrix)


@operator("neighborhood_mean")
def _neighborhood_mean(
    ptr: Tensor,
    index: Tensor,
    t_ptr: Tensor,
    t_index: Tensor,
    own: Tensor,
    size: Tensor,
    order: Tensor,
    x: Tensor,
    chosen: Tensor | None = None,
    places: Tensor | None = None,
) -> Tensor:
    """Sum over neighbours, plus `own` times one's own row, over `size`; of the rows `chosen`, see `sparse_product`."""
    dtype = _sum_dtype(x)
    return _row_sums(
        ptr,
        index,
        x,
        out_scale=1 / size.to(dtype),
        own=own.to(dtype),
        order=order,
        chosen=chosen,
        targets=places,
    )


@operator("neighborhood_mean_backward")
def _neighborhood_mean_backward(
    t_ptr: Tensor,
    t_index: Tensor,
    own: Tensor,
    size: Tensor,
    order: Tensor,
    places: Tensor | None,
    grad: Tensor,
) -> Tensor:
    """The product with the transpose."""
    dtype = _sum_dtype(grad)
    return _row_sums(
        t_ptr, t_index, grad, in_scale=1 / size.to(dtype), own=own.to(dtype), order=order, places=places
    )


@_neighborhood_mean.register_fake
def _(ptr, index, t_ptr, t_index, own, size, order, x, chosen=None, places=None):  # type: ignore[no-untyped-def]
    return x.new_empty(x.shape[0] if chosen is None else chosen.shape[0], x.shape[1])


@_neighborhood_mean_backward.register_fake
def _(t_ptr, t_index, own, size, order, places, grad):  # type: ignore[no-untyped-def]
    return grad.new_empty(t_ptr.shape[0] - 1, grad.shape[1])


def _save_neighborhood(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[2:7], inputs[9])


def _through_neighborhood(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    return *[None] * 7, _neighborhood_mean_backward(*ctx.saved_tensors, grad), None, None


_neighborhood_mean.register_autograd(_through_neighborhood, setup_context=_save_neighborhood)


@operator("relation_reflectors")
def _reflectors(
    ptr: Tensor,
    relation: Tensor,
    count: Tensor,
    t_ptr: Tensor,
    t_set: Tensor,
    t_count: Tensor,
    relation_embedding: Tensor,
) -> tuple[Tensor, Tensor]:
    """Unit rows u [U, d] and 1 / max(|p|, eps) [U]. The mean's divisor cancels in the direction: p is the sum."""
    sets, width = ptr.numel() - 1, relation_embedding.shape[1]
    library = _native("relation_reflectors", relation_embedding)
    dtype = _sum_dtype(relation_embedding)
    if library is not None:
        from loginmea_fast import native

        relations = relation_embedding.contiguous()
        reflectors, reciprocal = relations.new_empty(sets, width), relations.new_empty(sets, dtype=dtype)
        library.unit_reflectors(
            native.dtype_code(relations.dtype),
            sets, width,
            ptr.data_ptr(), relation.data_ptr(), count.data_ptr(),
            relations.data_ptr(), reflectors.data_ptr(), reciprocal.data_ptr(), _EPS,
            torch.get_num_threads(),
        )  # fmt: skip
        return reflectors, reciprocal
    total = _row_sums(ptr, relation, relation_embedding.to(dtype), count)
    reciprocal = 1 / total.norm(dim=1).clamp_min(_EPS)
    return (total * reciprocal[:, None]).to(relation_embedding.dtype), reciprocal


@operator("relation_reflectors_backward")
def _reflectors_backward(
    grad: Tensor, reflectors: Tensor, reciprocal: Tensor, t_ptr: Tensor, t_set: Tensor, t_count: Tensor
) -> Tensor:
    """Dp = (g - (g . u) u) / |p|, summed over the sets of each relation."""
    relations, width = t_ptr.numel() - 1, reflectors.shape[1]
    library = _native("relation_reflectors", reflectors)
    if library is not None:
        from loginmea_fast import native

        grad, result = grad.contiguous(), reflectors.new_empty(relations, width)
        library.unit_reflectors_backward(
            native.dtype_code(reflectors.dtype),
            relations, len(reflectors), width,
            t_ptr.data_ptr(), t_set.data_ptr(), t_count.data_ptr(),
            grad.data_ptr(), reflectors.data_ptr(), reciprocal.data_ptr(), _EPS, result.data_ptr(),
            torch.get_num_threads(),
        )  # fmt: skip
        return result
    g, u = grad.to(reciprocal.dtype), reflectors.to(reciprocal.dtype)
    # A set no longer than eps was divided by a constant.
    along = torch.where(reciprocal >= 1 / _EPS, 0.0, (g * u).sum(1))
    dp = (g - along[:, None] * u) * reciprocal[:, None]
    return _row_sums(t_ptr, t_set, dp, t_count).to(reflectors.dtype)


@_reflectors.register_fake
def _(ptr, relation, count, t_ptr, t_set, t_count, relation_embedding):  # type: ignore[no-untyped-def]
    sets = ptr.shape[0] - 1
    reflectors = relation_embedding.new_empty(sets, relation_embedding.shape[1])
    return reflectors, relation_embedding.new_empty(sets, dtype=_sum_dtype(relation_embedding))


@_reflectors_backward.register_fake
def _(grad, reflectors, reciprocal, t_ptr, t_set, t_count):  # type: ignore[no-untyped-def]
    return reflectors.new_empty(t_ptr.shape[0] - 1, reflectors.shape[1])


def _save_reflectors(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(*output, *inputs[3:6])


def _through_reflectors(ctx: Any, grad: Tensor, _: Any) -> tuple[Tensor | None, ...]:
    return *[None] * 6, _reflectors_backward(grad, *ctx.saved_tensors)


_reflectors.register_autograd(_through_reflectors, setup_context=_save_reflectors)
