"""Rows of a table that lies divided among processes: fetched by those that need them, gradients returned."""

from __future__ import annotations

from copy import copy
from typing import Any

import torch
from torch import Tensor

from loginmea_fast.parallel.world import World

__all__ = ["Exchange", "Gather"]


class Exchange:
    """Which rows each process needs of which others; found out once by a collective, used as often as they are needed.

    Args:
        world: the processes.
        owner: int64 [W], the process that holds each row that this one needs, in ascending order.
        row: int64 [W], its number there.
        device: of the tables.

    Attributes:
        wanted: W.
        asked: int64 [A], the rows that the others need of this process, process by process.
    """

    def __init__(self, world: World, owner: Tensor, row: Tensor, device: torch.device) -> None:
        self.world, self.wanted = world, len(row)
        counts = torch.bincount(owner, minlength=world.size)
        asked = torch.empty_like(counts)
        each = [1] * world.size
        world.exchange(asked, counts, each, each)
        self._received, self._sent = counts.tolist(), asked.tolist()
        rows = row.new_empty(sum(self._sent))
        world.exchange(rows, row, self._sent, self._received)
        self.asked = rows.to(device)

    def renumbered(self, place: Tensor) -> Exchange:
        """The same where row r of this process stands at `place[r]`, int64 [n]."""
        other = copy(self)
        other.asked = place[self.asked]
        return other

    def fetch(self, table: Tensor, read: Tensor | int, activates: bool = False) -> Tensor:
        """Own rows and, behind them, those of others: [r + W, d]. Differentiable; a collective both ways.

        Args:
            table: own rows [n, d].
            read: int64 [r], those that are read, each once; or r, the first of them.
            activates: tanh of all of them, of which then nothing else is kept for the gradient.
        """
        fetched: Tensor = _Fetch.apply(table, self, read, activates)
        return fetched

    def rows(self, table: Tensor) -> Tensor:
        """Those of others alone, [W, d], without a gradient."""
        out = table.new_empty(self.wanted, *table.shape[1:])
        return self._send(out, table.index_select(0, self.asked))

    def add_(self, table: Tensor, gradients: Tensor) -> None:
        """The reverse: add [W, d] to the rows that they were fetched from, process by process in their order."""
        self._add(table, self._returned(gradients))

    def _send(self, out: Tensor, rows: Tensor) -> Tensor:
        return self.world.exchange(out, rows, self._received, self._sent)

    def _returned(self, gradients: Tensor) -> Tensor:
        """Of gradients of the rows that were fetched, [W, d], those of the rows that were sent, [A, d]."""
        came = gradients.new_empty(len(self.asked), *gradients.shape[1:])
        return self.world.exchange(came, gradients, self._sent, self._received)

    def _add(self, table: Tensor, came: Tensor) -> None:
        for rows, part in zip(self.asked.split(self._sent), came.split(self._sent), strict=True):
            table[rows] += part  # a process asks for a row once


class _Fetch(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, table: Tensor, exchange: Exchange, read: Tensor | int, activates: bool) -> Tensor:
        count = read if isinstance(read, int) else len(read)
        out = table.new_empty(count + exchange.wanted, table.shape[1])
        own = out[:count]
        own.copy_(table[:count]) if isinstance(read, int) else torch.index_select(table, 0, read, out=own)
        sent = table.index_select(0, exchange.asked)
        if activates:
            own.tanh_(), sent.tanh_()
        exchange._send(out[count:], sent)
        ctx.exchange, ctx.read, ctx.count, ctx.rows, ctx.activates = (
            exchange,
            read,
            count,
            len(table),
            activates,
        )
        ctx.save_for_backward(*(out, sent) if activates else ())
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        saved = ctx.saved_tensors  # which a checkpoint forms anew, by an exchange of its own
        own, came = gradient[: ctx.count], ctx.exchange._returned(gradient[ctx.count :])
        if ctx.activates:
            out, sent = saved
            own = torch.ops.aten.tanh_backward(own, out[: ctx.count])
            came = torch.ops.aten.tanh_backward(came, sent)
        whole = gradient.new_zeros(ctx.rows, gradient.shape[1])
        if isinstance(ctx.read, int):
            whole[: ctx.count] = own
        else:
            whole.index_copy_(0, ctx.read, own)
        ctx.exchange._add(whole, came)
        return whole, None, None, None


class Gather:
    """Rows that all processes want, of which each holds some.

    Args:
        world: the processes.
        owner: int64 [B], which process holds each row; the same in all.
    """

    def __init__(self, world: World, owner: Tensor) -> None:
        self.world = world
        self._order = owner.argsort(stable=True)
        self._counts = torch.bincount(owner, minlength=world.size).tolist()

    def __call__(self, rows: Tensor) -> Tensor:
        """All rows [B, d] in every process, of the own ones in their order.

        Differentiable: the gradient of a row is the sum of those of all processes, in their order.
        """
        gathered: Tensor = _Gathered.apply(rows, self)
        return gathered

    def forward(self, rows: Tensor) -> Tensor:
        """Without a gradient."""
        parts = []
        for process, count in enumerate(self._counts):
            own = process == self.world.rank
            part = rows.contiguous() if own else rows.new_empty(count, *rows.shape[1:])
            parts.append(self.world.broadcast(part, process))
        out = rows.new_empty(len(self._order), *rows.shape[1:])
        out[self._order.to(rows.device)] = torch.cat(parts)
        return out

    def backward(self, gradient: Tensor) -> Tensor:
        """The gradient of the own rows."""
        own = self._counts[self.world.rank]
        came = gradient.new_empty(self.world.size * own, *gradient.shape[1:])
        by_owner = gradient.index_select(0, self._order.to(gradient.device))
        self.world.exchange(came, by_owner, [own] * self.world.size, self._counts)
        return came.view(self.world.size, own, *gradient.shape[1:]).sum(0)


class _Gathered(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, gather: Gather) -> Tensor:
        ctx.gather = gather
        return gather.forward(rows)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return ctx.gather.backward(gradient), None
