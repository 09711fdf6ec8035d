"""Files of attributes, in whichever layout: the types that entities have, and names among the values."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from loginmea_fast.data.identifiers import NONE, SEVERAL, joined_surrogates, plain_spelling, without_escapes
from loginmea_fast.data.tables import AttributeTable
from loginmea_fast.data.textfile import Fields, Symbols, read_field_blocks, shorten, some_of
from loginmea_fast.errors import DataError

__all__ = ["Attributes", "literal_datatype", "literal_language", "literal_text"]

Match = Callable[[list[str]], np.ndarray]
_LITERAL = re.compile(r'"(.*)"(?:@([\w-]+)|\^\^(.*))?', re.DOTALL)
_ESCAPE = re.compile(r"\\(?:u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|(.))", re.DOTALL)
_ESCAPED = {"t": "\t", "n": "\n", "r": "\r", "b": "\b", "f": "\f"}


def literal_text(value: str) -> str:
    """A value without white space around it and, of an RDF literal, without quotes, escapes, language and type."""
    value = value.strip()
    literal = _LITERAL.fullmatch(value)
    if literal is None:
        return without_escapes(value)
    text = literal[1]
    return (joined_surrogates(_ESCAPE.sub(_unescaped, text)) if "\\" in text else text).strip()


def literal_language(value: str) -> str:
    """The language of an RDF literal, in lower case; "" where it has none."""
    literal = _LITERAL.fullmatch(value.strip())
    return (literal[2] or "").lower() if literal else ""


def literal_datatype(value: str) -> str:
    """The type of an RDF literal without angle brackets; "" where it has none."""
    literal = _LITERAL.fullmatch(value.strip()) if "^^" in value else None
    return (literal[3] or "").strip("<>") if literal else ""


def _unescaped(match: re.Match[str]) -> str:
    code = match[1] or match[2]
    return (
        chr(int(code, 16))
        if code and int(code, 16) < 0x110000
        else _ESCAPED.get(match[3] or "", match[3] or "\ufffd")
    )


class Attributes:
    """Attribute types of the entities of both graphs, read file by file.

    Args:
        name_attributes: attributes whose values are names; those that come first count first.
        notes: gets a sentence on what was left out.

    Attributes:
        names: entity -> its name, for entities that have one of ``name_attributes``.
    """

    def __init__(self, name_attributes: tuple[str, ...], notes: list[str]) -> None:
        self.notes = notes
        self.names: dict[int, str] = {}
        self._wanted = {plain_spelling(name): rank for rank, name in enumerate(name_attributes)}
        self._rank: dict[int, int] = {}
        self._types = Symbols()
        self._seen = Symbols()
        self._owners: list[np.ndarray] = []
        self._kinds: list[np.ndarray] = []

    def read_types(self, path: Path, match: Match, where: str) -> None:
        """Reads lines of entity, attribute type, attribute type, ...

        Args:
            path: the file.
            match: entity ids of identifiers, NONE or SEVERAL where it is not known which is meant.
            where: what lists the entities, for notes and errors.
        """
        for block, owner in _owned(path, 1, "uri, attribute type...", match, where, self.notes):
            keep = owner >= 0
            counts = block.counts[keep] - 1
            ends = np.cumsum(counts)
            fields = np.repeat(block.first[keep] + 1 - (ends - counts), counts) + np.arange(counts.sum())
            there = block.lengths[fields] > 0  # a tab at the end of a line begins no type
            self._add(np.repeat(owner[keep], counts)[there], self._types.number(block.take(fields[there])))

    def read_triples(self, path: Path, match: Match, where: str, *, types: bool) -> None:
        """Reads lines of entity, attribute, value; arguments as in :meth:`read_types`.

        Args:
            path: the file.
            match: see there.
            where: see there.
            types: whether its attributes count as types; other files may say those.
        """
        for block, owner in _owned(path, 2, "entity, attribute, value", match, where, self.notes):
            keep = owner >= 0
            fields = block.first[keep] + 1
            kinds = (self._types if types else self._seen).number(block.take(fields))
            if types:
                self._add(owner[keep], kinds)
            if self._wanted:
                self._take_names(
                    block, np.flatnonzero(keep), owner, kinds, self._types if types else self._seen
                )

    def table(self) -> AttributeTable | None:
        """All that was read, or None where that is nothing; types that differ by spelling alone are one."""
        if not len(self._types):
            return None
        kinds, texts = np.concatenate(self._kinds), list(self._types.ids)
        first: dict[str, int] = {}
        number_of = np.array(
            [first.setdefault(plain_spelling(text), number) for number, text in enumerate(texts)]
        )
        kept = np.unique(number_of)
        if twins := len(texts) - len(kept):
            other = int((number_of != np.arange(len(texts))).argmax())
            self.notes.append(
                f"{twins:,} types of attributes differ from another by spelling alone and count as that (first: "
                f"{shorten(texts[other])})"
            )
            kinds, texts = np.searchsorted(kept, number_of)[kinds], [texts[number] for number in kept]
        return AttributeTable(torch.from_numpy(np.concatenate(self._owners)), torch.from_numpy(kinds), texts)

    def check_names(self, sides: Sequence[np.ndarray]) -> None:
        """Says how many entities got a name, if names were asked for; none at all in a graph is an error."""
        if not self._wanted:
            return
        asked = some_of(shorten(name) for name in self._wanted)
        has = np.fromiter(self.names, dtype=np.int64, count=len(self.names))
        counts = [int(np.isin(side, has).sum()) for side in sides]
        for graph, count in enumerate(counts, start=1):
            if count == 0:
                known = [*self._types.ids, *self._seen.ids]
                near = (
                    difflib.get_close_matches(next(iter(self._wanted)), known[:20_000], 3, 0.4) or known[:3]
                )
                raise DataError(
                    f"no entity of graph {graph} has a value of {asked} to be named by; its attributes are in "
                    f"attr_triples_{graph}, near are {some_of(map(shorten, near)) or 'none'}: name one for each graph"
                )
        self.notes.append(
            f"{counts[0]:,} of {len(sides[0]):,} and {counts[1]:,} of {len(sides[1]):,} entities are named by {asked}, "
            "the others by their identifier"
        )

    def _add(self, owners: np.ndarray, kinds: np.ndarray) -> None:
        self._owners.append(owners)
        self._kinds.append(kinds)

    def _take_names(
        self, block: Fields, lines: np.ndarray, owner: np.ndarray, kinds: np.ndarray, symbols: Symbols
    ) -> None:
        texts = list(symbols.ids)
        rank_of = {code: self._wanted.get(plain_spelling(texts[code])) for code in np.unique(kinds).tolist()}
        wanted = [code for code, rank in rank_of.items() if rank is not None]
        for position in np.flatnonzero(np.isin(kinds, wanted)).tolist():
            line = int(lines[position])
            entity, rank = int(owner[line]), rank_of[int(kinds[position])]
            assert rank is not None
            if rank >= self._rank.get(entity, len(self._wanted)):
                continue
            first = block.first[line] + 2
            value = "\t".join(block.strings(np.arange(first, block.first[line] + block.counts[line])))
            if name := literal_text(value):
                self.names[entity], self._rank[entity] = name, rank


def _owned(
    path: Path, least: int, meaning: str, match: Match, where: str, notes: list[str]
) -> Iterator[tuple[Fields, np.ndarray]]:
    """Blocks of a file whose lines begin with an entity, and the id of each; negative ids are none."""
    said = Symbols()
    ids = np.empty(0, dtype=np.int64)
    for block in read_field_blocks(path, least, None, meaning):
        codes = said.number(block.take(block.first))
        if len(said) > len(ids):
            ids = np.concatenate([ids, match(list(said.ids)[len(ids) :])])
        yield block, ids[codes]
    texts = list(said.ids)
    if (ids < 0).all():
        raise DataError(
            f"{path}: none of its {len(ids):,} entities is in {where}, the first is {shorten(texts[0])}; "
            "spell them as they are spelt there, or take the file away"
        )
    for what, meant in ((NONE, f"not in {where}"), (SEVERAL, f"spelt like several in {where}")):
        if count := int((ids == what).sum()):
            first = texts[int((ids == what).argmax())]
            notes.append(
                f"{path.name}: {count:,} of {len(ids):,} entities are {meant} and were left out "
                f"(first: {shorten(first)})"
            )
