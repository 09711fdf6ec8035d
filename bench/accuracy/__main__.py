"""Train on the field's data sets and keep what the test links say, once, at the end.

python -m bench.accuracy                              # every task, presets fast and default, seeds 0 to 4
python -m bench.accuracy "zh_en" "fr_en" --presets best --seeds 0 1 2
python -m bench.accuracy --studies ingredients seeds  # tables and curves of docs/accuracy.md; without a name, all
python -m bench.accuracy --smoke                      # two runs that must reach their line
python -m bench.accuracy --record                     # what has been measured, into bench/results

A run that has been measured is not measured again, so that a stopped command goes on; --again does all anew. No setting
is chosen here: a preset is what it is for every task, and what a run chooses it chooses by its validation links.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

from bench._record import ROOT, record
from bench.accuracy.case import Case, describe, measure
from bench.accuracy.studies import STUDIES
from bench.accuracy.tasks import SMOKE, TASKS

_NOTE = (
    "test links left to right, no images; a seed draws the split and the training; Sinkhorn assumes that every "
    "candidate has one partner"
)


def main() -> int:
    """Measure, print, record; 1 where a smoke run misses its line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tasks", nargs="*", choices=[*TASKS, []], default=[])
    parser.add_argument("--presets", nargs="+", default=["fast", "default"])
    parser.add_argument("--seeds", nargs="+", type=int, default=list(range(5)))
    parser.add_argument("--studies", nargs="*", choices=list(STUDIES), help="in place of the tasks")
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "bench-accuracy")
    parser.add_argument("--again", action="store_true")
    parser.add_argument("--smoke", action="store_true")
    parser.add_argument("--record", action="store_true", help="write down what is there; measure nothing")
    args = parser.parse_args()
    if args.smoke:
        return _smoke(args.work)
    if args.record:
        rows = [json.loads(path.read_text()) for path in sorted(args.work.glob("*.json"))]
        record("accuracy", rows, note=_NOTE, merge="key")
        return 0
    for case in _asked(args):
        print(describe(measure(case, args.work, args.again)), flush=True)
    return 0


def _asked(args: argparse.Namespace) -> Iterator[Case]:
    if args.studies is not None:
        for name in args.studies or STUDIES:
            yield from (case for _, case in STUDIES[name].cases())
        return
    for seed in args.seeds:
        for preset in args.presets:
            for name in args.tasks or TASKS:
                yield Case(name, preset, seed)


def _smoke(work: Path) -> int:
    missed = 0
    for (name, preset), least in SMOKE.items():
        row = measure(Case(name, preset), work / "smoke", again=True)
        reached = row["csls"]["left_to_right"]["hits@1"] >= least
        print(f"{describe(row)}; CSLS must reach {least}: {'reached' if reached else 'MISSED'}", flush=True)
        missed += not reached
    return int(missed > 0)


if __name__ == "__main__":
    raise SystemExit(main())
