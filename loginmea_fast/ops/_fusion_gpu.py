"""Low-rank fusion on a GPU: the walk over blocks of rows and the room that it needs, for Triton and CUDA alike.

`kernels` is the module of Triton's or of CUDA's launches, whose functions have the same names and arguments.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from loginmea_fast.kernels._operands import BLOCK_ROWS, Operands, round_up

__all__ = ["low_rank_fusion_backward", "low_rank_fusion_forward"]


def low_rank_fusion_forward(
    y: Tensor,
    inputs: Sequence[Tensor],
    factors: Sequence[Tensor],
    rank_weights: Tensor,
    bias: Tensor,
    row_scale: Tensor | None,
    products: Tensor | None,
    precision: str,
    kernels: Any,
) -> None:
    """Fill y [B, d] and, unless None, products [K, M, B, d] with P_mk, o_k folded into the first modality's."""
    f = Operands(inputs, factors, rank_weights, row_scale, precision, backward=False)
    bias = bias.float().contiguous()
    for first in range(0, f.rows, f.block):
        count = min(f.block, f.rows - first)
        kernels.pack_rows(f, first, count)
        kernels.forward(f, bias, y, products, first, count)


def low_rank_fusion_backward(
    grad: Tensor,
    inputs: Sequence[Tensor],
    factors: Sequence[Tensor],
    rank_weights: Tensor,
    row_scale: Tensor | None,
    products: Tensor | None,
    gradients: Sequence[Tensor],
    precision: str,
    kernels: Any,
) -> None:
    """Fill `gradients`: dx_m, dW_m, do, db, dr, one after another; empty ones are not wanted."""
    f = Operands(inputs, factors, rank_weights, row_scale, precision, backward=True)
    dx, dfactors, (do, db, dr) = gradients[: f.count], gradients[f.count : -3], gradients[-3:]
    inputs_needed, factors_needed = dr.numel() > 0 or any(g.numel() for g in dx), do.numel() > 0
    db.copy_(grad.float().sum(dim=0, keepdim=True))
    dp = f.w.new_empty(f.count, f.block, f.columns)
    dt = grad.new_empty(f.block, f.total, dtype=torch.float32)
    dw = grad.new_zeros(f.columns, f.total, dtype=torch.float32)
    constants = torch.zeros_like(f.constants)
    wide_dr = None if f.scale is None else torch.empty_like(f.scale)
    for first in range(0, f.rows, f.block):
        count = min(f.block, f.rows - first)
        used = round_up(count, BLOCK_ROWS)  # what lies between is zero in t and dP
        kernels.pack_rows(f, first, count)
        kernels.projection_gradient(f, grad, products, dp, first, count)
        if factors_needed:
            constants += dp[:, :used].sum(dim=1, dtype=torch.float32)
        for group in f.groups():
            t, w, dp_m = f.side_by_side(f.t[:used], group), f.side_by_side(f.w, group), dp[group, :used]
            if factors_needed:
                kernels.multiply(f, dp_m.mT, t, f.side_by_side(dw, group), add=True)
            if inputs_needed:
                kernels.multiply(f, dp_m, w, f.side_by_side(dt[:used], group), add=False)
        if inputs_needed:
            kernels.input_gradients(f, dt, dx, wide_dr, first, count)
    if wide_dr is not None and dr.numel():
        dr.copy_(wide_dr)
    if not factors_needed:
        return
    dw = dw.view(f.rank, f.padded, f.total)[:, : f.width]
    for m, (factor, gradient) in enumerate(zip(factors, dfactors, strict=True)):
        wide = torch.empty_like(factor, dtype=torch.float32, memory_format=torch.contiguous_format)
        wide[:, 1:] = dw[:, :, f.starts[m] : f.starts[m] + factor.shape[1] - 1].transpose(1, 2)
        wide[:, 0] = constants[m].view(f.rank, f.padded)[:, : f.width]
        if m == 0:
            do.copy_((wide * factor).sum(dim=(1, 2))[None])
            wide *= rank_weights.float().T[:, :, None]
        gradient.copy_(wide)
