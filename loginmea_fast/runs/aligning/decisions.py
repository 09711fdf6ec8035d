"""What people have decided about matches: a table of left, right, decision, as the page of `report` gives it."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from loginmea_fast.data import AlignmentPair
from loginmea_fast.data.split import is_among
from loginmea_fast.data.textfile import read_bytes, shorten
from loginmea_fast.errors import DataError
from loginmea_fast.runs.aligning.formats import plain_text

__all__ = ["Decisions", "read_decisions"]

_WORDS = {"accepted": True, "accept": True, "rejected": False, "reject": False}
_FORM = "left TAB right TAB accepted or rejected"


@dataclass(frozen=True)
class Decisions:
    """Pairs of entities that somebody has decided on.

    Attributes:
        accepted: int64 [A, 2], pairs that are the same thing.
        rejected: int64 [R, 2], pairs that are not.
        places: pair -> file and line that say so, where they come from one.
    """

    accepted: Tensor
    rejected: Tensor
    places: Mapping[tuple[int, int], str] = field(default_factory=dict)

    @classmethod
    def beside_rejected(cls, pair: AlignmentPair, decisions: Decisions | None) -> Decisions:
        """Decisions, or none, and the pairs that `pair` has rejected already; each of these once.

        Raises:
            DataError: one of them is accepted.
        """
        made = cls(pair.rejected[:0], pair.rejected[:0]) if decisions is None else decisions
        both = is_among(made.accepted, pair.rejected)
        if both.any():
            left, right = made.accepted[both][0].tolist()
            raise DataError(
                f"{made._place(left, right)}{shorten(pair.uris[left])} and {shorten(pair.uris[right])} are accepted, "
                "but the pair has them among its rejected ones; leave one of the two out"
            )
        return replace(made, rejected=torch.cat([pair.rejected, made.rejected]).unique(dim=0))

    def beside(self, pair: AlignmentPair, known: Tensor) -> Tensor:
        """The accepted pairs that are no known links, int64 [A, 2].

        Raises:
            DataError: a known link is rejected, or an entity is accepted with another partner than the known one.
        """
        said = is_among(known, self.rejected)
        if said.any():
            left, right = known[said.nonzero()[0, 0]].tolist()
            raise DataError(
                f"{self._place(left, right)}{shorten(pair.uris[left])} and {shorten(pair.uris[right])} are rejected, "
                "but they are a known link; leave one of the two out"
            )
        fresh = self.accepted[~is_among(self.accepted, known)]
        for side in (0, 1):
            taken = torch.isin(fresh[:, side], known[:, side]).nonzero()[:, 0]
            if len(taken):
                left, right = fresh[taken[0]].tolist()
                entity = int(fresh[taken[0], side])
                other = int(known[(known[:, side] == entity).nonzero()[0, 0], 1 - side])
                raise DataError(
                    f"{self._place(left, right)}{shorten(pair.uris[left])} and {shorten(pair.uris[right])} are "
                    f"accepted, but {shorten(pair.uris[entity])} has the known link to {shorten(pair.uris[other])}; "
                    "leave one out"
                )
        return fresh

    def _place(self, left: int, right: int) -> str:
        place = self.places.get((left, right))
        return f"{place}: " if place else ""


def read_decisions(path: str | os.PathLike[str], pair: AlignmentPair) -> Decisions:
    """Read a table of decisions.

    Args:
        path: a line a decision, tabs between left, right and `accepted` or `rejected`; with a header or without, and
            several tables may follow each other.
        pair: whose entities they name.

    Returns:
        Each pair once.

    Raises:
        DataError: no such file, no decision in it, a line that is none, an entity that is not in its graph, a pair that
            is accepted and rejected, or an entity that is accepted twice; names the lines.
    """
    path = Path(path)
    text = read_bytes(path, _FORM).decode("utf-8", "replace").removeprefix("\ufeff")
    ids = [
        {pair.uris[entity]: entity for entity in entities.tolist()}
        for entities in (pair.left_entities, pair.right_entities)
    ]
    seen: dict[tuple[int, int], tuple[bool, int]] = {}
    taken: dict[tuple[int, int], int] = {}
    for number, row in _rows(path, text):
        if not any(cell.strip() for cell in row):
            continue
        if [cell.strip().lower() for cell in row[:3]] == ["left", "right", "decision"]:
            continue
        if len(row) < 3 or row[2].strip().lower() not in _WORDS:
            raise DataError(f"{path}, line {number}: expected {_FORM}; got {shorten(' '.join(row))}")
        ends = []
        for side, cell in enumerate(row[:2]):
            entity = ids[side].get(plain_text(cell), ids[side].get(cell))
            if entity is None:
                raise DataError(
                    f"{path}, line {number}: graph {side + 1} has no entity {shorten(plain_text(cell))}; the decisions "
                    "are of other data"
                )
            ends.append(entity)
        decided = _WORDS[row[2].strip().lower()]
        key = (ends[0], ends[1])
        earlier = seen.get(key)
        if earlier is not None and earlier[0] != decided:
            raise DataError(
                f"{path}, lines {earlier[1]} and {number}: {shorten(row[0])} and {shorten(row[1])} are both accepted "
                "and rejected; leave one line"
            )
        if earlier is not None:
            continue
        seen[key] = (decided, number)
        for side, entity in enumerate(ends if decided else []):
            if (before := taken.setdefault((side, entity), number)) != number:
                raise DataError(
                    f"{path}, lines {before} and {number}: {shorten(row[side])} is accepted with two partners; leave "
                    "one line"
                )
    if not seen:
        raise DataError(f"{path} holds no decision; a line is {_FORM}")
    accepted, rejected = (
        torch.tensor([key for key, (decided, _) in seen.items() if decided == kind], dtype=torch.int64).view(
            -1, 2
        )
        for kind in (True, False)
    )
    return Decisions(accepted, rejected, {key: f"{path}, line {number}" for key, (_, number) in seen.items()})


def _rows(path: Path, text: str) -> Iterator[tuple[int, list[str]]]:
    """Each row with the number of its last line."""
    reader = csv.reader(text.splitlines(keepends=True), delimiter="\t")
    try:
        for row in reader:
            yield reader.line_num, row
    except csv.Error as error:
        raise DataError(
            f"{path}, line {reader.line_num} cannot be read ({error}); a line is {_FORM}"
        ) from None
