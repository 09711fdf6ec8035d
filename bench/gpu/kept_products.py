"""What the tiles of fusion have to beat: the vendor's products, kept in memory, and one elementwise kernel each way.

torch.compile of the plain formula is free to do the same; here it is certain. The row scales and the sums that are the
gradients of constants are passes of their own: about a tenth of the bytes, to be seen in a record's `kernel_us`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from bench.gpu.run import Run

__all__ = ["KeptProducts"]


class KeptProducts:
    """Low-rank fusion of M inputs [B, d_m], factors [K, d_m + 1, d], rank weights, bias and row scales [B, M].

    A call holds all P [M, B, K, d] until its gradients are taken, and a tensor of that size for theirs meanwhile.
    """

    def __init__(self, run: Run) -> None:
        self.fuse, self.spread = run.compiled(_fuse), run.compiled(_spread)

    def __call__(self, *t: Tensor) -> Tensor:
        """As `ops.low_rank_fusion` with its arguments side by side."""
        count = len(t) // 2 - 1
        inputs, factors, (weights, bias, scale) = t[:count], t[count : 2 * count], t[2 * count :]
        rank, _, width = factors[0].shape
        scaled = [x * scale[:, m, None] for m, x in enumerate(inputs)]
        folded = [factors[0] * weights.T[:, :, None], *factors[1:]]
        flat = [factor.transpose(0, 1).reshape(-1, rank * width) for factor in folded]  # [d_m + 1, K d]
        y: Tensor = _Products.apply(self, rank, *scaled, *flat)
        return y + bias


class _Products(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, kernels: KeptProducts, rank: int, *t: Tensor) -> Tensor:  # type: ignore[override]
        x, w = t[: len(t) // 2], t[len(t) // 2 :]
        rows, columns = len(x[0]), w[0].shape[1]
        p = x[0].new_empty(len(x), rows, columns)
        for m, (xm, wm) in enumerate(zip(x, w, strict=True)):
            torch.addmm(wm[0], xm, wm[1:], out=p[m])
        p = p.view(len(x), rows, rank, -1)
        ctx.kernels = kernels
        ctx.save_for_backward(p, *t)
        return kernels.fuse(p)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        p, *t = ctx.saved_tensors
        x, w = t[: len(t) // 2], t[len(t) // 2 :]
        dp = ctx.kernels.spread(p, grad).flatten(2)
        dx = [dp_m @ wm[1:].T for dp_m, wm in zip(dp, w, strict=True)]
        dw = [torch.cat([dp_m.sum(0, keepdim=True), xm.T @ dp_m]) for dp_m, xm in zip(dp, x, strict=True)]
        return None, None, *dx, *dw


def _wide(x: Tensor) -> Tensor:
    return x.float() if x.dtype == torch.bfloat16 else x


def _fuse(p: Tensor) -> Tensor:
    """Sum over ranks of products over modalities, [B, d], of P [M, B, K, d]."""
    return _wide(p).prod(0).sum(1).to(p.dtype)


def _spread(p: Tensor, grad: Tensor) -> Tensor:
    """Gradients of P [M, B, K, d] by that of their sum [B, d]."""
    others = []
    for m in range(len(p)):
        gradient = _wide(grad)[:, None]
        for n in range(len(p)):
            if n != m:
                gradient = gradient * p[n]
        others.append(gradient.to(p.dtype))
    return torch.stack(others)
