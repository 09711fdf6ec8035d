"""Draws docs/images/accuracy-*.svg from the records of bench.accuracy; matplotlib comes with the extra `bench`."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib
from render_accuracy import ROOT, Machines, Rows, read_rows

from bench.accuracy.published import PUBLISHED
from bench.accuracy.studies import STUDIES, Study

matplotlib.use("svg")
# The same file again from the same record; text stays text.
matplotlib.rcParams |= {"svg.hashsalt": "accuracy", "svg.fonttype": "none", "font.size": 9}

from matplotlib import pyplot  # noqa: E402

_PRESETS = ("fast", "default", "best")
_COLORS = {"csls": "#3366aa", "sinkhorn": "#cc7733"}


def hits(row: Mapping[str, Any], decoder: str) -> float:
    """Hits@1, left to right."""
    found: float = row[decoder]["left_to_right"]["hits@1"]
    return found


def against_seconds(rows: Rows, task: str, axes: Any) -> None:
    """Hits@1 of each preset against its CPU seconds, and what others have published as lines."""
    by_preset = {
        preset: [
            row
            for row in rows
            if (row["task"], row["preset"]) == (task, preset)
            and not row["changes"]
            and not row["removed"]
            and row["cpu_seconds"] is not None
        ]
        for preset in _PRESETS
    }
    by_preset = {preset: same for preset, same in by_preset.items() if same}
    machines = Machines(row for same in by_preset.values() for row in same)
    seconds = [statistics.median(row["cpu_seconds"] for row in same) for same in by_preset.values()]
    for decoder, color in _COLORS.items():
        heights = [statistics.fmean(hits(row, decoder) for row in same) for same in by_preset.values()]
        axes.plot(seconds, heights, "o-", color=color, label=f"ours, {decoder}")
        for (preset, same), place in zip(by_preset.items(), zip(seconds, heights, strict=True), strict=True):
            if decoder == "csls":
                name = "".join([preset, *(f" ({on})" for on in machines.of(same))])
                axes.annotate(name, place, (4, -11), textcoords="offset points")
    for found in PUBLISHED[task]:
        axes.axhline(found.hits, color="#777777", linewidth=0.8, linestyle=":")
        axes.annotate(
            f"{found.name} {found.hits:.3f} ({found.sees})",
            (0.01, found.hits),
            xycoords=("axes fraction", "data"),
            va="bottom",
            fontsize=7,
            color="#555555",
        )
    told = "".join(f"\n{letter}: {name}" for name, letter in machines.letters.items())
    axes.set(title=task, xlabel=f"CPU seconds, of two cores together{told}", ylabel="Hits@1", xscale="log")
    axes.margins(x=0.3, y=0.12)
    for ticks in (axes.xaxis.set_major_formatter, axes.xaxis.set_minor_formatter):
        ticks("{x:.0f}")
    axes.legend(loc="lower right", fontsize=7)


def curve(rows: Rows, study: Study, axes: Any) -> None:
    """Hits@1 along the study's axis, a line a task and decoder."""
    measured = {row["key"]: row for row in rows}
    for task, style in zip(study.rows, ("-", "--"), strict=False):
        for decoder, color in _COLORS.items():
            points = [
                (row.at, hits(measured[case.key], decoder))
                for row, case in study.cases()
                if case.task == task and case.key in measured
            ]
            places, heights = [point[0] for point in points], [point[1] for point in points]
            axes.plot(places, heights, style, marker="o", color=color, label=f"{task}, {decoder}")
    axes.set(title=study.title, xlabel=study.axis, ylabel="Hits@1", ylim=(0, 1))
    axes.legend(loc="lower right", fontsize=7)


def growth(rows: Rows, task: str, axes: Any) -> None:
    """Links that each round of the default learns from, and validation at its end, a line a seed."""
    beside = axes.twinx()
    for row in rows:
        if (row["task"], row["preset"]) != (task, "default") or row["changes"] or not row.get("rounds"):
            continue
        numbers = range(1, len(row["rounds"]) + 1)
        axes.plot(numbers, [found["links"] for found in row["rounds"]], "o--", color="#777777")
        beside.plot(numbers, [found["hits@1"] for found in row["rounds"]], "o-", color=_COLORS["csls"])
        axes.set_xticks(numbers)
    axes.set(title=task, xlabel="round", ylabel="links, known and proposed (dashed)")
    beside.set(ylabel="validation Hits@1")


def draw(images: Path, rows: Rows) -> list[Path]:
    """The pictures of what has been measured."""
    files = []
    curves = [study for study in STUDIES.values() if study.axis]
    for name, panels in (
        ("seconds", [(against_seconds, task) for task in PUBLISHED]),
        ("curves", [(curve, study) for study in curves]),
        ("growth", [(growth, task) for task in PUBLISHED]),
    ):
        figure, all_axes = pyplot.subplots(1, len(panels), figsize=(5 * len(panels), 4), layout="constrained")
        for (plot, what), axes in zip(panels, all_axes, strict=True):
            plot(rows, what, axes)
            axes.grid(alpha=0.25)
        files.append(images / f"accuracy-{name}.svg")
        figure.savefig(files[-1], metadata={"Date": None})
        pyplot.close(figure)
    return files


if __name__ == "__main__":
    for file in draw(ROOT / "docs" / "images", read_rows(ROOT / "bench" / "results")[1]):
        print(file.relative_to(ROOT), "written")
