"""Everything that only a GPU can show, in one command: build, check, measure, keep.

    python bench/gpu.py --pack          # where the data sets are: their graphs as small integer files in bench/.cache
    python bench/gpu.py                 # where the GPU is: all stages within nine minutes
    python bench/gpu.py --stages floors correctness
    python bench/gpu.py --rehearse      # anywhere: the same code, tiny, on the CPU; shows nothing about a GPU

Needs no network and no installation: torch, triton, pybind11, ninja, cmake, nvcc, and a checkout. Every task is a
process of its own with a time limit, so a kernel that hangs or takes the CUDA context with it costs one task. Results
are written after each task: a run that is cut short keeps what it had. docs/gpu.md tells what the figures mean.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import importlib
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import types
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
OPERATORS = ("relation_reflection_attention", "low_rank_fusion", "contrastive_loss", "alignment_search")
GPU_BACKENDS = {op: ("triton", "cuda") for op in OPERATORS} | {"contrastive_loss": ("triton",)}
BUDGET = 540  # seconds
SHORTEST = 15  # seconds that a task must have left to be worth starting


@dataclass(frozen=True)
class Task:
    """Something that runs in a process of its own.

    Attributes:
        name: "stage/what".
        call: "module:function", in bench/.
        arguments: of the function, after the run.
        limit: seconds.
        needs_cuda: not even rehearsed without a GPU.
        hidden: started by another task, never by a stage.
    """

    name: str
    call: str
    arguments: tuple[str, ...] = ()
    limit: int = 60
    needs_cuda: bool = False
    hidden: bool = False

    @property
    def stage(self) -> str:
        """What comes before the slash."""
        return self.name.partition("/")[0]


@dataclass(frozen=True)
class Stage:
    """Tasks that belong together.

    Attributes:
        name: as --stages takes it.
        jobs: tasks at once; 1 where times are taken.
        background: started with the first stage; its place in the order is where it is waited for.
    """

    name: str
    jobs: int = 1
    background: bool = False


# What would be missed most comes first: a run may be cut at any point.
STAGES = (
    Stage("environment"),
    Stage("floors"),
    Stage("build", background=True),
    Stage("correctness", jobs=4),
    Stage("step"),
    Stage("operators"),
    Stage("sanitizer", jobs=4),
    Stage("prepare", background=True),
    Stage("largest"),
    Stage("choice"),
    Stage("tests", jobs=4),
)


def _tasks() -> Iterator[Task]:
    yield Task("environment/card", "_gpu_floors:environment")
    yield Task("floors/rates", "_gpu_floors:floors")
    yield Task("build/cuda", "_gpu_floors:build", limit=300, needs_cuda=True)
    for op in OPERATORS:
        for backend in GPU_BACKENDS[op]:
            yield Task(
                f"correctness/{op}/{backend}",
                f"_gpu_correctness:{op}",
                (backend,),
                120,
                needs_cuda=backend == "cuda",
            )
    for precision in ("tf32", "bfloat16"):
        yield Task(f"step/ours in {precision}", "_gpu_step:ours", (precision,), 90)
    yield Task("step/authors", "_gpu_step:authors", limit=60)
    yield Task("step/clean", "_gpu_step:clean", limit=120)
    for op in OPERATORS:
        yield Task(f"operators/{op}", f"_gpu_providers:{op}", limit=150)
    for op in (op for op in OPERATORS if "cuda" in GPU_BACKENDS[op]):
        yield Task(f"sanitizer/{op}/kernels", "_gpu_sanitizer:small", (op,), 60, needs_cuda=True)
        for tool in ("memcheck", "racecheck"):
            yield Task(f"sanitizer/{op}/{tool}", "_gpu_sanitizer:check", (op, tool), 120, needs_cuda=True)
        yield Task(f"small/{op}", "_gpu_sanitizer:small", (op,), hidden=True)
    yield Task("prepare/graphs", "_gpu_step:prepare", limit=400, needs_cuda=True)
    yield Task("largest/graphs", "_gpu_step:largest", limit=120)
    yield Task("choice/widths", "_gpu_providers:choice", limit=150)
    for op in OPERATORS:
        yield Task(f"tests/{op}", "_gpu_tests:suite", (op,), 180, needs_cuda=True)


TASKS = {task.name: task for task in _tasks()}


def use_checkout() -> None:
    """Make this checkout importable as it lies, whatever is or is not installed.

    `bench` and `tests` have no `__init__.py`, so that a package of that name in site-packages would win over them;
    `loginmea_fast.kernels` lies beside the package, where an installation would have mapped it.
    """
    sys.path[0] = str(ROOT)
    for name in ("bench", "tests"):
        package = types.ModuleType(name)
        package.__path__ = [str(ROOT / name)]
        sys.modules[name] = package
    import loginmea_fast

    if importlib.util.find_spec("loginmea_fast.kernels") is None:
        loginmea_fast.__path__.append(str(ROOT))


def run_tasks(names: Sequence[str], scale: str, rows: Path) -> int:
    """What a child process does; a rehearsal gives it several tasks, to import torch once."""
    if scale == "rehearse":
        os.environ.setdefault("TRITON_INTERPRET", "1")
    use_checkout()
    from bench._gpu_run import DeviceLost, Run

    if os.environ.get("TRITON_INTERPRET") == "1":
        from tests.helpers import triton_interpreter

        triton_interpreter.repair()
    for name in names:
        task = TASKS[name]
        module, _, function = task.call.partition(":")
        with open(rows, "a") as out:
            run = Run(name, scale, out)
            try:
                getattr(importlib.import_module(f"bench.{module}"), function)(run, *task.arguments)
            except DeviceLost as lost:
                run.write(status="failed", reason=f"the device was lost {lost}"[:600])
                return 3
            run.write(finished=True)
    return 0


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
        """The stage's tasks that were asked for."""
        return [
            task
            for task in TASKS.values()
            if task.stage == stage.name
            and not task.hidden
            and (not self.wanted or task.name in self.wanted or stage.name in self.wanted)
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
        return [sys.executable, __file__, "--rows", str(rows), "--scale", self.scale, "--task", *names]

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
        from bench import _gpu_table

        rows = _gpu_table.with_fractions(list(self.rows))
        return {
            "rehearsal": self.rehearsal,
            "scale": self.scale,
            "stages": list(self.wanted) or "all",
            "seconds": round(time.monotonic() - self.started, 1),
            "sources": digest_of_sources(),
            "goals": _gpu_table.goals(rows, self.rehearsal),
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


def digest_of_sources() -> str:
    """What was measured, where there is no git to ask: SHA-256 over the package's and the kernels' sources."""
    total = hashlib.sha256()
    for folder in ("csrc", "kernels", "loginmea_fast"):
        for path in sorted((ROOT / folder).rglob("*")):
            if path.suffix in (".py", ".cu", ".cuh", ".cpp", ".h", ".txt"):
                total.update(f"{path.relative_to(ROOT)}\n".encode() + path.read_bytes())
    return total.hexdigest()[:16]


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--pack", action="store_true", help="pack the data sets' graphs into bench/.cache, and stop"
    )
    parser.add_argument("--rehearse", action="store_true", help="tiny, on the CPU, with Triton's interpreter")
    parser.add_argument("--quick", action="store_true", help="fewer sizes and widths")
    parser.add_argument(
        "--stages", nargs="+", default=[], metavar="STAGE", help="stages or tasks; --list names them"
    )
    parser.add_argument("--list", action="store_true", help="name stages and tasks, and stop")
    parser.add_argument("--budget", type=float, default=BUDGET, help="seconds for all (default %(default)s)")
    parser.add_argument("--out", type=Path, help="where files go (default $OUT, else bench/.cache/gpu)")
    parser.add_argument("--task", nargs="+", choices=list(TASKS), help=argparse.SUPPRESS)
    parser.add_argument("--rows", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--scale", choices=("full", "quick", "rehearse"), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    known = {stage.name for stage in STAGES} | {task.name for task in TASKS.values() if not task.hidden}
    if unknown := set(options.stages) - known:
        parser.error(f"no stage or task is called {', '.join(sorted(unknown))}; --list names them")
    return options


def main() -> int:
    """Run the stages, print the table, and keep the record."""
    options = parse()
    if options.task:
        return run_tasks(options.task, options.scale, options.rows)
    if options.list:
        for stage in STAGES:
            print(stage.name, *(f"  {t.name}" for t in TASKS.values() if t.stage == stage.name), sep="\n")
        return 0
    use_checkout()
    if options.pack:
        from bench._gpu_graphs import pack_all

        for path in pack_all():
            print(f"{path}: {path.stat().st_size / 1e6:.1f} MB")
        return 0
    scale = "rehearse" if options.rehearse else "quick" if options.quick else "full"
    out = options.out or Path(os.environ.get("OUT") or ROOT / "bench" / ".cache" / "gpu")
    session = Session(scale, options.budget, out, options.stages)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _: _cut_off(session, number))
    try:
        session.run()
    finally:
        finish(session)
    return 0 if session.sound() else 1


def _cut_off(session: Session, number: int) -> None:
    """Stop at once; what is known is printed and kept on the way out."""
    session.stop()
    sys.exit(128 + number)


def finish(session: Session) -> None:
    """Print the table; keep the record with the machine's others if a GPU was there."""
    from bench import _gpu_table

    session.flush()
    result = session.record()
    table = _gpu_table.render(result)
    (session.out / "gpu.txt").write_text(table + "\n")
    if any("capability" in row for row in session.rows) and not session.rehearsal:
        from bench._record import record

        name = "-".join(["gpu", *(stage.replace("/", "-").replace(" ", "-") for stage in session.wanted)])
        rows = result.pop("rows")
        kept = record(name, rows, note="bench/gpu.py; docs/gpu.md says what each field is", **result)
        shutil.copy(kept, session.out / "record.json")
        print(f"record: {kept.relative_to(ROOT)}")
    print(table)


if __name__ == "__main__":
    sys.exit(main())
