"""Align the exported data sets by the command line, and keep what the matches are worth.

python -m bench.align                          # every task by propagation, then with the model
python -m bench.align fr_en --methods model    # more flags of `align` behind --
python -m bench.align fr_en --record

A task that has been aligned is not aligned again, so that a stopped run goes on; --again does all anew.
"""

from __future__ import annotations

import argparse
import datetime
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from bench._record import ROOT, commit, record
from bench.align.tasks import TASKS, Task
from loginmea_fast.evaluation.matches import match_metrics
from loginmea_fast.runs.aligning import read_matches


def main() -> None:
    """Export, align, measure, print."""
    own = sys.argv[1:]
    more = own[own.index("--") + 1 :] if "--" in own else []
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tasks", nargs="*", choices=[*TASKS, []], default=[])
    parser.add_argument(
        "--methods", nargs="+", choices=("propagate", "model"), default=["propagate", "model"]
    )
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "bench-align")
    parser.add_argument("--again", action="store_true")
    parser.add_argument("--record", action="store_true")
    args = parser.parse_args(own[: own.index("--")] if "--" in own else own)
    rows = []
    for method in args.methods:
        for name in args.tasks or TASKS:
            rows.append(measure(name, method, args.work, args.again, more))
            print(line(rows[-1]), flush=True)
    if args.record:
        note = "precision and recall at the default threshold, by links of which nothing was learned"
        record("align", rows, note=note, merge="key")


def measure(name: str, method: str, work: Path, again: bool, more: list[str]) -> dict[str, Any]:
    """The figures of a task, from its folder where they are there."""
    task, folder = TASKS[name], work / name
    kept = folder / f"{'-'.join([method, *more])}.json".replace("/", "_")
    out = folder / f"found-{'-'.join([method, *more])}".replace("/", "_")
    if kept.is_file() and not again:
        return {**json.loads(kept.read_text()), **_judged(task, name, method, more, folder, out)}
    if not (folder / "gold.tsv").is_file():
        folder.mkdir(parents=True, exist_ok=True)
        task.export(folder)
    command = [sys.executable, "-m", "loginmea_fast", "align", f"left{task.suffix}", f"right{task.suffix}"]
    command += ["--seeds", "seeds.tsv"] if (folder / "seeds.tsv").is_file() else []
    command += [*task.flags, "--method", method, "--out", out.name, "--overwrite", "--json", *more]
    started = time.perf_counter()
    report = json.loads(_answer(command, folder))
    # A run that was stopped goes on with its trainings, whose time counts.
    seconds = time.perf_counter() - started + report["earlier_seconds"]
    row = {
        "seconds": round(seconds, 1),
        "threshold": report["threshold"],
        "expected_precision": report["expected_precision"],
        "expected_recall": report["expected_recall"],
        "held_out_links": report["held_out_links"],
        "share_with_counterpart": report["share_with_counterpart"],
        "notes": report["notes"],
        "commit": commit(),
        "date": datetime.date.today().isoformat(),
    }
    kept.write_text(json.dumps(row, indent=1) + "\n")
    return {**row, **_judged(task, name, method, more, folder, out)}


def _judged(task: Task, name: str, method: str, more: list[str], folder: Path, out: Path) -> dict[str, Any]:
    """What the matches in `out` are worth."""
    gold = read_matches(folder / "gold.tsv").pairs
    accepted, rejected = (read_matches(out / f"{part}.tsv") for part in ("alignment", "rejected"))
    found = match_metrics(accepted.pairs, gold)
    sure = [*(accepted.confidence or []), *(rejected.confidence or [])]
    every = match_metrics([*accepted.pairs, *rejected.pairs], gold, sure)
    return {
        "key": " ".join([name, method, *more]),
        "task": name,
        "title": task.title,
        "method": method,
        "flags": more,
        "matches": found["matches"],
        "precision": found["precision"],
        "recall": found["recall"],
        "calibration_error": every["calibration"]["error"],  # of all matches, accepted or not
        "reliability": every["calibration"]["bins"],
        "curve": every["curve"],
        **_dangling(folder, out),
    }


def _answer(command: list[str], folder: Path) -> str:
    done = subprocess.run(command, cwd=folder, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}")
    return done.stdout


def _dangling(folder: Path, out: Path) -> dict[str, float]:
    """Precision and recall of the left entities that were judged to have no counterpart, where it is known."""
    if not (folder / "dangling.tsv").is_file():
        return {}
    truth = set((folder / "dangling.tsv").read_text(encoding="utf-8").split("\n")) - {""}
    rows = [line.split("\t") for line in (out / "unmatched.tsv").read_text(encoding="utf-8").splitlines()[1:]]
    judged = {row[0] for row in rows if row[1] == "left"}
    right = len(judged & truth)
    return {
        "dangling": len(truth),
        "dangling_precision": right / max(len(judged), 1),
        "dangling_recall": right / len(truth),
    }


def line(row: dict[str, Any]) -> str:
    """A row for people."""
    text = (
        f"{row['task']:22} {row['method']:10} precision {row['precision']:.3f} recall {row['recall']:.3f} "
        f"ECE {row['calibration_error']:.3f} matches {row['matches']:6,} {row['seconds']:6.0f} s"
    )
    if "dangling" in row:
        text += f"; dangling: precision {row['dangling_precision']:.3f} recall {row['dangling_recall']:.3f}"
    return text


if __name__ == "__main__":
    main()
