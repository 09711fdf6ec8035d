"""Launches of relation-reflection attention in CUDA C++; names and arguments are those of the Triton module.

With LOGINMEA_HOPPER=1 the rows of edges come by bulk copies, from compute capability 9.0 on. No card has shown yet
which way is faster.
"""

from __future__ import annotations

import os

import torch
from torch import Tensor

from loginmea_fast.kernels._launches import Forward, Set, Source
from loginmea_fast.ops._cuda_launch import launch
from loginmea_fast.ops._dispatch import capability

__all__ = ["backward_set", "backward_source", "forward", "rows", "through_activation", "unsupported"]


def unsupported(dtype: torch.dtype, width: int) -> str | None:
    """Why these kernels cannot take such rows, or None. The limits are those of `with_layout` in the source."""
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
    launch("attention_forward", of.x, *of, _ring(of.x))


def through_activation(upstream: Tensor, z: Tensor, tanh: bool, h: Tensor, along: Tensor) -> None:
    """Fill h = dL/dy [N, d] and along = h . y [N]."""
    launch("attention_through_activation", z, upstream, z, tanh, h, along)


def backward_source(of: Source) -> None:
    """Write dx, and what each edge gives the next launch."""
    launch("attention_backward_source", of.x, *of, _ring(of.x))


def backward_set(of: Set) -> None:
    """Write du and dc of one layer."""
    launch("attention_backward_set", of.x, *of, _ring(of.x))


def _ring(x: Tensor) -> bool:
    """Whether rings are wanted and the card has them."""
    return os.environ.get("LOGINMEA_HOPPER") == "1" and capability(x) >= (9, 0)
