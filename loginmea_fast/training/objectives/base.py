"""What an objective is: a class that names its terms, says which further rows it needs, and computes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from loginmea_fast.nn import LoginMEAOutput

__all__ = ["Batch", "Objective"]


class Batch(NamedTuple):
    """Which rows of the model's output a batch of links is made of.

    Attributes:
        left: B rows, the left entities of its links.
        right: B rows, their counterparts in the same order.
        further: rows of entities of both graphs that none of these links names, nor another link of one of their
            entities; as many as the objectives asked for.
        same: int64 [P, 2], pairs of different links of the batch, by their place in it, that share an entity or are
            joined by links that do: their entities are one thing, and no negatives of each other.
        part: which of the links this process tells apart from all others, where several share the work; the loss is
            then its share of the batch's, whose sum over the processes is what one alone would compute.
    """

    left: slice
    right: slice
    further: slice
    same: Tensor
    part: slice | None = None

    @property
    def size(self) -> int:
        """B, the number of links."""
        return self.left.stop - self.left.start

    def own(self) -> Tensor:
        """Places of the links in `part`, and behind them of all others, int64 [B]."""
        places = torch.arange(self.size)
        assert self.part is not None, "asked where the work is shared"
        return torch.cat([places[self.part], places[: self.part.start], places[self.part.stop :]])

    def sides(self, output: Tensor) -> tuple[Tensor, Tensor]:
        """The rows of left and right entities, [B, .] each."""
        left, right = _Sides.apply(output, self.left, self.right)
        return left, right

    def rows_of(self, output: Tensor) -> Tensor:
        """The rows of left, right and further entities one after the other, [2 B + M, .]."""
        positions = torch.cat([torch.arange(rows.start, rows.stop) for rows in self[:3]])
        if torch.equal(positions, torch.arange(len(output))):
            return output  # as where an update is one batch: nothing to copy, and no gradient to add up
        return output.index_select(0, positions.to(output.device))


class _Sides(torch.autograd.Function):
    """Two ranges of rows. One node, because two slices have a gradient of the output's size each, and a sum of them."""

    @staticmethod
    def forward(ctx: Any, output: Tensor, left: slice, right: slice) -> tuple[Tensor, Tensor]:
        ctx.shape, ctx.ranges = output.shape, (left, right)
        return output[left], output[right]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        whole = gradients[0].new_zeros(ctx.shape)
        for rows, gradient in zip(ctx.ranges, gradients, strict=True):
            whole[rows] = gradient
        return whole, None, None


class Objective(Protocol):
    """A loss over a batch of links.

    Attributes:
        further: entities of each graph that it wants embedded beside the links'. They are drawn by seed, epoch and
            update before the model runs.
        reads: fields of the model's output that it reads; what no objective reads is let go before backward.
    """

    further: int
    reads: tuple[str, ...]

    def terms(self, modalities: Sequence[str], has_graph: bool) -> tuple[str, ...]:
        """Names of the terms that a call returns, given the model's modalities and whether it embeds structure."""

    def __call__(self, output: LoginMEAOutput, batch: Batch) -> dict[str, Tensor]:
        """Each term, a scalar."""
