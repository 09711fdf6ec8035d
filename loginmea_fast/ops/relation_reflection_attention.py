"""Relation-reflection attention, fused; the mathematics is in `reference/relation_reflection_attention.py`.

Both operators are chains of layers: one layer into a tensor of its own, or L layers into the columns of one
buffer. A chain is one autograd node, because the backward of a layer ends where that of the layer below begins:
with the same row still in the cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from loginmea_fast.derived import Derived
from loginmea_fast.errors import BackendError, InputError
from loginmea_fast.graph import AlignmentGraph
from loginmea_fast.ops import _dispatch
from loginmea_fast.ops._device_choice import in_order
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
    set_logits: Tensor | None,
    graph: AlignmentGraph,
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
        graph: edges and relation sets, on the device of `x`.
        neighbor_vector: w, [d], of triple mode (RREA); None for relation mode (Dual-AMN, LoginMEA).
        activation: "tanh", or None.
        backend: "auto", "reference", "cpu", "triton" or "cuda".
        relation_vector: v, [d]; its v . u_s, the paper's logits, are added to `set_logits`. Saves the gradient of
            `reflectors` that a product outside would make and add.

    Returns:
        [N, d], dtype of `x`; an entity without edges has a row of zeros. Can be differentiated once.

    Raises:
        InputError: shapes, dtypes or devices do not fit each other or the graph.
        BackendError: the backend asked for by name cannot serve.
    """
    x, reflectors = _under_autocast(x, reflectors)
    set_logits, relation_vector, neighbor_vector = _dispatch.under_autocast(
        set_logits, relation_vector, neighbor_vector
    )
    _check(x, reflectors, graph, activation, backend)
    width = x.shape[1]
    for name, tensor, shape, meaning in (
        ("set_logits", set_logits, (graph.num_relation_sets,), "[relation sets]"),
        ("relation_vector", relation_vector, (width,), "[width]"),
        ("neighbor_vector", neighbor_vector, (width,), "[width]"),
    ):
        _check_parameter(name, tensor, shape, meaning, x)
    c, v, w = (_wide(t, x) for t in (set_logits, relation_vector, neighbor_vector))
    if c is None and v is None:
        c = x.new_zeros(graph.num_relation_sets, dtype=_sum_dtype(x))
    c, v, w = (None if t is None else t[None] for t in (c, v, w))
    y, _, _ = _attention(x, reflectors, c, v, w, _index_of(graph), activation or "none", backend)
    return y


def relation_reflection_layers(
    x: Tensor,
    reflectors: Tensor,
    set_logits: Tensor | None,
    graph: AlignmentGraph,
    neighbor_vectors: Tensor | None = None,
    activation: str | None = "tanh",
    backend: str = "auto",
    *,
    relation_vectors: Tensor | None = None,
) -> Tensor:
    """L layers of relation-reflection attention, all outputs side by side (docs/model.md, Layers).

    z_0 = `x`, z_k = activation(attention_k(z_(k-1))). All layers share the reflectors, each has its own logits.
    The layers are one autograd node that writes into one buffer; `relation_reflection_attention` says what holds.

    Args:
        x: [N, d], z_0: activate it before, if the model does. float32, float64 or bfloat16.
        reflectors: [U, d], dtype and device of `x`.
        set_logits: c, [L, U]; None for zeros.
        graph: edges and relation sets, on the device of `x`.
        neighbor_vectors: w, [L, d] for triple mode; None for relation mode.
        activation: "tanh", or None.
        backend: "auto", "reference", "cpu", "triton" or "cuda".
        relation_vectors: v, [L, d]; see `relation_reflection_attention`.

    Returns:
        [N, (L + 1) d] = [z_0 | z_1 | ... | z_L], dtype of `x`.

    Raises:
        InputError: shapes, dtypes or devices do not fit each other or the graph, or neither logits nor relation
            vectors say how many layers there are.
        BackendError: the backend asked for by name cannot serve.
    """
    x, reflectors = _under_autocast(x, reflectors)
    set_logits, relation_vectors, neighbor_vectors = _dispatch.under_autocast(
        set_logits, relation_vectors, neighbor_vectors
    )
    _check(x, reflectors, graph, activation, backend)
    given = set_logits if set_logits is not None else relation_vectors
    layers = 0 if given is None or given.dim() == 0 else given.shape[0]
    if layers == 0:
        raise InputError("set_logits or relation_vectors must have at least one row, one a layer; got none")
    width = x.shape[1]
    for name, tensor, shape, meaning in (
        ("set_logits", set_logits, (layers, graph.num_relation_sets), "[layers, relation sets]"),
        ("relation_vectors", relation_vectors, (layers, width), "[layers, width]"),
        ("neighbor_vectors", neighbor_vectors, (layers, width), "[layers, width]"),
    ):
        _check_parameter(name, tensor, shape, meaning, x)
    c, v, w = (_wide(t, x) for t in (set_logits, relation_vectors, neighbor_vectors))
    out, _, _ = _layers(x, reflectors, c, v, w, _index_of(graph), activation or "none", backend)
    return out


