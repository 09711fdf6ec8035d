"""Graphs whose entities and relations are told by labels, and links between them, before a pair numbers them."""

from __future__ import annotations

from array import array
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from loginmea_fast.data.columns import ATTRIBUTES, ENTITIES, LINKS, TRIPLES, Columns, as_columns
from loginmea_fast.data.label_graphs import graph_parts

__all__ = ["GraphBuilder", "LabeledGraph", "LabeledLinks", "as_graph", "as_links"]


@dataclass(frozen=True)
class LabeledGraph:
    """One knowledge graph by labels, as :func:`loginmea_fast.data.read_graph` gives it.

    Attributes:
        name: what to call it, usually the file.
        entities: labels of the entities, each once, in order of first appearance.
        relations: labels of the relations, likewise.
        triples: int64 [T, 3], head, relation, tail: positions in these lists.
        attributes: labels of the attributes, in order of first appearance.
        attribute_triples: int64 [A, 2], entity and attribute: positions in these lists.
        values: [A] the values; "" where an entity just has the attribute. One with a language or a type stands as
            N-Triples write it, ``"chat"@fr`` or ``"12"^^<http://www.w3.org/2001/XMLSchema#integer>``.
        notes: what was guessed, left out or odd, one sentence each.
        paths: the files that it was read from.
    """

    name: str
    entities: list[str]
    relations: list[str]
    triples: np.ndarray
    attributes: list[str]
    attribute_triples: np.ndarray
    values: list[str]
    notes: tuple[str, ...] = ()
    paths: tuple[Path, ...] = ()

    def relation_triples(self) -> Iterator[tuple[str, str, str]]:
        """The triples by label."""
        for head, relation, tail in self.triples.tolist():
            yield self.entities[head], self.relations[relation], self.entities[tail]

    def labeled_attributes(self) -> Iterator[tuple[str, str, str]]:
        """Entity, attribute, value, by label."""
        for (entity, attribute), value in zip(self.attribute_triples.tolist(), self.values, strict=True):
            yield self.entities[entity], self.attributes[attribute], value

    def describe(self) -> str:
        """Counts and notes as a few lines of text."""
        counts = (
            f"{self.name}: {len(self.entities):,} entities, {len(self.triples):,} triples of {len(self.relations):,} "
            f"relations, {len(self.values):,} values of {len(self.attributes):,} attributes"
        )
        return "\n".join([counts, *(f"note: {note}" for note in self.notes)])


@dataclass(frozen=True)
class LabeledLinks:
    """Pairs of entities that are known to be the same, by labels.

    Attributes:
        left: [P] labels of entities of the left graph.
        right: [P] labels of entities of the right graph.
        name: what to call them, for messages: "seeds" or the file.
        first_row: number of the first pair, as people count it: 0 for rows, the line of a file.
        rows: what a row is called, "row" or "line".
        notes: what was guessed, one sentence each.
    """

    left: list[str]
    right: list[str]
    name: str = "seeds"
    first_row: int = 0
    rows: str = "row"
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.left)

    def where(self, position: int) -> str:
        """Where a pair stands, for messages."""
        return f"{self.name}, {self.rows} {position + self.first_row}"


class _Numbered(defaultdict[str, int]):
    """Labels numbered in order of first appearance: looking one up numbers it."""

    def __init__(self) -> None:
        super().__init__()
        self.default_factory = self.__len__

    def numbers(self, labels: Iterable[str]) -> array[int]:
        return array("q", map(self.__getitem__, labels))


