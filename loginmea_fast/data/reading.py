"""`read_graph` and `read_seeds`: one graph, or the links between two, from files in the formats that people have."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loginmea_fast.data.badlines import BadLines
from loginmea_fast.data.columns import (
    ATTRIBUTES,
    ENTITIES,
    IDS,
    LINKS,
    TRIPLES,
    Columns,
    Roles,
    choose_columns,
    find_columns,
    is_missing,
    to_labels,
)
from loginmea_fast.data.directory import is_document
from loginmea_fast.data.filekind import COMPRESSED_SUFFIXES, is_clutter
from loginmea_fast.data.labeled import GraphBuilder, LabeledGraph, LabeledLinks
from loginmea_fast.data.notes import Caution
from loginmea_fast.data.rdf import RDF_SUFFIXES, add_rdf, read_rdf_pairs
from loginmea_fast.data.rdf_terms import split_literal
from loginmea_fast.data.tablefiles import TABLE_SUFFIXES, TableFile, open_table
from loginmea_fast.data.textfile import opened, shorten, some_of
from loginmea_fast.errors import DataError

__all__ = ["GRAPH_SUFFIXES", "read_graph", "read_seeds"]

_FORMATS = tuple(dict.fromkeys([*RDF_SUFFIXES.values(), *TABLE_SUFFIXES.values()]))
GRAPH_SUFFIXES = {**RDF_SUFFIXES, **TABLE_SUFFIXES}
_STATEMENT = re.compile(rb"(?:<[^>\n]*>|_:\S+)[ \t]+<[^>\n]*>[ \t]*.*\.[ \t]*\r?(?:#.*)?$")
_LISTS = ("entities", "nodes")  # names of tables that list them
_NUMBER = re.compile(r"[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?")
_ROWS_TO_TELL = 2  # fewer say nothing about a column
_TURTLE = re.compile(rb"@?(?:prefix|base)\s", re.IGNORECASE)

Paths = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]


def read_graph(
    path: Paths,
    format: str = "auto",
    columns: Columns | None = None,
    *,
    skip_bad_lines: bool = False,
    name: str | None = None,
) -> LabeledGraph:
    """Reads one knowledge graph: a file, several, or the files of a directory; any of them packed by gzip or Zstandard.

    RDF (N-Triples, N-Quads, Turtle, TriG, RDF/XML, JSON-LD): IRIs and blank nodes are entities, a literal is the value
    of an attribute, with its language and type. ``rdf:type`` is an attribute, one a class, as a class is nothing to
    be aligned beside its members. Files are read as streams.

    CSV, TSV and Parquet: a table of head, relation and tail, one of entity, attribute and value, a list of entities, or
    one row an entity (the first column named id, uri, entity, node, name or label is the entity, each other one an
    attribute). Which it is goes by the names of the columns; without such names three columns are a table of triples,
    or of attributes where the file's name has "attr". A note says what was taken for what.

    Args:
        path: the file, files or directory.
        format: "ntriples", "nquads", "turtle", "trig", "n3", "rdfxml", "jsonld", "csv", "tsv", "parquet", or "auto": by
            the ends of file names, else by content.
        columns: names or positions of head, relation and tail in tables, where they are not to be guessed.
        skip_bad_lines: reads past lines of N-Triples, N-Quads, CSV and TSV that are none, with a note; else they are an
            error that sums them up by kind.
        name: what to call the graph; None names it by the file.

    Returns:
        The graph by labels, for :meth:`loginmea_fast.data.AlignmentPair.from_labeled_triples`.

    Raises:
        DataError: a file that is missing, empty or of no known format, another encoding than UTF-8, UTF-16 and UTF-32,
            which is named, or bad lines.
    """
    files, notes = _files(path)
    if name is None:
        name = _plain(Path(path) if isinstance(path, str | os.PathLike) else files[0])[0]
    builder = GraphBuilder(name, notes)
    bad = BadLines(skip_bad_lines)
    for number, file in enumerate(files):
        kind = _format_of(file, format)
        if kind in TABLE_SUFFIXES.values():
            _add_table(open_table(file, kind), columns, builder, bad)
        else:
            add_rdf(file, kind, builder, bad, f"f{number}." if number else "")
    builder.notes += bad.note()
    if not len(builder):
        raise DataError(
            f"{some_of(map(str, files))}: no triple and no entity; check that it is the file that you meant"
        )
    return builder.graph(files)


def read_seeds(
    path: str | os.PathLike[str],
    format: str = "auto",
    columns: Columns | None = None,
    *,
    skip_bad_lines: bool = False,
) -> LabeledLinks:
    """Reads pairs of entities that are known to be the same.

    A table (CSV, TSV, Parquet) with two columns whose names are left, right; entity1, entity2; source, target;
    subject_id, object_id or the like, else the first two; or RDF that says owl:sameAs or skos:exactMatch, or holds
    cells of the Alignment API.

    Args:
        path: the file.
        format: as in :func:`read_graph`.
        columns: names or positions of the left and the right entity, where they are not to be guessed.
        skip_bad_lines: as in :func:`read_graph`.

    Returns:
        The links by labels, for :meth:`loginmea_fast.data.AlignmentPair.from_labeled_triples`.

    Raises:
        DataError: a file that is missing, empty or no table of two columns.
    """
    file = Path(path)
    kind = _format_of(file, format)
    bad = BadLines(skip_bad_lines)
    if kind not in TABLE_SUFFIXES.values():
        left, right, _, said = read_rdf_pairs(file, kind, bad)
        notes = [f"{file.name}: links are {said}", *bad.note()]
        return LabeledLinks(left, right, file.name, 1, "triple", tuple(notes))
    table = open_table(file, kind)
    if table.width == 1 and columns is None:
        mark = {"tsv": "a tab", "csv": "a comma"}.get(kind, "a column")
        raise DataError(
            f"{file} has one column, and begins with {shorten(table.names[0])}; a link is the left entity and the "
            f"right one, with {mark} between them"
        )
    header = find_columns(table.names, LINKS) is not None or kind == "parquet" or _named(columns)
    names = table.names if header else [f"column {number}" for number in range(table.width)]
    chosen, note = choose_columns(names, LINKS, columns, file.name)
    notes = [note] if note and header else []
    if header and kind != "parquet":
        notes.append(f"{file.name}: the first row is a header")
    left, right = [], []
    for rows, at in _batches(table, header, bad):
        for column, position in zip((left, right), chosen, strict=True):
            column += _cells(rows[position], table, LINKS.names[len(left) > len(right)], at)
    keep = [bool(a and b) for a, b in zip(left, right, strict=True)]
    for row in (row for row, kept in enumerate(keep) if not kept):
        bad.add(file, row + 1 + header, "an empty cell", f"{left[row]}, {right[row]}")
    notes += bad.note()
    if not any(keep):
        raise DataError(f"{file} holds no link; it should hold rows of left entity, right entity")
    return LabeledLinks(
        [label for label, kept in zip(left, keep, strict=True) if kept],
        [label for label, kept in zip(right, keep, strict=True) if kept],
        file.name,
        1 + header,
        "line",
        tuple(notes),
    )


def _files(path: Paths) -> tuple[list[Path], list[str]]:
    """Files in order, and a note on those of a directory that are of no known format.

    Those of a directory are in the order of their names, lists of entities first.
    """
    named = [path] if isinstance(path, str | os.PathLike) else list(path)
    if not named:
        raise DataError("no file is named; give a file, several, or a directory")
    files: list[Path] = []
    notes: list[str] = []
    for entry in map(Path, named):
        if not entry.exists():
            raise DataError(
                f"{entry} does not exist; give a file of the graph, several, or a directory of them"
            )
        if not entry.is_dir():
            files.append(entry)
            continue
        inside = [own for own in sorted(entry.iterdir()) if own.is_file() and not is_clutter(own.name)]
        inside.sort(
            key=lambda own: _plain(own)[0].lower() not in _LISTS
        )  # entities count in the order of their list
        known = [own for own in inside if _plain(own)[1] in GRAPH_SUFFIXES]
        unread = [own.name for own in inside if own not in known and not is_document(own.name)]
        if not known:
            raise DataError(
                f"{entry} holds no file that ends in {', '.join(GRAPH_SUFFIXES)}"
                + (f" but {some_of(unread)}" if unread else "")
                + "; name the files themselves"
            )
        if unread:
            notes.append(Caution(f"not read in {entry.name}: {some_of(unread)} (no known suffix)"))
        files += known
    if len(set(files)) < len(files):
        again = next(file for file in files if files.count(file) > 1)
        raise DataError(f"{again} is named twice; name each file once")
    return files, notes


def _plain(path: Path) -> tuple[str, str]:
    """Name and suffix of a file, without that of a compression."""
    plain = path.with_suffix("") if path.suffix.lower() in COMPRESSED_SUFFIXES else path
    suffix = plain.suffix.lower()
    return (plain.stem, suffix) if suffix in GRAPH_SUFFIXES else (plain.name, suffix)


def _format_of(path: Path, asked: str) -> str:
    if asked != "auto":
        if asked not in _FORMATS:
            raise DataError(f"unknown format {asked!r} of {path}; known are {', '.join(_FORMATS)} and auto")
        return asked
    suffix = _plain(path)[1]
    if suffix in GRAPH_SUFFIXES and suffix not in (".txt", ".json", ".xml"):
        return GRAPH_SUFFIXES[suffix]
    with path.open("rb") if path.is_file() else opened(path, "a graph") as raw:
        if raw.read(4) == b"PAR1":
            return "parquet"
    with opened(path, "a graph", xml=True) as stream:
        head = stream.read(1 << 14).lstrip()
    first = next((line for line in head.split(b"\n") if line.strip() and not line.startswith(b"#")), b"")
    if not first:
        raise DataError(f"{path} is empty, it should hold a graph or links; fetch or write the file again")
    if head.startswith((b"<?xml", b"<rdf:RDF", b"<!DOCTYPE")):
        return "rdfxml"
    if _TURTLE.match(head):
        return "turtle"
    if _STATEMENT.fullmatch(first.rstrip(b"\r")):
        return "ntriples"
    if b"\t" in first:
        return "tsv"
    if head.startswith((b"{", b"[")):
        return "jsonld"
    if b"," in first or b";" in first:
        return "csv"
    raise DataError(
        f"{path} begins with {shorten(first.decode('utf-8', 'replace'))}, which looks like none of "
        f"{', '.join(_FORMATS)}; name the format"
    )


@dataclass
class _Plan:
    """What a table is (triples, attributes, entities, rows), which columns say so, and whether there is a header."""

    kind: str
    columns: list[int]
    header: bool


def _add_table(table: TableFile, columns: Columns | None, builder: GraphBuilder, bad: BadLines) -> None:
    plan = _plan(table, columns, builder.notes)
    roles = {"attributes": ATTRIBUTES, "triples": TRIPLES}.get(plan.kind, ENTITIES)
    for rows, at in _batches(table, plan.header, bad):
        if plan.kind == "rows":
            _add_rows(table, plan, rows, at, builder, bad)
            continue
        parts = [
            _cells(rows[position], table, role, at)
            for position, role in zip(plan.columns, roles.names, strict=True)
        ]
        needed = parts[:2] if plan.kind == "attributes" else parts
        if not all(map(all, needed)):
            full = [all(row) for row in zip(*needed, strict=True)]
            for position in (position for position, kept in enumerate(full) if not kept):
                text = ", ".join(part[position] for part in parts)
                bad.add(table.path, at + position, "an empty cell", text)
            parts = [[cell for cell, kept in zip(part, full, strict=True) if kept] for part in parts]
        if plan.kind == "entities":
            builder.list_entities(parts[0])
        elif plan.kind == "attributes":
            builder.add_attributes(parts[0], parts[1], parts[2])
        elif "rel" in table.path.name.lower():
            builder.add_triples(parts[0], parts[1], parts[2])
        else:
            _add_triples(parts, builder)


def _add_triples(parts: list[list[str]], builder: GraphBuilder) -> None:
    """Triples; one whose tail is written as a literal gives an attribute."""
    literal = [cell[:1] == '"' and split_literal(cell).text != cell for cell in parts[2]]
    heads, relations, tails = parts
    if not any(literal):
        builder.add_triples(heads, relations, tails)
        return
    rows = list(zip(heads, relations, tails, literal, strict=True))
    links = [(head, relation, tail) for head, relation, tail, text in rows if not text]
    said = [(head, relation, tail) for head, relation, tail, text in rows if text]
    if links:
        builder.add_triples(*(list(column) for column in zip(*links, strict=True)))
    builder.add_attributes(*(list(column) for column in zip(*said, strict=True)))


def _add_rows(
    table: TableFile, plan: _Plan, rows: list[list[Any]], at: int, builder: GraphBuilder, bad: BadLines
) -> None:
    """A row an entity: each other column is an attribute, an empty cell says nothing."""
    (own,) = plan.columns
    entities = _cells(rows[own], table, "entity", at)
    for position in (position for position, entity in enumerate(entities) if not entity):
        bad.add(
            table.path, at + position, "an empty cell", ", ".join(str(column[position]) for column in rows)
        )
    builder.list_entities(entity for entity in entities if entity)
    for position, attribute in enumerate(table.names):
        if position == own:
            continue
        values = _cells(rows[position], table, attribute, at)
        there = [(entity, value) for entity, value in zip(entities, values, strict=True) if entity and value]
        if there:
            owners, said = zip(*there, strict=True)
            builder.add_attributes(owners, [attribute] * len(there), said)


def _batches(table: TableFile, header: bool, bad: BadLines) -> Iterator[tuple[list[list[Any]], int]]:
    """Columns of successive rows, and the number of the first row, as an editor counts lines."""
    at = 1 + header
    for rows in table.batches(header, bad):
        yield rows, at
        at += len(rows[0]) if rows else 0


def _cells(column: list[Any], table: TableFile, role: str, at: int) -> list[str]:
    """Labels of a column; what is missing is empty."""
    if table.format != "parquet":
        return column
    there = ["" if is_missing(value) else value for value in column]
    return to_labels(there, f"{table.path}, {{}} after {at}: the {role}", may_be_empty=True)


def _own_column(names: list[str]) -> list[int] | None:
    """The column that says which entity a row is: a cell "name" further on may as well be data."""
    return find_columns(names, IDS) or find_columns(names[:1], ENTITIES)


def _named(columns: Columns | None) -> bool:
    return columns is not None and any(isinstance(column, str) for column in columns)


def _number_column(table: TableFile) -> int | None:
    """The first column of numbers under a word, where the first of all never repeats: a table of entities has such."""
    rows = next(iter(table.batches(True, BadLines(skip=True))), None)
    if not rows or len(rows[0]) < _ROWS_TO_TELL:
        return None
    own = ["" if is_missing(cell) else str(cell) for cell in rows[0]]
    if not all(own) or len(set(own)) < len(own):
        return None
    for position, (name, column) in enumerate(zip(table.names, rows, strict=True)):
        said = [str(cell) for cell in column if not is_missing(cell) and cell != ""]
        if (
            position
            and len(said) > len(own) // 2
            and all(map(_NUMBER.fullmatch, said))
            and not _NUMBER.fullmatch(name)
        ):
            return position
    return None


def _plan(table: TableFile, columns: Columns | None, notes: list[str]) -> _Plan:
    """What a table is, by the names of its columns if the first row says such, else by their number."""
    about_attributes = "attr" in table.path.name.lower() or "literal" in table.path.name.lower()
    what = table.path.name
    certain = table.format == "parquet"
    known: list[tuple[str, Roles]] = [("triples", TRIPLES), ("attributes", ATTRIBUTES)]
    if about_attributes:
        known.reverse()
    if columns is not None:
        header = certain or _named(columns) or any(find_columns(table.names, roles) for _, roles in known)
        kind, roles = known[0]
        chosen, _ = choose_columns(table.names, roles, columns, what)
        return _Plan(kind, chosen, header)
    for kind, roles in known:
        if find_columns(table.names, roles) is not None:
            chosen, note = choose_columns(table.names, roles, None, what)
            notes += [note] if note else []
            return _Plan(kind, chosen, True)
    if (own := _own_column(table.names)) is not None:
        if table.width > 1:
            notes.append(
                f"{what}: a row is an entity, {shorten(table.names[own[0]])} says which, and the other "
                f"{table.width - 1} columns are attributes"
            )
        return _Plan("rows" if table.width > 1 else "entities", own, True)
    if table.width == 1:
        return _Plan("entities", [0], certain)
    kind, roles = known[0]
    if table.width > len(roles.names) and (number := _number_column(table)) is not None:
        notes.append(
            f"{what}: a row is an entity, {shorten(table.names[0])} says which (it never repeats, and "
            f"{shorten(table.names[number])} is a number wherever given), and the other {table.width - 1} columns "
            f"are attributes; columns=... says which are {', '.join(roles.names)}"
        )
        return _Plan("rows", [0], True)
    if table.width == 2:
        raise DataError(
            f"{table.path} has 2 columns ({some_of(map(shorten, table.names))}); a graph needs 3, "
            f"{', '.join(roles.names)}: give the file that has them, or name the column of entities 'entity'"
        )
    told = (
        f"{what}: the first row ({some_of(map(shorten, table.names))}) names no columns, so it is data"
        + ("" if table.width == 3 else ", and the columns after the third are left out")
        + f"; columns are {', '.join(roles.names)}, columns=... says otherwise"
        if not certain
        else f"{what}: the columns {some_of(map(shorten, table.names))} do not say which is what, so the first 3 are "
        f"{', '.join(roles.names)}; columns=... says otherwise"
    )
    notes.append(told if table.width == 3 else Caution(told))
    return _Plan(kind, [0, 1, 2], certain)
