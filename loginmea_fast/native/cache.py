"""The cache of built libraries: a directory a key, filled by one rename, under a file lock."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import shutil
import stat
import sys
import tempfile
import time
import uuid
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

__all__ = ["Tree", "find", "locked", "places", "publish", "writable"]

_WAIT_NOTICE_S = 3.0
_KEPT_ENTRIES = 12


def places() -> list[Path]:
    """Where libraries are looked for: the cache, and what stands in for it where it cannot be written.

    The cache is $LOGINMEA_CACHE, else loginmea_fast under $XDG_CACHE_HOME or ~/.cache. The stand-in lies in
    the temporary directory and counts only if this user alone can write to it, because it holds programs.
    """
    named = os.environ.get("LOGINMEA_CACHE")
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    # Absolute: cmake takes a relative output directory for one below the build tree.
    found = [(Path(named) if named else Path(base) / "loginmea_fast").absolute()]
    standin = _standin()
    with contextlib.suppress(OSError):
        facts = standin.lstat()
        if stat.S_ISDIR(facts.st_mode) and facts.st_uid == os.getuid() and not facts.st_mode & 0o022:
            found.append(standin)
    return found


def _standin() -> Path:
    return Path(tempfile.gettempdir()) / f"loginmea_fast-{os.getuid()}"


def writable() -> Path:
    """The first of `places` that can be written; a warning says when that is not the cache itself.

    Raises:
        OSError: none can.
    """
    wanted = places()[0]
    if _accepts_files(wanted):
        return wanted
    with contextlib.suppress(OSError):
        _standin().mkdir(mode=0o700, exist_ok=True)
    for place in places()[1:]:
        if _accepts_files(place):
            _warn_standin(wanted, place)
            return place
    raise OSError(
        f"the cache directory {wanted} cannot be written, nor one under {tempfile.gettempdir()}; "
        "set LOGINMEA_CACHE to a directory that can"
    )


@functools.cache
def _warn_standin(wanted: Path, place: Path) -> None:
    warnings.warn(
        f"the cache directory {wanted} cannot be written, so native libraries are kept in {place}; "
        "set LOGINMEA_CACHE to a directory that can",
        RuntimeWarning,
        stacklevel=3,
    )


def _accepts_files(path: Path) -> bool:
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe = path / f".probe-{uuid.uuid4().hex}"
        probe.touch()
        probe.unlink()
    except OSError:
        return False
    return True


@contextlib.contextmanager
def locked(path: Path) -> Iterator[IO[str]]:
    """Holds the lock file `path`, waiting for whoever has it; the system drops it however its owner dies.

    The descriptor is not inherited, so no compiler that outlives its owner keeps the lock.
    """
    import fcntl  # not at the top: the package imports where there is no such module

    with open(path, "a+") as handle:
        started = time.monotonic()
        noticed = False
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if not noticed and time.monotonic() - started > _WAIT_NOTICE_S:
                    noticed = True
                    print(
                        f"loginmea_fast: waiting for another process's build ({path})",
                        file=sys.stderr,
                        flush=True,
                    )
                time.sleep(0.05)
        yield handle


class Tree:
    """A build tree that outlives one build, so that the next one compiles only what changed. Needs the lock.

    Its name and state stand in the lock file. A lock that is free while the state says "building" means that
    its owner was killed: compilers it started may still be writing, so the tree is left to them and a new
    one, of another name, begun.
    """

    def __init__(self, handle: IO[str], parent: Path, stem: str) -> None:
        """Opens the idle tree that the lock file names, or begins a new one `parent`/`stem`-*."""
        self._handle = handle
        handle.seek(0)
        try:
            record = json.loads(handle.read())
        except ValueError:  # never written, or its writer was killed
            record = {}
        self.path = Path(record.get("tree", ""))
        # A tree holds its own path, so one that was copied or moved with its cache is of no use.
        if record.get("state") == "idle" and self.path.parent == parent and self.path.is_dir():
            return
        for abandoned in parent.glob(f"{stem}-*"):
            shutil.rmtree(abandoned, ignore_errors=True)
        parent.mkdir(exist_ok=True)
        self.path = Path(tempfile.mkdtemp(prefix=f"{stem}-", dir=parent))

    def mark(self, state: str) -> None:
        """Writes the state, "building" or "idle", where the lock's next owner reads it."""
        self._handle.seek(0)
        self._handle.truncate()
        self._handle.write(json.dumps({"tree": str(self.path), "state": state}))
        self._handle.flush()


def find(entry: Path, module: str) -> Path | None:
    """The library of this entry, if it is there and whole.

    The digest is compared before anything is mapped: loading a library cut short does not raise, it kills.

    Raises:
        ImportError: it is there and is not what was published.
    """
    library = entry / f"{module}.so"
    try:
        expected = json.loads((entry / "key.json").read_text())["sha256"]
        found = hashlib.sha256(library.read_bytes()).hexdigest()
    except FileNotFoundError:
        if entry.is_dir():
            raise ImportError(f"{entry} lacks a file") from None
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ImportError(f"{entry} cannot be read: {error}") from error
    if found != expected:
        raise ImportError("its digest is not the one it was published with")
    with contextlib.suppress(OSError):  # the time of last use, where it can be written
        os.utime(entry)
    return library


def publish(entry: Path, module: str, library: Path, record: dict[str, Any]) -> None:
    """Copies a built library into the cache, wholly or not at all. Needs the lock."""
    staging = Path(tempfile.mkdtemp(prefix=".staging-", dir=entry.parent))
    try:
        shutil.copyfile(library, staging / f"{module}.so")
        record = {**record, "sha256": hashlib.sha256(library.read_bytes()).hexdigest()}
        (staging / "key.json").write_text(json.dumps(record, indent=1))
        staging.chmod(0o755)
        shutil.rmtree(entry, ignore_errors=True)
        staging.rename(entry)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise
    _drop_oldest(entry.parent, entry.name.split("-")[0])


def _drop_oldest(place: Path, device: str) -> None:
    """Keeps the entries used last; a process that has a dropped one loaded does not notice."""
    entries = [path for path in place.glob(f"{device}-*") if path.is_dir()]
    for path in sorted(entries, key=lambda p: p.stat().st_mtime, reverse=True)[_KEPT_ENTRIES:]:
        shutil.rmtree(path, ignore_errors=True)
        path.with_suffix(".log").unlink(missing_ok=True)
