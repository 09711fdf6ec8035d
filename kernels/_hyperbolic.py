"""Tanh and its inverse to float32 rounding, of operations that Triton's interpreter has as well."""

from __future__ import annotations

import triton
import triton.language as tl

__all__ = ["atanh", "tanh"]


@triton.jit
def tanh(x):
    """A series where exp would cancel, (1 - e) / (1 + e) elsewhere."""
    t = x * x
    series = x * (1 + t * (-1 / 3 + t * (2 / 15 + t * (-17 / 315 + t * (62 / 2835 - t * (1382 / 155925))))))
    e = tl.exp(-2 * tl.abs(x))
    far = (1 - e) / (1 + e)
    return tl.where(tl.abs(x) < 0.3, series, tl.where(x < 0, -far, far))


@triton.jit
def atanh(z):
    """A series where the logarithm would cancel."""
    t = z * z
    series = z * (1 + t * (1 / 3 + t * (1 / 5 + t * (1 / 7 + t * (1 / 9 + t * (1 / 11 + t / 13))))))
    far = 0.5 * tl.log((1 + tl.abs(z)) / (1 - tl.abs(z)))
    return tl.where(tl.abs(z) < 0.3, series, tl.where(z < 0, -far, far))
