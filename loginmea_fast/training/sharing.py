"""Linked entities share one embedding, which what is told apart does not see (after Dual-AMN; docs/model.md).

The entities of a training link are one thing, so one row serves both and learns from both neighbourhoods. It would also
give the answer away: in an update the entities whose links are told apart there have no embedding of their own.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["followers_of"]


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
