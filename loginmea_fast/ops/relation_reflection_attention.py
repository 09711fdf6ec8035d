"""Relation-reflection attention, fused; the mathematics is in `reference/relation_reflection_attention.py`.

Both operators are chains of layers: one layer into a tensor of its own, or L layers into the columns of one
buffer. A chain is one autograd node, because the backward of a layer ends where that of the layer below begins:
with the same row still in the cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from loginmea_fast.errors import BackendError, InputError
from loginmea_fast.graph import AlignmentGraph, View
from loginmea_fast.ops import _attention_cpu, _dispatch
from loginmea_fast.ops._attention_chain import INDEX, Chain, Gradients, graphs_in
from loginmea_fast.ops._device_choice import in_order
from loginmea_fast.reference import relation_reflection_attention as reference

__all__ = ["relation_reflection_attention", "relation_reflection_layers"]


def relation_reflection_attention(
    x: Tensor,
    reflectors: Tensor,
    set_logits: Tensor | None,
    graph: AlignmentGraph | View,
    neighbor_vector: Tensor | None = None,
    activation: str | None = None,
    backend: str = "auto",
    *,
    relation_vector: Tensor | None = None,
) -> Tensor:
    """One layer of relation-reflection attention (LoginMEA, arXiv 2407.19625, section 4.1; Dual-AMN, RREA).

    For every edge e = (i <- j) with relation set s,

        m_e = x_j - 2 (x_j . u_s) u_s ;   l_e = c_s (+ v . u_s) (+ w . m_e) ;   y_i = sum_e softmax_i(l)_e m_e

    Nothing of size edges x width exists, forward or backward. Memory beyond the results is a few values an entity and
    an edge, and in backward one tensor of the size of `x` and, on the CPU, private sums of at most N + 2 U rows (about
    2 U on DBP15K). Sums are kept in float32 (float64 for float64) and run in a fixed order, so that results repeat bit
    for bit for any number of threads. A NaN in `x` reaches the entities with an edge from that row and no others.

    Args:
        x: [N, d] entity features; float32, float64 or bfloat16. Any row stride.
        reflectors: [U, d], one row a relation set, dtype and device of `x`; see `relation_reflectors`.
        set_logits: c, [U], attention logit of each relation set; None for zeros.
        graph: edges and relation sets, on the device of `x`. Of a view of one layer `x` holds the n_0 entities that are
            needed, and the result the B that are asked for.
        neighbor_vector: w, [d], of triple mode (RREA); None for relation mode (Dual-AMN, LoginMEA).
        activation: "tanh", or None.
        backend: "auto", "reference", "cpu", "triton" or "cuda".
        relation_vector: v, [d]; its v . u_s, the paper's logits, are added to `set_logits`. Saves the gradient of
            `reflectors` that a product outside would make and add.

    Returns:
        [N, d] ([B, d] of a view), dtype of `x`; an entity without edges has a row of zeros. Can be differentiated once.

    Raises:
        InputError: shapes, dtypes or devices do not fit each other or the graph.
        BackendError: the backend asked for by name cannot serve.
    """
    x, reflectors = _under_autocast(x, reflectors)
    set_logits, relation_vector, neighbor_vector = _dispatch.under_autocast(
        set_logits, relation_vector, neighbor_vector
    )
    sets = _check(x, reflectors, graph, 1, activation, backend)
    width = x.shape[1]
    for name, tensor, shape, meaning in (
        ("set_logits", set_logits, (sets,), "[relation sets]"),
        ("relation_vector", relation_vector, (width,), "[width]"),
        ("neighbor_vector", neighbor_vector, (width,), "[width]"),
    ):
        _check_parameter(name, tensor, shape, meaning, x)
    c, v, w = (_wide(t, x) for t in (set_logits, relation_vector, neighbor_vector))
    if c is None and v is None:
        c = x.new_zeros(sets, dtype=_sum_dtype(x))
    c, v, w = (None if t is None else t[None] for t in (c, v, w))
    y, _, _ = _attention(x, reflectors, c, v, w, _index_of(graph), activation or "none", backend)
    return _dispatch.check_view(graph).first(y)


def relation_reflection_layers(
    x: Tensor,
    reflectors: Tensor,
    set_logits: Tensor | None,
    graph: AlignmentGraph | View,
    neighbor_vectors: Tensor | None = None,
    activation: str | None = "tanh",
    backend: str = "auto",
    *,
    relation_vectors: Tensor | None = None,
    activate_input: bool = False,
) -> Tensor:
    """L layers of relation-reflection attention, all outputs side by side (docs/model.md, Layers).

    z_0 = `x`, z_k = activation(attention_k(z_(k-1))). All layers share the reflectors, each has its own logits.
    The layers are one autograd node that writes into one buffer; `relation_reflection_attention` says what holds.

    Args:
        x: [N, d], z_0, or with `activate_input` what z_0 is the activation of. float32, float64 or bfloat16.
        reflectors: [U, d], dtype and device of `x`.
        set_logits: c, [L, U]; None for zeros.
        graph: edges and relation sets, on the device of `x`. Of a view of L layers `x` holds the n_0 entities that are
            needed, and the result the B that are asked for; z_k is formed where layer k + 1 reads it.
        neighbor_vectors: w, [L, d] for triple mode; None for relation mode.
        activation: "tanh", or None.
        backend: "auto", "reference", "cpu", "triton" or "cuda".
        relation_vectors: v, [L, d]; see `relation_reflection_attention`.
        activate_input: z_0 = activation(x); its gradient is then a factor where the lowest layer's rows end.

    Returns:
        [N, (L + 1) d] = [z_0 | z_1 | ... | z_L], dtype of `x`; [B, (L + 1) d] of a view.

    Raises:
        InputError: shapes, dtypes or devices do not fit each other or the graph, or neither logits nor relation
            vectors say how many layers there are.
        BackendError: the backend asked for by name cannot serve.
    """
    x, reflectors = _under_autocast(x, reflectors)
    set_logits, relation_vectors, neighbor_vectors = _dispatch.under_autocast(
        set_logits, relation_vectors, neighbor_vectors
    )
    given = set_logits if set_logits is not None else relation_vectors
    layers = 0 if given is None or given.dim() == 0 else given.shape[0]
    if layers == 0:
        raise InputError("set_logits or relation_vectors must have at least one row, one a layer; got none")
    sets = _check(x, reflectors, graph, layers, activation, backend)
    width = x.shape[1]
    for name, tensor, shape, meaning in (
        ("set_logits", set_logits, (layers, sets), "[layers, relation sets]"),
        ("relation_vectors", relation_vectors, (layers, width), "[layers, width]"),
        ("neighbor_vectors", neighbor_vectors, (layers, width), "[layers, width]"),
    ):
        _check_parameter(name, tensor, shape, meaning, x)
    c, v, w = (_wide(t, x) for t in (set_logits, relation_vectors, neighbor_vectors))
    activates = activate_input and activation is not None
    options = layers, activates, activation or "none", backend
    out, *_ = _layers(x, reflectors, c, v, w, _index_of(graph), *options)
    return _dispatch.check_view(graph).first(out)


def _under_autocast(x: Tensor, reflectors: Tensor) -> list[Tensor]:
    """Under autocast one argument may come from a product in half precision: the wider dtype serves both."""
    x, reflectors = _dispatch.under_autocast(x, reflectors)
    both = isinstance(x, Tensor) and isinstance(reflectors, Tensor)
    if both and x.dtype != reflectors.dtype and _dispatch.autocast_dtype(x) is not None:
        dtype = torch.promote_types(x.dtype, reflectors.dtype)
        return [x.to(dtype), reflectors.to(dtype)]
    return [x, reflectors]


def _check(
    x: Tensor,
    reflectors: Tensor,
    graph: AlignmentGraph | View,
    layers: int,
    activation: str | None,
    backend: str,
) -> int:
    """Number of relation sets."""
    _dispatch.check_backend_name(backend)
    if activation not in (None, "tanh"):
        raise InputError(f'activation must be "tanh" or None; got {activation!r}')
    _dispatch.check_float("x", x)
    _dispatch.check_float("reflectors", reflectors)
    view = _dispatch.check_view(graph, layers)
    sets = view.graph.num_relation_sets
    _dispatch.check_shape("x", x, (view.num_entities, None), "[entities, width]")
    _dispatch.check_shape("reflectors", reflectors, (sets, x.shape[1]), "[relation sets, width]")
    _dispatch.check_same_dtype(x=x, reflectors=reflectors)
    _dispatch.check_same_device(x=x, reflectors=reflectors)
    if graph.device != x.device:
        raise InputError(f"x is on {x.device}, the graph on {graph.device}; move it with graph.to()")
    return sets


def _check_parameter(
    name: str, tensor: Tensor | None, shape: tuple[int, ...], meaning: str, x: Tensor
) -> None:
    if tensor is not None:
        _dispatch.check_float(name, tensor)
        _dispatch.check_shape(name, tensor, shape, meaning)
        _dispatch.check_same_device(**{"x": x, name: tensor})


def _wide(tensor: Tensor | None, x: Tensor) -> Tensor | None:
    return None if tensor is None else tensor.to(_sum_dtype(x))


def _sum_dtype(x: Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def _index_of(graph: AlignmentGraph | View) -> list[Tensor]:
    if isinstance(graph, View):
        if graph.blocks:
            return [t for block in graph.blocks for t in (*block, block.dst_source.new_empty(0))]
        graph = graph.graph
    return [getattr(graph, name) for name in INDEX]


def _rows_of_layers(index: Sequence[Tensor], layers: int) -> list[int]:
    """Rows of z_0 ... z_L."""
    graphs = graphs_in(index)
    written = [graph[0].shape[0] - 1 for graph in graphs]
    return [graphs[0][3].shape[0] - 1, *(written if len(written) == layers else written * layers)]


def _chain(
    z: Sequence[Tensor],
    lse: Tensor,
    logits: Tensor,
    reflectors: Tensor,
    relation_vectors: Tensor | None,
    neighbor_vectors: Tensor | None,
    index: Sequence[Tensor],
    activation: str,
) -> Chain:
    v, w = (None if t is None else t.contiguous() for t in (relation_vectors, neighbor_vectors))
    of_layer = lse.view(-1).split([len(t) for t in z[1:]])
    return Chain(z, of_layer, logits, reflectors.contiguous(), v, w, graphs_in(index), activation)


def _backend_for(backend: str, x: Tensor) -> str:
    candidates = {
        "cpu": lambda: _dispatch.native_reason(x, "cpu"),
        "triton": lambda: _dispatch.triton_reason(x) or _too_much_for_triton(x),
        "cuda": lambda: _dispatch.native_reason(x, "cuda") or _cuda_reason(x),
    }
    op = "relation_reflection_attention"
    return _dispatch.choose_backend(op, backend, in_order(op, x.dtype, x.shape[1], candidates))


def _too_much_for_triton(x: Tensor) -> str | None:
    from loginmea_fast.kernels.relation_reflection_attention import WIDEST

    if x.dtype == torch.float64:
        return "the Triton kernels sum in float32"
    return f"rows wider than {WIDEST}" if x.shape[1] > WIDEST else None


def _cuda_reason(x: Tensor) -> str | None:
    from loginmea_fast.ops._attention_cuda import unsupported

    return unsupported(x.dtype, x.shape[1])


def _kernels(backend: str) -> Any:
    """The launches of one layer; see `_attention_gpu`."""
    if backend == "cuda":
        from loginmea_fast.ops import _attention_cuda

        return _attention_cuda
    from loginmea_fast.kernels import relation_reflection_attention as triton_kernels

    return triton_kernels


def _forward(chain: Chain, set_logits: Tensor | None, backend: str) -> None:
    """Fill all that forward writes."""
    chosen = _backend_for(backend, chain.z[0])
    if chosen == "reference":
        _reference_forward(chain, set_logits)
    elif chosen == "cpu":
        _attention_cpu.relation_reflection_forward(chain, set_logits)
    else:
        from loginmea_fast.ops import _attention_gpu

        _fill_logits(chain, set_logits)
        _attention_gpu.relation_reflection_forward(chain, _kernels(chosen))


def _backward(
    chain: Chain, grads: Sequence[Tensor | None], backend: str, activates: bool = False
) -> Gradients:
    """The gradient, given that of every z; None where z_k got none but the chain's. `activates`: through z_0 too."""
    chosen = _backend_for(backend, chain.z[0])
    if chosen == "cpu":
        return _attention_cpu.relation_reflection_backward(chain, grads, activates)
    if chosen == "reference":
        dx, *rest = _reference_backward(chain, grads)
    else:
        dx, *rest = _gpu_backward(chain, grads, _kernels(chosen))
    dx = torch.ops.aten.tanh_backward(dx, chain.z[0]) if activates else dx
    du, dc, dv, dw = rest
    return dx, du, dc, dv, dw


