"""Low-rank fusion in Triton: products with the factors and the product over modalities in one kernel.

Operands are packed (`_operands.py`), so that the inner loops load whole, aligned tiles and need no mask: k is a range
of rows of w. A tile of P_mk is born in registers with its constant, row 0 of the factor, multiplied into the product
over m, and the product into the sum over k; only y is written. Backward, a block of rows at a time, one kernel computes
P_mk again and writes dP, which fits in L2; two products turn it into dt and dW.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import triton
import triton.language as tl
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
    ("matmul", "ieee"): Tile(64, 64, 16, 8, 2),
    ("matmul", "tf32"): Tile(128, 128, 32, 8, 3),
    ("matmul", "bfloat16"): Tile(128, 128, 64, 8, 3),
}


@triton.jit
def _pack_rows(
    inputs, strides, scale, t, first, rows,
    WIDTHS: tl.constexpr, STARTS: tl.constexpr, TOTAL: tl.constexpr, M: tl.constexpr, SCALED: tl.constexpr,
    BR: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    """Rows t = r x of one block, zero where there is no row and no column."""
    r = tl.program_id(0).to(tl.int64) * BR + tl.arange(0, BR)
    row = first + r
    for m in tl.static_range(M):
        factor = tl.zeros([BR], tl.float32) + 1.0
        if SCALED:
            factor = tl.load(scale + row * M + m, mask=row < rows, other=0.0)
        for start in range(0, STARTS[m + 1] - STARTS[m], BD):
            j = start + tl.arange(0, BD)
            mask = (row < rows)[:, None] & (j < WIDTHS[m])[None, :]
            x = tl.load(inputs[m] + row[:, None] * strides[m] + j[None, :], mask=mask, other=0.0)  # [BR, BD]
            tl.store(t + r[:, None] * TOTAL + STARTS[m] + j[None, :], x.to(tl.float32) * factor[:, None])


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
    im = tl.program_id(0) * BM + tl.arange(0, BM)  # within the block, whose buffers 32 bits can address
    j = tl.program_id(1) * BN + tl.arange(0, BN)
    row = first + im.to(tl.int64)
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
    im = tl.program_id(0) * BM + tl.arange(0, BM)
    j = tl.program_id(1) * BN + tl.arange(0, BN)
    k = tl.program_id(2)
    jn = k * PADDED + j
    row = first + im.to(tl.int64)
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
def _matmul(
    a, b, c, m, n, k, a_row, a_inner, b_inner, b_column, c_row,
    ADD: tl.constexpr, PRECISION: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """Product c (+)= a b; BK divides k."""
    im = tl.program_id(0).to(tl.int64) * BM + tl.arange(0, BM)
    jn = tl.program_id(1).to(tl.int64) * BN + tl.arange(0, BN)
    total = tl.zeros([BM, BN], tl.float32)
    for start in range(0, k, BK):
        kk = start + tl.arange(0, BK).to(tl.int64)
        at = tl.load(
            a + im[:, None] * a_row + kk[None, :] * a_inner, mask=(im < m)[:, None], other=0.0
        )  # [BM, BK]
        bt = tl.load(b + kk[:, None] * b_inner + jn[None, :] * b_column, mask=(jn < n)[None, :], other=0.0)
        total = tl.dot(at, bt, total, input_precision=PRECISION)
    where = c + im[:, None] * c_row + jn[None, :]
    mask = (im < m)[:, None] & (jn < n)[None, :]
    if ADD:
        total += tl.load(where, mask=mask, other=0.0)
    tl.store(where, total, mask=mask)


@triton.jit
def _input_gradient(
    dt, inputs, strides, scale, outputs, scale_gradient, first, rows,
    WIDTHS: tl.constexpr, STARTS: tl.constexpr, TOTAL: tl.constexpr, M: tl.constexpr, SCALED: tl.constexpr,
    BR: tl.constexpr, BD: tl.constexpr,
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
                x = tl.load(inputs[m] + row[:, None] * strides[m] + j[None, :], mask=mask, other=0.0)
                inner += d * x.to(tl.float32)
        if SCALED:
            tl.store(scale_gradient + row * M + m, tl.sum(inner, axis=1), mask=row < rows)


def unsupported(dtype: torch.dtype) -> str | None:
    """Why these kernels cannot take a dtype, or None."""
    if dtype == torch.float64:
        return "its products are float32 or bfloat16, not float64"
    if tuple(int(part) for part in triton.__version__.split(".")[:2]) < (3, 3):
        return f"needs Triton 3.3, which passes tuples of tensors to kernels; this is {triton.__version__}"
    return None


def pack_rows(f: Operands, first: int, count: int) -> None:
    """Fill t with rows [first, first + count) of the inputs, and zeros."""
    _pack_rows[(triton.cdiv(f.block, 16),)](
        tuple(f.inputs), tuple(x.stride(0) for x in f.inputs), f.scale, f.t, first, first + count,
        TOTAL=f.total, **_modalities(f), BR=16, BD=PAD,
    )  # fmt: skip


def forward(f: Operands, bias: Tensor, y: Tensor, products: Tensor | None, first: int, count: int) -> None:
    """Fill rows [first, first + count) of y and, unless None, of products."""
    tile = TILES["forward", f.precision]
    _forward[(triton.cdiv(count, tile.BM), f.padded // tile.BN)](
        f.t, f.w, f.constants, bias, y, products, first, f.rows, f.rank, **_sizes(f, tile), KEEP=products is not None
    )  # fmt: skip


def projection_gradient(
    f: Operands, grad: Tensor, products: Tensor | None, dp: Tensor, first: int, count: int
) -> None:
    """Fill dp [M, block, columns] for rows [first, first + count), and with zeros up to BLOCK_ROWS."""
    tile = TILES["projection_gradient", f.precision]
    _projection_gradient[(round_up(count, BLOCK_ROWS) // tile.BM, f.padded // tile.BN, f.rank)](
        grad, f.t, f.w, f.constants, products, dp, first, f.rows, f.block, **_sizes(f, tile),
        KEPT=products is not None,
    )  # fmt: skip


def input_gradients(
    f: Operands, dt: Tensor, dx: Sequence[Tensor], dr: Tensor | None, first: int, count: int
) -> None:
    """Fill rows [first, first + count) of dx_m = r dt and dr = dt . x."""
    _input_gradient[(triton.cdiv(count, 16),)](
        dt, tuple(f.inputs), tuple(x.stride(0) for x in f.inputs), f.scale, tuple(dx), dr, first, f.rows,
        TOTAL=f.total, **_modalities(f), BR=16, BD=PAD,
    )  # fmt: skip


def multiply(f: Operands, a: Tensor, b: Tensor, out: Tensor, add: bool) -> None:
    """Multiply into `out`, or add to it, float32; a and b may be transposed views, whose depth PAD divides."""
    tile = TILES["matmul", f.precision]
    m, n = out.shape
    _matmul[(triton.cdiv(m, tile.BM), triton.cdiv(n, tile.BN))](
        a, b, out, m, n, a.shape[1], *a.stride(), *b.stride(), out.stride(0),
        ADD=add, PRECISION=_dot(f), BM=tile.BM, BN=tile.BN, BK=tile.BK,
        num_warps=tile.warps, num_stages=tile.stages,
    )  # fmt: skip


def _dot(f: Operands) -> str:
    """What `tl.dot` may do with float32 operands."""
    return "ieee" if f.precision == "ieee" else "tf32"


def _modalities(f: Operands) -> dict[str, object]:
    widths = tuple(x.shape[1] for x in f.inputs)
    return {"WIDTHS": widths, "STARTS": tuple(f.starts), "M": f.count, "SCALED": f.scale is not None}


def _sizes(f: Operands, tile: Tile) -> dict[str, object]:
    return {
        "WIDTH": f.width, "PADDED": f.padded, "STARTS": tuple(f.starts), "TOTAL": f.total, "KN": f.columns,
        "M": f.count, "PRECISION": _dot(f), "BM": tile.BM, "BN": tile.BN, "BK": tile.BK,
        "num_warps": tile.warps, "num_stages": tile.stages,
    }  # fmt: skip
