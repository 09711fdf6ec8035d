"""What an update sees: which links, and which further entities. Functions of (seed, epoch, update), without a state."""

from __future__ import annotations

import torch
from torch import Tensor

from loginmea_fast.data import AlignmentPair
from loginmea_fast.data.split import link_groups
from loginmea_fast.errors import DataError
from loginmea_fast.graph import AlignmentGraph
from loginmea_fast.training.config import Config
from loginmea_fast.training.partition import partition

__all__ = ["Sampler", "batches", "check_negatives"]


class Sampler:
    """Divides links into the updates of an epoch.

    Links that share an entity (1-to-n data) form a group: what one of them tells, none of the others may contradict.

    Attributes:
        links: int64 [T, 2].
        spans: (first, end) of each update's links in the order of an epoch. One update where `updates` is 0.
        group_of: int64 [N], the group of an entity; -1 where it has no link.
        graph: what an update is computed over: `graph`, or its parts where there are `partitions`.
        cut: the share of its edges that are left out.
    """

    def __init__(self, config: Config, pair: AlignmentPair, links: Tensor, graph: AlignmentGraph) -> None:
        """Take the links of an epoch, those that joined included."""
        self.config, self.pair, self.links = config, pair, links
        groups = link_groups(links)
        self._apart = groups is None
        self._groups = torch.arange(len(links)) if groups is None else groups
        self.group_of = torch.full((pair.num_entities,), -1)
        for side in links.unbind(1):
            self.group_of[side] = self._groups
        if config.updates:
            self.spans = batches(len(links), config.batch_size, at_least=config.updates)
        else:
            self.spans = [(0, len(links))]
        self.graph, self.cut = graph, 0.0
        self._part: Tensor | None = None
        self._order: tuple[int, Tensor] = (-1, links.new_empty(0))
        if config.partitions > 1:
            self._part, self.graph, self.cut = partition(graph, self.group_of, config.partitions, config.seed)

    def positions(self, epoch: int, update: int = 0) -> Tensor:
        """Positions in `links` of those that an update is about, int64 [B]."""
        if self._order[0] != epoch:
            self._order = epoch, self._shuffled(epoch)
        first, end = self.spans[update]
        return self._order[1][first:end]

    def _shuffled(self, epoch: int) -> Tensor:
        """Positions of all links, in the order of an epoch."""
        generator = torch.Generator().manual_seed(self.config.seed * 1_000_003 + epoch)
        order = torch.randperm(len(self.links), generator=generator)
        if self._part is not None:  # part after part, so that an update is about few of them
            turn = torch.randperm(self.config.partitions, generator=generator)
            order = order[turn[self._part[self.links[order, 0]]].argsort(stable=True)]
        return order

    def entities(self, positions: Tensor) -> Tensor:
        """Entities of links, those of their whole groups; int64, each once."""
        chosen = torch.zeros(int(self._groups.max()) + 1, dtype=torch.bool)
        chosen[self._groups[positions]] = True
        return ((self.group_of >= 0) & chosen[self.group_of]).nonzero()[:, 0]

    def further(self, positions: Tensor, count: int, epoch: int, update: int) -> Tensor:
        """`count` entities of each graph, or all there are, outside the groups of an update's links, in their parts."""
        if not count:
            return self.links.new_empty(0)
        seed = self.config.seed * 1_000_003 + epoch + 500_000
        generator = torch.Generator().manual_seed(seed + 1_000_000_007 * update)
        taken = torch.zeros(self.pair.num_entities, dtype=torch.bool)
        taken[self.entities(positions)] = True
        if self._part is not None:
            taken |= ~torch.isin(self._part, self._part[self.links[positions, 0]])
        chosen = []
        for entities in (self.pair.left_entities, self.pair.right_entities):
            free = entities[~taken[entities]]
            chosen.append(free[torch.randperm(len(free), generator=generator)[:count]])
        return torch.cat(chosen)

    def same(self, positions: Tensor) -> Tensor:
        """Pairs (i, j) of different links at `positions` that are of one group, int64 [P, 2]."""
        if self._apart:
            return self.links.new_empty(0, 2)
        groups, order = self._groups[positions].sort(stable=True)
        found = []
        for distance in range(1, len(groups)):
            equal = (groups[distance:] == groups[:-distance]).nonzero()[:, 0]
            if not len(equal):
                break
            found.append(torch.stack([order[equal], order[equal + distance]], 1))
        pairs = torch.cat(found) if found else self.links.new_empty(0, 2)
        return torch.cat([pairs, pairs.flip(1)])


def batches(links: int, size: int, equal: bool = True, at_least: int = 1) -> list[tuple[int, int]]:
    """(first, end) of batches of at most `size` links.

    Args:
        links: how many there are.
        size: of a batch, at most; equal ones have two links in any case, where there are as many.
        equal: they differ by one link at most; otherwise all but the last have `size`.
        at_least: how many equal ones there are, as far as each then has two links.
    """
    if not equal:
        return [(start, min(start + size, links)) for start in range(0, links, size)]
    count = max(min(max(-(-links // size), at_least), links // 2), 1)
    return [(links * b // count, links * (b + 1) // count) for b in range(count)]


def check_negatives(pair: AlignmentPair, links: Tensor, further: int) -> None:
    """Refuse training links that no loss can learn from: one link, or several that all share entities.

    Args:
        pair: whose links they are.
        links: int64 [T, 2].
        further: entities of each graph that the losses draw beside them.

    Raises:
        DataError: nothing is there that a training link could be told apart from.
    """
    groups = link_groups(links)
    apart = len(links) if groups is None else int(groups.max()) + 1
    if apart > 1 or (further and len(links.unique()) < pair.num_entities):
        return
    found = (
        "there is 1 training link" if len(links) == 1 else f"all {len(links)} training links share entities"
    )
    raise DataError(
        f"{found}, and the losses need entities to tell apart from it; give more links, or train with "
        "objectives=hard_sample and hard_samples above 0"
    )
