"""Notes on what was read; those that nobody should miss are warnings."""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["Caution", "cautions"]


class Caution(str):
    """A note that something which was given is left out or contradicts itself: the command line says it in any case."""

    __slots__ = ()


def cautions(notes: Iterable[str]) -> list[str]:
    """Those of the notes that are warnings."""
    return [note for note in notes if isinstance(note, Caution)]
