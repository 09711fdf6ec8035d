"""Low-rank fusion of modalities as one operator; mathematics in `loginmea_fast.reference.low_rank_fusion`.

The plain formula holds M tensors of rank x rows x width, and as many again for its gradient. The kernels walk
over blocks of rows with the rank innermost: projections live in tiles, only their weighted product leaves, and
backward computes them again unless it is told to keep them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from loginmea_fast.errors import BackendError, InputError
from loginmea_fast.ops import _dispatch
from loginmea_fast.ops._device_choice import in_order
from loginmea_fast.reference import low_rank_fusion as reference
from loginmea_fast.reference.low_rank_fusion import masked_softmax

__all__ = ["adaptive_low_rank_fusion", "low_rank_fusion", "masked_softmax", "modality_scale", "unit_rows"]

PRECISIONS = ("ieee", "tf32", "bfloat16")


def low_rank_fusion(
    inputs: Sequence[Tensor],
    factors: Sequence[Tensor],
    rank_weights: Tensor,
    bias: Tensor,
    row_scale: Tensor | None = None,
    backend: str = "auto",
    *,
    precision: str | None = None,
    keep_products: bool = False,
) -> Tensor:
    """Weighted sum over ranks of products over modalities (LoginMEA, arXiv 2407.19625, section 4.2; DESIGN 2.6).

        y = sum_k o_k prod_m ( [1 | t_m] W_m^(k) ) + b ,    t_m = row_scale_m x_m

    Nothing of size rank x rows x width exists unless `keep_products` asks for it. On the CPU results, gradients
    included, repeat bit for bit for any number of threads. Under autocast, inputs and factors are cast to its dtype, or
    to float32 where that is float16.

    Args:
        inputs: M tensors x_m [B, d_m], float32, float64 or bfloat16; the last dimension is best contiguous.
        factors: M tensors W_m [K, d_m + 1, d], dtype and device of `inputs`; row 0 belongs to the constant 1.
        rank_weights: o [1, K], dtype of `inputs` or, with bfloat16 inputs, float32.
        bias: b [1, d], likewise.
        row_scale: [B, M], likewise: what each row of each modality is multiplied by (`modality_scale`); None for ones.
        backend: "auto", "reference", "cpu", "triton" or "cuda".
        precision: what products of float32 tensors may be rounded to: "ieee" (not at all), "tf32" or "bfloat16", sums
            being kept in float32 always; a device that has no such arithmetic takes the next more exact one. None
            follows `torch.get_float32_matmul_precision()` on CUDA and is "ieee" elsewhere. "cuda" multiplies with
            cuBLAS, whose rounding is that setting of the whole process, which no operator touches: it is as exact as
            the setting, and refuses "ieee" under one that is not.
        keep_products: store [K, M, B, d] in the dtype of `inputs` for backward, a third of whose work it saves.

    Returns:
        y [B, d], dtype of `inputs`. It can be differentiated once.

    Raises:
        InputError: numbers of inputs and factors differ, or a shape, dtype or device does not fit; the message names
            the modality.
        BackendError: the backend asked for by name cannot serve.
    """
    inputs, factors = _autocast(inputs), _autocast(factors)
    rank_weights, bias, row_scale = _dispatch.under_autocast(rank_weights, bias, row_scale)
    _dispatch.check_backend_name(backend)
    _check(inputs, factors, rank_weights, bias, row_scale)
    precision = _precision(precision, inputs[0].device)
    keep = keep_products and torch.is_grad_enabled()
    y, *_ = _low_rank_fusion(
        inputs, factors, rank_weights, bias, row_scale, None, None, False, keep, precision, backend
    )
    return y


def adaptive_low_rank_fusion(
    inputs: Sequence[Tensor],
    query: Tensor | None,
    factors: Sequence[Tensor],
    rank_weights: Tensor,
    bias: Tensor,
    backend: str = "auto",
    *,
    present: Tensor | None = None,
    precision: str | None = None,
    keep_products: bool = False,
) -> Tensor:
    """`low_rank_fusion` of rows scaled by `modality_scale(inputs, query, present=present)`, as one node of autograd.

    The two operators one after the other give the same, but each returns a gradient of every input, which autograd must
    hold at once to add them: M more tensors of rows x width. Here the second is added where the first lies.

    Args:
        inputs: as in `low_rank_fusion`, all of one width if there is a query.
        query: as in `modality_scale`; None for rows that are only normalised.
        factors: as in `low_rank_fusion`, like all that follow.
        rank_weights: as there.
        bias: as there.
        backend: as there; under "triton" and "cuda" the scale is plain PyTorch on the device.
        present: as in `modality_scale`: an absent modality takes part with its constant alone.
        precision: as there.
        keep_products: as there.

    Returns:
        y [B, d], dtype of `inputs`. It can be differentiated once.

    Raises:
        InputError: as in `low_rank_fusion` and `modality_scale`.
        BackendError: the backend asked for by name cannot serve.
    """
    inputs, factors = _autocast(inputs), _autocast(factors)
    query, rank_weights, bias = _dispatch.under_autocast(query, rank_weights, bias)
    _dispatch.check_backend_name(backend)
    _check(inputs, factors, rank_weights, bias, None)
    _check_query(inputs, query)
    _check_present(inputs, present)
    precision = _precision(precision, inputs[0].device)
    keep = keep_products and torch.is_grad_enabled()
    y, *_ = _low_rank_fusion(
        inputs, factors, rank_weights, bias, None, query, present, True, keep, precision, backend
    )
    return y


def modality_scale(
    inputs: Sequence[Tensor],
    query: Tensor | None = None,
    backend: str = "auto",
    *,
    present: Tensor | None = None,
) -> Tensor:
    """Attention weight of each modality over its length, the `row_scale` of `low_rank_fusion` (DESIGN 2.6).

        s_m = q . tanh(x_m) ,   r_m = softmax_m(s) / |x_m|

    One pass over the inputs; backward is another and computes tanh again.

    Args:
        inputs: M tensors x_m [B, d_m], float32, float64 or bfloat16, all of one width if there is a query.
        query: q [1, d], dtype of `inputs` or, with bfloat16 inputs, float32; None for equal weights of 1.
        backend: "auto", "reference" or "cpu"; "triton" and "cuda" are plain PyTorch on the device.
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
    inputs, (query,) = _autocast(inputs), _dispatch.under_autocast(query)
    _dispatch.check_backend_name(backend)
    _check_inputs(inputs)
    _check_query(inputs, query)
    _check_present(inputs, present)
    return _modality_scale(inputs, query, present, backend)


