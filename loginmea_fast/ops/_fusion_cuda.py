"""Launches of low-rank fusion in CUDA C++, tensor-core tiles up to dP, and cuBLAS for the products that follow it.

Names and arguments are those of the Triton module.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from loginmea_fast.kernels._operands import Operands
from loginmea_fast.ops._cuda_launch import launch
from loginmea_fast.ops._wide_products import add_wide_product, wide_product

__all__ = ["forward", "input_gradients", "multiply", "pack_rows", "projection_gradient", "unsupported"]

MOST_MODALITIES = 6  # kMostParts in csrc/cuda/tile.cuh


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
    for m, x in enumerate(f.inputs):
        launch(
            "fusion_pack_rows",
            f.t,
            x,
            _scale(f.scale, m),
            first,
            count,
            f.t[:, f.part(m)],
            f.precision == "tf32",
        )


def forward(f: Operands, bias: Tensor, y: Tensor, products: Tensor | None, first: int, count: int) -> None:
    """Fill rows [first, first + count) of y and, unless None, of products."""
    launch("fusion_forward", f.t, *_packed(f), bias.view(-1), _rows(products), y, first, count, f.rank)


def projection_gradient(
    f: Operands, grad: Tensor, products: Tensor | None, dp: Tensor, first: int, count: int
) -> None:
    """Fill dp [M, block, columns] for rows [first, first + count), and with zeros up to a whole tile."""
    what = grad, _rows(products), _rows(dp)
    launch("fusion_projection_gradient", f.t, *_packed(f), *what, first, count, f.rank)


def input_gradients(
    f: Operands, dt: Tensor, dx: Sequence[Tensor], dr: Tensor | None, first: int, count: int
) -> None:
    """Fill rows [first, first + count) of dx_m = r dt and dr = dt . x."""
    for m, x in enumerate(f.inputs):
        where = x, _scale(f.scale, m), first, count, dx[m], _scale(dr, m)
        launch("fusion_input_gradient", f.t, dt[:, f.part(m)], *where)


def multiply(f: Operands, a: Tensor, b: Tensor, out: Tensor, add: bool) -> None:
    """Multiply into `out`, or add to it, float32."""
    if add:
        add_wide_product(a, b, out)
    else:
        wide_product(a, b, out)


def _packed(f: Operands) -> tuple[Tensor, Tensor, Tensor, list[int], bool]:
    """The packed operands as kernels take them."""
    return f.t, f.w, f.constants, f.starts, f.precision == "ieee"


def _rows(table: Tensor | None) -> Tensor | None:
    """Everything but the last dimension as one."""
    return None if table is None else table.view(-1, table.shape[-1])


def _scale(scale: Tensor | None, m: int) -> Tensor | None:
    """Each row's number for a modality."""
    return None if scale is None else scale[:, m]
