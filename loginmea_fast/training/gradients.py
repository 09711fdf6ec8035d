"""What processes make of their gradients before a step: sums, and one norm of all."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from loginmea_fast.parallel import World

__all__ = ["gradient_norm", "summed"]


def gradient_norm(parameters: Sequence[nn.Parameter], tables: Sequence[nn.Parameter], world: World) -> Tensor:
    """The norm of all gradients; those of what every process holds are summed over the processes first.

    Args:
        parameters: all, the tables among them.
        tables: of which each process has rows of its own, where there are several.
        world: the processes.
    """
    if world.size == 1:
        return nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
    divided = {id(table) for table in tables}
    gradients = [p.grad for p in parameters if p.grad is not None and id(p) not in divided]
    world.sum_(gradients)
    squares = nn.utils.get_total_norm([t.grad for t in tables if t.grad is not None]).square()
    world.sum_([squares])
    return (nn.utils.get_total_norm(gradients).square() + squares).sqrt()


def summed(terms: dict[str, float], world: World) -> dict[str, float]:
    """Shares of the terms of a loss, added up over the processes; nothing to do where there is one term, the loss."""
    if world.size == 1 or len(terms) < 2:
        return terms
    totals = torch.tensor([*terms.values()], dtype=torch.float64)
    world.sum_([totals])
    return dict(zip(terms, totals.tolist(), strict=True))
