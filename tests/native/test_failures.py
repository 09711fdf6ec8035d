"""What a user without a compiler, or with a broken source, gets to read."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from loginmea_fast.native import toolchain

from .conftest import Workshop

TWICE = """
for _ in range(2):
    try:
        loader.load("cpu")
    except Exception as error:
        print(type(error).__name__, error)
print(loader.unavailable("cpu"))
"""


def test_a_broken_source_is_named_once_with_the_compilers_first_error(workshop: Workshop) -> None:
    broken = workshop.set_answer("no_such_name")
    out, err = workshop.run(TWICE)
    first, second, reason = out.splitlines()
    assert first == second == f"BuildError {reason}"
    assert f"{broken}:2:" in reason
    assert "error:" in reason
    assert "no_such_name" in reason
    assert err.count("compiling") == 1, "a build that failed is not tried again by the same process"
    log = reason.rsplit("the whole log is ", 1)[1]
    assert "no_such_name" in Path(log).read_text()
    workshop.set_answer(42)
    assert workshop.run()[0] == "42"


@pytest.mark.parametrize(
    ("environment", "told"),
    [
        ({"LOGINMEA_MARCH": "abacus"}, "set LOGINMEA_MARCH"),
        ({"CXX": "/nowhere/c++"}, "the C++ compiler that CXX names (/nowhere/c++) is not there"),
        ({"PATH": "", "CXX": ""}, "no C++ compiler found; install g++ (or set CXX)"),
        ({"CXX": "g++ -O2'"}, "CXX is no command (No closing quotation): g++ -O2'; correct its quotes"),
        (
            {"CXX": "env /nowhere/c++ -O2"},
            "the C++ compiler that CXX names (env /nowhere/c++ -O2) is not there",
        ),
        ({"CXX": "c++ -no-such-flag"}, "; take it out of CXX or CXXFLAGS"),
        ({"CXXFLAGS": "-fno-such-flag"}, "; take it out of CXX or CXXFLAGS"),
    ],
)
def test_the_message_says_what_to_do(workshop: Workshop, environment: dict[str, str], told: str) -> None:
    out, _ = workshop.run(TWICE, **environment)
    assert out.splitlines()[0].startswith("BuildError")
    assert told in out.splitlines()[0]


BROKEN = {
    "not for this machine": ("\x7fELF", "set CXX to one that does"),
    "lacks a library": (
        "#!/bin/sh\necho 'c++: error while loading shared libraries: libmpc.so.3' >&2; exit 127\n",
        "libmpc.so.3",
    ),
    "says nothing": ("#!/bin/sh\nexit 1\n", "set CXX to one that does"),
    "forks no more": (
        "#!/bin/sh\necho 'c++: fatal error: posix_spawn: Resource temporarily unavailable' >&2\nexit 1\n",
        "set MAX_JOBS=1",
    ),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_compiler_that_does_not_run_is_told_in_its_own_words(workshop: Workshop, kind: str) -> None:
    script, told = BROKEN[kind]
    compiler = workshop.root / "c++"
    compiler.write_text(script)
    compiler.chmod(0o755)
    out, _ = workshop.run(TWICE, CXX=str(compiler))
    first = out.splitlines()[0]
    assert first.startswith("BuildError building loginmea_cpu failed: ")
    assert told in first
    assert "the whole log is " in first
    assert len(out.splitlines()) == 3, "one sentence a call"


@pytest.mark.parametrize("command", ["{cxx} -DFROM_CXX=7 -I'/a dir'", "env A=1 {cxx} -DFROM_CXX=7"])
def test_a_compiler_may_come_with_a_launcher_and_flags(workshop: Workshop, command: str) -> None:
    workshop.set_answer("FROM_CXX")
    assert workshop.run(CXX=command.format(cxx=shutil.which("c++")), CXXFLAGS="-DOTHER")[0] == "7"


def test_where_nothing_is_built_one_sentence_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    assert (
        toolchain.missing("cpu")
        == "native kernels are not built on Windows; the plain formulas answer, or use WSL"
    )


def test_a_missing_pybind11_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pybind11", None)
    assert toolchain.missing("cpu") == "pybind11 not found; pip install pybind11"


def test_no_nvcc_is_a_reason_not_a_crash(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDACXX", "/nowhere/nvcc")
    reason = toolchain.missing("cuda")
    assert reason is not None
    assert "nvcc" in reason


def test_jobs_are_what_the_user_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAX_JOBS", "7")
    assert toolchain.jobs() == 7


@pytest.mark.parametrize(("free_gib", "expected"), [(64, 8), (5, 2), (1, 1)])
def test_jobs_mind_the_memory(monkeypatch: pytest.MonkeyPatch, free_gib: int, expected: int) -> None:
    monkeypatch.delenv("MAX_JOBS", raising=False)
    monkeypatch.setattr(toolchain, "_cores", lambda: 8)
    monkeypatch.setattr(toolchain, "_free_gib", lambda: free_gib)
    assert toolchain.jobs() == expected


SERVE = """
import torch
from loginmea_fast import ops, reference
left, right = torch.randn(8, 5), torch.randn(8, 5)
losses = [ops.contrastive_loss(left, right, 0.1) for _ in range(3)]
assert torch.equal(losses[0], ops.contrastive_loss(left, right, 0.1, backend="reference"))
assert losses[0] == losses[1] == losses[2]
try:
    ops.contrastive_loss(left, right, 0.1, backend="cpu")
except Exception as error:
    print(type(error).__name__, error)
"""


@pytest.mark.parametrize(
    ("environment", "told"),
    [({"PATH": "", "CXX": ""}, "install g++"), ({"CXXFLAGS": "-DBROKEN"}, "broken on purpose")],
    ids=["no compiler", "failing build"],
)
def test_without_a_library_the_formula_answers_and_one_warning_says_so(
    workshop: Workshop, environment: dict[str, str], told: str
) -> None:
    workshop.set_answer("1;\n}\n#ifdef BROKEN\n#error broken on purpose\n#endif\nint more() { return 0")
    out, err = workshop.run(SERVE, **environment)
    assert out.startswith("BackendError contrastive_loss: backend 'cpu' cannot serve this call:")
    assert told in out
    assert err.count("RuntimeWarning") == 1
    assert told in err
