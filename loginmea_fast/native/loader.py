"""Which library serves a device in this process: loaded, built ahead of time, cached, or built now."""

from __future__ import annotations

import hashlib
import importlib.machinery
import importlib.util
import os
import shutil
import sysconfig
import threading
from dataclasses import asdict
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from loginmea_fast.errors import BackendError, BuildError
from loginmea_fast.locks import locked
from loginmea_fast.log import log
from loginmea_fast.native import cache, toolchain
from loginmea_fast.native.build import compile_library
from loginmea_fast.native.sources import Sources, find_root
from loginmea_fast.version import __version__

__all__ = ["address", "dtype_code", "load", "status", "unavailable"]

DEVICES = ("cpu", "cuda")
_DTYPE_CODES = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2, torch.float16: 3}

_loaded: dict[str, ModuleType] = {}
_failed: dict[str, str] = {}
_lock = threading.RLock()


def dtype_code(dtype: torch.dtype) -> int:
    """The number by which native kernels know a dtype (`DType` of csrc/common/dtype.h).

    Raises:
        BackendError: they do not know it.
    """
    code = _DTYPE_CODES.get(dtype)
    if code is None:
        raise BackendError(f"native kernels take float32, float64, bfloat16 or float16; got {dtype}")
    return code


def address(tensor: torch.Tensor | None) -> int:
    """Where a tensor's elements begin, as native functions take it; 0, which is null, for None and for no elements."""
    return 0 if tensor is None else tensor.data_ptr()


def load(device: str) -> ModuleType:
    """The native library of a device, built on first use.

    Args:
        device: "cpu" or "cuda".

    Returns:
        The extension module. Its functions take `tensor.data_ptr()` for pointers, `dtype_code()` for dtypes.

    Raises:
        BuildError: it cannot be had. Remembered: later calls raise the same without another try.
    """
    module = _loaded.get(device)
    if module is not None:
        return module
    with _lock:
        if device not in _loaded:
            if device in _failed:
                raise BuildError(_failed[device])
            try:
                _loaded[device] = _obtain(device)
            except BuildError as error:
                _failed[device] = str(error)
                raise
            except (
                OSError
            ) as error:  # a full disk, a cache that vanished: no kernels, but the reference still answers
                _failed[device] = (
                    f"the native {device} library cannot be built: {error}; free some space, or set "
                    "LOGINMEA_CACHE to a directory on another disk"
                )
                raise BuildError(_failed[device]) from error
        return _loaded[device]


def unavailable(device: str) -> str | None:
    """Why `load(device)` would fail, as far as can be told without building; None if nothing is known."""
    if device in _loaded:
        return None
    with _lock:
        if device not in _failed and (reason := toolchain.missing(device)):
            if _ahead_of_time(device) is not None:
                return None
            _failed[device] = reason
        return _failed.get(device)


def status() -> dict[str, Any]:
    """What `loginmea-fast doctor` prints. Builds nothing.

    Returns:
        "cache": the cache directory; "jobs": compilers at once; and for "cpu" and "cuda" each a dict of
        "state" ("loaded", "ahead of time", "cached", "not built" or "unavailable"), "reason" (None, or why it
        is unavailable), "library" (its path or None) and "compiler" (what it says of itself, or None).
    """
    report: dict[str, Any] = {"cache": str(cache.wanted()), "jobs": toolchain.jobs()}
    for device in DEVICES:
        reason = unavailable(device)
        library = Path(_loaded[device].__file__ or "") if device in _loaded else None
        state, compiler = ("loaded" if library else "unavailable" if reason else "not built"), None
        if toolchain.missing(device) is None:
            tools = toolchain.find(device)
            compiler = (tools.nvcc_version or tools.cxx_version).splitlines()[-1 if tools.nvcc else 0]
        if library is None and reason is None:
            library = _ahead_of_time(device)
            state = "ahead of time" if library else state
            if library is None and (library := _cached(device)) is not None:
                state = "cached"
        found = str(library) if library else None
        report[device] = {"state": state, "reason": reason, "library": found, "compiler": compiler}
    return report


