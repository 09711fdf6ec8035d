"""What was tried to break the package, counted: work that is killed, and hostile input and surroundings.

python -m bench.reliability killed       # `make kill-test`: at least 50 kills
python -m bench.reliability hostile      # `make hostile-test`
python -m bench.reliability killed --record

The tests are those of the suite under the marker of that name; here they are counted and, of kills, there are more.
"""

from __future__ import annotations

import argparse
import os
import time
from collections import Counter
from typing import Any

import pytest

from bench._record import ROOT, record

_SEEDS = 5  # 4 kills of a training, 3 of an alignment and 3 of a build by each
LEAST = 50


class Counted:
    """A plugin that counts what passes: cases of each kind of hostile test, kills in each place."""

    def __init__(self) -> None:
        """Nothing is counted yet."""
        self.kinds: dict[str, str] = {}
        self.passed: Counter[str] = Counter()
        self.skipped: Counter[str] = Counter()
        self.kills: Counter[str] = Counter()

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Note the kind of each test."""
        for item in items:
            if (marker := item.get_closest_marker("hostile")) is not None:
                self.kinds[item.nodeid] = marker.args[0]

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Count a test that has passed."""
        kind = self.kinds.get(report.nodeid, "")
        if report.skipped:
            self.skipped[kind] += 1
        if report.when == "call" and report.passed:
            self.passed[kind] += 1
            self.kills.update(str(place) for name, place in report.user_properties if name == "killed")


def main() -> None:
    """Run the tests, print the counts, keep them where asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("killed", "hostile"))
    parser.add_argument("--record", action="store_true")
    args = parser.parse_args()
    if args.what == "killed":
        os.environ.setdefault("LOGINMEA_KILL_SEEDS", str(_SEEDS))
    counted, started = Counted(), time.monotonic()
    status = pytest.main(["-q", "-m", args.what, str(ROOT / "tests")], plugins=[counted])
    if status:
        raise SystemExit(int(status))
    seconds = round(time.monotonic() - started)
    rows = summary(args.what, counted)
    for row in rows:
        print(
            f"{row['kind']:24} {row['count']:6,}"
            + (f"  ({row['skipped']} skipped)" if row["skipped"] else "")
        )
    total = sum(row["count"] for row in rows)
    print(f"{total:,} {'kills' if args.what == 'killed' else 'cases'} in {seconds:,} s")
    if args.what == "killed" and total < LEAST:
        raise SystemExit(f"fewer than {LEAST} kills: raise LOGINMEA_KILL_SEEDS")
    if args.record:
        record(f"reliability-{args.what}", rows, note="counted by tests that passed", seconds=seconds)


def summary(what: str, counted: Counted) -> list[dict[str, Any]]:
    """A row a kind."""
    found = counted.kills if what == "killed" else counted.passed
    return [
        {"kind": kind, "count": count, "skipped": counted.skipped[kind]}
        for kind, count in sorted((dict.fromkeys(counted.skipped, 0) | dict(found)).items())
        if kind
    ]


if __name__ == "__main__":
    main()
