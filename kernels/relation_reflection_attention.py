"""Relation-reflection attention in Triton: online softmax by destination, gradients by source and by relation set.

A program a segment (`_segments.py`); a second kernel joins the segments of a row that has several, a tile of them at a
time. No atomics: results repeat bit for bit. Formulas: loginmea_fast/reference/relation_reflection_attention.py.
"""

from __future__ import annotations

import triton
import triton.language as tl
from loginmea_fast.kernels._grid import grid
from loginmea_fast.kernels._hyperbolic import atanh, tanh
from loginmea_fast.kernels._launches import Forward, Set, Source
from torch import Tensor

__all__ = ["WIDEST", "backward_set", "backward_source", "forward", "rows", "through_activation"]

TILE = 4096  # elements of a gathered block [BE, BD], what 4 warps hold in registers twice
WIDEST = 2048  # columns; a row is one block


@triton.jit
def _power(logit, peak):
    """exp(logit - peak), and 0 for a logit of -inf even where the peak is no higher yet. NaN stays."""
    return tl.where(logit == float("-inf"), 0.0, tl.exp(logit - peak))


@triton.jit
def _segment(rows, starts, stops):
    """Number of this program's segment, its row, and its edges from start to stop."""
    number = tl.program_id(0)
    row = tl.load(rows + number).to(tl.int64)
    return number.to(tl.int64), row, tl.load(starts + number), tl.load(stops + number)


@triton.jit
def _numbers(table, at, there):
    """Row numbers, wide enough to address with; 0 where there is no edge."""
    return tl.load(table + at, mask=there, other=0).to(tl.int64)


@triton.jit
def _gather(table, row, stride, d, mask):
    """Rows of a table, [BE, BD], in float32; zeros outside."""
    return tl.load(table + row[:, None] * stride + d[None, :], mask=mask, other=0.0).to(tl.float32)


