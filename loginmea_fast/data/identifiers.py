"""Entities by identifier, where files of one graph spell an identifier in different ways.

The first file that names the entities of a graph is their list: two identifiers in it are two entities, however alike.
What another file says is looked up as it stands, then by its plain spelling; it is taken for a listed entity only if
exactly one has that spelling.
"""

from __future__ import annotations

import contextlib
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from urllib.parse import unquote

import numpy as np

from loginmea_fast.data.textfile import shorten

__all__ = [
    "NONE",
    "SEVERAL",
    "Listed",
    "Respelled",
    "by_identifier",
    "joined_surrogates",
    "plain_spelling",
    "without_escapes",
]

NONE, SEVERAL = -1, -2  # no listed entity is meant, or more than one could be
_PLAIN = re.compile(r"(?!https://|urn:x-)[!-$&-;=?-\[\]-~]+")
_ESCAPE = re.compile(r"\\(?:u([0-9A-Fa-f]{4})|U([0-9A-Fa-f]{8}))")
_WRITTEN = re.compile(r"^urn:x-(?:left|right):")  # as runs/aligning/formats.py writes labels
_SURROGATE = re.compile("[\ud800-\udfff]")
_INVISIBLE = "\ufeff\u200b\u200e\u200f\u2060"


def plain_spelling(identifier: str) -> str:
    r"""An identifier without what writers of files vary.

    White space and angle brackets around it go, percent escapes that are UTF-8 and N-Triples' ``\u00e9`` are resolved,
    characters are composed (Unicode's form NFC), https is http. What matches in RDF put ahead of a label that is no IRI
    (``urn:x-left:``) goes, too.
    """
    if _PLAIN.fullmatch(identifier):
        return identifier
    text = identifier.strip().strip(_INVISIBLE).strip()
    if text.startswith("<") and text.endswith(">"):
        text = text[1:-1].strip()
    text = _WRITTEN.sub("", without_escapes(text))
    if "%" in text:
        with contextlib.suppress(UnicodeDecodeError):
            text = unquote(text, errors="strict")
    text = unicodedata.normalize("NFC", text)
    return "http://" + text.removeprefix("https://") if text.startswith("https://") else text


def without_escapes(text: str) -> str:
    r"""A text with the characters that N-Triples and Turtle write as ``\u00e9`` or ``\U0001f600``."""
    if "\\" not in text:
        return text
    return joined_surrogates(_ESCAPE.sub(lambda code: chr(min(int(code[1] or code[2], 16), 0x10FFFF)), text))


def joined_surrogates(text: str) -> str:
    """A text in which two halves of a character, as Java escapes it, are that character; a lone half is none."""
    if not _SURROGATE.search(text):
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def by_identifier(identifiers: Iterable[str], entities: Iterable[int]) -> dict[str, int]:
    """Identifier -> entity, or SEVERAL where it stands for more than one."""
    ids: dict[str, int] = {}
    for identifier, entity in zip(identifiers, entities, strict=True):
        ids[identifier] = SEVERAL if identifier in ids else entity
    return ids


class Respelled:
    """What was reconciled while a data set was read, for one note."""

    def __init__(self) -> None:
        self.count = 0
        self.example = ""
        self.twins = 0
        self.twin_example = ""

    def notes(self) -> list[str]:
        """Notes on identifiers taken for a listed entity and on listed entities that are nearly the same, if any."""
        notes = []
        if self.count:
            notes.append(
                f"{self.count:,} identifiers are spelt otherwise than in the list of entities and were taken for "
                f"listed ones (first: {self.example})"
            )
        if self.twins:
            notes.append(
                f"{self.twins:,} entities differ from another of their graph by spelling alone and are kept apart "
                f"(first: {self.twin_example})"
            )
        return notes


class Listed:
    """Entities by identifier, as a rule those of one graph.

    Args:
        ids: identifier -> entity id, or SEVERAL where the list has it more than once.
        where: the file that lists them, for notes.
        respelled: where reconciled identifiers are counted.
        spell: what of an identifier counts where it is not listed as it stands.
    """

    def __init__(
        self,
        ids: Mapping[str, int],
        where: str,
        respelled: Respelled,
        spell: Callable[[str], str] = plain_spelling,
    ) -> None:
        self.ids, self.where, self.respelled, self._spell = ids, where, respelled, spell
        self._plain: dict[str, int] = {}
        self._twins: list[str] = []
        for identifier, entity in ids.items():
            plain = spell(identifier)
            other = self._plain.setdefault(plain, entity)
            if other != entity or entity == SEVERAL:
                self._plain[plain] = SEVERAL
                self._twins.append(identifier)

    def note_twins(self) -> None:
        """Counts listed entities that differ from another by spelling alone, for the note."""
        if self._twins:
            own = self.respelled
            own.twins += len(self._twins)
            own.twin_example = own.twin_example or f"{shorten(self._twins[0])} in {self.where}"

    def match(self, said: Iterable[str], file: str) -> np.ndarray:
        """Entity ids of identifiers, NONE or SEVERAL where no single listed entity is meant.

        Args:
            said: distinct identifiers.
            file: the file that says them, for the note.
        """
        found = []
        for identifier in said:
            entity = self.ids.get(identifier, NONE)
            if entity == NONE:
                entity = self._plain.get(self._spell(identifier), NONE)
                if entity >= 0:
                    self.respelled.count += 1
                    self.respelled.example = self.respelled.example or f"{shorten(identifier)} in {file}"
            found.append(entity)
        return np.array(found, dtype=np.int64)
