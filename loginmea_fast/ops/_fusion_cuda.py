"""Low-rank fusion on CUDA: native tensor-core tiles up to dP, torch's matrix products (cuBLAS) for what follows it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from loginmea_fast import native
from loginmea_fast.ops import _dispatch
from loginmea_fast.ops._wide_products import add_wide_product, wide_product

__all__ = ["low_rank_fusion_backward", "low_rank_fusion_forward", "unsupported"]

DP_BYTES = 48 << 20  # of dP in one block of rows; an H100 has 50 MiB of L2, an A100 40
PAD, BLOCK_ROWS, MOST_MODALITIES = 64, 128, 6  # as in csrc/cuda/low_rank_fusion.h


def unsupported(dtype: torch.dtype, modalities: int, precision: str) -> str | None:
    """Why these kernels cannot take such a call, or None."""
    if dtype == torch.float64:
        return "its products are float32 or bfloat16, not float64"
    # cuBLAS rounds as the whole process is set to. Another setting for the time of a call would be every thread's.
    setting = torch.get_float32_matmul_precision()
    if dtype == torch.float32 and precision == "ieee" and setting != "highest":
        return (
            f"its products round as torch.set_float32_matmul_precision({setting!r}) lets them, and this call asks for "
            'precision "ieee"'
        )
    if modalities > MOST_MODALITIES:
        return f"it takes up to {MOST_MODALITIES} modalities, not {modalities}"
    return None


def _round_up(n: int, multiple: int) -> int:
    return (n + multiple - 1) // multiple * multiple


class _Operands:
    """Sizes, the factors packed for this call, and the kernels under the names of their arguments."""

    def __init__(
        self,
        inputs: Sequence[Tensor],
        factors: Sequence[Tensor],
        rank_weights: Tensor,
        row_scale: Tensor | None,
        precision: str,
    ) -> None:
        self.code = native.dtype_code
        self.kernels, self.stream = _dispatch.cuda_kernels(inputs[0])
        self.inputs = [x if x.stride(1) == 1 or x.shape[1] == 1 else x.contiguous() for x in inputs]
        self.scale = None if row_scale is None else row_scale.float().contiguous()
        self.dtype = inputs[0].dtype
        self.precision, self.exact = precision, precision == "ieee"
        self.rows, self.count = inputs[0].shape[0], len(inputs)
        self.rank, _, self.width = factors[0].shape
        self.padded = _round_up(self.width, PAD)
        self.columns = self.rank * self.padded
        self.starts = [0]
        for x in inputs:
            self.starts.append(self.starts[-1] + _round_up(x.shape[1], PAD))
        self.total = self.starts[-1]
        self.compute = torch.bfloat16 if precision == "bfloat16" else torch.float32
        w = inputs[0].new_zeros(self.rank, self.padded, self.total, dtype=self.compute)
        self.constants = inputs[0].new_zeros(self.count, self.rank, self.padded, dtype=torch.float32)
        for m, factor in enumerate(factors):
            folded = factor.float() * rank_weights.float().T[:, :, None] if m == 0 else factor
            columns = slice(self.starts[m], self.starts[m] + factor.shape[1] - 1)
            w[:, : self.width, columns] = folded[:, 1:].transpose(1, 2)
            self.constants[m, :, : self.width] = folded[:, 0]
        self.w = w.view(self.columns, self.total)
        row_bytes = self.count * self.columns * self.w.element_size()
        most = max(DP_BYTES // row_bytes, BLOCK_ROWS)
        self.block = _round_up(min(most, max(self.rows, 1)), BLOCK_ROWS)
        self.t = self.w.new_empty(self.block, self.total)

    def part(self, m: int) -> slice:
        """Columns of t and w that belong to a modality."""
        return slice(self.starts[m], self.starts[m + 1])

    def scale_of(self, m: int) -> int:
        """Address of the first row's scale, 0 for none."""
        return 0 if self.scale is None else self.scale[:, m].data_ptr()

    def pack_rows(self, first: int, count: int) -> None:
        for m, x in enumerate(self.inputs):
            part = self.part(m)
            self.kernels.fusion_pack_rows(
                self.code(self.dtype), x.data_ptr(), x.stride(0), x.shape[1], self.scale_of(m), self.count,
                first, count, self.code(self.compute), self.t[:, part].data_ptr(), self.total,
                part.stop - part.start, self.block, self.stream,
            )  # fmt: skip

    def packed(self) -> tuple[int, int, int, list[int], int, bool]:
        """The packed operands as kernels take them."""
        return (
            self.t.data_ptr(), self.w.data_ptr(), self.constants.data_ptr(), self.starts,
            self.code(self.compute), self.exact,
        )  # fmt: skip


