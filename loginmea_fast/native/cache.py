"""The cache of built libraries: a directory a key, filled by one rename, under a lock that dies with its owner."""

from __future__ import annotations

import contextlib
import fcntl
import importlib.machinery
import importlib.util
import json
import os
import shutil
import sys
import tempfile
import time
import uuid
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import IO, Any

__all__ = ["Tree", "cached", "directory", "import_library", "locked", "publish"]

_WAIT_NOTICE_S = 3.0


def directory() -> Path:
    """The cache: $LOGINMEA_CACHE, else loginmea_fast under $XDG_CACHE_HOME or ~/.cache.

    Where that cannot be written, a directory of the user's own under the temporary one, with a warning.
    """
    named = os.environ.get("LOGINMEA_CACHE")
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    wanted = Path(named) if named else Path(base) / "loginmea_fast"
    if _writable(wanted):
        return wanted
    fallback = Path(tempfile.gettempdir()) / f"loginmea_fast-{os.getuid()}"
    if not _writable(fallback, mode=0o700) or fallback.stat().st_uid != os.getuid():
        fallback = Path(tempfile.mkdtemp(prefix="loginmea_fast-"))
    warnings.warn(
        f"the cache directory {wanted} cannot be written, so native libraries are kept in {fallback}; "
        "set LOGINMEA_CACHE to a directory that can",
        RuntimeWarning,
        stacklevel=2,
    )
    return fallback


def _writable(path: Path, mode: int = 0o777) -> bool:
    try:
        path.mkdir(mode=mode, parents=True, exist_ok=True)
        probe = path / f".probe-{uuid.uuid4().hex}"
        probe.touch()
        probe.unlink()
    except OSError:
        return False
    return True


@contextlib.contextmanager
def locked(path: Path) -> Iterator[IO[str]]:
    """Holds the lock file `path`, waiting for whoever has it; the system drops it when its owner dies, however it dies.

    The file's descriptor is not inherited, so no compiler that outlives its owner keeps the lock.
    """
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
                    print(f"loginmea_fast: waiting for another process's build ({path})", file=sys.stderr, flush=True)
                time.sleep(0.05)
        yield handle


class Tree:
    """A build tree that outlives one build, so that the next one compiles only what changed.

    Its name and state stand in the lock file. A lock that is free while the state says "building" means that the owner was
    killed: its compilers may still be running, so the tree is abandoned to them and a new one, of another name, begun.
    """

    def __init__(self, handle: IO[str], parent: Path, stem: str) -> None:
        self._handle = handle
        handle.seek(0)
        try:
            record = json.loads(handle.read())
        except ValueError:
            record = {}
        name = record.get("tree", "")
        self.path = parent / name
        if not name or record.get("state") != "idle" or not self.path.is_dir():
            if name:
                shutil.rmtree(self.path, ignore_errors=True)
            self.path = Path(tempfile.mkdtemp(prefix=f"{stem}-", dir=parent))

    def mark(self, state: str) -> None:
        """Writes the state ("building" or "idle") where the lock's next owner reads it."""
        self._handle.seek(0)
        self._handle.truncate()
        self._handle.write(json.dumps({"tree": self.path.name, "state": state, "pid": os.getpid()}))
        self._handle.flush()


def cached(entry: Path, module: str) -> Path | None:
    """The library of this entry, if it has been published."""
    library = entry / f"{module}.so"
    return library if library.is_file() else None


def publish(entry: Path, module: str, library: Path, record: dict[str, Any]) -> Path:
    """Copies a built library into the cache so that it is either wholly there or not at all. Call it under the lock."""
    staging = Path(tempfile.mkdtemp(prefix=".staging-", dir=entry.parent))
    shutil.copyfile(library, staging / f"{module}.so")
    (staging / "key.json").write_text(json.dumps(record, indent=1))
    staging.chmod(0o755)
    if entry.exists():
        shutil.rmtree(entry)
    staging.rename(entry)
    return entry / f"{module}.so"


def import_library(module: str, path: Path) -> ModuleType:
    """Imports a built library.

    Raises:
        ImportError: the file is no library, or not one for this machine.
    """
    loader = importlib.machinery.ExtensionFileLoader(module, str(path))
    spec = importlib.util.spec_from_file_location(module, path, loader=loader)
    assert spec is not None
    loaded = importlib.util.module_from_spec(spec)
    loader.exec_module(loaded)
    return loaded