def _reference_forward(chain: Chain, set_logits: Tensor | None) -> None:
    _fill_logits(chain, set_logits)
    for layer, logits in enumerate(chain.logits):
        w = None if chain.neighbor_vectors is None else chain.neighbor_vectors[layer]
        edges = reference.Edges.from_pointers(*chain.of_layers()[layer][:3])
        output, denominator = reference.relation_reflection_forward(
            chain.z[layer], chain.reflectors, logits, edges, w, chain.activation
        )
        chain.z[layer + 1].copy_(output)
        chain.lse[layer].copy_(denominator)


def _reference_backward(chain: Chain, grads: Sequence[Tensor | None]) -> Gradients:
    dx, du, dc, dw = reference.relation_reflection_layers_backward(
        grads,
        chain.z,
        chain.lse,
        chain.reflectors,
        chain.logits,
        [reference.Edges.from_pointers(*graph[:3]) for graph in chain.of_layers()],
        chain.neighbor_vectors,
        chain.activation,
    )
    du, dv = _through_logits(chain, du, dc)
    return dx.to(chain.z[0].dtype), du, dc, dv, _or_empty(dw, dc)


def _gpu_backward(chain: Chain, grads: Sequence[Tensor | None], kernels: Any) -> Gradients:
    from loginmea_fast.ops import _attention_gpu

    dx, du, dc, dw = _attention_gpu.relation_reflection_backward(chain, grads, kernels)
    du, dv = _through_logits(chain, du, dc)
    return dx, du, dc, dv, _or_empty(dw, dc)


