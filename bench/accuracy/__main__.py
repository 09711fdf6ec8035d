"""Train on the field's data sets and keep what the test links say, once, at the end.

python -m bench.accuracy                              # the table of the README
python -m bench.accuracy zh_en fr_en --presets best --seeds 0 1 2
python -m bench.accuracy --studies ingredients seeds  # tables and curves of docs/accuracy.md; without a name, all
python -m bench.accuracy --smoke                      # two runs that must reach their line
python -m bench.accuracy --record                     # what has been measured, into bench/results

A run that has been measured is not measured again, so that a stopped command goes on; --again does all anew. A preset
is what it is for every task, and what a run chooses it chooses by its validation links; the study `choices`, which is
what presets are made by, shows those alone.
Data sets lie below LOGINMEA_DATA, or ../shared/data beside the checkout. After --record, scripts/render_accuracy.py
writes the tables.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Iterator
from pathlib import Path

from bench._record import ROOT, record
from bench.accuracy.case import Case, describe, measure
from bench.accuracy.studies import STUDIES
from bench.accuracy.tasks import DATA, PLAN, SMOKE, TASKS
from loginmea_fast.training.presets import PRESETS

_NOTE = (
    "test links left to right, no images; a seed draws the split and the training; Sinkhorn assumes that every "
    "candidate has one partner"
)


def main() -> int:
    """Measure, print, record; 1 where a smoke run misses its line."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.accuracy",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("tasks", nargs="*", metavar="TASK", help=f"of {', '.join(TASKS)}".replace("%", "%%"))
    presets = [preset for preset in PRESETS if preset != "authors"]  # which choose their epoch by test links
    parser.add_argument("--presets", nargs="+", choices=presets, help="of the tasks")
    parser.add_argument(
        "--seeds", nargs="+", type=int, help="of the tasks, as many as the table has by default"
    )
    parser.add_argument("--studies", nargs="*", choices=list(STUDIES), help="in place of the tasks")
    work = ROOT / "build" / "bench-accuracy"
    parser.add_argument(
        "--work", type=Path, default=work, help=f"where runs are kept; {work.relative_to(ROOT)}"
    )
    parser.add_argument("--again", action="store_true", help="measure what has been measured")
    parser.add_argument("--smoke", action="store_true", help="two runs that must reach their line")
    parser.add_argument("--record", action="store_true", help="write down what is there; measure nothing")
    args = parser.parse_args()
    if unknown := [task for task in args.tasks if task not in TASKS]:
        parser.error(f"there is no task {unknown[0]!r}, but {', '.join(map(repr, TASKS))}")
    if not args.record and not DATA.is_dir():
        parser.error(f"there are no data sets at {DATA}; set LOGINMEA_DATA to where they are")
    if args.smoke:
        return _smoke(args.work)
    if args.record:
        rows = [json.loads(path.read_text()) for path in sorted(args.work.glob("*.json"))]
        if not rows:
            parser.error(f"nothing has been measured below {args.work}: there is nothing to record")
        record("accuracy", rows, note=_NOTE, merge="key", once=True)
        return 0
    for case in _asked(args):
        print(describe(measure(case, args.work, args.again)), flush=True)
    return 0


def _asked(args: argparse.Namespace) -> Iterator[Case]:
    if args.studies is not None:
        for name in args.studies or STUDIES:
            yield from (case for _, case in STUDIES[name].cases())
        return
    chosen = PLAN if args.presets is None else itertools.product(args.tasks or TASKS, args.presets)
    for task, preset in chosen:
        if not args.tasks or task in args.tasks:
            for seed in args.seeds or range(PLAN.get((task, preset), 1)):
                yield Case(task, preset, seed)


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