def _name(device: str) -> str:
    return f"loginmea_{device}"


def _entry_name(sources: Sources, tools: toolchain.Toolchain) -> str:
    key = "\n".join([__version__, sources.digest, tools.digest])
    return f"{tools.device}-{hashlib.sha256(key.encode()).hexdigest()[:20]}"


def _cached(device: str) -> Path | None:
    name = _entry_name(Sources.read(find_root(), device), toolchain.find(device))
    for place in cache.places():
        try:
            if library := cache.find(place / name, _name(device)):
                return library
        except ImportError:
            continue
    return None


def _ahead_of_time(device: str) -> Path | None:
    """A library built from these very sources for this Python, in $LOGINMEA_NATIVE_DIR or in the package."""
    sources = Sources.read(find_root(), device)
    name = f"{_name(device)}-{sources.digest[:16]}{sysconfig.get_config_var('EXT_SUFFIX')}"
    named = os.environ.get("LOGINMEA_NATIVE_DIR")
    for place in (*([Path(named)] if named else []), Path(__file__).parent / "lib"):
        if (place / name).is_file():
            return place / name
    return None


def _obtain(device: str) -> ModuleType:
    if device not in DEVICES:
        raise BuildError(f"native libraries are built for cpu and cuda, not for {device!r}")
    module = _name(device)
    prebuilt = _ahead_of_time(device)
    if prebuilt is not None:
        try:
            return _import(module, prebuilt)
        except (ImportError, BuildError) as error:
            log.warning("the library %s built ahead of time is passed over: %s", prebuilt, error)
    reason = toolchain.missing(device)
    if reason is not None:
        raise BuildError(reason)
    sources, tools = Sources.read(find_root(), device), toolchain.find(device)
    name = _entry_name(sources, tools)
    for place in cache.places():
        try:
            if library := cache.find(place / name, module):
                return _import(module, library)
        except ImportError:
            continue  # looked at again below, under the lock
    return _build(module, name, sources, tools)


def _build(module: str, name: str, sources: Sources, tools: toolchain.Toolchain) -> ModuleType:
    """Builds, publishes and imports under the lock, unless another process has meanwhile done so."""
    place = cache.writable()
    entry, stem = place / name, f"{tools.device}-{tools.digest[:20]}"
    with locked(place / f"{stem}.lock", waiting="waiting for another process's build"):
        try:
            if library := cache.find(entry, module):
                return _import(module, library)
        except ImportError as error:
            log.warning("%s is corrupt (%s) and is built again", entry, error)
            shutil.rmtree(entry)
        tree = cache.Tree(place / f"{stem}.tree.json", stem)
        built = compile_library(module, sources, tools, tree, place / f"{name}.log")
        cache.publish(
            entry, module, built, {"version": __version__, "sources": sources.digest, **asdict(tools)}
        )
        try:
            return _import(module, entry / f"{module}.so")
        except ImportError as error:
            raise BuildError(f"{module} was built but cannot be loaded: {error}") from error


def _import(module: str, path: Path) -> ModuleType:
    """Imports an extension module from a path, under a name that the path need not have.

    Raises:
        ImportError: the file is no library, or not one for this kind of machine.
        BuildError: it was built for another processor; to build it again would end the same.
    """
    loader = importlib.machinery.ExtensionFileLoader(module, str(path))
    spec = importlib.util.spec_from_file_location(module, path, loader=loader)
    assert spec is not None
    try:
        loaded = importlib.util.module_from_spec(spec)
    except RuntimeError as refusal:  # csrc/cpu/entry.cpp, before any kernel is touched
        raise BuildError(
            f"{path} {refusal}; set LOGINMEA_MARCH to what this processor has, for example x86-64-v2"
        ) from None
    loader.exec_module(loaded)
    return loaded
