"""The faults of tests/emulation, planted for the card: does compute-sanitizer, or a wrong number, show each there?

What a tool says, or a case, counts for a fault only where it says nothing of the sources as they are.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from bench.gpu.run import Run
from bench.gpu.sanitizer import findings, program
from bench.gpu.session import ROOT
from bench.gpu.step import SCRATCH
from loginmea_fast.locks import locked
from tests.emulation.faults import FAULTS, Fault, planted

__all__ = ["case", "check", "plant", "seen_by"]

TOOLS = ("memcheck", "racecheck", "synccheck")


def check(run: Run, number: str) -> None:
    """Run the fault's case in a checkout of its own under one tool after the other, until one of them shows it."""
    fault = FAULTS[int(number)]
    with run.attempt(fault=fault.name, kernel=fault.kernel) as row, tempfile.TemporaryDirectory() as folder:
        tool = program()
        if tool is None:
            row |= {"status": "not run", "reason": "compute-sanitizer is not there"}
            return
        tree = plant(fault, Path(folder) / "tree")
        environment = os.environ | {"LOGINMEA_CACHE": str(Path(folder) / "cache")}
        for name in TOOLS:
            if (without := _without_a_fault(run, tool, name, number, Path(folder))) != "no":
                what = f"without any fault {name} and {fault.case} say: {without}"
                skipped = without.startswith("not run")
                row |= {"status": "not run" if skipped else "failed", "reason": what[:400]}
                return
            seen = seen_by(name, _told(run, [tool, "--tool", name], tree, number, environment))
            if seen in (name, "wrong number"):
                row["seen"] = seen
                return
            if seen != "no":
                row |= {"status": "failed", "reason": f"{name}: {seen}"[:400]}
                return
        row["seen"] = "no"


def _told(run: Run, tool: list[str], tree: Path, number: str, environment: dict[str, str]) -> str:
    """What a tool and a fault's case print, in a checkout."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, str(tree / "bench" / "gpu"), "--task", f"planted/{number}"]
        command += ["--rows", str(Path(folder) / "rows"), "--scale", run.scale]
        done = subprocess.run([*tool, *command], env=environment, capture_output=True, text=True)
    told = done.stdout + done.stderr
    print(told[-4000:])
    return told


def _without_a_fault(run: Run, program: str, tool: str, number: str, alone: Path) -> str:
    """What `seen_by` says of a fault's case in this checkout: "no" where all is sound.

    The first fault of a run with this case asks; those that come later, or meanwhile, are given its answer, which is
    kept in `alone` where there is no run.
    """
    key = hashlib.sha256(f"{tool} {FAULTS[int(number)].case}".encode()).hexdigest()[:16]
    answer = Path(os.environ.get(SCRATCH, alone)) / f"sound-{key}"
    with locked(answer.with_suffix(".lock"), "waiting for the case without a fault"):
        if not answer.exists():
            told = _told(run, [program, "--tool", tool], ROOT, number, dict(os.environ))
            answer.write_text(seen_by(tool, told))
    return answer.read_text()


def seen_by(tool: str, told: str) -> str:
    """The tool, "no" where neither it nor the case says anything, or what the case alone says."""
    if findings(told):
        return tool
    said = _verdict(told)
    return "no" if said == "passed" else said


def _verdict(told: str) -> str:
    """What a case says: "passed", "wrong number", or why it is neither.

    A library that was not built, or a launch that the runtime refuses, fails a case and compares nothing.
    """
    if re.search(r"\b1 passed", told):
        return "passed"
    if re.search(r"\b1 skipped", told):
        return f"not run: skipped: {told[-300:]}"
    if re.search(r"^E +AssertionError", told, re.MULTILINE):
        return "wrong number"
    last = re.findall(r"^E +(\S.*)$", told, re.MULTILINE)
    return f"failed otherwise: {last[-1] if last else told[-300:]}"


def plant(fault: Fault, tree: Path) -> Path:
    """A copy of this checkout with the fault in it."""
    for name in ("bench", "csrc", "kernels", "loginmea_fast", "tests", "pyproject.toml", "CMakeLists.txt"):
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(
                source, tree / name, ignore=shutil.ignore_patterns(".cache", "results", "__pycache__")
            )
        else:
            shutil.copy(source, tree / name)
    name = f"cuda/{fault.source}"
    (tree / "csrc" / name).write_text(planted(fault)[name])
    return tree


def case(run: Run, number: str) -> None:
    """The fault's case, in this process; what stands in its checkout is what is tested."""
    import pytest

    with run.attempt(planted=number):
        pytest.main(
            ["-q", "-p", "no:cacheprovider", str(ROOT / "tests" / "ops" / f"test_{FAULTS[int(number)].case}")]
        )
