"""One training and what the test links say at its end, kept in a file so that it is not measured twice."""

from __future__ import annotations

import datetime
import json
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench._record import machine
from bench._sources import digest_of_sources
from bench.accuracy.tasks import DATA, TASKS
from bench.accuracy.thinning import without_attributes

__all__ = ["Case", "describe", "measure"]


@dataclass(frozen=True)
class Case:
    """What is trained.

    Attributes:
        task: of `TASKS`.
        preset: of the configuration.
        seed: of the split and of the training.
        changes: `key=value` beside the preset and the task.
        removed: share of the entities whose attributes and values are taken away.
    """

    task: str
    preset: str
    seed: int = 0
    changes: tuple[str, ...] = ()
    removed: float = 0.0

    @property
    def key(self) -> str:
        """What tells it from every other case."""
        removed = [f"removed={self.removed}"] if self.removed else []
        return " ".join([self.task, self.preset, str(self.seed), *self.changes, *removed])


def measure(case: Case, work: Path, again: bool = False) -> dict[str, Any]:
    """The figures of one training, kept in a file; a training that was stopped goes on, and says no seconds.

    What was kept of other sources is measured again: figures of two versions are not to be compared.
    """
    task = TASKS[case.task]
    stem = "".join(letter if letter.isalnum() or letter in ".=-_" else "-" for letter in case.key)
    sources = digest_of_sources()
    kept, run = work / f"{stem}.json", work / "runs" / sources / stem
    if kept.is_file() and not again:
        row: dict[str, Any] = json.loads(kept.read_text())
        if row.get("sources") == sources:
            return row
    work.mkdir(parents=True, exist_ok=True)
    resumed = (run / "last.safetensors").is_file() and not again
    if resumed:
        what = ["--resume", str(run)]
    else:
        shutil.rmtree(run, ignore_errors=True)
        directory = DATA / task.directory
        if case.removed:
            directory = without_attributes(directory, case.removed, work / "data")
        values = {
            "modalities": ",".join(task.modalities),
            "preset": case.preset,
            "seed": case.seed,
            "decoder": "sinkhorn",
            "candidates": task.candidates,
        }
        if task.seed_ratio is not None:
            values["seed_ratio"] = task.seed_ratio
        values |= dict(change.split("=", 1) for change in case.changes)
        settings = [part for key, value in values.items() for part in ("--set", f"{key}={value}")]
        what = [str(directory), *settings, "--out", str(run)]
    command = [sys.executable, "-m", "loginmea_fast", "train", *what, "--quiet", "--json"]
    started, before = time.perf_counter(), _children()
    # What the training says goes to where this command's own words go.
    answer = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
    seconds, busy = time.perf_counter() - started, _children() - before
    metrics, here = answer["metrics"], machine()
    row = {
        "key": case.key,
        "task": case.task,
        "preset": case.preset,
        "seed": case.seed,
        "changes": case.changes,
        "removed": case.removed,
        "modalities": task.modalities,
        "seed_ratio": task.seed_ratio,
        "candidates": task.candidates,
        "pairs": metrics["pairs"],
        # Those before the stop are not known.
        "seconds": None if resumed else round(seconds, 1),
        "cpu_seconds": None if resumed else round(busy, 1),
        "peak_memory": answer["peak_memory"],
        "best_epoch": answer["best_epoch"],
        "rounds": _rounds(run / "metrics.jsonl"),
        "validation": {
            name: round(value, 5) for name, value in answer["validation"].items() if name in ("hits@1", "mrr")
        },
        "cosine": _scores(metrics["cosine"]),
        "csls": _scores(metrics["csls"]),
        "sinkhorn": _scores(metrics["decoders"]["sinkhorn"]),
        "date": here["date"],
        "time": f"{datetime.datetime.now():%H:%M}",
        "commit": here["commit"],
        "sources": sources,
    }
    if len(row["rounds"]) > 1:  # links joined, and stand beside the model
        apart = [sys.executable, "-m", "loginmea_fast", "evaluate", str(run), "--no-late-pairs", "--json"]
        said = subprocess.run(apart, check=True, stdout=subprocess.PIPE, text=True).stdout
        row["csls_without_joined"] = _scores(json.loads(said)["csls"])
    kept.write_text(json.dumps(row, indent=1) + "\n")
    shutil.rmtree(run)
    return row


def _rounds(file: Path) -> list[dict[str, float]]:
    """Of each round of a run the links that it learned from, and what validation said at its end."""
    found, links = [], 0
    for record in map(json.loads, file.read_text(encoding="utf-8").splitlines()):
        if record["event"] == "epoch":
            links = record["links"]
        elif record["event"] == "validation":
            found.append(
                {"links": links, "hits@1": round(record["hits@1"], 5), "mrr": round(record["mrr"], 5)}
            )
    return found


def _children() -> float:
    """CPU seconds of the processes that have ended: they say what a run costs beside other work, too."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def describe(row: Mapping[str, Any]) -> str:
    """One row, as a person reads it; of a run that holds out more than usual, and so is to choose by, no test link."""
    if any(change.startswith("valid_ratio=") for change in row["changes"]) and row["validation"]:
        scores = f"of validation links {row['validation']['hits@1']:.3f}"
    else:
        scores = ", ".join(
            f"{name} {row[name]['left_to_right']['hits@1']:.3f}" for name in ("cosine", "csls", "sinkhorn")
        )
    resumed = row["seconds"] is None
    spent = "resumed" if resumed else f"{row['seconds']:.0f} s, {row['cpu_seconds']:.0f} CPU s"
    return f"{row['key']}: Hits@1 {scores}; {spent}"


def _scores(metrics: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    wanted = ("hits@1", "hits@10", "mrr")
    return {
        way: {key: round(metrics[way][key], 5) for key in wanted}
        for way in ("left_to_right", "right_to_left")
    }
