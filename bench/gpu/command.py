"""The command line, the processes that it starts, and the record at the end."""

from __future__ import annotations

import argparse
import importlib
import os
import shutil
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from bench.gpu import table
from bench.gpu.session import ROOT, Session
from bench.gpu.tasks import STAGES, TASKS

__all__ = ["main", "parse"]

BUDGET = 540  # seconds


def run_tasks(names: Sequence[str], scale: str, rows: Path) -> int:
    """What a child process does; a rehearsal gives it several tasks, to import torch once."""
    if scale == "rehearse":
        os.environ.setdefault("TRITON_INTERPRET", "1")
    from bench.gpu.run import DeviceLost, Run

    if os.environ.get("TRITON_INTERPRET") == "1":
        from tests.helpers import triton_interpreter

        triton_interpreter.repair()
    for name in names:
        task = TASKS[name]
        module, _, function = task.call.partition(":")
        with open(rows, "a") as out:
            run = Run(name, scale, out)
            try:
                getattr(importlib.import_module(f"bench.gpu.{module}"), function)(run, *task.arguments)
            except DeviceLost as lost:
                run.write(status="failed", reason=f"the device was lost {lost}"[:600])
                return 3
            run.write(finished=True)
    return 0


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python bench/gpu",
        description="Everything that only a GPU can show: build, check, measure, keep.",
    )
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
    if options.pack:
        from bench.gpu.graphs import pack_all

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
    session.flush()
    result = session.record()
    printed = table.render(result)
    (session.out / "gpu.txt").write_text(printed + "\n")
    if any("capability" in row for row in session.rows) and not session.rehearsal:
        from bench._record import record

        name = "-".join(["gpu", *(stage.replace("/", "-").replace(" ", "-") for stage in session.wanted)])
        rows = result.pop("rows")
        kept = record(name, rows, note="bench/gpu; docs/gpu.md says what each field is", **result)
        shutil.copy(kept, session.out / "record.json")
        print(f"record: {kept.relative_to(ROOT)}")
    print(printed)
