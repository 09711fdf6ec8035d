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
from loginmea_fast.kernels._grid import grid, without_tuples
from loginmea_fast.kernels._hyperbolic import tanh
from torch import Tensor

__all__ = ["backward", "forward", "unsupported"]

ROWS, ROWS_BACKWARD, COLUMNS = 16, 32, 64  # of a block
# SHORTEST_ROW and LONGEST_ROW of the formulas: beyond them squares of float32 numbers vanish or overflow.
SHORTEST, LONGEST = tl.constexpr(1e-12), tl.constexpr(1e18)
LEAST_NORMAL = tl.constexpr(torch.finfo(torch.float32).tiny)


@triton.jit
def _block(x, row, here, start, STRIDE: tl.constexpr, WIDTH: tl.constexpr, BD: tl.constexpr):
    """Columns [start, start + BD) of some rows in float32, [BR, BD]; zeros outside."""
    j = start + tl.arange(0, BD)
    mask = here[:, None] & (j < WIDTH)[None, :]
    return tl.load(x + row[:, None] * STRIDE + j[None, :], mask=mask, other=0.0).to(tl.float32)


@triton.jit
def _measure(
    x, query, row, here,
    STRIDE: tl.constexpr, WIDTH: tl.constexpr, QUERY: tl.constexpr, BR: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    """Of each row its length n, its shrink and its score q . tanh(x).

    Backward divides by n three times. The cube of an extreme length is no float32 number, so there the row is
    multiplied by its shrink 1 / n first. Ordinary rows have the shrink 1, rows without direction 0.
    """
    squares = tl.zeros([BR, BD], tl.float32)
    scores = tl.zeros([BR, BD], tl.float32)
    for start in range(0, WIDTH, BD):
        block = _block(x, row, here, start, STRIDE, WIDTH, BD)
        squares += block * block
        if QUERY:
            j = start + tl.arange(0, BD)
            scores += tanh(block) * tl.load(query + j, mask=j < WIDTH, other=0.0)[None, :]
    length = tl.sqrt_rn(tl.sum(squares, 1))
    shrink = tl.zeros([BR], tl.float32) + 1.0
    extreme = here & ((length <= SHORTEST) | (length >= LONGEST))
    if tl.max(extreme.to(tl.int32), 0) > 0:  # by way of the largest element
        largest = tl.zeros([BR], tl.float32)
        for start in range(0, WIDTH, BD):
            largest = tl.maximum(largest, tl.max(tl.abs(_block(x, row, here, start, STRIDE, WIDTH, BD)), 1))
        flat = largest < LEAST_NORMAL
        unit = tl.where(flat, 1.0, largest)
        squares = tl.zeros([BR, BD], tl.float32)
        for start in range(0, WIDTH, BD):
            part = _block(x, row, here, start, STRIDE, WIDTH, BD) / unit[:, None]
            squares += part * part
        again = tl.where(flat, SHORTEST, largest * tl.sqrt_rn(tl.sum(squares, 1)))
        length = tl.where(extreme, again, length)
        shrink = tl.where(extreme, tl.where(flat, 0.0, 1.0 / again), 1.0)
    return tl.where(here, length, 1.0), shrink, tl.sum(scores, 1)


@triton.jit
def _weigh(
    inputs, query, present, row, rows,
    STRIDES: tl.constexpr, WIDTHS: tl.constexpr, M: tl.constexpr, QUERY: tl.constexpr, MASKED: tl.constexpr,
    BR: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    """Of each modality, as tuples: which rows have it, a_m, n_m and `_measure`'s shrink."""
    there, lengths, shrinks, scores = (), (), (), ()
    greatest = tl.zeros([BR], tl.float32) + float("-inf")
    for m in tl.static_range(M):
        here = row < rows
        if MASKED:  # what is absent is not even read
            here = here & (tl.load(present + row * M + m, mask=here, other=0) != 0)
        length, shrink, score = _measure(inputs[m], query, row, here, STRIDES[m], WIDTHS[m], QUERY, BR, BD)
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
            share = weights[m] / tl.where(total == 0, 1.0, total)
            shares = shares + (tl.where(there[m], share, 0.0),)  # noqa: RUF005
        weights = shares
    return there, weights, lengths, shrinks


@triton.jit(do_not_specialize=["rows"])
def _forward(
    inputs, query, present, scale, rows,
    STRIDES: tl.constexpr, WIDTHS: tl.constexpr, M: tl.constexpr, QUERY: tl.constexpr, MASKED: tl.constexpr,
    BR: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    """r_m = a_m / n_m."""
    row = tl.program_id(0).to(tl.int64) * BR + tl.arange(0, BR)
    _, weights, lengths, _ = _weigh(
        inputs, query, present, row, rows, STRIDES, WIDTHS, M, QUERY, MASKED, BR, BD
    )
    for m in tl.static_range(M):
        tl.store(scale + row * M + m, weights[m] / lengths[m], mask=row < rows)


@triton.jit(do_not_specialize=["rows"])
def _backward(
    gradient, inputs, query, present, outputs, query_sums, rows,
    STRIDES: tl.constexpr, WIDTHS: tl.constexpr, WIDEST: tl.constexpr, M: tl.constexpr, QUERY: tl.constexpr,
    MASKED: tl.constexpr, ADD: tl.constexpr, BR: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    """dx_m = ds_m q (1 - tanh(x_m)^2) - dr_m r_m x_m / n_m^2 and this program's line of dq = sum of ds_m tanh(x_m)."""
    row = tl.program_id(0).to(tl.int64) * BR + tl.arange(0, BR)
    there, weights, lengths, shrinks = _weigh(
        inputs, query, present, row, rows, STRIDES, WIDTHS, M, QUERY, MASKED, BR, BD
    )
    upstreams, alongs, slopes = (), (), ()
    mean = tl.zeros([BR], tl.float32)
    for m in tl.static_range(M):
        upstream = tl.load(gradient + row * M + m, mask=there[m], other=0.0)
        upstreams = upstreams + (upstream,)  # noqa: RUF005
        mean += weights[m] * upstream / lengths[m]
    for m in tl.static_range(M):
        along = -upstreams[m] * weights[m] / lengths[m] / lengths[m]
        along = tl.where(shrinks[m] == 0, 0.0, tl.where(shrinks[m] == 1, along / lengths[m], along))
        alongs = alongs + (along,)  # noqa: RUF005
        slopes = slopes + (weights[m] * (upstreams[m] / lengths[m] - mean),)  # noqa: RUF005
    for start in range(0, WIDEST, BD):
        j = start + tl.arange(0, BD)
        line = tl.zeros([BD], tl.float32)
        for m in tl.static_range(M):
            block = _block(inputs[m], row, there[m], start, STRIDES[m], WIDTHS[m], BD)
            found = alongs[m][:, None] * (shrinks[m][:, None] * block)
            if QUERY:
                bent = tanh(block)
                q = tl.load(query + j, mask=j < WIDTHS[m], other=0.0)
                found += slopes[m][:, None] * q[None, :] * (1.0 - bent * bent)
                line += tl.sum(slopes[m][:, None] * bent, 0)
            found = tl.where(there[m][:, None], found, 0.0)
            where = outputs[m] + row[:, None] * WIDTHS[m] + j[None, :]
            mask = (row < rows)[:, None] & (j < WIDTHS[m])[None, :]
            if ADD:
                found += tl.load(where, mask=mask, other=0.0).to(tl.float32)
            tl.store(where, found, mask=mask)
        if QUERY:
            tl.store(query_sums + tl.program_id(0).to(tl.int64) * WIDEST + j, line, mask=j < WIDEST)


def unsupported(dtype: torch.dtype) -> str | None:
    """Why these kernels cannot take a dtype, or None."""
    if dtype == torch.float64:
        return "its tanh is exact to float32, not to float64"
    return without_tuples()


def forward(inputs: Sequence[Tensor], query: Tensor | None, present: Tensor | None, scale: Tensor) -> None:
    """Fill r [B, M] float32.

    Args:
        inputs: x_m [B, d_m], the elements of a row adjacent.
        query: [1, d] float32, or None.
        present: bool [B, M], or None.
        scale: r.
    """
    if len(scale):
        _forward[grid(triton.cdiv(len(scale), ROWS))](
            *_arguments(inputs, query, present), scale, len(scale), **_sizes(inputs, query, present), BR=ROWS
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
    rows, widest = len(gradient), max(x.shape[1] for x in inputs)
    programs = triton.cdiv(rows, ROWS_BACKWARD)
    lines = None if query is None else gradient.new_empty(programs, widest)
    if rows:
        _backward[grid(programs)](
            gradient, *_arguments(inputs, query, present), tuple(dx), gradient if lines is None else lines, rows,
            WIDEST=widest, ADD=add, **_sizes(inputs, query, present), BR=ROWS_BACKWARD,
        )  # fmt: skip
    return None if lines is None else lines.sum(0, keepdim=True)


def _arguments(inputs: Sequence[Tensor], query: Tensor | None, present: Tensor | None) -> tuple[object, ...]:
    """What is not there is never read: anything may stand in its place."""
    first = inputs[0]
    masked = first if present is None else present.contiguous().view(torch.uint8)
    return tuple(inputs), first if query is None else query.contiguous(), masked


def _sizes(inputs: Sequence[Tensor], query: Tensor | None, present: Tensor | None) -> dict[str, object]:
    """Strides are known when a kernel is compiled: it then loads four of 300 columns at once, and else one."""
    return {
        "STRIDES": tuple(x.stride(0) for x in inputs), "WIDTHS": tuple(x.shape[1] for x in inputs),
        "M": len(inputs), "QUERY": query is not None, "MASKED": present is not None, "BD": COLUMNS,
    }  # fmt: skip
