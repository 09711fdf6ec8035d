"""Products of bfloat16 matrices whose results are float32, by the vendor's library where it has them.

torch.mm has an `out_dtype` from 2.8 on, and torch.addmm one that some releases and devices have and refuse to run. So
what is there is found out by a product of ones, once a device, and every answer is as exact as the best one.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

__all__ = ["add_wide_product", "wide_product"]

# Of the device, not of the product: no room at the moment, or a fault of an earlier kernel that comes to light here.
_NO_ANSWER = (
    torch.OutOfMemoryError,
    *([torch.AcceleratorError] if hasattr(torch, "AcceleratorError") else []),
)


def wide_product(a: Tensor, b: Tensor, out: Tensor | None = None) -> Tensor:
    """Multiply into float32, a [m, k] and b [k, n] both float32 or both bfloat16; without rounding in between."""
    if a.dtype == torch.float32:
        return torch.mm(a, b, out=out)
    if _runs("mm", a.device):
        product = torch.mm(a, b, out_dtype=torch.float32)
        return product if out is None else out.copy_(product)
    return torch.mm(a.float(), b.float(), out=out)


def add_wide_product(a: Tensor, b: Tensor, out: Tensor) -> None:
    """Add a b to `out`, float32; as `wide_product`."""
    if a.dtype == torch.float32:
        torch.addmm(out, a, b, out=out)
    elif _runs("addmm", a.device):
        torch.ops.aten.addmm.dtype_out(out, a, b, torch.float32, out=out)
    elif _runs("mm", a.device):
        out += torch.mm(a, b, out_dtype=torch.float32)
    else:
        torch.addmm(out, a.float(), b.float(), out=out)


@functools.cache
def _runs(name: str, device: torch.device) -> bool:
    """Whether this torch multiplies bfloat16 into float32 on this device, by trying it."""
    one = torch.ones(16, 16, dtype=torch.bfloat16, device=device)
    total = torch.ones(16, 16, dtype=torch.float32, device=device)
    try:
        if name == "mm":
            total = torch.mm(one, one, out_dtype=torch.float32)
            return bool((total == 16).all())
        torch.ops.aten.addmm.dtype_out(total, one, one, torch.float32, out=total)
        return bool((total == 17).all())
    except _NO_ANSWER:
        raise
    except (RuntimeError, TypeError, AttributeError):  # NotImplementedError is one of the first
        return False
