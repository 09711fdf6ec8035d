"""Ways in which files come damaged or otherwise stored: functions of bytes and two numbers that choose where."""

from __future__ import annotations

import bz2
import gzip
import os
from collections.abc import Callable

import zstandard

CASES = int(os.environ.get("LOGINMEA_FUZZ_CASES", "400"))
SECONDS = 20  # for a case that takes milliseconds: slow is no failure, a hang is

Mutation = Callable[[bytes, int, int], bytes]


def _at(content: bytes, place: int) -> int:
    return place % max(len(content), 1)


def _lines(change: Callable[[list[bytes], int, int], list[bytes]]) -> Mutation:
    def mutate(content: bytes, a: int, b: int) -> bytes:
        lines = content.split(b"\n")
        return b"\n".join(change(lines, a % len(lines), b % len(lines)))

    return mutate


def _swap(lines: list[bytes], a: int, b: int) -> list[bytes]:
    lines[a], lines[b] = lines[b], lines[a]
    return lines


def _on_line(change: Callable[[bytes, int], bytes]) -> Mutation:
    return _lines(lambda lines, a, b: [*lines[:a], change(lines[a], b), *lines[a + 1 :]])


def _swap_columns(line: bytes, _: int) -> bytes:
    return b"\t".join(reversed(line.split(b"\t")))


def _encoded(encoding: str) -> Mutation:
    return lambda content, a, b: content.decode("utf-8", "replace").encode(encoding, "replace")


# What these do to a file is no change of what it says: the same facts must come out, not an error.
STORED = {
    "as it is": lambda content, a, b: content,
    "mark": lambda content, a, b: b"\xef\xbb\xbf" + content.removeprefix(b"\xef\xbb\xbf"),
    "crlf": lambda content, a, b: content.replace(b"\r", b"").replace(b"\n", b"\r\n"),
    "blank lines at the end": lambda content, a, b: content + b"\n" * (1 + a % 3),
    "no last line feed": lambda content, a, b: content.rstrip(b"\r\n"),
    "utf-16": _encoded("utf-16"),
    "utf-32": _encoded("utf-32"),
    "gzip": lambda content, a, b: gzip.compress(content, 1),
    "zstd": lambda content, a, b: zstandard.compress(content, 1),
    "bz2": lambda content, a, b: bz2.compress(content, 1),
}

DAMAGED: dict[str, Mutation] = {
    "flip": lambda content, a, b: (
        content[: _at(content, a)] + bytes([b % 256]) + content[_at(content, a) + 1 :]
    ),
    "insert": lambda content, a, b: (
        content[: _at(content, a)] + bytes([b % 256]) + content[_at(content, a) :]
    ),
    "cut": lambda content, a, b: content[: _at(content, a)],
    "hole": lambda content, a, b: content[: _at(content, a)] + content[_at(content, a) + 1 + b % 40 :],
    "line gone": _lines(lambda lines, a, b: lines[:a] + lines[a + 1 :]),
    "line twice": _lines(lambda lines, a, b: [*lines[: b + 1], lines[a], *lines[b + 1 :]]),
    "lines reordered": _lines(_swap),
    "columns swapped on a line": _on_line(_swap_columns),
    "columns swapped": lambda content, a, b: b"\n".join(
        _swap_columns(line, 0) for line in content.split(b"\n")
    ),
    "blank line": _lines(lambda lines, a, b: [*lines[:a], b"", *lines[a:]]),
    "tab at the end": _on_line(lambda line, b: line + b"\t" * (1 + b % 2)),
    "tab twice": _on_line(lambda line, b: line.replace(b"\t", b"\t\t", 1)),
    "tab as blank": _on_line(lambda line, b: line.replace(b"\t", b" ")),
    "blank at the end": _on_line(lambda line, b: line + b" "),
    "brackets": _on_line(lambda line, b: b"\t".join(b"<" + field + b">" for field in line.split(b"\t"))),
    "latin-1": lambda content, a, b: (
        content[: _at(content, a)] + "é".encode("latin-1") + content[_at(content, a) :]
    ),
    "utf-16 without a mark": _encoded("utf-16-be"),
    "compressed and cut": lambda content, a, b: gzip.compress(content, 1)[: 1 + a % 200],
    "long line": _on_line(lambda line, b: line + b"x" * (b % 5000)),
    "empty": lambda content, a, b: b"",
}
