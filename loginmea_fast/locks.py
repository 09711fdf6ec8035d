"""Locks between processes that end with their owner, however it ends, on every system."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import filelock

from loginmea_fast.log import announce

__all__ = ["Taken", "locked"]

_WAIT_NOTICE_S = 3.0


class Taken(Exception):
    """Another process holds the lock."""


@contextmanager
def locked(path: Path, waiting: str | None = None) -> Iterator[None]:
    """Holds the lock file `path`; the operating system drops it when this process ends, and no child inherits it.

    The file's content means nothing, and that it is there does not mean that it is locked.

    Args:
        path: the file, made where it is not there.
        waiting: what to announce, once, when another process keeps this one waiting; None does not wait.

    Raises:
        Taken: another process holds it and `waiting` is None.
        OSError: the file cannot be written, or its file system has no locks.
    """
    # A preserved file also rules out the fallback to one whose presence is the lock, which outlives a killed owner.
    lock = filelock.FileLock(path, thread_local=False, preserve_lock_file=True)
    try:
        lock.acquire(timeout=0 if waiting is None else _WAIT_NOTICE_S, poll_interval=0.05)
    except filelock.Timeout:
        if waiting is None:
            raise Taken(str(path)) from None
        announce(f"{waiting} ({path})")
        lock.acquire(poll_interval=0.05)
    except NotImplementedError as error:
        raise OSError(f"{path} cannot be locked: its file system has no locks") from error
    try:
        yield
    finally:
        lock.release()
