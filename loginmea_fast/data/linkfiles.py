"""Files of links: all links, and the parts of an official split under the names that people give them."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np

from loginmea_fast.data.checks import Links, check_parts, repeated_links
from loginmea_fast.data.directory import DataDirectory
from loginmea_fast.data.identifiers import SEVERAL, Listed
from loginmea_fast.data.split import Split
from loginmea_fast.data.textfile import Symbols, read_field_blocks, shorten
from loginmea_fast.errors import DataError

__all__ = ["PART_FILES", "part_files", "read_identifier_pairs", "read_links"]

_PARTS = {
    "train": ("sup", "train", "training", "seed", "seeds"),
    "valid": ("dev", "val", "valid", "validation"),
    "test": ("ref", "test", "testing"),
}
# Where two files say the same part, as JAPE's `ref_ent_ids` and `ref_pairs` do, the one that comes first here is read.
_ENDINGS = ("ent_ids", "links", "ent_links", "ill_ent_ids", "pairs", "ents", "ills")
_PART_OF = {word: part for part, words in _PARTS.items() for word in words}
_PART_NAME = re.compile(rf"({'|'.join(_PART_OF)})_({'|'.join(_ENDINGS)})")
PART_FILES = tuple(f"{word}_{ending}" for ending in _ENDINGS for word in _PART_OF)


def part_files(directory: DataDirectory) -> dict[str, str]:
    """Which file of a directory holds which part of an official split: train, valid, test -> plain name.

    Raises:
        DataError: two files of equal standing say the same part.
    """
    found: dict[str, list[tuple[int, str]]] = {}
    for name in directory.names():
        if match := _PART_NAME.fullmatch(name):
            found.setdefault(_PART_OF[match[1]], []).append((_ENDINGS.index(match[2]), name))
    chosen = {}
    for part in _PARTS:
        files = sorted(found.get(part, []))
        if len(files) > 1 and files[0][0] == files[1][0]:
            raise DataError(
                f"{directory.path}: {files[0][1]} and {files[1][1]} both hold the {part} links; keep one of them"
            )
        for _, name in files[1:]:
            directory.skip(name, f"{files[0][1]} holds the same links")
        if files:
            chosen[part] = files[0][1]
    return chosen


def read_identifier_pairs(path: Path, sides: list[Listed]) -> np.ndarray:
    """Links by identifier: int64 [lines, 2] entity ids; one that is nobody's is a DataError."""
    symbols = [Symbols() for _ in sides]
    codes: list[list[np.ndarray]] = [[] for _ in sides]
    for block in read_field_blocks(path, 2, 2, "left entity, right entity"):
        for column, own in enumerate(symbols):
            codes[column].append(own.number(block.take(block.first + column)))
    own_codes = [np.concatenate(column) for column in codes]
    ids = [side.match(own.ids, path.name) for side, own in zip(sides, symbols, strict=True)]
    rows = np.stack([own[code] for own, code in zip(ids, own_codes, strict=True)], axis=1)
    if (rows < 0).any():
        wrong = (rows < 0).any(axis=1)
        line = int(wrong.argmax())
        column = int((rows[line] < 0).argmax())
        text = list(symbols[column].ids)[own_codes[column][line]]
        several = rows[line, column] == SEVERAL
        why = "is spelt like several entities of" if several else "stands in no file of"
        other = sides[1 - column].match([text], path.name)[0] >= 0
        remedy = "the columns may be swapped" if other and wrong.all() else "correct the line or delete it"
        raise DataError(
            f"{path}, line {line + 1}: entity {shorten(text)} {why} graph {column + 1} "
            f"({int(wrong.sum()):,} of {len(rows):,} links are such); {remedy}"
        )
    return rows


def read_links(
    whole: Path | None,
    parts: dict[str, Path],
    read: Callable[[Path], np.ndarray],
    *,
    tolerated: float,
    show: list[str],
    missing: str,
    notes: list[str],
) -> tuple[np.ndarray, Split | None]:
    """All links and the official split, from whichever of the files there are.

    Without a file of all links they are those of the parts. A split that lacks its training or its test links gets
    those that are in no other part.

    Args:
        whole: the file of all links, or None.
        parts: files of the official split, by "train", "valid" and "test".
        read: reads a file into int64 [lines, 2].
        tolerated: share of links whose entity has another link already.
        show: [N] what to call an entity.
        missing: how the file of all links would be called, for notes.
        notes: gets a sentence on whatever was tolerated or filled in.

    Returns:
        int64 [P, 2] without exact repeats, and the split.
    """
    own = {part: Links.of(path, read(path), notes) for part, path in parts.items()}
    names = ", ".join(path.name for path in parts.values())
    if whole is not None:
        links = Links.of(whole, read(whole), notes)
    else:
        links = Links.joined(list(own.values()))
        notes.append(f"{missing} is not there, the links are those of {names}")
    notes += repeated_links(links, tolerated, show)
    left_out = check_parts(list(own.values()), links)
    if "train" in own and "test" not in own:
        own["test"] = links.without(list(own.values()))
        notes.append(
            f"no file says the test links, they are the {len(own['test'].rows):,} links outside of {names}"
        )
    elif "test" in own and "train" not in own and whole is not None:
        own["train"] = links.without(list(own.values()))
        notes.append(
            f"no file says the training links, they are the {len(own['train'].rows):,} links outside of {names}"
        )
    else:
        notes += left_out
    if "train" not in own or not len(own["train"].rows):
        if own:
            notes.append(f"{names} alone is no official split, which needs training links")
        return links.rows, None
    empty = np.empty((0, 2), dtype=np.int64)
    rows = [own[part].rows if part in own else empty for part in _PARTS]
    split, shared = Split.apart(*rows)
    notes += shared
    return links.rows, split
