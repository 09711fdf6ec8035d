"""Contrastive losses without the matrix of all similarities; the mathematics head the reference.

The loss is a scalar, so its gradient is known, up to the factor that backward brings, as soon as a
row's softmax is: kernels compute it in the forward pass, while the logits of a block of rows are at
hand. That takes three matrix products where recomputing the logits in backward would take four,
and leaves backward one multiplication. Where losses are not reduced, each row's factor is known in
backward alone, and there the products are made then.
"""

from __future__ import annotations

import numbers
from typing import NamedTuple

import torch
from torch import Tensor

from loginmea_fast.errors import BackendError, InputError
from loginmea_fast.ops import _dispatch
from loginmea_fast.ops._loss_backends import (
    Arguments,
    by_cpu,
    by_reference,
    by_triton,
    empty_gradients,
)
from loginmea_fast.reference import contrastive_loss as reference

__all__ = ["contrastive_loss", "contrastive_loss_to_keys"]

PRECISIONS = ("ieee", "tf32", "bfloat16")
REDUCTIONS = ("mean", "sum", "none")


def contrastive_loss(
    left: Tensor,
    right: Tensor,
    temperature: float | Tensor,
    bidirectional: bool = False,
    backend: str = "auto",
    *,
    left_keys: Tensor | None = None,
    right_keys: Tensor | None = None,
    excluded: Tensor | None = None,
    row_weights: Tensor | None = None,
    reduction: str = "mean",
    precision: str | None = None,
) -> Tensor:
    """Cross entropy of cosine similarities against the diagonal (InfoNCE).

    Row b of `left` and row b of `right` are a seed pair; the other rows of `right`, and those of
    `right_keys`, are its negatives. With rows divided by their lengths, k = [right | right_keys] and
    s = left k^T / temperature:

        loss_b = log sum_j exp s_bj - s_bb ,   loss = mean_b loss_b

    Nothing of size B x (B + M) exists: memory beyond the inputs is a small multiple of theirs and a
    few hundred rows of logits. bfloat16 rows are multiplied as they are and summed in float32; their
    logits stay float32.

    Args:
        left: [B, D], float32, float64 or bfloat16.
        right: [B, D], dtype and device of `left`.
        temperature: positive divisor of the similarities, a number or a tensor [] or [B], which gets a
            gradient; LoginMEA (arXiv 2407.19625) takes 0.1.
        bidirectional: average with the same loss of right rows against [left | left_keys].
        backend: "auto", "reference", "cpu" or "triton".
        left_keys: [M, D] further negatives of right rows, dtype and device of `left`; needs `bidirectional`.
        right_keys: [M', D] further negatives of left rows.
        excluded: int64 [P, 2], pairs (row of [left | left_keys], row of [right | right_keys]) that are no
            negatives of each other, such as links that are known but not in the batch.
        row_weights: [B], not negative, not all zero: each row's weight in the sum or mean. A gradient reaches them.
        reduction: "mean" (of weights, where there are any), "sum" or "none".
        precision: what products of float32 rows may be rounded to: "ieee" (not at all, but for the 2^-21 that three
            TF32 products on tensor cores lose), "tf32" or "bfloat16"; logits and sums are float32 always, and a device
            that has no such arithmetic takes the next more exact one. None follows
            `torch.get_float32_matmul_precision()` on CUDA and is "ieee" elsewhere.

    Returns:
        A scalar, or with "none" [B]: float64 for float64 rows, else float32. It can be differentiated
        once. A row no longer than 1e-12 has no direction: its similarity to everything is 0 and its
        gradient is 0.

    Raises:
        InputError: shapes, dtypes or devices do not fit, there are no rows, a temperature is not
            positive, weights are negative or all zero, or an index is out of range.
        BackendError: the backend asked for by name cannot serve.
    """
    options = _Options(backend, precision, reduction)
    rows = _check_rows({"left": left, "right": right}, {"left_keys": left_keys, "right_keys": right_keys})
    left, right, left_keys, right_keys = (
        rows["left"],
        rows["right"],
        rows.get("left_keys"),
        rows.get("right_keys"),
    )
    _dispatch.check_shape("right", right, tuple(left.shape), "[B, D], as left")
    if left_keys is not None and not bidirectional:
        raise InputError(
            "left_keys are negatives of right rows, which have a loss with bidirectional=True alone; set it, or give "
            "right_keys"
        )
    batch = left.shape[0]
    tau = _check_temperature(temperature, left)
    weights = _check_weights(row_weights, left)
    sizes = (
        batch + (0 if left_keys is None else left_keys.shape[0]),
        batch + (0 if right_keys is None else right_keys.shape[0]),
    )
    excluded = _check_pairs(excluded, sizes, left, "(row of [left | left_keys], row of [right | right_keys])")

    def one_way(
        queries: Tensor, keys: Tensor, more: Tensor | None, pairs: Tensor | None, both: bool
    ) -> Tensor:
        call = _Call(queries, keys, more, None, tau, None, pairs, True, True, both)
        return _reduced(call, weights, options)

    if not bidirectional or (left_keys is None and excluded is None and _is_one_number(tau)):
        return one_way(left, right, right_keys, excluded, bool(bidirectional))
    back = None if excluded is None else excluded.flip(1)
    return (
        one_way(left, right, right_keys, _of_queries(excluded, batch), False)
        + one_way(right, left, left_keys, _of_queries(back, batch), False)
    ) / 2


