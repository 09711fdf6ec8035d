"""What a file is, told by its first bytes: compression, encoding, and what only looks like data.

Also which names no one means: archivers, editors and file managers leave them beside the data.
"""

from __future__ import annotations

import io
import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

from loginmea_fast.data.encodings import unmarked_encodings
from loginmea_fast.errors import DataError

__all__ = [
    "COMPRESSED_SUFFIXES",
    "FileKind",
    "compression_of",
    "file_kind",
    "is_clutter",
    "open_file",
    "refuse_foreign",
]

COMPRESSED_SUFFIXES = (".gz", ".zst", ".bz2")
_HEAD = 1 << 14
_COMPRESSIONS = {  # bzip2's and rar's first letters alone may begin the name of an entity
    "gzip": re.compile(rb"\x1f\x8b"),
    "zstd": re.compile(rb"\x28\xb5\x2f\xfd"),
    "bz2": re.compile(rb"BZh[1-9](?:1AY&SY|\x17\x72\x45\x38\x50\x90)"),
}
# Not <Headington> TAB ... nor <html> TAB ..., which are entities in brackets.
_WEB_PAGE = re.compile(rb"<!doctype html|<\?xml|<html\s|<(?:html|head)>(?!\t)")
# UTF-32 first: its little-endian mark begins with that of UTF-16.
_MARKS = (
    (b"\xff\xfe\x00\x00", "utf-32-le"),
    (b"\x00\x00\xfe\xff", "utf-32-be"),
    (b"\xff\xfe", "utf-16-le"),
    (b"\xfe\xff", "utf-16-be"),
    (b"\xef\xbb\xbf", "utf-8"),
)
_BINARIES = (  # what else begins like this is no text: it has zero bytes
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file"),
    (b"\x93NUMPY", "an array of numpy"),
    (b"PAR1", "a Parquet file"),
    (b"ARROW1", "an Arrow file"),
    (b"SQLite format 3", "an SQLite database"),
    (b"\x89PNG", "an image"),
    (b"\xff\xd8\xff", "an image"),
    (b"%PDF-", "a PDF document"),
    (b"\x80\x02", "a pickle"),
    (b"\x80\x03", "a pickle"),
    (b"\x80\x04", "a pickle"),
    (b"\x80\x05", "a pickle"),
)
_CLUTTER_NAMES = {"thumbs.db", "desktop.ini", "icon\r", "__macosx"}
_CLUTTER_ENDS = ("~", ".swp", ".swo", ".swx", ".bak", ".orig", ".tmp", ".temp", ".part", ".crdownload")


@dataclass(frozen=True)
class FileKind:
    """How the text of a file is stored.

    Attributes:
        compression: "gzip", "zstd", "bz2" or None.
        encoding: Python's name of it.
        mark: the byte order mark that it begins with, or nothing.
        carriage_returns: whether lines end with a carriage return alone.
    """

    compression: str | None
    encoding: str
    mark: bytes
    carriage_returns: bool


def is_clutter(name: str) -> bool:
    """Whether a file or directory of this name is nobody's data: hidden, a system's, or an editor's copy."""
    low = name.lower()
    return (
        low.startswith((".", "~$", "#"))
        or low in _CLUTTER_NAMES
        or low.endswith(_CLUTTER_ENDS)
        or low.endswith("#")
    )


def file_kind(path: Path, xml: bool = False) -> FileKind:
    """How the text of a file is stored.

    Args:
        path: the file.
        xml: whether it may be XML, which otherwise is taken for a web page.

    Raises:
        DataError: it is an archive, a page, a pointer or binary data instead of text, its compression is damaged, or it
            may be in two encodings.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        head = file.read(_HEAD)
    refuse_foreign(path, head, xml)
    compression = compression_of(head)
    if compression is not None:
        with open_file(path, compression) as stream:
            head = stream.read(_HEAD)
        refuse_foreign(path, head, xml)
    if b"\0" in head and (name := next((name for magic, name in _BINARIES if head.startswith(magic)), None)):
        raise DataError(
            f"{path} is {name}, and text is expected: a line each, fields divided by tabs; write it as such"
        )
    mark, encoding = next(((mark, name) for mark, name in _MARKS if head.startswith(mark)), (b"", ""))
    if not encoding:
        encoding, *others = unmarked_encodings(head)
        if others:
            names = " or ".join(name.upper() for name in (encoding, *others))
            raise DataError(
                f"{path} may be {names} and has no byte order mark that says which; convert it to UTF-8, such as by "
                f"iconv -f {encoding.upper()} -t UTF-8 {shlex.quote(path.name)}"
            )
    text = head.replace(b"\0", b"") if encoding != "utf-8" else head
    return FileKind(compression, encoding, mark, b"\r" in text and b"\n" not in text)


def compression_of(head: bytes) -> str | None:
    """What a file with these first bytes is compressed by: "gzip", "zstd", "bz2" or nothing."""
    return next((name for name, magic in _COMPRESSIONS.items() if magic.match(head)), None)


def open_file(path: Path, compression: str | None) -> BinaryIO:
    """A file opened for reading its bytes as they were before compression."""
    return path.open("rb") if compression is None else cast(BinaryIO, _Decompressed(path, compression))


class _Decompressed(io.RawIOBase):
    """A compressed file's content; one that is cut short or damaged is a DataError, not a shorter content."""

    def __init__(self, path: Path, compression: str) -> None:
        import pyarrow as pa

        self.path, self.compression = path, compression
        self.stream = pa.CompressedInputStream(pa.OSFile(str(path)), compression)

    def read(self, size: int = -1) -> bytes:
        try:
            return cast(bytes, self.stream.read(size))
        except OSError as error:
            raise DataError(
                f"{self.path} is {self.compression} data that is cut short or damaged ({error}); fetch it again"
            ) from None

    def close(self) -> None:
        self.stream.close()
        super().close()


def refuse_foreign(path: Path, head: bytes, xml: bool = False) -> None:
    """A DataError if a file that should hold data begins like something else that people have in its place.

    Args:
        path: the file, for the error.
        head: its first bytes, some hundred will do.
        xml: whether XML that is no page is what is wanted.
    """
    start = head.lstrip()[:200].lower()
    if head.startswith(b"version https://git-lfs"):
        raise DataError(
            f"{path} is a Git LFS pointer, not the file itself; run git lfs pull where it came from"
        )
    if _WEB_PAGE.match(start) and not (xml and start.startswith(b"<?xml") and b"<html" not in head.lower()):
        raise DataError(f"{path} is a web page, probably a download that failed; fetch the file again")
    for magic, name in (
        (b"PK\x03\x04", "a zip archive"),
        (b"7z\xbc\xaf", "a 7z archive"),
        (b"Rar!\x1a\x07", "a rar archive"),
        (b"\xfd7zXZ", "xz data"),
    ):
        if head.startswith(magic):
            raise DataError(f"{path} is {name}; unpack it first")
    if head[257:262] == b"ustar":
        raise DataError(f"{path} is a tar archive; unpack it first")
