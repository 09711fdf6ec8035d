"""Writes the record of planted faults, tests/emulation/faults.json, into docs/gpu.md."""

from __future__ import annotations

import json
from pathlib import Path

from markers import render_into, table

ROOT = Path(__file__).resolve().parents[1]
RECORD = ROOT / "tests" / "emulation" / "faults.json"


def fault_table() -> str:
    """Markdown: a row a fault and how it showed, by the orders of threads that were tried."""
    record = json.loads(RECORD.read_text())
    rows, seeds = record["rows"], len(record["seeds"])
    missed = sum("passed" in row["seen"] for row in rows)
    return table(
        f"{len(rows) - missed} of {len(rows)} faults were seen with each of {seeds} orders of threads.",
        "kernel | fault | seen as",
        ((f"`{row['kernel']}`", row["fault"], ", ".join(dict.fromkeys(row["seen"]))) for row in rows),
    )


if __name__ == "__main__":
    changed = render_into(ROOT / "docs" / "gpu.md", "faults", fault_table())
    print(f"docs/gpu.md {'written' if changed else 'is up to date'}")
