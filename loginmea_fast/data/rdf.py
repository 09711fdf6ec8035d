"""RDF files through pyoxigraph, as a stream: IRIs and blank nodes are entities, literals are attributes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from loginmea_fast.data.badlines import BadLines
from loginmea_fast.data.encodings import likely_encoding, not_utf8
from loginmea_fast.data.labeled import GraphBuilder
from loginmea_fast.data.rdf_terms import RDF_TYPE, label_of, literal_form
from loginmea_fast.data.textfile import Utf8Stream, line_of, opened, shorten
from loginmea_fast.errors import DataError

__all__ = ["RDF_SUFFIXES", "add_rdf", "rdf_library", "read_rdf_pairs"]

RDF_SUFFIXES = {
    ".nt": "ntriples",
    ".ntriples": "ntriples",
    ".nq": "nquads",
    ".nquads": "nquads",
    ".ttl": "turtle",
    ".turtle": "turtle",
    ".n3": "n3",
    ".trig": "trig",
    ".rdf": "rdfxml",
    ".xml": "rdfxml",
    ".owl": "rdfxml",
    ".jsonld": "jsonld",
    ".json": "jsonld",
}
_NAMES = {
    "ntriples": "N_TRIPLES",
    "nquads": "N_QUADS",
    "turtle": "TURTLE",
    "n3": "N3",
    "trig": "TRIG",
    "rdfxml": "RDF_XML",
    "jsonld": "JSON_LD",
}
_BY_LINE = ("ntriples", "nquads")  # a line is a statement, so that a bad one harms no other
_BLOCK = 1 << 16  # triples that are collected before they are numbered
_STRING = "http://www.w3.org/2001/XMLSchema#string"
_OWN = "urn:label:"  # asked here and not in a call, millions of times
_LISTED_ONLY = {  # classes that everything is of: they list an entity and say nothing of it
    "http://www.w3.org/2000/01/rdf-schema#Resource",
    "http://www.w3.org/2002/07/owl#Thing",
    "http://www.w3.org/2002/07/owl#NamedIndividual",
}
_SAME_AS = ("http://www.w3.org/2002/07/owl#sameAs", "http://www.w3.org/2004/02/skos/core#exactMatch")
_CELL = re.compile(
    r"http://knowledgeweb\.semanticweb\.org/heterogeneity/alignment#?(entity1|entity2|measure)"
)
_BYTES = 1 << 16  # of lines that are parsed at once
_NOTHING = re.compile(rb"^[ \t\r]*(?:#[^\n]*)?$(?!\Z)", re.MULTILINE)  # lines that are blank or a comment
_RANDOM = re.compile(r"[0-9a-f]{16,32}")  # what the parser calls a blank node that the file does not name
_MESSAGE = re.compile(
    r"^Parser error at line \d+(?: between columns \d+ and \d+| column \d+)?: | \(line \d+\)$"
)
_ENTITY = re.compile(rb"<!ENTITY\s+(%?\s*[^\s\"']+)\s+[\"']([^\"']*)")
_LONGEST_ENTITY = 1000
_DOCTYPE = 1 << 20  # bytes in which it must end
_DEEPEST = 1000  # elements inside each other; the parser's time grows with the square
_HIDDEN = ((b"<!--", b"-->"), (b"<![CDATA[", b"]]>"))  # where what looks like an element is none
_HALF = re.compile(rb"(?:<|<!|<!-|<!\[[CDAT]{0,5}|/|--?|\]\]?)\Z")  # a mark of which the rest may follow


def rdf_library() -> Any:
    """The module pyoxigraph, or a DataError that says how to get it."""
    try:
        import pyoxigraph
    except ImportError:
        raise DataError("RDF files need pyoxigraph; pip install pyoxigraph") from None
    return pyoxigraph


def add_rdf(path: Path, format: str, builder: GraphBuilder, bad: BadLines, blank_prefix: str) -> None:
    """Adds what an RDF file says to a graph.

    A triple whose object is an IRI or a blank node is a relation triple, one whose object is a literal an attribute
    triple. ``rdf:type`` is an attribute without a value, one for each class, because a class is nothing to be aligned
    beside its members. Graph names of quads are read past, and so are statements about statements, which a note counts.

    Args:
        path: the file, compressed or not.
        format: a value of ``RDF_SUFFIXES``.
        builder: gets the triples.
        bad: gets the lines that are none; only those of N-Triples and N-Quads can be read past.
        blank_prefix: what keeps apart the blank nodes of several files.

    Raises:
        DataError: not RDF of that format, an encoding that is not UTF-8, or XML with entities inside entities.
    """
    ox = rdf_library()
    named, blank, literal = ox.NamedNode, ox.BlankNode, ox.Literal
    nodes = _BlankNodes(blank_prefix, named=format in _BY_LINE)
    heads: list[str] = []
    relations: list[str] = []
    tails: list[str] = []
    owners: list[str] = []
    attributes: list[str] = []
    values: list[str] = []
    labels: dict[str, str] = {}  # predicates are few
    nested = 0

    def flush() -> None:
        builder.add_triples(heads, relations, tails)
        builder.add_attributes(owners, attributes, values)
        for column in (heads, relations, tails, owners, attributes, values):
            column.clear()

    for subject, predicate, item, _ in _statements(path, format, ox, bad):
        kind = type(subject)
        if kind is named:
            own = subject.value
            if own[:10] == _OWN:
                own = label_of(own)
        elif kind is blank:
            own = nodes.label(subject.value)
        else:
            nested += 1
            continue
        said = predicate.value
        relation = labels.get(said)
        if relation is None:
            relation = labels[said] = label_of(said)
        kind = type(item)
        if kind is literal:
            text = item.value
            if language := item.language:
                text = literal_form(text, language)
            elif (datatype := item.datatype.value) != _STRING:
                text = literal_form(text, "", datatype)
            elif text[:1] == '"':
                text = literal_form(text)
            owners.append(own)
            attributes.append(relation)
            values.append(text)
        elif kind is named or kind is blank:
            tail = item.value
            if kind is blank:
                tail = nodes.label(tail)
            elif tail[:10] == _OWN:
                tail = label_of(tail)
            if said != RDF_TYPE:
                heads.append(own)
                relations.append(relation)
                tails.append(tail)
            elif tail in _LISTED_ONLY:
                builder.list_entities([own])
            else:
                owners.append(own)
                attributes.append(f"{RDF_TYPE} {tail}")
                values.append("")
        else:
            nested += 1
        if len(heads) + len(owners) >= _BLOCK:
            flush()
    flush()
    if format == "jsonld" and labels and not any(":" in said for said in labels):
        raise DataError(
            f"{path} is JSON without a @context that says which IRI a key such as {shorten(min(labels))} is, and so no "
            "JSON-LD; write it as CSV, or give it a context"
        )
    if nested:
        builder.notes.append(f"{path.name}: {nested:,} statements about statements are left out")


def read_rdf_pairs(path: Path, format: str, bad: BadLines) -> tuple[list[str], list[str], list[str], str]:
    """Links that a file states by owl:sameAs or skos:exactMatch, by whatever single property it uses, or in cells.

    Cells are those of the Alignment API (David et al., Semantic Web 2011), in which the Ontology Alignment Evaluation
    Initiative gives its links.

    Returns:
        Labels of the left entities (subjects), of the right ones, what a cell says of how sure each is or "", and
        what the file says them by.

    Raises:
        DataError: no such triple; see :func:`add_rdf` for the rest.
    """
    ox = rdf_library()
    nodes = _BlankNodes("", named=format in _BY_LINE)
    found: dict[str, tuple[list[str], list[str]]] = {}
    cells: dict[str, dict[str, str]] = {}
    for subject, predicate, item, _ in _statements(path, format, ox, bad):
        if part := _CELL.fullmatch(predicate.value):
            cells.setdefault(str(subject), {})[part[1]] = item.value
            continue
        pair = [
            label_of(term.value) if type(term) is ox.NamedNode else nodes.label(term.value)
            for term in (subject, item)
            if type(term) in (ox.NamedNode, ox.BlankNode)
        ]
        if len(pair) == 2:
            left, right = found.setdefault(predicate.value, ([], []))
            left.append(pair[0])
            right.append(pair[1])
    if whole := [cell for cell in cells.values() if "entity1" in cell and "entity2" in cell]:
        left, right = ([label_of(cell[name]) for cell in whole] for name in ("entity1", "entity2"))
        return left, right, [cell.get("measure", "") for cell in whole], "the cells of the Alignment API"
    chosen = next((name for name in _SAME_AS if name in found), None)
    if chosen is None and len(found) == 1:
        (chosen,) = found
    if chosen is None:
        raise DataError(
            f"{path} has no owl:sameAs or skos:exactMatch that would link two entities; write links as triples of "
            "one of these, or as two columns"
        )
    left, right = found[chosen]
    return left, right, [""] * len(left), f"the triples of {shorten(chosen)}"


class _BlankNodes:
    """Labels of blank nodes: those of the file, or numbers in order of appearance where it gives none."""

    def __init__(self, prefix: str, named: bool) -> None:
        self.prefix, self.named = prefix, named
        self.seen: dict[str, str] = {}
        self.used: set[str] = set()

    def label(self, name: str) -> str:
        label = self.seen.get(name)
        if label is None:
            own = name if self.named or not _RANDOM.fullmatch(name) else f"anonymous{len(self.seen)}"
            label = f"_:{self.prefix}{own}"
            while label in self.used:
                label += "x"
            self.seen[name] = label
            self.used.add(label)
        return label


def _statements(path: Path, format: str, ox: Any, bad: BadLines) -> Iterator[tuple[Any, ...]]:
    """The quads of a file, each as (subject, predicate, object, graph)."""
    kind = getattr(ox.RdfFormat, _NAMES[format])
    with opened(path, f"RDF as {format}", xml=True) as stream:
        if format in _BY_LINE:
            yield from _lines(path, stream, kind, ox, bad)
            return
        source: Any = stream
        if format == "rdfxml":
            _check_xml(path, stream.peek(_DOCTYPE))
            source = _Elements(path, stream)
        try:
            for quad in ox.parse(source, kind, lenient=True):
                for term in quad:
                    if type(term) is ox.NamedNode and "\n" in term.value:
                        raise DataError(
                            f"{path}: the IRI {shorten(term.value)} goes over a line break; close it by '>' (read as "
                            f"{format})"
                        )
                yield quad
        except SyntaxError as error:
            message = _MESSAGE.sub("", _MESSAGE.sub("", str(error.msg)))
            raise DataError(_refusal(path, format, error.lineno or 0, message)) from None
        if format == "rdfxml":
            source.check_end()


class _Elements:
    """RDF/XML on its way to the parser, which minds neither how deep elements lie nor whether the last ones close."""

    def __init__(self, path: Path, stream: Utf8Stream) -> None:
        self.path, self.stream = path, stream
        self.depth, self.opened, self.closed = 0, 0, 0
        self.rest = b""
        self.until = b""  # the end of what is hidden, inside it
        self.root, self.tail = b"", b""

    def readable(self) -> bool:
        """What readers ask."""
        return True

    def read(self, size: int = -1) -> bytes:
        """Of the stream.

        Raises:
            DataError: elements lie too deep in each other.
        """
        data = self.stream.read(size)
        seen = self.rest + data
        half = _HALF.search(seen) if data else None
        self.rest = b"" if half is None else half[0]
        self._count(self._plain(seen[: len(seen) - len(self.rest)]))
        if self.depth > _DEEPEST:
            raise DataError(
                f"{self.path} has more than {_DEEPEST:,} elements inside each other; write what they say side by "
                "side, or as N-Triples"
            )
        return data

    def _plain(self, data: bytes) -> bytes:
        """Without comments and quoted text, of which the end may be still to come."""
        found = []
        while data:
            if self.until:
                _, mark, data = data.partition(self.until)
                if not mark:
                    break
                self.until = b""
            places = [(place, end) for begin, end in _HIDDEN if (place := data.find(begin)) >= 0]
            place, end = min(places, default=(len(data), b""))
            found.append(data[:place])
            data, self.until = data[place + 2 :] if end else b"", end
        return b"".join(found)

    def _count(self, data: bytes) -> None:
        closing, alone = data.count(b"</"), data.count(b"/>")
        opening = data.count(b"<") - data.count(b"<!") - data.count(b"<?") - closing
        self.depth += opening - alone - closing
        self.opened += opening
        self.closed += closing
        if not self.root and (first := re.search(rb"<([^\s!?/>]+)", data)):
            self.root = first[1]
        self.tail = (self.tail + data)[-1000:]

    def check_end(self) -> None:
        """Raise `DataError` where the outermost element does not close: the file is cut short."""
        self._count(self.rest)
        if self.opened == 1 and not self.closed:  # nothing in it
            return
        if not re.search(rb"</" + re.escape(self.root) + rb"\s*>(?:\s|<\?[^>]*>)*\Z", self.tail):
            name = shorten(self.root.decode("utf-8", "replace"))
            raise DataError(
                f"{self.path} ends before its element {name} does: it is cut short; fetch the file again"
            )


def _lines(path: Path, stream: Utf8Stream, kind: Any, ox: Any, bad: BadLines) -> Iterator[tuple[Any, ...]]:
    """Statements of a format in which each has a line: many lines at once, and one by one where any of them is bad.

    The parser alone would go on after a mistake, but past the lines that a quote without its partner swallows.
    """
    line, rest = 1, b""
    while True:
        chunk = stream.read(_BYTES)
        end = not chunk
        pieces = [rest, chunk]
        while not end and b"\n" not in chunk:  # one long literal
            chunk = stream.read(_BYTES)
            end = not chunk
            pieces.append(chunk)
        block = b"".join(pieces)
        cut = len(block) if end else block.rindex(b"\n") + 1
        block, rest = block[:cut], block[cut:]
        if block:
            try:
                quads = list(ox.parse(block, kind, lenient=True))
            except SyntaxError:
                quads = []
            count = block.count(b"\n") + (not block.endswith(b"\n"))
            if len(quads) == count or len(quads) == count - len(_NOTHING.findall(block)):
                yield from quads
            else:
                yield from _line_by_line(path, block, line, kind, ox, bad)
            line += count
        if end:
            return


def _line_by_line(
    path: Path, block: bytes, line: int, kind: Any, ox: Any, bad: BadLines
) -> Iterator[tuple[Any, ...]]:
    for number, raw in enumerate(block.split(b"\n"), start=line):
        if not raw.strip() or raw.lstrip().startswith(b"#"):
            continue
        try:
            (quad,) = ox.parse(raw, kind, lenient=True)
            yield quad
        except SyntaxError as error:
            message = _MESSAGE.sub("", _MESSAGE.sub("", str(error.msg)))
            if "UTF-8" in message:
                encoding = likely_encoding(raw)
                message = "not valid UTF-8" + (f", it would read as {encoding}" if encoding else "")
            bad.add(path, number, _plain_kind(message), raw[:4000].decode("utf-8", "replace"))
        except ValueError:
            bad.add(path, number, "not one statement", raw[:4000].decode("utf-8", "replace"))


def _plain_kind(message: str) -> str:
    """A message without what differs from line to line."""
    return re.sub(r"'[^']*'|\"[^\"]*\"|<[^>]*>", "...", message)[:100]


def _refusal(path: Path, format: str, line: int, message: str) -> str:
    where = f"{path}, line {line}" if line else str(path)
    if "LoadDocumentCallback" in message:
        return (
            f"{path} refers to a JSON-LD context elsewhere, which is not fetched; write the context into the file, or "
            "convert it to N-Triples"
        )
    if "UTF-8" in message:
        raw = line_of(path, line) if line else b""
        told = not_utf8(raw, raw, path.name) if raw and not raw.isascii() else "convert the file to UTF-8"
        return f"{where}: not valid UTF-8; {told}"
    return f"{where}: {shorten(message, 200)[1:-1]} (read as {format}); correct it, or name its format"


def _check_xml(path: Path, head: bytes) -> None:
    """A DataError if entities could blow up: one that names another, or one that is long."""
    start = head.find(b"<!DOCTYPE")
    if start >= 0:
        for name, value in _ENTITY.findall(head[start:]):
            if b"&" in value or b"%" in name or len(value) > _LONGEST_ENTITY:
                raise DataError(
                    f"{path} declares the XML entity {shorten(name.decode('utf-8', 'replace'))}, which is made of "
                    "other entities or very long and could fill the memory; write the file without it"
                )
        if len(head) == _DOCTYPE and b"]>" not in head[start:]:
            raise DataError(
                f"{path} begins with a DOCTYPE of more than a megabyte; write the file without it"
            )
