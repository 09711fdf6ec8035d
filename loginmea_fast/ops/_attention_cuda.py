"""Launches of relation-reflection attention in CUDA C++; names and arguments are those of the Triton module."""

from __future__ import annotations

import torch
from torch import Tensor

from loginmea_fast import native
from loginmea_fast.kernels._launches import Forward, Set, Source
from loginmea_fast.kernels._segments import Segments
from loginmea_fast.ops._dispatch import cuda_kernels

__all__ = ["backward_set", "backward_source", "forward", "rows", "through_activation", "unsupported"]


def unsupported(dtype: torch.dtype, width: int) -> str | None:
    """Why these kernels cannot take such rows, or None. The limits are those of `with_shape` in the source."""
    fours, others = (384, 320) if dtype == torch.float64 else (1024, 512)
    if width <= (others if width % 4 else fours):
        return None
    name = str(dtype).removeprefix("torch.")
    return f"it takes {name} rows of up to {fours} columns, {others} where not a multiple of 4; these have {width}"


def rows(x: Tensor) -> Tensor:
    """Rows that kernels read four elements at a time where the width allows; a copy costs less than the gathers."""
    aligned = x.stride(0) % 4 == 0 and x.data_ptr() % (4 * x.element_size()) == 0
    return x if x.shape[1] % 4 or aligned else x.clone(memory_format=torch.contiguous_format)


def forward(of: Forward) -> None:
    """Write y and lse of one layer."""
    kernels, stream = cuda_kernels(of.x)
    kernels.attention_forward(
        *_shape(of.x), *_pointers(of.segments), of.edge_source.data_ptr(), of.edge_set.data_ptr(),
        of.x.data_ptr(), of.x.stride(0), of.reflectors.data_ptr(), of.logits.data_ptr(), native.address(of.vector),
        of.tanh, of.y.data_ptr(), of.y.stride(0), of.lse.data_ptr(),
        of.part_sum.data_ptr(), of.part_peak.data_ptr(), of.part_total.data_ptr(), stream,
    )  # fmt: skip


def through_activation(upstream: Tensor, z: Tensor, tanh: bool, h: Tensor, along: Tensor) -> None:
    """Fill h = dL/dy [N, d] and along = h . y [N]."""
    kernels, stream = cuda_kernels(z)
    kernels.attention_through_activation(
        native.dtype_code(z.dtype), *h.shape, upstream.data_ptr(), upstream.stride(0), upstream.dtype != z.dtype,
        z.data_ptr(), z.stride(0), tanh, h.data_ptr(), along.data_ptr(), stream,
    )  # fmt: skip


def backward_source(of: Source) -> None:
    """Write dx, and what each edge gives the next launch."""
    kernels, stream = cuda_kernels(of.x)
    kernels.attention_backward_source(
        *_shape(of.x), *_pointers(of.segments), of.edge_destination.data_ptr(), of.edge_set.data_ptr(),
        of.x.data_ptr(), of.x.stride(0), of.reflectors.data_ptr(), of.logits.data_ptr(), native.address(of.vector),
        of.h.data_ptr(), of.along.data_ptr(), of.lse.data_ptr(),
        native.address(of.direct), 0 if of.direct is None else of.direct.stride(0), of.direct_rows,
        of.dx.data_ptr(), of.part_sum.data_ptr(), of.edge_weight.data_ptr(), of.edge_slope.data_ptr(), stream,
    )  # fmt: skip


def backward_set(of: Set) -> None:
    """Write du, dc and, in triple mode, dw of one layer."""
    kernels, stream = cuda_kernels(of.x)
    kernels.attention_backward_set(
        *_shape(of.x), *_pointers(of.segments),
        of.set_edge.data_ptr(), of.set_source.data_ptr(), of.set_destination.data_ptr(),
        of.x.data_ptr(), of.x.stride(0), of.reflectors.data_ptr(), native.address(of.vector),
        of.h.data_ptr(), of.edge_weight.data_ptr(), of.edge_slope.data_ptr(), of.du.data_ptr(), of.dc.data_ptr(),
        native.address(of.dw_parts), of.part_sum.data_ptr(), of.part_slope.data_ptr(), stream,
    )  # fmt: skip


def _shape(x: Tensor) -> tuple[int, int]:
    return native.dtype_code(x.dtype), x.shape[1]


def _pointers(segments: Segments) -> tuple[int, ...]:
    return (
        len(segments.row), segments.parts, *(t.data_ptr() for t in segments[:3]),
        len(segments.shared), segments.shared.data_ptr(), segments.shared_ptr.data_ptr(),
    )  # fmt: skip
