"""A library of two tiny files, built by the real CMakeLists.txt, and a way to load it in a process of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from loginmea_fast.native.sources import find_root

BINDINGS = """
#include <Python.h>
int answer();
static PyObject* get(PyObject*, PyObject*) { return PyLong_FromLong(answer()); }
static PyMethodDef methods[] = {{"answer", get, METH_NOARGS, nullptr}, {nullptr, nullptr, 0, nullptr}};
static PyModuleDef definition = {PyModuleDef_HEAD_INIT, "loginmea_cpu", nullptr, -1, methods, 0, 0, 0, 0};
PyMODINIT_FUNC PyInit_loginmea_cpu() { return PyModule_Create(&definition); }
"""

LOAD = """
import pathlib, sys
from loginmea_fast.native import loader
loader.find_root = lambda: pathlib.Path(sys.argv[1])
"""


@dataclass
class Workshop:
    """One source directory, one cache, any number of processes."""

    root: Path
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def sources(self) -> Path:
        return self.root / "csrc"

    @property
    def cache(self) -> Path:
        return self.root / "cache"

    def set_answer(self, value: int | str) -> Path:
        path = self.sources / "cpu" / "answer.cpp"
        path.write_text(f"int answer() {{\n  return {value};\n}}\n")
        return path

    def start(
        self, code: str = "print(loader.load('cpu').answer())", **environment: str
    ) -> subprocess.Popen[str]:
        """Starts a process that runs `code` with this workshop's sources."""
        return subprocess.Popen(
            [sys.executable, "-W", "always", "-c", LOAD + code, str(self.sources)],
            env={**os.environ, "LOGINMEA_CACHE": str(self.cache), **self.environment, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def run(self, code: str = "print(loader.load('cpu').answer())", **environment: str) -> tuple[str, str]:
        """Runs `code` to its end; returns what it printed on stdout and stderr."""
        process = self.start(code, **environment)
        out, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
        return out.strip(), err

    def entries(self) -> list[Path]:
        return sorted(path.parent for path in self.cache.glob("cpu-*/key.json"))


def open_workshop(root: Path) -> Workshop:
    """One with the sources of a library that answers 42."""
    made = Workshop(root)
    (made.sources / "cpu").mkdir(parents=True)
    shutil.copy(find_root() / "CMakeLists.txt", made.sources)
    (made.sources / "bindings_cpu.cpp").write_text(BINDINGS)
    made.set_answer(42)
    return made


@pytest.fixture
def workshop(tmp_path: Path) -> Workshop:
    return open_workshop(tmp_path)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    """A workshop for many tests, whose library is in its cache."""
    made = open_workshop(tmp_path_factory.mktemp("workshop"))
    made.run()
    return made


@pytest.fixture
def slow_compiler(workshop: Workshop) -> Callable[[], None]:
    """A compiler that stops for a minute at answer.cpp, having left the file `started`; call the result to cure it."""
    compiler, slow, started = (workshop.root / name for name in ("slow-c++", "slow", "started"))
    slow.touch()
    compiler.write_text(
        "#!/bin/sh\n"
        f'case "$*" in *answer.cpp*) if [ -e {slow} ]; then touch {started}; sleep 60; fi;; esac\n'
        f'exec {shutil.which("c++") or shutil.which("g++")} "$@"\n'
    )
    compiler.chmod(0o755)
    workshop.environment["CXX"] = str(compiler)
    return slow.unlink
