"""Relation-reflection attention, fused; the mathematics is in `reference/relation_reflection_attention.py`.

Both operators are chains of layers: one layer into a tensor of its own, or L layers into the columns of one
buffer. A chain is one autograd node, because the backward of a layer ends where that of the layer below
begins: with the same row still in the cache.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from loginmea_fast.errors import BackendError, InputError
from loginmea_fast.graph import AlignmentGraph
from loginmea_fast.ops import _launch
from loginmea_fast.reference import relation_reflection_attention as reference

__all__ = ["relation_reflection_attention", "relation_reflection_layers"]

# The graph tensors that the kernels read, in the order in which the custom operators take them.
_INDEX = (
    "dst_ptr",
    "dst_source",
    "dst_set",
    "src_ptr",
    "src_destination",
    "src_set",
    "src_edge",
    "visit_order",
)


def relation_reflection_attention(
    x: Tensor,
    reflectors: Tensor,
    set_logits: Tensor,
    graph: AlignmentGraph,
    neighbor_vector: Tensor | None = None,
    activation: str | None = None,
    backend: str = "auto",
) -> Tensor:
    """One layer of relation-reflection attention (LoginMEA, arXiv 2407.19625, section 4.1; Dual-AMN, RREA).

    For every edge e = (i <- j) with relation set s,

        m_e = x_j - 2 (x_j . u_s) u_s ;   l_e = c_s (+ w . m_e) ;   y_i = sum_e softmax_i(l)_e m_e

    Nothing of size edges x width exists, forward or backward; memory beyond the result is one number an
    entity, and backward one more tensor of the size of `x`. Sums are kept in float32 (float64 for float64)
    and run in a fixed order, so that results repeat bit for bit for any number of threads. A NaN in `x`
    reaches the entities with an edge from that row and no others.

    Args:
        x: [N, d] entity features; float32, float64 or bfloat16. Any row stride.
        reflectors: [U, d], one row a relation set, dtype and device of `x`; see `relation_reflectors`.
        set_logits: [U], attention logit of each relation set: v . u_s in the paper.
        graph: edges and relation sets, on the device of `x`.
        neighbor_vector: [d], w of triple mode (RREA); None for relation mode (Dual-AMN, LoginMEA).
        activation: "tanh", or None.
        backend: "auto", "reference", "cpu", "triton" or "cuda".

    Returns:
        [N, d], dtype of `x`; an entity without edges has a row of zeros. Can be differentiated once.

    Raises:
        InputError: shapes, dtypes or devices do not fit each other or the graph.
        BackendError: the backend asked for by name cannot serve.
    """
    x, reflectors = _under_autocast(x, reflectors)
    _check(x, reflectors, graph, activation, backend)
    _launch.check_shape("set_logits", set_logits, (graph.num_relation_sets,), "[relation sets]")
    vectors = None
    if neighbor_vector is not None:
        _launch.check_shape("neighbor_vector", neighbor_vector, (x.shape[1],), "[width]")
        vectors = neighbor_vector[None]
    logits, vectors = _parameters(x, set_logits[None], vectors)
    y, _ = _attention(x, reflectors, logits, vectors, _index_of(graph), activation or "none", backend)
    return y


def relation_reflection_layers(
    x: Tensor,
    reflectors: Tensor,
    set_logits: Tensor,
    graph: AlignmentGraph,
    neighbor_vectors: Tensor | None = None,
    activation: str | None = "tanh",
    backend: str = "auto",
) -> Tensor:
    """L layers of relation-reflection attention, all outputs side by side (DESIGN 2.4).

    z_0 = `x`, z_k = activation(attention_k(z_(k-1))). All layers share the reflectors, each has its own
    logits. The layers are one autograd node that writes into one buffer; `relation_reflection_attention` says
    what holds.

    Args:
        x: [N, d], z_0: activate it before, if the model does. float32, float64 or bfloat16.
        reflectors: [U, d], dtype and device of `x`.
        set_logits: [L, U].
        graph: edges and relation sets, on the device of `x`.
        neighbor_vectors: [L, d] for triple mode; None for relation mode.
        activation: "tanh", or None.
        backend: "auto", "reference", "cpu", "triton" or "cuda".

    Returns:
        [N, (L + 1) d] = [z_0 | z_1 | ... | z_L], dtype of `x`.

    Raises:
        InputError: shapes, dtypes or devices do not fit each other or the graph.
        BackendError: the backend asked for by name cannot serve.
    """
    x, reflectors = _under_autocast(x, reflectors)
    _check(x, reflectors, graph, activation, backend)
    _launch.check_shape("set_logits", set_logits, (None, graph.num_relation_sets), "[layers, relation sets]")
    if set_logits.shape[0] == 0:
        raise InputError("set_logits must have at least one row, one a layer; got none")
    if neighbor_vectors is not None:
        expected = (set_logits.shape[0], x.shape[1])
        _launch.check_shape("neighbor_vectors", neighbor_vectors, expected, "[layers, width]")
    logits, vectors = _parameters(x, set_logits, neighbor_vectors)
    out, _ = _layers(x, reflectors, logits, vectors, _index_of(graph), activation or "none", backend)
    return out


def _under_autocast(x: Tensor, reflectors: Tensor) -> tuple[Tensor, Tensor]:
    """Under autocast one argument may come from a product in half precision: the wider dtype serves."""
    if x.dtype != reflectors.dtype and torch.is_autocast_enabled(x.device.type):
        dtype = torch.promote_types(x.dtype, reflectors.dtype)
        return x.to(dtype), reflectors.to(dtype)
    return x, reflectors


def _check(
    x: Tensor, reflectors: Tensor, graph: AlignmentGraph, activation: str | None, backend: str
) -> None:
    _launch.check_backend_name(backend)
    if activation not in (None, "tanh"):
        raise InputError(f'activation must be "tanh" or None; got {activation!r}')
    _launch.check_float("x", x)
    _launch.check_float("reflectors", reflectors)
    _launch.check_shape("x", x, (graph.num_entities, None), "[entities, width]")
    _launch.check_shape(
        "reflectors", reflectors, (graph.num_relation_sets, x.shape[1]), "[relation sets, width]"
    )
    _launch.check_same_dtype(x=x, reflectors=reflectors)
    _launch.check_same_device(x=x, reflectors=reflectors)
    if graph.device != x.device:
        raise InputError(f"x is on {x.device}, the graph on {graph.device}; move it with graph.to()")


def _parameters(
    x: Tensor, set_logits: Tensor, neighbor_vectors: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """The small arguments in the dtype of the sums."""
    _launch.check_float("set_logits", set_logits)
    _launch.check_same_device(x=x, set_logits=set_logits, neighbor_vector=neighbor_vectors)
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    if neighbor_vectors is not None:
        _launch.check_float("neighbor_vector", neighbor_vectors)
        neighbor_vectors = neighbor_vectors.to(dtype)
    return set_logits.to(dtype), neighbor_vectors


def _index_of(graph: AlignmentGraph) -> list[Tensor]:
    return [getattr(graph, name) for name in _INDEX]


def _backend_for(backend: str, x: Tensor) -> str:
    candidates = {"cpu": lambda: _launch.native_reason(x, "cpu")}
    return _launch.choose_backend("relation_reflection_attention", backend, candidates)


def _row_strided(tensor: Tensor) -> Tensor:
    """Rows may lie apart, the elements of one may not: a stride-0 gradient, say, is written out."""
    dense = tensor.stride(1) == 1 or tensor.shape[1] == 1
    return tensor if dense and tensor.stride(0) >= tensor.shape[1] else tensor.contiguous()


def _forward(
    z: Sequence[Tensor],
    lse: Tensor,
    reflectors: Tensor,
    set_logits: Tensor,
    neighbor_vectors: Tensor | None,
    index: Sequence[Tensor],
    activation: str,
    backend: str,
) -> None:
    """Fill z_1 ... z_L and lse, given z_0."""
    forward = {"reference": _reference_forward, "cpu": _cpu_forward}[_backend_for(backend, z[0])]
    vectors = None if neighbor_vectors is None else neighbor_vectors.contiguous()
    forward(z, lse, reflectors.contiguous(), set_logits.contiguous(), vectors, index, activation)


def _backward(
    grads: Sequence[Tensor | None],
    z: Sequence[Tensor],
    lse: Tensor,
    reflectors: Tensor,
    set_logits: Tensor,
    neighbor_vectors: Tensor | None,
    index: Sequence[Tensor],
    activation: str,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients dx, du, dc and dw (empty in relation mode) of the chain."""
    backward = {"reference": _reference_backward, "cpu": _cpu_backward}[_backend_for(backend, z[0])]
    vectors = None if neighbor_vectors is None else neighbor_vectors.contiguous()
    return backward(
        grads, z, lse, reflectors.contiguous(), set_logits.contiguous(), vectors, index, activation
    )


