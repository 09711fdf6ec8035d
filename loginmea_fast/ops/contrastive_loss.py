"""Contrastive alignment loss without the batch x batch matrix; the mathematics head the reference.

The loss is a scalar, so its gradient is known, up to the factor that backward brings, as soon as a
row's softmax is: kernels compute it in the forward pass, while the logits of a block of rows are at
hand. That takes three matrix products where recomputing the logits in backward would take four,
and leaves backward one multiplication.
"""

from __future__ import annotations

import numbers

import torch
from torch import Tensor

from loginmea_fast.errors import BackendError, InputError
from loginmea_fast.ops import _dispatch
from loginmea_fast.ops._device_choice import in_order
from loginmea_fast.reference import contrastive_loss as reference

__all__ = ["contrastive_loss"]

PRECISIONS = ("ieee", "tf32", "bfloat16")

Gradients = tuple[Tensor, Tensor, Tensor, Tensor]  # the loss; its gradients to left, right and extra keys


def contrastive_loss(
    left: Tensor,
    right: Tensor,
    temperature: float,
    bidirectional: bool = False,
    extra_keys: Tensor | None = None,
    backend: str = "auto",
    *,
    precision: str | None = None,
) -> Tensor:
    """Mean cross entropy of cosine similarities against the diagonal (InfoNCE).

    Row b of `left` and row b of `right` are a seed pair; the other rows of `right`, and those of
    `extra_keys`, are its negatives. With rows divided by their lengths, k = [right | extra_keys] and
    s = left k^T / temperature:

        loss = mean_b ( log sum_j exp s_bj - s_bb )

    Nothing of size B x (B + X) exists: memory beyond the inputs is a small multiple of theirs and a
    few hundred rows of logits. bfloat16 rows are multiplied as they are and summed in float32; their
    logits stay float32.

    Args:
        left: [B, D], float32, float64 or bfloat16.
        right: [B, D], dtype and device of `left`.
        temperature: positive divisor of the similarities, a Python number without gradient;
            LoginMEA (arXiv 2407.19625) takes 0.1.
        bidirectional: average with the same loss of right rows against left rows, without `extra_keys`.
        extra_keys: [X, D] further negatives, dtype and device of `left`; None for none.
        backend: "auto", "reference", "cpu", "triton" or "cuda".
        precision: what products of float32 rows may be rounded to: "ieee" (not at all), "tf32" or
            "bfloat16"; logits and sums are float32 always, and a device that has no such arithmetic takes
            the next more exact one. None follows `torch.get_float32_matmul_precision()` on CUDA and is
            "ieee" elsewhere.

    Returns:
        A scalar: float64 for float64 rows, else float32. It can be differentiated once. A row no
        longer than 1e-12 has no direction: its similarity to everything is 0 and its gradient is 0.

    Raises:
        InputError: shapes, dtypes or devices do not fit, there are no rows, or the temperature is not
            positive.
        BackendError: the backend asked for by name cannot serve.
    """
    _dispatch.check_backend_name(backend)
    if precision is not None and precision not in PRECISIONS:
        raise InputError(f"precision must be None or one of {', '.join(PRECISIONS)}; got {precision!r}")
    for name, tensor in (("left", left), ("right", right), ("extra_keys", extra_keys)):
        if tensor is not None:
            _dispatch.check_float(name, tensor)
    _dispatch.check_shape("left", left, (None, None), "[B, D]")
    _dispatch.check_shape("right", right, tuple(left.shape), "[B, D], as left")
    if extra_keys is not None:
        _dispatch.check_shape("extra_keys", extra_keys, (None, left.shape[1]), "[X, D], as wide as left")
    left, right = _autocast(left), _autocast(right)
    extra_keys = None if extra_keys is None else _autocast(extra_keys)
    _dispatch.check_same_dtype(left=left, right=right, extra_keys=extra_keys)
    _dispatch.check_same_device(left=left, right=right, extra_keys=extra_keys)
    if left.shape[0] == 0 or left.shape[1] == 0:
        raise InputError(f"left and right need at least one row and one column; got {list(left.shape)}")
    if isinstance(temperature, Tensor) or not isinstance(temperature, numbers.Real):
        raise InputError(
            f"temperature must be a Python number, it gets no gradient; got {type(temperature).__name__}"
        )
    if not 0.0 < temperature < float("inf"):
        raise InputError(f"temperature must be positive and finite; got {temperature}")
    needs_gradient = torch.is_grad_enabled() and any(
        t is not None and t.requires_grad for t in (left, right, extra_keys)
    )
    loss, _, _, _ = _contrastive_loss(
        left,
        right,
        extra_keys,
        float(temperature),
        bool(bidirectional),
        precision or "",
        needs_gradient,
        backend,
    )
    return loss


def _autocast(tensor: Tensor) -> Tensor:
    """As autocast would cast the product: to its dtype, or float32 where the operator has no kernels for that."""
    if tensor.dtype == torch.float64 or not torch.is_autocast_enabled(tensor.device.type):
        return tensor
    dtype = torch.get_autocast_dtype(tensor.device.type)
    return tensor.to(dtype if dtype == torch.bfloat16 else torch.float32)


