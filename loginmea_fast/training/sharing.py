"""Linked entities share one embedding, which what is told apart does not see (after Dual-AMN; docs/model.md).

The entities of a training link are one thing, so one row serves both and learns from both neighbourhoods. It would also
give the answer away: in an update the entities whose links are told apart there have no embedding of their own.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["SharedRows", "followers_of"]


def followers_of(group_of: Tensor) -> tuple[Tensor, Tensor]:
    """Entities that follow, and whom: the first of their group. int64, both alike long.

    Args:
        group_of: int64 [N], the group of an entity; -1 where it has none and a row of its own.
    """
    entities = (group_of >= 0).nonzero()[:, 0]
    groups = group_of[entities]
    first = torch.full((int(groups.max()) + 1,), len(group_of))
    first.scatter_reduce_(0, groups, entities, "amin")
    leaders = first[groups]
    follows = leaders != entities
    return entities[follows], leaders[follows]


class SharedRows:
    """Rows of a table that are one parameter: the first of a group holds it, the others follow.

    Args:
        followers: int64 [F], see `followers_of`.
        leaders: int64 [F].
        device: of the table.
    """

    def __init__(self, followers: Tensor, leaders: Tensor, device: torch.device) -> None:
        self.followers, self.leaders = followers.to(device), leaders.to(device)

    @torch.no_grad()
    def spread(self, table: Tensor) -> None:
        """Give followers the rows of their leaders, in place: [N, d]."""
        table[self.followers] = table[self.leaders]

    @torch.no_grad()
    def collect(self, gradient: Tensor) -> None:
        """Add the gradients of followers to those of their leaders, in place: [N, d]."""
        gradient.index_add_(0, self.leaders, gradient[self.followers])
        gradient[self.followers] = 0
