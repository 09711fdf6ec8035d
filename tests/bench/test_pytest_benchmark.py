"""pytest-benchmark as the README tells users to run it: the commands work, and every provider is right."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ONCE = ["--benchmark-min-rounds=1", "--benchmark-max-time=1e-9", "--benchmark-calibration-precision=1"]


def commands() -> list[list[str]]:
    """The README's, as words."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    return [shlex.split(line, comments=True) for line in re.findall(r"^pytest bench.*", text, re.MULTILINE)]


def run(words: list[str], storage: Path, *more: str) -> str:
    command = [sys.executable, "-m", *words, *ONCE, f"--benchmark-storage=file://{storage}", *more]
    # Where the suite is divided among processes, the command must not take itself for one of them.
    alone = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_XDIST")}
    done = subprocess.run(command, cwd=ROOT, env=alone, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


@pytest.mark.slow
def test_the_commands_of_the_readme_measure_keep_and_compare(tmp_path: Path) -> None:
    every, again, some = commands()
    run(every, tmp_path, "-k", "not compile and not authors and not lightea")
    (kept,) = tmp_path.rglob("*.json")
    found = json.loads(kept.read_text())["benchmarks"]
    groups: dict[str, set[str]] = {}
    for one in found:
        groups.setdefault(one["fullname"].partition("::")[0], set()).add(next(iter(one["params"].values())))
        assert one["stats"]["min"] > 0
        assert one["extra_info"]["torch"]
    assert set(groups) == {f"bench/{path.name}" for path in (ROOT / "bench").glob("test_*.py")}
    for providers in groups.values():
        assert any(name.startswith("ours") for name in providers)
        assert any(not name.startswith("ours") for name in providers), "ours beside nothing says nothing"
    compared = run(again, tmp_path, "-k", "propagation and ours")
    assert re.search(r"test_propagation\[ours\] \(NOW\)", compared)
    assert re.search(r"test_propagation\[ours\] \(0001_\S*\)", compared)
    chosen = run(some, tmp_path)
    rows = set(re.findall(r"^test_low_rank_fusion\[([^]]+)\]", chosen, re.MULTILINE))
    assert "clean" in rows
    assert "authors" not in rows
