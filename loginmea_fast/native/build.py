"""One build: configure, compile, and if it fails say why in the compiler's own first words."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

from loginmea_fast.errors import BuildError
from loginmea_fast.native.sources import Sources
from loginmea_fast.native.toolchain import Toolchain, jobs

__all__ = ["compile_library"]

_ERROR = re.compile(r"^.*(?:\berror\b\s*:|\berror\b\s+#|fatal error|CMake Error|undefined reference|ptxas fatal).*$", re.M | re.I)

_HINTS = (
    (r"Python\.h|Development\.Module|PYTHON_INCLUDE", "install Python's headers (Debian: python3-dev)"),
    (r"OpenMP|omp\.h", "install the compiler's OpenMP runtime (Debian: libgomp1, or libomp-dev for clang)"),
    (r"No space left", "free some space, or set LOGINMEA_CACHE to a directory on another disk"),
    (r"Killed|cc1plus.*signal|virtual memory exhausted|out of memory", "too little memory: set MAX_JOBS=1"),
    (r"unsupported GNU version", "this nvcc wants an older g++: install one and set CXX to it"),
    (r"Unsupported gpu architecture|unsupported.*compute_", "this nvcc lacks an architecture of LOGINMEA_CUDA_ARCHS"),
    (r"unrecognized command|bad value .*-march|unknown.*-march", "set LOGINMEA_MARCH to one this compiler knows, or CXX to a newer one"),
    (r"pybind11", "reinstall pybind11"),
)


def compile_library(module: str, sources: Sources, tools: Toolchain, tree: Path, log: Path) -> Path:
    """Compiles the snapshot of `sources` in `tree`; returns the library, in the tree.

    Raises:
        BuildError: with the compiler's first error, a hint where one is known, and the path of the log.
    """
    workers = jobs()
    print(f"loginmea_fast: compiling {module} ({_told(tools)}, {workers} at once) ... ", end="", file=sys.stderr, flush=True)
    started = time.monotonic()
    sources.write_to(tree / "src")
    build = tree / "build"
    with open(log, "w") as out:
        ok = _run(_configure(tools, tree / "src", build), out)
        ok = ok and _run([tools.ninja, "-C", str(build), f"-j{workers}", module], out)
    elapsed = time.monotonic() - started
    library = next(iter(build.glob(f"{module}*.so")), None)
    if not ok or library is None:
        print(f"failed after {elapsed:.1f} s", file=sys.stderr, flush=True)
        raise BuildError(_explain(module, log, tree / "src", sources.root))
    print(f"{elapsed:.1f} s", file=sys.stderr, flush=True)
    return library


def _told(tools: Toolchain) -> str:
    if tools.device == "cuda":
        return f"{Path(tools.nvcc).name} for sm {tools.cuda_archs.replace(';', ', ')}"
    return f"{Path(tools.cxx.split()[-1]).name} -march={tools.march}" if tools.march else Path(tools.cxx).name


def _configure(tools: Toolchain, source: Path, build: Path) -> list[str]:
    import pybind11

    *launcher, compiler = tools.cxx.split()
    options = {
        "CMAKE_BUILD_TYPE": "Release",
        "CMAKE_MAKE_PROGRAM": tools.ninja,
        "CMAKE_CXX_COMPILER": shutil.which(compiler) or compiler,
        "CMAKE_CXX_COMPILER_LAUNCHER": ";".join(launcher),
        "CMAKE_LIBRARY_OUTPUT_DIRECTORY": str(build),
        "Python_EXECUTABLE": sys.executable,
        "pybind11_DIR": pybind11.get_cmake_dir(),
        "LOGINMEA_CPU": "ON" if tools.device == "cpu" else "OFF",
        "LOGINMEA_CUDA": "ON" if tools.device == "cuda" else "OFF",
        "LOGINMEA_MARCH": tools.march,
        "LOGINMEA_CUDA_ARCHS": tools.cuda_archs,
    }
    if tools.nvcc:
        options["CMAKE_CUDA_COMPILER"] = tools.nvcc
        options["CMAKE_CUDA_HOST_COMPILER"] = options["CMAKE_CXX_COMPILER"]
    return [tools.cmake, "-G", "Ninja", "-S", str(source), "-B", str(build), *(f"-D{k}={v}" for k, v in options.items())]


def _run(command: list[str], log: object) -> bool:
    try:
        return subprocess.run(command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT).returncode == 0  # type: ignore[call-overload]
    except OSError as error:
        log.write(f"error: {error}\n")  # type: ignore[attr-defined]
        return False


def _explain(module: str, log: Path, snapshot: Path, root: Path) -> str:
    """The message of a failed build; paths of the snapshot are told as the sources' own."""
    text = log.read_text(errors="replace").replace(f"{snapshot}/", f"{root}/")
    found = _ERROR.search(text)
    first = found.group(0).strip() if found else next((line for line in reversed(text.splitlines()) if line.strip()), "")
    hint = next((hint for pattern, hint in _HINTS if re.search(pattern, text if not found else first)), None)
    return f"building {module} failed: {first}" + (f"; {hint}" if hint else "") + f"; the whole log is in {log}"
