"""Checks that readers share: every one names the file, the line and what to do."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from loginmea_fast.data.notes import Caution
from loginmea_fast.data.textfile import shorten
from loginmea_fast.errors import DataError

__all__ = ["Links", "check_parts", "repeated_links"]


@dataclass(frozen=True)
class Links:
    """Links with the lines that they stand on.

    Attributes:
        rows: int64 [P, 2], left entity and right entity.
        lines: int64 [P], from 1.
        source: int64 [P], position in ``paths``.
        paths: the files.
    """

    rows: np.ndarray
    lines: np.ndarray
    source: np.ndarray
    paths: tuple[Path, ...]

    @classmethod
    def of(cls, path: Path, rows: np.ndarray, notes: list[str]) -> Links:
        """The links of a file that has one a line; exact repeats are dropped, which is added to the notes."""
        _, first = np.unique(_key(rows, rows), return_index=True)
        first.sort()
        if repeats := len(rows) - len(first):
            again = np.ones(len(rows), dtype=bool)
            again[first] = False
            notes.append(
                f"{path.name}: {repeats:,} of {len(rows):,} links repeat an earlier one and were dropped "
                f"(first: line {int(again.argmax()) + 1})"
            )
        return cls(rows[first], first + 1, np.zeros(len(first), dtype=np.int64), (path,))

    @classmethod
    def joined(cls, parts: list[Links]) -> Links:
        """The links of several files, one after the other."""
        sizes = [len(part.rows) for part in parts]
        return cls(
            np.concatenate([part.rows for part in parts]),
            np.concatenate([part.lines for part in parts]),
            np.repeat(np.arange(len(parts)), sizes),
            tuple(part.paths[0] for part in parts),
        )

    def without(self, parts: list[Links]) -> Links:
        """The links that are in none of the parts."""
        taken = np.concatenate([_key(part.rows, self.rows) for part in parts])
        keep = ~np.isin(_key(self.rows, self.rows), taken)
        return Links(self.rows[keep], self.lines[keep], self.source[keep], self.paths)


def _key(rows: np.ndarray, table: np.ndarray) -> np.ndarray:
    """One number a link; links that ``table`` cannot hold may share one with nothing in it."""
    width = 1 + int(table[:, 1].max(initial=0))
    key = rows[:, 0] * width + rows[:, 1]
    key[rows[:, 1] >= width] = -1
    return key


def repeated_links(links: Links, tolerated: float, show: list[str]) -> list[str]:
    """Links whose entity is linked already: a note where they are very few, else a DataError.

    Args:
        links: distinct links.
        tolerated: share of links that may be such.
        show: [N] what to call an entity.

    Returns:
        Notes, none or one.
    """
    rows = links.rows
    again = np.zeros(len(rows), dtype=bool)
    for column in rows.T:
        first = np.unique(column, return_index=True)[1]
        seen = np.ones(len(rows), dtype=bool)
        seen[first] = False
        again |= seen
    count = int(again.sum())
    if count == 0:
        return []
    row = int(again.argmax())
    left, right = rows[row]
    earlier = int(((rows[:row, 0] == left) | (rows[:row, 1] == right)).argmax())
    entity = left if rows[earlier, 0] == left else right
    path, other = links.paths[links.source[row]], links.paths[links.source[earlier]]
    before = f"line {links.lines[earlier]}" + (f" of {other.name}" if other != path else "")
    where = (
        f"line {links.lines[row]}: entity {entity} ({shorten(show[entity])}) is linked already on {before}"
    )
    if count <= tolerated * len(rows):
        return [Caution(f"{path.name}, {where}; {count:,} of {len(rows):,} links are such, all are kept")]
    raise DataError(
        f"{path}, {where}; keep one of the two links, or allow entities with several partners by "
        f"max_repeated_links=1 ({count:,} of {len(rows):,} links are such, tolerated are {tolerated:.1%})"
    )


def check_parts(parts: list[Links], links: Links) -> list[str]:
    """An official split must consist of known links, each in one part; links left out are a note."""
    if not parts:
        return []
    key = _key(links.rows, links.rows)
    used = np.empty(0, dtype=np.int64)
    for part in parts:
        own = _key(part.rows, links.rows)
        unknown, twice = ~np.isin(own, key), np.isin(own, used)
        if (unknown | twice).any():
            row = int((unknown | twice).argmax())
            why = "is not among all links" if unknown[row] else "is in another part of the split too"
            raise DataError(
                f"{part.paths[0]}, line {part.lines[row]}: link {part.rows[row].tolist()} {why} "
                f"({int((unknown | twice).sum()):,} of its {len(own):,} links are such); correct or delete the line"
            )
        used = np.concatenate([used, own])
    unused = len(np.setdiff1d(key, used))
    return [f"the official split leaves out {unused:,} of {len(key):,} links"] if unused else []