def _reference_forward(
    z: Sequence[Tensor],
    lse: Tensor,
    reflectors: Tensor,
    set_logits: Tensor,
    neighbor_vectors: Tensor | None,
    index: Sequence[Tensor],
    activation: str,
) -> None:
    edges = reference.Edges.from_pointers(*index[:3])
    for layer, logits in enumerate(set_logits):
        w = None if neighbor_vectors is None else neighbor_vectors[layer]
        output, denominator = reference.relation_reflection_forward(
            z[layer], reflectors, logits, edges, w, activation
        )
        z[layer + 1].copy_(output)
        lse[layer].copy_(denominator)


def _reference_backward(
    grads: Sequence[Tensor | None],
    z: Sequence[Tensor],
    lse: Tensor,
    reflectors: Tensor,
    set_logits: Tensor,
    neighbor_vectors: Tensor | None,
    index: Sequence[Tensor],
    activation: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    edges = reference.Edges.from_pointers(*index[:3])
    dx, du, dc, dw = reference.relation_reflection_layers_backward(
        grads, z, lse, reflectors, set_logits, edges, neighbor_vectors, activation
    )
    return (
        dx.to(z[0].dtype),
        du.to(reflectors.dtype),
        dc,
        dc.new_empty(0, z[0].shape[1]) if dw is None else dw,
    )


def _cpu_forward(
    z: Sequence[Tensor],
    lse: Tensor,
    reflectors: Tensor,
    set_logits: Tensor,
    neighbor_vectors: Tensor | None,
    index: Sequence[Tensor],
    activation: str,
) -> None:
    from loginmea_fast import native

    native.load("cpu").relation_reflection_forward(
        native.dtype_code(reflectors.dtype),
        *_sizes(z[0], reflectors, index),
        [t.data_ptr() for t in index],
        [t.data_ptr() for t in z], [t.stride(0) for t in z],
        reflectors.data_ptr(), set_logits.data_ptr(), _address(neighbor_vectors), activation == "tanh",
        lse.data_ptr(),
        torch.get_num_threads(),
    )  # fmt: skip


def _cpu_backward(
    grads: Sequence[Tensor | None],
    z: Sequence[Tensor],
    lse: Tensor,
    reflectors: Tensor,
    set_logits: Tensor,
    neighbor_vectors: Tensor | None,
    index: Sequence[Tensor],
    activation: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    from loginmea_fast import native

    dx = reflectors.new_empty(z[0].shape)
    du, dc = torch.empty_like(reflectors), torch.empty_like(set_logits)
    dw = dc.new_empty(0, dx.shape[1]) if neighbor_vectors is None else torch.empty_like(neighbor_vectors)
    native.load("cpu").relation_reflection_backward(
        native.dtype_code(reflectors.dtype),
        *_sizes(z[0], reflectors, index),
        [t.data_ptr() for t in index],
        [_address(t) for t in grads], [0 if t is None else t.stride(0) for t in grads],
        [t.data_ptr() for t in z], [t.stride(0) for t in z],
        lse.data_ptr(), reflectors.data_ptr(), set_logits.data_ptr(), _address(neighbor_vectors),
        activation == "tanh",
        dx.data_ptr(), du.data_ptr(), dc.data_ptr(), dw.data_ptr(),
        torch.get_num_threads(),
    )  # fmt: skip
    return dx, du, dc, dw


def _sizes(x: Tensor, reflectors: Tensor, index: Sequence[Tensor]) -> tuple[int, int, int, int]:
    return x.shape[0], index[1].numel(), reflectors.shape[0], x.shape[1]


def _address(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()


@torch.library.custom_op("loginmea_fast::relation_reflection_attention", mutates_args=())
def _attention(
    x: Tensor,
    reflectors: Tensor,
    set_logits: Tensor,
    neighbor_vectors: Tensor | None,
    index: list[Tensor],
    activation: str,
    backend: str,
) -> tuple[Tensor, Tensor]:
    """Fill and return y [N, d] and lse [1, N]."""
    y = torch.empty_like(x, memory_format=torch.contiguous_format)
    lse = set_logits.new_empty(1, x.shape[0])
    _forward([_row_strided(x), y], lse, reflectors, set_logits, neighbor_vectors, index, activation, backend)
    return y, lse


@_attention.register_fake
def _(x, reflectors, set_logits, neighbor_vectors, index, activation, backend):  # type: ignore[no-untyped-def]
    return torch.empty_like(x, memory_format=torch.contiguous_format), set_logits.new_empty(1, x.shape[0])


@torch.library.custom_op("loginmea_fast::relation_reflection_attention_backward", mutates_args=())
def _attention_backward(
    grad: Tensor,
    x: Tensor,
    y: Tensor,
    lse: Tensor,
    reflectors: Tensor,
    set_logits: Tensor,
    neighbor_vectors: Tensor | None,
    index: list[Tensor],
    activation: str,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients dx, du, dc, dw."""
    grads, z = [None, _row_strided(grad)], [_row_strided(x), y]
    return _backward(grads, z, lse, reflectors, set_logits, neighbor_vectors, index, activation, backend)


@_attention_backward.register_fake
def _(grad, x, y, lse, reflectors, set_logits, neighbor_vectors, index, activation, backend):  # type: ignore
    return _fake_gradients(x.shape, reflectors, set_logits, neighbor_vectors)


@torch.library.custom_op("loginmea_fast::relation_reflection_layers", mutates_args=())
def _layers(
    x: Tensor,
    reflectors: Tensor,
    set_logits: Tensor,
    neighbor_vectors: Tensor | None,
    index: list[Tensor],
    activation: str,
    backend: str,
) -> tuple[Tensor, Tensor]:
    """Fill and return [z_0 | ... | z_L] and lse [L, N]."""
    layers = set_logits.shape[0]
    out = x.new_empty(x.shape[0], (layers + 1) * x.shape[1])
    lse = set_logits.new_empty(layers, x.shape[0])
    if _backend_for(backend, x) == "cpu":
        # Before the first write: the pages of a buffer this size are worth asking for in large pieces.
        from loginmea_fast import native

        native.load("cpu").prefer_huge_pages(out.data_ptr(), out.nbytes)
    z = out.split(x.shape[1], dim=1) if x.shape[1] else [out] * (layers + 1)
    z[0].copy_(x)
    _forward(z, lse, reflectors, set_logits, neighbor_vectors, index, activation, backend)
    return out, lse


@_layers.register_fake
def _(x, reflectors, set_logits, neighbor_vectors, index, activation, backend):  # type: ignore[no-untyped-def]
    layers = set_logits.shape[0]
    out = x.new_empty(x.shape[0], (layers + 1) * x.shape[1])
    return out, set_logits.new_empty(layers, x.shape[0])


@torch.library.custom_op("loginmea_fast::relation_reflection_layers_backward", mutates_args=())
def _layers_backward(
    grad: Tensor,
    out: Tensor,
    lse: Tensor,
    reflectors: Tensor,
    set_logits: Tensor,
    neighbor_vectors: Tensor | None,
    index: list[Tensor],
    activation: str,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients dx, du, dc, dw."""
    width = reflectors.shape[1]
    parts = set_logits.shape[0] + 1
    grads = _row_strided(grad).split(width, dim=1) if width else [grad] * parts
    z = out.split(width, dim=1) if width else [out] * parts
    return _backward(grads, z, lse, reflectors, set_logits, neighbor_vectors, index, activation, backend)


@_layers_backward.register_fake
def _(grad, out, lse, reflectors, set_logits, neighbor_vectors, index, activation, backend):  # type: ignore
    return _fake_gradients((out.shape[0], reflectors.shape[1]), reflectors, set_logits, neighbor_vectors)


def _fake_gradients(shape, reflectors, set_logits, neighbor_vectors):  # type: ignore[no-untyped-def]
    layers = 0 if neighbor_vectors is None else neighbor_vectors.shape[0]
    return (
        reflectors.new_empty(shape),
        reflectors.new_empty(reflectors.shape),
        set_logits.new_empty(set_logits.shape),
        set_logits.new_empty(layers, reflectors.shape[1]),
    )


def _remember(ctx, inputs, output, keep_input: bool) -> None:  # type: ignore[no-untyped-def]
    x, reflectors, set_logits, neighbor_vectors, index, ctx.activation, ctx.backend = inputs
    z, lse = output
    ctx.mark_non_differentiable(lse)
    ctx.set_materialize_grads(False)
    kept = [x, z] if keep_input else [z]
    ctx.has_vectors = neighbor_vectors is not None
    vectors = [neighbor_vectors] if ctx.has_vectors else []
    ctx.save_for_backward(*kept, lse, reflectors, set_logits, *vectors, *index)


def _recall(ctx, grad, operator, num_kept: int):  # type: ignore[no-untyped-def]
    if torch.is_grad_enabled():
        # To autograd the backward kernels are constants: a second derivative through them would be wrong.
        raise BackendError(
            "relation_reflection_attention can be differentiated once, without create_graph; for higher "
            "derivatives use loginmea_fast.reference.relation_reflection_attention"
        )
    if grad is None:
        return None, None, None, None, [None] * len(_INDEX), None, None
    saved = list(ctx.saved_tensors)
    kept, (lse, reflectors, set_logits), rest = (
        saved[:num_kept],
        saved[num_kept : num_kept + 3],
        saved[num_kept + 3 :],
    )
    vectors = rest.pop(0) if ctx.has_vectors else None
    dx, du, dc, dw = operator(
        grad, *kept, lse, reflectors, set_logits, vectors, rest, ctx.activation, ctx.backend
    )
    return dx, du, dc, dw if ctx.has_vectors else None, [None] * len(_INDEX), None, None


_attention.register_autograd(
    lambda ctx, grad, _: _recall(ctx, grad, _attention_backward, 2),
    setup_context=lambda ctx, inputs, output: _remember(ctx, inputs, output, keep_input=True),
)
_layers.register_autograd(
    lambda ctx, grad, _: _recall(ctx, grad, _layers_backward, 1),
    setup_context=lambda ctx, inputs, output: _remember(ctx, inputs, output, keep_input=False),
)
