"""Text files of ids and strings, read block by block and as whole columns, with errors that name file and line.

A file may be compressed (gzip, Zstandard or bzip2, told by its first bytes and not by its name) and may be UTF-16 or
UTF-32 instead of UTF-8. Whatever is wrong with a line is looked for, line by line, only once a block of lines has
failed a check of whole columns.
"""

from __future__ import annotations

import codecs
import io
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from loginmea_fast.data.encodings import not_utf8
from loginmea_fast.data.filekind import FileKind, file_kind, open_file
from loginmea_fast.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa  # imported where files are read: graphs and operators do without

__all__ = [
    "UNWRITABLE",
    "Fields",
    "Symbols",
    "Utf8Stream",
    "line_of",
    "opened",
    "read_bytes",
    "read_field_blocks",
    "read_fields",
    "read_integers",
    "shorten",
    "some_of",
    "write_lines",
]

UNWRITABLE = re.compile("[\t\n\r\0]")  # what no field of a line can hold
_TAB, _NEWLINE = ord("\t"), ord("\n")
_BLOCK = (
    1 << 24
)  # bytes handled at once: large enough for vectorised code, small beside what a reader returns
_INTEGER_BYTES = np.zeros(256, dtype=bool)
_INTEGER_BYTES[list(b"0123456789 \t\r\n")] = True
_STATEMENT_END = re.compile(
    rb'^((?:<|_:)[^\n]*(?:>|"(?:@[A-Za-z0-9-]+)?))[ \t]+\.$', re.MULTILINE
)  # of N-Triples
_SEPARATORS = {
    ",": "commas",
    ";": "semicolons",
    "|": "bars",
    " ": "blanks",
}  # that people have instead of tabs
_HEADER = re.compile(  # of a table of triples, in the words that people have for its columns
    r"(?:head|subject|entity|source)(?:_?(?:id|uri))?\t(?:relation|predicate|attribute|property)(?:_?(?:id|type|name))?\t"
    r"(?:tail|object|value|target)(?:_?(?:id|uri))?",
    re.IGNORECASE,
)
_MAX_DIGITS = 18  # every number of 18 digits fits int64


def read_bytes(path: Path, meaning: str) -> bytes:
    """The whole file as UTF-8; missing, unreadable and empty files are DataErrors that say what was expected.

    Args:
        path: the file.
        meaning: what it should hold, for the error, for example "lines of id, uri".
    """
    with opened(path, meaning) as stream:
        data = b"".join(iter(lambda: stream.read(_BLOCK), b""))
    if not data.strip():
        raise _empty(path, meaning)
    _check_utf8(path, 1, data)
    return data


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
    tables = []
    for line, data in _blocks(path, f"lines of {meaning}", b" \t\r\n"):
        text = np.frombuffer(data, dtype=np.uint8)
        digit = text >= ord("0")
        edges = np.flatnonzero(digit[1:] != digit[:-1]) + 1
        if digit[0]:
            edges = np.concatenate(([0], edges))
        starts, ends = (
            edges[::2],
            edges[1::2],
        )  # a block ends with a line feed, so that every token has an end
        per_line = np.diff(np.searchsorted(starts, np.flatnonzero(text == _NEWLINE)), prepend=0)
        if (
            not _INTEGER_BYTES[text].all()
            or (per_line != columns).any()
            or (ends - starts).max(initial=0) > _MAX_DIGITS
        ):
            raise _first_bad_line(path, line, data, columns, meaning)
        tables.append(np.fromstring(data.decode("ascii"), dtype=np.int64, sep=" ").reshape(-1, columns))
    return np.concatenate(tables)


