"""Low-rank fusion of modalities as one operator; mathematics in `loginmea_fast.reference.low_rank_fusion`.

The plain formula holds M tensors of rank x rows x width, and as many again for its gradient. The kernels walk
over blocks of rows with the rank innermost: projections live in tiles, only their weighted product leaves, and
backward computes them again unless it is told to keep them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from loginmea_fast import native
from loginmea_fast.errors import InputError
from loginmea_fast.ops import _dispatch
from loginmea_fast.ops._device_choice import in_order
from loginmea_fast.ops._modalities import (
    autocast,
    check_inputs,
    check_present,
    check_query,
    check_small,
    code,
    cpu_rows,
    dense_rows,
    load_cpu,
    refuse_second_derivative,
    sums,
)
from loginmea_fast.ops.modality_scale import add_scale_gradient, new_scale, scale_of
from loginmea_fast.reference import low_rank_fusion as reference

__all__ = ["adaptive_low_rank_fusion", "low_rank_fusion"]

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
    """Weighted sum over ranks of products over modalities (LoginMEA, arXiv 2407.19625, section 4.2; docs/model.md).

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
        precision: what products of float32 tensors may be rounded to: "ieee" (not at all, but for the 2^-21 that three
            TF32 products on tensor cores lose), "tf32" or "bfloat16", sums being kept in float32 always; a device that
            has no such arithmetic takes the next more exact one. None follows `torch.get_float32_matmul_precision()` on
            CUDA and is "ieee" elsewhere. "cuda" multiplies with cuBLAS, whose rounding is that setting of the whole
            process, which no operator touches: it is as exact as the setting, and refuses "ieee" under one that is not.
        keep_products: store [K, M, B, d] in the dtype of `inputs` for backward, a third of whose work it saves.

    Returns:
        y [B, d], dtype of `inputs`. It can be differentiated once.

    Raises:
        InputError: numbers of inputs and factors differ, or a shape, dtype or device does not fit; the message names
            the modality.
        BackendError: the backend asked for by name cannot serve.
    """
    inputs, factors = autocast(inputs), autocast(factors)
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
        backend: as there; under "cuda" the scale is plain PyTorch on the device.
        present: as in `modality_scale`: an absent modality takes part with its constant alone.
        precision: as there.
        keep_products: as there.

    Returns:
        y [B, d], dtype of `inputs`. It can be differentiated once.

    Raises:
        InputError: as in `low_rank_fusion` and `modality_scale`.
        BackendError: the backend asked for by name cannot serve.
    """
    inputs, factors = autocast(inputs), autocast(factors)
    query, rank_weights, bias = _dispatch.under_autocast(query, rank_weights, bias)
    _dispatch.check_backend_name(backend)
    _check(inputs, factors, rank_weights, bias, None)
    check_query(inputs, query)
    check_present(inputs, present)
    precision = _precision(precision, inputs[0].device)
    keep = keep_products and torch.is_grad_enabled()
    y, *_ = _low_rank_fusion(
        inputs, factors, rank_weights, bias, None, query, present, True, keep, precision, backend
    )
    return y


def _precision(asked: str | None, device: torch.device) -> str:
    if asked is not None:
        if asked not in PRECISIONS:
            raise InputError(f"precision must be None or one of {', '.join(PRECISIONS)}; got {asked!r}")
        return asked
    if device.type != "cuda":
        return "ieee"
    return {"highest": "ieee", "high": "tf32", "medium": "bfloat16"}[torch.get_float32_matmul_precision()]


def _check(
    inputs: list[Tensor], factors: list[Tensor], rank_weights: Tensor, bias: Tensor, row_scale: Tensor | None
) -> None:
    if len(inputs) != len(factors):
        few, name = min((len(inputs), "inputs"), (len(factors), "factors"))
        raise InputError(
            f"every modality needs one input and one factor; got {len(inputs)} inputs and {len(factors)} factors: "
            f"there is no {name}[{few}]"
        )
    check_inputs(inputs)
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
    check_small("rank_weights", rank_weights, inputs[0])
    _dispatch.check_shape("bias", bias, (1, width), "[1, out]")
    check_small("bias", bias, inputs[0])
    if row_scale is not None:
        _dispatch.check_shape("row_scale", row_scale, (rows, len(inputs)), "[rows, modalities]")
        check_small("row_scale", row_scale, inputs[0])


