"""Launches of low-rank fusion in CUDA C++, tensor-core tiles up to dP, and cuBLAS for the products that follow it.

Names and arguments are those of the Triton module.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from loginmea_fast import native
from loginmea_fast.kernels._operands import Operands
from loginmea_fast.ops._dispatch import cuda_kernels
from loginmea_fast.ops._wide_products import add_wide_product, wide_product

__all__ = ["forward", "input_gradients", "multiply", "pack_rows", "projection_gradient", "unsupported"]

MOST_MODALITIES = 6  # as in csrc/cuda/low_rank_fusion.h


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


def pack_rows(f: Operands, first: int, count: int) -> None:
    """Fill t with rows [first, first + count) of the inputs, and zeros."""
    kernels, stream = cuda_kernels(f.t)
    for m, x in enumerate(f.inputs):
        part = f.part(m)
        kernels.fusion_pack_rows(
            native.dtype_code(f.dtype), x.data_ptr(), x.stride(0), x.shape[1], _scale(f.scale, m), f.count,
            first, count, native.dtype_code(f.compute), f.t[:, part].data_ptr(), f.total,
            part.stop - part.start, f.block, stream,
        )  # fmt: skip


def forward(f: Operands, bias: Tensor, y: Tensor, products: Tensor | None, first: int, count: int) -> None:
    """Fill rows [first, first + count) of y and, unless None, of products."""
    kernels, stream = cuda_kernels(f.t)
    kernels.fusion_forward(
        *_packed(f), bias.data_ptr(), native.dtype_code(f.dtype), native.address(products), y.data_ptr(),
        first, count, f.rows, f.rank, f.width, stream,
    )  # fmt: skip


def projection_gradient(
    f: Operands, grad: Tensor, products: Tensor | None, dp: Tensor, first: int, count: int
) -> None:
    """Fill dp [M, block, columns] for rows [first, first + count), and with zeros up to a whole tile."""
    kernels, stream = cuda_kernels(f.t)
    kernels.fusion_projection_gradient(
        grad.data_ptr(), *_packed(f), native.dtype_code(f.dtype), native.address(products), dp.data_ptr(),
        first, count, f.rows, f.block, f.rank, f.width, stream,
    )  # fmt: skip


def input_gradients(
    f: Operands, dt: Tensor, dx: Sequence[Tensor], dr: Tensor | None, first: int, count: int
) -> None:
    """Fill rows [first, first + count) of dx_m = r dt and dr = dt . x."""
    kernels, stream = cuda_kernels(f.t)
    for m, x in enumerate(f.inputs):
        kernels.fusion_input_gradient(
            dt[:, f.part(m)].data_ptr(), f.total, native.dtype_code(f.dtype), x.data_ptr(), x.stride(0), x.shape[1],
            _scale(f.scale, m), f.count, first, count, dx[m].data_ptr(), _scale(dr, m), stream,
        )  # fmt: skip


def multiply(f: Operands, a: Tensor, b: Tensor, out: Tensor, add: bool) -> None:
    """Multiply into `out`, or add to it, float32."""
    if add:
        add_wide_product(a, b, out)
    else:
        wide_product(a, b, out)


def _packed(f: Operands) -> tuple[int, int, int, list[int], int, bool]:
    """The packed operands as kernels take them."""
    pointers = f.t.data_ptr(), f.w.data_ptr(), f.constants.data_ptr()
    return *pointers, f.starts, native.dtype_code(f.compute), f.precision == "ieee"


def _scale(scale: Tensor | None, m: int) -> int:
    """Address of the first row's number for a modality."""
    return 0 if scale is None else scale[:, m].data_ptr()