def _fill_logits(chain: Chain, set_logits: Tensor | None) -> None:
    """Logits c + v . u, for the backends that read them ready-made."""
    if set_logits is None:
        chain.logits.zero_()
    else:
        chain.logits.copy_(set_logits)
    if chain.relation_vectors is not None:
        chain.logits.addmm_(chain.relation_vectors, chain.reflectors.to(chain.logits.dtype).t())


def _through_logits(chain: Chain, du: Tensor, dc: Tensor) -> tuple[Tensor, Tensor]:
    """Add to du what reaches it through v . u, and find dv."""
    if chain.relation_vectors is None:
        return du.to(chain.reflectors.dtype), dc.new_empty(0, du.shape[1])
    du = torch.addmm(du.to(dc.dtype), dc.t(), chain.relation_vectors)
    return du.to(chain.reflectors.dtype), dc @ chain.reflectors.to(dc.dtype)


def _or_empty(tensor: Tensor | None, like: Tensor) -> Tensor:
    return like.new_empty(0, like.shape[1]) if tensor is None else tensor


def _row_strided(tensor: Tensor) -> Tensor:
    """Rows may lie apart, the elements of one may not: a stride-0 gradient, say, is written out."""
    dense = tensor.stride(1) == 1 or tensor.shape[1] == 1
    return tensor if dense and tensor.stride(0) >= tensor.shape[1] else tensor.contiguous()


