"""The cache of built libraries: a directory a key, filled by one rename, under a file lock."""

from __future__ import annotations

import contextlib
import functools
import getpass
import hashlib
import json
import os
import re
import shutil
import stat
import tempfile
import warnings
from pathlib import Path
from typing import Any

__all__ = ["Tree", "find", "places", "publish", "wanted", "writable"]

_KEPT_ENTRIES = 12
_PLAIN_PATH = re.compile(r"[A-Za-z0-9_./+,=@ -]*")


def places() -> list[Path]:
    """Where libraries are looked for: the cache, and what stands in for it where it cannot be used.

    The cache is $LOGINMEA_CACHE, else loginmea_fast under $XDG_CACHE_HOME or ~/.cache; the stand-in lies in the
    temporary directory. They hold programs, so one that anybody else can write to does not count.
    """
    return [place for place in (wanted(), _standin()) if place.is_dir() and _untrusted(place) is None]


def wanted() -> Path:
    """The cache directory that the environment names, usable or not."""
    named = os.environ.get("LOGINMEA_CACHE")
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    # Absolute: cmake takes a relative output directory for one below the build tree.
    return (Path(named) if named else Path(base) / "loginmea_fast").absolute()


def _standin() -> Path:
    user = os.getuid() if hasattr(os, "getuid") else getpass.getuser()
    return (Path(tempfile.gettempdir()) / f"loginmea_fast-{user}").absolute()


def _untrusted(place: Path) -> str | None:
    """Who but this user and root can write to a directory, as the end of a sentence; None: nobody."""
    if not hasattr(os, "getuid"):
        return None  # where a user's directories are private by the system's own lists
    facts = place.stat() if place == wanted() else place.lstat()
    if not stat.S_ISDIR(facts.st_mode):
        return "is no directory"
    if facts.st_uid not in (os.getuid(), 0):
        return f"belongs to another user (uid {facts.st_uid})"
    if facts.st_mode & stat.S_IWOTH or (facts.st_mode & stat.S_IWGRP and not _private_group(facts.st_gid)):
        return f"can be written by others (mode {stat.S_IMODE(facts.st_mode):o})"
    return None


def _private_group(gid: int) -> bool:
    """Whether a group is the user's own: many systems give each user one, and make directories writable by it."""
    import grp
    import pwd

    try:
        user, group = pwd.getpwuid(os.getuid()), grp.getgrgid(gid)
    except KeyError:
        return False
    return gid == user.pw_gid and group.gr_name == user.pw_name and set(group.gr_mem) <= {user.pw_name}


def writable() -> Path:
    """The cache, or what stands in for it, made where it is not there; a warning says why it is not the cache.

    Raises:
        OSError: neither can be used.
    """
    first, standin = wanted(), _standin()
    reason = _unusable(first)
    if reason is None:
        return first
    if (other := _unusable(standin)) is not None:
        raise OSError(
            f"the cache directory {first} {reason}, and {standin} {other}; "
            "set LOGINMEA_CACHE to a directory of your own"
        )
    _warn_standin(first, reason, standin)
    return standin


def _unusable(place: Path) -> str | None:
    """Why libraries cannot be kept in a directory, as the end of a sentence, or None; makes the directory."""
    try:
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
        if (reason := _untrusted(place)) is not None:
            return f"{reason} and holds programs"
        tempfile.TemporaryFile(dir=place).close()  # without a name where the system can: a kill leaves none
    except OSError as error:
        return f"cannot be written ({error.strerror})"
    return None


@functools.cache
def _warn_standin(first: Path, reason: str, standin: Path) -> None:
    warnings.warn(
        f"the cache directory {first} {reason}, so native libraries are kept in {standin}; "
        "set LOGINMEA_CACHE to a directory of your own",
        RuntimeWarning,
        stacklevel=3,
    )


class Tree:
    """A build tree that outlives one build, so that the next one compiles only what changed. Needs the lock.

    Its name and state stand in a record. A lock that is free while the record says "building" means that its
    owner was killed: compilers it started may still be writing, so the tree is left to them and a new one,
    of another name, begun.
    """

    def __init__(self, record: Path, stem: str) -> None:
        """Opens the idle tree that the record names, or begins a new one `stem`-* beside it or where builds can be."""
        self._record = record
        parent = _tree_parent(record.parent)
        try:
            known = json.loads(record.read_text(encoding="utf-8"))
            self.path = Path(known["tree"])
            idle = known["state"] == "idle"
        except (OSError, ValueError, KeyError, TypeError):  # never written, or its writer was killed
            self.path, idle = Path(), False
        # A tree holds its own path, so one that was copied or moved with its cache is of no use.
        if idle and self.path.parent == parent and self.path.is_dir():
            return
        for abandoned in parent.glob(f"{stem}-*"):
            shutil.rmtree(abandoned, ignore_errors=True)
        parent.mkdir(exist_ok=True)
        self.path = Path(tempfile.mkdtemp(prefix=f"{stem}-", dir=parent))

    def mark(self, state: str) -> None:
        """Writes the state, "building" or "idle", where the lock's next owner reads it."""
        self._record.write_text(json.dumps({"tree": str(self.path), "state": state}), encoding="utf-8")


def _tree_parent(place: Path) -> Path:
    """Where trees are built: in the cache, or where its path has what cmake, ninja or a shell takes for its own.

    Raises:
        OSError: the temporary directory's path has such characters as well, or others can write there.
    """
    if _PLAIN_PATH.fullmatch(str(place)):
        return place / "trees"
    standin = _standin()
    if not _PLAIN_PATH.fullmatch(str(standin)):
        raise OSError(
            f"neither {place} nor {standin} can be built in, because of characters that build tools take for their "
            "own; set LOGINMEA_CACHE to a directory whose path has letters, digits, blanks and ._-+=@ only"
        )
    standin.mkdir(mode=0o700, exist_ok=True)
    if reason := _untrusted(standin):
        raise OSError(
            f"{standin} {reason}, and {place} cannot be built in; set LOGINMEA_CACHE to a plain path"
        )
    return standin / "trees"


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
    prefix = f".staging-{entry.name}-"
    for killed in entry.parent.glob(f"{prefix}*"):
        shutil.rmtree(killed, ignore_errors=True)
    staging = Path(tempfile.mkdtemp(prefix=prefix, dir=entry.parent))
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
