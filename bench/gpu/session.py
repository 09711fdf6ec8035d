"""One run: its tasks in processes of their own, each with a time limit, and all that they found."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench._sources import digest_of_sources
from bench.gpu import table
from bench.gpu.tasks import STAGES, TASKS, Stage, Task

__all__ = ["COMMAND", "ROOT", "Session"]

ROOT = Path(__file__).resolve().parents[2]
COMMAND = [sys.executable, str(ROOT / "bench" / "gpu")]
SHORTEST = 15  # seconds that a task must have left to be worth starting


@dataclass
class Session:
    """One run of this command.

    Attributes:
        scale: "full", "quick" or "rehearse".
        budget: seconds.
        out: where files go besides bench/results.
        wanted: stages and tasks asked for; all if empty.
    """

    scale: str
    budget: float
    out: Path
    wanted: Sequence[str] = ()
    started: float = field(default_factory=time.monotonic)
    rows: list[dict[str, Any]] = field(default_factory=list)
    tasks: list[dict[str, Any]] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=lambda: dict(os.environ))
    processes: set[subprocess.Popen[bytes]] = field(default_factory=set)
    writing: threading.Lock = field(default_factory=threading.Lock)

    @property
    def rehearsal(self) -> bool:
        """On the CPU, showing nothing about a GPU."""
        return self.scale == "rehearse"

    def left(self) -> float:
        """Seconds of the budget."""
        return self.budget - (time.monotonic() - self.started)

    def chosen(self, stage: Stage) -> list[Task]:
        """The stage's tasks that were asked for; whatever was, the first stage says what card there is."""
        return [
            task
            for task in TASKS.values()
            if task.stage == stage.name
            and not task.hidden
            and (
                not self.wanted or stage is STAGES[0] or task.name in self.wanted or stage.name in self.wanted
            )
        ]

    def run(self) -> None:
        """Run all stages in order."""
        self.out.mkdir(parents=True, exist_ok=True)
        (self.out / "gpu.log").unlink(missing_ok=True)
        early, *rest = STAGES
        self._stage(early)
        if self.rehearsal:
            self._rehearse(rest)
            return
        if not any(row.get("capability") for row in self.rows):
            self._skip([task for stage in rest for task in self.chosen(stage)])
            return
        with (
            tempfile.TemporaryDirectory() as scratch,
            ThreadPoolExecutor(sum(stage.background for stage in STAGES)) as aside,
        ):
            self.environment["LOGINMEA_BENCH_SCRATCH"] = scratch  # for what one task makes and another reads
            waiting = {stage.name: aside.submit(self._stage, stage) for stage in rest if stage.background}
            for stage in rest:
                if stage.background:
                    self._wait(stage, waiting[stage.name])
                else:
                    self._stage(stage)

    def _rehearse(self, stages: Sequence[Stage]) -> None:
        """All that needs no GPU, in one process: importing torch takes longer than most tasks."""
        tasks = [task for stage in stages for task in self.chosen(stage)]
        self._skip([task for task in tasks if task.needs_cuda])
        if possible := [task for task in tasks if not task.needs_cuda]:
            self._run(possible)

    def _skip(self, tasks: Sequence[Task]) -> None:
        reason = "no CUDA device"
        self.tasks += [{"task": task.name, "status": "not run", "reason": reason} for task in tasks]

    def _wait(self, stage: Stage, running: Future[None]) -> None:
        if not running.done():
            self._say(f"waiting for {stage.name}")
        running.result()

    def _stage(self, stage: Stage) -> None:
        with ThreadPoolExecutor(stage.jobs) as pool:
            list(pool.map(lambda task: self._run([task]), self.chosen(stage)))

    def command(self, names: list[str], rows: Path) -> list[str]:
        """What a child process runs."""
        return [*COMMAND, "--rows", str(rows), "--scale", self.scale, "--task", *names]

    def _run(self, tasks: list[Task]) -> None:
        """Run tasks in one child process, each of whose rows is on disk as soon as it is known."""
        names = [task.name for task in tasks]
        limit = min(sum(task.limit for task in tasks), self.left())
        if limit < SHORTEST:
            self.tasks += [
                {"task": name, "status": "not run", "reason": "the budget is spent"} for name in names
            ]
            return
        started = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            rows, log = Path(folder) / "rows.jsonl", Path(folder) / "log"
            with open(log, "wb") as out:
                process = subprocess.Popen(
                    self.command(names, rows),
                    stdout=out,
                    stderr=subprocess.STDOUT,
                    env=self.environment,
                    start_new_session=True,
                )
                self.processes.add(process)
                try:
                    code: int | None = process.wait(limit)
                except subprocess.TimeoutExpired:
                    code = None
                finally:
                    _kill(process)
                    self.processes.discard(process)
            found = rows_of(rows)
            tail = log.read_bytes()[-20_000:].decode(errors="replace")
        seconds = round(time.monotonic() - started, 1)
        finished = {row["task"] for row in found if row.get("finished")}
        self.rows += [row for row in found if not row.get("finished")]
        last = next((line for line in reversed(tail.splitlines()) if line.strip()), "")[:300]
        for name in names:
            entry = {"task": name, "status": "ok", "seconds": seconds}
            if name not in finished:
                reason = f"cut off after {limit:.0f} s" if code is None else f"exit code {code}: {last}"
                entry |= {"status": "timed out" if code is None else "failed", "reason": reason}
            self.tasks.append(entry)
            wrong = sum(
                row.get("status", "ok") not in ("ok", "refused", "not run")
                for row in found
                if row["task"] == name
            )
            self._say(
                f"{name}: {entry['status']}, {seconds} s"
                + (f", {wrong} rows are not ok" if wrong else "")
                + (f" ({entry['reason']})" if "reason" in entry else "")
            )
        with open(self.out / "gpu.log", "a") as out:
            out.write(f"===== {', '.join(names)}\n{tail}\n")
        self._learn(found)
        self.flush()

    def _learn(self, found: list[dict[str, Any]]) -> None:
        """Compile for the card that is there, once it is known; a quarter of the time of compiling for all."""
        capability = next((row["capability"] for row in found if "capability" in row), None)
        if capability:
            self.environment.setdefault("LOGINMEA_CUDA_ARCHS", capability)

    def sound(self) -> bool:
        """Whether there was a card, or a rehearsal, and nothing failed or came out wrong."""
        states = {entry.get("status") for entry in [*self.tasks, *self.rows]}
        there = self.rehearsal or any(row.get("capability") for row in self.rows)
        return there and not states & {"failed", "timed out", "wrong"}

    def _say(self, what: str) -> None:
        print(f"[{time.monotonic() - self.started:5.0f} s] {what}", flush=True)

    def stop(self) -> None:
        """End every child that still runs, and start no other."""
        self.budget = 0.0
        for process in list(self.processes):
            _kill(process)

    def record(self) -> dict[str, Any]:
        """Everything that is known so far."""
        rows = table.with_fractions(list(self.rows))
        return {
            "rehearsal": self.rehearsal,
            "scale": self.scale,
            "stages": list(self.wanted) or "all",
            "seconds": round(time.monotonic() - self.started, 1),
            "sources": digest_of_sources(),
            "goals": table.goals(rows, self.rehearsal),
            "tasks": list(self.tasks),
            "rows": rows,
        }

    def flush(self) -> None:
        """Write what is known, whole or not at all."""
        with self.writing:
            partial = self.out / "gpu.json.partial"
            partial.write_text(json.dumps(self.record(), indent=1) + "\n")
            partial.replace(self.out / "gpu.json")


def rows_of(path: Path) -> list[dict[str, Any]]:
    """The rows that a child has written; a line that was cut short is left out."""
    found = []
    for line in path.read_text().splitlines() if path.is_file() else []:
        with contextlib.suppress(json.JSONDecodeError):
            found.append(json.loads(line))
    return found


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End a child and what it has started."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
