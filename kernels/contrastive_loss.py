"""Contrastive loss in Triton: a panel of logits at a time, its softmax, and the products that make the gradients.

A row of the joint embedding (2,100 wide) is too wide for a flash-attention tile to keep its gradient in registers, so
the logits of a panel of left rows are written once, stay in L2 where it holds them, and become the weights w of the
reference in place. Products read rows as they are: with u_b = 1 / |l_b| and v_j = 1 / |k_j|, logits are scaled by
u_b v_j and so are weights, and dl_b = g_b - (g_b . l_b) u_b^2 l_b with g_b = sum_j w_bj u_b v_j k_j, alike for keys.
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
    a, b, c, row_scale, column_scale, scale, m, n, k,
    a_row, a_inner, b_inner, b_column, c_row,
    SCALE: tl.constexpr, ADD: tl.constexpr, ROUND: tl.constexpr, PRECISION: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    """c_mn (+)= sum_k a_mk b_kn, or with SCALE that times scale row_m column_n; ROUND: operands in bfloat16."""
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
        if ROUND:
            at, bt = at.to(tl.bfloat16), bt.to(tl.bfloat16)
        total = tl.dot(at, bt, total, input_precision=PRECISION)
    if SCALE:
        total *= scale * tl.load(row_scale + im, mask=im < m, other=0.0)[:, None]
        total *= tl.load(column_scale + jn, mask=jn < n, other=0.0)[None, :]
    where = c + im[:, None] * c_row + jn[None, :]
    mask = (im < m)[:, None] & (jn < n)[None, :]
    if ADD:
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
    logits, row_lse, column_lse, row_scale, key_scale, first_row, batch, columns, factor,
    BOTH: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    """s_bj becomes w'_bj = factor u_b v_j ( exp(s_bj - lse_b) - [b = j] ), both ways with the columns' part added."""
    row = tl.program_id(0).to(tl.int64)
    j = tl.program_id(1).to(tl.int64) * BN + tl.arange(0, BN)
    where = logits + row * columns + j
    own = first_row + row
    s = tl.load(where, mask=j < columns, other=0.0)
    w = tl.exp(s - tl.load(row_lse + own)) - tl.where(j == own, 1.0, 0.0)
    if BOTH:
        back = tl.exp(s - tl.load(column_lse + j, mask=j < batch, other=0.0)) - tl.where(j == own, 1.0, 0.0)
        w = 0.5 * (w + tl.where(j < batch, back, 0.0))
    scale = factor * tl.load(row_scale + own) * tl.load(key_scale + j, mask=j < columns, other=0.0)
    tl.store(where, scale * w, mask=j < columns)


@triton.jit
def _through_length(gradient, rows, reciprocal, out, row_stride, column_stride, width, BD: tl.constexpr):
    """Dx = g - (g . x) u^2 x, where u = 1 / |x| and g = u times the gradient to the direction of x."""
    row = tl.program_id(0).to(tl.int64)
    products = tl.zeros([BD], tl.float32)
    for start in range(0, width, BD):
        d = start + tl.arange(0, BD).to(tl.int64)
        x = tl.load(rows + row * row_stride + d * column_stride, mask=d < width, other=0.0).to(tl.float32)
        products += tl.load(gradient + row * width + d, mask=d < width, other=0.0) * x
    inverse = tl.load(reciprocal + row)
    along = tl.sum(products) * inverse * inverse
    for start in range(0, width, BD):
        d = start + tl.arange(0, BD).to(tl.int64)
        x = tl.load(rows + row * row_stride + d * column_stride, mask=d < width, other=0.0).to(tl.float32)
        g = tl.load(gradient + row * width + d, mask=d < width, other=0.0)
        tl.store(out + row * width + d, g - along * x, mask=d < width)


def _multiply(
    a: Tensor,
    b: Tensor,
    c: Tensor,
    precision: str,
    scales: tuple[float, Tensor, Tensor] | None = None,
    add: bool = False,
) -> None:
    """Multiply a [m, k] and b [k, n], of any strides, into c [m, n]; scales: scalar, rows' and columns'."""
    (m, k), n = a.shape, b.shape[1]
    rounded = precision == "bfloat16" or b.dtype == torch.bfloat16
    scale, row_scale, column_scale = (1.0, c, c) if scales is None else scales
    _product[(triton.cdiv(m, 128) * triton.cdiv(n, 128),)](
        a, b, c, row_scale, column_scale, scale, m, n, k,
        a.stride(0), a.stride(1), b.stride(0), b.stride(1), c.stride(0),
        SCALE=scales is not None, ADD=add, ROUND=rounded, PRECISION="tf32" if precision == "tf32" else "ieee",
        BM=128, BN=128, BK=64 if a.dtype == b.dtype == torch.bfloat16 else 32, GROUP=8, num_warps=8, num_stages=3,
    )  # fmt: skip


def _inverse_lengths(rows: Tensor, out: Tensor) -> None:
    if len(rows):
        _reciprocal_lengths[(len(rows),)](rows, out, *rows.stride(), rows.shape[1], SHORTEST_ROW, BD=1024)


def _row_gradient(gradient: Tensor, rows: Tensor, reciprocal: Tensor, out: Tensor) -> None:
    if len(rows):
        _through_length[(len(rows),)](gradient, rows, reciprocal, out, *rows.stride(), rows.shape[1], BD=1024)


def contrastive_loss(
    left: Tensor,
    right: Tensor,
    extra_keys: Tensor | None,
    temperature: float,
    bidirectional: bool,
    precision: str,
    with_gradient: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Loss and, `with_gradient`, its gradients to the rows; arguments and results as the operator's body has them."""
    batch, width = left.shape
    floats = {"dtype": torch.float32, "device": left.device}
    keys = [(right, slice(0, batch))]  # rows, and their columns of the logits
    if extra_keys is not None and len(extra_keys):
        keys.append((extra_keys, slice(batch, batch + len(extra_keys))))
    columns = keys[-1][1].stop
    left_scale, key_scale = torch.empty(batch, **floats), torch.empty(columns, **floats)
    _inverse_lengths(left, left_scale)
    for rows, place in keys:
        _inverse_lengths(rows, key_scale[place])
    panel_rows = min(batch, max(128, PANEL_BYTES // (4 * columns) // 128 * 128))
    panel = torch.empty(panel_rows, columns, **floats)
    lse, positive = torch.empty(batch, **floats), torch.empty(batch, **floats)

    def fill(start: int) -> Tensor:
        """Logits of the panel of left rows from `start` on."""
        queries = left[start : start + panel_rows]
        logits = panel[: len(queries)]
        for rows, place in keys:
            scales = (1.0 / temperature, left_scale[start:], key_scale[place])
            _multiply(queries, rows.T, logits[:, place], precision, scales)
        return logits

    def differentiate(start: int, logits: Tensor) -> None:
        """Turn a panel's logits into weights and add the products that they make to the gradients."""
        queries, own_scale = left[start : start + panel_rows], left_scale[start:]
        _weights[(len(queries), triton.cdiv(columns, 1024))](
            logits, lse, column_lse, left_scale, key_scale, start, batch, columns, 1.0 / (batch * temperature),
            BOTH=bidirectional, BN=1024,
        )  # fmt: skip
        for (rows, place), sums in zip(keys, key_sums, strict=True):
            weights = logits[:, place]
            _multiply(weights, rows, left_sums[: len(queries)], precision, add=place.start > 0)
            _multiply(weights.T, queries, sums, precision, add=start > 0)
        _row_gradient(left_sums, queries, own_scale, left_gradient[start:])

    if with_gradient:
        left_gradient = torch.empty(left.shape, dtype=left.dtype, device=left.device)
        left_sums = torch.empty(panel_rows, width, **floats)
        key_sums = [torch.empty(rows.shape, **floats) for rows, _ in keys]
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
    empty = left.new_empty(0, width)
    if not with_gradient:
        return loss, empty, empty.clone(), empty.clone()
    for (rows, place), sums in zip(keys, key_sums, strict=True):
        _row_gradient(sums, rows, key_scale[place], sums)
    gradients = [sums.to(left.dtype) for sums in key_sums]
    return loss, left_gradient, gradients[0], gradients[1] if len(gradients) > 1 else empty
