"""Attention weights of modalities over their lengths; mathematics in `loginmea_fast.reference.low_rank_fusion`."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from loginmea_fast import native
from loginmea_fast.ops import _dispatch
from loginmea_fast.ops._modalities import (
    autocast,
    check_inputs,
    check_present,
    check_query,
    cpu_row_type,
    cpu_rows,
    dense_rows,
    load_cpu,
    refuse_second_derivative,
    sum_dtype,
    sums,
)
from loginmea_fast.reference import low_rank_fusion as reference
from loginmea_fast.reference.low_rank_fusion import masked_softmax

__all__ = ["add_scale_gradient", "masked_softmax", "modality_scale", "new_scale", "scale_of", "unit_rows"]


def modality_scale(
    inputs: Sequence[Tensor],
    query: Tensor | None = None,
    backend: str = "auto",
    *,
    present: Tensor | None = None,
) -> Tensor:
    """Attention weight of each modality over its length, the `row_scale` of `low_rank_fusion` (docs/model.md).

        s_m = q . tanh(x_m) ,   r_m = softmax_m(s) / |x_m|

    One pass over the inputs; backward is another and computes tanh again.

    Args:
        inputs: M tensors x_m [B, d_m], float32, float64 or bfloat16, all of one width if there is a query.
        query: q [1, d], dtype of `inputs` or, with bfloat16 inputs, float32; None for equal weights of 1.
        backend: "auto", "reference", "cpu" or "triton"; "cuda" is plain PyTorch on the device.
        present: bool [B, M], which modalities a row has: the softmax is over these, an absent one has the scale 0 and
            no gradient, whatever its row holds, and a row that has none is 0 throughout. None for all.

    Returns:
        r [B, M], float64 for float64 inputs, else float32. It can be differentiated once. An all-zero row (no element
        is a normal number) counts as one of length 1e-12, which leaves it zero when it is scaled, and its gradient has
        no part through the length; every other row is measured rightly, however short or long.

    Raises:
        InputError: a shape, dtype or device does not fit; the message names the modality.
        BackendError: the backend asked for by name cannot serve.
    """
    inputs, (query,) = autocast(inputs), _dispatch.under_autocast(query)
    _dispatch.check_backend_name(backend)
    check_inputs(inputs)
    check_query(inputs, query)
    check_present(inputs, present)
    return _modality_scale(inputs, query, present, backend)


def unit_rows(x: Tensor) -> Tensor:
    """Rows x / |x|, in plain PyTorch, however short or long they are; a row of zeros stays one.

    Args:
        x: [B, d].

    Returns:
        [B, d].
    """
    return x / reference.row_lengths(x)[:, None]


@_dispatch.operator("modality_scale")
def _modality_scale(
    inputs: Sequence[Tensor], query: Tensor | None, present: Tensor | None, backend: str
) -> Tensor:
    return scale_of(inputs, query, present, backend)


def scale_of(inputs: Sequence[Tensor], query: Tensor | None, present: Tensor | None, backend: str) -> Tensor:
    """The row scale, for bodies of operators; arguments as in `modality_scale`, checked."""
    chosen = _choose_scale(inputs[0], backend)
    if chosen == "triton":
        r = new_scale(inputs)
        _triton().forward([dense_rows(v) for v in inputs], None if query is None else sums(query), present, r)
        return r
    if chosen == "cpu":
        x = [dense_rows(v) for v in inputs]
        q = None if query is None else sums(query).contiguous()
        r, has = new_scale(inputs), None if present is None else present.contiguous()
        load_cpu().modality_scale_forward(
            *cpu_rows(x),
            native.address(q),
            native.address(has),
            r.data_ptr(),
            x[0].shape[0],
            *cpu_row_type(x),
        )
        return r
    q = None if query is None else sums(query)
    return reference.modality_scale([sums(x) for x in inputs], q, present)


def new_scale(inputs: Sequence[Tensor]) -> Tensor:
    """Room for the row scale, [B, M]."""
    return inputs[0].new_empty(inputs[0].shape[0], len(inputs), dtype=sum_dtype(inputs[0].dtype))


@_modality_scale.register_fake
def _(inputs, query, present, backend):  # type: ignore[no-untyped-def]
    return new_scale(inputs)


@_dispatch.operator("modality_scale_backward")
def _modality_scale_backward(
    grad: Tensor, inputs: Sequence[Tensor], query: Tensor | None, present: Tensor | None, backend: str
) -> list[Tensor]:
    """dx_m and dq, the latter empty where there is no query."""
    *dx, dq = _new_scale_gradients(inputs, query)
    return [*dx, add_scale_gradient(grad, inputs, query, present, dx, dq, backend, add=False)]


def add_scale_gradient(
    grad: Tensor,
    inputs: Sequence[Tensor],
    query: Tensor | None,
    present: Tensor | None,
    dx: Sequence[Tensor],
    dq: Tensor,
    backend: str,
    add: bool = True,
) -> Tensor:
    """Add to dx_m what comes through the row scale, or write it there; return dq in the dtype of its place."""
    chosen = _choose_scale(inputs[0], backend)
    if chosen == "triton":
        q = None if query is None else sums(query)
        wide = _triton().backward(
            sums(grad).contiguous(), [dense_rows(v) for v in inputs], q, present, dx, add
        )
        return dq if wide is None else wide.to(dq.dtype)
    if chosen == "cpu":
        x, grad = [dense_rows(v) for v in inputs], grad.contiguous()
        q, wide_dq = None if query is None else sums(query).contiguous(), sums(dq)
        has = None if present is None else present.contiguous()
        load_cpu().modality_scale_backward(
            grad.data_ptr(), *cpu_rows(x),
            native.address(q), native.address(has), [g.data_ptr() for g in dx], native.address(wide_dq),
            x[0].shape[0], add, *cpu_row_type(x),
        )  # fmt: skip
        return wide_dq.to(dq.dtype)
    through, dq_or_none = reference.modality_scale_backward(grad, inputs, query, present)
    for to, part in zip(dx, through, strict=True):
        to.copy_(to + part if add else part)
    return dq if dq_or_none is None else dq_or_none.to(dq.dtype)


def _new_scale_gradients(inputs: Sequence[Tensor], query: Tensor | None) -> list[Tensor]:
    dx = [x.new_empty(x.shape) for x in inputs]
    return [*dx, inputs[0].new_empty(0) if query is None else query.new_empty(query.shape)]


@_modality_scale_backward.register_fake
def _(grad, inputs, query, present, backend):  # type: ignore[no-untyped-def]
    return _new_scale_gradients(inputs, query)


def _setup_scale_context(ctx, inputs, output):  # type: ignore[no-untyped-def]
    x, query, present, ctx.backend = inputs
    ctx.save_for_backward(*x, query, present)


def _scale_backward(ctx, grad):  # type: ignore[no-untyped-def]
    refuse_second_derivative("modality_scale")
    *x, query, present = ctx.saved_tensors
    x_needed, query_needed, *_ = ctx.needs_input_grad
    *dx, dq = _modality_scale_backward(grad, x, query, present, ctx.backend)
    dx = [g if n else None for g, n in zip(dx, x_needed, strict=True)]
    return dx, dq if query_needed else None, None, None


_modality_scale.register_autograd(_scale_backward, setup_context=_setup_scale_context)


def _choose_scale(first: Tensor, backend: str) -> str:
    """A GPU has one implementation, Triton's: CUDA asked for by name serves where it could, with plain PyTorch."""
    candidates: dict[str, Callable[[], str | None]] = {
        "cpu": lambda: _dispatch.native_reason(first, "cpu"),
        "triton": lambda: _dispatch.triton_reason(first) or _triton().unsupported(first.dtype),
    }
    asked = os.environ.get("LOGINMEA_BACKEND", "auto") if backend == "auto" else backend
    if asked == "cuda":
        candidates["cuda"] = lambda: _dispatch.misplaced(first, "cuda")
    return _dispatch.choose_backend("modality_scale", backend, candidates)


def _triton() -> Any:
    from loginmea_fast.kernels import modality_scale

    return modality_scale
