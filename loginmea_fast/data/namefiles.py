"""Names of entities that come in a file of their own, in whichever layout."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from loginmea_fast.data.identifiers import NONE, Listed
from loginmea_fast.data.textfile import read_bytes, shorten
from loginmea_fast.errors import DataError

__all__ = ["NAMES_FILE", "read_translated_names"]

NAMES_FILE = "translated_names.json"
_FORM = "[[id or identifier, [word, ...]], ...]"


def read_translated_names(
    path: Path, entity_of: Callable[[int], int] | None, sides: list[Listed], notes: list[str]
) -> dict[int, list[str]]:
    """Words of names by entity, from JSON: a list of [entity, words] or an object entity -> words.

    Args:
        path: the file. Words are a list of strings or one string; an entity is an id of the layout's files or an
            identifier, which may stand for an entity of either graph.
        entity_of: our id of a file's id, or a ValueError that says what is wrong with it; None where files have no ids.
        sides: entities of both graphs by identifier.
        notes: gets a sentence on identifiers that are nobody's, and on entities that have two names.

    Raises:
        DataError: no JSON of that form, or an id that is no entity's.
    """
    raw = read_bytes(path, _FORM)
    try:
        content = json.loads(raw, object_pairs_hook=_Object)  # a dict would keep one of two equal keys
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is no valid JSON ({shorten(str(error))}); it should be {_FORM}") from None
    if isinstance(content, _Object):
        content = [[_key(key, entity_of), own] for key, own in content]
    if not isinstance(content, list):
        raise DataError(f"{path} holds a JSON {type(content).__name__}; it should be {_FORM}")
    words: dict[int, list[str]] = {}
    unknown: list[str] = []
    again: list[int | str] = []

    def name(entity: int, own: list[str], key: int | str) -> None:
        if words.get(entity, own) != own:
            again.append(key)
        words[entity] = own

    for position, entry in enumerate(content, start=1):
        match entry:
            case [int() | str() as key, [*own]] if not isinstance(key, bool) and all(
                isinstance(word, str) for word in own
            ):
                pass
            case [int() | str() as key, str() as text] if not isinstance(key, bool):
                own = text.split()
            case _:
                raise DataError(
                    f"{path}, entry {position}: {shorten(str(entry))} is no {_FORM[1:-6]}; correct the entry"
                )
        if isinstance(key, str):
            found = [side.ids.get(key, NONE) for side in sides]
            if max(found) < 0:
                found = [int(side.match([key], path.name)[0]) for side in sides]
            for entity in found:
                if entity >= 0:
                    name(entity, own, key)
            if max(found) < 0:
                unknown.append(key)
            continue
        try:
            if entity_of is None:
                raise ValueError("is an id, but this layout tells entities by identifier")
            name(entity_of(key), own, key)
        except ValueError as error:
            raise DataError(
                f"{path}, entry {position}: {shorten(str(key))} {error}; correct the entry"
            ) from None
    if again:
        notes.append(
            f"{path.name}: {len(again):,} entries name an entity that an earlier entry names otherwise, the last one "
            f"counts (first: {shorten(str(again[0]))})"
        )
    if unknown and not words:
        raise DataError(
            f"{path}: none of its {len(unknown):,} entities is in either graph, the first is {shorten(unknown[0])}; "
            "spell them as the other files do, or take the file away"
        )
    if unknown:
        notes.append(
            f"{path.name}: {len(unknown):,} of {len(content):,} entities are in neither graph and were left out "
            f"(first: {shorten(unknown[0])})"
        )
    return words


class _Object(list):
    """A JSON object as its keys and values, in their order."""


def _key(key: str, entity_of: Any) -> int | str:
    """JSON spells the keys of an object as strings, ids too."""
    return int(key) if entity_of is not None and key.isascii() and key.isdigit() and len(key) <= 18 else key
