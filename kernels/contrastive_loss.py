"""Contrastive loss in Triton: a panel of logits at a time, its softmax, and the products that make the gradients.

A row of the joint embedding (2,100 wide) is too wide for a flash-attention tile to keep its gradient in registers, so
the logits of a panel of left rows are written once, stay in L2 where it holds them, and become the weights w of the
reference in place. Products read rows as they are; 1 / length is applied to logits and weights.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

__all__ = ["contrastive_loss"]

PANEL_BYTES = 64 << 20  # of logits; an H100 has 50 MiB of L2, an A100 40
SHORTEST_ROW = 1e-12


@triton.jit
def _reciprocal_lengths(rows, reciprocal, row_stride, column_stride, width, shortest, BD: tl.constexpr):
    """reciprocal_b = 1 / |row_b|, 0 for a row that has no direction."""
    row = tl.program_id(0).to(tl.int64)
    squares = tl.zeros([BD], tl.float32)
    for start in range(0, width, BD):
        d = start + tl.arange(0, BD).to(tl.int64)
        x = tl.load(rows + row * row_stride + d * column_stride, mask=d < width, other=0.0).to(tl.float32)
        squares += x * x
    length = tl.sqrt(tl.sum(squares))
    tl.store(reciprocal + row, tl.where(length <= shortest, 0.0, 1.0 / length))


@triton.jit
def _product(
    a, b, c, inner_scale, row_scale, column_scale, scale, m, n, k,
    a_row, a_inner, b_inner, b_column, c_row,
    SCALE_INNER: tl.constexpr, SCALE_OUTER: tl.constexpr, ACCUMULATE: tl.constexpr, PRECISION: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    """c_mn (+)= scale sum_k (a_mk inner_k) b_kn row_m column_n; the operands meet in the dtype of b."""
    # Tiles go in groups of GROUP rows of tiles, so that neighbours in time share operands in L2.
    tiles_m, tiles_n = tl.cdiv(m, BM), tl.cdiv(n, BN)
    first = tl.program_id(0) // (GROUP * tiles_n) * GROUP
    rows = min(tiles_m - first, GROUP)
    within = tl.program_id(0) % (GROUP * tiles_n)
    im = (first + within % rows).to(tl.int64) * BM + tl.arange(0, BM)
    jn = (within // rows).to(tl.int64) * BN + tl.arange(0, BN)
    total = tl.zeros([BM, BN], tl.float32)
    for start in range(0, k, BK):
        kk = start + tl.arange(0, BK).to(tl.int64)
        a_mask, b_mask = (im < m)[:, None] & (kk < k)[None, :], (kk < k)[:, None] & (jn < n)[None, :]
        at = tl.load(a + im[:, None] * a_row + kk[None, :] * a_inner, mask=a_mask, other=0.0)  # [BM, BK]
        bt = tl.load(b + kk[:, None] * b_inner + jn[None, :] * b_column, mask=b_mask, other=0.0)  # [BK, BN]
        if SCALE_INNER:
            at *= tl.load(inner_scale + kk, mask=kk < k, other=0.0)[None, :]
        total = tl.dot(at.to(bt.dtype), bt, total, input_precision=PRECISION)
    total *= scale
    if SCALE_OUTER:
        total *= tl.load(row_scale + im, mask=im < m, other=0.0)[:, None]
        total *= tl.load(column_scale + jn, mask=jn < n, other=0.0)[None, :]
    where = c + im[:, None] * c_row + jn[None, :]
    mask = (im < m)[:, None] & (jn < n)[None, :]
    if ACCUMULATE:
        total += tl.load(where, mask=mask, other=0.0)
    tl.store(where, total, mask=mask)


@triton.jit
def _row_softmax(logits, lse, positive, first_row, columns, BN: tl.constexpr):
    """lse_b = log sum_j exp s_bj with a running maximum, and positive_b = s_bb."""
    row = tl.program_id(0).to(tl.int64)
    line = logits + row * columns
    largest = tl.full([BN], float("-inf"), tl.float32)
    total = tl.zeros([BN], tl.float32)
    for start in range(0, columns, BN):
        j = start + tl.arange(0, BN)
        s = tl.load(line + j, mask=j < columns, other=float("-inf"))
        higher = tl.maximum(largest, s)
        # A lane that has seen nothing yet has no maximum: its -inf - -inf must not become NaN.
        safe = tl.where(higher == float("-inf"), 0.0, higher)
        total = total * tl.exp(largest - safe) + tl.exp(s - safe)
        largest = higher
    top = tl.max(largest)
    own = first_row + row
    tl.store(lse + own, top + tl.log(tl.sum(total * tl.exp(largest - top))))
    tl.store(positive + own, tl.load(line + own))


@triton.jit
def _column_softmax(logits, largest, total, rows, batch, columns, BN: tl.constexpr):
    """Take a panel's rows into the running maximum and sum of each of the first `batch` columns."""
    j = tl.program_id(0).to(tl.int64) * BN + tl.arange(0, BN)
    high = tl.load(largest + j, mask=j < batch, other=0.0)
    summed = tl.load(total + j, mask=j < batch, other=0.0)
    for row in range(0, rows):
        s = tl.load(logits + row * columns + j, mask=j < batch, other=0.0)
        higher = tl.maximum(high, s)
        summed = summed * tl.exp(high - higher) + tl.exp(s - higher)
        high = higher
    tl.store(largest + j, high, mask=j < batch)
    tl.store(total + j, summed, mask=j < batch)


