"""Whose a vector is, where a file says so by a uri, a name, an id or the number of an image."""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from loginmea_fast.data.identifiers import NONE, SEVERAL, Listed, Respelled, by_identifier, plain_spelling
from loginmea_fast.data.notes import Caution
from loginmea_fast.data.tables import Entities
from loginmea_fast.data.textfile import read_fields, shorten
from loginmea_fast.errors import DataError

__all__ = ["Matched", "match_ids", "match_keys"]

_SUFFIX = re.compile(
    r"(?:[_\-.#:/ ]\(?(?:(?:image|img|photo|pic|google|bing|yahoo)_?)?\d{1,5}\)?)?"
    r"(?:\.(?:jpe?g|png|gif|webp|bmp|npy))?$",
    re.IGNORECASE,
)
_SLASHES = re.compile("/{2,}")
_FREEBASE = re.compile(r"[mg]\.(?=\w+$)")
_INDEX = "*ImageIndex.txt"  # MMKB's lists of uri and image, beside its vectors


@dataclass(frozen=True)
class Matched:
    """What the keys of a file mean.

    Attributes:
        entities: [n] int64, the entity of each key, NONE or SEVERAL.
        told: what the keys are, for descriptions: "uris", "names", "ids", "images of an index".
        notes: keys that are nobody's, one sentence each kind.
    """

    entities: np.ndarray
    told: str
    notes: tuple[str, ...]


def match_keys(path: Path, keys: list[Hashable], pair: Entities) -> Matched:
    """Finds the entities that keys mean.

    All keys of a file are taken for the same thing, for what most of them are: uris, ids, names, or images that a list
    ``*ImageIndex.txt`` beside the file gives to uris. Where that finds more, what numbers the images of an entity is
    first taken off: an ending such as ``_2`` or ``.jpg`` if every key has one, or the last part of a path.

    Args:
        path: the file, for errors and for lists beside it.
        keys: distinct strings or integers.
        pair: whose entities they may be.

    Raises:
        DataError: a key that is neither, or not one that is an entity's.
    """
    texts = [_text(path, key) for key in keys]
    tables = _tables(path, pair)
    best: tuple[int, str, list[int]] = (0, "", [])
    for bases in _bases(texts):
        for told, table in tables:
            found = table.match(bases, path.name).tolist()
            count = sum(entity != NONE for entity in found)
            if count > best[0]:
                best = (count, told, found)
        if best[0] == len(texts):
            break
    count, told, found = best
    entities = np.array(found, dtype=np.int64)
    if not count:
        raise DataError(
            f"{path}: none of {len(keys):,} keys, the first being {shorten(texts[0])}, is the uri, name or id of an "
            f"entity; name the arrays by uris such as {shorten(pair.uris[0])}, or store 'ids' and 'features'"
        )
    return _matched(path, entities, told, texts)


def match_ids(path: Path, ids: np.ndarray, pair: Entities) -> Matched:
    """Finds the entities that whole numbers mean: by the ids of the files, or where these have none by ours.

    Args:
        path: the file, for errors.
        ids: int64 [n].
        pair: whose entities they may be.

    Raises:
        DataError: not one is an entity's.
    """
    known = np.arange(pair.num_entities) if pair.file_ids is None else pair.file_ids.numpy()
    order = known.argsort(kind="stable")
    known = known[order]
    first, last = np.searchsorted(known, ids), np.searchsorted(known, ids, side="right")
    entities = order[np.minimum(first, len(known) - 1)]
    entities[last == first] = NONE
    entities[last > first + 1] = SEVERAL  # as both graphs count from 0
    if len(ids) and (entities == NONE).all():
        raise DataError(
            f"{path}: none of {len(ids):,} ids, the first being {ids[0]}, is that of an entity; those run from "
            f"{known[0]} to {known[-1]}: correct them, or say by 'uris' whose the rows are"
        )
    found = _matched(path, entities, "ids", ids)
    beyond = ids[entities == NONE]
    if len(beyond) and (beyond == known[-1] + 1).all() and known[0] not in ids:
        shifted = Caution(
            f"{path.name}: its ids seem to count from {known[0] + 1}, those of the entities from {known[0]}"
        )
        return Matched(entities, "ids", (*found.notes, shifted))
    return found


