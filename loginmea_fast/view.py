"""View: which part of the graph some entities' embeddings depend on, layer by layer (docs/model.md, View).

For layer l = L .. 1 the destinations D_l and the sources D_(l-1) = D_L and all that have an edge into D_l; D_L are the
entities asked for. Each D_l is contained in D_(l-1), so one numbering serves all layers: D_l are the first n_l numbers,
those asked for first of all, in their order. Relation sets keep the numbers that they have in the graph.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from loginmea_fast.derived import Derived
from loginmea_fast.errors import BuildError, InputError

__all__ = ["Block", "View", "check_rows", "places_of"]

Graph = Any  # AlignmentGraph, whose module imports this one


class Block(NamedTuple):
    """The edges of one layer, a bipartite graph. The tensors are those of `AlignmentGraph`, entities by their number.

    Attributes:
        dst_ptr: int64 [destinations + 1], `dst_source` int32 [E], `dst_set` int32 [E]: edges by (destination, set,
            source).
        src_ptr: int64 [sources + 1], `src_destination`, `src_set`, `src_edge` int32 [E]: the same edges by (source,
            set); `src_edge` is the edge's position in destination order.
    """

    dst_ptr: Tensor
    dst_source: Tensor
    dst_set: Tensor
    src_ptr: Tensor
    src_destination: Tensor
    src_set: Tensor
    src_edge: Tensor

    @property
    def sources(self) -> int:
        """How many entities the layer reads."""
        return self.src_ptr.numel() - 1

    @property
    def destinations(self) -> int:
        """How many entities it writes, the first of its sources."""
        return self.dst_ptr.numel() - 1


class _Parts(NamedTuple):
    """A view without its graph, beside whose tensors it is kept."""

    entities: Tensor
    local: Tensor
    blocks: tuple[Block, ...]


@dataclass(frozen=True, eq=False)
class View:
    """What the layers need of a graph for some of its entities; `AlignmentGraph.view` makes it.

    Attributes:
        graph: of which.
        rows: int64 [B], the entities asked for, in any order and as often as they are wanted; None for all.
        entities: int64 [n_0], the entities whose features are needed, each once, those asked for first; None for all,
            each in its place, and then every layer walks the whole graph.
        local: int32 [N], the number of each entity among `entities`; -1 for one that is not needed.
        blocks: the edges of the layers 1 ... L; none where they walk the whole graph.
        again: int64 [B], the number of each of `rows` among `entities`; None where they are the first of these.
    """

    graph: Graph
    rows: Tensor | None = None
    entities: Tensor | None = None
    local: Tensor | None = None
    blocks: tuple[Block, ...] = ()
    again: Tensor | None = None

    @classmethod
    def of(cls, graph: Graph, rows: Tensor, depth: int, most: float = 1.0) -> View:
        """The receptive field of `rows`; the whole graph where they are more than `most` of its entities."""
        if depth < 1:
            raise InputError(f"a view is of at least one layer; got depth {depth}")
        check_rows(rows, graph)
        rows = rows.to(graph.device, torch.int64, copy=True)
        once, again = _each_once(rows)
        if len(once) > most * graph.num_entities:
            return cls(graph, rows)
        parts = _views.of(
            graph.dst_source,
            [graph.dst_ptr, graph.dst_source, graph.dst_set, graph.src_destination, graph.src_set],
            lambda: _build(graph, once, depth, _numbered(once, graph)),
            once.cpu().numpy().tobytes(),
            depth,
        )
        return cls(graph, rows, *parts, again)

    @property
    def num_rows(self) -> int:
        """B, how many entities are asked for."""
        return self.graph.num_entities if self.rows is None else len(self.rows)

    @property
    def num_entities(self) -> int:
        """n_0, how many entities' features are needed."""
        return self.graph.num_entities if self.entities is None else len(self.entities)

    @property
    def device(self) -> torch.device:
        """Where the tensors are."""
        return self.graph.device

    def take(self, table: Tensor) -> Tensor:
        """Of a table with a row an entity, the rows of `entities`, in their order."""
        return table if self.entities is None else table.index_select(0, self.entities)

    def first(self, table: Tensor) -> Tensor:
        """Of a table with a row for each of `entities`, or for the first of them, those of `rows`."""
        if self.rows is None:
            return table
        if self.entities is None:
            return table.index_select(0, self.rows)
        if self.again is not None:
            return table.index_select(0, self.again)
        return table if len(table) == len(self.rows) else table[: len(self.rows)]

    def once(self) -> tuple[View, Tensor | None]:
        """The same with every entity asked for once, and the number of each of `rows` there; None for all in order."""
        if self.rows is None:
            return self, None
        if self.entities is None:
            return View(self.graph), self.rows
        if self.again is None:
            return self, None
        count = self.blocks[-1].destinations if self.blocks else len(self.entities)
        return replace(self, rows=self.entities[:count], again=None), self.again

    # What is another thing where processes share the work (`parallel.ShardView`).

    @property
    def num_all(self) -> int:
        """N, the entities of the graph."""
        count: int = self.graph.num_entities
        return count

    @property
    def num_held(self) -> int:
        """Rows that a process holds of a table with a row an entity."""
        return self.num_all

    def held(self, entities: Tensor, name: str) -> Tensor:
        """Where the rows of entities, which the caller calls `name`, stand in such a table."""
        if not torch.compiler.is_compiling():
            check_rows(entities, self.graph, name)
        return entities

    def gather(self, table: Tensor) -> Tensor:
        """Of rows of the entities asked for, those of all processes."""
        return table

    def asked(self) -> View:
        """The entities asked for alone, without edges."""
        if self.rows is None:
            return self
        once, again = _each_once(self.rows)
        return replace(self._of(once), rows=self.rows, again=again)

    def parts(self, size: int) -> Iterator[tuple[int, View]]:
        """Of the entities needed at most `size` at a time, without edges, and the number of the first."""
        entities = (
            torch.arange(self.num_entities, device=self.device) if self.entities is None else self.entities
        )
        for start in range(0, max(len(entities), 1), size):
            yield start, self._of(entities[start : start + size])

    def _of(self, entities: Tensor) -> View:
        return View(self.graph, entities, entities, _numbered(entities, self.graph))

    def __repr__(self) -> str:
        if self.entities is None:
            return f"View(rows={self.num_rows}, all of {self.graph!r})"
        edges = [block.dst_source.numel() for block in self.blocks]
        return f"View(rows={self.num_rows}, entities={self.num_entities}, edges of each layer={edges})"


