"""Low-rank fusion in Triton: products with the factors and the product over modalities in one kernel.

Operands are packed first, so that the inner loops load whole, aligned tiles and need no mask: t = r x by blocks of
rows, [R, sum of padded d_m], and the factors, o_k folded into the first, [sum of padded d_m, K padded d], so that k is
a range of columns. A tile of P_mk is born in registers with its constant, row 0 of the factor, multiplied into the
product over m, and the product into the sum over k; only y is written.

Backward, a block of rows at a time: one kernel computes P_mk again and writes dP [M, R, K padded d], which fits in L2;
two products turn it into dt and dW. Blocks follow each other in order and each sum has one owner, so results repeat.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

__all__ = ["low_rank_fusion_backward", "low_rank_fusion_forward", "unsupported"]

DP_BYTES = 48 << 20  # of dP; an H100 has 50 MiB of L2, an A100 40
PAD = 64  # of depths and widths: a BK divides it, and the BN of a kernel without masks; BK divides every BM


class Tile(NamedTuple):
    """A program's tile, its warps and the stages of its loads."""

    BM: int
    BN: int
    BK: int
    warps: int
    stages: int


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
BLOCK_ROWS = 128  # every BM divides it


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
    START: tl.constexpr, END: tl.constexpr, TOTAL: tl.constexpr, KN: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """One tile of P = [1 | t] W of one modality, [BM, BN]."""
    p = tl.zeros([BM, BN], tl.float32) + tl.load(constants + jn)[None, :]
    for start in range(START, END, BK):
        i = start + tl.arange(0, BK)
        a = tl.load(t + im[:, None] * TOTAL + i[None, :])  # [BM, BK]
        b = tl.load(w + i[:, None] * KN + jn[None, :])  # [BK, BN]
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
                t, w, constants + m * KN, im, k * PADDED + j, STARTS[m], STARTS[m + 1], TOTAL, KN, BM, BN, BK, PRECISION
            )  # fmt: skip
            if KEEP:
                where = products + ((k * M + m) * rows.to(tl.int64) + row[:, None]) * WIDTH + j[None, :]
                tl.store(where, p, mask=mask)
            product *= p
        total += product
    tl.store(y + row[:, None] * WIDTH + j[None, :], total, mask=mask)