def unit_rows(x: Tensor) -> Tensor:
    """Rows x / |x|, in plain PyTorch, however short or long they are; a row of zeros stays one.

    Args:
        x: [B, d].

    Returns:
        [B, d].
    """
    return x / reference.row_lengths(x)[:, None]


def _precision(asked: str | None, device: torch.device) -> str:
    if asked is not None:
        if asked not in PRECISIONS:
            raise InputError(f"precision must be None or one of {', '.join(PRECISIONS)}; got {asked!r}")
        return asked
    if device.type != "cuda":
        return "ieee"
    return {"highest": "ieee", "high": "tf32", "medium": "bfloat16"}[torch.get_float32_matmul_precision()]


def _autocast(tensors: Sequence[Tensor]) -> list[Tensor]:
    def cast(tensor: Tensor) -> Tensor:
        dtype = _dispatch.autocast_dtype(tensor)
        return tensor if dtype is None or tensor.dtype == torch.float64 else tensor.to(dtype)

    return [cast(t) if isinstance(t, Tensor) else t for t in tensors]


def _check_inputs(inputs: list[Tensor]) -> None:
    if not inputs:
        raise InputError("inputs must hold at least one modality; got none")
    for m, x in enumerate(inputs):
        _dispatch.check_float(f"inputs[{m}]", x)
        _dispatch.check_shape(f"inputs[{m}]", x, (None, None), "[rows, width of the modality]")
        if x.shape[0] != inputs[0].shape[0]:
            raise InputError(
                f"all modalities must have the same rows; inputs[{m}] has {x.shape[0]}, "
                f"inputs[0] has {inputs[0].shape[0]}"
            )
    named = {f"inputs[{m}]": x for m, x in enumerate(inputs)}
    _dispatch.check_same_dtype(**named)
    _dispatch.check_same_device(**named)


