"""Relation-reflection attention on CUDA: workspaces for, and calls of, the native kernels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from loginmea_fast.kernels._segments import Segments, schedule_of

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
    lse: Tensor,
    logits: Tensor,
    reflectors: Tensor,
    neighbor_vectors: Tensor | None,
    index: Sequence[Tensor],
    activation: str,
) -> None:
    """Fill z_1 ... z_L [N, d] and lse [L, N], given z_0, logits [L, U], reflectors [U, d] and the graph's index."""
    kernels, dtype, stream = _library(reflectors)
    width = reflectors.shape[1]
    segments = schedule_of(index, reflectors.shape[0]).by_destination
    sums = lse.new_empty(segments.parts, width)
    peaks, totals = lse.new_empty(2, segments.parts)
    for layer, y in enumerate(z[1:]):
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
    lse: Tensor,
    logits: Tensor,
    reflectors: Tensor,
    neighbor_vectors: Tensor | None,
    index: Sequence[Tensor],
    activation: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """The gradient of the chain, given dL/dz_k (None where z_k got none but the chain's).

    Returns:
        dx [N, d] in the dtype of z, du [U, d], dc [L, U] and dw [L, d] or None in the dtype of the sums.
    """
    kernels, dtype, stream = _library(reflectors)
    entities, width, layers = z[0].shape[0], reflectors.shape[1], len(logits)
    schedule = schedule_of(index, reflectors.shape[0])
    by_source, by_set = schedule.by_source, schedule.by_set
    tanh = activation == "tanh"
    h, dx = lse.new_empty(entities, width), lse.new_empty(entities, width)
    along = lse.new_empty(entities)
    weight, slope = lse.new_empty(2, index[4].numel())
    source_sums, set_sums = lse.new_empty(by_source.parts, width), lse.new_empty(by_set.parts, width)
    set_slopes = lse.new_empty(by_set.parts)
    du, dc = logits.new_zeros(reflectors.shape), torch.empty_like(logits)
    dw = None if neighbor_vectors is None else torch.empty_like(neighbor_vectors)
    set_vectors = None if dw is None else dw.new_empty(len(by_set.row), width)
    upstream = grads[layers]
    assert upstream is not None
    upstream = _in_fours(upstream)
    for layer in reversed(range(layers)):
        x, direct = _in_fours(z[layer]), grads[layer]
        direct = None if direct is None else _in_fours(direct)
        kernels.attention_through_activation(
            dtype, entities, width, upstream.data_ptr(), upstream.stride(0), upstream is dx,
            z[layer + 1].data_ptr(), z[layer + 1].stride(0), tanh, h.data_ptr(), along.data_ptr(), stream,
        )  # fmt: skip
        kernels.attention_backward_source(
            dtype, width, *_arguments(by_source), index[4].data_ptr(), index[5].data_ptr(),
            x.data_ptr(), x.stride(0), reflectors.data_ptr(), logits[layer].data_ptr(), _row(neighbor_vectors, layer),
            h.data_ptr(), along.data_ptr(), lse[layer].data_ptr(),
            0 if direct is None else direct.data_ptr(), 0 if direct is None else direct.stride(0),
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
        upstream = dx
    return dx.to(z[0].dtype), du, dc, dw


def _library(tensor: Tensor) -> tuple[Any, int, int]:
    """The kernels, the code of the dtype and the stream to launch on."""
    from loginmea_fast import native

    stream = torch.cuda.current_stream(tensor.device).cuda_stream
    return native.load("cuda"), native.dtype_code(tensor.dtype), stream


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