@torch.library.custom_op("loginmea_fast::contrastive_loss", mutates_args=())
def _contrastive_loss(
    left: Tensor,
    right: Tensor,
    extra_keys: Tensor | None,
    temperature: float,
    bidirectional: bool,
    precision: str,
    with_gradient: bool,
    backend: str,
) -> Gradients:
    """Loss and, `with_gradient`, its gradients to left, right and extra keys; else three empty tensors."""
    op = "contrastive_loss"
    candidates = {
        "cpu": lambda: _dispatch.native_reason(left, "cpu"),
        "cuda": lambda: _dispatch.native_reason(left, "cuda"),
        "triton": lambda: _dispatch.triton_reason(left) or _only_narrow_floats(left),
    }
    chosen = _dispatch.choose_backend(op, backend, in_order(op, left.dtype, left.shape[1], candidates))
    serve = {"reference": _reference, "cpu": _cpu, "cuda": _cuda, "triton": _triton}[chosen]
    precision = precision or _default_precision(left.device)
    return serve(left, right, extra_keys, temperature, bidirectional, precision, with_gradient)


def _default_precision(device: torch.device) -> str:
    if device.type != "cuda":
        return "ieee"
    return {"highest": "ieee", "high": "tf32", "medium": "bfloat16"}[torch.get_float32_matmul_precision()]


def _only_narrow_floats(left: Tensor) -> str | None:
    return "its products are float32 or bfloat16, not float64" if left.dtype == torch.float64 else None


def _cpu(
    left: Tensor,
    right: Tensor,
    extra_keys: Tensor | None,
    temperature: float,
    bidirectional: bool,
    precision: str,
    with_gradient: bool,
) -> Gradients:
    from loginmea_fast import native

    left, right, extra = (
        _with_dense_rows(t) for t in (left, right, left[:0] if extra_keys is None else extra_keys)
    )
    gradients = _no_gradients(left)
    if with_gradient:
        gradients = left.new_empty(left.shape), left.new_empty(right.shape), left.new_empty(extra.shape)
    loss = native.load("cpu").contrastive_loss(
        native.dtype_code(left.dtype),
        left.data_ptr(), left.stride(0),
        right.data_ptr(), right.stride(0),
        extra.data_ptr(), extra.stride(0),
        len(left), len(extra), left.shape[1],
        temperature, bidirectional, precision == "bfloat16",
        *(g.data_ptr() for g in gradients),
        torch.get_num_threads(),
    )  # fmt: skip
    return left.new_tensor(loss, dtype=reference.accumulation_dtype(left.dtype)), *gradients


def _cuda(
    left: Tensor,
    right: Tensor,
    extra_keys: Tensor | None,
    temperature: float,
    bidirectional: bool,
    precision: str,
    with_gradient: bool,
) -> Gradients:
    from loginmea_fast.ops import _contrastive_cuda

    extra_keys = None if extra_keys is None else _with_dense_rows(extra_keys)
    left, right = _with_dense_rows(left), _with_dense_rows(right)
    return _contrastive_cuda.contrastive_loss(
        left, right, extra_keys, temperature, bidirectional, precision, with_gradient
    )


def _with_dense_rows(rows: Tensor) -> Tensor:
    return rows if rows.stride(1) == 1 or rows.shape[1] == 1 else rows.contiguous()


def _triton(
    left: Tensor,
    right: Tensor,
    extra_keys: Tensor | None,
    temperature: float,
    bidirectional: bool,
    precision: str,
    with_gradient: bool,
) -> Gradients:
    from loginmea_fast.kernels import contrastive_loss as kernels

    return kernels.contrastive_loss(
        left, right, extra_keys, temperature, bidirectional, precision, with_gradient
    )


def _reference(
    left: Tensor,
    right: Tensor,
    extra_keys: Tensor | None,
    temperature: float,
    bidirectional: bool,
    precision: str,
    with_gradient: bool,
) -> Gradients:
    """Answer by the plain formula, whose products are those of the rows' dtype whatever the precision."""
    with torch.autocast(left.device.type, enabled=False):  # or logits would be rounded
        if with_gradient:
            return reference.contrastive_loss_gradient(left, right, temperature, bidirectional, extra_keys)
        loss = reference.contrastive_loss(left, right, temperature, bidirectional, extra_keys)
        return loss, *_no_gradients(left)


def _no_gradients(left: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return (
        left.new_empty(0, left.shape[1]),
        left.new_empty(0, left.shape[1]),
        left.new_empty(0, left.shape[1]),
    )


@_contrastive_loss.register_fake
def _fake(left, right, extra_keys, temperature, bidirectional, precision, with_gradient, backend):  # type: ignore
    loss = left.new_empty((), dtype=reference.accumulation_dtype(left.dtype))
    if not with_gradient:
        return loss, *_no_gradients(left)
    extra = left.new_empty(0 if extra_keys is None else extra_keys.shape[0], left.shape[1])
    return loss, left.new_empty(left.shape), right.new_empty(right.shape), extra


def _setup_context(ctx, inputs, output):  # type: ignore[no-untyped-def]
    gradients = output[1:]
    ctx.mark_non_differentiable(*gradients)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*gradients)


def _backward(ctx, loss_gradient, *_):  # type: ignore[no-untyped-def]
    if torch.is_grad_enabled():
        # The saved gradients are constants to autograd: a second derivative through them would be wrong.
        raise BackendError(
            "contrastive_loss can be differentiated once, without create_graph; for higher derivatives use "
            "loginmea_fast.reference.contrastive_loss"
        )
    left, right, extra_keys = (
        loss_gradient * saved if needed and loss_gradient is not None else None
        for saved, needed in zip(ctx.saved_tensors, ctx.needs_input_grad[:3], strict=True)
    )
    return left, right, extra_keys, *(None,) * 5


_contrastive_loss.register_autograd(_backward, setup_context=_setup_context)