def _check_query(inputs: list[Tensor], query: Tensor | None) -> None:
    if query is None:
        return
    width = inputs[0].shape[1]
    for m, x in enumerate(inputs):
        if x.shape[1] != width:
            raise InputError(
                f"modality attention needs inputs of one width; inputs[{m}] has {x.shape[1]}, inputs[0] has {width}"
            )
    _dispatch.check_shape("query", query, (1, width), "[1, width]")
    _check_small("query", query, inputs[0])


def _check_present(inputs: list[Tensor], present: Tensor | None) -> None:
    if present is None:
        return
    if not isinstance(present, Tensor) or present.dtype != torch.bool:
        raise InputError(
            f"present must be a bool tensor, True where a row has a modality; got "
            f"{present.dtype if isinstance(present, Tensor) else type(present).__name__}"
        )
    _dispatch.check_shape("present", present, (inputs[0].shape[0], len(inputs)), "[rows, modalities]")
    _dispatch.check_same_device(**{"inputs[0]": inputs[0], "present": present})


def _check_small(name: str, tensor: Tensor, first: Tensor) -> None:
    """Small tensors may stay in float32 beside bfloat16 inputs: they cost nothing and their rounding would show."""
    allowed = (torch.bfloat16, torch.float32) if first.dtype == torch.bfloat16 else (first.dtype,)
    _dispatch.check_float(name, tensor, allowed)
    _dispatch.check_same_device(**{"inputs[0]": first, name: tensor})


def _check(
    inputs: list[Tensor], factors: list[Tensor], rank_weights: Tensor, bias: Tensor, row_scale: Tensor | None
) -> None:
    if len(inputs) != len(factors):
        few, name = min((len(inputs), "inputs"), (len(factors), "factors"))
        raise InputError(
            f"every modality needs one input and one factor; got {len(inputs)} inputs and {len(factors)} factors: "
            f"there is no {name}[{few}]"
        )
    _check_inputs(inputs)
    rows = inputs[0].shape[0]
    for m, (x, factor) in enumerate(zip(inputs, factors, strict=True)):
        _dispatch.check_float(f"factors[{m}]", factor)
        _dispatch.check_shape(
            f"factors[{m}]", factor, (None, None, None), "[rank, width of the modality + 1, out]"
        )
        rank, _, width = factors[0].shape
        _dispatch.check_shape(
            f"factors[{m}]",
            factor,
            (rank, x.shape[1] + 1, width),
            f"[rank, width of inputs[{m}] + 1, out], rank and out as in factors[0]",
        )
        _dispatch.check_same_dtype(**{f"inputs[{m}]": x, f"factors[{m}]": factor})
        _dispatch.check_same_device(**{f"inputs[{m}]": x, f"factors[{m}]": factor})
    if rank == 0 or width == 0:
        raise InputError(f"rank and out width must be positive; factors[0] is {list(factors[0].shape)}")
    _dispatch.check_shape("rank_weights", rank_weights, (1, rank), "[1, rank]")
    _check_small("rank_weights", rank_weights, inputs[0])
    _dispatch.check_shape("bias", bias, (1, width), "[1, out]")
    _check_small("bias", bias, inputs[0])
    if row_scale is not None:
        _dispatch.check_shape("row_scale", row_scale, (rows, len(inputs)), "[rows, modalities]")
        _check_small("row_scale", row_scale, inputs[0])