_views: Derived[_Parts] = Derived()


class _BySet(NamedTuple):
    """Edges by (destination, set, source), and in source order the place of each in the row of its destination."""

    source: Tensor
    set: Tensor
    rank: Tensor


_by_set: Derived[_BySet] = Derived()


def _edges_by_set(graph: Graph) -> _BySet:
    """Once a graph: to sort anew for each view would take longer than all else."""

    def sort() -> _BySet:
        entities = torch.arange(graph.num_entities, device=graph.device)
        destination = torch.repeat_interleave(entities, graph.dst_ptr.diff())
        order = torch.argsort(destination * graph.num_relation_sets + graph.dst_set, stable=True)
        place = torch.empty_like(order)
        place[order] = torch.arange(len(order), device=graph.device)
        rank = (place - graph.dst_ptr[destination])[graph.src_edge.long()]
        return _BySet(graph.dst_source[order], graph.dst_set[order], rank.int())

    return _by_set.of(graph.dst_set, [graph.dst_ptr, graph.dst_source, graph.dst_set, graph.src_edge], sort)


def check_rows(rows: Tensor, graph: Graph, name: str = "rows") -> None:
    """Raise `InputError` unless `rows`, which the caller calls `name`, are entities of the graph."""
    if not isinstance(rows, Tensor) or rows.dtype not in (torch.int64, torch.int32) or rows.dim() != 1:
        came = f"{rows.dtype} {list(rows.shape)}" if isinstance(rows, Tensor) else type(rows).__name__
        raise InputError(f"{name} must be an int64 tensor [{name}] of entities; got {came}")
    ids = rows.cpu().numpy()
    if len(wrong := np.flatnonzero((ids < 0) | (ids >= graph.num_entities))):
        raise InputError(
            f"{name}[{wrong[0]}] is entity {ids[wrong[0]]}, outside [0, {graph.num_entities}); "
            "take entities of this graph"
        )


def _each_once(rows: Tensor) -> tuple[Tensor, Tensor | None]:
    """Rows without repetition, and the number of each of `rows` among them; None where they have none."""
    once, again = rows.unique(return_inverse=True)
    return (rows, None) if len(once) == len(rows) else (once, again)


def _numbered(rows: Tensor, graph: Graph) -> Tensor:
    """int32 [N], the number of each row; -1 elsewhere."""
    local = torch.full((graph.num_entities,), -1, dtype=torch.int32, device=graph.device)
    local[rows] = torch.arange(len(rows), dtype=torch.int32, device=graph.device)
    return local


def _build(graph: Graph, rows: Tensor, depth: int, local: Tensor) -> _Parts:
    library = _library(graph)
    return (
        _plain(graph, rows, depth, local) if library is None else _native(library, graph, rows, depth, local)
    )


