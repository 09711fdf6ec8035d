"""The CUDA library compiled for the CPU, over the emulator beside this file.

    LOGINMEA_EMULATED_CUDA=1 python -m pytest tests/ops -k cuda        # 1: the seed of the order of threads
    LOGINMEA_EMULATED_CUDA=1 python -m tests.emulation.library pytest tests/ops -k cuda      # under address sanitizer

With the variable set, tests/conftest.py lets every test of the backend "cuda" run on CPU tensors. Sources are those of
csrc/cuda as they stand, but for declarations of shared memory, which become calls of the emulator.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.machinery
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import Tensor

__all__ = ["LIBRARY", "SEED", "SHARED", "build", "install", "load", "sources", "translate", "wrongly_refused"]

SEED = "LOGINMEA_EMULATED_CUDA"
SANITIZED = "LOGINMEA_EMULATED_CUDA_SANITIZED"
SHARED = "LOGINMEA_EMULATED_CUDA_SHARED"  # KiB that a block of the emulated card can have, in place of 227
LIBRARY = "LOGINMEA_EMULATED_CUDA_LIBRARY"  # one that is built already, with a fault in it

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent
BUILD = ROOT / "build" / "emulation"
FLAGS = (
    *("-std=c++17", "-O1", "-g1", "-fPIC", "-fvisibility=hidden", "-Wno-unknown-pragmas"),
    "-DLOGINMEA_SM90A=1",
)
# Alignment: a card faults where a load of 16 bytes is not on a boundary of 16.
SANITIZE = (
    "-fsanitize=address,alignment,bounds,null",
    "-fno-sanitize-recover=all",
    "-fno-omit-frame-pointer",
)

_DYNAMIC = re.compile(r"extern __shared__ (?:__align__\(\d+\) )?(?P<type>[\w:]+) (?P<name>\w+)\[\];")
_STATIC = re.compile(r"(?:alignas\(\d+\) )?__shared__ (?P<type>[\w:]+) (?P<names>[^;=]+);")
_VARIABLE = re.compile(r"(?P<name>\w+)(?P<sizes>(?:\[[^\]]+\])+)")


def translate(text: str) -> str:
    """A CUDA source with its declarations of shared memory as calls of the emulator.

    Raises:
        ValueError: shared memory, or a launch, is written in another way than this understands.
    """

    def declare(match: re.Match[str]) -> str:
        variables = _VARIABLE.findall(match["names"])
        if ", ".join(name + sizes for name, sizes in variables) != match["names"]:
            raise ValueError(f"expected arrays in shared memory; got {match[0]!r}")
        return " ".join(
            f'auto& {name} = emulation::shared<{match["type"]}{sizes}>("{name}");'
            for name, sizes in variables
        )

    def declare_dynamic(match: re.Match[str]) -> str:
        kind, name = match["type"], match["name"]
        return f'auto* {name} = static_cast<{kind}*>(emulation::shared_memory("{name}", 0));'

    text = _STATIC.sub(declare, _DYNAMIC.sub(declare_dynamic, text))
    for left in ("__shared__", "<<<", "asm"):
        if left in text:
            line = next(line for line in text.splitlines() if left in line)
            raise ValueError(
                f"expected launch() of cuda/launch.cuh and shared memory of a known form; got {line!r}"
            )
    return text


def sources() -> dict[str, str]:
    """What the emulated library is made of, by path below csrc, and the emulator's own beside it."""
    found = {}
    for path in sorted((ROOT / "csrc").rglob("*")):
        name = path.relative_to(ROOT / "csrc").as_posix()
        if path.suffix in {".h", ".cuh", ".cu"} and name.startswith(("common/", "cuda/")):
            found[name] = path.read_text()
    found["bindings_cuda.cpp"] = (ROOT / "csrc" / "bindings_cuda.cpp").read_text()
    found["emulator.cpp"] = (HERE / "emulator.cpp").read_text()
    for path in sorted((HERE / "include").rglob("*")):
        if path.is_file():
            found[path.relative_to(HERE / "include").as_posix()] = path.read_text()
    return found