@torch.library.custom_op("loginmea_fast::low_rank_fusion", mutates_args=())
def _low_rank_fusion(
    inputs: Sequence[Tensor],
    factors: Sequence[Tensor],
    rank_weights: Tensor,
    bias: Tensor,
    row_scale: Tensor | None,
    query: Tensor | None,
    present: Tensor | None,
    adaptive: bool,
    keep_products: bool,
    precision: str,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor]:
    """Output, kept products [K, M, B, d], that of the first modality times o_k, and the row scale if it is adaptive.

    What is not kept is an empty tensor.
    """
    y, products, scale = _new_outputs(inputs, factors, adaptive, keep_products)
    if adaptive:
        row_scale = scale = _scale_of(inputs, query, present, backend)
    kept = products if keep_products else None
    chosen = _choose(inputs, precision, backend)
    if chosen == "cpu":
        arguments, alive = _cpu_operands(inputs, factors, rank_weights, row_scale)
        wide_bias = _sums(bias).contiguous()
        _load_cpu().low_rank_fusion_forward(
            *arguments[:5], wide_bias.data_ptr(), arguments[5], _address(products), y.data_ptr(),
            *_cpu_sizes(inputs, factors, precision),
        )  # fmt: skip
        del alive
    elif chosen in ("triton", "cuda"):
        _gpu(chosen).low_rank_fusion_forward(
            y, inputs, factors, rank_weights, bias, row_scale, kept, _product_precision(inputs[0], precision)
        )
    else:
        with _dispatch.own_dtypes(inputs[0]):
            y.copy_(reference.low_rank_fusion_forward(inputs, factors, rank_weights, bias, row_scale, kept))
    return y, products, scale


def _new_outputs(
    inputs: Sequence[Tensor], factors: Sequence[Tensor], adaptive: bool, keep_products: bool
) -> tuple[Tensor, Tensor, Tensor]:
    rows, (rank, _, width) = inputs[0].shape[0], factors[0].shape
    y = inputs[0].new_empty(rows, width)
    products = inputs[0].new_empty((rank, len(inputs), rows, width) if keep_products else (0,))
    return y, products, _new_scale(inputs) if adaptive else inputs[0].new_empty(0)


@_low_rank_fusion.register_fake
def _(  # type: ignore[no-untyped-def]
    inputs,
    factors,
    rank_weights,
    bias,
    row_scale,
    query,
    present,
    adaptive,
    keep_products,
    precision,
    backend,
):
    return _new_outputs(inputs, factors, adaptive, keep_products)


