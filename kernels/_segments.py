"""How a graph is cut for a GPU's attention kernels, of Triton and of CUDA C++ alike.

A *segment* is a run of at most SEGMENT edges of one entity (or one relation set) and the work of one program or warp,
so that an entity with most of the edges does not serialise a launch. A row with one segment is finished by it. The
partial results of a row with more are added up, in order, by a second kernel: no atomics, the same bits again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from loginmea_fast.derived import Derived

__all__ = ["SEGMENT", "Schedule", "Segments", "schedule_of"]

SEGMENT = (
    128  # edges; a long one must not outlast the rest of a launch, a short one leaves more to be added up
)


class Segments(NamedTuple):
    """Rows cut into segments, every row into one at least.

    The first `parts` segments, which start the launch, are those of rows with several: the number of such a segment is
    the place of its partial result. Each of the others is a whole row.

    Attributes:
        row: int32 [S], row of each segment.
        start: int32 [S], first edge.
        stop: int32 [S], one past its last edge.
        shared: int32 [P], rows of several segments, ascending.
        shared_ptr: int64 [P + 1], their segments.
        parts: how many segments belong to them.
    """

    row: Tensor
    start: Tensor
    stop: Tensor
    shared: Tensor
    shared_ptr: Tensor
    parts: int


class Schedule(NamedTuple):
    """What the launches need of a graph beyond its index.

    Attributes:
        by_destination: segments of destination order.
        by_source: segments of source order.
        by_set: segments of set order.
        set_edge: int32 [E], positions in source order, by set.
        set_source: int32 [E], their sources.
        set_destination: int32 [E], their destinations.
        set_ptr: int64 [U + 1], the edges of each set in set order.
    """

    by_destination: Segments
    by_source: Segments
    by_set: Segments
    set_edge: Tensor
    set_source: Tensor
    set_destination: Tensor
    set_ptr: Tensor


_schedules: Derived[Schedule] = Derived()


def schedule_of(index: Sequence[Tensor], num_sets: int) -> Schedule:
    """The schedule of a graph, made at the first call and kept as long as the graph is and stays the same.

    Making it reads sizes back from the device, so a CUDA graph is captured after a first step.

    Args:
        index: dst_ptr, dst_source, dst_set, src_ptr, src_destination, src_set, and what may follow.
        num_sets: U.
    """
    return _schedules.of(index[0], index[:6], lambda: _schedule(index, num_sets), num_sets)


def _schedule(index: Sequence[Tensor], num_sets: int) -> Schedule:
    dst_ptr, _, _, src_ptr, src_destination, src_set = index[:6]
    by_set = torch.argsort(src_set, stable=True)
    counts = torch.bincount(src_set, minlength=num_sets)
    set_ptr = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    sources = torch.arange(len(src_ptr) - 1, device=src_ptr.device)
    source = torch.repeat_interleave(sources, src_ptr.diff())
    return Schedule(
        _segments(dst_ptr),
        _segments(src_ptr),
        _segments(set_ptr),
        by_set.int(),
        source[by_set].int(),
        src_destination[by_set],
        set_ptr,
    )


def _segments(ptr: Tensor) -> Segments:
    count = ((ptr.diff() + SEGMENT - 1) // SEGMENT).clamp(min=1)
    rows = torch.arange(len(count), device=ptr.device)
    shared, whole = (count > 1).nonzero().squeeze(1), (count == 1).nonzero().squeeze(1)
    shared_ptr = torch.cat([count.new_zeros(1), count[shared].cumsum(0)])
    row = torch.repeat_interleave(rows[shared], count[shared])
    number = torch.arange(len(row), device=ptr.device)
    number -= torch.repeat_interleave(shared_ptr[:-1], count[shared])
    start = torch.cat([ptr[row] + number * SEGMENT, ptr[whole]])
    parts, row = len(row), torch.cat([row, whole])
    stop = torch.minimum(start + SEGMENT, ptr[row + 1])
    return Segments(row.int(), start.int(), stop.int(), shared.int(), shared_ptr, parts)
