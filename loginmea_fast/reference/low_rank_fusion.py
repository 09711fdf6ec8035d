"""Low-rank multi-modal fusion with adaptive weights, in plain PyTorch.

LoginMEA (arXiv 2407.19625), section 4.2, after Liu et al., "Efficient Low-rank Multimodal Fusion", ACL 2018.

Symbols: B rows, M modalities of widths d_m, K rank, d output width.

    x_m  [B, d_m]          input            r_m  [B]     row scale      o  [1, K]  rank weights
    W_m  [K, d_m + 1, d]   factor, row 0 belongs to the constant 1      b  [1, d]  bias

Forward, with t_m = r_m x_m:

    P_mk = [1 | t_m] W_m^(k)                    [B, d]
    y    = sum_k o_k prod_m P_mk + b            [B, d]

Gradient, with g = dL/dy:

    dP_mk   = o_k g prod_{n != m} P_nk          a product of the others, never a quotient: P may be 0
    dt_m    = sum_k dP_mk W_m^(k)[1:]^T         dx_m = r_m dt_m        dr_m = sum over columns of dt_m x_m
    dW_m^(k) = [1 | t_m]^T dP_mk                do_k = sum g prod_m P_mk        db = column sums of g

The row scale is the modality's attention weight over its length, with q [1, d] the query:

    s_m = q . tanh(x_m) ;   a = softmax over m of s ;   n_m = |x_m| ;   r_m = a_m / n_m
    da_m = dr_m / n_m ;   ds_m = a_m (da_m - sum_n a_n da_n)
    dx_m = ds_m q (1 - tanh(x_m)^2) - dr_m r_m x_m / n_m^2
    dq   = sum over rows and m of ds_m tanh(x_m)

With a mask p [B, M] of the modalities that a row has, a = softmax over the m with p_m = 1; elsewhere a_m = r_m = 0 and
there is no gradient. A row that has none is 0 throughout.

A row of zeros has no direction: its n_m counts as 1e-12 and is held constant. Squares of a row near 1e-30 are 0 in
float32 and those of one near 1e30 infinite, so such rows are divided by their largest element before they are measured.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = [
    "low_rank_fusion",
    "low_rank_fusion_backward",
    "low_rank_fusion_forward",
    "masked_softmax",
    "modality_scale",
    "modality_scale_backward",
    "modality_weights",
    "row_lengths",
]

# Between these lengths the squares of float32 elements neither vanish nor overflow.
SHORTEST_ROW, LONGEST_ROW = 1e-12, 1e18
# Rows a block of the hand-derived formulas: temporaries of rank x block x width, whatever the number of rows.
BLOCK_ROWS = 1024


def low_rank_fusion(
    inputs: Sequence[Tensor],
    factors: Sequence[Tensor],
    rank_weights: Tensor,
    bias: Tensor,
    row_scale: Tensor | None = None,
) -> Tensor:
    """The formula, for autograd to differentiate; keeps M tensors of size K x B x d.

    Args:
        inputs: M tensors [B, d_m].
        factors: M tensors [K, d_m + 1, d].
        rank_weights: [1, K].
        bias: [1, d].
        row_scale: [B, M], or None for ones.

    Returns:
        [B, d].
    """
    product: Tensor | None = None
    for m, (x, factor) in enumerate(zip(inputs, factors, strict=True)):
        t = x if row_scale is None else row_scale[:, m, None] * x
        projected = factor[:, :1] + t @ factor[:, 1:]  # [K, B, d]
        product = projected if product is None else product * projected
    assert product is not None
    return torch.einsum("k,kbd->bd", rank_weights[0], product) + bias


def modality_scale(
    inputs: Sequence[Tensor], query: Tensor | None = None, present: Tensor | None = None
) -> Tensor:
    """The row scale r, for autograd to differentiate.

    Args:
        inputs: M tensors [B, d_m], of one width if there is a query.
        query: [1, d], or None for a_m = 1.
        present: bool [B, M], which modalities a row has; None for all.

    Returns:
        [B, M].
    """
    if present is not None:  # what is absent has no gradient, whatever it holds
        inputs = [torch.where(present[:, m, None], x, 0.0) for m, x in enumerate(inputs)]
    return modality_weights(inputs, query, present) / torch.stack([row_lengths(x) for x in inputs], dim=1)


def modality_weights(inputs: Sequence[Tensor], query: Tensor | None, present: Tensor | None) -> Tensor:
    """The attention weights a, for autograd to differentiate.

    Args:
        inputs: as in `modality_scale`.
        query: as there.
        present: as there.

    Returns:
        [B, M].
    """
    if query is None:
        weights = inputs[0].new_ones(inputs[0].shape[0], len(inputs))
        return weights if present is None else weights * present
    scores = torch.stack([torch.tanh(x) @ query[0] for x in inputs], dim=1)  # [B, M]
    return masked_softmax(scores, present)


def masked_softmax(scores: Tensor, present: Tensor | None) -> Tensor:
    """Softmax over the last dimension, among what is present; zeros where nothing is.

    Args:
        scores: [..., M].
        present: bool [..., M], or None for all.
    """
    if present is None:
        return torch.softmax(scores, dim=-1)
    lowest = torch.finfo(scores.dtype).min
    return torch.where(present, torch.softmax(scores.masked_fill(~present, lowest), dim=-1), 0.0)


def row_lengths(x: Tensor) -> Tensor:
    """|x| of every row, and 1e-12, a constant, of a row without direction.

    Args:
        x: [B, d].

    Returns:
        [B], for autograd to differentiate.
    """
    plain, largest = x.detach().norm(dim=1), _largest(x)
    extreme, flat = (plain <= SHORTEST_ROW) | (plain >= LONGEST_ROW), largest < torch.finfo(x.dtype).tiny
    first = torch.where(extreme & ~flat, largest, 1.0)
    return torch.where(flat, SHORTEST_ROW, (x / first[:, None]).norm(dim=1) * first)


def _largest(x: Tensor) -> Tensor:
    """The largest magnitude in each row."""
    return x.detach().abs().amax(dim=1) if x.shape[1] else x.new_zeros(x.shape[0])


def low_rank_fusion_forward(
    inputs: Sequence[Tensor],
    factors: Sequence[Tensor],
    rank_weights: Tensor,
    bias: Tensor,
    row_scale: Tensor | None = None,
    products: Tensor | None = None,
) -> Tensor:
    """The same by blocks of rows, as the kernels do it: temporaries do not grow with the rows.

    Args:
        inputs: M tensors [B, d_m].
        factors: M tensors [K, d_m + 1, d].
        rank_weights: [1, K].
        bias: [1, d].
        row_scale: [B, M], or None.
        products: [K, M, B, d] to be filled with P_mk, that of the first modality times o_k; or None.

    Returns:
        [B, d], in the dtype of `inputs`; sums are taken in float32 at least.
    """
    w, r = _folded(factors, rank_weights), None if row_scale is None else _wide(row_scale)
    rows, rank, width = inputs[0].shape[0], w[0].shape[0], w[0].shape[2]
    y = inputs[0].new_empty(rows, width)
    for block in _blocks(rows):
        t = _scaled(inputs, r, block)
        total = bias.to(w[0].dtype).expand(t[0].shape[0], width)
        for k in range(rank):
            p = _projections(t, w, k)
            if products is not None:
                products[k, :, block] = torch.stack(p).to(products.dtype)
            total = total + math.prod(p[1:], start=p[0])
        y[block] = total.to(y.dtype)
    return y


def low_rank_fusion_backward(
    grad: Tensor,
    inputs: Sequence[Tensor],
    factors: Sequence[Tensor],
    rank_weights: Tensor,
    row_scale: Tensor | None = None,
    products: Tensor | None = None,
) -> tuple[list[Tensor], list[Tensor], Tensor, Tensor, Tensor | None]:
    """The gradient, derived by hand, by blocks of rows; P_mk is computed again unless `products` holds it.

    With W' = o_k W folded into the first factor, o_k needs no name in the products, and its own gradient is an
    inner product: do_k = <W_0^(k), dW'_0^(k)>, dW_0^(k) = o_k dW'_0^(k).

    Args:
        grad: [B, d], g.
        inputs: as in the forward.
        factors: as in the forward.
        rank_weights: as in the forward.
        row_scale: as in the forward.
        products: what the forward filled, or None.

    Returns:
        dx_m (M tensors), dW_m (M tensors), do [1, K], db [1, d], dr [B, M] or None; the tensors in the dtypes of
        their arguments, do, db and dr in the dtype of the sums.
    """
    w, r = _folded(factors, rank_weights), None if row_scale is None else _wide(row_scale)
    rows, rank, count = inputs[0].shape[0], w[0].shape[0], len(inputs)
    dx = [torch.empty_like(v, memory_format=torch.contiguous_format) for v in inputs]
    dw = [torch.zeros_like(v) for v in w]
    dr = None if r is None else torch.empty_like(r)
    for block in _blocks(rows):
        g = _wide(grad[block])
        t = _scaled(inputs, r, block)
        dt = [torch.zeros_like(v) for v in t]
        for k in range(rank):
            p = _projections(t, w, k) if products is None else list(_wide(products[k, :, block]))
            for m in range(count):
                dp = math.prod(p[:m] + p[m + 1 :], start=g)
                dt[m] += dp @ w[m][k, 1:].T
                dw[m][k, 0] += dp.sum(dim=0)
                dw[m][k, 1:] += t[m].T @ dp
        for m in range(count):
            dx[m][block] = (dt[m] if r is None else dt[m] * r[block, m, None]).to(dx[m].dtype)
            if dr is not None:
                dr[block, m] = (dt[m] * inputs[m][block]).sum(dim=1)
    do = (_wide(factors[0]) * dw[0]).sum(dim=(1, 2))[None]
    dw[0] *= _wide(rank_weights).T[:, :, None]
    db = _wide(grad).sum(dim=0, keepdim=True)
    return dx, [v.to(f.dtype) for v, f in zip(dw, factors, strict=True)], do, db, dr


def modality_scale_backward(
    grad: Tensor,
    inputs: Sequence[Tensor],
    query: Tensor | None = None,
    present: Tensor | None = None,
) -> tuple[list[Tensor], Tensor | None]:
    """The gradient of `modality_scale`, derived by hand.

    Args:
        grad: [B, M], dr.
        inputs: as in the forward.
        query: as in the forward.
        present: as in the forward.

    Returns:
        dx_m (M tensors, in the dtype of `inputs`) and dq [1, d] or None, in the dtype of the sums.
    """
    x = [_wide(v) for v in inputs]
    if present is not None:
        x = [torch.where(present[:, m, None], v, 0.0) for m, v in enumerate(x)]

    def of_present(values: Tensor) -> Tensor:
        """NaN crosses over neither from nor to what is absent."""
        return values if present is None else torch.where(present, values, 0.0)

    dr = of_present(grad.to(x[0].dtype))
    length = torch.stack([row_lengths(v) for v in x], dim=1)
    q = None if query is None else query.to(x[0].dtype)
    a = modality_weights(x, q, present)
    r, da = a / length, dr / length
    ds = of_present(a * (da - (a * da).sum(dim=1, keepdim=True)))
    # The cube of an extreme length has no place in float32: there x is divided by it first.
    extreme = (length <= SHORTEST_ROW) | (length >= LONGEST_ROW)
    along = -dr * r / length / torch.where(extreme, 1.0, length)
    shrink = torch.where(extreme, length.reciprocal(), 1.0)
    flat = torch.stack([_largest(v) for v in x], dim=1) < torch.finfo(dr.dtype).tiny
    along = torch.where(flat, 0.0, along)
    dx = [along[:, m, None] * (shrink[:, m, None] * v) for m, v in enumerate(x)]
    dq = None
    if q is not None:
        bent = [torch.tanh(v) for v in x]
        dx = [v + ds[:, m, None] * q * (1 - bent[m] ** 2) for m, v in enumerate(dx)]
        dq = sum((ds[:, m] @ bent[m] for m in range(len(x))), torch.zeros_like(q[0]))[None]
    return [v.to(i.dtype) for v, i in zip(dx, inputs, strict=True)], dq


def _wide(tensor: Tensor) -> Tensor:
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def _folded(factors: Sequence[Tensor], rank_weights: Tensor) -> list[Tensor]:
    """The factors in the dtype of the sums, the first times o_k."""
    first, *others = (_wide(f) for f in factors)
    return [first * rank_weights.to(first.dtype).T[:, :, None], *others]


def _blocks(rows: int) -> list[slice]:
    return [slice(start, min(start + BLOCK_ROWS, rows)) for start in range(0, rows, BLOCK_ROWS)]


def _scaled(inputs: Sequence[Tensor], r: Tensor | None, block: slice) -> list[Tensor]:
    """t_m of one block, in the dtype of the sums."""
    t = [_wide(x[block]) for x in inputs]
    return t if r is None else [t_m * r[block, m, None] for m, t_m in enumerate(t)]


def _projections(t: Sequence[Tensor], w: Sequence[Tensor], k: int) -> list[Tensor]:
    """P_mk of one block, that of the first modality times o_k."""
    return [torch.addmm(factor[k, 0], t_m, factor[k, 1:]) for t_m, factor in zip(t, w, strict=True)]
