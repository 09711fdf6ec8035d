"""Train on the field's data sets and keep what the test links say, once, at the end.

python -m bench.accuracy                              # every task, presets fast and default, seeds 0 to 4
python -m bench.accuracy "zh_en" "fr_en" --presets best --seeds 0 1 2
python -m bench.accuracy --smoke                      # two runs that must reach their line
python -m bench.accuracy --record                     # what has been measured, into bench/results

A run that has been measured is not measured again, so that a stopped command goes on; --again does all anew. No setting
is chosen here: a preset is what it is for every task, and what a run chooses it chooses by its validation links.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench._record import ROOT, machine, record
from bench.accuracy.tasks import DATA, SMOKE, TASKS

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
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "bench-accuracy")
    parser.add_argument("--again", action="store_true")
    parser.add_argument("--smoke", action="store_true")
    parser.add_argument("--record", action="store_true", help="write down what is there; measure nothing")
    args = parser.parse_args()
    if args.smoke:
        return _smoke(args.work)
    if not args.record:
        for seed in args.seeds:
            for preset in args.presets:
                for name in args.tasks or TASKS:
                    print(line(measure(name, preset, seed, args.work, args.again)), flush=True)
        return 0
    rows = [json.loads(path.read_text()) for path in sorted(args.work.glob("*.json"))]
    record("accuracy", [{**row, "key": _key(row)} for row in rows], note=_NOTE, merge="key")
    return 0


def measure(name: str, preset: str, seed: int, work: Path, again: bool = False) -> dict[str, Any]:
    """The figures of one training, from its file where it is there."""
    task = TASKS[name]
    row: dict[str, Any] = {"task": name, "preset": preset, "seed": seed}
    kept = work / f"{_key(row).replace(' ', '-').replace('%', 'percent')}.json"
    if kept.is_file() and not again:
        return json.loads(kept.read_text())
    work.mkdir(parents=True, exist_ok=True)
    run = work / "runs" / kept.stem
    if (run / "last.safetensors").is_file() and not again:
        what = ["--resume", str(run)]
    else:
        _remove(run)
        ratio = [] if task.seed_ratio is None else ["--seed-ratio", str(task.seed_ratio)]
        what = [str(DATA / task.directory), "--modalities", ",".join(task.modalities), *ratio]
        what += [
            "--preset",
            preset,
            "--seed",
            str(seed),
            "--decoder",
            "sinkhorn",
            "--candidates",
            task.candidates,
        ]
        what += ["--out", str(run)]
    command = [sys.executable, "-m", "loginmea_fast", "train", *what, "--quiet", "--json"]
    started = time.perf_counter()
    answer = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    metrics = answer["metrics"]
    row |= {
        "modalities": task.modalities,
        "seed_ratio": task.seed_ratio,
        "candidates": task.candidates,
        "pairs": metrics["pairs"],
        "seconds": round(time.perf_counter() - started, 1),
        "peak_memory": answer["peak_memory"],
        "cosine": _scores(metrics["cosine"]),
        "csls": _scores(metrics["csls"]),
        "sinkhorn": _scores(metrics["decoders"]["sinkhorn"]),
        "date": machine()["date"],
        "commit": machine()["commit"],
    }
    kept.write_text(json.dumps(row, indent=1) + "\n")
    _remove(run)
    return row


def line(row: Mapping[str, Any]) -> str:
    """One row, as a person reads it."""
    scores = ", ".join(
        f"{name} {row[name]['left_to_right']['hits@1']:.3f}" for name in ("cosine", "csls", "sinkhorn")
    )
    return f"{row['task']}, {row['preset']}, seed {row['seed']}: Hits@1 {scores}; {row['seconds']:.0f} s"


def _smoke(work: Path) -> int:
    missed = 0
    for (name, preset), least in SMOKE.items():
        row = measure(name, preset, 0, work / "smoke", again=True)
        reached = row["csls"]["left_to_right"]["hits@1"] >= least
        print(f"{line(row)}; CSLS must reach {least}: {'reached' if reached else 'MISSED'}", flush=True)
        missed += not reached
    return int(missed > 0)


def _scores(metrics: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    wanted = ("hits@1", "hits@10", "mrr")
    return {
        way: {key: round(metrics[way][key], 5) for key in wanted}
        for way in ("left_to_right", "right_to_left")
    }


def _key(row: Mapping[str, Any]) -> str:
    return f"{row['task']} {row['preset']} {row['seed']}"


def _remove(run: Path) -> None:
    for path in sorted(run.glob("*")):
        path.unlink()
    if run.is_dir():
        run.rmdir()


if __name__ == "__main__":
    raise SystemExit(main())
