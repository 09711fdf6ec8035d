"""Matches in the formats that other tools read: content of a file from columns.

A table has a line a match, whatever names hold. SSSOM is the Simple Standard for Sharing Ontological Mappings
(Matentzoglu et al., Database 2022), a table with metadata ahead of it and identifiers as CURIEs; `sameas` is N-Triples
of owl:sameAs; `alignment-rdf` is the Alignment API's (David et al., Semantic Web 2011), which the Ontology Alignment
Evaluation Initiative takes.
"""

from __future__ import annotations

import csv
import datetime
import io
import json
import math
import re
import uuid
from collections.abc import Callable, Iterable, Mapping
from typing import Any
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

from loginmea_fast.errors import ConfigError
from loginmea_fast.version import __version__

__all__ = ["FORMATS", "Columns", "check_format", "plain_text", "safe_text"]

Columns = Mapping[str, list[Any]]

# A table's cell may not end its line or its column, nor hide what follows it.
_CONTROL = re.compile(
    r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff\\]"
)
_NAMED = {"\\": r"\\", "\t": r"\t", "\n": r"\n", "\r": r"\r"}
_ESCAPE = re.compile(r"\\(?:u([0-9a-f]{4})|([\\tnr]))")
_FORMULA = re.compile(r"'*[=+\-@]")
_NUMBER = re.compile(r"[+-]?\d+([.,]\d+)*([eE][+-]?\d+)?")

_IRI = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*://[^/?#]+|urn:[A-Za-z0-9\-]+:", re.IGNORECASE)
# What RFC 3987 does not allow in a path or fragment; an escape that is one already stays.
_NO_IRI = re.compile(
    r"%(?![0-9A-Fa-f]{2})|[^A-Za-z0-9\-._~:/?#@!$&'()*+,;=%\u00a0-\ud7ff\uf900-\ufdcf\ufdf0-\uffef"
    r"\U00010000-\U0001fffd\U00020000-\U0002fffd\U00030000-\U0003fffd]"
)
_SAME_AS = "http://www.w3.org/2002/07/owl#sameAs"
_SSSOM_LICENSE = "https://w3id.org/sssom/license/unspecified"


def safe_text(text: str) -> str:
    r"""Text that no reader of tables and no spreadsheet takes for anything else.

    Control characters, line separators and marks that turn the direction of writing are escaped (``\n``, ``\u202e``),
    as is the backslash; what a spreadsheet would calculate (a leading ``=``, ``+``, ``-`` or ``@``, but for plain
    numbers) gets an apostrophe in front. `plain_text` undoes both.
    """
    if _CONTROL.search(text):
        text = _CONTROL.sub(lambda found: _NAMED.get(found[0], f"\\u{ord(found[0]):04x}"), text)
    if _FORMULA.match(text) and not _NUMBER.fullmatch(text):
        text = f"'{text}"
    return text


def plain_text(cell: str) -> str:
    """The text that `safe_text` made a cell of."""
    if cell.startswith("'") and _FORMULA.match(cell):
        cell = cell[1:]
    named = {"t": "\t", "n": "\n", "r": "\r", "\\": "\\"}
    return _ESCAPE.sub(lambda found: chr(int(found[1], 16)) if found[1] else named[found[2]], cell)


def check_format(format: str) -> None:
    """Raise `ConfigError` unless `format` is one that matches are written in."""
    if format not in FORMATS:
        raise ConfigError(f"format must be one of {', '.join(FORMATS)}; got {format!r}")


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return f"{value:.6g}" if math.isfinite(value) else ""
    return safe_text(value) if isinstance(value, str) else str(value)