def low_rank_fusion_forward(
    y: Tensor,
    inputs: Sequence[Tensor],
    factors: Sequence[Tensor],
    rank_weights: Tensor,
    bias: Tensor,
    row_scale: Tensor | None,
    products: Tensor | None,
    precision: str,
) -> None:
    """Fill y [B, d] and, unless None, products [K, M, B, d] with P_mk, o_k folded into the first modality's."""
    f = _Operands(inputs, factors, rank_weights, row_scale, precision)
    bias = bias.float().contiguous()
    for first in range(0, f.rows, f.block):
        count = min(f.block, f.rows - first)
        f.pack_rows(first, count)
        f.kernels.fusion_forward(
            *f.packed(), bias.data_ptr(), f.code(f.dtype), 0 if products is None else products.data_ptr(),
            y.data_ptr(), first, count, f.rows, f.rank, f.width, f.stream,
        )  # fmt: skip


def low_rank_fusion_backward(
    grad: Tensor,
    inputs: Sequence[Tensor],
    factors: Sequence[Tensor],
    rank_weights: Tensor,
    row_scale: Tensor | None,
    products: Tensor | None,
    gradients: Sequence[Tensor],
    precision: str,
) -> None:
    """Fill `gradients`: dx_m, dW_m, do, db, dr, one after another; empty ones are not wanted."""
    f = _Operands(inputs, factors, rank_weights, row_scale, precision)
    dx, dfactors, (do, db, dr) = gradients[: f.count], gradients[f.count : -3], gradients[-3:]
    inputs_needed, factors_needed = dr.numel() > 0 or any(g.numel() for g in dx), do.numel() > 0
    db.copy_(grad.float().sum(dim=0, keepdim=True))
    dp = f.w.new_empty(f.count, f.block, f.columns)
    dt = grad.new_empty(f.block, f.total, dtype=torch.float32)
    dw = grad.new_zeros(f.columns, f.total, dtype=torch.float32)
    constants = torch.zeros_like(f.constants).view(f.count, f.columns)
    wide_dr = None if f.scale is None else torch.empty_like(f.scale)
    for first in range(0, f.rows, f.block):
        count = min(f.block, f.rows - first)
        f.pack_rows(first, count)
        f.kernels.fusion_projection_gradient(
            grad.data_ptr(), *f.packed(), f.code(f.dtype), 0 if products is None else products.data_ptr(),
            dp.data_ptr(), first, count, f.rows, f.block, f.rank, f.width, f.stream,
        )  # fmt: skip
        for m, x in enumerate(f.inputs):
            part, dp_m = f.part(m), dp[m, :count]
            if factors_needed:
                add_wide_product(dp_m.T, f.t[:count, part], dw[:, part])
                constants[m] += dp_m.sum(dim=0, dtype=torch.float32)
            if inputs_needed:
                wide_product(dp_m, f.w[:, part], dt[:count, part])
                f.kernels.fusion_input_gradient(
                    dt[:, part].data_ptr(), f.total, f.code(f.dtype), x.data_ptr(), x.stride(0), x.shape[1],
                    f.scale_of(m), f.count, first, count, dx[m].data_ptr(),
                    0 if wide_dr is None else wide_dr[:, m].data_ptr(), f.stream,
                )  # fmt: skip
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
