"""Which library serves a device in this process: loaded, ahead of time, cached, or built now."""

from __future__ import annotations

import hashlib
import shutil
import sys
import threading
from dataclasses import asdict
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from loginmea_fast.errors import BuildError
from loginmea_fast.native import cache, toolchain
from loginmea_fast.native.build import compile_library
from loginmea_fast.native.sources import Sources, find_root
from loginmea_fast.version import __version__

__all__ = ["dtype_code", "load", "status", "unavailable"]

_DTYPE_CODES = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2, torch.float16: 3}

_loaded: dict[str, ModuleType] = {}
_failed: dict[str, BuildError] = {}
_lock = threading.RLock()


def dtype_code(dtype: torch.dtype) -> int:
    """The number by which the native kernels know a dtype (``DType`` of csrc/common/dtype.h).

    Raises:
        BackendError: no native kernel knows it.
    """
    try:
        return _DTYPE_CODES[dtype]
    except KeyError:
        from loginmea_fast.errors import BackendError

        raise BackendError(f"native kernels take float32, float64, bfloat16 or float16, got {dtype}") from None


def load(device: str) -> ModuleType:
    """The native library of a device, built on first use.

    Args:
        device: "cpu" or "cuda".

    Returns:
        The extension module; its functions take ``tensor.data_ptr()`` for pointers and ``dtype_code`` for dtypes.

    Raises:
        BuildError: it cannot be built; remembered, so that later calls raise it again without another try.
    """
    module = _loaded.get(device)
    if module is not None:
        return module
    with _lock:
        if device in _loaded:
            return _loaded[device]
        if device in _failed:
            raise _failed[device]
        try:
            _loaded[device] = _find_or_build(device)
        except BuildError as error:
            _failed[device] = error
            raise
        except OSError as error:  # a full disk, a directory that vanished: no kernels, but no crash either
            _failed[device] = BuildError(f"building the {device} library failed: {error}")
            raise _failed[device] from error
        return _loaded[device]


def unavailable(device: str) -> str | None:
    """Why :func:`load` could not serve a device, as far as can be told without building; None if nothing speaks against it."""
    if device in _loaded:
        return None
    if device in _failed:
        return str(_failed[device])
    return toolchain.missing(device)


def status() -> dict[str, Any]:
    """What ``loginmea-fast doctor`` prints, by device: state, reason, and the cache entry that would serve."""
    report: dict[str, Any] = {"cache": str(cache.directory())}
    for device in ("cpu", "cuda"):
        reason = unavailable(device)
        entry = None if toolchain.missing(device) else _entry(device)
        state = "loaded" if device in _loaded else "cached" if entry and cache.cached(entry, _name(device)) else "not built"
        report[device] = {"state": "unavailable" if reason else state, "reason": reason, "entry": str(entry) if entry else None}
    return report


def _name(device: str) -> str:
    return f"loginmea_{device}"


def _key(sources: Sources, tools: toolchain.Toolchain) -> str:
    return hashlib.sha256("\n".join([__version__, sources.digest, tools.digest()]).encode()).hexdigest()[:20]


def _entry(device: str) -> Path:
    return cache.directory() / f"{device}-{_key(Sources.read(find_root(), device), toolchain.find(device))}"


def _find_or_build(device: str) -> ModuleType:
    if device not in ("cpu", "cuda"):
        raise BuildError(f"native libraries are built for cpu and cuda, not for {device}")
    reason = toolchain.missing(device)
    if reason:
        raise BuildError(reason)
    module = _name(device)
    sources = Sources.read(find_root(), device)
    tools = toolchain.find(device)
    root = cache.directory()
    entry = root / f"{device}-{_key(sources, tools)}"
    library = cache.cached(entry, module)
    if library is not None:
        try:
            return cache.import_library(module, library)
        except ImportError as error:
            print(f"loginmea_fast: {library} is corrupt ({error}); building it again", file=sys.stderr, flush=True)
            shutil.rmtree(entry, ignore_errors=True)
    stem = f"{device}-{tools.digest()[:20]}"
    (root / "trees").mkdir(exist_ok=True)
    with cache.locked(root / f"{stem}.lock") as handle:
        library = cache.cached(entry, module)  # another process may have built it while this one waited
        if library is None:
            tree = cache.Tree(handle, root / "trees", stem)
            tree.mark("building")
            try:
                built = compile_library(module, sources, tools, tree.path, root / f"{entry.name}.log")
                library = cache.publish(entry, module, built, {"version": __version__, **asdict(tools)})
            finally:
                tree.mark("idle")
        try:
            return cache.import_library(module, library)
        except ImportError as error:
            shutil.rmtree(entry, ignore_errors=True)
            raise BuildError(f"{module} was built but cannot be loaded: {error}") from error
