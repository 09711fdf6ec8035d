"""Relation-reflection attention on CUDA: workspaces for, and calls of, the native kernels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from loginmea_fast import native
from loginmea_fast.kernels._segments import Segments, schedule_of
from loginmea_fast.ops import _dispatch

__all__ = ["relation_reflection_backward", "relation_reflection_forward", "unsupported"]


def unsupported(dtype: torch.dtype, width: int) -> str | None:
    """Why these kernels cannot take such rows, or None. The limits are those of `with_shape` in the source."""
    fours, others = (384, 320) if dtype == torch.float64 else (1024, 512)
    if width <= (others if width % 4 else fours):
        return None
    name = str(dtype).removeprefix("torch.")
    return f"it takes {name} rows of up to {fours} columns, {others} where not a multiple of 4; these have {width}"


def relation_reflection_forward(
    z: Sequence[Tensor],
    lse: Sequence[Tensor],
    logits: Tensor,
    reflectors: Tensor,
    neighbor_vectors: Tensor | None,
    graphs: Sequence[Sequence[Tensor]],
    activation: str,
) -> None:
    """Fill z_1 ... z_L and lse, given z_0, logits [L, U], reflectors [U, d] and the index of each layer."""
    kernels, dtype, stream = _library(reflectors)
    width = reflectors.shape[1]
    for layer, (y, index) in enumerate(zip(z[1:], graphs, strict=True)):
        segments = schedule_of(index, reflectors.shape[0]).by_destination
        sums = logits.new_empty(segments.parts, width)
        peaks, totals = logits.new_empty(2, segments.parts)
        x = _in_fours(z[layer])
        kernels.attention_forward(
            dtype, width, *_arguments(segments), index[1].data_ptr(), index[2].data_ptr(),
            x.data_ptr(), x.stride(0), reflectors.data_ptr(), logits[layer].data_ptr(),
            _row(neighbor_vectors, layer), activation == "tanh", y.data_ptr(), y.stride(0), lse[layer].data_ptr(),
            sums.data_ptr(), peaks.data_ptr(), totals.data_ptr(), stream,
        )  # fmt: skip


def relation_reflection_backward(
    grads: Sequence[Tensor | None],
    z: Sequence[Tensor],
    lse: Sequence[Tensor],
    logits: Tensor,
    reflectors: Tensor,
    neighbor_vectors: Tensor | None,
    graphs: Sequence[Sequence[Tensor]],
    activation: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """The gradient of the chain, given dL/dz_k for the rows of z_L (None where z_k got none but the chain's).

    Returns:
        dx in the dtype of z, du [U, d], dc [L, U] and dw [L, d] or None in the dtype of the sums.
    """
    kernels, dtype, stream = _library(reflectors)
    width, layers = reflectors.shape[1], len(logits)
    tanh = activation == "tanh"
    du, dc = logits.new_zeros(reflectors.shape), torch.empty_like(logits)
    dw = None if neighbor_vectors is None else torch.empty_like(neighbor_vectors)
    upstream = grads[layers]
    assert upstream is not None
    direct_rows, wide = len(upstream), False
    # The lowest layer has the most rows and edges; those above take the first of its room.
    all_h, all_dx, all_along = (
        logits.new_empty(z[1].shape),
        logits.new_empty(z[0].shape),
        logits.new_empty(len(z[1])),
    )
    all_weight, all_slope = logits.new_empty(2, graphs[0][4].numel())
    upstream = _in_fours(upstream)
    for layer in reversed(range(layers)):
        x, direct, index = _in_fours(z[layer]), grads[layer], graphs[layer]
        direct = None if direct is None else _in_fours(direct)
        schedule = schedule_of(index, reflectors.shape[0])
        by_source, by_set = schedule.by_source, schedule.by_set
        rows, edges = len(z[layer + 1]), index[4].numel()
        h, along, dx = all_h[:rows], all_along[:rows], all_dx[: len(x)]
        weight, slope = all_weight[:edges], all_slope[:edges]
        source_sums, set_sums = (
            logits.new_empty(by_source.parts, width),
            logits.new_empty(by_set.parts, width),
        )
        set_slopes = logits.new_empty(by_set.parts)
        set_vectors = None if dw is None else dw.new_empty(len(by_set.row), width)
        kernels.attention_through_activation(
            dtype, len(h), width, upstream.data_ptr(), upstream.stride(0), wide,
            z[layer + 1].data_ptr(), z[layer + 1].stride(0), tanh, h.data_ptr(), along.data_ptr(), stream,
        )  # fmt: skip
        kernels.attention_backward_source(
            dtype, width, *_arguments(by_source), index[4].data_ptr(), index[5].data_ptr(),
            x.data_ptr(), x.stride(0), reflectors.data_ptr(), logits[layer].data_ptr(), _row(neighbor_vectors, layer),
            h.data_ptr(), along.data_ptr(), lse[layer].data_ptr(),
            0 if direct is None else direct.data_ptr(), 0 if direct is None else direct.stride(0), direct_rows,
            dx.data_ptr(), source_sums.data_ptr(), weight.data_ptr(), slope.data_ptr(), stream,
        )  # fmt: skip
        kernels.attention_backward_set(
            dtype, width, *_arguments(by_set), schedule.set_edge.data_ptr(), schedule.set_source.data_ptr(),
            schedule.set_destination.data_ptr(), x.data_ptr(), x.stride(0), reflectors.data_ptr(),
            _row(neighbor_vectors, layer), h.data_ptr(), weight.data_ptr(), slope.data_ptr(),
            du.data_ptr(), dc[layer].data_ptr(), 0 if set_vectors is None else set_vectors.data_ptr(),
            set_sums.data_ptr(), set_slopes.data_ptr(), stream,
        )  # fmt: skip
        if dw is not None and set_vectors is not None:
            torch.sum(set_vectors, 0, out=dw[layer])
        upstream, wide = dx, True
    return upstream.to(z[0].dtype), du, dc, dw


def _library(tensor: Tensor) -> tuple[Any, int, int]:
    """The kernels, the code of the dtype and the stream to launch on."""
    kernels, stream = _dispatch.cuda_kernels(tensor)
    return kernels, native.dtype_code(tensor.dtype), stream


def _arguments(segments: Segments) -> tuple[int, ...]:
    return (
        len(segments.row), segments.parts, *(t.data_ptr() for t in segments[:3]),
        len(segments.shared), segments.shared.data_ptr(), segments.shared_ptr.data_ptr(),
    )  # fmt: skip


def _in_fours(rows: Tensor) -> Tensor:
    """Rows that kernels read four elements at a time where the width allows; a copy costs less than the gathers."""
    aligned = rows.stride(0) % 4 == 0 and rows.data_ptr() % (4 * rows.element_size()) == 0
    return rows if rows.shape[1] % 4 or aligned else rows.clone(memory_format=torch.contiguous_format)


def _row(vectors: Tensor | None, layer: int) -> int:
    return 0 if vectors is None else vectors[layer].data_ptr()