@triton.jit(do_not_specialize=["num_parts"])
def _forward(
    x, reflectors, logits, vector, y, lse, part_sum, part_peak, part_total,
    seg_row, seg_start, seg_stop, num_parts, edge_source, edge_set, x_stride, y_stride, width,
    TRIPLE: tl.constexpr, TANH: tl.constexpr, BE: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    """y_i = act(sum_e softmax(l)_e m_e) over one segment of the edges of i, with a running maximum."""
    segment, row, start, stop = _segment(seg_row, seg_start, seg_stop)
    d = tl.arange(0, BD)
    inside = d < width
    if TRIPLE:
        w = tl.load(vector + d, mask=inside, other=0.0)  # [BD]
    peak = float("-inf")
    total = 0.0
    acc = tl.zeros([BD], tl.float32)
    for first in range(start, stop, BE):
        e = first + tl.arange(0, BE)
        there = e < stop
        mask = there[:, None] & inside[None, :]
        j, s = _numbers(edge_source, e, there), _numbers(edge_set, e, there)
        xj, u = _gather(x, j, x_stride, d, mask), _gather(reflectors, s, width, d, mask)
        m = xj - 2 * tl.sum(xj * u, 1)[:, None] * u
        el = tl.load(logits + s, mask=there, other=float("-inf"))
        if TRIPLE:
            el += tl.sum(m * w[None, :], 1)
        higher = tl.maximum(peak, tl.max(el, 0))
        a, shrink = _power(el, higher), _power(peak, higher)
        total = total * shrink + tl.sum(a, 0)
        acc = acc * shrink + tl.sum(a[:, None] * m, 0)
        peak = higher
    if segment < num_parts:
        tl.store(part_peak + segment, peak)
        tl.store(part_total + segment, total)
        tl.store(part_sum + segment * width + d, acc, mask=inside)
    else:
        empty = start == stop
        out = tl.where(empty, 0.0, acc / tl.where(empty, 1.0, total))
        if TANH:
            out = tanh(out)
        tl.store(y + row * y_stride + d, out.to(y.dtype.element_ty), mask=inside)
        tl.store(lse + row, tl.where(empty, 0.0, peak + tl.log(tl.where(empty, 1.0, total))))


@triton.jit
def _forward_shared(
    part_sum, part_peak, part_total, shared, shared_ptr, y, lse, y_stride, width,
    TANH: tl.constexpr, BE: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    """Join the segments of a row, in order."""
    row = tl.load(shared + tl.program_id(0)).to(tl.int64)
    start, stop = tl.load(shared_ptr + tl.program_id(0)), tl.load(shared_ptr + tl.program_id(0) + 1)
    d = tl.arange(0, BD)
    inside = d < width
    peak = float("-inf")
    total = 0.0
    acc = tl.zeros([BD], tl.float32)
    for first in range(start, stop, BE):
        part = first + tl.arange(0, BE)
        there = part < stop
        mask = there[:, None] & inside[None, :]
        other = tl.load(part_peak + part, mask=there, other=float("-inf"))
        higher = tl.maximum(peak, tl.max(other, 0))
        grow, shrink = _power(other, higher), _power(peak, higher)
        sums = tl.load(part_sum + part[:, None] * width + d[None, :], mask=mask, other=0.0)  # [BE, BD]
        total = total * shrink + tl.sum(tl.load(part_total + part, mask=there, other=0.0) * grow, 0)
        acc = acc * shrink + tl.sum(sums * grow[:, None], 0)
        peak = higher
    out = acc / total
    if TANH:
        out = tanh(out)
    tl.store(y + row * y_stride + d, out.to(y.dtype.element_ty), mask=inside)
    tl.store(lse + row, peak + tl.log(total))


@triton.jit
def _through_activation(
    grad, z, h, along, grad_stride, z_stride, width, TANH: tl.constexpr, BD: tl.constexpr
):  # fmt: skip
    """h_i = dL/dy_i = g_i act'(y_i) and along_i = h_i . y_i, y_i = atanh(z_i)."""
    row = tl.program_id(0).to(tl.int64)
    d = tl.arange(0, BD)
    inside = d < width
    g = tl.load(grad + row * grad_stride + d, mask=inside, other=0.0).to(tl.float32)
    zi = tl.load(z + row * z_stride + d, mask=inside, other=0.0).to(tl.float32)
    if TANH:
        g *= (1 - zi) * (1 + zi)
        # atanh(+-1) is infinite and its factor zero; the product's limit is zero. NaN stays.
        zi = tl.where(tl.abs(zi) == 1, 0.0, atanh(zi))
    tl.store(h + row * width + d, g.to(h.dtype.element_ty), mask=inside)
    tl.store(along + row, tl.sum(g * zi))


@triton.jit(do_not_specialize=["num_parts", "direct_rows"])
def _backward_source(
    x, reflectors, logits, vector, h, along, lse, direct, dx, part_sum, terms,
    seg_row, seg_start, seg_stop, num_parts, edge_destination, edge_set, x_stride, direct_stride, direct_rows, width,
    TRIPLE: tl.constexpr, DIRECT: tl.constexpr, BE: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    """dx_j = sum over edges out of j of H - 2 (H . u) u, H = a h_i (+ dl w); keeps the terms of each edge."""
    segment, row, start, stop = _segment(seg_row, seg_start, seg_stop)
    d = tl.arange(0, BD)
    inside = d < width
    xj = tl.load(x + row * x_stride + d, mask=inside, other=0.0).to(tl.float32)  # [BD]
    if TRIPLE:
        w = tl.load(vector + d, mask=inside, other=0.0)
        wx = tl.sum(w * xj)
    acc = tl.zeros([BD], tl.float32)
    for first in range(start, stop, BE):
        e = first + tl.arange(0, BE)
        there = e < stop
        mask = there[:, None] & inside[None, :]
        i, s = _numbers(edge_destination, e, there), _numbers(edge_set, e, there)
        hi, u = _gather(h, i, width, d, mask), _gather(reflectors, s, width, d, mask)
        p, q = tl.sum(u * xj[None, :], 1), tl.sum(u * hi, 1)
        el = tl.load(logits + s, mask=there, other=float("-inf"))
        if TRIPLE:
            wu = tl.sum(u * w[None, :], 1)
            el += wx - 2 * p * wu
        a = tl.exp(el - tl.load(lse + i, mask=there, other=0.0))
        dl = a * (tl.sum(hi * xj[None, :], 1) - 2 * p * q - tl.load(along + i, mask=there, other=0.0))
        big = a[:, None] * hi
        along_u = a * q
        if TRIPLE:
            big += dl[:, None] * w[None, :]
            along_u += dl * wu
        acc += tl.sum(tl.where(there[:, None], big - 2 * along_u[:, None] * u, 0.0), 0)
        at = terms + e.to(tl.int64) * 4
        tl.store(at, -2 * along_u, mask=there)
        tl.store(at + 1, -2 * a * p, mask=there)
        tl.store(at + 2, dl, mask=there)
        if TRIPLE:
            tl.store(at + 3, -2 * dl * p, mask=there)
    if segment < num_parts:
        tl.store(part_sum + segment * width + d, acc, mask=inside)
    else:
        if DIRECT:
            given = d < tl.where(row < direct_rows, width, 0)
            acc += tl.load(direct + row * direct_stride + d, mask=given, other=0.0).to(tl.float32)
        tl.store(dx + row * width + d, acc.to(dx.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["num_parts"])
def _backward_set(
    x, h, du, dc, part_sum, part_slope, terms,
    seg_row, seg_start, seg_stop, num_parts, set_edge, set_source, set_destination, x_stride, width,
    BE: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    """du_s += sum of x_j and h_i by their terms; dc_s = sum of dl."""
    segment, row, start, stop = _segment(seg_row, seg_start, seg_stop)
    d = tl.arange(0, BD)
    inside = d < width
    acc = tl.zeros([BD], tl.float32)
    slope = 0.0
    for first in range(start, stop, BE):
        e = first + tl.arange(0, BE)
        there = e < stop
        mask = there[:, None] & inside[None, :]
        i, j = _numbers(set_destination, e, there), _numbers(set_source, e, there)
        at = terms + _numbers(set_edge, e, there) * 4
        of_x, of_h = tl.load(at, mask=there, other=0.0), tl.load(at + 1, mask=there, other=0.0)
        hi, xj = _gather(h, i, width, d, mask), _gather(x, j, x_stride, d, mask)
        acc += tl.sum(of_x[:, None] * xj + of_h[:, None] * hi, 0)
        slope += tl.sum(tl.load(at + 2, mask=there, other=0.0), 0)
    if segment < num_parts:
        tl.store(part_sum + segment * width + d, acc, mask=inside)
        tl.store(part_slope + segment, slope)
    else:
        tl.store(dc + row, slope)
        acc += tl.load(du + row * width + d, mask=inside, other=0.0)
        tl.store(du + row * width + d, acc, mask=inside)


@triton.jit(do_not_specialize=["base_rows"])
def _add_shared(
    part_sum, shared, shared_ptr, base, out, base_stride, base_rows, width,
    BASE: tl.constexpr, BE: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    """out_row = (base_row, of the first rows, +) the partial results of its segments, in order."""
    row = tl.load(shared + tl.program_id(0)).to(tl.int64)
    start, stop = tl.load(shared_ptr + tl.program_id(0)), tl.load(shared_ptr + tl.program_id(0) + 1)
    d = tl.arange(0, BD)
    inside = d < width
    acc = tl.zeros([BD], tl.float32)
    for first in range(start, stop, BE):
        part = first + tl.arange(0, BE)
        mask = (part < stop)[:, None] & inside[None, :]
        acc += tl.sum(tl.load(part_sum + part[:, None] * width + d[None, :], mask=mask, other=0.0), 0)
    if BASE:
        given = d < tl.where(row < base_rows, width, 0)
        acc += tl.load(base + row * base_stride + d, mask=given, other=0.0).to(tl.float32)
    tl.store(out + row * width + d, acc.to(out.dtype.element_ty), mask=inside)


def _blocks(width: int) -> dict[str, int]:
    block = triton.next_power_of_2(width)
    return {"BE": max(1, TILE // block), "BD": block}


def rows(x: Tensor) -> Tensor:
    """Rows as these kernels read them: as they are."""
    return x


def forward(of: Forward) -> None:
    """Write y and lse of one layer."""
    segments, width = of.segments, of.x.shape[1]
    if len(segments.row):
        _forward[grid(len(segments.row))](
            of.x, of.reflectors, of.logits, _or(of.vector, of.logits), of.y, of.lse,
            of.part_sum, *of.part_scalars,
            *segments[:3], segments.parts, of.edge_source, of.edge_set, of.x.stride(0), of.y.stride(0), width,
            TRIPLE=of.vector is not None, TANH=of.tanh, **_blocks(width),
        )  # fmt: skip
    if len(segments.shared):
        _forward_shared[grid(len(segments.shared))](
            of.part_sum, *of.part_scalars, segments.shared, segments.shared_ptr, of.y, of.lse,
            of.y.stride(0), width, TANH=of.tanh, **_blocks(width),
        )  # fmt: skip


def through_activation(upstream: Tensor, z: Tensor, tanh: bool, h: Tensor, along: Tensor) -> None:
    """Fill h = dL/dy [N, d] and along = h . y [N]."""
    width = h.shape[1]
    if len(along):
        _through_activation[grid(len(along))](
            upstream, z, h, along, upstream.stride(0), z.stride(0), width, TANH=tanh, BD=_blocks(width)["BD"]
        )


def backward_source(of: Source) -> None:
    """Write dx, and what each edge gives the next launch."""
    segments, width = of.segments, of.x.shape[1]
    given = (0 if of.direct is None else of.direct.stride(0)), of.direct_rows
    if len(segments.row):
        _backward_source[grid(len(segments.row))](
            of.x, of.reflectors, of.logits, _or(of.vector, of.logits), of.h, of.along, of.lse, _or(of.direct, of.x),
            of.dx, of.part_sum, of.terms,
            *segments[:3], segments.parts, of.edge_destination, of.edge_set, of.x.stride(0), *given, width,
            TRIPLE=of.vector is not None, DIRECT=of.direct is not None, **_blocks(width),
        )  # fmt: skip
    if len(segments.shared):
        _add_shared[grid(len(segments.shared))](
            of.part_sum, segments.shared, segments.shared_ptr, _or(of.direct, of.dx), of.dx, *given, width,
            BASE=of.direct is not None, **_blocks(width),
        )  # fmt: skip


def backward_set(of: Set) -> None:
    """Write du and dc of one layer."""
    segments, width = of.segments, of.x.shape[1]
    if len(segments.row):
        _backward_set[grid(len(segments.row))](
            of.x, of.h, of.du, of.dc, of.part_sum, of.part_scalars, of.terms,
            *segments[:3], segments.parts, of.set_edge, of.set_source, of.set_destination, of.x.stride(0), width,
            **_blocks(width),
        )  # fmt: skip
    if len(segments.shared):
        blocks, shared = grid(len(segments.shared)), (segments.shared, segments.shared_ptr)
        rows = len(of.du), width
        _add_shared[blocks](of.part_sum, *shared, of.du, of.du, width, *rows, BASE=True, **_blocks(width))
        _add_shared[blocks](of.part_scalars, *shared, of.dc, of.dc, 1, 0, 1, BASE=False, **_blocks(1))


def _or(tensor: Tensor | None, other: Tensor) -> Tensor:
    """An argument that a kernel does not read where there is none."""
    return other if tensor is None else tensor