def _under_autocast(x: Tensor, reflectors: Tensor) -> list[Tensor]:
    """Under autocast one argument may come from a product in half precision: the wider dtype serves both."""
    x, reflectors = _dispatch.under_autocast(x, reflectors)
    both = isinstance(x, Tensor) and isinstance(reflectors, Tensor)
    if both and x.dtype != reflectors.dtype and _dispatch.autocast_dtype(x) is not None:
        dtype = torch.promote_types(x.dtype, reflectors.dtype)
        return [x.to(dtype), reflectors.to(dtype)]
    return [x, reflectors]


def _check(
    x: Tensor, reflectors: Tensor, graph: AlignmentGraph, activation: str | None, backend: str
) -> None:
    _dispatch.check_backend_name(backend)
    if activation not in (None, "tanh"):
        raise InputError(f'activation must be "tanh" or None; got {activation!r}')
    _dispatch.check_float("x", x)
    _dispatch.check_float("reflectors", reflectors)
    _dispatch.check_graph(graph)
    _dispatch.check_shape("x", x, (graph.num_entities, None), "[entities, width]")
    _dispatch.check_shape(
        "reflectors", reflectors, (graph.num_relation_sets, x.shape[1]), "[relation sets, width]"
    )
    _dispatch.check_same_dtype(x=x, reflectors=reflectors)
    _dispatch.check_same_device(x=x, reflectors=reflectors)
    if graph.device != x.device:
        raise InputError(f"x is on {x.device}, the graph on {graph.device}; move it with graph.to()")


def _check_parameter(
    name: str, tensor: Tensor | None, shape: tuple[int, ...], meaning: str, x: Tensor
) -> None:
    if tensor is not None:
        _dispatch.check_float(name, tensor)
        _dispatch.check_shape(name, tensor, shape, meaning)
        _dispatch.check_same_device(**{"x": x, name: tensor})


def _wide(tensor: Tensor | None, x: Tensor) -> Tensor | None:
    return None if tensor is None else tensor.to(_sum_dtype(x))


_streams: Derived[list[Tensor]] = Derived()


def _sum_dtype(x: Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def _index_of(graph: AlignmentGraph) -> list[Tensor]:
    return [getattr(graph, name) for name in _INDEX]


@dataclass(frozen=True)
class _Chain:
    """What the kernels of every backend take: rows of `z` and of gradients may lie apart, all else is contiguous."""

    z: Sequence[Tensor]  # z_0 ... z_L, [N, d] each; forward writes all but the first
    lse: Tensor  # [L, N], written by forward
    logits: Tensor  # [L, U], c + v . u; written by forward
    reflectors: Tensor  # [U, d]
    relation_vectors: Tensor | None  # v, [L, d]
    neighbor_vectors: Tensor | None  # w, [L, d]
    index: Sequence[Tensor]
    activation: str

    def sizes(self) -> tuple[int, int, int, int]:
        """Number of entities, edges and relation sets, and width."""
        return self.z[0].shape[0], self.index[1].numel(), self.reflectors.shape[0], self.z[0].shape[1]


def _chain(
    z: Sequence[Tensor],
    lse: Tensor,
    logits: Tensor,
    reflectors: Tensor,
    relation_vectors: Tensor | None,
    neighbor_vectors: Tensor | None,
    index: Sequence[Tensor],
    activation: str,
) -> _Chain:
    v, w = (None if t is None else t.contiguous() for t in (relation_vectors, neighbor_vectors))
    return _Chain(z, lse, logits, reflectors.contiguous(), v, w, index, activation)


# dx [N, d], du [U, d], dc [L, U], dv and dw [L, d] or, without v or w, [0, d].
_Gradients = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]


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
    """The module whose two functions run a chain on a GPU."""
    if backend == "cuda":
        from loginmea_fast.ops import _attention_cuda

        return _attention_cuda
    from loginmea_fast.kernels import relation_reflection_attention as triton_kernels

    return triton_kernels