@_dispatch.operator("low_rank_fusion")
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
        row_scale = scale = scale_of(inputs, query, present, backend)
    kept = products if keep_products else None
    chosen = _choose(inputs, precision, backend)
    if chosen == "cpu":
        arguments, alive = _cpu_operands(inputs, factors, rank_weights, row_scale)
        wide_bias = sums(bias).contiguous()
        load_cpu().low_rank_fusion_forward(
            *arguments[:5], wide_bias.data_ptr(), arguments[5], native.address(products), y.data_ptr(),
            *_cpu_sizes(inputs, factors, precision),
        )  # fmt: skip
        del alive
    elif chosen in ("triton", "cuda"):
        from loginmea_fast.ops import _fusion_gpu

        _fusion_gpu.low_rank_fusion_forward(
            y, inputs, factors, rank_weights, bias, row_scale, kept, _product_precision(inputs[0], precision),
            _gpu(chosen),
        )  # fmt: skip
    else:
        y.copy_(reference.low_rank_fusion_forward(inputs, factors, rank_weights, bias, row_scale, kept))
    return y, products, scale


def _new_outputs(
    inputs: Sequence[Tensor], factors: Sequence[Tensor], adaptive: bool, keep_products: bool
) -> tuple[Tensor, Tensor, Tensor]:
    rows, (rank, _, width) = inputs[0].shape[0], factors[0].shape
    y = inputs[0].new_empty(rows, width)
    products = inputs[0].new_empty((rank, len(inputs), rows, width) if keep_products else (0,))
    return y, products, new_scale(inputs) if adaptive else inputs[0].new_empty(0)


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


@_dispatch.operator("low_rank_fusion_backward")
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
        small = [sums(g) for g in (do, db, dr)]  # the kernel writes them in the dtype of its sums
        arguments, alive = _cpu_operands(inputs, factors, rank_weights, row_scale)
        load_cpu().low_rank_fusion_backward(
            grad.data_ptr(), *arguments, native.address(products),
            [g.data_ptr() for g in dx] if inputs_needed else [],
            [g.data_ptr() for g in dw] if factors_needed else [],
            *(native.address(g) for g in small), *_cpu_sizes(inputs, factors, precision),
        )  # fmt: skip
        del alive
        gradients = [*dx, *dw, *(wide.to(g.dtype) for wide, g in zip(small, (do, db, dr), strict=True))]
    elif chosen in ("triton", "cuda"):
        from loginmea_fast.ops import _fusion_gpu

        _fusion_gpu.low_rank_fusion_backward(
            grad, inputs, factors, rank_weights, row_scale, kept, gradients,
            _product_precision(inputs[0], precision), _gpu(chosen),
        )  # fmt: skip
    else:
        dx, dw, *rest = reference.low_rank_fusion_backward(
            grad, inputs, factors, rank_weights, row_scale, kept
        )
        for place, gradient in zip(gradients, [*dx, *dw, *rest], strict=True):
            if place.numel() and gradient is not None:
                place.copy_(gradient)
    if adaptive and inputs_needed:
        dq = add_scale_gradient(gradients[-1], inputs, query, present, gradients[:count], dq, backend)
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
    refuse_second_derivative("low_rank_fusion")
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


_low_rank_fusion.register_autograd(_backward, setup_context=_setup_context)


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
    """The launches that serve a GPU: the same functions under each backend; see `_fusion_gpu`."""
    if backend == "triton":
        from loginmea_fast.kernels import low_rank_fusion as kernels

        return kernels
    from loginmea_fast.ops import _fusion_cuda

    return _fusion_cuda


def _product_precision(first: Tensor, precision: str) -> str:
    return "bfloat16" if first.dtype == torch.bfloat16 else precision


def _cpu_operands(
    inputs: Sequence[Tensor], factors: Sequence[Tensor], rank_weights: Tensor, row_scale: Tensor | None
) -> tuple[tuple[Any, ...], list[Tensor | None]]:
    """Arguments that forward and backward share, and the tensors that must outlive the call."""
    x, w = [dense_rows(v) for v in inputs], [v.contiguous() for v in factors]
    o, r = sums(rank_weights).contiguous(), None if row_scale is None else sums(row_scale).contiguous()
    arguments = (*cpu_rows(x), [v.data_ptr() for v in w], o.data_ptr(), native.address(r))
    return arguments, [*x, *w, o, r]


def _cpu_sizes(
    inputs: Sequence[Tensor], factors: Sequence[Tensor], precision: str
) -> tuple[int, int, int, int, int, int]:
    (rank, _, width), dtype = factors[0].shape, inputs[0].dtype
    compute = torch.bfloat16 if precision == "bfloat16" and dtype == torch.float32 else dtype
    return inputs[0].shape[0], rank, width, code(dtype), code(compute), torch.get_num_threads()