@triton.jit(do_not_specialize=["rows"])
def _projection_gradient(
    g, t, w, constants, products, dp, sums, first, rows, block,
    WIDTH: tl.constexpr, PADDED: tl.constexpr, STARTS: tl.constexpr, TOTAL: tl.constexpr, KN: tl.constexpr,
    M: tl.constexpr, KEPT: tl.constexpr, PRECISION: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """Rows dP_mk = g prod_{n != m} P_nk of one block and one k, and column sums, a row of them a tile."""
    tile = tl.program_id(0)
    im = tile * BM + tl.arange(0, BM)
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
                    t, w, constants + m * KN, im, jn, STARTS[m], STARTS[m + 1], TOTAL, KN, BM, BN, BK, PRECISION
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
        tl.store(sums + (tile * M + m) * KN + jn, tl.sum(gradient, axis=0))


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


class _Operands:
    """Sizes, and the factors packed for this call."""

    def __init__(
        self,
        inputs: Sequence[Tensor],
        factors: Sequence[Tensor],
        rank_weights: Tensor,
        row_scale: Tensor | None,
        precision: str,
    ) -> None:
        self.inputs = tuple(x if x.stride(1) == 1 or x.shape[1] == 1 else x.contiguous() for x in inputs)
        self.strides = tuple(x.stride(0) for x in self.inputs)
        self.widths = tuple(x.shape[1] for x in inputs)
        self.scale = None if row_scale is None else row_scale.float().contiguous()
        self.precision = precision
        self.rows, self.count = inputs[0].shape[0], len(inputs)
        self.rank, _, self.width = factors[0].shape
        self.padded = triton.cdiv(self.width, PAD) * PAD
        self.columns = self.rank * self.padded
        starts = [0]
        for width in self.widths:
            starts.append(starts[-1] + triton.cdiv(width, PAD) * PAD)
        self.starts, self.total = tuple(starts), starts[-1]
        self.dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
        w = inputs[0].new_zeros(self.total, self.rank, self.padded, dtype=self.dtype)
        constants = inputs[0].new_zeros(self.count, self.rank, self.padded, dtype=torch.float32)
        for m, factor in enumerate(factors):
            wide = factor.float() * rank_weights.float().T[:, :, None] if m == 0 else factor
            w[starts[m] : starts[m] + self.widths[m], :, : self.width] = wide[:, 1:].transpose(0, 1)
            constants[m, :, : self.width] = wide[:, 0]
        self.w, self.constants = w.view(self.total, self.columns), constants.view(self.count, self.columns)

    def tile(self, kernel: str) -> Tile:
        return TILES[kernel, self.precision]

    @property
    def dot(self) -> str:
        """What `tl.dot` may do with float32 operands."""
        return "ieee" if self.precision == "ieee" else "tf32"

    def block_rows(self) -> int:
        """Rows of which dP takes DP_BYTES, in whole tiles."""
        row = self.count * self.columns * self.w.element_size()
        most = max(DP_BYTES // row, BLOCK_ROWS)
        return triton.cdiv(min(most, max(self.rows, 1)), BLOCK_ROWS) * BLOCK_ROWS

    def pack_rows(self, t: Tensor, first: int) -> None:
        _pack_rows[(triton.cdiv(t.shape[0], 16),)](
            self.inputs, self.strides, self.scale, t, first, self.rows,
            WIDTHS=self.widths, STARTS=self.starts, TOTAL=self.total, M=self.count, SCALED=self.scale is not None,
            BR=16, BD=PAD,
        )  # fmt: skip

    def sizes(self) -> dict[str, object]:
        return {
            "WIDTH": self.width, "PADDED": self.padded, "STARTS": self.starts, "TOTAL": self.total,
            "KN": self.columns, "M": self.count, "PRECISION": self.dot,
        }  # fmt: skip

    def matmul(self, a: Tensor, b: Tensor, c: Tensor, add: bool) -> None:
        """Product c (+)= a b; a and b may be transposed views."""
        tile = self.tile("matmul")
        m, n = c.shape
        _matmul[(triton.cdiv(m, tile.BM), triton.cdiv(n, tile.BN))](
            a, b, c, m, n, a.shape[1], *a.stride(), *b.stride(), c.stride(0),
            ADD=add, PRECISION=self.dot, BM=tile.BM, BN=tile.BN, BK=tile.BK,
            num_warps=tile.warps, num_stages=tile.stages,
        )  # fmt: skip


def unsupported(dtype: torch.dtype) -> str | None:
    """Why these kernels cannot take a dtype, or None."""
    if dtype == torch.float64:
        return "its products are float32 or bfloat16, not float64"
    if tuple(int(part) for part in triton.__version__.split(".")[:2]) < (3, 3):
        return f"needs Triton 3.3, which passes tuples of tensors to kernels; this is {triton.__version__}"
    return None


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
    """Fill y [B, d] and, unless None, products [K, M, B, d] with P_mk, o_k folded into the first modality's.

    Arguments are those of `loginmea_fast.ops.low_rank_fusion`; `precision` is "ieee", "tf32" or "bfloat16".
    """
    f = _Operands(inputs, factors, rank_weights, row_scale, precision)
    if f.rows == 0:
        return
    tile, bias = f.tile("forward"), bias.float().contiguous()
    t = f.w.new_empty(f.block_rows(), f.total)
    for first in range(0, f.rows, len(t)):
        f.pack_rows(t, first)
        used = triton.cdiv(min(len(t), f.rows - first), tile.BM)
        _forward[(used, f.padded // tile.BN)](
            t, f.w, f.constants, bias, y, products, first, f.rows, f.rank, **f.sizes(), KEEP=products is not None,
            BM=tile.BM, BN=tile.BN, BK=tile.BK, num_warps=tile.warps, num_stages=tile.stages,
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
    tile, block = f.tile("projection_gradient"), f.block_rows()
    t, dp = f.w.new_empty(block, f.total), f.w.new_empty(f.count, block, f.columns)
    dt = grad.new_empty(block, f.total, dtype=torch.float32)
    sums = grad.new_empty(block // tile.BM, f.count, f.columns, dtype=torch.float32)
    dw = grad.new_zeros(f.total, f.columns, dtype=torch.float32)
    constants = torch.zeros_like(f.constants)
    for first in range(0, f.rows, block):
        f.pack_rows(t, first)
        count = min(block, f.rows - first)
        used = triton.cdiv(count, tile.BM)
        _projection_gradient[(used, f.padded // tile.BN, f.rank)](
            grad, t, f.w, f.constants, products, dp, sums, first, f.rows, block, **f.sizes(),
            KEPT=products is not None, BM=tile.BM, BN=tile.BN, BK=tile.BK,
            num_warps=tile.warps, num_stages=tile.stages,
        )  # fmt: skip
        valid = used * tile.BM
        for m in range(f.count):
            part = slice(f.starts[m], f.starts[m + 1])
            if inputs_needed:
                f.matmul(dp[m, :valid], f.w[part].T, dt[:valid, part], add=False)
            if factors_needed:
                f.matmul(t[:valid, part].T, dp[m, :valid], dw[part], add=True)
        if factors_needed:
            constants += sums[:used].sum(dim=0)
        if inputs_needed:
            _input_gradient[(triton.cdiv(count, 16),)](
                dt, f.inputs, f.strides, f.scale, tuple(dx), dr, first, f.rows,
                WIDTHS=f.widths, STARTS=f.starts, TOTAL=f.total, M=f.count, SCALED=f.scale is not None,
                BR=16, BD=PAD,
            )  # fmt: skip
    if not factors_needed:
        return
    for m, (factor, gradient) in enumerate(zip(factors, dfactors, strict=True)):
        wide = torch.empty_like(factor, dtype=torch.float32, memory_format=torch.contiguous_format)
        rows = dw[f.starts[m] : f.starts[m] + f.widths[m]].view(-1, f.rank, f.padded)
        wide[:, 1:] = rows[:, :, : f.width].transpose(0, 1)
        wide[:, 0] = constants[m].view(f.rank, f.padded)[:, : f.width]
        if m == 0:
            do.copy_((wide * factor).sum(dim=(1, 2))[None])
            wide *= rank_weights.float().T[:, :, None]
        gradient.copy_(wide)