def _library(graph: Graph) -> Any:
    if graph.device.type != "cpu" or os.environ.get("LOGINMEA_BACKEND") == "reference":
        return None
    from loginmea_fast import native

    try:
        return native.load("cpu")
    except BuildError:
        return None


def _native(library: Any, graph: Graph, rows: Tensor, depth: int, local: Tensor) -> _Parts:
    entities = rows.new_empty(graph.num_entities)
    entities[: len(rows)] = rows
    ptr = rows.new_empty(graph.num_entities + 1)
    reached = library.view_reach(
        graph.num_entities, len(rows), depth,
        graph.dst_ptr.data_ptr(), graph.dst_source.data_ptr(), graph.visit_order.data_ptr(),
        local.data_ptr(), entities.data_ptr(), ptr.data_ptr(),
    )  # fmt: skip
    sizes = reached[::-1]  # n_0 ... n_L
    threads, sorted_ = torch.get_num_threads(), _edges_by_set(graph)
    entities, ptr = entities[: sizes[0]].clone(), ptr[: sizes[1] + 1].clone()
    source, set_ = (local.new_empty(int(ptr[-1])) for _ in range(2))
    library.view_destinations(
        sizes[1], entities.data_ptr(), local.data_ptr(), ptr.data_ptr(),
        graph.dst_ptr.data_ptr(), sorted_.source.data_ptr(), sorted_.set.data_ptr(),
        source.data_ptr(), set_.data_ptr(), threads,
    )  # fmt: skip
    blocks = []
    for sources, destinations in pairwise(sizes):
        edges = int(ptr[destinations])
        src_ptr, by_source = ptr.new_empty(sources + 1), [local.new_empty(edges) for _ in range(3)]
        library.view_sources(
            sources, destinations, entities.data_ptr(), local.data_ptr(), ptr.data_ptr(),
            graph.src_ptr.data_ptr(), graph.src_destination.data_ptr(), graph.src_set.data_ptr(),
            sorted_.rank.data_ptr(), src_ptr.data_ptr(), *(t.data_ptr() for t in by_source), threads,
        )  # fmt: skip
        blocks.append(Block(ptr[: destinations + 1], source[:edges], set_[:edges], src_ptr, *by_source))
    return _Parts(entities, local, tuple(blocks))


def _plain(graph: Graph, rows: Tensor, depth: int, local: Tensor) -> _Parts:
    """The same in plain PyTorch, on any device."""
    entities, sizes, frontier = rows, [len(rows)], rows
    for _ in range(depth):
        reached = torch.zeros_like(local, dtype=torch.bool)
        reached[graph.dst_source[places_of(graph.dst_ptr, frontier)].long()] = True
        reached &= local < 0
        visit = graph.visit_order.long()
        frontier = visit[reached[visit]]
        local[frontier] = torch.arange(
            len(entities), len(entities) + len(frontier), dtype=torch.int32, device=local.device
        )
        entities = torch.cat([entities, frontier])
        sizes.insert(0, len(entities))
    sorted_ = _edges_by_set(graph)
    degree = graph.dst_ptr.diff()[entities[: sizes[1]]]
    ptr = torch.cat([degree.new_zeros(1), degree.cumsum(0)])
    places = places_of(graph.dst_ptr, entities[: sizes[1]])
    source, set_ = local[sorted_.source[places].long()], sorted_.set[places]
    blocks = []
    for sources, destinations in pairwise(sizes):
        out = places_of(graph.src_ptr, entities[:sources])
        reached = local[graph.src_destination[out].long()]
        within = (reached >= 0) & (reached < destinations)
        degree = graph.src_ptr.diff()[entities[:sources]]
        source_of = torch.repeat_interleave(torch.arange(sources, device=local.device), degree)[within]
        counts = torch.bincount(source_of, minlength=sources)
        out, reached, edges = out[within], reached[within], int(ptr[destinations])
        blocks.append(
            Block(
                ptr[: destinations + 1],
                source[:edges],
                set_[:edges],
                torch.cat([counts.new_zeros(1), counts.cumsum(0)]),
                reached,
                graph.src_set[out],
                (ptr[reached.long()] + sorted_.rank[out]).int(),
            )
        )
    return _Parts(entities, local, tuple(blocks))


def places_of(ptr: Tensor, rows: Tensor) -> Tensor:
    """Places of the edges of rows, row after row."""
    count = ptr.diff()[rows]
    first = ptr[rows] - (count.cumsum(0) - count)
    return torch.arange(int(count.sum()), device=ptr.device) + torch.repeat_interleave(first, count)
