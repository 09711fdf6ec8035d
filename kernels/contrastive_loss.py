"""Contrastive loss in Triton: a panel of logits at a time, its softmax, and the products that make the gradients.

A row of the joint embedding (2,100 wide) is too wide for a flash-attention tile to keep its gradient in registers, so
the logits of a panel of queries are written once, stay in L2 where it holds them, and become the weights w of the
reference in place. Products read rows as they are: with u_b = 1 / |x_b| and v_j = 1 / |k_j| (or ones), products are
scaled by u_b v_j and so are weights, and dx_b = g_b - (g_b . x_b) u_b^2 x_b with g_b = sum_j w_bj u_b v_j k_j, alike
for keys.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from loginmea_fast.kernels._grid import grid
from loginmea_fast.kernels._product import multiply
from torch import Tensor

__all__ = ["contrastive_loss"]

PANEL_BYTES = 64 << 20  # of logits; an H100 has 50 MiB of L2, an A100 40
# Where a program goes down columns: many rows a turn, since a turn costs what memory takes to answer, and narrow, so
# that there are programs enough for every processor.
COLUMN_TILE = {"BR": 64, "BN": 32}
SHORTEST_ROW = 1e-12
OUT = (
    -1e30
)  # the logit of a key that is not in the denominator: its exponential is 0, and it is 0 times that, too


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
def _take_positive(
    logits, positives, positive, first_row, rows, columns, out, COUNTS: tl.constexpr, BN: tl.constexpr
):
    """positive_b = s_bp(b), which leaves the denominator unless it COUNTS."""
    row = tl.program_id(0).to(tl.int64) * BN + tl.arange(0, BN)
    own = first_row + row
    where = logits + row * columns + tl.load(positives + own, mask=row < rows, other=0)
    tl.store(positive + own, tl.load(where, mask=row < rows, other=0.0), mask=row < rows)
    if not COUNTS:
        tl.store(where, tl.full([BN], 0.0, tl.float32) + out, mask=row < rows)


@triton.jit
def _exclude(logits, pairs, count, first_row, rows, columns, out, BN: tl.constexpr):
    """Put the panel's keys out that `pairs` [count, 2] name."""
    p = tl.program_id(0).to(tl.int64) * BN + tl.arange(0, BN)
    row = tl.load(pairs + 2 * p, mask=p < count, other=-1) - first_row
    column = tl.load(pairs + 2 * p + 1, mask=p < count, other=0)
    mask = (p < count) & (row >= 0) & (row < rows)
    tl.store(logits + row * columns + column, tl.full([BN], 0.0, tl.float32) + out, mask=mask)


@triton.jit
def _row_softmax(logits, lse, first_row, columns, BN: tl.constexpr):
    """lse_b = log sum_j exp s_bj with a running maximum."""
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
    tl.store(lse + first_row + row, top + tl.log(tl.sum(total * tl.exp(largest - top))))


@triton.jit
def _column_softmax(
    logits, largest, total, rows, batch, columns, BR: tl.constexpr, BN: tl.constexpr
):  # fmt: skip
    """Take a panel's rows into the running maximum and sum of each of the first `batch` columns."""
    j = tl.program_id(0).to(tl.int64) * BN + tl.arange(0, BN)
    high = tl.load(largest + j, mask=j < batch, other=0.0)
    summed = tl.load(total + j, mask=j < batch, other=0.0)
    for start in range(0, rows, BR):
        row = start + tl.arange(0, BR).to(tl.int64)
        mask = (row < rows)[:, None] & (j < batch)[None, :]
        s = tl.load(logits + row[:, None] * columns + j[None, :], mask=mask, other=float("-inf"))  # [BR, BN]
        higher = tl.maximum(high, tl.max(s, 0))
        summed = summed * tl.exp(high - higher) + tl.sum(tl.exp(s - higher[None, :]), 0)
        high = higher
    tl.store(largest + j, high, mask=j < batch)
    tl.store(total + j, summed, mask=j < batch)


@triton.jit
def _softmaxes(
    s, row_lse, column_lse, row_share, own, j, batch, columns, BOTH: tl.constexpr
):  # fmt: skip
    """w_bj / tau_b of the reference for some columns of row `own`, before its positive is taken off."""
    w = tl.load(row_share + own) * tl.exp(s - tl.load(row_lse + own))
    if BOTH:
        theirs = tl.load(row_share + j, mask=j < batch, other=0.0)
        back = tl.exp(s - tl.load(column_lse + j, mask=j < batch, other=0.0))
        w = 0.5 * (w + tl.where(j < batch, theirs * back, 0.0))
    return tl.where(j < columns, w, 0.0)


