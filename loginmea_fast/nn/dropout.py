"""Dropout whose mask costs less than what is dropped."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from loginmea_fast.errors import ConfigError

__all__ = ["PooledDropout"]

# Decisions: 1 MB, which stays in L2. A prime shares no factor with a width, so that repeats do not line up in columns.
_POOL = 262147


class PooledDropout(nn.Module):
    """Dropout (Srivastava et al., JMLR 2014) with masks cut from a pool of random decisions.

    Drawing a number for every element costs more than what surrounds it. Here a pool of 262,147 decisions is drawn
    once, and a call multiplies its input by the pool from a random place on, over and over. Each element is kept with
    probability 1 - p; larger inputs repeat their decisions at a distance that is shifted against the rows.

    The mask of a call is a function of `seed`, of `step`, which the caller sets, and of how many calls came before it
    in that step: a run that is resumed at a step drops the same.

    Args:
        p: probability of an element to be dropped, below 1.
        seed: of pool and places.

    Raises:
        ConfigError: p is not in [0, 1).
    """

    pool: Tensor

    def __init__(self, p: float, seed: int = 0) -> None:
        super().__init__()
        if not 0.0 <= p < 1.0:
            raise ConfigError(f"p must be at least 0 and below 1; got {p}")
        self.p, self.seed = p, seed
        generator = torch.Generator().manual_seed(seed)
        keep = torch.rand(_POOL, generator=generator) >= p
        self.register_buffer("pool", keep.to(torch.float32) / (1.0 - p), persistent=False)
        self.set_step(0)

    def set_step(self, step: int) -> None:
        """Begin a step: the calls that follow depend on it alone."""
        self._places = torch.Generator().manual_seed(self.seed * 1_000_003 + step)

    def forward(self, x: Tensor) -> Tensor:
        """Drop elements of x, and scale the others by 1 / (1 - p); in evaluation x itself."""
        if not self.training or self.p == 0.0:
            return x
        place = int(torch.randint(len(self.pool), (1,), generator=self._places))
        dropped: Tensor = _Masked.apply(x, self.pool.to(x.dtype), place)
        return dropped


class _Masked(torch.autograd.Function):
    """x times the pool from a place on; its gradient is the same of the gradient, and keeps no mask."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, pool: Tensor, place: int) -> Tensor:
        ctx.save_for_backward(pool)
        ctx.place = place
        return _masked(x, pool, place)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (pool,) = ctx.saved_tensors
        return _masked(gradient, pool, ctx.place), None, None


def _masked(x: Tensor, pool: Tensor, place: int) -> Tensor:
    x = x.contiguous()
    out = torch.empty_like(x)
    source, target = x.view(-1), out.view(-1)
    mask = torch.roll(pool, -place)
    whole = len(source) // len(mask) * len(mask)
    torch.mul(source[:whole].view(-1, len(mask)), mask, out=target[:whole].view(-1, len(mask)))
    torch.mul(source[whole:], mask[: len(source) - whole], out=target[whole:])
    return out