def _forward(chain: _Chain, set_logits: Tensor | None, backend: str) -> None:
    """Fill all that forward writes."""
    chosen = _backend_for(backend, chain.z[0])
    with _dispatch.own_dtypes(chain.z[0]):
        if chosen == "reference":
            _reference_forward(chain, set_logits)
        elif chosen == "cpu":
            _cpu_forward(chain, set_logits)
        else:
            _gpu_forward(chain, set_logits, _kernels(chosen))


def _backward(chain: _Chain, grads: Sequence[Tensor | None], backend: str) -> _Gradients:
    """The gradient, given that of every z; None where z_k got none but the chain's."""
    chosen = _backend_for(backend, chain.z[0])
    with _dispatch.own_dtypes(chain.z[0]):
        if chosen == "reference":
            return _reference_backward(chain, grads)
        if chosen == "cpu":
            return _cpu_backward(chain, grads)
        return _gpu_backward(chain, grads, _kernels(chosen))


def _reference_forward(chain: _Chain, set_logits: Tensor | None) -> None:
    _fill_logits(chain, set_logits)
    edges = reference.Edges.from_pointers(*chain.index[:3])
    for layer, logits in enumerate(chain.logits):
        w = None if chain.neighbor_vectors is None else chain.neighbor_vectors[layer]
        output, denominator = reference.relation_reflection_forward(
            chain.z[layer], chain.reflectors, logits, edges, w, chain.activation
        )
        chain.z[layer + 1].copy_(output)
        chain.lse[layer].copy_(denominator)


def _reference_backward(chain: _Chain, grads: Sequence[Tensor | None]) -> _Gradients:
    dx, du, dc, dw = reference.relation_reflection_layers_backward(
        grads,
        chain.z,
        chain.lse,
        chain.reflectors,
        chain.logits,
        reference.Edges.from_pointers(*chain.index[:3]),
        chain.neighbor_vectors,
        chain.activation,
    )
    du, dv = _through_logits(chain, du, dc)
    return dx.to(chain.z[0].dtype), du, dc, dv, _or_empty(dw, dc)


def _gpu_forward(chain: _Chain, set_logits: Tensor | None, kernels: Any) -> None:
    _fill_logits(chain, set_logits)
    kernels.relation_reflection_forward(
        chain.z,
        chain.lse,
        chain.logits,
        chain.reflectors,
        chain.neighbor_vectors,
        chain.index,
        chain.activation,
    )


def _gpu_backward(chain: _Chain, grads: Sequence[Tensor | None], kernels: Any) -> _Gradients:
    dx, du, dc, dw = kernels.relation_reflection_backward(
        grads,
        chain.z,
        chain.lse,
        chain.logits,
        chain.reflectors,
        chain.neighbor_vectors,
        chain.index,
        chain.activation,
    )
    du, dv = _through_logits(chain, du, dc)
    return dx, du, dc, dv, _or_empty(dw, dc)


def _fill_logits(chain: _Chain, set_logits: Tensor | None) -> None:
    """Logits c + v . u, for the backends that read them ready-made."""
    if set_logits is None:
        chain.logits.zero_()
    else:
        chain.logits.copy_(set_logits)
    if chain.relation_vectors is not None:
        chain.logits.addmm_(chain.relation_vectors, chain.reflectors.to(chain.logits.dtype).t())


def _through_logits(chain: _Chain, du: Tensor, dc: Tensor) -> tuple[Tensor, Tensor]:
    """Add to du what reaches it through v . u, and find dv."""
    if chain.relation_vectors is None:
        return du.to(chain.reflectors.dtype), dc.new_empty(0, du.shape[1])
    du = torch.addmm(du.to(dc.dtype), dc.t(), chain.relation_vectors)
    return du.to(chain.reflectors.dtype), dc @ chain.reflectors.to(dc.dtype)


def _or_empty(tensor: Tensor | None, like: Tensor) -> Tensor:
    return like.new_empty(0, like.shape[1]) if tensor is None else tensor


def _stream(chain: _Chain) -> list[Tensor]:
    """Edges by destination as the CPU walks them, 12 bytes each: made once, and kept for as long as the graph."""
    entities, edges, sets, _ = chain.sizes()
    dst_ptr, dst_source, dst_set, *_, visit_order = chain.index

    def make() -> list[Tensor]:
        from loginmea_fast import native

        stream = [dst_ptr.new_empty(entities + 1), *(dst_source.new_empty(edges) for _ in range(3))]
        addresses = [t.data_ptr() for t in chain.index], *(t.data_ptr() for t in stream)
        threads = torch.get_num_threads()
        native.load("cpu").relation_reflection_stream(entities, edges, sets, *addresses, threads)
        return stream

    return _streams.of(dst_set, [dst_ptr, dst_source, dst_set, visit_order], make)


