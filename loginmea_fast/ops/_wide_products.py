"""Products of bfloat16 matrices whose results are float32, by the vendor's library where it has them.

Of two matrices, or of as many pairs as both have along a first dimension. torch.mm and torch.bmm have an `out_dtype`
from 2.8 on, and torch.baddbmm one that some releases and devices have and refuse to run. So what is there is found out
by a product of ones, once a device, and every answer is as exact as the best one.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

__all__ = ["wide_product", "wide_products"]

# Of the device, not of the product: no room at the moment, or a fault of an earlier kernel that comes to light here.
_NO_ANSWER = (
    torch.OutOfMemoryError,
    *([torch.AcceleratorError] if hasattr(torch, "AcceleratorError") else []),
)


def wide_product(a: Tensor, b: Tensor) -> Tensor:
    """Multiply into float32, a [m, k] and b [k, n] both float32 or both bfloat16; without rounding in between."""
    if a.dtype == torch.bfloat16 and _runs("mm", a.device):
        return torch.mm(a, b, out_dtype=torch.float32)
    return torch.mm(a.float(), b.float())


def wide_products(a: Tensor, b: Tensor, out: Tensor, add: bool) -> None:
    """Multiply a [G, m, k] by b [G, k, n], matrix by matrix as `wide_product`, into `out`, float32, or add to it."""
    if a.dtype == torch.float32 or not _runs("bmm", a.device):
        a, b = a.float(), b.float()
        if add:
            torch.baddbmm(out, a, b, out=out)
        else:
            torch.bmm(a, b, out=out)
    elif not add:
        out.copy_(torch.bmm(a, b, out_dtype=torch.float32))
    elif _runs("baddbmm", a.device):
        torch.ops.aten.baddbmm.dtype_out(out, a, b, torch.float32, out=out)
    else:
        out += torch.bmm(a, b, out_dtype=torch.float32)


@functools.cache
def _runs(name: str, device: torch.device) -> bool:
    """Whether this torch multiplies bfloat16 into float32 on this device, by trying it."""
    one = torch.ones(16, 16, dtype=torch.bfloat16, device=device)
    ones = one[None]
    total = torch.ones(1, 16, 16, dtype=torch.float32, device=device)
    try:
        if name == "mm":
            return bool((torch.mm(one, one, out_dtype=torch.float32) == 16).all())
        if name == "bmm":
            return bool((torch.bmm(ones, ones, out_dtype=torch.float32) == 16).all())
        torch.ops.aten.baddbmm.dtype_out(total, ones, ones, torch.float32, out=total)
        return bool((total == 17).all())
    except _NO_ANSWER:
        raise
    except (RuntimeError, TypeError, AttributeError):  # NotImplementedError is one of the first
        return False
