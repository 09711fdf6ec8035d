"""The contrastive loss on CUDA: torch's matrix products (cuBLAS), a panel at a time, native kernels between them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor

__all__ = ["contrastive_loss"]

PANEL_BYTES = 32 << 20  # of products: with the weights made of them they stay in an L2 of 40 or 50 MiB
FEWEST_ROWS = 128  # of a panel, however many keys there are


def contrastive_loss(
    left: Tensor,
    right: Tensor,
    extra_keys: Tensor | None,
    temperature: float,
    bidirectional: bool,
    precision: str,
    with_gradient: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Loss and, `with_gradient`, its gradients to the rows; arguments and results as the operator's body has them."""
    from loginmea_fast import native

    kernels, dtype_code = native.load("cuda"), native.dtype_code
    stream = torch.cuda.current_stream(left.device).cuda_stream
    batch, width = left.shape
    sums_dtype = torch.float64 if left.dtype == torch.float64 else torch.float32
    sums_code = dtype_code(sums_dtype)
    multiplied = torch.bfloat16 if sums_dtype == torch.float32 and precision == "bfloat16" else left.dtype
    keys = [(right, slice(0, batch))]  # rows, and their columns of the panel
    if extra_keys is not None and len(extra_keys):
        keys.append((extra_keys, slice(batch, batch + len(extra_keys))))
    columns = keys[-1][1].stop

    def new(*shape: int) -> Tensor:
        return torch.empty(shape, dtype=sums_dtype, device=left.device)

    def inverse_lengths(rows: Tensor, out: Tensor) -> None:
        kernels.contrastive_inverse_lengths(
            dtype_code(rows.dtype), rows.data_ptr(), rows.stride(0), len(rows), width, out.data_ptr(), stream
        )

    def through_length(sums: Tensor, rows: Tensor, inverse_length: Tensor, out: Tensor) -> None:
        kernels.contrastive_through_length(
            dtype_code(rows.dtype), sums.data_ptr(), rows.data_ptr(), rows.stride(0), len(rows), width,
            inverse_length.data_ptr(), out.data_ptr(), stream,
        )  # fmt: skip

    left_scale, key_scale = new(batch), new(columns)
    inverse_lengths(left, left_scale)
    for rows, place in keys:
        inverse_lengths(rows, key_scale[place])
    operands = [rows.to(multiplied) for rows, _ in keys]
    row_bytes = columns * sums_dtype.itemsize
    panel_rows = min(batch, max(FEWEST_ROWS, PANEL_BYTES // row_bytes // FEWEST_ROWS * FEWEST_ROWS))
    panel = new(panel_rows, columns)
    weights = panel if multiplied == sums_dtype else panel.to(multiplied)
    lse, positive = new(batch), new(batch)
    starts = range(0, batch, panel_rows)

    def fill(start: int) -> Tensor:
        """Products of the left rows from `start` on with all keys; returns these rows as they are multiplied."""
        queries = left[start : start + panel_rows].to(multiplied)
        for operand, (_, place) in zip(operands, keys, strict=True):
            _multiply(queries, operand.T, panel[: len(queries), place])
        return queries

    def differentiate(start: int, queries: Tensor) -> None:
        """Turn a panel's products into weights and add the products that these make to the gradients."""
        rows = len(queries)
        kernels.contrastive_weigh(
            dtype_code(multiplied), sums_code, panel.data_ptr(), panel.stride(0), rows, columns, batch, start,
            left_scale.data_ptr(), key_scale.data_ptr(), lse.data_ptr(),
            column_lse.data_ptr() if bidirectional else 0,
            temperature, weights.data_ptr(), weights.stride(0), stream,
        )  # fmt: skip
        own = slice(start, start + rows)
        for operand, sums, (_, place) in zip(operands, key_sums, keys, strict=True):
            _multiply(weights[:rows, place], operand, left_sums[:rows], add=place.start > 0)
            _multiply(weights[:rows, place].T, queries, sums, add=start > 0)
        through_length(left_sums, left[own], left_scale[own], left_gradient[own])

    with _products_in(precision):
        if with_gradient:
            left_gradient = torch.empty(left.shape, dtype=left.dtype, device=left.device)
            left_sums, key_sums = new(panel_rows, width), [new(*rows.shape) for rows, _ in keys]
        largest, total = new(batch).fill_(-torch.inf), new(batch).zero_()
        for start in starts:
            queries = fill(start)
            scaled_panel = (
                sums_code, panel.data_ptr(), panel.stride(0), len(queries),
            )  # fmt: skip
            scales = left_scale.data_ptr(), key_scale.data_ptr(), temperature
            kernels.contrastive_normalise_rows(
                *scaled_panel, columns, start, *scales, lse.data_ptr(), positive.data_ptr(), stream
            )
            if bidirectional:
                kernels.contrastive_normalise_columns(
                    *scaled_panel, batch, start, *scales, largest.data_ptr(), total.data_ptr(), stream
                )
            elif with_gradient:
                differentiate(start, queries)
        column_lse = largest + total.log()
        if bidirectional and with_gradient:
            for start in starts:
                differentiate(start, fill(start))
    loss = (lse - positive).mean()
    if bidirectional:
        loss = (loss + (column_lse - positive).mean()) / 2
    empty = left.new_empty(0, width)
    if not with_gradient:
        return loss, empty, empty.clone(), empty.clone()
    key_gradients = []
    for (rows, place), sums in zip(keys, key_sums, strict=True):
        out = sums if rows.dtype == sums_dtype else torch.empty_like(sums, dtype=rows.dtype)
        through_length(sums, rows, key_scale[place], out)
        key_gradients.append(out)
    return loss, left_gradient, key_gradients[0], key_gradients[1] if len(key_gradients) > 1 else empty


def _multiply(a: Tensor, b: Tensor, out: Tensor, add: bool = False) -> None:
    """Multiply into `out`, or add to it; bfloat16 operands into float32 without rounding in between."""
    if a.dtype == out.dtype:
        torch.addmm(out, a, b, out=out) if add else torch.mm(a, b, out=out)
    elif hasattr(torch.ops.aten.addmm, "dtype_out"):
        if add:
            torch.ops.aten.addmm.dtype_out(out, a, b, out.dtype, out=out)
        else:
            torch.ops.aten.mm.dtype_out(a, b, out.dtype, out=out)
    else:  # torch before 2.8
        _multiply(a.to(out.dtype), b.to(out.dtype), out, add)


@contextlib.contextmanager
def _products_in(precision: str) -> Iterator[None]:
    """Let torch's float32 products round to `precision` meanwhile, but touch the global setting only to change it."""
    wanted, before = {"ieee": "highest", "tf32": "high"}.get(precision), torch.get_float32_matmul_precision()
    if wanted is None or wanted == before:
        yield
        return
    torch.set_float32_matmul_precision(wanted)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
