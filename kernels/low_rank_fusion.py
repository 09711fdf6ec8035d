"""Low-rank fusion in Triton: products with the factors and the product over modalities in one kernel.

Operands are packed (`_operands.py`), so that the inner loops load whole, aligned tiles and need no mask: k is a range
of rows of w. A tile of P_mk is born in registers with its constant, row 0 of the factor, multiplied into the product
over m, and the product into the sum over k; only y is written. Backward, a block of rows at a time, one kernel computes
P_mk again and writes dP; two products, each of all modalities at once, turn it into dt and dW.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from loginmea_fast.kernels import _product
from loginmea_fast.kernels._grid import grid, without_tuples
from loginmea_fast.kernels._operands import BLOCK_ROWS, PAD, Operands, round_up
from torch import Tensor

__all__ = ["forward", "input_gradients", "multiply", "pack_rows", "projection_gradient", "unsupported"]


class Tile(NamedTuple):
    """A program's tile, its warps and the stages of its loads."""

    BM: int
    BN: int
    BK: int
    warps: int
    stages: int


# BK divides PAD and every BM, BN divides PAD where a kernel has no mask, BM divides BLOCK_ROWS.
# What each kernel is launched with, by the precision of its products: chosen for registers and shared memory by the
# compiler's report, to be chosen by the clock with bench/gpu.
TILES: dict[tuple[str, str], Tile] = {
    ("forward", "ieee"): Tile(64, 64, 16, 8, 2),
    ("forward", "tf32"): Tile(128, 64, 32, 8, 3),
    ("forward", "bfloat16"): Tile(128, 64, 64, 8, 3),
    ("projection_gradient", "ieee"): Tile(64, 64, 16, 8, 2),
    ("projection_gradient", "tf32"): Tile(128, 64, 32, 8, 3),
    ("projection_gradient", "bfloat16"): Tile(128, 64, 64, 8, 3),
}


