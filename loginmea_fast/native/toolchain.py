"""The tools of a build: which compiler, which flags, how many at once; and why there are none."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import os
import platform
import shlex
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from loginmea_fast.machine import free_memory

__all__ = ["Toolchain", "find", "jobs", "missing", "split_command"]

_FLAG_VARIABLES = ("CXXFLAGS", "LDFLAGS", "CUDAFLAGS", "NVCC_APPEND_FLAGS", "NVCC_PREPEND_FLAGS")


@dataclass(frozen=True)
class Toolchain:
    """Everything outside the sources that decides what a library contains."""

    device: str
    cxx: str
    cxx_version: str
    nvcc: str
    nvcc_version: str
    cmake: str
    ninja: str
    march: str
    target: str
    cuda_archs: str
    flags: str
    python_abi: str
    pybind11: str

    @property
    def digest(self) -> str:
        """SHA-256 of all of it."""
        return hashlib.sha256(repr(sorted(asdict(self).items())).encode()).hexdigest()


def _cxx() -> list[str] | None:
    """The C++ compiler as a command: $CXX, or the first of c++, g++, clang++ on the PATH.

    Raises:
        ValueError: CXX is no command, because of its quotes.
    """
    named = shlex.split(os.environ.get("CXX", ""))
    if named:
        # What launches the compiler and the compiler itself must be there; its flags follow.
        launcher, compiler, _ = split_command(named)
        return named if all(shutil.which(program) for program in (*launcher[:1], compiler)) else None
    for name in ("c++", "g++", "clang++"):
        found = shutil.which(name)
        if found:
            return [found]
    return None


def split_command(command: Sequence[str]) -> tuple[list[str], str, list[str]]:
    """A compiler's command as its launcher (ccache, env), the compiler, and flags that always go with it."""
    end = next((i for i, word in enumerate(command) if i and word.startswith("-")), len(command))
    return list(command[: end - 1]), command[end - 1], list(command[end:])


def _nvcc() -> str | None:
    named = os.environ.get("CUDACXX")
    if named:
        return shutil.which(named)
    for home in (os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH")):
        if home and (found := shutil.which("nvcc", path=str(Path(home) / "bin"))):
            return found
    return shutil.which("nvcc") or shutil.which("nvcc", path="/usr/local/cuda/bin")


def _tool(name: str) -> str | None:
    """The `cmake` or `ninja` of this Python environment, else the one on the PATH."""
    beside = Path(sysconfig.get_path("scripts")) / name
    if beside.is_file():
        return str(beside)
    return shutil.which(name)


def missing(device: str) -> str | None:
    """Why nothing can be built for `device`, or None. Looks for programs, runs none."""
    if sys.platform == "win32":
        return "native kernels are not built on Windows; the plain formulas answer, or use WSL"
    try:
        found = _cxx()
    except ValueError as error:
        return f"CXX is no command ({error}): {os.environ['CXX']}; correct its quotes"
    if found is None:
        named = os.environ.get("CXX")
        if named:
            return f"the C++ compiler that CXX names ({named}) is not there or no program; install it or unset CXX"
        return "no C++ compiler found; install g++ (or set CXX)"
    if device == "cuda" and _nvcc() is None:
        return "no CUDA compiler found; install the CUDA toolkit's nvcc (or set CUDA_HOME)"
    for name in ("cmake", "ninja"):
        if _tool(name) is None:
            return f"{name} not found; pip install {name}"
    if importlib.util.find_spec("pybind11") is None:
        return "pybind11 not found; pip install pybind11"
    return None


@functools.lru_cache
def _version(command: tuple[str, ...]) -> str:
    """What a compiler says of itself; a different compiler under the same name says something else."""
    try:
        done = subprocess.run([*command, "--version"], capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"unknown ({error})"
    return done.stdout.strip() or done.stderr.strip()


@functools.lru_cache
def _target(command: tuple[str, ...]) -> str:
    """What a compiler makes of its flags on this machine: its predefined macros, which name every instruction set.

    Under -march=native they differ from processor to processor, and with them what the library may contain.
    """
    try:
        done = subprocess.run(
            [*command, "-dM", "-E", "-x", "c++", os.devnull], capture_output=True, text=True, timeout=60
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"unknown ({error})"
    return hashlib.sha256(done.stdout.encode()).hexdigest() if done.returncode == 0 else "unknown"


def find(device: str) -> Toolchain:
    """The tools for `device`; call it where `missing(device)` is None."""
    import pybind11

    cxx, cmake, ninja = _cxx(), _tool("cmake"), _tool("ninja")
    assert cxx is not None
    assert cmake is not None
    assert ninja is not None
    nvcc = (_nvcc() or "") if device == "cuda" else ""
    march = os.environ.get("LOGINMEA_MARCH", "native") if device == "cpu" else ""
    flagged = [*cxx, *os.environ.get("CXXFLAGS", "").split(), *([f"-march={march}"] if march else [])]
    return Toolchain(
        device=device,
        cxx=shlex.join(cxx),
        cxx_version=_version(tuple(cxx)),
        nvcc=nvcc,
        nvcc_version=_version((nvcc,)) if nvcc else "",
        cmake=cmake,
        ninja=ninja,
        march=march,
        target=f"{platform.machine()} {_target(tuple(flagged)) if device == 'cpu' else ''}",
        cuda_archs=os.environ.get("LOGINMEA_CUDA_ARCHS", "80;90") if device == "cuda" else "",
        flags="\n".join(f"{name}={os.environ.get(name, '')}" for name in _FLAG_VARIABLES),
        python_abi=f"{sys.implementation.cache_tag} {sysconfig.get_config_var('EXT_SUFFIX')}",
        pybind11=pybind11.__version__,
    )


def jobs() -> int:
    """How many compilers at once: $MAX_JOBS, else what cores and free memory (2 GiB a compiler) allow."""
    named = os.environ.get("MAX_JOBS", "")
    if named.isdigit() and int(named) > 0:
        return int(named)
    return max(1, min(_cores(), _free_gib() // 2))


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _free_gib() -> int:
    free = free_memory()
    return 2 * _cores() if free is None else free // 2**30
