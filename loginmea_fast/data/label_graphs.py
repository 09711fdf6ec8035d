"""Labelled triples of graphs that other libraries hold: networkx and PyTorch Geometric. Neither is imported here."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any

from loginmea_fast.data.textfile import shorten, some_of
from loginmea_fast.errors import DataError

__all__ = ["GraphParts", "graph_parts"]

_RELATION_KEYS = ("relation", "rel", "predicate", "type", "edge_type", "label", "name", "key")
_NODE_LABELS = ("uris", "uri", "names", "name", "labels", "node_names", "entities", "node_ids")
_RELATION_NAMES = ("relation_names", "edge_type_names", "relations", "edge_names")
_UNNAMED = "related to"  # what joins two nodes whose edge says nothing


@dataclass
class GraphParts:
    """What such a graph says: entities, and columns of triples and of attributes."""

    entities: list[str] = field(default_factory=list)
    triples: tuple[list[str], list[str], list[str]] = field(default_factory=lambda: ([], [], []))
    attributes: tuple[list[str], list[str], list[str]] = field(default_factory=lambda: ([], [], []))


def graph_parts(source: Any, what: str, notes: list[str]) -> GraphParts | None:
    """The parts of a graph of another library, or None if it is none.

    Args:
        source: a networkx graph, or PyTorch Geometric's Data or HeteroData.
        what: the graph, for messages.
        notes: gets a sentence on what was guessed or left out.

    Raises:
        DataError: it has no edges that could be read.
    """
    libraries = {base.__module__.partition(".")[0] for base in type(source).__mro__}
    if "networkx" in libraries:
        return _from_networkx(source, what, notes)
    if "torch_geometric" in libraries:
        if hasattr(source, "edge_types"):
            return _from_hetero_data(source, what, notes)
        if hasattr(source, "edge_index"):
            return _from_data(source, what, notes)
    return None


def _from_networkx(graph: Any, what: str, notes: list[str]) -> GraphParts:
    """Nodes are entities and their data attributes; an edge's relation is among its data, or is its key."""
    parts = GraphParts()
    label_of: dict[Hashable, str] = {}
    of_label: dict[str, Hashable] = {}
    for node, data in graph.nodes(data=True):
        label = _label(node)
        if of_label.setdefault(label, node) is not node:
            raise DataError(
                f"{what}: nodes {of_label[label]!r} and {node!r} are both spelt {shorten(label)}; rename one of them"
            )
        label_of[node] = label
        parts.entities.append(label)
        for key, value in data.items():
            for item in value if isinstance(value, list | tuple | set) else (value,):
                if isinstance(item, str | int | float):
                    _append(parts.attributes, label, str(key), _label(item))
    edges = graph.edges(keys=True, data=True) if graph.is_multigraph() else graph.edges(data=True)
    unnamed = 0
    for head, tail, *key, data in edges:
        relation = next((data[name] for name in _RELATION_KEYS if data.get(name) is not None), None)
        if relation is None and key and isinstance(key[0], str):
            relation = key[0]
        unnamed += relation is None
        _append(
            parts.triples,
            label_of[head],
            _UNNAMED if relation is None else _label(relation),
            label_of[tail],
        )
    if unnamed:
        notes.append(
            f"{what}: {unnamed:,} edges name no relation (looked for were {', '.join(_RELATION_KEYS)}, and a key that "
            f"is a string) and are of one, {_UNNAMED!r}"
        )
    return parts


def _from_hetero_data(data: Any, what: str, notes: list[str]) -> GraphParts:
    """An entity is its type and number, "person:0", unless its store names it."""
    parts = GraphParts()
    names: dict[str, list[str]] = {}
    unread: list[str] = []
    ends = [end for head, _, tail in data.edge_types for end in (head, tail)]
    for kind in dict.fromkeys([*data.node_types, *ends]):
        store = (
            data[kind] if kind in data.node_types else {}
        )  # asking for a type that is not there would add it
        count = _num_nodes(data, kind, store)
        names[kind] = _stored_names(store, count, f"{what}, nodes {kind!r}") or [
            f"{kind}:{number}" for number in range(count)
        ]
        parts.entities += names[kind]
        unread += [f"{kind}.{key}" for key in store.keys() if key in ("x", "y")]  # noqa: SIM118
    for head, relation, tail in data.edge_types:
        index = getattr(data[head, relation, tail], "edge_index", None)
        if index is None:
            unread.append(f"{(head, relation, tail)} without edge_index")
            continue
        for left, right in index.t().tolist():
            _append(parts.triples, names[head][left], relation, names[tail][right])
    _note_unread(unread, what, notes)
    return parts


def _from_data(data: Any, what: str, notes: list[str]) -> GraphParts:
    """Entities are numbered from "0" unless the graph names them; ``edge_type`` numbers or names relations."""
    parts = GraphParts()
    count = int(data.num_nodes)
    names = _stored_names(data, count, f"{what}, nodes") or [str(number) for number in range(count)]
    parts.entities += names
    kinds = getattr(data, "edge_type", None)
    relations: list[Any] = [_UNNAMED] * data.edge_index.shape[1]
    if kinds is not None:
        relations = kinds.tolist() if hasattr(kinds, "tolist") else list(kinds)
        called = next((getattr(data, key) for key in _RELATION_NAMES if getattr(data, key, None)), None)
        if called is not None:
            relations = [called[kind] for kind in relations]
    else:
        notes.append(f"{what} has no edge_type, so all of its edges are of one relation, {_UNNAMED!r}")
    for (left, right), relation in zip(data.edge_index.t().tolist(), relations, strict=True):
        _append(parts.triples, names[left], _label(relation), names[right])
    _note_unread([key for key in ("x", "y") if getattr(data, key, None) is not None], what, notes)
    return parts


def _num_nodes(data: Any, kind: str, store: Any) -> int:
    """How many nodes of a type there are: what the store says, and no fewer than its edges name."""
    count = max((len(store[key]) for key in _NODE_LABELS if isinstance(store.get(key), list)), default=0)
    if store.get("num_nodes") is not None or "x" in store:
        count = max(count, int(store.num_nodes))
    for edge_type in data.edge_types:
        index = getattr(data[edge_type], "edge_index", None)
        if index is not None and index.numel():
            for end, row in ((edge_type[0], index[0]), (edge_type[2], index[1])):
                count = max(count, int(row.max()) + 1 if end == kind else 0)
    return count


def _stored_names(store: Mapping[str, Any] | Any, count: int, what: str) -> list[str] | None:
    for key in _NODE_LABELS:
        names = getattr(store, key, None)
        if isinstance(names, list | tuple) and len(names) == count:
            return [_label(name) for name in names]
        if isinstance(names, list | tuple):
            raise DataError(f"{what}: {key} has {len(names):,} names for {count:,} nodes; one each is needed")
    return None


def _note_unread(unread: list[str], what: str, notes: list[str]) -> None:
    if unread:
        notes.append(
            f"{what}: {some_of(unread)} not read; numbers of nodes are given as vectors={{modality: {{label: array}}}}"
        )


def _append(columns: tuple[list[str], list[str], list[str]], *items: str) -> None:
    for column, item in zip(columns, items, strict=True):
        column.append(item)


def _label(value: Any) -> str:
    return value if isinstance(value, str) else str(value)