@triton.jit
def _weights(
    logits, row_lse, column_lse, first_row, batch, columns, factor, BOTH: tl.constexpr, BN: tl.constexpr
):
    """s_bj becomes w_bj = factor ( exp(s_bj - lse_b) - [b = j] ), both ways with the columns' softmax added."""
    row = tl.program_id(0).to(tl.int64)
    j = tl.program_id(1).to(tl.int64) * BN + tl.arange(0, BN)
    where = logits + row * columns + j
    own = first_row + row
    s = tl.load(where, mask=j < columns, other=0.0)
    w = tl.exp(s - tl.load(row_lse + own)) - tl.where(j == own, 1.0, 0.0)
    if BOTH:
        back = tl.exp(s - tl.load(column_lse + j, mask=j < batch, other=0.0)) - tl.where(j == own, 1.0, 0.0)
        w = 0.5 * (w + tl.where(j < batch, back, 0.0))
    tl.store(where, factor * w, mask=j < columns)


@triton.jit
def _through_length(gradient, rows, reciprocal, out, row_stride, column_stride, width, BD: tl.constexpr):
    """Out = ( g - (g . x^) x^ ) / |x|, the gradient to a row of which g is the gradient to its direction x^."""
    row = tl.program_id(0).to(tl.int64)
    inverse = tl.load(reciprocal + row)
    products = tl.zeros([BD], tl.float32)
    for start in range(0, width, BD):
        d = start + tl.arange(0, BD).to(tl.int64)
        x = tl.load(rows + row * row_stride + d * column_stride, mask=d < width, other=0.0).to(tl.float32)
        products += tl.load(gradient + row * width + d, mask=d < width, other=0.0) * (x * inverse)
    along = tl.sum(products)
    for start in range(0, width, BD):
        d = start + tl.arange(0, BD).to(tl.int64)
        x = tl.load(rows + row * row_stride + d * column_stride, mask=d < width, other=0.0).to(tl.float32)
        g = tl.load(gradient + row * width + d, mask=d < width, other=0.0)
        tl.store(out + row * width + d, (g - along * (x * inverse)) * inverse, mask=d < width)


def _precision() -> str:
    """What float32 products may round to, as torch.backends.cuda.matmul says for torch's own."""
    return "tf32" if torch.backends.cuda.matmul.allow_tf32 else "ieee"


def _multiply(a, b, c, inner=None, outer=None, scale=1.0, accumulate=False):
    """C (+)= scale (a inner) b with outer = (row scale, column scale); a [m, k] and b [k, n] of any strides."""
    (m, k), n = a.shape, b.shape[1]
    bm, bn, bk = (128, 128, 64) if b.dtype == torch.bfloat16 else (128, 128, 32)
    row_scale, column_scale = outer if outer is not None else (c, c)
    _product[(triton.cdiv(m, bm) * triton.cdiv(n, bn),)](
        a, b, c, c if inner is None else inner, row_scale, column_scale, scale, m, n, k,
        a.stride(0), a.stride(1), b.stride(0), b.stride(1), c.stride(0),
        SCALE_INNER=inner is not None, SCALE_OUTER=outer is not None, ACCUMULATE=accumulate,
        PRECISION=_precision(), BM=bm, BN=bn, BK=bk, GROUP=8, num_warps=8, num_stages=3,
    )  # fmt: skip