def contrastive_loss_to_keys(
    queries: Tensor,
    keys: Tensor,
    positives: Tensor,
    temperature: float | Tensor,
    backend: str = "auto",
    *,
    key_bias: Tensor | None = None,
    excluded: Tensor | None = None,
    row_weights: Tensor | None = None,
    reduction: str = "mean",
    normalize: bool = True,
    positive_in_denominator: bool = True,
    precision: str | None = None,
) -> Tensor:
    """Cross entropy of similarities to any keys, each query against its own key.

    With x and k the rows of `queries` and `keys`, divided by their lengths unless `normalize` is False:

        s_bj = (x_b . k_j + key_bias_j) / temperature_b
        loss_b = log sum_{j in N_b} exp s_bj - s_b,positives_b

    N_b holds all keys but those that `excluded` names and, unless `positive_in_denominator`, the query's
    own. InfoNCE is this with `positives` = 0 ... B - 1. The normalised hard-sample loss of Dual-AMN (Mao et
    al., WWW 2021) is this with rows as they are, `key_bias` = -|k_j|^2 / 2, the positive left out and a
    temperature a query: s_bj - s_bp is then a difference of squared distances.

    Args:
        queries: [B, D], float32, float64 or bfloat16.
        keys: [C, D], dtype and device of `queries`; may be or hold the same rows.
        positives: int64 [B], the key that belongs to each query.
        temperature: positive, a number or a tensor [] or [B], which gets a gradient.
        backend: "auto", "reference", "cpu" or "triton".
        key_bias: [C], added to the products with each key, or None. A gradient reaches it.
        excluded: int64 [P, 2], pairs (query, key) that are left out of the query's denominator, for example
            its own row; or None.
        row_weights: as in `contrastive_loss`.
        reduction: as in `contrastive_loss`.
        normalize: divide rows by their lengths.
        positive_in_denominator: whether N_b holds the query's own key.
        precision: as in `contrastive_loss`.

    Returns:
        As `contrastive_loss`. A query with no key in its denominator has the loss 0 and no gradient.

    Raises:
        InputError: as `contrastive_loss`.
        BackendError: the backend asked for by name cannot serve.
    """
    options = _Options(backend, precision, reduction)
    rows = _check_rows({"queries": queries, "keys": keys}, {})
    queries, keys = rows["queries"], rows["keys"]
    batch, count = queries.shape[0], keys.shape[0]
    _check_index("positives", positives, queries, (batch,), "[B]")
    (key_bias,) = _dispatch.under_autocast(key_bias)
    if key_bias is not None:
        _dispatch.check_float("key_bias", key_bias)
        _dispatch.check_shape("key_bias", key_bias, (count,), "[C], one a key")
        _dispatch.check_same_device(queries=queries, key_bias=key_bias)
        key_bias = key_bias.to(reference.accumulation_dtype(queries.dtype))
    tau = _check_temperature(temperature, queries)
    weights = _check_weights(row_weights, queries)
    excluded = _check_pairs(excluded, (batch, count), queries, "(query, key)")
    call = _Call(
        queries,
        keys,
        None,
        positives,
        tau,
        key_bias,
        excluded,
        bool(normalize),
        bool(positive_in_denominator),
        False,
    )
    return _reduced(call, weights, options)