@torch.library.custom_op("loginmea_fast::low_rank_fusion_backward", mutates_args=())
def _low_rank_fusion_backward(
    grad: Tensor,
    inputs: Sequence[Tensor],
    factors: Sequence[Tensor],
    rank_weights: Tensor,
    bias: Tensor,
    row_scale: Tensor | None,
    query: Tensor | None,
    present: Tensor | None,
    adaptive: bool,
    products: Tensor,
    inputs_needed: bool,
    factors_needed: bool,
    precision: str,
    backend: str,
) -> list[Tensor]:
    """dx_m, dW_m, do, db, dr, dq in one list; what is not needed is an empty tensor."""
    *gradients, dq = _new_gradients(
        inputs, factors, rank_weights, bias, row_scale, query, inputs_needed, factors_needed
    )
    count, grad, kept = len(inputs), grad.contiguous(), products if products.numel() else None
    chosen = _choose(inputs, precision, backend)
    if chosen == "cpu":
        dx, dw, (do, db, dr) = gradients[:count], gradients[count : 2 * count], gradients[2 * count :]
        small = [_sums(g) for g in (do, db, dr)]  # the kernel writes them in the dtype of its sums
        arguments, alive = _cpu_operands(inputs, factors, rank_weights, row_scale)
        _load_cpu().low_rank_fusion_backward(
            grad.data_ptr(), *arguments, _address(products),
            [g.data_ptr() for g in dx] if inputs_needed else [],
            [g.data_ptr() for g in dw] if factors_needed else [],
            *(_address(g) for g in small), *_cpu_sizes(inputs, factors, precision),
        )  # fmt: skip
        del alive
        gradients = [*dx, *dw, *(wide.to(g.dtype) for wide, g in zip(small, (do, db, dr), strict=True))]
    elif chosen in ("triton", "cuda"):
        _gpu(chosen).low_rank_fusion_backward(
            grad, inputs, factors, rank_weights, row_scale, kept, gradients,
            _product_precision(inputs[0], precision),
        )  # fmt: skip
    else:
        with _dispatch.own_dtypes(inputs[0]):
            dx, dw, *rest = reference.low_rank_fusion_backward(
                grad, inputs, factors, rank_weights, row_scale, kept
            )
        for place, gradient in zip(gradients, [*dx, *dw, *rest], strict=True):
            if place.numel() and gradient is not None:
                place.copy_(gradient)
    if adaptive and inputs_needed:
        dq = _add_scale_gradient(gradients[-1], inputs, query, present, gradients[:count], dq, backend)
    return [*gradients, dq]


def _new_gradients(
    inputs: Sequence[Tensor],
    factors: Sequence[Tensor],
    rank_weights: Tensor,
    bias: Tensor,
    row_scale: Tensor | None,
    query: Tensor | None,
    inputs_needed: bool,
    factors_needed: bool,
) -> list[Tensor]:
    def new(tensor: Tensor | None, needed: bool) -> Tensor:
        return tensor.new_empty(tensor.shape) if needed and tensor is not None else bias.new_empty(0)

    return [
        *(new(x, inputs_needed) for x in inputs),
        *(new(w, factors_needed) for w in factors),
        new(rank_weights, factors_needed),
        new(bias, True),
        new(row_scale, inputs_needed),
        new(query, inputs_needed),
    ]


@_low_rank_fusion_backward.register_fake
def _(  # type: ignore[no-untyped-def]
    grad,
    inputs,
    factors,
    rank_weights,
    bias,
    row_scale,
    query,
    present,
    adaptive,
    products,
    inputs_needed,
    factors_needed,
    precision,
    backend,
):
    return _new_gradients(
        inputs, factors, rank_weights, bias, row_scale, query, inputs_needed, factors_needed
    )


def _setup_context(ctx, inputs, output):  # type: ignore[no-untyped-def]
    x, w, rank_weights, bias, row_scale, query, present, ctx.adaptive, _, ctx.precision, ctx.backend = inputs
    _, products, scale = output
    ctx.mark_non_differentiable(products, scale)
    ctx.set_materialize_grads(False)
    ctx.count = len(x)
    row_scale = scale if ctx.adaptive else row_scale
    ctx.save_for_backward(*x, *w, rank_weights, bias, row_scale, query, present, products)


def _backward(ctx, grad, *_):  # type: ignore[no-untyped-def]
    count = ctx.count
    if grad is None:
        return [None] * count, [None] * count, *[None] * 9
    _refuse_second_derivative("low_rank_fusion")
    *tensors, rank_weights, bias, row_scale, query, present, products = ctx.saved_tensors
    x, w = tensors[:count], tensors[count:]
    x_needed, w_needed, rank_needed, bias_needed, scale_needed, query_needed, *_ = ctx.needs_input_grad
    gradients = _low_rank_fusion_backward(
        grad, x, w, rank_weights, bias, row_scale, query, present, ctx.adaptive, products,
        any(x_needed) or scale_needed or query_needed, any(w_needed) or rank_needed, ctx.precision, ctx.backend,
    )  # fmt: skip
    dx = [g if needed else None for g, needed in zip(gradients[:count], x_needed, strict=True)]
    dw = [g if needed else None for g, needed in zip(gradients[count : 2 * count], w_needed, strict=True)]
    needed = (rank_needed, bias_needed, scale_needed, query_needed)
    small = [g if n else None for g, n in zip(gradients[2 * count :], needed, strict=True)]
    return dx, dw, *small, *[None] * 5


