"""Some cases of tests/ops in a process of their own, under variables that must be set before anything is imported."""

from __future__ import annotations

import os
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]


def assert_cases_pass(cases: Sequence[str], variables: Mapping[str, str], directory: Path) -> None:
    """Run cases, named from tests/ops/test_ on; each must be there, run and pass."""
    report = directory / "report.xml"
    names = [f"tests/ops/test_{case}" for case in cases]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={report}", *names]
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"} | variables
    # A name that is no longer there ends pytest with an error; one that skips is none that passed.
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    suite = next(ElementTree.parse(report).iter("testsuite"))
    assert (suite.get("tests"), suite.get("skipped")) == (str(len(cases)), "0"), done.stdout[-2000:]