class _Options:
    """What both faces of the operator are told in the same words."""

    def __init__(self, backend: str, precision: str | None, reduction: str) -> None:
        _dispatch.check_backend_name(backend)
        if precision is not None and precision not in PRECISIONS:
            raise InputError(f"precision must be None or one of {', '.join(PRECISIONS)}; got {precision!r}")
        if reduction not in REDUCTIONS:
            raise InputError(f"reduction must be one of {', '.join(REDUCTIONS)}; got {reduction!r}")
        self.backend, self.precision, self.reduction = backend, precision or "", reduction


class _Call(NamedTuple):
    """The operator's arguments, in its order; `temperature` is a number or a tensor [B]."""

    queries: Tensor
    keys: Tensor
    more_keys: Tensor | None
    positives: Tensor | None
    temperature: float | Tensor
    key_bias: Tensor | None
    excluded: Tensor | None
    normalize: bool
    positive_in_denominator: bool
    both_ways: bool


def _reduced(call: _Call, weights: Tensor | None, options: _Options) -> Tensor:
    """Call the operator for a weighted sum of row losses, or for the rows."""
    sum_, none = options.reduction == "sum", options.reduction == "none"
    coefficients = weights
    if weights is not None and not sum_:
        coefficients = weights / weights.sum()
    tau = call.temperature
    tensors = (call.queries, call.keys, call.more_keys, tau, call.key_bias)
    needs_gradient = torch.is_grad_enabled() and any(
        isinstance(t, Tensor) and t.requires_grad for t in tensors
    )
    loss, rows, *_ = _contrastive_loss(
        call.queries,
        call.keys,
        call.more_keys,
        call.positives,
        1.0 if isinstance(tau, Tensor) else tau,
        tau if isinstance(tau, Tensor) else None,
        call.key_bias,
        call.excluded,
        None if none else coefficients,
        call.normalize,
        call.positive_in_denominator,
        call.both_ways,
        options.precision,
        needs_gradient and not none,
        options.backend,
    )
    if none:
        return rows if weights is None else rows * weights
    return loss * call.queries.shape[0] if sum_ and weights is None else loss


def _check_rows(needed: dict[str, Tensor], further: dict[str, Tensor | None]) -> dict[str, Tensor]:
    """The tensors whose rows are compared, checked, and cast as autocast would cast their product."""
    rows = {**needed, **{name: tensor for name, tensor in further.items() if tensor is not None}}
    first = next(iter(rows))
    for name, tensor in rows.items():
        _dispatch.check_float(*_dispatch.under_autocast(name, tensor))
        width, meaning = (
            (None, "[rows, D]") if name == first else (rows[first].shape[1], f"[rows, D], as wide as {first}")
        )
        _dispatch.check_shape(name, tensor, (None, width), meaning)
    rows = {
        name: tensor.to(_dispatch.autocast_dtype(tensor) or tensor.dtype)
        if tensor.dtype != torch.float64
        else tensor
        for name, tensor in rows.items()
    }
    _dispatch.check_same_dtype(**rows)
    _dispatch.check_same_device(**rows)
    for name in needed:
        if 0 in rows[name].shape:
            raise InputError(
                f"{' and '.join(needed)} need at least one row and one column; got {name} {list(rows[name].shape)}"
            )
    return rows


def _check_temperature(temperature: float | Tensor, queries: Tensor) -> float | Tensor:
    """The temperature as a number, or as [B] of the sums' dtype; its values are checked where they are read."""
    (temperature,) = _dispatch.under_autocast(temperature)
    if isinstance(temperature, Tensor):
        _dispatch.check_float("temperature", temperature)
        if temperature.dim():
            _dispatch.check_shape("temperature", temperature, (queries.shape[0],), "[B], or [] for all")
        if temperature.dim() or temperature.device != torch.device("cpu"):
            _dispatch.check_same_device(queries=queries, temperature=temperature)
        return (
            temperature.to(queries.device, reference.accumulation_dtype(queries.dtype))
            .reshape(-1)
            .expand(queries.shape[0])
        )
    if not isinstance(temperature, numbers.Real):
        raise InputError(f"temperature must be a number or a tensor; got {type(temperature).__name__}")
    if not 0.0 < temperature < float("inf"):
        raise InputError(f"temperature must be positive and finite; got {temperature}")
    return float(temperature)


