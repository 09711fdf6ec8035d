"""Attention weights of modalities over their lengths in Triton: a pass over the rows forward, one backward.

A program a block of rows. It reads them once for their lengths and scores and, backward, once more, when they are in
its cache. Sums over rows are taken of a line a program, in their order: results repeat bit for bit. Formulas:
loginmea_fast/reference/low_rank_fusion.py.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from loginmea_fast.kernels._grid import grid
from loginmea_fast.kernels._hyperbolic import tanh
from torch import Tensor

__all__ = ["backward", "forward", "unsupported"]

BLOCK_ROWS, BLOCK_COLUMNS = 16, 64
# Between these lengths the squares of float32 elements neither vanish nor overflow.
SHORTEST_ROW, LONGEST_ROW = tl.constexpr(1e-12), tl.constexpr(1e18)
LEAST_NORMAL = tl.constexpr(1.1754943508222875e-38)


@triton.jit
def _block(x, stride, row, here, start, WIDTH: tl.constexpr, BD: tl.constexpr):
    """Columns [start, start + BD) of some rows in float32, [BR, BD]; zeros outside."""
    j = start + tl.arange(0, BD)
    mask = here[:, None] & (j < WIDTH)[None, :]
    return tl.load(x + row[:, None] * stride + j[None, :], mask=mask, other=0.0).to(tl.float32)


@triton.jit
def _measure(
    x, stride, query, row, here, WIDTH: tl.constexpr, QUERY: tl.constexpr, BR: tl.constexpr, BD: tl.constexpr
):  # fmt: skip
    """Of each row the length, what it is multiplied by where that has no cube (0: no direction), and q . tanh(x)."""
    squares = tl.zeros([BR, BD], tl.float32)
    scores = tl.zeros([BR, BD], tl.float32)
    for start in range(0, WIDTH, BD):
        block = _block(x, stride, row, here, start, WIDTH, BD)
        squares += block * block
        if QUERY:
            j = start + tl.arange(0, BD)
            scores += tanh(block) * tl.load(query + j, mask=j < WIDTH, other=0.0)[None, :]
    length = tl.sqrt_rn(tl.sum(squares, 1))
    shrink = tl.zeros([BR], tl.float32) + 1.0
    extreme = here & ((length <= SHORTEST_ROW) | (length >= LONGEST_ROW))
    if tl.max(extreme.to(tl.int32), 0) > 0:  # by way of the largest element
        largest = tl.zeros([BR], tl.float32)
        for start in range(0, WIDTH, BD):
            largest = tl.maximum(largest, tl.max(tl.abs(_block(x, stride, row, here, start, WIDTH, BD)), 1))
        flat = largest < LEAST_NORMAL
        unit = tl.where(flat, 1.0, largest)
        squares = tl.zeros([BR, BD], tl.float32)
        for start in range(0, WIDTH, BD):
            part = _block(x, stride, row, here, start, WIDTH, BD) / unit[:, None]
            squares += part * part
        again = tl.where(flat, SHORTEST_ROW, largest * tl.sqrt_rn(tl.sum(squares, 1)))
        length = tl.where(extreme, again, length)
        shrink = tl.where(extreme, tl.where(flat, 0.0, 1.0 / again), 1.0)
    return tl.where(here, length, 1.0), shrink, tl.sum(scores, 1)


@triton.jit
def _weigh(
    inputs, strides, query, present, row, rows,
    WIDTHS: tl.constexpr, M: tl.constexpr, QUERY: tl.constexpr, MASKED: tl.constexpr,
    BR: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    """Of each modality, as tuples: which rows have it, a_m, n_m and `_measure`'s shrink."""
    there, lengths, shrinks, scores = (), (), (), ()
    greatest = tl.zeros([BR], tl.float32) + float("-inf")
    for m in tl.static_range(M):
        here = row < rows
        if MASKED:  # what is absent is not even read
            here = here & (tl.load(present + row * M + m, mask=here, other=0) != 0)
        length, shrink, score = _measure(inputs[m], strides[m], query, row, here, WIDTHS[m], QUERY, BR, BD)
        greatest = tl.where(here, tl.maximum(greatest, score), greatest)
        there, lengths = there + (here,), lengths + (length,)  # noqa: RUF005 - Triton has no *tuple
        shrinks, scores = shrinks + (shrink,), scores + (score,)  # noqa: RUF005
    weights = ()
    total = tl.zeros([BR], tl.float32)
    for m in tl.static_range(M):
        weight = there[m].to(tl.float32)
        if QUERY:
            weight = tl.where(there[m], tl.exp(scores[m] - greatest), 0.0)
        weights = weights + (weight,)  # noqa: RUF005
        total += weight
    if QUERY:
        shares = ()
        for m in tl.static_range(M):
            shares = shares + (weights[m] / tl.where(total == 0, 1.0, total),)  # noqa: RUF005
        weights = shares
    return there, weights, lengths, shrinks