def _matched(path: Path, entities: np.ndarray, told: str, keys: Sequence[str] | np.ndarray) -> Matched:
    """With a note on keys that mean nobody, and one on those that mean several; nothing but the latter is an error."""
    if len(entities) and not (entities >= 0).any():
        several = entities == SEVERAL
        raise DataError(
            f"{path}: {int(several.sum()):,} of {len(keys):,} keys, taken for {told}, are those of several entities "
            f"each, the first being {shorten(str(keys[int(several.argmax())]))}, and no other key is an entity's; "
            + (
                "say by 'uris' whose the rows are"
                if told == "ids"
                else "store 'ids' and 'features', for ids are of one entity"
            )
        )
    notes = []
    for code, what in ((NONE, "are no entity's"), (SEVERAL, "mean several entities")):
        missed = np.flatnonzero(entities == code)
        if len(missed):
            notes.append(
                Caution(
                    f"{path.name}: {len(missed):,} of {len(keys):,} keys {what} and are left out (first: "
                    f"{shorten(str(keys[missed[0]]))}); the keys are taken for {told}"
                )
            )
    return Matched(entities, told, tuple(notes))


def _text(path: Path, key: Hashable) -> str:
    if isinstance(key, bytes):
        key = key.decode("utf-8", "replace")
    if isinstance(key, bool | np.bool_) or not isinstance(key, str | int | np.integer):
        remedy = "ids must be integers, so store int(key)" if isinstance(key, float | np.floating) else ""
        raise DataError(
            f"{path}: key {shorten(str(key))} is a {type(key).__name__} and no entity; "
            + (remedy or "keys must be uris, names or ids")
        )
    text = str(key)
    try:  # Python 2 wrote UTF-8 byte by byte
        return text.encode("latin1").decode("utf-8")
    except UnicodeError:
        return text


def _bases(texts: list[str]) -> Iterable[list[str]]:
    """The keys, then without what may number the images of an entity."""
    yield texts
    matches = [_SUFFIX.search(text) for text in texts]
    if all(
        match is not None and 0 < match.start() < len(text)
        for match, text in zip(matches, texts, strict=True)
    ):
        yield [text[: match.start()] for match, text in zip(matches, texts, strict=True) if match is not None]
    if all("/" in text for text in texts):
        yield [text.rsplit("/", 1)[0] for text in texts]
        yield [text.split("/", 1)[1] for text in texts]
        yield [text.split("/", 1)[1].rsplit("/", 1)[0] for text in texts]


def _tables(path: Path, pair: Entities) -> list[tuple[str, Listed]]:
    def listed(identifiers: Sequence[str], entities: Iterable[int], spell: Callable[[str], str]) -> Listed:
        return Listed(by_identifier(identifiers, entities), path.name, Respelled(), spell)

    everyone = range(pair.num_entities)
    uris = listed(pair.uris, everyone, _stored)
    file_ids = everyone if pair.file_ids is None else pair.file_ids.tolist()
    tables = [
        ("uris", uris),
        ("ids", listed(list(map(str, file_ids)), everyone, str.strip)),
        ("names", listed(pair.names, everyone, _named)),
    ]
    index = [
        fields
        for file in sorted(path.parent.glob(_INDEX) if path.is_file() else ())
        for _, fields in read_fields(file, 2, 2, "uri, image")
    ]
    if index:
        owners = uris.match([uri for uri, _ in index], path.name).tolist()
        images = {image: entity for (_, image), entity in zip(index, owners, strict=True)}
        tables.append(("images of an index", Listed(images, path.name, Respelled(), str.strip)))
    return tables


def _stored(uri: str) -> str:
    """A uri's plain spelling; HDF5 keeps no repeated and no leading slash, MMKB writes m.1 for /m/1."""
    text = _SLASHES.sub("/", plain_spelling(uri)).strip("/")
    if text.startswith("https:/"):
        text = "http:/" + text.removeprefix("https:/")
    return _FREEBASE.sub(lambda match: match[0][0] + "/", text) if text[1:2] == "." else text


def _named(name: str) -> str:
    return " ".join(plain_spelling(name).replace("_", " ").split())
