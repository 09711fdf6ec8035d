"""The faults of tests/emulation, planted for the card: does compute-sanitizer, or a wrong number, show each there?"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from bench.gpu.run import Run
from bench.gpu.sanitizer import findings, program
from bench.gpu.session import ROOT
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
        command = [sys.executable, str(tree / "bench" / "gpu"), "--task", f"planted/{number}"]
        command += ["--rows", str(Path(folder) / "rows"), "--scale", run.scale]
        environment = os.environ | {"LOGINMEA_CACHE": str(Path(folder) / "cache")}
        row["seen"] = "no"
        for name in TOOLS:
            done = subprocess.run(
                [tool, "--tool", name, *command], env=environment, capture_output=True, text=True
            )
            told = done.stdout + done.stderr
            print(told[-4000:])
            if (seen := seen_by(name, told)) != "no":
                row["seen"] = seen
                return


def seen_by(tool: str, told: str) -> str:
    """The tool, "wrong number" where the case failed without its help, or "no"."""
    if findings(told):
        return tool
    if " failed" in told:
        return "wrong number"
    assert " passed" in told, f"the case did not run: {told[-200:]}"
    return "no"


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