def _refuse_second_derivative(op: str) -> None:
    if torch.is_grad_enabled():
        raise BackendError(
            f"{op} can be differentiated once, without create_graph; for higher derivatives use "
            f"loginmea_fast.reference.low_rank_fusion.{op}"
        )


_low_rank_fusion.register_autograd(_backward, setup_context=_setup_context)


@torch.library.custom_op("loginmea_fast::modality_scale", mutates_args=())
def _modality_scale(
    inputs: Sequence[Tensor], query: Tensor | None, present: Tensor | None, backend: str
) -> Tensor:
    return _scale_of(inputs, query, present, backend)


def _scale_of(inputs: Sequence[Tensor], query: Tensor | None, present: Tensor | None, backend: str) -> Tensor:
    if _choose_scale(inputs[0], backend) == "cpu":
        x = [_dense_rows(v) for v in inputs]
        q = None if query is None else _sums(query).contiguous()
        r, has = _new_scale(inputs), None if present is None else present.contiguous()
        _load_cpu().modality_scale_forward(
            *_cpu_rows(x), _address(q), _address(has), r.data_ptr(), x[0].shape[0], *_cpu_row_type(x)
        )
        return r
    with _dispatch.own_dtypes(inputs[0]):
        q = None if query is None else _sums(query)
        return reference.modality_scale([_sums(x) for x in inputs], q, present)


def _new_scale(inputs: Sequence[Tensor]) -> Tensor:
    return inputs[0].new_empty(inputs[0].shape[0], len(inputs), dtype=_sum_dtype(inputs[0].dtype))


@_modality_scale.register_fake
def _(inputs, query, present, backend):  # type: ignore[no-untyped-def]
    return _new_scale(inputs)


@torch.library.custom_op("loginmea_fast::modality_scale_backward", mutates_args=())
def _modality_scale_backward(
    grad: Tensor, inputs: Sequence[Tensor], query: Tensor | None, present: Tensor | None, backend: str
) -> list[Tensor]:
    """dx_m and dq, the latter empty where there is no query."""
    *dx, dq = _new_scale_gradients(inputs, query)
    return [*dx, _add_scale_gradient(grad, inputs, query, present, dx, dq, backend, add=False)]


