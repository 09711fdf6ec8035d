"""Writes the tables of accuracy in README.md and docs/accuracy.md, from the records of bench.accuracy."""

from __future__ import annotations

import statistics
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from markers import joined, read_records, render_into, table

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from bench.accuracy.studies import STUDIES, Row, Study  # noqa: E402

NOTHING = "Nothing is recorded yet: `make accuracy` measures it."


Rows = Sequence[Mapping[str, Any]]


@joined(NOTHING)
def render_tasks(results: Path) -> Iterator[str]:
    """A line a task and preset, the mean over seeds and their deviation."""
    note, measured = read_rows(results)
    groups = _by_task(measured)
    if not groups:
        return
    machines = Machines(row for _, rows in groups for row in rows)
    lines = []
    for (task, preset), rows in groups:
        what = f"{task}: {', '.join(rows[0]['modalities'])}"
        lines.append([what, f"`{preset}`", len(rows), *_scores(rows), *_seconds(rows), *machines.of(rows)])
    yield table(
        f"{note[:1].upper()}{note[1:]}. {machines}:",
        "data and what is seen | preset | seeds | Hits@1, CSLS | Hits@10 | MRR | Hits@1, Sinkhorn | seconds "
        f"| CPU seconds{machines.column}",
        lines,
    )


@joined(NOTHING)
def render_study(results: Path, study: Study) -> Iterator[str]:
    """A table a task, a line a row of the study, each beside the first one."""
    measured: dict[str, Mapping[str, Any]] = {row["key"]: row for row in read_rows(results)[1]}
    groups: dict[str, dict[Row, dict[int, Mapping[str, Any]]]] = {}
    for row, case in study.cases():
        if case.key in measured:
            groups.setdefault(case.task, {}).setdefault(row, {})[case.seed] = measured[case.key]
    for task, rows in groups.items():
        base = rows.get(study.rows[task][0], {})
        machines = Machines(of_seed for found in rows.values() for of_seed in found.values())
        if study.held_out is None:
            title = f"{task}, preset `{study.preset}`"
            header = (
                "| changed | seeds | Hits@1, CSLS | Hits@10 | MRR | Hits@1, Sinkhorn | CSLS beside the first "
                "| CPU seconds"
            )
            line = _line
        else:
            title = f"{task}, preset `{study.preset}`, {study.held_out:.0%} of the known links held out"
            header = "| changed | Hits@1 of those | MRR | beside the first | CPU seconds"
            line = _held_out_line
        yield table(
            f"{title}; {machines}:",
            f"{header}{machines.column}",
            [[*line(row, found, base), *machines.of(found.values())] for row, found in rows.items()],
        )


@joined(NOTHING)
def render_directions(results: Path) -> Iterator[str]:
    """Hits@1 of each decoder both ways, a line a task and preset."""
    lines = []
    for (task, preset), rows in _by_task(read_rows(results)[1]):
        hits = []
        for decoder in ("cosine", "csls", "sinkhorn"):
            for way in ("left_to_right", "right_to_left"):
                hits.append(_mean([row[decoder][way]["hits@1"] for row in rows]))
        if not _one_to_one(rows):
            hits[-2:] = ["-", "-"]
        apart = [
            row["csls_without_joined"]["left_to_right"]["hits@1"]
            for row in rows
            if "csls_without_joined" in row
        ]
        lines.append([task, f"`{preset}`", *hits, _mean(apart) if apart else "-"])
    if lines:
        yield table(
            "Means over seeds:",
            "data | preset | cosine, left to right | right to left | CSLS, left to right | right to left "
            "| Sinkhorn, left to right | right to left | CSLS without links that joined, left to right",
            lines,
        )


def read_rows(results: Path) -> tuple[str, list[dict[str, Any]]]:
    """The note of the records, and the rows of all machines, each with the `machine` that measured it."""
    note, rows = "", []
    for record in read_records(results, "accuracy"):
        machine, note = record["machine"], record["note"]
        name = f"{machine['device']}, {machine['cores']} cores, {machine['capability']}"
        rows += [{**row, "machine": name} for row in record["rows"]]
    return note, rows


class Machines:
    """What the rows of a table were measured on, and when; seconds of two machines are told apart by letters."""

    def __init__(self, rows: Iterable[Mapping[str, Any]]) -> None:
        found = list(rows)
        self.dates = sorted({row["date"] for row in found})
        self.names = sorted({row["machine"] for row in found})
        self.letters = dict(zip(self.names, "ABCDEFGH", strict=False)) if len(self.names) > 1 else {}

    def __str__(self) -> str:
        told = [f"{name} ({self.letters[name]})" if self.letters else name for name in self.names]
        return f"{'; '.join(told)}; {' to '.join(dict.fromkeys((self.dates[0], self.dates[-1])))}"

    @property
    def column(self) -> str:
        """The end of the table's header."""
        return " | on" if self.letters else ""

    def of(self, rows: Iterable[Mapping[str, Any]]) -> list[str]:
        """The cell of that column, if there is one."""
        letters = sorted({self.letters[row["machine"]] for row in rows}) if self.letters else []
        return [", ".join(letters)] if letters else []