@dataclass(frozen=True)
class Fields:
    """The fields of a block of lines, not yet strings.

    Attributes:
        line: number of the block's first line, from 1.
        first: int64 [lines], the field with which each line begins.
        counts: int64 [lines], how many fields it has.
        lengths: int64 [fields], bytes of every field.
        values: [fields] bytes of every field with the tab that follows it.
    """

    line: int
    first: np.ndarray
    counts: np.ndarray
    lengths: np.ndarray
    values: pa.LargeBinaryArray

    def take(self, index: np.ndarray) -> pa.LargeBinaryArray:
        """Some fields, in this order, as :class:`Symbols` takes them."""
        import pyarrow as pa

        return self.values.take(pa.array(index.reshape(-1)))

    def strings(self, index: np.ndarray) -> list[str]:
        """Some fields, in this order, as strings."""
        import pyarrow as pa

        return [value[:-1] for value in self.take(index).cast(pa.large_string()).to_pylist()]


class Symbols:
    """Strings numbered in order of first appearance.

    Attributes:
        ids: string -> number, in that order.
    """

    def __init__(self) -> None:
        self.ids: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self.ids)

    def number(self, *values: pa.LargeBinaryArray) -> np.ndarray:
        """int64 numbers of the fields in ``values``, which may be new, one array after the other."""
        import pyarrow as pa

        parts = pa.chunked_array(values).dictionary_encode().chunks  # one dictionary for all; none of nothing
        texts = parts[0].dictionary.cast(pa.large_string()).to_pylist() if parts else []
        ids = self.ids
        numbers = np.fromiter(
            (ids.setdefault(text[:-1], len(ids)) for text in texts), dtype=np.int64, count=len(texts)
        )
        indices = [part.indices.to_numpy() for part in parts]
        return numbers[np.concatenate(indices)] if indices else numbers


def read_field_blocks(path: Path, least: int, most: int | None, meaning: str) -> Iterator[Fields]:
    """Lines of tab-separated UTF-8 text, many at once.

    Args:
        path: the file.
        least: fewest fields a line may have.
        most: most fields a line may have, or None for no limit.
        meaning: what they are, for the error.

    Yields:
        The fields of successive blocks of lines. Only a line feed ends a line: names may hold any other Unicode line
        separator. The dot that ends a statement of N-Triples is none of its last field.

    Raises:
        DataError: file missing or empty, not UTF-8, another number of fields, or one of the ``least`` that is empty.
    """
    import pyarrow as pa

    for line, data in _blocks(path, f"lines of {meaning}, separated by tabs", b"\r\n"):
        _check_utf8(path, line, data)
        if b" .\n" in data or b"\t.\n" in data:
            data = _STATEMENT_END.sub(rb"\1", data)
        text = np.frombuffer(data, dtype=np.uint8)
        separators = np.flatnonzero((text == _TAB) | (text == _NEWLINE))
        last = np.flatnonzero(text[separators] == _NEWLINE)  # the last field of every line
        counts = np.diff(last, prepend=-1)
        first = last - counts + 1
        starts = np.zeros(len(separators) + 1, dtype=np.int64)
        np.add(separators, 1, out=starts[1:])
        lengths = np.diff(starts) - 1
        bad = counts < least
        if most is not None:
            bad |= counts > most
        for field in range(least):
            bad |= lengths[np.minimum(first + field, last)] == 0
        if line == 1 and _HEADER.fullmatch(header := data.split(b"\n", 1)[0][:80].decode("utf-8", "replace")):
            raise DataError(
                f"{path}, line 1: {shorten(header)} names the columns, and would make an entity of the first; "
                "delete the line"
            )
        if bad.any():
            raise _bad_fields(path, line, data, int(bad.argmax()), least, most, meaning)
        # One separator everywhere makes the same string the same bytes, at the end of a line or before it.
        same = pa.py_buffer(data.replace(b"\n", b"\t"))
        values = pa.Array.from_buffers(pa.large_binary(), len(separators), [None, pa.py_buffer(starts), same])
        yield Fields(line, first, counts, lengths, values)


