"""Lines that say nothing, counted by kind: a file may have a million of them, an error has ten lines at most."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from loginmea_fast.data.notes import Caution
from loginmea_fast.data.textfile import line_of, shorten
from loginmea_fast.errors import DataError

__all__ = ["BadLines"]

_KINDS = 5


@dataclass
class _Kind:
    path: Path
    line: int
    text: str | None
    count: int = 0

    def first(self) -> str:
        text = line_of(self.path, self.line).decode("utf-8", "replace") if self.text is None else self.text
        return f"{self.path.name}, line {self.line}, {shorten(text)}"


@dataclass
class BadLines:
    """Bad lines of one file or several.

    Attributes:
        skip: whether they are read past, with a note, or are an error.
        kinds: what is wrong -> how many lines, and the first of them.
    """

    skip: bool = False
    kinds: dict[str, _Kind] = field(default_factory=dict)

    def add(self, path: Path, line: int, kind: str, text: str | None = None) -> None:
        """Counts a line; without its text that is read again where it is to be shown."""
        own = self.kinds.setdefault(kind, _Kind(path, line, text))
        own.count += 1

    def note(self) -> list[str]:
        """A note on what was read past, or none.

        Raises:
            DataError: there are bad lines and they are not to be skipped.
        """
        if not self.kinds:
            return []
        ranked = sorted(self.kinds.items(), key=lambda item: -item[1].count)
        total = sum(own.count for own in self.kinds.values())
        told = "; ".join(f"{own.count:,} x {kind} (first: {own.first()})" for kind, own in ranked[:_KINDS])
        more = f"; and {len(ranked) - _KINDS:,} more kinds" if len(ranked) > _KINDS else ""
        summary = f"{total:,} bad lines: {told}{more}"
        if self.skip:
            return [Caution(f"{summary}; they are left out")]
        raise DataError(
            f"{ranked[0][1].path}: {summary}; correct them, or read past them by skip_bad_lines=True (--skip-bad-lines)"
        )
