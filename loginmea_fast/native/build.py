"""One build: configure, compile, and if it fails say why in the compiler's own first words."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

from loginmea_fast.errors import BuildError
from loginmea_fast.log import announce
from loginmea_fast.native.cache import Tree
from loginmea_fast.native.sources import Sources
from loginmea_fast.native.toolchain import Toolchain, jobs, split_command

__all__ = ["compile_library", "configure"]

_ERRORS = (  # the most telling first: a compiler's or linker's own line before what cmake makes of it
    re.compile(r"^.*(?:\b(?:fatal )?error\s*:|undefined reference to|^ptxas fatal).*$", re.MULTILINE),
    # A compiler that cannot compile anything: its own words, after the command that ninja shows.
    re.compile(r"FAILED: .*\n.*\n\s*(.*\S.*)(?=(?:\n.*)*?is not able to|(?:\n.*)*?CMake will not be able)"),
    re.compile(r"^ninja: (?:fatal|error):.*$", re.MULTILINE),
    re.compile(r"^CMake Error.*\n+(?:.*\S.*)$", re.MULTILINE),
)

_HINTS = (
    (
        r"Resource temporarily unavailable|[Cc]annot fork|can't fork|fork: retry|posix_spawn|vfork",
        "the system starts no more processes: set MAX_JOBS=1, or raise the limit (ulimit -u)",
    ),
    (
        r"unrecognized (?:command.line )?option|unknown argument",
        "take it out of CXX or CXXFLAGS, or set CXX to a compiler that knows it",
    ),
    (
        r"cannot execute|[Ee]xec format|loading shared libraries|Permission denied|not able to compile",
        "the compiler itself does not run: install g++, or set CXX to one that does",
    ),
    (r"No space left", "free some space, or set LOGINMEA_CACHE to a directory on another disk"),
    (r"Killed|terminated signal|virtual memory exhausted|out of memory", "too little memory: set MAX_JOBS=1"),
    (r"unsupported GNU version", "this nvcc wants an older g++: install one and set CXX to it"),
    (r"Unsupported gpu architecture", "this nvcc lacks an architecture: set LOGINMEA_CUDA_ARCHS"),
    (
        r"-march=|for '-march|target CPU",
        "set LOGINMEA_MARCH to one this compiler knows, or CXX to a newer compiler",
    ),
    (r"Python\.h|Development", "install Python's headers (Debian: python3-dev)"),
    (r"OpenMP|omp\.h", "install the compiler's OpenMP runtime (Debian: libgomp1; for clang libomp-dev)"),
    (r"pybind11", "reinstall pybind11"),
)


def compile_library(module: str, sources: Sources, tools: Toolchain, tree: Tree, log: Path) -> Path:
    """Compiles `sources` in `tree`.

    Args:
        module: the library's and CMake target's name.
        sources: what to compile; the tree gets a copy.
        tools: with what.
        tree: a build tree whose lock this process holds.
        log: gets everything the tools print.

    Returns:
        The library, inside the tree.

    Raises:
        BuildError: with the compiler's first error, a hint where one is known, and the path of the log.
    """
    workers = jobs()
    announce(f"compiling {module}, once for this machine ({_told(tools)}, {workers} at once) ...")
    started = time.monotonic()
    tree.mark("building")
    source, build = tree.path / "src", tree.path / "build"
    sources.write_to(source)
    code = 0
    with open(log, "wb") as out:
        for command in (
            configure(tools, source, build),
            [tools.ninja, "-C", str(build), f"-j{workers}", module],
        ):
            try:
                code = subprocess.run(
                    command, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT
                ).returncode
            except OSError as error:  # the tool itself cannot be started
                out.write(f"error: {command[0]}: {error.strerror}\n".encode())
                code = 1
            if code != 0:
                break
    if (
        code >= 0
    ):  # a build tool that was killed leaves compilers behind that still write: such a tree stays "building"
        tree.mark("idle")
    elapsed = time.monotonic() - started
    library = next(iter(build.glob(f"{module}*.so")), None)
    if code != 0 or library is None:
        announce(f"building {module} failed after {elapsed:.1f} s")
        raise BuildError(_explain(module, log, source, sources.root))
    announce(f"compiled {module} in {elapsed:.1f} s")
    return library


def _told(tools: Toolchain) -> str:
    if tools.device == "cuda":
        return f"nvcc for sm {tools.cuda_archs.replace(';', ', ')}"
    return Path(split_command(shlex.split(tools.cxx))[1]).name + (
        f" -march={tools.march}" if tools.march else ""
    )


def configure(tools: Toolchain, source: Path, build: Path) -> list[str]:
    """The command that prepares `build` to compile `source` with `tools`."""
    import pybind11

    launcher, compiler, flags = split_command(shlex.split(tools.cxx))
    options = {
        "CMAKE_BUILD_TYPE": "Release",
        "CMAKE_MAKE_PROGRAM": tools.ninja,
        "CMAKE_CXX_COMPILER": shutil.which(compiler) or compiler,
        "CMAKE_CXX_COMPILER_LAUNCHER": ";".join(launcher),
        "CMAKE_CXX_FLAGS": " ".join([shlex.join(flags), os.environ.get("CXXFLAGS", "")]).strip(),
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
    settings = [f"-D{name}={value}" for name, value in options.items()]
    return [tools.cmake, "-G", "Ninja", "-S", str(source), "-B", str(build), *settings]


def _explain(module: str, log: Path, snapshot: Path, root: Path) -> str:
    """The message of a failed build; it tells paths of the snapshot as the sources' own."""
    text = log.read_text(errors="replace").replace(f"{snapshot}/", f"{root}/")
    found = next((match for pattern in _ERRORS if (match := pattern.search(text))), None)
    lines = [line for line in text.splitlines() if line.strip()]
    first = (
        " ".join(found.group(found.lastindex or 0).split())
        if found
        else lines[-1].strip()
        if lines
        else "the build tool printed nothing"
    )
    simple = "is not able to compile a simple test program" if "is not able to compile" in text else ""
    hint = next((hint for pattern, hint in _HINTS if re.search(pattern, f"{first} {simple}")), None)
    return f"building {module} failed: {first}" + (f"; {hint}" if hint else "") + f"; the whole log is {log}"
