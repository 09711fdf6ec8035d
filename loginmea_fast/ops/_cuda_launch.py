"""The one way in which Python calls a launch of the CUDA library."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from loginmea_fast import native
from loginmea_fast.kernels._segments import Segments
from loginmea_fast.ops._dispatch import cuda_kernels

__all__ = ["launch"]


def launch(name: str, on: Tensor, *arguments: Any) -> None:
    """Call a function of the library on the card and the stream of a tensor.

    Tensors of floats, or None in their place, become the `Matrix` of csrc/cuda/seam.h, tensors of integers their
    address; everything else stays what it is.
    """
    kernels, stream = cuda_kernels(on)
    getattr(kernels, name)(*map(_on_the_wire, arguments), stream)


def _on_the_wire(value: Any) -> Any:
    if value is None:
        return 0, 0, 0, 0, 0
    if isinstance(value, Segments):
        addresses = (tensor.data_ptr() for tensor in value[:3])
        shared = len(value.shared), value.shared.data_ptr(), value.shared_ptr.data_ptr()
        return len(value.row), value.parts, *addresses, *shared
    if not isinstance(value, Tensor):
        return value
    if not value.is_floating_point():
        return value.data_ptr()
    assert value.ndim == 1 or value.stride(1) == 1 or value.shape[1] <= 1, "elements of a row are adjacent"
    columns = 1 if value.ndim == 1 else value.shape[1]
    return value.data_ptr(), len(value), columns, value.stride(0), native.dtype_code(value.dtype)