def _columns(tensor: Tensor, layers: int) -> list[Tensor]:
    """The blocks z_0 ... z_L of a buffer, or of its gradient."""
    width = tensor.shape[1] // (layers + 1)
    return [tensor[:, k * width : (k + 1) * width] for k in range(layers + 1)]


def _in_place(out: Tensor, x: Tensor | None, inner: Tensor, rows: Sequence[int]) -> list[Tensor]:
    """z_0 ... z_L where they are written, given the rows of each.

    Those of the entities asked for, [B, d], are columns of the result. A view's z_0 and inner layers have more rows
    than that: z_0 is `x`, unless that is yet to be activated; the others lie one after the other in `inner`, and of
    these the result gets a copy.
    """
    z, place = _columns(out, len(rows) - 1), 0
    for k, count in enumerate(rows):
        if count == len(out):
            continue
        if k == 0 and x is not None:
            z[k] = x
        else:
            z[k] = inner[place : place + count]
            place += count
    return z


def _inner_rows(rows: Sequence[int], activates: bool) -> int:
    return sum(count for count in rows[0 if activates else 1 :] if count != rows[-1])


@_dispatch.operator("relation_reflection_attention")
def _attention(
    x: Tensor,
    reflectors: Tensor,
    set_logits: Tensor | None,
    relation_vectors: Tensor | None,
    neighbor_vectors: Tensor | None,
    index: list[Tensor],
    activation: str,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor]:
    """Fill and return y [n_1, d], lse [1, n_1] and logits [1, U]."""
    rows = _rows_of_layers(index, 1)
    y = x.new_empty(rows[1], x.shape[1])
    lse, logits = _scalars(x, reflectors, rows)
    z = [_row_strided(x), y]
    chain = _chain(z, lse, logits, reflectors, relation_vectors, neighbor_vectors, index, activation)
    _forward(chain, None if set_logits is None else set_logits.contiguous(), backend)
    return y, lse[None], logits


