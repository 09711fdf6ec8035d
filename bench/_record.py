"""One way to keep what a benchmark measured: a JSON file a benchmark and machine, under bench/results/<machine>/.

scripts/render_results.py makes the README's table of these files.
"""

from __future__ import annotations

import datetime
import json
import os
import platform
import re
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "bench" / "results"


def machine_slug() -> str:
    """Name of this machine's folder: the GPU's name, or processor, cores and widest vectors."""
    if torch.cuda.is_available():
        name = torch.cuda.get_device_name().removeprefix("NVIDIA ")
    else:
        name = f"{cpu_name()} {os.cpu_count()} cores {torch.backends.cpu.get_cpu_capability()}"
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def cpu_name() -> str:
    """Processor name as the kernel tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")),
        platform.machine(),
    )


def commit() -> str:
    """Short commit of the sources, with + where files differ from it."""
    try:
        head = subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True
        )
        # Records themselves change no figure.
        status = ["git", "status", "--porcelain", "-uno", "--", ".", ":!bench/results"]
        dirty = subprocess.run(status, cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return head.stdout.strip() + ("+" if dirty.stdout.strip() else "")


def machine() -> dict[str, Any]:
    """What a figure depends on."""
    return {
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else cpu_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "commit": commit(),
        "date": datetime.date.today().isoformat(),
    }


def record(
    name: str,
    rows: Sequence[Mapping[str, Any]],
    *,
    note: str = "",
    merge: str | None = None,
    once: bool = False,
    **more: Any,
) -> Path:
    """Write what was measured, replacing an older record of the same name on this machine.

    Args:
        name: of the benchmark, the stem of its operator where it has one; further parts after a dash.
        rows: one mapping a line of the printed table: provider, case, seconds, ratios, errors, bytes; JSON values.
        note: what a reader of the figures must know.
        merge: key of the rows by which a long benchmark is measured piece by piece: older rows stay whose value is none
            of the new ones, and every row says on what commit and day it was measured, these unless it has its own.
        once: of a row that several machines have measured the newest stays, by its `date` and `time`, for figures that
            are the same on each.
        more: JSON-ready facts shared by all rows, for example the measured ceilings.

    Returns:
        The file written.
    """
    path = RESULTS / machine_slug() / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    host = machine()
    kept = [dict(row) for row in rows]
    others = {}
    if merge is not None:
        kept = [{"commit": host["commit"], "date": host["date"], **row} for row in kept]
        older = json.loads(path.read_text())["rows"] if path.is_file() else []
        if once:
            others = {
                other: json.loads(other.read_text())
                for other in RESULTS.glob(f"*/{name}.json")
                if other != path
            }
            newer = {row[merge]: _when(row) for content in others.values() for row in content["rows"]}
            kept = [row for row in kept if newer.get(row[merge], ("", "")) <= _when(row)]
        new = {row[merge] for row in kept}
        kept = [row for row in older if row[merge] not in new] + kept
    _write(path, {"name": name, "machine": host, "note": note, **more, "rows": kept})
    for other, content in others.items():
        left = [row for row in content["rows"] if row[merge] not in new]
        if len(left) < len(content["rows"]):
            _write(other, {**content, "rows": left})
    return path


def _when(row: Mapping[str, Any]) -> tuple[str, str]:
    return row["date"], row.get("time", "")


def _write(path: Path, content: Mapping[str, Any]) -> None:
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n")
    temporary.replace(path)