def _is_one_number(temperature: float | Tensor) -> bool:
    return not isinstance(temperature, Tensor) or temperature.stride(0) == 0


def _check_weights(row_weights: Tensor | None, queries: Tensor) -> Tensor | None:
    (row_weights,) = _dispatch.under_autocast(row_weights)
    if row_weights is None:
        return None
    _dispatch.check_float("row_weights", row_weights)
    _dispatch.check_shape("row_weights", row_weights, (queries.shape[0],), "[B], one a row")
    _dispatch.check_same_device(queries=queries, row_weights=row_weights)
    if not torch.compiler.is_compiling():  # reading a value would break the graph
        least, most = (bound.item() for bound in row_weights.detach().aminmax())
        if not (least >= 0 and 0 < most < float("inf")):
            raise InputError(
                f"row_weights must be finite, not negative and not all zero; got {least:g} to {most:g}"
            )
    return row_weights.to(reference.accumulation_dtype(queries.dtype))


def _check_index(
    name: str, index: Tensor, queries: Tensor, shape: tuple[int | None, ...], meaning: str
) -> None:
    if not isinstance(index, Tensor) or index.dtype != torch.int64:
        what = str(index.dtype).removeprefix("torch.") if isinstance(index, Tensor) else type(index).__name__
        raise InputError(f"{name} must be a tensor of int64; got {what}")
    _dispatch.check_shape(name, index, shape, meaning)
    _dispatch.check_same_device(**{"queries": queries, name: index})


def _check_pairs(
    excluded: Tensor | None, sizes: tuple[int, int], queries: Tensor, meaning: str
) -> Tensor | None:
    if excluded is None or (isinstance(excluded, Tensor) and excluded.shape == (0, 2)):
        return None
    _check_index("excluded", excluded, queries, (None, 2), f"[P, 2], pairs {meaning}")
    if not torch.compiler.is_compiling():
        for side, size in enumerate(sizes):
            _check_range(f"excluded[:, {side}]", excluded[:, side], size)
    return excluded


def _check_range(name: str, index: Tensor, size: int) -> None:
    least, most = (int(bound) for bound in index.aminmax())
    if least < 0 or most >= size:
        raise InputError(f"{name} must be from 0 to {size - 1}; got {least if least < 0 else most}")


def _of_queries(pairs: Tensor | None, batch: int) -> Tensor | None:
    """The pairs whose first is one of the queries, and no further key."""
    return None if pairs is None else pairs[pairs[:, 0] < batch]


