"""Launches of low-rank fusion in CUDA C++, tensor-core tiles up to dP, and cuBLAS for the products that follow it.

Names and arguments are those of the Triton module. With LOGINMEA_HOPPER=1 tiles are of Hopper's warpgroups where those
serve: on compute capability 9.0, for products of TF32 and of bfloat16. No card has shown yet which tiles are faster.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import torch
from torch import Tensor

from loginmea_fast.kernels._operands import Operands
from loginmea_fast.ops._cuda_launch import launch
from loginmea_fast.ops._dispatch import capability, cuda_kernels
from loginmea_fast.ops._wide_products import wide_products

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
    what = bias.view(-1), _rows(products), y, first, count, f.rank
    if _by_groups(f):
        launch("fusion_group_forward", f.t, *_packed(f), *what)
    else:
        launch("fusion_forward", f.t, *_packed(f), f.precision == "ieee", *what)


def projection_gradient(
    f: Operands, grad: Tensor, products: Tensor | None, dp: Tensor, first: int, count: int
) -> None:
    """Fill dp [M, block, columns] for rows [first, first + count), and with zeros up to a whole tile."""
    where = _rows(dp), first, count, f.rank
    if products is None and f.count > 1 and _by_groups(f):
        launch("fusion_group_projection_gradient", f.t, *_packed(f), grad, *where)
    else:
        exact = f.precision == "ieee"
        launch("fusion_projection_gradient", f.t, *_packed(f), exact, grad, _rows(products), *where)


def input_gradients(
    f: Operands, dt: Tensor, dx: Sequence[Tensor], dr: Tensor | None, first: int, count: int
) -> None:
    """Fill rows [first, first + count) of dx_m = r dt and dr = dt . x."""
    for m, x in enumerate(f.inputs):
        where = x, _scale(f.scale, m), first, count, dx[m], _scale(dr, m)
        launch("fusion_input_gradient", f.t, dt[:, f.part(m)], *where)


def multiply(f: Operands, a: Tensor, b: Tensor, out: Tensor, add: bool) -> None:
    """Multiply matrix by matrix into `out` [G, m, n], or add to it, float32."""
    wide_products(a, b, out, add)


def _by_groups(f: Operands) -> bool:
    """Whether warpgroups are wanted and serve."""
    return (
        os.environ.get("LOGINMEA_HOPPER") == "1"
        and f.precision != "ieee"
        and f.total > 0
        and f.columns > 0
        and capability(f.t) == (9, 0)
        and hasattr(cuda_kernels(f.t)[0], "fusion_group_forward")
    )


def _packed(f: Operands) -> tuple[Tensor, Tensor, Tensor, list[int]]:
    """The packed operands as kernels take them."""
    return f.t, f.w, f.constants, f.starts


def _rows(table: Tensor | None) -> Tensor | None:
    """Everything but the last dimension as one."""
    return None if table is None else table.view(-1, table.shape[-1])


def _scale(scale: Tensor | None, m: int) -> Tensor | None:
    """Each row's number for a modality."""
    return None if scale is None else scale[:, m]