def _by_task(measured: Rows) -> list[tuple[tuple[str, str], list[Mapping[str, Any]]]]:
    """The rows of each task and preset that nothing was changed in, by name."""
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for row in measured:
        if not row["changes"] and not row["removed"]:
            groups.setdefault((row["task"], row["preset"]), []).append(row)
    return sorted(groups.items(), key=lambda group: group[0])


def _held_out_line(
    row: Row, found: Mapping[int, Mapping[str, Any]], base: Mapping[int, Mapping[str, Any]]
) -> list[str]:
    """A row's validation links, beside those of the first row."""

    def mean(rows: Mapping[int, Mapping[str, Any]], metric: str) -> float:
        return statistics.fmean(of_seed["validation"][metric] for of_seed in rows.values())

    beside = found.keys() == base.keys() and all(_comparable(found[seed], base[seed]) for seed in found)
    gain = f"{mean(found, 'mrr') - mean(base, 'mrr'):+.3f}" if beside else "-"
    scores = [f"{mean(found, metric):.3f}" for metric in ("hits@1", "mrr")]
    return [row.label, _changes(row), *scores, gain, _seconds(found.values())[1]]


def _line(
    row: Row, found: Mapping[int, Mapping[str, Any]], base: Mapping[int, Mapping[str, Any]]
) -> list[str]:
    """A row over its seeds; the gain is over those that the first row has as well, of the same sources."""
    pairs = ((of_seed, base[seed]) for seed, of_seed in found.items() if seed in base)
    gains = [_hits(own) - _hits(first) for own, first in pairs if _comparable(own, first)]
    gain = f"{statistics.fmean(gains):+.3f}" if gains else "-"
    scores = _scores(list(found.values()))
    return [row.label, _changes(row), str(len(found)), *scores, gain, _seconds(found.values())[1]]


def _comparable(row: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether nothing says that they are of different sources: what stands between versions is no gain of a row."""
    return "sources" not in row or "sources" not in other or row["sources"] == other["sources"]


def _changes(row: Row) -> str:
    return ", ".join(f"`{change}`" for change in row.changes)


def _hits(row: Mapping[str, Any]) -> float:
    found: float = row["csls"]["left_to_right"]["hits@1"]
    return found


def _scores(rows: Rows) -> Iterator[str]:
    """Hits@1, Hits@10 and MRR by CSLS, Hits@1 by Sinkhorn where each candidate has one partner."""
    for metric in ("hits@1", "hits@10", "mrr"):
        yield _mean([row["csls"]["left_to_right"][metric] for row in rows])
    yield _mean([row["sinkhorn"]["left_to_right"]["hits@1"] for row in rows]) if _one_to_one(rows) else "-"


def _one_to_one(rows: Rows) -> bool:
    """Whether every candidate has a partner, as Sinkhorn assumes: of all entities of a graph many have none."""
    return all(row["candidates"] == "test" for row in rows)


def _seconds(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """Medians of each machine, in the order of their letters, of wall seconds and of CPU seconds.

    A run that was stopped and went on has neither, one beside other work perhaps no wall seconds.
    """
    found = list(rows)
    cells = []
    for key in ("seconds", "cpu_seconds"):
        known: dict[str, list[float]] = {}
        for row in found:
            if row[key] is not None:
                known.setdefault(row["machine"], []).append(row[key])
        cells.append(", ".join(f"{statistics.median(known[name]):.0f}" for name in sorted(known)) or "-")
    return cells


def _mean(values: Sequence[float]) -> str:
    mean = f"{statistics.fmean(values):.3f}"
    return mean if len(values) < 2 else f"{mean} ± {statistics.stdev(values):.3f}"


if __name__ == "__main__":
    results = ROOT / "bench" / "results"
    changed = [render_into(ROOT / "README.md", "accuracy", render_tasks(results))]
    changed.append(render_into(ROOT / "docs" / "accuracy.md", "directions", render_directions(results)))
    for name, study in STUDIES.items():
        changed.append(render_into(ROOT / "docs" / "accuracy.md", name, render_study(results, study)))
    print("README.md and docs/accuracy.md", "written" if any(changed) else "are up to date")