def build(
    files: Mapping[str, str], module: str = "loginmea_cuda", sanitize: bool = False, home: Path = BUILD
) -> Path:
    """Compile `files` into an extension module; objects whose sources and flags are unchanged are kept.

    Args:
        files: texts by path; those that end in .cu or .cpp are compiled, the others can be included.
        module: its name.
        sanitize: with address sanitizer, which must then be loaded first (`python -m tests.emulation.library`).
        home: where objects and libraries are kept.

    Returns:
        The library.

    Raises:
        RuntimeError: the compiler's words.
    """
    import pybind11

    compiler = shutil.which("g++")
    if compiler is None:
        raise RuntimeError("no g++ found, which compiles the CUDA kernels for the emulator")
    flags = [*FLAGS, *(SANITIZE if sanitize else ())]
    texts = {
        name: translate(text) if name.endswith((".cu", ".cuh")) else text for name, text in files.items()
    }
    texts.update({name: text for name, text in files.items() if name == "cuda/ptx.cuh"})
    headers = {name: text for name, text in texts.items() if not name.endswith((".cu", ".cpp"))}
    objects = []
    for name, text in texts.items():
        if name in headers:
            continue
        included = _included(text + '#include "cuda_runtime.h"', headers)
        key = hashlib.sha256(
            "\0".join(
                [*flags, compiler, sys.version, text, *(f"{n}\0{headers[n]}" for n in included)]
            ).encode()
        )
        directory = home / key.hexdigest()[:20]
        target = directory / f"{Path(name).stem}.o"
        objects.append(target)
        if target.exists():
            continue
        for path, content in {name: text, **{n: headers[n] for n in included}}.items():
            (directory / path).parent.mkdir(parents=True, exist_ok=True)
            (directory / path).write_text(content)
        unfinished = target.with_suffix(f".{os.getpid()}")
        includes = [f"-I{directory}", f"-I{pybind11.get_include()}", f"-I{sysconfig.get_path('include')}"]
        if name.endswith(".cu"):
            includes += ["-include", "cuda_runtime.h"]  # as nvcc does
        _compile(
            [compiler, *flags, *includes, "-x", "c++", "-c", str(directory / name), "-o", str(unfinished)]
        )
        unfinished.replace(target)
    key = hashlib.sha256("\0".join(str(path) for path in objects).encode()).hexdigest()[:20]
    library = home / f"{module}-{key}{sysconfig.get_config_var('EXT_SUFFIX')}"
    if not library.exists():
        unfinished = library.with_suffix(f".{os.getpid()}")
        _compile([compiler, *flags, "-shared", *map(str, objects), "-o", str(unfinished)])
        unfinished.replace(library)
    return library


def _included(text: str, headers: Mapping[str, str]) -> list[str]:
    """The headers that a source includes, directly or not."""
    found: list[str] = []
    left = [text]
    while left:
        for name in re.findall(r'#include ["<]([^">]+)[">]', left.pop()):
            for known in (name, f"common/{name}"):
                if known in headers and known not in found:
                    found.append(known)
                    left.append(headers[known])
    return sorted(found)


def _compile(command: Sequence[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}\n{done.stderr[:4000]}")


def load(library: Path, module: str = "loginmea_cuda") -> ModuleType:
    """Import what `build` made."""
    loader = importlib.machinery.ExtensionFileLoader(module, str(library))
    spec = importlib.util.spec_from_file_location(module, library, loader=loader)
    assert spec is not None
    loaded = importlib.util.module_from_spec(spec)
    loader.exec_module(loaded)
    return loaded


def install() -> None:
    """Let the backend "cuda" serve CPU tensors, by the emulated library, for the rest of this process."""
    from loginmea_fast.native import loader
    from loginmea_fast.ops import _dispatch

    named = os.environ.get(LIBRARY)
    library = Path(named) if named else build(sources(), sanitize=os.environ.get(SANITIZED) == "1")
    loader._loaded["cuda"] = kernels = load(library)
    misplaced = _dispatch.misplaced

    def emulated_card(tensor: Tensor, device_type: str) -> str | None:
        return None if device_type == "cuda" else misplaced(tensor, device_type)

    def emulated_kernels(tensor: Tensor) -> tuple[Any, int]:
        return kernels, 0

    def emulated_capability(tensor: Tensor) -> tuple[int, int]:
        return 9, 0

    _dispatch.capability = emulated_capability
    _dispatch.misplaced = emulated_card
    _dispatch.cuda_kernels = emulated_kernels


def wrongly_refused(reason: str) -> bool:
    """Whether a test skips for what the emulator should have served, by its reason.

    The kernels themselves have no float64 or end at some width, and their module says so (`unsupported`); whatever else
    keeps the backend from serving here is a fault of the emulator or of the library.
    """
    _, asked, why = reason.partition("backend 'cuda' cannot serve this call: ")
    return asked != "" and not why.startswith(("its products ", "it takes "))


@functools.cache
def sanitizer_runtime() -> list[str]:
    """The libraries that must be loaded before any other: the sanitizer's, and the one whose exceptions it watches."""
    found = []
    for name in ("libasan.so", "libstdc++.so"):
        path = subprocess.run(
            ["g++", f"-print-file-name={name}"], capture_output=True, text=True
        ).stdout.strip()
        if not Path(path).is_absolute():
            raise RuntimeError(f"g++ has no {name}; install its sanitizer libraries")
        found.append(str(Path(path).resolve()))
    return found


def sanitized_environment() -> dict[str, str]:
    """The environment in which a Python process runs the library that is built with address sanitizer."""
    options = (
        "detect_leaks=0:detect_stack_use_after_return=0:quarantine_size_mb=32:allocator_may_return_null=1"
    )
    return os.environ | {
        SANITIZED: "1",
        "LD_PRELOAD": " ".join(sanitizer_runtime()),
        "ASAN_OPTIONS": options,
        SEED: os.environ.get(SEED, "1"),
    }


if __name__ == "__main__":
    os.execve(sys.executable, [sys.executable, "-m", *sys.argv[1:]], sanitized_environment())
