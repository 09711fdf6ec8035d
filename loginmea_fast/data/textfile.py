"""Text files of ids and strings, read whole and fast, with errors that name file and line."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from loginmea_fast.errors import DataError

__all__ = ["read_bytes", "read_fields", "read_integers", "shorten", "write_lines"]

_NEWLINE = ord("\n")
_INTEGER_BYTES = np.zeros(256, dtype=bool)
_INTEGER_BYTES[list(b"0123456789 \t\r\n")] = True
_MAX_DIGITS = 18  # every number of 18 digits fits int64


def read_bytes(path: Path, meaning: str) -> bytes:
    """The whole file; missing, unreadable and empty files are DataErrors that say what was expected.

    Args:
        path: the file.
        meaning: what it should hold, for the error, for example "lines of id, uri".
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise DataError(
            f"{path} is missing, it should hold {meaning}; put it there or name another directory"
        ) from None
    except OSError as error:
        raise DataError(
            f"{path} cannot be read ({error.strerror}); check what it is and its permissions"
        ) from None
    if not data.strip():
        raise DataError(f"{path} is empty, it should hold {meaning}; fetch or write the file again")
    return data.removeprefix(b"\xef\xbb\xbf")


def read_integers(path: Path, columns: int, meaning: str) -> np.ndarray:
    """A table of non-negative integers between white space.

    Args:
        path: the file, one row a line.
        columns: how many integers a line must have.
        meaning: what they are, for the error, for example "head, relation, tail".

    Returns:
        int64 [lines, columns].

    Raises:
        DataError: file missing or empty, another number of columns, or something that is no non-negative integer.
    """
    data = read_bytes(path, f"lines of {meaning}").rstrip() + b"\n"
    text = np.frombuffer(data, dtype=np.uint8)
    if not _INTEGER_BYTES[text].all():
        raise _first_bad_line(path, data, columns, meaning)
    digit = text >= ord("0")
    starts = np.flatnonzero(digit & ~np.concatenate(([False], digit[:-1])))
    per_line = np.diff(np.searchsorted(starts, np.flatnonzero(text == _NEWLINE)), prepend=0)
    if (per_line != columns).any() or _longest_token(digit, starts) > _MAX_DIGITS:
        raise _first_bad_line(path, data, columns, meaning)
    return np.fromstring(data.decode("ascii"), dtype=np.int64, sep=" ").reshape(-1, columns)


def read_fields(path: Path, least: int, most: int | None, meaning: str) -> Iterator[tuple[int, list[str]]]:
    """Lines of tab-separated UTF-8 text.

    Args:
        path: the file.
        least: fewest fields a line may have.
        most: most fields a line may have, or None for no limit.
        meaning: what they are, for the error.

    Yields:
        Line number, from 1, and the fields of that line. Only a line feed ends a line: names may hold any other
        Unicode line separator.

    Raises:
        DataError: file missing or empty, not UTF-8, or another number of fields.
    """
    data = read_bytes(path, f"lines of {meaning}, separated by tabs")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(f"{path}, line {line}: not valid UTF-8; convert the file to UTF-8") from None
    for number, row in enumerate(text.rstrip("\r\n").split("\n"), start=1):
        fields = row.rstrip("\r").split("\t")
        if len(fields) < least or (most is not None and len(fields) > most) or not fields[0]:
            expected = (
                f"{least}" if most == least else f"at least {least}" if most is None else f"{least} to {most}"
            )
            raise DataError(
                f"{path}, line {number}: expected {expected} tab-separated fields ({meaning}), "
                f"found {shorten(row)}; correct or delete the line"
            )
        yield number, fields


def shorten(text: str, limit: int = 60) -> str:
    """A quoted excerpt that keeps an error on one line."""
    return repr(text if len(text) <= limit else text[:limit] + "...")


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """One line each, UTF-8, line feeds on every system."""
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8", newline="\n")


def _longest_token(digit: np.ndarray, starts: np.ndarray) -> int:
    ends = np.flatnonzero(digit & ~np.concatenate((digit[1:], [False])))
    return int((ends - starts).max()) + 1


def _first_bad_line(path: Path, data: bytes, columns: int, meaning: str) -> DataError:
    for number, raw in enumerate(data.rstrip(b"\n").split(b"\n"), start=1):
        tokens = raw.decode("utf-8", "replace").split()
        problem = None
        if len(tokens) != columns:
            problem = f"expected {columns} columns ({meaning}), found {len(tokens)}"
        for token in tokens:
            if problem is None and not (token.isascii() and token.isdigit()):
                sign = token[1:].isdigit() and token[0] == "-"
                problem = f"{shorten(token)} is {'a negative id' if sign else 'no integer'} ({meaning})"
            elif problem is None and len(token) > _MAX_DIGITS:
                problem = f"{shorten(token)} is too large for an id ({meaning})"
        if problem is not None:
            return DataError(
                f"{path}, line {number}: {problem}; ids are integers from 0, correct or delete the line"
            )
    return DataError(f"{path}: expected {columns} integers a line ({meaning}); rewrite the file in that form")