def read_fields(path: Path, least: int, most: int | None, meaning: str) -> Iterator[tuple[int, list[str]]]:
    """As :func:`read_field_blocks`, a line at a time: number of the line, from 1, and its fields."""
    for block in read_field_blocks(path, least, most, meaning):
        texts = block.strings(np.arange(len(block.values)))
        for number, (first, count) in enumerate(
            zip(block.first.tolist(), block.counts.tolist(), strict=True), start=block.line
        ):
            yield number, texts[first : first + count]


def line_of(path: Path, line: int) -> bytes:
    """A line of a file as its bytes, from 1; empty where there is none."""
    with opened(path, "text", xml=True) as stream:
        number, rest = 1, b""
        while chunk := stream.read(1 << 20):
            rest += chunk
            count = rest.count(b"\n")
            if number + count > line or (number + count == line and len(rest) > 1 << 24):
                return rest.split(b"\n", line - number + 1)[line - number][:4000]
            number += count
            rest = rest[rest.rfind(b"\n") + 1 :]
    return rest[:4000] if number == line else b""


def shorten(text: str, limit: int = 60) -> str:
    """A quoted excerpt that keeps an error on one line."""
    return repr(text if len(text) <= limit else text[:limit] + "...")


def some_of(items: Iterable[str], limit: int = 5) -> str:
    """The first items of a list and how many more there are, for an error or a note."""
    items = list(items)
    more = f" and {len(items) - limit:,} more" if len(items) > limit else ""
    return ", ".join(item if len(item) <= 160 else item[:160] + "..." for item in items[:limit]) + more


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """One line each, UTF-8, line feeds on every system."""
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8", newline="\n")


def _blocks(path: Path, meaning: str, blank: bytes) -> Iterator[tuple[int, bytes]]:
    """Whole lines with the number of the first, each ended by one line feed; ``blank`` at the end is left out."""
    with opened(path, meaning) as stream:
        line, rest = 1, b""
        while chunk := stream.read(_BLOCK):
            rest += chunk
            end = rest.rfind(b"\n") + 1
            # What is blank at the end of a block may be the end of the file, so it waits for what follows.
            lines = rest[:end].rstrip(blank)
            if not lines:
                continue
            end = rest.index(b"\n", len(lines)) + 1
            lines = _line_feeds(rest[:end])
            if line == 1 and not lines.strip():
                raise _empty(path, meaning)
            yield line, lines
            line += lines.count(b"\n")
            rest = rest[end:]
        rest = rest.rstrip(blank)
        if line == 1 and not rest.strip():
            raise _empty(path, meaning)
        if rest:
            yield line, _line_feeds(rest + b"\n")


def _line_feeds(lines: bytes) -> bytes:
    return re.sub(rb"\r+\n", b"\n", lines) if b"\r" in lines else lines


@contextmanager
def opened(path: Path, meaning: str, xml: bool = False) -> Iterator[Utf8Stream]:
    """The file's text as UTF-8 without a byte order mark, decompressed; what fails on the way is a DataError.

    Args:
        path: the file.
        meaning: what it should hold, for errors.
        xml: whether it may be XML, which otherwise is a download that failed.
    """
    try:
        kind = file_kind(path, xml)
        with open_file(path, kind.compression) as stream:
            yield Utf8Stream(path, stream, kind)
    except FileNotFoundError:
        raise DataError(
            f"{path} is missing, it should hold {meaning}; put it there, or name another file or directory"
        ) from None
    except DataError:
        raise
    except OSError as error:
        raise DataError(
            f"{path} cannot be read ({error.strerror or error}); check what it is and its permissions"
        ) from None