def _table(columns: Columns, separator: str) -> str:
    text = io.StringIO()
    # A cell with a quote or the separator is quoted, for readers who take a leading quote for the begin of one.
    writer = csv.writer(text, delimiter=separator, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(map(_cell, row) for row in zip(*columns.values(), strict=True))
    return text.getvalue()


def _tsv(columns: Columns, _: Mapping[str, Any]) -> bytes:
    return _table(columns, "\t").encode()


def _csv(columns: Columns, _: Mapping[str, Any]) -> bytes:
    return _table(columns, ",").encode()


def _parquet(columns: Columns, report: Mapping[str, Any]) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    buffer = io.BytesIO()
    facts = {"loginmea_fast": json.dumps(report, allow_nan=False)}
    pq.write_table(pa.table(dict(columns)).replace_schema_metadata(facts), buffer)
    return buffer.getvalue()


def iri_of(identifier: str, side: str) -> str:
    """An identifier as an IRI: what is none becomes `urn:x-left:...`, and characters that no IRI has are escaped."""
    bare = identifier.strip()
    if bare.startswith("<") and bare.endswith(">"):
        bare = bare[1:-1]
    if not _IRI.match(bare):
        return f"urn:x-{side}:{quote(identifier.encode('utf-8', 'surrogatepass'), safe='')}"
    head, mark, fragment = bare.partition("#")
    bare = head + mark + fragment.replace("#", "%23")
    return _NO_IRI.sub(lambda found: quote(found[0].encode("utf-8", "surrogatepass"), safe=""), bare)


def _iris(columns: Columns) -> tuple[list[str], list[str]]:
    left, right = ([iri_of(text, side) for text in columns[side]] for side in ("left", "right"))
    return left, right


def _sameas(columns: Columns, _: Mapping[str, Any]) -> bytes:
    pairs = zip(*_iris(columns), strict=True)
    return "".join(f"<{left}> <{_SAME_AS}> <{right}> .\n" for left, right in pairs).encode()


def _alignment_rdf(columns: Columns, report: Mapping[str, Any]) -> bytes:
    iris = _iris(columns)
    one_to_one = all(len(set(side)) == len(side) for side in iris)
    cells = "".join(
        f"<map><Cell><entity1 rdf:resource={quoteattr(left)}/><entity2 rdf:resource={quoteattr(right)}/>"
        f'<relation>=</relation><measure rdf:datatype="http://www.w3.org/2001/XMLSchema#float">{sure:.6g}</measure>'
        "</Cell></map>\n"
        for left, right, sure in zip(*iris, columns["confidence"], strict=True)
    )
    ontologies = "".join(
        f"<onto{number}><Ontology rdf:about={quoteattr(_namespaces(side)[0] or f'urn:x-{name}:')}/></onto{number}>\n"
        for number, (name, side) in enumerate(zip(("left", "right"), iris, strict=True), start=1)
    )
    return (
        '<?xml version="1.0" encoding="utf-8"?>\n'
        '<rdf:RDF xmlns="http://knowledgeweb.semanticweb.org/heterogeneity/alignment#" '
        'xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">\n'
        f"<Alignment><xml>yes</xml><level>0</level><type>{'11' if one_to_one else '**'}</type>\n"
        f"{ontologies}{cells}</Alignment>\n</rdf:RDF>\n"
    ).encode()


def _namespaces(iris: Iterable[str]) -> list[str]:
    """The namespace of each authority among the IRIs: what they have in common, up to a slash, hash or colon."""
    groups: dict[str, list[str]] = {}
    for iri in iris:
        found = _IRI.match(iri)
        groups.setdefault(found[0] if found else "", []).append(iri)
    spaces = []
    for authority, members in groups.items():
        first, last = min(members), max(members)  # what these two begin with, all begin with
        same = (n for n, (a, b) in enumerate(zip(first, last, strict=False)) if a != b)
        shared = first[: next(same, len(first))]
        end = max(shared.rfind(mark) for mark in "/#:") + 1
        spaces.append(shared[: max(end, len(authority))])
    return spaces or [""]


def _sssom(columns: Columns, report: Mapping[str, Any]) -> bytes:
    iris = _iris(columns)
    prefixes = {
        "skos": "http://www.w3.org/2004/02/skos/core#",
        "semapv": "https://w3id.org/semapv/vocab/",
    }
    sides = []
    for name, side in zip(("left", "right"), iris, strict=True):
        spaces = sorted(_namespaces(side), key=len, reverse=True)
        of = {space: name if len(spaces) == 1 else f"{name}{n}" for n, space in enumerate(spaces, start=1)}
        of = {space: {v: k for k, v in prefixes.items()}.get(space, prefix) for space, prefix in of.items()}
        prefixes |= {prefix: space for space, prefix in of.items() if space}
        sides.append([_curie(iri, of) for iri in side])
    count = len(columns["left"])
    table = {
        "subject_id": sides[0],
        "subject_label": columns["left_name"],
        "predicate_id": ["skos:exactMatch"] * count,
        "object_id": sides[1],
        "object_label": columns["right_name"],
        "mapping_justification": ["semapv:SemanticSimilarityThresholdMatching"] * count,
        "confidence": columns["confidence"],
    }
    body = _table(table, "\t")
    facts = {
        "mapping_set_id": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_OID, body)}",
        "mapping_set_description": f"entities matched by loginmea-fast ({report['method']}, {report['decoder']})",
        "license": _SSSOM_LICENSE,
        "mapping_tool": "loginmea-fast",
        "mapping_tool_version": __version__,
        "mapping_date": datetime.date.today().isoformat(),
    }
    head = ["curie_map:", *(f"  {prefix}: {json.dumps(_ascii(space))}" for prefix, space in prefixes.items())]
    head += [f"{name}: {json.dumps(value)}" for name, value in facts.items()]  # JSON's strings are YAML's
    return ("".join(f"#{line}\n" for line in head) + body).encode()


def _curie(iri: str, prefix_of: Mapping[str, str]) -> str:
    space = next(space for space in prefix_of if iri.startswith(space))
    return f"{prefix_of[space]}:{_ascii(iri[len(space) :])}"


def _ascii(iri: str) -> str:
    """A part of an IRI as that of a URI, which SSSOM asks for (RFC 3987, 3.1)."""
    return re.sub(r"[^\x00-\x7f]+", lambda found: quote(found[0]), iri)


FORMATS: dict[str, tuple[str, Callable[[Columns, Mapping[str, Any]], bytes]]] = {
    "tsv": (".tsv", _tsv),
    "csv": (".csv", _csv),
    "parquet": (".parquet", _parquet),
    "sssom": (".sssom.tsv", _sssom),
    "sameas": (".nt", _sameas),
    "alignment-rdf": (".rdf", _alignment_rdf),
}