def _inverse_lengths(rows: Tensor) -> Tensor:
    out = torch.empty(len(rows), dtype=torch.float32, device=rows.device)
    if len(rows):
        _reciprocal_lengths[(len(rows),)](rows, out, *rows.stride(), rows.shape[1], SHORTEST_ROW, BD=1024)
    return out


def _row_gradient(gradient: Tensor, rows: Tensor, reciprocal: Tensor, out: Tensor) -> None:
    if len(rows):
        _through_length[(len(rows),)](gradient, rows, reciprocal, out, *rows.stride(), rows.shape[1], BD=1024)


def contrastive_loss(
    left: Tensor,
    right: Tensor,
    extra_keys: Tensor | None,
    temperature: float,
    bidirectional: bool,
    with_gradient: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Loss and, `with_gradient`, its gradients to the rows; arguments and results as the operator's body has them."""
    batch, width = left.shape
    floats = {"dtype": torch.float32, "device": left.device}
    keys = [right] if extra_keys is None else [right, extra_keys]
    columns = sum(len(k) for k in keys)
    left_scale, key_scales = _inverse_lengths(left), [_inverse_lengths(k) for k in keys]
    panel_rows = min(batch, max(128, PANEL_BYTES // (4 * columns) // 128 * 128))
    panel = torch.empty(panel_rows, columns, **floats)
    lse, positive = torch.empty(batch, **floats), torch.empty(batch, **floats)

    def fill(start: int) -> Tensor:
        """Logits of the panel of left rows from `start` on."""
        rows = left[start : start + panel_rows]
        logits, offset = panel[: len(rows)], 0
        for key, key_scale in zip(keys, key_scales, strict=True):
            if len(key):
                outer = (left_scale[start:], key_scale)
                _multiply(
                    rows, key.T, logits[:, offset : offset + len(key)], outer=outer, scale=1.0 / temperature
                )
            offset += len(key)
        return logits

    def differentiate(start: int, logits: Tensor) -> None:
        """Turn a panel's logits into weights and add the products that they make to the gradients."""
        rows, offset = left[start : start + panel_rows], 0
        grid = (len(rows), triton.cdiv(columns, 1024))
        factor = 1.0 / (batch * temperature)
        _weights[grid](logits, lse, column_lse, start, batch, columns, factor, BOTH=bidirectional, BN=1024)
        direction = row_gradient[: len(rows)]
        for key, key_scale, key_gradient in zip(keys, key_scales, key_gradients, strict=True):
            if len(key):
                weights = logits[:, offset : offset + len(key)]
                _multiply(weights, key, direction, inner=key_scale, accumulate=offset > 0)
                _multiply(weights.T, rows, key_gradient, inner=left_scale[start:], accumulate=start > 0)
            offset += len(key)
        _row_gradient(direction, rows, left_scale[start:], left_gradient[start:])

    if with_gradient:
        left_gradient = torch.empty_like(left, memory_format=torch.contiguous_format)
        row_gradient = torch.empty(panel_rows, width, **floats)  # to directions, float32
        key_gradients = [torch.empty(k.shape, **floats) for k in keys]
    column_lse = lse
    largest, total = torch.full((batch,), -torch.inf, **floats), torch.zeros(batch, **floats)
    for start in range(0, batch, panel_rows):
        logits = fill(start)
        _row_softmax[(len(logits),)](logits, lse, positive, start, columns, BN=1024)
        if bidirectional:
            _column_softmax[(triton.cdiv(batch, 64),)](
                logits, largest, total, len(logits), batch, columns, BN=64
            )
        elif with_gradient:
            differentiate(start, logits)
    loss = (lse - positive).mean()
    if bidirectional:
        column_lse = largest + total.log()
        loss = (loss + (column_lse - positive).mean()) / 2
        if with_gradient:
            for start in range(0, batch, panel_rows):
                differentiate(start, fill(start))
    if not with_gradient:
        return loss, *(left.new_empty(0, width) for _ in range(3))
    for key, key_scale, key_gradient in zip(keys, key_scales, key_gradients, strict=True):
        _row_gradient(key_gradient, key, key_scale, key_gradient)
    right_gradient, *rest = (g.to(left.dtype) for g in key_gradients)
    return loss, left_gradient, right_gradient, rest[0] if rest else left.new_empty(0, width)
