"""Draws docs/images/reliability.svg from the record of bench.align.

It is drawn as `evaluate --plot` draws; matplotlib comes with the extras `bench` and `plot`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from markers import read_records
from render_results import ROOT

from loginmea_fast.report.figures import reliability
from loginmea_fast.report.plot import draw


def reliability_figures(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A diagram for every alignment of which it is recorded."""
    figures = []
    for row in sorted(record["rows"], key=lambda row: row["key"]):
        if "reliability" in row:
            figure = reliability(row["reliability"], row["calibration_error"], "links to be found")
            figures.append({**figure, "title": row["key"]})
    return figures


def draw_all(results: Path, images: Path) -> list[Path]:
    """The pictures that something is recorded for, of the last machine that has measured it."""
    found = [reliability_figures(record) for record in read_records(results, "align")]
    return [draw(figures, images / "reliability.svg") for figures in found if figures]


if __name__ == "__main__":
    for file in draw_all(ROOT / "bench" / "results", ROOT / "docs" / "images"):
        print(file.relative_to(ROOT), "written")
