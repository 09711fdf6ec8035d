"""What the launches of one layer of relation-reflection attention are given, of Triton and of CUDA C++ alike.

N rows are written, d is their width, U relation sets; sums are float32, or float64 for float64. Rows of x, y and direct
may lie apart, everything else is contiguous.
"""

from __future__ import annotations

from typing import NamedTuple

from loginmea_fast.kernels._segments import Segments
from torch import Tensor

__all__ = ["Forward", "Set", "Source"]


class Forward(NamedTuple):
    """y [N, d] and lse [N] are written; part_sum [parts, d] and part_scalars [2, parts] are room."""

    segments: Segments
    edge_source: Tensor
    edge_set: Tensor
    x: Tensor
    reflectors: Tensor
    logits: Tensor
    vector: Tensor | None  # w of triple mode
    tanh: bool
    y: Tensor
    lse: Tensor
    part_sum: Tensor
    part_scalars: Tensor  # largest logit, and sum of exponentials


class Source(NamedTuple):
    """dx and terms are written: of every edge in source order, what it gives the next launch.

    These are the factors of x_j and of h_i in du_s, the gradient dl of the logit, and in triple mode the factor of w in
    du_s.
    """

    segments: Segments
    edge_destination: Tensor
    edge_set: Tensor
    x: Tensor
    reflectors: Tensor
    logits: Tensor
    vector: Tensor | None
    h: Tensor
    along: Tensor
    lse: Tensor
    direct: Tensor | None  # what the first direct_rows of dx begin with, beside the gradient along edges
    direct_rows: int
    dx: Tensor
    part_sum: Tensor
    terms: Tensor  # [E, 4]


class Set(NamedTuple):
    """du [U, d] is added to, but for what is along w; dc [U] is written."""

    segments: Segments
    set_edge: Tensor
    set_source: Tensor
    set_destination: Tensor
    x: Tensor
    h: Tensor
    terms: Tensor
    du: Tensor
    dc: Tensor
    part_sum: Tensor
    part_scalars: Tensor  # [1, parts], of dc
