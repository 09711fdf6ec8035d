"""Which process owns which entities, what it needs of the others', and views whose layers fetch it.

Entities are owned in runs of the graph's breadth-first order, as many for each process: the two knowledge graphs are
walked one after the other, and neighbours stand near each other. A process holds the rows of its own entities, in that
order, and the edges that lead to them. Before every layer it fetches the rows of the other ends.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from loginmea_fast.errors import ConfigError
from loginmea_fast.graph import AlignmentGraph, View, check_rows
from loginmea_fast.parallel.exchange import Exchange, Gather
from loginmea_fast.parallel.world import ALONE, World

__all__ = ["ShardView", "Shards", "SharedRows", "Undivided", "division_of", "shards_of", "world_of"]


class Layer(NamedTuple):
    """What a process reads and writes in a layer of a view.

    Attributes:
        edges: a view of one layer, into the rows that are written; those of its entities that are asked for come first.
        read: which own rows of the layer before are read, see `Exchange.fetch`.
        exchange: brings those of others.
    """

    edges: View
    read: Tensor | int
    exchange: Exchange

    def fetch(self, table: Tensor, activates: bool = False) -> Tensor:
        """What the layer reads, of own rows of the layer before; of the first, of all own rows."""
        return self.exchange.fetch(table, self.read, activates)


class Shards:
    """A graph divided among processes; stands where a graph is asked for views.

    Args:
        world: the processes.
        graph: whole, the same in all; only the edges into own rows are kept of it.

    Attributes:
        order: int64 [N], entities as they are owned: process p has a run of them, `ceil(N / processes)` long.
        own: int64 [n], the entities of this process, in the order in which it holds their rows.
        edges: the edges into own rows; entities are numbered by own rows first, then those that are fetched.

    Raises:
        ConfigError: there are too few entities for so many processes.
    """

    def __init__(self, world: World, graph: AlignmentGraph) -> None:
        count = graph.num_entities
        self.world, self.device = world, graph.device
        self.num_entities, self.num_relations = count, graph.num_relations
        per = -(-count // world.size)
        if not _divides(count, world.size):
            fewer = next((k for k in range(world.size - 1, 1, -1) if _divides(count, k)), 1)
            raise ConfigError(
                f"{world.size} processes cannot divide {count} entities, each in turn {max(per, 2)} of them: none are "
                f"left for the last; start {fewer}"
            )
        self._described = graph.summary()
        self.order = graph.visit_order.long().cpu()
        place = torch.empty_like(self.order)
        place[self.order] = torch.arange(count)
        self._owner, self._row = place // per, place % per
        self.own = self.order[world.rank * per : (world.rank + 1) * per]
        sources = graph.sources_of(self.own).cpu()
        others = sources[self._owner[sources] != world.rank]
        self._others = others[place[others].argsort()]
        self.edges = graph.into(self.own, self._others)
        everything = View.of(self.edges, torch.arange(len(self.own), device=graph.device), 1)
        self._whole = Layer(everything, len(self.own), self._exchange_of(slice(None)))

    @property
    def num_rows(self) -> int:
        """Rows that a process holds of a table with one an entity."""
        return len(self.own)

    @property
    def remote_rows(self) -> int:
        """Rows of others that a layer over all own rows fetches."""
        return self._whole.exchange.wanted

    def summary(self) -> dict[str, float | int]:
        """That of the whole graph."""
        return self._described

    def take(self, table: Tensor) -> Tensor:
        """Own rows of a table with one an entity."""
        return table.index_select(0, self.own.to(table.device))

    def owner_of(self, entities: Tensor) -> Tensor:
        """The process that owns each of these entities."""
        return self._owner[entities.cpu()]

    def own_rows(self, entities: Tensor) -> Tensor:
        """The rows of those of these entities, in their order, that this process owns."""
        entities = entities.cpu()
        return self._row[entities[self._owner[entities] == self.world.rank]].to(self.device)

    def view(self, rows: Tensor | None = None, depth: int = 2) -> ShardView:
        """Of these entities, the same in all processes; each forms those that it owns, by what any of them needs."""
        if rows is None:
            rows = torch.arange(self.num_entities)
        check_rows(rows, self)
        own = self.own_rows(rows)
        return ShardView(self.edges, own, shards=self, asked_of=rows, depth=depth)

    def fetch(self, table: Tensor) -> Tensor:
        """All own rows [n, d] and those of others behind them; see `Exchange`."""
        return self._whole.fetch(table)

    def layers(self, rows: Tensor | None, depth: int) -> tuple[Layer, ...]:
        """What is read and written for own rows, of which each process has its own; a collective.

        From the last layer to the first: what a layer writes is what the next one reads, here or elsewhere.

        Args:
            rows: int64 [b], in any order and as often as they are wanted; None for all.
            depth: how many layers.
        """
        if rows is None:
            return (self._whole,) * depth
        layers: list[Layer] = []
        count, written = self.num_rows, rows
        for before in reversed(range(depth)):
            edges = View.of(self.edges, written, 1)
            assert edges.entities is not None, "no part of a graph is more than all of it"
            read = edges.entities[edges.entities < count]  # in front of those of others
            exchange = self._exchange_of(edges.entities[len(read) :].cpu() - count)
            if not before:  # it reads what the process holds, each row in its place
                layers.insert(0, Layer(edges, read, exchange))
                break
            more = exchange.asked.unique()
            written = torch.cat([read, more[~torch.isin(more, read)]])
            place = torch.empty(count, dtype=torch.int64, device=self.device)
            place[written] = torch.arange(len(written), device=self.device)
            layers.insert(0, Layer(edges, len(read), exchange.renumbered(place)))
        return tuple(layers)

    def _exchange_of(self, some: Tensor | slice) -> Exchange:
        """For some of the rows that `edges` come from elsewhere, in their order."""
        others = self._others[some]
        return Exchange(self.world, self._owner[others], self._row[others], self.device)

    def to(self, device: torch.device | str) -> Shards:
        """Itself: it is where its graph was."""
        assert torch.device(device) == self.device
        return self

    def part(self, count: int) -> slice:
        """The share of this process in `count` things that all know."""
        return self.world.part(count)

    def shared_rows(self, followers: Tensor, leaders: Tensor) -> SharedRows:
        """Rows of a divided table that are one parameter.

        Args:
            followers: int64 [F], entities that follow, of all processes.
            leaders: int64 [F], whom.
        """
        return _DividedSharedRows(self, followers, leaders)


class Undivided:
    """What `Shards` does with tables, for a graph that one process holds whole: nothing."""

    world = ALONE

    def __init__(self, graph: AlignmentGraph) -> None:
        self.device = graph.device

    def take(self, table: Tensor) -> Tensor:
        """All of it."""
        return table

    def part(self, count: int) -> None:
        """No part: the things are as they are."""

    def shared_rows(self, followers: Tensor, leaders: Tensor) -> SharedRows:
        """Rows of a table that are one parameter."""
        return SharedRows(followers, leaders, self.device)


def _divides(count: int, processes: int) -> bool:
    """Whether runs of `ceil(count / processes)` entities, two or more, leave some for the last process."""
    per = -(-count // processes)
    return per >= 2 and per * (processes - 1) < count


def shards_of(graph: AlignmentGraph | Shards) -> Shards | None:
    """A divided graph; None for one that this process holds whole."""
    return graph if isinstance(graph, Shards) else None


def division_of(graph: AlignmentGraph | Shards) -> Shards | Undivided:
    """How the tables of a graph's entities are divided."""
    return graph if isinstance(graph, Shards) else Undivided(graph)