def _cpu_forward(chain: _Chain, set_logits: Tensor | None) -> None:
    from loginmea_fast import native

    stream = _stream(chain)  # held here: of tensors of inference mode nothing is kept
    native.load("cpu").relation_reflection_forward(
        native.dtype_code(chain.reflectors.dtype),
        *chain.sizes(),
        [t.data_ptr() for t in chain.index], [t.data_ptr() for t in stream],
        [t.data_ptr() for t in chain.z], [t.stride(0) for t in chain.z],
        chain.reflectors.data_ptr(), _address(set_logits),
        _address(chain.relation_vectors), _address(chain.neighbor_vectors), chain.activation == "tanh",
        chain.logits.data_ptr(), chain.lse.data_ptr(),
        torch.get_num_threads(),
    )  # fmt: skip


def _cpu_backward(chain: _Chain, grads: Sequence[Tensor | None]) -> _Gradients:
    from loginmea_fast import native

    dx = chain.reflectors.new_empty(chain.z[0].shape)
    du, dc = torch.empty_like(chain.reflectors), torch.empty_like(chain.logits)
    dv, dw = (
        dc.new_empty(0 if t is None else len(t), dx.shape[1])
        for t in (chain.relation_vectors, chain.neighbor_vectors)
    )
    native.load("cpu").relation_reflection_backward(
        native.dtype_code(chain.reflectors.dtype),
        *chain.sizes(),
        [t.data_ptr() for t in chain.index],
        [_address(t) for t in grads], [0 if t is None else t.stride(0) for t in grads],
        [t.data_ptr() for t in chain.z], [t.stride(0) for t in chain.z],
        chain.lse.data_ptr(), chain.logits.data_ptr(), chain.reflectors.data_ptr(),
        _address(chain.relation_vectors), _address(chain.neighbor_vectors), chain.activation == "tanh",
        dx.data_ptr(), du.data_ptr(), dc.data_ptr(), dv.data_ptr(), dw.data_ptr(),
        torch.get_num_threads(),
    )  # fmt: skip
    return dx, du, dc, dv, dw