@dataclass
class GraphBuilder:
    """Collects a graph by labels, a block at a time; entities are numbered in order of first appearance."""

    name: str
    notes: list[str] = field(default_factory=list)
    _entities: _Numbered = field(default_factory=_Numbered)
    _relations: _Numbered = field(default_factory=_Numbered)
    _attributes: _Numbered = field(default_factory=_Numbered)
    _ends: array[int] = field(default_factory=lambda: array("q"))
    _kinds: array[int] = field(default_factory=lambda: array("q"))
    _owners: array[int] = field(default_factory=lambda: array("q"))
    _said: array[int] = field(default_factory=lambda: array("q"))
    _values: list[str] = field(default_factory=list)

    def list_entities(self, labels: Iterable[str]) -> None:
        """Adds entities, of which nothing else need be said."""
        for label in labels:
            self._entities[label]

    def add_triples(self, heads: Sequence[str], relations: Sequence[str], tails: Sequence[str]) -> None:
        """Adds relation triples; of each the head is numbered before the tail."""
        ends = [""] * (2 * len(heads))
        ends[::2], ends[1::2] = heads, tails
        self._ends += self._entities.numbers(ends)
        self._kinds += self._relations.numbers(relations)

    def add_attributes(
        self, entities: Sequence[str], attributes: Sequence[str], values: Sequence[str]
    ) -> None:
        """Adds attribute triples; a value of "" says no more than that the entity has the attribute."""
        self._owners += self._entities.numbers(entities)
        self._said += self._attributes.numbers(attributes)
        self._values += values

    def __len__(self) -> int:
        return len(self._entities)

    def graph(self, paths: Sequence[Path] = ()) -> LabeledGraph:
        """What was collected."""
        triples = np.empty((len(self._kinds), 3), dtype=np.int64)
        triples[:, ::2] = np.frombuffer(self._ends, dtype=np.int64).reshape(-1, 2)
        triples[:, 1] = self._kinds
        owned = np.empty((len(self._owners), 2), dtype=np.int64)
        owned[:, 0], owned[:, 1] = self._owners, self._said
        return LabeledGraph(
            self.name,
            list(self._entities),
            list(self._relations),
            triples,
            list(self._attributes),
            owned,
            self._values,
            tuple(self.notes),
            tuple(paths),
        )


def as_graph(
    source: Any, attributes: Any, entities: Any, name: str, columns: Columns | None = None
) -> LabeledGraph:
    """A graph from whatever people hold it in.

    Args:
        source: a LabeledGraph; a networkx graph; PyTorch Geometric's Data or HeteroData; or a table of (head, relation,
            tail), as :func:`loginmea_fast.data.columns.as_columns` takes it; None for a graph of attributes alone.
        attributes: a table of (entity, attribute, value), or None; added to what the graph itself says.
        entities: labels, which come first in the numbering, or None.
        name: what to call it in messages: "left" or "right".
        columns: names or positions of head, relation and tail.

    Raises:
        DataError: something that is none of these, or a label that is missing.
    """
    if isinstance(source, LabeledGraph) and attributes is None and entities is None:
        return source
    builder = GraphBuilder(name)
    if entities is not None:
        (listed,) = as_columns(entities, ENTITIES, None, f"entities of {name}", builder.notes)
        builder.list_entities(listed)
    paths: tuple[Path, ...] = ()
    if isinstance(source, LabeledGraph):
        builder.name, paths = source.name, source.paths
        builder.notes += source.notes
        builder.list_entities(source.entities)
        builder.add_triples(*_unzip(source.relation_triples()))
        builder.add_attributes(*_unzip(source.labeled_attributes()))
    elif source is not None and (parts := graph_parts(source, name, builder.notes)) is not None:
        builder.list_entities(parts.entities)
        builder.add_triples(*parts.triples)
        builder.add_attributes(*parts.attributes)
    elif source is not None:
        builder.add_triples(*as_columns(source, TRIPLES, columns, name, builder.notes))
    if attributes is not None:
        builder.add_attributes(
            *as_columns(attributes, ATTRIBUTES, None, f"attributes of {name}", builder.notes)
        )
    return builder.graph(paths)


def _unzip(rows: Iterable[tuple[str, str, str]]) -> tuple[list[str], list[str], list[str]]:
    columns: tuple[list[str], list[str], list[str]] = ([], [], [])
    for row in rows:
        for column, item in zip(columns, row, strict=True):
            column.append(item)
    return columns


def as_links(source: Any, name: str) -> LabeledLinks:
    """Links from whatever people hold them in: LabeledLinks, a table of (left, right), or None for none."""
    if isinstance(source, LabeledLinks):
        return source
    if source is None:
        return LabeledLinks([], [], name)
    notes: list[str] = []
    left, right = as_columns(source, LINKS, None, name, notes)
    return LabeledLinks(left, right, name, notes=tuple(notes))