class Utf8Stream(io.RawIOBase):
    """A stream of text in whatever encoding as UTF-8; gives no more bytes than are asked for."""

    def __init__(self, path: Path, stream: BinaryIO, kind: FileKind) -> None:
        self.path, self.stream, self.kind = path, stream, kind
        self.start = len(kind.mark)
        self.rest = b""
        self.decoder = None
        if kind.encoding != "utf-8":
            self.decoder = codecs.getincrementaldecoder(kind.encoding)()

    def readable(self) -> bool:
        """What readers ask."""
        return True

    def peek(self, size: int) -> bytes:
        """The next bytes, which are read again."""
        data = self.rest
        while len(data) < size and (more := self._read(size)):
            data += more
        self.rest = data
        return data[:size]

    def skip_blank_lines(self) -> None:
        """Reads past line ends at the beginning."""
        while head := self.peek(_BLOCK):
            rest = head.lstrip(b"\r\n")
            self.read(len(head) - len(rest))
            if rest:
                return

    def read(self, size: int = -1) -> bytes:
        """Up to `size` bytes, none at the end; all that there are if it is negative."""
        if size < 0:
            return b"".join(iter(lambda: self.read(_BLOCK), b""))
        data = self.rest or self._read(size)
        self.rest = data[size:]
        return data[:size]

    def _read(self, size: int) -> bytes:
        while True:
            data = self.stream.read(size)
            end = not data
            if self.start:
                data, self.start = data[self.start :], 0
            if self.decoder is not None:
                try:
                    data = self.decoder.decode(data, final=end).encode("utf-8")
                except UnicodeDecodeError:
                    raise DataError(
                        f"{self.path} begins as {self.kind.encoding.upper()} but is not; convert it to UTF-8"
                    ) from None
            if self.kind.carriage_returns:
                data = data.replace(b"\r", b"\n")
            if data or end:
                return data


def _empty(path: Path, meaning: str) -> DataError:
    return DataError(f"{path} is empty, it should hold {meaning}; fetch or write the file again")


def _check_utf8(path: Path, line: int, data: bytes) -> None:
    try:
        data.decode("utf-8")
    except UnicodeDecodeError as error:
        start = error.start
        told = f"not valid UTF-8; {not_utf8(data, _line_at(data, start), path.name)}"
    else:
        start = data.find(b"\0")
        told = "holds a zero byte, so the file is binary or damaged; fetch or write it again"
    if start >= 0:
        raise DataError(f"{path}, line {line + data.count(10, 0, start)}: {told}") from None


def _line_at(data: bytes, place: int) -> bytes:
    return data[data.rfind(b"\n", 0, place) + 1 :].split(b"\n", 1)[0]


def _bad_fields(
    path: Path, line: int, data: bytes, row: int, least: int, most: int | None, meaning: str
) -> DataError:
    text = data.split(b"\n", row + 1)[row].decode("utf-8")
    expected = f"{least}" if most == least else f"at least {least}" if most is None else f"{least} to {most}"
    empty = least <= text.count("\t") + 1 <= (most or len(text) + 1) and text.split("\t").index("") + 1
    found = f"{shorten(text)}, whose field {empty} is empty" if empty else shorten(text)
    return DataError(
        f"{path}, line {line + row}: expected {expected} tab-separated fields ({meaning}), found {found}; "
        + (_other_separator(text, least) or "correct or delete the line")
    )


def _other_separator(line: str, columns: int) -> str | None:
    """What to do about a line whose fields something else than tabs divides; None if nothing does."""
    if "\t" in line or columns < 2:
        return None
    if line.startswith("<") and "> <" in line:
        return "that is N-Triples: name the graphs left.nt and right.nt, which are read, or divide its terms by tabs"
    for character, name in _SEPARATORS.items():
        if line.count(character) == columns - 1 or (columns == 2 and character in line):
            return f"its fields are divided by {name}: write the file with tabs instead"
    return None


def _first_bad_line(path: Path, line: int, data: bytes, columns: int, meaning: str) -> DataError:
    for number, raw in enumerate(data.rstrip(b"\n").split(b"\n"), start=line):
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
            remedy = _other_separator(raw.decode("utf-8", "replace").strip(), columns)
            return DataError(
                f"{path}, line {number}: {problem}; "
                + (remedy or "ids are integers from 0, correct or delete the line")
            )
    return DataError(f"{path}: expected {columns} integers a line ({meaning}); rewrite the file in that form")