@_dispatch.operator("relation_reflection_layers")
def _layers(
    x: Tensor,
    reflectors: Tensor,
    set_logits: Tensor | None,
    relation_vectors: Tensor | None,
    neighbor_vectors: Tensor | None,
    index: list[Tensor],
    layers: int,
    activates: bool,
    activation: str,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Fill and return [z_0 | ... | z_L], the inner layers of a view, lse [sum of n_1 ... n_L] and logits [L, U]."""
    rows = _rows_of_layers(index, layers)
    out = x.new_empty(rows[-1], len(rows) * x.shape[1])
    inner = x.new_empty(_inner_rows(rows, activates), x.shape[1])
    lse, logits = _scalars(x, reflectors, rows)
    if _backend_for(backend, x) == "cpu":
        # Before the first write: the pages of a buffer this size are worth asking for in large pieces.
        from loginmea_fast import native

        native.load("cpu").prefer_huge_pages(out.data_ptr(), out.nbytes)
    z = _in_place(out, None if activates else _row_strided(x), inner, rows)
    columns = _columns(out, layers)
    if activates:
        torch.tanh(x, out=z[0])
    if not activates or rows[0] != rows[-1]:
        columns[0].copy_((z[0] if activates else x)[: rows[-1]])
    chain = _chain(z, lse, logits, reflectors, relation_vectors, neighbor_vectors, index, activation)
    _forward(chain, None if set_logits is None else set_logits.contiguous(), backend)
    for k, count in enumerate(rows[1:], 1):
        if count != rows[-1]:
            columns[k].copy_(z[k][: rows[-1]])
    return out, inner, lse, logits


def _scalars(x: Tensor, reflectors: Tensor, rows: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Room for lse [sum of n_1 ... n_L] and logits [L, U]."""
    dtype = _sum_dtype(x)
    shape = len(rows) - 1, reflectors.shape[0]
    return x.new_empty(sum(rows[1:]), dtype=dtype), x.new_empty(shape, dtype=dtype)


@_attention.register_fake
def _(x, reflectors, set_logits, relation_vectors, neighbor_vectors, index, activation, backend):  # type: ignore
    rows = _rows_of_layers(index, 1)
    lse, logits = _scalars(x, reflectors, rows)
    return x.new_empty(rows[1], x.shape[1]), lse[None], logits


@_layers.register_fake
def _(x, reflectors, set_logits, relation_vectors, neighbor_vectors, index, layers, activates, *_):  # type: ignore
    rows = _rows_of_layers(index, layers)
    out = x.new_empty(rows[-1], len(rows) * x.shape[1])
    return out, x.new_empty(_inner_rows(rows, activates), x.shape[1]), *_scalars(x, reflectors, rows)


@_dispatch.operator("relation_reflection_attention_backward")
def _attention_backward(
    grad: Tensor,
    x: Tensor,
    y: Tensor,
    lse: Tensor,
    logits: Tensor,
    reflectors: Tensor,
    relation_vectors: Tensor | None,
    neighbor_vectors: Tensor | None,
    index: list[Tensor],
    activation: str,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients dx, du, dc, dv and dw."""
    z = [_row_strided(x), y]
    chain = _chain(z, lse, logits, reflectors, relation_vectors, neighbor_vectors, index, activation)
    return _backward(chain, [None, _row_strided(grad)], backend)


@_dispatch.operator("relation_reflection_layers_backward")
def _layers_backward(
    grad: Tensor,
    x: Tensor | None,
    out: Tensor,
    inner: Tensor,
    lse: Tensor,
    logits: Tensor,
    reflectors: Tensor,
    relation_vectors: Tensor | None,
    neighbor_vectors: Tensor | None,
    index: list[Tensor],
    activates: bool,
    activation: str,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients dx, du, dc, dv and dw; `x` where it is neither the first columns of `out` nor activated in `inner`."""
    rows = _rows_of_layers(index, len(logits))
    z = _in_place(out, None if x is None else _row_strided(x), inner, rows)
    chain = _chain(z, lse, logits, reflectors, relation_vectors, neighbor_vectors, index, activation)
    return _backward(chain, _columns(_row_strided(grad), len(logits)), backend, activates)


@_attention_backward.register_fake
def _(grad, x, y, lse, logits, reflectors, relation_vectors, neighbor_vectors, index, activation, backend):  # type: ignore
    return _fake_gradients(x.shape, logits, reflectors, relation_vectors, neighbor_vectors)


@_layers_backward.register_fake
def _(grad, x, out, *given):  # type: ignore[no-untyped-def]
    _, _, logits, reflectors, relation_vectors, neighbor_vectors, index, *_ = given
    shape = (index[3].shape[0] - 1, reflectors.shape[1])
    return _fake_gradients(shape, logits, reflectors, relation_vectors, neighbor_vectors)


def _fake_gradients(shape, logits, reflectors, relation_vectors, neighbor_vectors):  # type: ignore[no-untyped-def]
    dv, dw = (
        logits.new_empty(0 if t is None else t.shape[0], reflectors.shape[1])
        for t in (relation_vectors, neighbor_vectors)
    )
    return (
        reflectors.new_empty(shape),
        reflectors.new_empty(reflectors.shape),
        logits.new_empty(logits.shape),
        dv,
        dw,
    )


def _remember(ctx: Any, inputs: tuple[Any, ...], kept: Sequence[Tensor | None]) -> None:
    _, reflectors, set_logits, v, w, index, *_ = inputs
    ctx.set_materialize_grads(False)
    ctx.given = (set_logits is not None, v is not None, w is not None)
    ctx.save_for_backward(*kept, reflectors, v, w, *index)


def _remember_attention(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.mark_non_differentiable(*output[1:])
    ctx.options = inputs[6:]
    _remember(ctx, inputs, [inputs[0], *output])


def _remember_layers(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.mark_non_differentiable(*output[1:])
    x, out = inputs[0], output[0]
    _, *ctx.options = inputs[6:]
    activates = ctx.options[0]
    _remember(ctx, inputs, [None if activates or x.shape[0] == out.shape[0] else x, *output])


def _differentiate(
    ctx: Any, grad: Tensor | None, operator: Any, num_kept: int, others: int
) -> tuple[Any, ...]:
    if torch.is_grad_enabled():
        # To autograd the backward kernels are constants: a second derivative through them would be wrong.
        raise BackendError(
            "relation_reflection_attention can be differentiated once, without create_graph; for higher "
            "derivatives use loginmea_fast.reference.relation_reflection_attention"
        )
    kept = list(ctx.saved_tensors)
    index = kept[num_kept + 3 :]
    no_gradients = [None] * len(index), *[None] * others
    if grad is None:
        return *[None] * 5, *no_gradients
    has_c, has_v, has_w = ctx.given
    dx, du, dc, dv, dw = operator(grad, *kept[: num_kept + 3], index, *ctx.options)
    return dx, du, dc if has_c else None, dv if has_v else None, dw if has_w else None, *no_gradients


_attention.register_autograd(
    lambda ctx, grad, *_: _differentiate(ctx, grad, _attention_backward, 4, 2),
    setup_context=_remember_attention,
)
_layers.register_autograd(
    lambda ctx, grad, *_: _differentiate(ctx, grad, _layers_backward, 5, 4),
    setup_context=_remember_layers,
)