def world_of(graph: AlignmentGraph | Shards) -> World:
    """The processes among which a graph is divided."""
    return division_of(graph).world


@dataclass(frozen=True, eq=False)
class ShardView(View):
    """What a process computes of the entities asked for; `graph` holds the edges into its rows, `rows` are its own.

    Attributes:
        shards: who owns what.
        asked_of: int64 [B], the entities that all processes were asked for.
        depth: L, number of layers.
    """

    shards: Shards = None  # type: ignore[assignment]
    asked_of: Tensor = None  # type: ignore[assignment]
    depth: int = 2

    @property
    def num_entities(self) -> int:
        """n, the own ones, whose features are needed."""
        return self.shards.num_rows

    @property
    def num_rows(self) -> int:
        """Of those asked for, how many are own."""
        return self.num_entities if self.rows is None else len(self.rows)

    @property
    def num_all(self) -> int:
        """N, of all processes."""
        return self.shards.num_entities

    @property
    def num_held(self) -> int:
        """Own rows."""
        return self.shards.num_rows

    def held(self, entities: Tensor, name: str) -> Tensor:
        """Of entities, the same in all processes, the rows of the own ones."""
        check_rows(entities, self.shards, name)
        return self.shards.own_rows(entities)

    def once(self) -> tuple[View, Tensor | None]:
        """All own rows, and the numbers of those that are asked for."""
        return replace(self, rows=None), self.rows

    @cached_property
    def layers(self) -> tuple[Layer, ...]:
        """The first to the last; finding them out is a collective."""
        return self.shards.layers(self.rows, self.depth)

    def gather(self, table: Tensor) -> Tensor:
        """Of own rows asked for, [b, d], those of all processes as they were asked for, [B, d]."""
        return Gather(self.shards.world, self.shards.owner_of(self.asked_of))(table)


class SharedRows:
    """Rows of a table that are one parameter: the first of a group holds it, the others follow.

    Args:
        followers: int64 [F], entities that follow.
        leaders: int64 [F], whom.
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


class _DividedSharedRows(SharedRows):
    """The same of a divided table, across processes; followers and leaders are those of all of them."""

    def __init__(self, shards: Shards, followers: Tensor, leaders: Tensor) -> None:
        mine = shards.owner_of(followers) == shards.world.rank
        followers, leaders = followers[mine], leaders[mine]
        once, again = leaders.unique(return_inverse=True)
        owner = shards.owner_of(once)
        order = owner.argsort(stable=True)
        place = torch.empty_like(order)
        place[order] = torch.arange(len(order))
        self._followers = shards.own_rows(followers)
        self._leader = place[again].to(shards.device)
        self._exchange = Exchange(shards.world, owner[order], shards._row[once[order]], shards.device)

    @torch.no_grad()
    def spread(self, table: Tensor) -> None:
        """Give followers the rows of their leaders, in place: [n, d]."""
        table[self._followers] = self._exchange.rows(table)[self._leader]

    @torch.no_grad()
    def collect(self, gradient: Tensor) -> None:
        """Add the gradients of followers to those of their leaders, in place: [n, d]."""
        sums = gradient.new_zeros(self._exchange.wanted, gradient.shape[1])
        sums.index_add_(0, self._leader, gradient[self._followers])
        gradient[self._followers] = 0
        self._exchange.add_(gradient, sums)
