"""Files that are there whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

__all__ = ["left_behind", "whole_file", "write_whole"]

_TEMPORARY = ".tmp"


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """A new file beside `path`, brought to the disk and renamed to it when the block ends well; else it is gone.

    What a killed write has left there goes first, and so does a link that somebody has laid: none is followed. The mode
    is that of the umask.

    Raises:
        OSError: it cannot be written, or another process writes it too; what was at `path` is untouched.
    """
    beside = path.with_name(f".{path.name}{_TEMPORARY}")
    _remove(beside)
    file, ours = beside.open("xb"), True
    try:
        with file:
            yield file
            file.flush()
            os.fsync(file.fileno())
            ours = _is_at(beside, file)
        if not ours:
            raise OSError(errno.EBUSY, "another process writes it too")
        os.replace(beside, path)
        _sync_directory(path.parent)
    except BaseException:
        if ours:
            _remove(beside)
        raise


def write_whole(path: Path, content: bytes) -> None:
    """A file with this content; see `whole_file`."""
    with whole_file(path) as file:
        file.write(content)


def left_behind(directory: Path) -> list[Path]:
    """The files there of writes that were killed, or that go on now."""
    return list(directory.glob(f".*{_TEMPORARY}"))


def _remove(file: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(file)


def _is_at(path: Path, file: BinaryIO) -> bool:
    try:
        return os.path.samestat(os.lstat(path), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False


def _sync_directory(directory: Path) -> None:
    # The rename itself must survive a power cut. Windows cannot open directories.
    if os.name == "posix":
        descriptor = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