@_dispatch.operator("contrastive_loss")
def _contrastive_loss(
    queries: Tensor,
    keys: Tensor,
    more_keys: Tensor | None,
    positives: Tensor | None,
    temperature: float,
    temperatures: Tensor | None,
    key_bias: Tensor | None,
    excluded: Tensor | None,
    coefficients: Tensor | None,
    normalize: bool,
    positive_in_denominator: bool,
    both_ways: bool,
    precision: str,
    with_gradient: bool,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:  # torch 2.6 looks no alias up
    """The sum of row losses times `coefficients` (None: 1 / B), and the row losses [B].

    `with_gradient` its gradients follow, to queries, keys, more keys, bias [C] and temperatures [B]; else tensors
    without elements.
    """
    op = "contrastive_loss"
    candidates = {
        "cpu": lambda: _dispatch.native_reason(queries, "cpu"),
        "triton": lambda: _dispatch.triton_reason(queries) or _only_narrow_floats(queries),
    }
    chosen = _dispatch.choose_backend(op, backend, candidates)
    columns = keys.shape[0] + (0 if more_keys is None else more_keys.shape[0])
    # What a kernel reads or writes by is checked here, where torch.compile does not look.
    if positives is not None:
        _check_range("positives", positives, columns)
    if excluded is not None and len(excluded):
        _check_range("excluded[:, 0]", excluded[:, 0], queries.shape[0])
        _check_range("excluded[:, 1]", excluded[:, 1], columns)
    if temperatures is not None and not bool(((temperatures > 0) & temperatures.isfinite()).all()):
        wrong = temperatures[~((temperatures > 0) & temperatures.isfinite())][0].item()
        raise InputError(f"temperature must be positive and finite; got {wrong:g}")
    if excluded is not None and not len(excluded):
        excluded = None
    # Kernels take such vectors one number after the other; rows they take with their strides.
    positives, temperatures, key_bias, excluded, coefficients = (
        None if tensor is None else tensor.contiguous()
        for tensor in (positives, temperatures, key_bias, excluded, coefficients)
    )
    call = Arguments(
        queries,
        keys,
        more_keys,
        positives,
        temperature,
        temperatures,
        key_bias,
        excluded,
        coefficients,
        normalize,
        positive_in_denominator,
        both_ways,
        precision or _default_precision(queries.device),
        with_gradient,
    )
    return {"reference": by_reference, "cpu": by_cpu, "triton": by_triton}[chosen](call)


def _default_precision(device: torch.device) -> str:
    if device.type != "cuda":
        return "ieee"
    return {"highest": "ieee", "high": "tf32", "medium": "bfloat16"}[torch.get_float32_matmul_precision()]


def _only_narrow_floats(queries: Tensor) -> str | None:
    return "its products are float32 or bfloat16, not float64" if queries.dtype == torch.float64 else None


@_contrastive_loss.register_fake
def _fake(queries, keys, more_keys, positives, temperature, temperatures, key_bias, *rest):  # type: ignore[no-untyped-def]
    with_gradient = rest[-2]
    dtype = reference.accumulation_dtype(queries.dtype)
    loss, rows = queries.new_empty((), dtype=dtype), queries.new_empty(queries.shape[0], dtype=dtype)
    gradients = empty_gradients(queries, keys, more_keys, temperatures, key_bias, with_gradient)
    return loss, rows, *gradients


def _setup_context(ctx, inputs, output):  # type: ignore[no-untyped-def]
    _, rows, *gradients = output
    ctx.with_gradient = inputs[-2]
    ctx.set_materialize_grads(False)
    if ctx.with_gradient:
        ctx.mark_non_differentiable(rows, *gradients)
        ctx.save_for_backward(rows, *gradients)
    else:
        # Each row's factor comes with backward, which makes the products then; coefficients have theirs in the rows.
        ctx.mark_non_differentiable(*gradients)
        ctx.arguments = [None if isinstance(value, Tensor) else value for value in inputs]
        ctx.tensors = [place for place, value in enumerate(inputs) if isinstance(value, Tensor)]
        ctx.save_for_backward(rows, *(inputs[place] for place in ctx.tensors))


def _backward(ctx, loss_gradient, row_gradient, *_):  # type: ignore[no-untyped-def]
    if torch.is_grad_enabled():
        # The saved gradients are constants to autograd: a second derivative through them would be wrong.
        raise BackendError(
            "contrastive_loss can be differentiated once, without create_graph; for higher derivatives use "
            "loginmea_fast.reference.contrastive_loss"
        )
    rows, *saved = ctx.saved_tensors
    factor, gradients = loss_gradient, saved
    if not ctx.with_gradient:
        gradients = []
        if row_gradient is not None:
            arguments = list(ctx.arguments)
            for place, tensor in zip(ctx.tensors, saved, strict=True):
                arguments[place] = tensor
            arguments[8], arguments[-2] = row_gradient.contiguous(), True
            _, _, *gradients = _contrastive_loss(*arguments)
            factor = 1.0
    # queries, keys, more keys, key bias, temperatures, and the coefficients, whose gradient is the row's loss
    found = dict(zip((0, 1, 2, 6, 5), gradients, strict=bool(gradients)))
    if loss_gradient is not None:
        found[8] = rows
    return tuple(
        factor * found[place] if needed and factor is not None and place in found else None
        for place, needed in enumerate(ctx.needs_input_grad)
    )


_contrastive_loss.register_autograd(_backward, setup_context=_setup_context)
