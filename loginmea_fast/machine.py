"""What the machine has to spare."""

from __future__ import annotations

import contextlib
import ctypes
import gc
from pathlib import Path

__all__ = ["free_memory", "give_back", "is_memory"]


def give_back() -> None:
    """Return memory that nothing holds any more to the system, where the C library keeps it (glibc does)."""
    gc.collect()
    with contextlib.suppress(AttributeError, OSError, TypeError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)


def free_memory() -> int | None:
    """Bytes that can be had without swapping, as machine, container and process limit them; None if nothing says."""
    found = [_free_on_machine(), _free_in_group(Path("/sys/fs/cgroup")), _free_in_process()]
    return min((free for free in found if free is not None), default=None)


def is_memory(directory: str | Path, mounts: Path = Path("/proc/self/mounts")) -> bool:
    """Whether files in a directory take memory, as on a tmpfs; False where the system does not say."""
    place = Path(directory).resolve()
    try:
        told = [line.split()[1:3] for line in mounts.read_text().splitlines()]
    except (OSError, ValueError):
        return False
    above = [(Path(where), kind) for where, kind in told if place.is_relative_to(where)]
    # Of several mounts on one place the last is seen.
    deepest = max((len(where.parts) for where, _ in above), default=0)
    kinds = [kind for where, kind in above if len(where.parts) == deepest]
    return bool(kinds) and kinds[-1] in ("tmpfs", "ramfs")


def _free_on_machine() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), None)


def _free_in_process() -> int | None:
    """Of the process's own limit of address space (`ulimit -v`) what is not taken; None where there is none."""
    import resource

    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit == resource.RLIM_INFINITY:
        return None
    try:
        taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    except (OSError, ValueError):
        return None
    return max(limit - taken, 0)


def _free_in_group(group: Path) -> int | None:
    """Of a container's limit (control groups, version 2) what is not taken; None where there is none.

    Pages of files are taken for nobody: the system drops them when memory is asked for.
    """
    try:
        limit, used = (int((group / f"memory.{name}").read_text()) for name in ("max", "current"))
        told = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):  # "max" stands for no limit
        return None
    return max(limit - used + int(told.get("file", 0)) - int(told.get("shmem", 0)), 0)
