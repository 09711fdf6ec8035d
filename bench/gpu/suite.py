"""The test suite's own verdict on the card: every test of an operator that names a GPU backend."""

from __future__ import annotations

import tempfile
import xml.etree.ElementTree as ElementTree
from collections import Counter
from pathlib import Path

from bench.gpu.run import Run

__all__ = ["suite"]

ROOT = Path(__file__).resolve().parents[2]
NAMED = 5  # failures that are told by name


def suite(run: Run, op: str) -> None:
    """Run tests/ops/test_<op>.py where it is about Triton or CUDA, in this process."""
    import pytest

    with run.attempt(suite=op) as row, tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        chosen = [str(ROOT / "tests" / "ops" / f"test_{op}.py"), "-k", "triton or cuda or gpu"]
        pytest.main([*chosen, "-q", "--maxfail=20", "-p", "no:cacheprovider", f"--junitxml={report}"])
        counts: Counter[str] = Counter()
        failures, reasons = [], Counter()
        for case in ElementTree.parse(report).iter("testcase"):
            outcome = next(
                (child.tag for child in case if child.tag in ("failure", "error", "skipped")), "passed"
            )
            counts[outcome] += 1
            if outcome in ("failure", "error"):
                message = (case.find(outcome).get("message") or "").splitlines()[:1]  # type: ignore[union-attr]
                failures.append(f"{case.get('name')}: {' '.join(message)[:200]}")
            elif outcome == "skipped":
                reasons[(case.find("skipped").get("message") or "")[:120]] += 1  # type: ignore[union-attr]
        row |= {
            "counts": dict(counts),
            "failures": failures[:NAMED],
            "skipped": dict(reasons.most_common(NAMED)),
        }
        assert not failures, f"{len(failures)} tests failed"
        assert counts["passed"], "no test ran"