def _add_scale_gradient(
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
    if _choose_scale(inputs[0], backend) == "cpu":
        x, grad = [_dense_rows(v) for v in inputs], grad.contiguous()
        q, wide_dq = None if query is None else _sums(query).contiguous(), _sums(dq)
        has = None if present is None else present.contiguous()
        _load_cpu().modality_scale_backward(
            grad.data_ptr(), *_cpu_rows(x), _address(q), _address(has), [g.data_ptr() for g in dx], _address(wide_dq),
            x[0].shape[0], add, *_cpu_row_type(x),
        )  # fmt: skip
        return wide_dq.to(dq.dtype)
    with _dispatch.own_dtypes(inputs[0]):
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
    _refuse_second_derivative("modality_scale")
    *x, query, present = ctx.saved_tensors
    x_needed, query_needed, *_ = ctx.needs_input_grad
    *dx, dq = _modality_scale_backward(grad, x, query, present, ctx.backend)
    dx = [g if n else None for g, n in zip(dx, x_needed, strict=True)]
    return dx, dq if query_needed else None, None, None


_modality_scale.register_autograd(_scale_backward, setup_context=_setup_scale_context)


def _choose(inputs: Sequence[Tensor], precision: str, backend: str) -> str:
    first, op = inputs[0], "low_rank_fusion"
    candidates = {
        "cpu": lambda: _dispatch.native_reason(first, "cpu"),
        "triton": lambda: _dispatch.triton_reason(first) or _gpu("triton").unsupported(first.dtype),
        "cuda": lambda: (
            _dispatch.native_reason(first, "cuda")
            or _gpu("cuda").unsupported(first.dtype, len(inputs), precision)
        ),
    }
    return _dispatch.choose_backend(op, backend, in_order(op, first.dtype, first.shape[1], candidates))


def _gpu(backend: str) -> Any:
    """The module that serves a GPU: the same two functions under each backend."""
    if backend == "triton":
        from loginmea_fast.kernels import low_rank_fusion as kernels

        return kernels
    from loginmea_fast.ops import _fusion_cuda

    return _fusion_cuda


def _choose_scale(first: Tensor, backend: str) -> str:
    """A GPU has no kernel for it: asked for by name, Triton and CUDA serve where they could, with plain PyTorch."""
    candidates: dict[str, Callable[[], str | None]] = {"cpu": lambda: _dispatch.native_reason(first, "cpu")}
    asked = os.environ.get("LOGINMEA_BACKEND", "auto") if backend == "auto" else backend
    if asked != "auto":
        candidates["triton"] = lambda: _dispatch.triton_reason(first)
        candidates["cuda"] = lambda: (
            None if first.is_cuda else f"needs tensors on cuda, these are on {first.device}"
        )
    return _dispatch.choose_backend("modality_scale", backend, candidates)


def _product_precision(first: Tensor, precision: str) -> str:
    return "bfloat16" if first.dtype == torch.bfloat16 else precision


def _sum_dtype(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def _sums(tensor: Tensor) -> Tensor:
    """The tensor in the dtype of the sums: itself unless it is bfloat16."""
    return tensor.to(_sum_dtype(tensor.dtype))


def _dense_rows(tensor: Tensor) -> Tensor:
    """Itself if elements of a row are neighbours, else a copy."""
    return tensor if tensor.stride(1) == 1 or tensor.shape[1] == 1 else tensor.contiguous()


def _load_cpu() -> Any:
    from loginmea_fast import native

    return native.load("cpu")


def _code(dtype: torch.dtype) -> int:
    from loginmea_fast import native

    return native.dtype_code(dtype)


def _address(tensor: Tensor | None) -> int:
    return 0 if tensor is None or tensor.numel() == 0 else tensor.data_ptr()


def _cpu_rows(x: Sequence[Tensor]) -> tuple[list[int], list[int], list[int]]:
    """Addresses, row strides and widths."""
    return [v.data_ptr() for v in x], [v.stride(0) for v in x], [v.shape[1] for v in x]


def _cpu_row_type(x: Sequence[Tensor]) -> tuple[int, int]:
    return _code(x[0].dtype), torch.get_num_threads()


def _cpu_operands(
    inputs: Sequence[Tensor], factors: Sequence[Tensor], rank_weights: Tensor, row_scale: Tensor | None
) -> tuple[tuple[Any, ...], list[Tensor | None]]:
    """Arguments that forward and backward share, and the tensors that must outlive the call."""
    x, w = [_dense_rows(v) for v in inputs], [v.contiguous() for v in factors]
    o, r = _sums(rank_weights).contiguous(), None if row_scale is None else _sums(row_scale).contiguous()
    arguments = (*_cpu_rows(x), [v.data_ptr() for v in w], o.data_ptr(), _address(r))
    return arguments, [*x, *w, o, r]


def _cpu_sizes(
    inputs: Sequence[Tensor], factors: Sequence[Tensor], precision: str
) -> tuple[int, int, int, int, int, int]:
    (rank, _, width), dtype = factors[0].shape, inputs[0].dtype
    compute = torch.bfloat16 if precision == "bfloat16" and dtype == torch.float32 else dtype
    return inputs[0].shape[0], rank, width, _code(dtype), _code(compute), torch.get_num_threads()
