"""Layouts of two labelled graphs, `left` and `right`, and their links: N-Triples, Turtle, CSV and Parquet.

``left.nt`` and ``right.nt``, or ``.ttl``; or folders ``left`` and ``right`` of tables ``entities`` (entity),
``relations`` (head, relation, tail) and ``attributes`` (entity, attribute, value). Links are a table (left, right):
``links``, or the parts ``seeds``, ``valid`` and ``test`` of an official split. In their place any format is read that
`read_graph` knows.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from loginmea_fast.data.attribute_rows import attribute_rows
from loginmea_fast.data.directory import DataDirectory
from loginmea_fast.data.formats import Format, ReadOptions, register_format
from loginmea_fast.data.joining import NAME_ATTRIBUTES, join, name_of
from loginmea_fast.data.labeled import LabeledLinks
from loginmea_fast.data.pair import AlignmentPair
from loginmea_fast.data.rdf import rdf_library
from loginmea_fast.data.rdf_terms import RDF_TYPE, as_iri, bare_iri, iri_of, split_literal
from loginmea_fast.data.reading import GRAPH_SUFFIXES, read_graph, read_seeds
from loginmea_fast.data.tablefiles import guarded
from loginmea_fast.errors import DataError

__all__ = ["read_labeled", "write_csv", "write_ntriples", "write_parquet", "write_turtle"]

_SIDES = ("left", "right")
_PARTS = {"train": "seeds", "valid": "valid", "test": "test"}
_LINKS = "links"
_LABEL = NAME_ATTRIBUTES[0]
_RESOURCE = "http://www.w3.org/2000/01/rdf-schema#Resource"
_BLANK = re.compile(r"_:([A-Za-z0-9_](?:[A-Za-z0-9_.-]*[A-Za-z0-9_-])?)")
_ANONYMOUS = re.compile(r"_:[0-9a-f]{16,32}")  # read as a node that the file does not name
_PREFIXES = {
    "rdf": "http://www.w3.org/1999/02/22-rdf-syntax-ns#",
    "rdfs": "http://www.w3.org/2000/01/rdf-schema#",
    "xsd": "http://www.w3.org/2001/XMLSchema#",
}
_BATCH = 1 << 16

Row = tuple[str, ...]


def read_labeled(directory: Path, options: ReadOptions) -> AlignmentPair:
    """Reads a directory of one of these layouts; features are built elsewhere.

    Args:
        directory: where the files are.
        options: how much repetition among the links is tolerated, which attributes are names.

    Returns:
        The pair, without features, with the values of attributes. Entities are numbered as their files name them.

    Raises:
        DataError: names the file, the line and the remedy.
    """
    files = DataDirectory(directory)
    graphs = [read_graph(_side(files, side), name=side) for side in _SIDES]
    links = {part: _links(files, name) for part, name in {**_PARTS, "rest": _LINKS}.items()}
    fields = join(
        graphs[0],
        graphs[1],
        links,
        name_attributes=options.name_attributes,
        max_repeated_links=options.max_repeated_links,
        name=directory.resolve().name,
    )
    return AlignmentPair(**{**fields, "notes": (*files.notes, *fields["notes"], *files.unread())})


def _side(files: DataDirectory, side: str) -> Path:
    path = next((path for name in (side, *_named(side)) if (path := files.find(name)) is not None), None)
    if path is None:
        raise DataError(f"{files.path / side} is missing; it should hold the {side} graph")
    return path


def _links(files: DataDirectory, name: str) -> LabeledLinks:
    path = next((path for own in (name, *_named(name)) if (path := files.find(own)) is not None), None)
    return LabeledLinks([], [], name) if path is None else read_seeds(path)


def _named(stem: str) -> list[str]:
    return [f"{stem}{suffix}" for suffix in GRAPH_SUFFIXES]


class _Side:
    """What one graph of a pair says, by label."""

    def __init__(self, pair: AlignmentPair, side: int) -> None:
        self.pair = pair
        self.ids: list[int] = (pair.left_entities, pair.right_entities)[side].tolist()
        left = pair.num_left_triples
        self.triples = pair.triples[:left] if side == 0 else pair.triples[left:]
        self.labels = [pair.uris[entity] for entity in self.ids]
        if "" in self.labels:
            raise DataError(
                f"entity {self.ids[self.labels.index('')]} has no uri, and this format tells by it; give it one"
            )

    def relations(self) -> Iterator[Row]:
        names, uris = self.pair.relation_names, self.pair.uris
        for head, relation, tail in self.triples.tolist():
            yield uris[head], names[relation] if names else f"relation {relation}", uris[tail]

    def attributes(self) -> Iterator[Row]:
        """Attribute triples; names that came from elsewhere are rdfs:label."""
        uris, words = self.pair.uris, self.pair.words or {}
        named = set(self._named_by_values())
        for entity, kind, value in attribute_rows(self.pair.attributes, self.pair.values, self.ids):
            yield uris[entity], kind, value
        for entity in self.ids:
            if words.get(entity) and entity not in named:
                yield uris[entity], _LABEL, " ".join(words[entity])

    def _named_by_values(self) -> Iterator[int]:
        """Entities whose words are those of one of their values."""
        table, words = self.pair.values, self.pair.words
        if table is None or words is None:
            return
        for entity, text in zip(table.entity.tolist(), table.texts, strict=True):
            if entity in words and name_of(text).split() == words[entity]:
                yield entity


def _write_links(pair: AlignmentPair, directory: Path, suffix: str) -> None:
    parts: dict[str, list[list[int]]] = {}
    if (split := pair.official_split) is not None:
        parts = {_PARTS[part]: getattr(split, part).tolist() for part in _PARTS}
    used = {(left, right) for rows in parts.values() for left, right in rows}
    parts[_LINKS] = [link for link in pair.links.tolist() if tuple(link) not in used]
    for name, rows in parts.items():
        if rows:
            labelled = ((pair.uris[left], pair.uris[right]) for left, right in rows)
            _write_table(directory / f"{name}{suffix}", ("left", "right"), labelled)


def _write_table(path: Path, names: Row, rows: Iterable[Row]) -> None:
    """CSV by RFC 4180 whose cells no spreadsheet runs, or Parquet."""
    if path.suffix == ".parquet":
        import pyarrow as pa
        from pyarrow import parquet

        schema = pa.schema([(name, pa.string()) for name in names])
        with parquet.ParquetWriter(path, schema) as writer:
            for batch in _batches(rows):
                columns = [pa.array(column, pa.string()) for column in zip(*batch, strict=True)]
                writer.write_table(pa.table(columns, schema=schema))
        return
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(names)
        writer.writerows([guarded(cell) for cell in row] for row in rows)


def _batches(rows: Iterable[Row]) -> Iterator[list[Row]]:
    batch: list[Row] = []
    for row in rows:
        batch.append(row)
        if len(batch) == _BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


def _write_tables(pair: AlignmentPair, directory: Path, suffix: str) -> list[str]:
    for number, side in enumerate(_SIDES):
        own = _Side(pair, number)
        folder = directory / side
        folder.mkdir()
        _write_table(folder / f"entities{suffix}", ("entity",), ((label,) for label in own.labels))
        if len(own.triples):
            _write_table(folder / f"relations{suffix}", ("head", "relation", "tail"), own.relations())
        if rows := list(own.attributes()):
            _write_table(folder / f"attributes{suffix}", ("entity", "attribute", "value"), rows)
    _write_links(pair, directory, suffix)
    return _lost(pair)


def _write_rdf(pair: AlignmentPair, directory: Path, suffix: str, format: str) -> list[str]:
    ox = rdf_library()
    for number, side in enumerate(_SIDES):
        own = _Side(pair, number)
        ox.serialize(
            _quads(own, ox),
            str(directory / f"{side}{suffix}"),
            getattr(ox.RdfFormat, format),
            prefixes=_PREFIXES if format == "TURTLE" else None,
        )
    _write_links(pair, directory, ".csv")
    return _lost(pair)


def _lost(pair: AlignmentPair) -> list[str]:
    if pair.has_image is None:
        return []
    return ["the list of entities with an image is not part of this format and was left out"]


def _quads(own: _Side, ox: Any) -> Iterator[Any]:
    """A side as RDF.

    Entities of which nothing is said are listed as resources, and all of them where reading would else number them in
    another order: matches depend on it where entities look alike.
    """
    a_type, resource = ox.NamedNode(RDF_TYPE), ox.NamedNode(_RESOURCE)
    types = own.pair.attributes.types if own.pair.attributes is not None else []
    kinds = own.pair.values.kinds if own.pair.values is not None else []
    entity_terms = _Terms(own.labels, ox)
    kind_terms = _Terms([*(own.pair.relation_names or ()), *types, *kinds], ox)

    def node(label: str) -> Any:
        blank = _BLANK.fullmatch(label)
        return (
            ox.BlankNode(blank[1]) if blank and not _ANONYMOUS.fullmatch(label) else entity_terms.named(label)
        )

    def predicate(label: str) -> Any:
        return ox.NamedNode(as_iri(label)) if label == RDF_TYPE else kind_terms.named(label)

    told = [end for head, _, tail in own.relations() for end in (head, tail)]
    mentioned = dict.fromkeys([*told, *(entity for entity, _, _ in own.attributes())])
    in_order = all(a == b for a, b in zip(mentioned, own.labels, strict=False))
    if not in_order:
        for label in own.labels:
            yield ox.Quad(node(label), a_type, resource)
    for head, relation, tail in own.relations():
        yield ox.Quad(node(head), predicate(relation), node(tail))
    for entity, attribute, value in own.attributes():
        kind, _, of = attribute.partition(" ")
        if kind == RDF_TYPE and of and not value and iri_of(of) != _RESOURCE:
            yield ox.Quad(node(entity), a_type, ox.NamedNode(iri_of(of)))
        else:
            yield ox.Quad(node(entity), predicate(attribute), _literal(value, ox))
    for label in own.labels if in_order else ():
        if label not in mentioned:
            yield ox.Quad(node(label), a_type, resource)


class _Terms:
    """IRIs of labels; angle brackets go, unless they are what tells one label from another."""

    def __init__(self, labels: Iterable[str], ox: Any) -> None:
        self._ox, self._labels = ox, set(labels)
        self._known: dict[str, Any] = {}

    def named(self, label: str) -> Any:
        term = self._known.get(label)
        if term is None:
            iri = as_iri(label) if bare_iri(label) in self._labels else iri_of(label)
            term = self._known[label] = self._ox.NamedNode(iri)
        return term


def _literal(value: str, ox: Any) -> Any:
    own = split_literal(value)
    try:
        if own.language:
            return ox.Literal(own.text, language=own.language)
        if own.datatype:
            return ox.Literal(own.text, datatype=ox.NamedNode(own.datatype))
    except ValueError:  # a language or a type that is none
        return ox.Literal(value)
    return ox.Literal(own.text)


def write_csv(pair: AlignmentPair, directory: Path) -> list[str]:
    """Writes a pair as CSV; returns what the format cannot hold, one sentence each."""
    return _write_tables(pair, directory, ".csv")


def write_parquet(pair: AlignmentPair, directory: Path) -> list[str]:
    """Writes a pair as Parquet; returns what the format cannot hold, one sentence each."""
    return _write_tables(pair, directory, ".parquet")


def write_ntriples(pair: AlignmentPair, directory: Path) -> list[str]:
    """Writes a pair as N-Triples, links as CSV; returns what the format cannot hold, one sentence each."""
    return _write_rdf(pair, directory, ".nt", "N_TRIPLES")


def write_turtle(pair: AlignmentPair, directory: Path) -> list[str]:
    """Writes a pair as Turtle, links as CSV; returns what the format cannot hold, one sentence each."""
    return _write_rdf(pair, directory, ".ttl", "TURTLE")


def _telltale(suffix: str) -> tuple[tuple[str, ...], ...]:
    """A side in any format; the usual one, which comes first, tells the layouts apart."""
    return tuple(
        (side + suffix, *(name for name in (side, *_named(side)) if name != side + suffix)) for side in _SIDES
    )


for _name, _suffix, _write in (
    ("csv", "", write_csv),
    ("parquet", ".parquet", write_parquet),
    ("ntriples", ".nt", write_ntriples),
    ("turtle", ".ttl", write_turtle),
):
    register_format(Format(_name, _telltale(_suffix), read_labeled, _write))
