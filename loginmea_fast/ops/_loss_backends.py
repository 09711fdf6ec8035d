"""The backends of contrastive_loss: the same arguments for each, losses and gradients from each."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from loginmea_fast.reference import contrastive_loss as reference

__all__ = ["Arguments", "Outputs", "by_cpu", "by_reference", "by_triton", "empty_gradients"]

Outputs = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]


class Arguments(NamedTuple):
    """What a backend is given: the operator's arguments, checked, all but rows contiguous."""

    queries: Tensor
    keys: Tensor
    more_keys: Tensor | None
    positives: Tensor | None
    temperature: float
    temperatures: Tensor | None
    key_bias: Tensor | None
    excluded: Tensor | None
    coefficients: Tensor | None
    normalize: bool
    positive_in_denominator: bool
    both_ways: bool
    precision: str
    with_gradient: bool

    @property
    def sums_dtype(self) -> torch.dtype:
        """Of logits, losses, and the gradients that are sums of weights."""
        return reference.accumulation_dtype(self.queries.dtype)

    @property
    def scoring(self) -> tuple[Tensor | float, Tensor | None, Tensor | None, Tensor | None, bool, bool, bool]:
        """What makes losses of products, in the order of the reference and of Triton."""
        return (
            self.temperature if self.temperatures is None else self.temperatures,
            self.key_bias,
            self.excluded,
            self.coefficients,
            self.normalize,
            self.positive_in_denominator,
            self.both_ways,
        )

    @property
    def blocks(self) -> list[Tensor]:
        """The keys, block by block; their columns follow each other."""
        return [self.keys] if self.more_keys is None else [self.keys, self.more_keys]

    def empty(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Memory for the gradients, of no size where none is wanted."""
        return empty_gradients(
            self.queries, self.keys, self.more_keys, self.temperatures, self.key_bias, self.with_gradient
        )


def empty_gradients(
    queries: Tensor,
    keys: Tensor,
    more_keys: Tensor | None,
    temperatures: Tensor | None,
    key_bias: Tensor | None,
    with_gradient: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    wanted = int(with_gradient)
    width, dtype = queries.shape[1], reference.accumulation_dtype(queries.dtype)
    more = 0 if more_keys is None else more_keys.shape[0]
    return (
        queries.new_empty(wanted * queries.shape[0], width),
        queries.new_empty(wanted * keys.shape[0], width),
        queries.new_empty(wanted * more, width),
        queries.new_empty(0 if key_bias is None else wanted * key_bias.shape[0], dtype=dtype),
        queries.new_empty(0 if temperatures is None else wanted * queries.shape[0], dtype=dtype),
    )


def by_cpu(call: Arguments) -> Outputs:
    from loginmea_fast import native

    def with_dense_rows(rows: Tensor) -> Tensor:
        return rows if rows.stride(1) == 1 or rows.shape[1] == 1 else rows.contiguous()

    queries, blocks = with_dense_rows(call.queries), [with_dense_rows(rows) for rows in call.blocks]
    gradients = call.empty()
    rows = queries.new_empty(len(queries), dtype=call.sums_dtype)
    start, excluded = None, None
    if call.excluded is not None:
        pairs = call.excluded
        excluded = pairs[(pairs[:, 0] * sum(map(len, blocks)) + pairs[:, 1]).argsort(), 1].contiguous()
        start = torch.zeros(len(queries) + 1, dtype=torch.int64)
        start[1:] = torch.bincount(pairs[:, 0], minlength=len(queries)).cumsum(0)
    wants_bias, wants_temperature = (
        call.with_gradient and tensor is not None for tensor in (call.key_bias, call.temperatures)
    )
    loss = native.load("cpu").contrastive_loss(
        native.dtype_code(queries.dtype),
        queries.data_ptr(), queries.stride(0), len(queries), queries.shape[1],
        [keys.data_ptr() for keys in blocks], [keys.stride(0) for keys in blocks], [len(keys) for keys in blocks],
        native.address(call.positives), native.address(start), native.address(excluded),
        native.address(call.key_bias),
        call.temperature, native.address(call.temperatures), native.address(call.coefficients),
        call.normalize, call.positive_in_denominator, call.both_ways, call.precision == "bfloat16",
        rows.data_ptr(),
        gradients[0].data_ptr() if call.with_gradient else 0,
        [gradients[1].data_ptr(), gradients[2].data_ptr()][: len(blocks)],
        gradients[3].data_ptr() if wants_bias else 0,
        gradients[4].data_ptr() if wants_temperature else 0,
        torch.get_num_threads(),
    )  # fmt: skip
    return queries.new_tensor(loss, dtype=call.sums_dtype), rows, *gradients


def by_triton(call: Arguments) -> Outputs:
    from loginmea_fast.kernels import contrastive_loss as kernels

    loss, rows, gradients = kernels.contrastive_loss(
        call.queries,
        call.blocks,
        call.positives,
        *call.scoring,
        call.precision,
        call.with_gradient,
    )
    return loss, rows, *(call.empty() if gradients is None else gradients)


def by_reference(call: Arguments) -> Outputs:
    """Answer by the plain formula, whose products are those of the rows' dtype whatever the precision."""
    batch = len(call.queries)
    positives = torch.arange(batch, device=call.queries.device) if call.positives is None else call.positives
    found = reference.contrastive_loss_gradient(
        call.queries,
        call.keys if call.more_keys is None else torch.cat([call.keys, call.more_keys]),
        positives,
        *call.scoring,
    )
    empty = call.empty()
    if not call.with_gradient:
        return found.loss, found.rows, *empty
    count = len(call.keys)
    return (
        found.loss,
        found.rows,
        found.queries,
        found.keys[:count].clone(),
        found.keys[count:].clone(),
        empty[3] if call.key_bias is None else found.key_bias,
        empty[4] if call.temperatures is None else found.temperature,
    )
