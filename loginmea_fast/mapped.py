"""Matrices that stay in a file: read, or written and read again, through a mapping, and let go of once that is done.

The system fetches what is touched and may drop it at any time, so that the memory of a process does not grow with the
file. Whoever shortens a mapped file kills who reads it: every read compares size and date with those
at the beginning first; a file that is shortened during a read is beyond it.
"""

from __future__ import annotations

import errno
import mmap
import os
import tempfile
import warnings
from pathlib import Path
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor

from loginmea_fast.errors import DataError, LoginMEAError

__all__ = ["MappedMatrix", "normalize", "release", "room_for"]

IN_MEMORY = 1 << 29  # bytes from which a matrix that is only read from here on is written into a file

_BLOCK = 4096  # rows that are normalised at a time
_KEPT = 1 << 27  # bytes of the file that may stay in the memory of the process after a read
_AROUND = 1 << 16  # what the system brings along with a row


class MappedMatrix:
    """A matrix [n, columns] of a file, whose rows are read when they are asked for.

    Args:
        path: the file.
        dtype: of its numbers, in the order of this machine.
        shape: n and columns.
        offset: bytes before the first row.

    Raises:
        DataError: the file is too short for them.
    """

    def __init__(self, path: Path, dtype: torch.dtype, shape: tuple[int, int], offset: int) -> None:
        self.path, self.dtype, self.shape = path, dtype, torch.Size(shape)
        self.ndim, self.layout = 2, torch.strided
        with path.open("rb") as file:
            self._file = os.dup(file.fileno())
        self._stands = self._status()
        count = shape[0] * shape[1]
        if (needed := offset + count * dtype.itemsize) > self._stands[0]:
            os.close(self._file)
            raise DataError(
                f"{path} has {self._stands[0]:,} bytes and its rows need {needed:,}: it is cut short; fetch it again"
            )
        self._map = mmap.mmap(self._file, 0, access=mmap.ACCESS_READ)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The given buffer is not writable")  # nothing here writes
            flat = torch.frombuffer(self._map, dtype=dtype, count=count, offset=offset)
        self._rows = flat.view(shape)
        self._touched = 0

    def __len__(self) -> int:
        return self.shape[0]

    def rows(self, index: Tensor | slice) -> Tensor:
        """Copies of rows, int64 [B] or a run of them, in memory.

        Raises:
            DataError: the file is no longer what it was.
        """
        self.check()
        found = self._rows[index].clone() if isinstance(index, slice) else self._rows.index_select(0, index)
        self._touched += max(found.nbytes, 0 if isinstance(index, slice) else len(found) * _AROUND)
        if self._touched > _KEPT:
            _let_go(self._map, 0, len(self._map))
            self._touched = 0
        return found

    def check(self) -> None:
        """Raise `DataError` unless the file is as it was when it was opened."""
        if (now := self._status()) != self._stands:
            changed = (
                f"had {self._stands[0]:,} bytes and has {now[0]:,}"
                if now[0] != self._stands[0]
                else "was written to"
            )
            raise DataError(
                f"{self.path} {changed} while it was being read row by row; put it back as it was and begin again, "
                "a run with --resume"
            )

    def _status(self) -> tuple[int, int]:
        found = os.fstat(self._file)
        return found.st_size, found.st_mtime_ns

    def __del__(self) -> None:
        if getattr(self, "_map", None) is not None:
            os.close(self._file)


_scratch: WeakKeyDictionary[mmap.mmap, tuple[int, int]] = (
    WeakKeyDictionary()
)  # first and last address of each


def room_for(rows: int, columns: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Room for a matrix [rows, columns]: in memory, or on a CPU where it is large in a file that nobody else sees.

    The file is in the directory for temporary files and gone with the tensor. Whoever has written or read a part
    of it calls `release`, so that the memory of the process does not grow with the file.

    Raises:
        LoginMEAError: the disk has no room for it.
    """
    size = rows * columns * dtype.itemsize
    if device.type != "cpu" or size < IN_MEMORY:
        return torch.empty(rows, columns, dtype=dtype, device=device)
    with tempfile.TemporaryFile() as file:
        try:
            _reserve(file.fileno(), size)
        except OSError as error:
            raise LoginMEAError(
                f"{rows:,} embeddings of {columns:,} numbers need {size / 1e9:.1f} GB in {tempfile.gettempdir()} "
                f"({error.strerror}); make room there, or name another directory in TMPDIR"
            ) from None
        mapped = mmap.mmap(file.fileno(), size)
    found = torch.frombuffer(mapped, dtype=dtype).view(rows, columns)
    _scratch[mapped] = found.data_ptr(), found.data_ptr() + size
    return found


def _reserve(file: int, size: int) -> None:
    """Have the disk keep so many bytes for a file, where it can; else a full disk is told when it is full."""
    if hasattr(os, "posix_fallocate"):
        try:
            return os.posix_fallocate(file, 0, size)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
                raise
    return os.ftruncate(file, size)


def release(part: Tensor) -> None:
    """Give the memory of some rows of a matrix of `room_for` back; the file keeps what was written."""
    for mapped, (first, end) in list(_scratch.items()):  # another thread may add one
        if first <= part.data_ptr() < end:
            start = (part.data_ptr() - first) // mmap.PAGESIZE * mmap.PAGESIZE
            length = part.data_ptr() - first - start + len(part) * part.stride(0) * part.element_size()
            if length:
                _let_go(mapped, start, min(length, end - first - start))
            return


def normalize(rows: Tensor) -> Tensor:
    """Unit rows, or zero ones, in place and block by block; each block is released."""
    for block in rows.split(_BLOCK) if len(rows) else ():
        F.normalize(block, dim=1, out=block)
        release(block)
    return rows


def _let_go(mapped: mmap.mmap, start: int, length: int) -> None:
    if hasattr(mmap, "MADV_DONTNEED"):
        mapped.madvise(mmap.MADV_DONTNEED, start, length)
