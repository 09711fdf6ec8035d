"""The registry of directory layouts: what `load`, `save` and `convert` know how to read and write."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from loginmea_fast.data.pair import AlignmentPair
from loginmea_fast.errors import DataError

__all__ = ["Format", "ReadOptions", "detect_format", "format_names", "get_format", "register_format"]


@dataclass(frozen=True)
class ReadOptions:
    """What a reader may be told.

    Attributes:
        fold: which of OpenEA's five prepared splits is the official one.
        max_repeated_links: share of links whose entity has another link already that is tolerated, with a note.
            MMKB's FB15K-DB15K links four of its 12,842 entities twice and published results keep those links.
    """

    fold: int = 1
    max_repeated_links: float = 0.001


@dataclass(frozen=True)
class Format:
    """A layout.

    Attributes:
        name: what users call it.
        telltale: file names by which a directory of this layout is recognised; all must be there.
        read: directory and options -> the pair without features.
        write: pair and directory -> what the layout could not hold, one sentence each; None if it is read only.
    """

    name: str
    telltale: tuple[str, ...]
    read: Callable[[Path, ReadOptions], AlignmentPair]
    write: Callable[[AlignmentPair, Path], list[str]] | None = None


_FORMATS: dict[str, Format] = {}


def register_format(entry: Format) -> None:
    """Makes a layout known; one of the same name is replaced."""
    _FORMATS[entry.name] = entry


def format_names() -> list[str]:
    """Names of the known layouts, in order of registration."""
    return list(_FORMATS)


def get_format(name: str) -> Format:
    """The layout of that name; an unknown one is a DataError that lists the known ones."""
    if name not in _FORMATS:
        raise DataError(f"unknown data format {name!r}; known are {', '.join(_FORMATS)} and auto")
    return _FORMATS[name]


def detect_format(directory: Path) -> Format:
    """The layout whose telltale files a directory holds."""
    if not directory.is_dir():
        what = "is no directory" if directory.exists() else "does not exist"
        raise DataError(f"{directory} {what}; give the directory that holds the files of both graphs")
    for entry in _FORMATS.values():
        if all((directory / name).is_file() for name in entry.telltale):
            return entry
    nearest = max(
        _FORMATS.values(), key=lambda entry: sum((directory / name).exists() for name in entry.telltale)
    )
    missing = [name for name in nearest.telltale if not (directory / name).is_file()]
    known = "; ".join(f"{entry.name}: {', '.join(entry.telltale)}" for entry in _FORMATS.values())
    raise DataError(
        f"{directory} is in no known layout, nearest is {nearest.name}, of which {', '.join(missing)} is missing "
        f"(a layout is recognised by its files: {known})"
    )