@triton.jit
def _pack_rows(
    inputs, scale, t, first, rows,
    STRIDES: tl.constexpr, WIDTHS: tl.constexpr, STARTS: tl.constexpr, TOTAL: tl.constexpr, M: tl.constexpr,
    SCALED: tl.constexpr, ROUND: tl.constexpr, BR: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    """Rows t = r x of one block, zero where there is no row and no column; ROUND: in the digits of TF32."""
    r = tl.program_id(0).to(tl.int64) * BR + tl.arange(0, BR)
    row = first + r
    for m in tl.static_range(M):
        factor = tl.zeros([BR], tl.float32) + 1.0
        if SCALED:
            factor = tl.load(scale + row * M + m, mask=row < rows, other=0.0)
        for start in range(0, STARTS[m + 1] - STARTS[m], BD):
            j = start + tl.arange(0, BD)
            mask = (row < rows)[:, None] & (j < WIDTHS[m])[None, :]
            x = tl.load(inputs[m] + row[:, None] * STRIDES[m] + j[None, :], mask=mask, other=0.0)  # [BR, BD]
            x = x.to(tl.float32) * factor[:, None]
            if ROUND:
                bits = x.to(tl.int32, bitcast=True)
                bits = (bits + 0xFFF + ((bits >> 13) & 1)) & ~0x1FFF  # to nearest, ties to even
                x = tl.where(x == x, bits.to(tl.float32, bitcast=True), x)  # a NaN's bits could carry over
            tl.store(t + r[:, None] * TOTAL + STARTS[m] + j[None, :], x)


@triton.jit
def _projection(
    t, w, constants, im, jn,
    START: tl.constexpr, END: tl.constexpr, TOTAL: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """One tile of P = [1 | t] W of one modality, [BM, BN]."""
    p = tl.zeros([BM, BN], tl.float32) + tl.load(constants + jn)[None, :]
    for start in range(START, END, BK):
        i = start + tl.arange(0, BK)
        a = tl.load(t + im[:, None] * TOTAL + i[None, :])  # [BM, BK]
        b = tl.load(w + jn[None, :] * TOTAL + i[:, None])  # [BK, BN]
        p = tl.dot(a, b, p, input_precision=PRECISION)
    return p


@triton.jit(do_not_specialize=["rows"])
def _forward(
    t, w, constants, bias, y, products, first, rows, rank,
    WIDTH: tl.constexpr, PADDED: tl.constexpr, STARTS: tl.constexpr, TOTAL: tl.constexpr, KN: tl.constexpr,
    M: tl.constexpr, KEEP: tl.constexpr, PRECISION: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """Rows y = sum_k prod_m P_mk + b of one block."""
    im = tl.program_id(0).to(tl.int64) * BM + tl.arange(0, BM)  # within the block
    j = tl.program_id(1).to(tl.int64) * BN + tl.arange(0, BN)
    row = first + im
    mask = (row < rows)[:, None] & (j < WIDTH)[None, :]
    total = tl.zeros([BM, BN], tl.float32) + tl.load(bias + j, mask=j < WIDTH, other=0.0)[None, :]
    for k in range(0, rank):
        product = tl.zeros([BM, BN], tl.float32) + 1.0
        for m in tl.static_range(M):
            p = _projection(
                t, w, constants + m * KN, im, k * PADDED + j, STARTS[m], STARTS[m + 1], TOTAL, BM, BN, BK, PRECISION
            )  # fmt: skip
            if KEEP:
                where = products + ((k * M + m) * rows.to(tl.int64) + row[:, None]) * WIDTH + j[None, :]
                tl.store(where, p, mask=mask)
            product *= p
        total += product
    tl.store(y + row[:, None] * WIDTH + j[None, :], total, mask=mask)


@triton.jit(do_not_specialize=["rows"])
def _projection_gradient(
    g, t, w, constants, products, dp, first, rows, block,
    WIDTH: tl.constexpr, PADDED: tl.constexpr, STARTS: tl.constexpr, TOTAL: tl.constexpr, KN: tl.constexpr,
    M: tl.constexpr, KEPT: tl.constexpr, PRECISION: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """Rows dP_mk = g prod_{n != m} P_nk of one block and one k."""
    im = tl.program_id(0).to(tl.int64) * BM + tl.arange(0, BM)
    j = tl.program_id(1).to(tl.int64) * BN + tl.arange(0, BN)
    k = tl.program_id(2)
    jn = k * PADDED + j
    row = first + im
    mask = (row < rows)[:, None] & (j < WIDTH)[None, :]
    ps = ()
    for m in tl.static_range(M):
        if KEPT:
            where = products + ((k * M + m) * rows.to(tl.int64) + row[:, None]) * WIDTH + j[None, :]
            ps = ps + (tl.load(where, mask=mask, other=0.0).to(tl.float32),)  # noqa: RUF005 - Triton has no *ps
        elif M > 1:
            ps = ps + (  # noqa: RUF005
                _projection(
                    t, w, constants + m * KN, im, jn, STARTS[m], STARTS[m + 1], TOTAL, BM, BN, BK, PRECISION
                ),
            )  # fmt: skip
    upstream = tl.load(g + row[:, None] * WIDTH + j[None, :], mask=mask, other=0.0).to(tl.float32)
    for m in tl.static_range(M):
        gradient = upstream
        for n in tl.static_range(M):
            if n != m:
                gradient *= ps[n]
        # Rows and columns of the padding: a factor may be NaN, what it pads must still be 0.
        gradient = tl.where(mask, gradient, 0.0)
        tl.store(dp + (m * block + im[:, None]) * KN + jn[None, :], gradient)


@triton.jit
def _input_gradient(
    dt, inputs, scale, outputs, scale_gradient, first, rows,
    STRIDES: tl.constexpr, WIDTHS: tl.constexpr, STARTS: tl.constexpr, TOTAL: tl.constexpr, M: tl.constexpr,
    SCALED: tl.constexpr, BR: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    """Rows dx = r dt and sums dr = dt . x of one block."""
    r = tl.program_id(0).to(tl.int64) * BR + tl.arange(0, BR)
    row = first + r
    for m in tl.static_range(M):
        factor = tl.zeros([BR], tl.float32) + 1.0
        if SCALED:
            factor = tl.load(scale + row * M + m, mask=row < rows, other=0.0)
        inner = tl.zeros([BR, BD], tl.float32)
        for start in range(0, WIDTHS[m], BD):
            j = start + tl.arange(0, BD)
            mask = (row < rows)[:, None] & (j < WIDTHS[m])[None, :]
            d = tl.load(dt + r[:, None] * TOTAL + STARTS[m] + j[None, :], mask=mask, other=0.0)  # [BR, BD]
            tl.store(outputs[m] + row[:, None] * WIDTHS[m] + j[None, :], d * factor[:, None], mask=mask)
            if SCALED:
                x = tl.load(inputs[m] + row[:, None] * STRIDES[m] + j[None, :], mask=mask, other=0.0)
                inner += d * x.to(tl.float32)
        if SCALED:
            tl.store(scale_gradient + row * M + m, tl.sum(inner, axis=1), mask=row < rows)


def unsupported(dtype: torch.dtype) -> str | None:
    """Why these kernels cannot take a dtype, or None."""
    if dtype == torch.float64:
        return "its products are float32 or bfloat16, not float64"
    return without_tuples()


def pack_rows(f: Operands, first: int, count: int) -> None:
    """Fill t with rows [first, first + count) of the inputs, and zeros."""
    _pack_rows[grid(triton.cdiv(f.block, 16))](
        tuple(f.inputs), f.scale, f.t, first, first + count,
        TOTAL=f.total, **_modalities(f), ROUND=f.precision == "tf32", BR=16, BD=PAD,
    )  # fmt: skip


def forward(f: Operands, bias: Tensor, y: Tensor, products: Tensor | None, first: int, count: int) -> None:
    """Fill rows [first, first + count) of y and, unless None, of products."""
    tile = TILES["forward", f.precision]
    _forward[grid(triton.cdiv(count, tile.BM), f.padded // tile.BN)](
        f.t, f.w, f.constants, bias, y, products, first, f.rows, f.rank, **_sizes(f, tile), KEEP=products is not None
    )  # fmt: skip


def projection_gradient(
    f: Operands, grad: Tensor, products: Tensor | None, dp: Tensor, first: int, count: int
) -> None:
    """Fill dp [M, block, columns] for rows [first, first + count), and with zeros up to BLOCK_ROWS."""
    tile = TILES["projection_gradient", f.precision]
    _projection_gradient[grid(round_up(count, BLOCK_ROWS) // tile.BM, f.padded // tile.BN, f.rank)](
        grad, f.t, f.w, f.constants, products, dp, first, f.rows, f.block, **_sizes(f, tile),
        KEPT=products is not None,
    )  # fmt: skip


def input_gradients(
    f: Operands, dt: Tensor, dx: Sequence[Tensor], dr: Tensor | None, first: int, count: int
) -> None:
    """Fill rows [first, first + count) of dx_m = r dt and dr = dt . x."""
    _input_gradient[grid(triton.cdiv(count, 16))](
        dt, tuple(f.inputs), f.scale, tuple(dx), dr, first, f.rows,
        TOTAL=f.total, **_modalities(f), BR=16, BD=PAD,
    )  # fmt: skip


def multiply(f: Operands, a: Tensor, b: Tensor, out: Tensor, add: bool) -> None:
    """Multiply matrix by matrix into `out` [G, m, n], or add to it, float32; a and b may be transposed views."""
    _product.multiply(a, b, out, f.precision, add=add)


def _modalities(f: Operands) -> dict[str, object]:
    """Strides are known when a kernel is compiled: it then loads four of 300 columns at once, and else one."""
    strides, widths = (
        tuple(numbers) for numbers in zip(*((x.stride(0), x.shape[1]) for x in f.inputs), strict=True)
    )
    return {
        "STRIDES": strides,
        "WIDTHS": widths,
        "STARTS": tuple(f.starts),
        "M": f.count,
        "SCALED": f.scale is not None,
    }


def _sizes(f: Operands, tile: Tile) -> dict[str, object]:
    return {
        "WIDTH": f.width, "PADDED": f.padded, "STARTS": tuple(f.starts), "TOTAL": f.total, "KN": f.columns,
        "M": f.count, "PRECISION": _product.of_float32(f.precision), "BM": tile.BM, "BN": tile.BN, "BK": tile.BK,
        "num_warps": tile.warps, "num_stages": tile.stages,
    }  # fmt: skip
