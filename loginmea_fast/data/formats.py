"""The registry of directory layouts: what `load`, `save` and `convert` know how to read and write."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from loginmea_fast.data.directory import DataDirectory
from loginmea_fast.data.pair import AlignmentPair
from loginmea_fast.data.textfile import some_of
from loginmea_fast.errors import DataError

__all__ = ["Format", "ReadOptions", "find_format", "format_names", "get_format", "register_format"]


@dataclass(frozen=True)
class ReadOptions:
    """What a reader may be told.

    Attributes:
        fold: which of OpenEA's five prepared splits is the official one.
        max_repeated_links: share of links whose entity has another link already that is tolerated, with a note; all by
            default, because 1-to-n data are split and ranked as such.
        name_attributes: attributes whose values are the names of entities; the first that an entity has is its name.
    """

    fold: int = 1
    max_repeated_links: float = 1.0
    name_attributes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Format:
    """A layout.

    Attributes:
        name: what users call it.
        telltale: file names by which a directory of this layout is recognised; all must be there. A tuple of names
            asks for one of them, the first is the usual one.
        read: directory and options -> the pair without features.
        write: pair and directory -> what the layout could not hold, one sentence each; None if it is read only.
    """

    name: str
    telltale: tuple[str | tuple[str, ...], ...]
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
        near = difflib.get_close_matches(name, _FORMATS, 1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise DataError(f"unknown data format {name!r}; {hint}known are {', '.join(_FORMATS)} and auto")
    return _FORMATS[name]


def find_format(directory: Path, name: str = "auto") -> Format:
    """The layout of a directory: the one of that name, or with "auto" the one whose telltale files are there.

    Raises:
        DataError: no such directory or layout, or files are missing; names them, and those that every layout needs.
    """
    known = "; ".join(f"{entry.name}: {_spelled(entry.telltale)}" for entry in _FORMATS.values())
    if not directory.is_dir():
        what = "is no directory" if directory.exists() else "does not exist"
        raise DataError(
            f"{directory} {what}; give the directory that holds the files of both graphs, or where two files are "
            f"aligned or converted, both (recognised are {known})"
        )
    there = set(DataDirectory(directory).names())
    if name != "auto":
        entry = get_format(name)
        if missing := _missing(there, entry):
            raise DataError(
                f"{directory / missing[0]} is missing{_instead(there, missing)}; the layout {name} needs "
                f"{_spelled(entry.telltale)}: put it there, or name another directory or layout"
            )
        return entry
    nearest = min(_FORMATS.values(), key=lambda entry: _distance(there, entry))
    if missing := _missing(there, nearest):
        some = len(missing) < len(nearest.telltale)
        near = f", nearest is {nearest.name}, of which {', '.join(missing)} is missing" if some else ""
        near += _instead(there, missing)
        raise DataError(
            f"{directory} is in no known layout{near}; put the files there or name another directory (recognised are "
            f"{known})"
        )
    return nearest


def _choices(file: str | tuple[str, ...]) -> tuple[str, ...]:
    return (file,) if isinstance(file, str) else file


def _spelled(telltale: tuple[str | tuple[str, ...], ...]) -> str:
    return ", ".join(" or ".join(_choices(file)[:2]) for file in telltale)


def _missing(there: set[str], entry: Format) -> list[str]:
    # What is there but no file is for the reader to complain of, which knows what it wanted to read.
    return [_choices(file)[0] for file in entry.telltale if there.isdisjoint(_choices(file))]


def _instead(there: set[str], missing: list[str]) -> str:
    """What stands in the place of a file that is missing, under its name with an ending that no text has."""
    found = sorted(name for name in there if any(name.startswith(f"{file}.") for file in missing))
    return f" ({some_of(found)} is there, but its files are text)" if found else ""


def _distance(there: set[str], entry: Format) -> tuple[float, float]:
    """How much of a layout is missing, then how much of it is there under other than the usual names."""
    unusual = sum(_choices(file)[0] not in there for file in entry.telltale)
    return len(_missing(there, entry)) / len(entry.telltale), unusual / len(entry.telltale)