@triton.jit
def _temperature_gradient(
    logits, row_lse, column_lse, row_share, positive, out, first_row, batch, columns,
    BOTH: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    """out_b = - sum_j w_bj s_bj / tau_b."""
    row = tl.program_id(0).to(tl.int64)
    own = first_row + row
    total = tl.zeros([BN], tl.float32)
    for start in range(0, columns, BN):
        j = start + tl.arange(0, BN)
        s = tl.load(logits + row * columns + j, mask=j < columns, other=0.0)
        total += s * _softmaxes(s, row_lse, column_lse, row_share, own, j, batch, columns, BOTH)
    tl.store(out + own, tl.load(row_share + own) * tl.load(positive + own) - tl.sum(total))


@triton.jit
def _bias_gradient(
    logits, row_lse, row_share, positives, out, first_row, rows, batch, columns, BR: tl.constexpr, BN: tl.constexpr
):  # fmt: skip
    """out_j += sum over the panel's rows of w_bj / tau_b."""
    j = tl.program_id(0).to(tl.int64) * BN + tl.arange(0, BN)
    total = tl.load(out + j, mask=j < columns, other=0.0)
    for start in range(0, rows, BR):
        row = start + tl.arange(0, BR).to(tl.int64)
        mask = (row < rows)[:, None] & (j < columns)[None, :]
        # Rows beyond the panel are its last once more, and count for nothing below.
        own = first_row + tl.minimum(row, rows - 1)[:, None]
        s = tl.load(logits + row[:, None] * columns + j[None, :], mask=mask, other=0.0)  # [BR, BN]
        w = _softmaxes(s, row_lse, row_lse, row_share, own, j[None, :], batch, columns, False)
        w -= tl.where(j[None, :] == tl.load(positives + own), tl.load(row_share + own), 0.0)
        total += tl.sum(tl.where(mask, w, 0.0), 0)
    tl.store(out + j, total, mask=j < columns)


@triton.jit
def _weights(
    logits, row_lse, column_lse, row_share, positives, row_scale, key_scale, first_row, batch, columns,
    BOTH: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    """s_bj becomes w'_bj = u_b v_j w_bj / tau_b."""
    row = tl.program_id(0).to(tl.int64)
    j = tl.program_id(1).to(tl.int64) * BN + tl.arange(0, BN)
    where = logits + row * columns + j
    own = first_row + row
    s = tl.load(where, mask=j < columns, other=0.0)
    w = _softmaxes(s, row_lse, column_lse, row_share, own, j, batch, columns, BOTH)
    w -= tl.where(j == tl.load(positives + own), tl.load(row_share + own), 0.0)
    scale = tl.load(row_scale + own) * tl.load(key_scale + j, mask=j < columns, other=0.0)
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


def _inverse_lengths(rows: Tensor, out: Tensor, normalize: bool) -> None:
    if not normalize:
        out.fill_(1.0)
    elif len(rows):
        _reciprocal_lengths[grid(len(rows))](rows, out, *rows.stride(), rows.shape[1], SHORTEST_ROW, BD=1024)


def _row_gradient(gradient: Tensor, rows: Tensor, reciprocal: Tensor, out: Tensor, normalize: bool) -> None:
    if not normalize:
        out[: len(rows)].copy_(gradient[: len(rows)])
    elif len(rows):
        _through_length[grid(len(rows))](
            gradient, rows, reciprocal, out, *rows.stride(), rows.shape[1], BD=1024
        )


def contrastive_loss(
    queries: Tensor,
    blocks: Sequence[Tensor],
    positives: Tensor | None,
    temperature: float | Tensor,
    key_bias: Tensor | None,
    excluded: Tensor | None,
    coefficients: Tensor | None,
    normalize: bool,
    positive_in_denominator: bool,
    both_ways: bool,
    precision: str,
    with_gradient: bool,
) -> tuple[Tensor, Tensor, list[Tensor] | None]:
    """Loss, row losses [B] and, `with_gradient`, gradients to queries, each of two blocks, bias and temperatures.

    Arguments as `ops._loss_backends.Arguments` has them; the columns of `blocks` of keys follow each other.
    """
    batch, width = queries.shape
    floats = {"dtype": torch.float32, "device": queries.device}
    first = 0
    keys = []  # rows, and their columns of the logits
    for rows in blocks:
        if len(rows):
            keys.append((rows, slice(first, first + len(rows))))
        first += len(rows)
    columns = first
    own = torch.arange(batch, device=queries.device) if positives is None else positives
    tau = temperature if isinstance(temperature, Tensor) else torch.full((batch,), temperature, **floats)
    inverse = 1.0 / tau
    c = torch.full((batch,), 1.0 / batch, **floats) if coefficients is None else coefficients
    query_scale, key_scale = torch.empty(batch, **floats), torch.empty(columns, **floats)
    _inverse_lengths(queries, query_scale, normalize)
    for rows, place in keys:
        _inverse_lengths(rows, key_scale[place], normalize)
    logit_scale = query_scale * inverse
    panel_rows = min(batch, max(128, PANEL_BYTES // (4 * columns) // 128 * 128))
    panel = torch.empty(panel_rows, columns, **floats)
    lse, positive, share = (torch.empty(batch, **floats) for _ in range(3))

    def fill(start: int) -> Tensor:
        """Logits of the panel of queries from `start` on."""
        some = queries[start : start + panel_rows]
        logits = panel[: len(some)]
        for rows, place in keys:
            bias = None if key_bias is None else key_bias[place]
            scales = (logit_scale[start:], key_scale[place], inverse[start:], bias)
            multiply(some, rows.T, logits[:, place], precision, scales)
        _take_positive[grid(triton.cdiv(len(some), 128))](
            logits, own, positive, start, len(some), columns, OUT, COUNTS=positive_in_denominator, BN=128
        )
        if excluded is not None:
            _exclude[grid(triton.cdiv(len(excluded), 128))](
                logits, excluded, len(excluded), start, len(some), columns, OUT, BN=128
            )
        return logits

    def differentiate(start: int, logits: Tensor) -> None:
        """Turn a panel's logits into weights and add the products that they make to the gradients."""
        some = queries[start : start + panel_rows]
        if isinstance(temperature, Tensor):
            _temperature_gradient[grid(len(some))](
                logits, lse, column_lse, share, positive, temperature_gradient, start, batch, columns,
                BOTH=both_ways, BN=1024,
            )  # fmt: skip
        if key_bias is not None:
            _bias_gradient[grid(triton.cdiv(columns, COLUMN_TILE["BN"]))](
                logits, lse, share, own, bias_gradient, start, len(some), batch, columns, **COLUMN_TILE
            )
        _weights[grid(len(some), triton.cdiv(columns, 1024))](
            logits, lse, column_lse, share, own, query_scale, key_scale, start, batch, columns,
            BOTH=both_ways, BN=1024,
        )  # fmt: skip
        for (rows, place), sums in zip(keys, key_sums, strict=True):
            weights = logits[:, place]
            multiply(weights, rows, query_sums[: len(some)], precision, add=place.start > 0)
            multiply(weights.T, some, sums, precision, add=start > 0)
        _row_gradient(query_sums, some, query_scale[start:], query_gradient[start:], normalize)

    if with_gradient:
        query_gradient = torch.empty(queries.shape, dtype=queries.dtype, device=queries.device)
        query_sums = torch.empty(panel_rows, width, **floats)
        key_sums = [torch.empty(rows.shape, **floats) for rows, _ in keys]
        bias_gradient = torch.zeros(0 if key_bias is None else columns, **floats)
        temperature_gradient = torch.empty(batch if isinstance(temperature, Tensor) else 0, **floats)
    column_lse = lse
    largest, total = torch.full((batch,), -torch.inf, **floats), torch.zeros(batch, **floats)
    for start in range(0, batch, panel_rows):
        logits = fill(start)
        _row_softmax[grid(len(logits))](logits, lse, start, columns, BN=1024)
        some = slice(start, start + len(logits))
        share[some] = torch.where(lse[some] < OUT / 2, 0.0, c[some] * inverse[some])
        if both_ways:
            _column_softmax[grid(triton.cdiv(batch, COLUMN_TILE["BN"]))](
                logits, largest, total, len(logits), batch, columns, **COLUMN_TILE
            )
        elif with_gradient:
            differentiate(start, logits)
    row_losses = torch.where(lse < OUT / 2, 0.0, lse - positive)
    if both_ways:
        column_lse = largest + total.log()
        row_losses = (row_losses + column_lse - positive) / 2
        if with_gradient:
            for start in range(0, batch, panel_rows):
                differentiate(start, fill(start))
    loss = row_losses.mean() if coefficients is None else (c * row_losses).sum()
    if not with_gradient:
        return loss, row_losses, None
    for (rows, place), sums in zip(keys, key_sums, strict=True):
        _row_gradient(sums, rows, key_scale[place], sums, normalize)
    found = iter(key_sums)
    gradients = [next(found).to(rows.dtype) if len(rows) else torch.empty_like(rows) for rows in blocks]
    gradients += [queries.new_empty(0, width)] * (2 - len(gradients))
    return loss, row_losses, [query_gradient, *gradients, bias_gradient, temperature_gradient]
