"""Draws docs/images/reliability.svg and bootstrapping.svg from the records of bench.align and bench/bootstrapping.py.

They are drawn as `evaluate --plot` draws; matplotlib comes with the extras `bench` and `plot`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from markers import read_records
from render_results import ROOT

from loginmea_fast.report.figures import lines, reliability
from loginmea_fast.report.plot import draw


def reliability_figures(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A diagram for every alignment of which it is recorded."""
    figures = []
    for row in sorted(record["rows"], key=lambda row: row["key"]):
        if "reliability" in row:
            figure = reliability(row["reliability"], row["calibration_error"], "links to be found")
            figures.append({**figure, "title": row["key"]})
    return figures


def bootstrapping_figures(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Links by epoch, a figure a case."""
    return [
        lines(f"Links: {row['case']}", "", "epoch", "links", {"links": row["links"]})
        for row in record["rows"]
    ]


PICTURES = {
    "reliability": ("align", reliability_figures),
    "bootstrapping": ("bootstrapping", bootstrapping_figures),
}


def draw_all(results: Path, images: Path) -> list[Path]:
    """Every picture that something is recorded for, of the last machine that has measured it."""
    files = []
    for name, (benchmark, figures) in PICTURES.items():
        for record in read_records(results, benchmark):
            if found := figures(record):
                files.append(draw(found, images / f"{name}.svg"))
    return files


if __name__ == "__main__":
    for file in draw_all(ROOT / "bench" / "results", ROOT / "docs" / "images"):
        print(file.relative_to(ROOT), "written")