@triton.jit(do_not_specialize=["rows"])
def _forward(
    inputs, strides, query, present, scale, rows,
    WIDTHS: tl.constexpr, M: tl.constexpr, QUERY: tl.constexpr, MASKED: tl.constexpr,
    BR: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    """r_m = a_m / n_m."""
    row = tl.program_id(0).to(tl.int64) * BR + tl.arange(0, BR)
    _, weights, lengths, _ = _weigh(
        inputs, strides, query, present, row, rows, WIDTHS, M, QUERY, MASKED, BR, BD
    )
    for m in tl.static_range(M):
        tl.store(scale + row * M + m, weights[m] / lengths[m], mask=row < rows)


@triton.jit(do_not_specialize=["rows"])
def _backward(
    gradient, inputs, strides, query, present, outputs, query_sums, rows,
    WIDTHS: tl.constexpr, M: tl.constexpr, QUERY: tl.constexpr, MASKED: tl.constexpr, ADD: tl.constexpr,
    BR: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    """dx_m = ds_m q (1 - tanh(x_m)^2) - dr_m r_m x_m / n_m^2 and this program's line of dq = sum of ds_m tanh(x_m)."""
    row = tl.program_id(0).to(tl.int64) * BR + tl.arange(0, BR)
    there, weights, lengths, shrinks = _weigh(
        inputs, strides, query, present, row, rows, WIDTHS, M, QUERY, MASKED, BR, BD
    )
    mean = tl.zeros([BR], tl.float32)
    for m in tl.static_range(M):
        upstream = tl.load(gradient + row * M + m, mask=there[m], other=0.0)
        mean += weights[m] * upstream / lengths[m]
    for m in tl.static_range(M):
        upstream = tl.load(gradient + row * M + m, mask=there[m], other=0.0)
        along = -upstream * weights[m] / lengths[m] / lengths[m]
        along = tl.where(shrinks[m] == 0, 0.0, tl.where(shrinks[m] == 1, along / lengths[m], along))
        slope = weights[m] * (upstream / lengths[m] - mean)
        for start in range(0, WIDTHS[m], BD):
            j = start + tl.arange(0, BD)
            block = _block(inputs[m], strides[m], row, there[m], start, WIDTHS[m], BD)
            found = along[:, None] * (shrinks[m][:, None] * block)
            if QUERY:
                bent = tanh(block)
                q = tl.load(query + j, mask=j < WIDTHS[m], other=0.0)
                found += slope[:, None] * q[None, :] * (1.0 - bent * bent)
                line = query_sums + (tl.program_id(0).to(tl.int64) * M + m) * WIDTHS[m] + j
                tl.store(line, tl.sum(slope[:, None] * bent, 0), mask=j < WIDTHS[m])
            found = tl.where(there[m][:, None], found, 0.0)
            where = outputs[m] + row[:, None] * WIDTHS[m] + j[None, :]
            mask = (row < rows)[:, None] & (j < WIDTHS[m])[None, :]
            if ADD:
                found += tl.load(where, mask=mask, other=0.0).to(tl.float32)
            tl.store(where, found, mask=mask)


def unsupported(dtype: torch.dtype) -> str | None:
    """Why these kernels cannot take a dtype, or None."""
    return "its tanh is exact to float32, not to float64" if dtype == torch.float64 else None


def forward(inputs: Sequence[Tensor], query: Tensor | None, present: Tensor | None, scale: Tensor) -> None:
    """Fill r [B, M] float32.

    Args:
        inputs: x_m [B, d_m], the elements of a row adjacent.
        query: [1, d] float32, or None.
        present: bool [B, M], or None.
        scale: r.
    """
    if len(scale):
        _forward[grid(triton.cdiv(len(scale), BLOCK_ROWS))](
            *_arguments(inputs, query, present), scale, len(scale), **_sizes(inputs, query, present)
        )


def backward(
    gradient: Tensor,
    inputs: Sequence[Tensor],
    query: Tensor | None,
    present: Tensor | None,
    dx: Sequence[Tensor],
    add: bool,
) -> Tensor | None:
    """Fill dx_m [B, d_m], or add to them; dq [1, d], or None without a query.

    Args:
        gradient: dr [B, M] float32, contiguous.
        inputs: as in `forward`, and so are query and present.
        query: as there.
        present: as there.
        dx: contiguous, dtype of the inputs.
        add: whether to add.
    """
    rows, count = gradient.shape
    programs = triton.cdiv(rows, BLOCK_ROWS)
    lines = None if query is None else gradient.new_empty(programs * count, query.shape[1])
    if rows:
        _backward[grid(programs)](
            gradient, *_arguments(inputs, query, present), tuple(dx), gradient if lines is None else lines, rows,
            ADD=add, **_sizes(inputs, query, present),
        )  # fmt: skip
    return None if lines is None else lines.sum(0, keepdim=True)


def _arguments(inputs: Sequence[Tensor], query: Tensor | None, present: Tensor | None) -> tuple[object, ...]:
    """What is not there is never read: anything may stand in its place."""
    first = inputs[0]
    masked = first if present is None else present.contiguous().view(torch.uint8)
    return (
        tuple(inputs),
        tuple(x.stride(0) for x in inputs),
        first if query is None else query.contiguous(),
        masked,
    )


def _sizes(inputs: Sequence[Tensor], query: Tensor | None, present: Tensor | None) -> dict[str, object]:
    return {
        "WIDTHS": tuple(x.shape[1] for x in inputs), "M": len(inputs), "QUERY": query is not None,
        "MASKED": present is not None, "BR": BLOCK_ROWS, "BD": BLOCK_COLUMNS,
    }  # fmt: skip
