"""Labels and values as RDF terms and back: what is no IRI is spelt as one, a value keeps its language and its type."""

from __future__ import annotations

import re
from typing import NamedTuple
from urllib.parse import quote, unquote

__all__ = [
    "RDF_TYPE",
    "Literal",
    "as_iri",
    "bare_iri",
    "iri_of",
    "label_of",
    "literal_form",
    "quoted",
    "split_literal",
]

RDF_TYPE = "http://www.w3.org/1999/02/22-rdf-syntax-ns#type"
_OWN = "urn:label:"  # labels that are no IRIs are spelt as one of this scheme, by percent escapes
# Stricter than RFC 3987, so that every library takes it.
_IRI = re.compile(
    r"(?:https?://[A-Za-z0-9.-]+(?::\d+)?(?:[/?#]|$)|(?!https?:|file:|urn:label:)[A-Za-z][A-Za-z0-9+.-]*:(?!//)(?=.))"
    r"(?:[A-Za-z0-9\-._~:/?@!$&'()*+,;=\u00a0-\ud7ff\uf900-\ufdcf\ufdf0-\uffef]|#(?!.*#)|%[0-9A-Fa-f]{2})*"
)
_LITERAL = re.compile(
    r'"((?:[^"\\]|\\(?:[tbnrf"\'\\]|u[0-9A-Fa-f]{4}|U[0-9A-Fa-f]{8}))*)"'
    r"(?:@([A-Za-z]{1,8}(?:-[A-Za-z0-9]{1,8})*)|\^\^<([^<>\"\s{}|\\^`\x00-\x20]+)>)?",
    re.DOTALL,
)
_ESCAPE = re.compile(r"\\(?:u([0-9A-Fa-f]{4})|U([0-9A-Fa-f]{8})|(.))", re.DOTALL)
_ESCAPED = {"t": "\t", "b": "\b", "n": "\n", "r": "\r", "f": "\f"}
_TO_ESCAPE = re.compile(r'["\\\x00-\x1f\x7f]')
_SHORT = {"\t": "\\t", "\b": "\\b", "\n": "\\n", "\r": "\\r", "\f": "\\f", '"': '\\"', "\\": "\\\\"}


class Literal(NamedTuple):
    """A value with its language or its type; both are "" where it is plain text."""

    text: str
    language: str = ""
    datatype: str = ""


def iri_of(label: str) -> str:
    """The IRI that stands for a label: itself where it is one, in angle brackets or not, else one that keeps it.

    ``label_of`` gives the label again, without angle brackets around an IRI.
    """
    if bare := bare_iri(label):
        return bare
    return label if _IRI.fullmatch(label) else as_iri(label)


def bare_iri(label: str) -> str:
    """The IRI inside angle brackets; "" where a label is none."""
    return (
        label[1:-1] if label.startswith("<") and label.endswith(">") and _IRI.fullmatch(label[1:-1]) else ""
    )


def as_iri(label: str) -> str:
    """An IRI that keeps a label by escapes, whether it is an IRI itself or not."""
    return _OWN + quote(label, safe="")


def label_of(iri: str) -> str:
    """The label that an IRI stands for: see :func:`iri_of`."""
    return unquote(iri[len(_OWN) :]) if iri.startswith(_OWN) else iri


def split_literal(value: str) -> Literal:
    """What a value says: text, language, type. What does not have the form of an N-Triples literal is plain text."""
    match = _LITERAL.fullmatch(value) if value.startswith('"') else None
    if match is None:
        return Literal(value)
    text = _ESCAPE.sub(_unescaped, match[1]) if "\\" in match[1] else match[1]
    return Literal(text, match[2] or "", match[3] or "")


def literal_form(text: str, language: str = "", datatype: str = "") -> str:
    """A value as tables hold it: plain text as it is, unless that reads as a literal; else as N-Triples write it."""
    if not language and not datatype and not (text.startswith('"') and _LITERAL.fullmatch(text)):
        return text
    tag = f"@{language}" if language else f"^^<{datatype}>" if datatype else ""
    return quoted(text) + tag


def quoted(text: str) -> str:
    """Text as a plain literal of N-Triples: in quotes, what is special escaped."""
    return f'"{_TO_ESCAPE.sub(_escaped, text)}"'


def _unescaped(match: re.Match[str]) -> str:
    code = match[1] or match[2]
    if not code:
        return _ESCAPED.get(match[3], match[3])
    number = int(code, 16)
    return chr(number) if number < 0x110000 and not 0xD800 <= number < 0xE000 else "\ufffd"


def _escaped(match: re.Match[str]) -> str:
    return _SHORT.get(match[0]) or f"\\u{ord(match[0]):04X}"