def _address(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()


def _row_strided(tensor: Tensor) -> Tensor:
    """Rows may lie apart, the elements of one may not: a stride-0 gradient, say, is written out."""
    dense = tensor.stride(1) == 1 or tensor.shape[1] == 1
    return tensor if dense and tensor.stride(0) >= tensor.shape[1] else tensor.contiguous()


def _columns(tensor: Tensor, layers: int) -> list[Tensor]:
    """The blocks z_0 ... z_L of a buffer, or of its gradient."""
    width = tensor.shape[1] // (layers + 1)
    return [tensor[:, k * width : (k + 1) * width] for k in range(layers + 1)]


@torch.library.custom_op("loginmea_fast::relation_reflection_attention", mutates_args=())
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
    """Fill and return y [N, d], lse [1, N] and logits [1, U]."""
    y = torch.empty_like(x, memory_format=torch.contiguous_format)
    lse, logits = _scalars(x, reflectors, 1)
    z = [_row_strided(x), y]
    chain = _chain(z, lse, logits, reflectors, relation_vectors, neighbor_vectors, index, activation)
    _forward(chain, None if set_logits is None else set_logits.contiguous(), backend)
    return y, lse, logits


@torch.library.custom_op("loginmea_fast::relation_reflection_layers", mutates_args=())
def _layers(
    x: Tensor,
    reflectors: Tensor,
    set_logits: Tensor | None,
    relation_vectors: Tensor | None,
    neighbor_vectors: Tensor | None,
    index: list[Tensor],
    activation: str,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor]:
    """Fill and return [z_0 | ... | z_L], lse [L, N] and logits [L, U]."""
    layers = _count_layers(set_logits, relation_vectors)
    out = x.new_empty(x.shape[0], (layers + 1) * x.shape[1])
    lse, logits = _scalars(x, reflectors, layers)
    if _backend_for(backend, x) == "cpu":
        # Before the first write: the pages of a buffer this size are worth asking for in large pieces.
        from loginmea_fast import native

        native.load("cpu").prefer_huge_pages(out.data_ptr(), out.nbytes)
    z = _columns(out, layers)
    z[0].copy_(x)
    chain = _chain(z, lse, logits, reflectors, relation_vectors, neighbor_vectors, index, activation)
    _forward(chain, None if set_logits is None else set_logits.contiguous(), backend)
    return out, lse, logits


def _count_layers(set_logits: Tensor | None, relation_vectors: Tensor | None) -> int:
    given = set_logits if set_logits is not None else relation_vectors
    assert given is not None
    return given.shape[0]


def _scalars(x: Tensor, reflectors: Tensor, layers: int) -> tuple[Tensor, Tensor]:
    """Room for lse [L, N] and logits [L, U]."""
    dtype = _sum_dtype(x)
    return x.new_empty(layers, x.shape[0], dtype=dtype), x.new_empty(layers, reflectors.shape[0], dtype=dtype)


@_attention.register_fake
def _(x, reflectors, set_logits, relation_vectors, neighbor_vectors, index, activation, backend):  # type: ignore
    return torch.empty_like(x, memory_format=torch.contiguous_format), *_scalars(x, reflectors, 1)


@_layers.register_fake
def _(x, reflectors, set_logits, relation_vectors, neighbor_vectors, index, activation, backend):  # type: ignore
    layers = _count_layers(set_logits, relation_vectors)
    return x.new_empty(x.shape[0], (layers + 1) * x.shape[1]), *_scalars(x, reflectors, layers)


@torch.library.custom_op("loginmea_fast::relation_reflection_attention_backward", mutates_args=())
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


@torch.library.custom_op("loginmea_fast::relation_reflection_layers_backward", mutates_args=())
def _layers_backward(
    grad: Tensor,
    out: Tensor,
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
    z = _columns(out, len(logits))
    chain = _chain(z, lse, logits, reflectors, relation_vectors, neighbor_vectors, index, activation)
    return _backward(chain, _columns(_row_strided(grad), len(logits)), backend)


@_attention_backward.register_fake
def _(grad, x, y, lse, logits, reflectors, relation_vectors, neighbor_vectors, index, activation, backend):  # type: ignore
    return _fake_gradients(x.shape, logits, reflectors, relation_vectors, neighbor_vectors)


@_layers_backward.register_fake
def _(grad, out, lse, logits, reflectors, relation_vectors, neighbor_vectors, index, activation, backend):  # type: ignore
    shape = (out.shape[0], reflectors.shape[1])
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


def _remember(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...], keep_input: bool) -> None:
    x, reflectors, set_logits, v, w, index, ctx.activation, ctx.backend = inputs
    z, lse, logits = output
    ctx.mark_non_differentiable(lse, logits)
    ctx.set_materialize_grads(False)
    ctx.given = (set_logits is not None, v is not None, w is not None)
    vectors = [t for t in (v, w) if t is not None]
    ctx.save_for_backward(*([x, z] if keep_input else [z]), lse, logits, reflectors, *vectors, *index)


def _differentiate(ctx: Any, grad: Tensor | None, operator: Any, num_kept: int) -> tuple[Any, ...]:
    if torch.is_grad_enabled():
        # To autograd the backward kernels are constants: a second derivative through them would be wrong.
        raise BackendError(
            "relation_reflection_attention can be differentiated once, without create_graph; for higher "
            "derivatives use loginmea_fast.reference.relation_reflection_attention"
        )
    no_gradients = [None] * len(_INDEX), None, None
    if grad is None:
        return *[None] * 5, *no_gradients
    saved = list(ctx.saved_tensors)
    kept, rest = saved[: num_kept + 3], saved[num_kept + 3 :]
    has_c, has_v, has_w = ctx.given
    v = rest.pop(0) if has_v else None
    w = rest.pop(0) if has_w else None
    dx, du, dc, dv, dw = operator(grad, *kept, v, w, rest, ctx.activation, ctx.backend)
    return dx, du, dc if has_c else None, dv if has_v else None, dw if has_w else None, *no_gradients


_attention.register_autograd(
    lambda ctx, grad, *_: _differentiate(ctx, grad, _attention_backward, 2),
    setup_context=lambda ctx, inputs, output: _remember(ctx, inputs, output, keep_input=True),
)
_layers.register_autograd(
    lambda ctx, grad, *_: _differentiate(ctx, grad, _layers_backward, 1),
    setup_context=lambda ctx, inputs, output: _remember(ctx, inputs, output, keep_input=False),
)
