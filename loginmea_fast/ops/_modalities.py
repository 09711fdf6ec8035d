"""What the operators over modalities share: checks of their inputs, and arguments as the CPU library takes them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from loginmea_fast.errors import BackendError, InputError
from loginmea_fast.ops import _dispatch

__all__ = [
    "autocast",
    "check_inputs",
    "check_present",
    "check_query",
    "check_small",
    "code",
    "cpu_row_type",
    "cpu_rows",
    "dense_rows",
    "load_cpu",
    "refuse_second_derivative",
    "sum_dtype",
    "sums",
]


def autocast(tensors: Sequence[Tensor]) -> list[Tensor]:
    def cast(tensor: Tensor) -> Tensor:
        dtype = _dispatch.autocast_dtype(tensor)
        return tensor if dtype is None or tensor.dtype == torch.float64 else tensor.to(dtype)

    return [cast(t) if isinstance(t, Tensor) else t for t in tensors]


def check_inputs(inputs: list[Tensor]) -> None:
    if not inputs:
        raise InputError("inputs must hold at least one modality; got none")
    for m, x in enumerate(inputs):
        _dispatch.check_float(f"inputs[{m}]", x)
        _dispatch.check_shape(f"inputs[{m}]", x, (None, None), "[rows, width of the modality]")
        if x.shape[0] != inputs[0].shape[0]:
            raise InputError(
                f"all modalities must have the same rows; inputs[{m}] has {x.shape[0]}, "
                f"inputs[0] has {inputs[0].shape[0]}"
            )
    named = {f"inputs[{m}]": x for m, x in enumerate(inputs)}
    _dispatch.check_same_dtype(**named)
    _dispatch.check_same_device(**named)


def check_query(inputs: list[Tensor], query: Tensor | None) -> None:
    if query is None:
        return
    width = inputs[0].shape[1]
    for m, x in enumerate(inputs):
        if x.shape[1] != width:
            raise InputError(
                f"modality attention needs inputs of one width; inputs[{m}] has {x.shape[1]}, inputs[0] has {width}"
            )
    _dispatch.check_shape("query", query, (1, width), "[1, width]")
    check_small("query", query, inputs[0])


def check_present(inputs: list[Tensor], present: Tensor | None) -> None:
    if present is None:
        return
    if not isinstance(present, Tensor) or present.dtype != torch.bool:
        raise InputError(
            f"present must be a bool tensor, True where a row has a modality; got "
            f"{present.dtype if isinstance(present, Tensor) else type(present).__name__}"
        )
    _dispatch.check_shape("present", present, (inputs[0].shape[0], len(inputs)), "[rows, modalities]")
    _dispatch.check_same_device(**{"inputs[0]": inputs[0], "present": present})


def check_small(name: str, tensor: Tensor, first: Tensor) -> None:
    """Small tensors may stay in float32 beside bfloat16 inputs: they cost nothing and their rounding would show."""
    allowed = (torch.bfloat16, torch.float32) if first.dtype == torch.bfloat16 else (first.dtype,)
    _dispatch.check_float(name, tensor, allowed)
    _dispatch.check_same_device(**{"inputs[0]": first, name: tensor})


def refuse_second_derivative(op: str) -> None:
    if torch.is_grad_enabled():
        raise BackendError(
            f"{op} can be differentiated once, without create_graph; for higher derivatives use "
            f"loginmea_fast.reference.low_rank_fusion.{op}"
        )


def sum_dtype(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def sums(tensor: Tensor) -> Tensor:
    """The tensor in the dtype of the sums: itself unless it is bfloat16."""
    return tensor.to(sum_dtype(tensor.dtype))


def dense_rows(tensor: Tensor) -> Tensor:
    """Itself if elements of a row are neighbours, else a copy."""
    return tensor if tensor.stride(1) == 1 or tensor.shape[1] == 1 else tensor.contiguous()


def load_cpu() -> Any:
    from loginmea_fast import native

    return native.load("cpu")


def code(dtype: torch.dtype) -> int:
    from loginmea_fast import native

    return native.dtype_code(dtype)


def cpu_rows(x: Sequence[Tensor]) -> tuple[list[int], list[int], list[int]]:
    """Addresses, row strides and widths."""
    return [v.data_ptr() for v in x], [v.stride(0) for v in x], [v.shape[1] for v in x]


def cpu_row_type(x: Sequence[Tensor]) -> tuple[int, int]:
    return code(x[0].dtype), torch.get_num_threads()
