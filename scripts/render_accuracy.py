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


@joined(NOTHING)
def render_tasks(results: Path) -> Iterator[str]:
    """A table a machine, a line a task and preset, the mean over seeds and their deviation."""
    for record in read_records(results, "accuracy"):
        lines = []
        for (task, preset), rows in _by_task(record):
            what = f"{task}: {', '.join(rows[0]['modalities'])}"
            lines.append([what, f"`{preset}`", len(rows), *_scores(rows), *_seconds(rows)])
        yield table(
            f"{record['note'][:1].upper()}{record['note'][1:]}. {_machine(record)}:",
            "data and what is seen | preset | seeds | Hits@1, CSLS | Hits@10 | MRR | Hits@1, Sinkhorn | seconds "
            "| CPU seconds",
            lines,
        )


@joined(NOTHING)
def render_study(results: Path, study: Study) -> Iterator[str]:
    """A table a machine and task, a line a row of the study, each beside the first one."""
    for record in read_records(results, "accuracy"):
        measured: dict[str, Mapping[str, Any]] = {row["key"]: row for row in record["rows"]}
        groups: dict[str, dict[Row, dict[int, Mapping[str, Any]]]] = {}
        for row, case in study.cases():
            if case.key in measured:
                groups.setdefault(case.task, {}).setdefault(row, {})[case.seed] = measured[case.key]
        for task, rows in groups.items():
            base = rows.get(study.rows[task][0], {})
            if study.held_out is not None:
                yield table(
                    f"{task}, preset `{study.preset}`, {study.held_out:.0%} of the known links held out; "
                    f"{_machine(record)}:",
                    "| changed | Hits@1 of those | MRR | beside the first | CPU seconds",
                    [_held_out_line(row, found, base) for row, found in rows.items()],
                )
                continue
            yield table(
                f"{task}, preset `{study.preset}`; {_machine(record)}:",
                "| changed | seeds | Hits@1, CSLS | Hits@10 | MRR | Hits@1, Sinkhorn | CSLS beside the first "
                "| CPU seconds",
                [_line(row, found, base) for row, found in rows.items()],
            )


@joined(NOTHING)
def render_directions(results: Path) -> Iterator[str]:
    """Hits@1 of each decoder both ways, a line a task and preset."""
    for record in read_records(results, "accuracy"):
        lines = []
        for (task, preset), rows in _by_task(record):
            hits = []
            for decoder in ("cosine", "csls", "sinkhorn"):
                for way in ("left_to_right", "right_to_left"):
                    hits.append(_mean([row[decoder][way]["hits@1"] for row in rows]))
            if not _one_to_one(rows):
                hits[-2:] = ["-", "-"]
            lines.append([task, f"`{preset}`", *hits])
        yield table(
            f"{_machine(record)}:",
            "data | preset | cosine, left to right | right to left | CSLS, left to right | right to left "
            "| Sinkhorn, left to right | right to left",
            lines,
        )


def _by_task(record: Mapping[str, Any]) -> list[tuple[tuple[str, str], list[Mapping[str, Any]]]]:
    """The rows of each task and preset that nothing was changed in, by name."""
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for row in record["rows"]:
        if not row["changes"] and not row["removed"]:
            groups.setdefault((row["task"], row["preset"]), []).append(row)
    return sorted(groups.items(), key=lambda group: group[0])


def _held_out_line(
    row: Row, found: Mapping[int, Mapping[str, Any]], base: Mapping[int, Mapping[str, Any]]
) -> list[str]:
    """A row's validation links, beside those of the first row."""

    def mean(rows: Mapping[int, Mapping[str, Any]], metric: str) -> float:
        return statistics.fmean(of_seed["validation"][metric] for of_seed in rows.values())

    gain = f"{mean(found, 'mrr') - mean(base, 'mrr'):+.3f}" if found.keys() == base.keys() else "-"
    scores = [f"{mean(found, metric):.3f}" for metric in ("hits@1", "mrr")]
    return [row.label, _changes(row), *scores, gain, _seconds(found.values())[1]]


def _line(
    row: Row, found: Mapping[int, Mapping[str, Any]], base: Mapping[int, Mapping[str, Any]]
) -> list[str]:
    """A row over its seeds; the gain is over those that the first row has as well."""
    gains = [_hits(of_seed) - _hits(base[seed]) for seed, of_seed in found.items() if seed in base]
    gain = f"{statistics.fmean(gains):+.3f}" if gains else "-"
    scores = _scores(list(found.values()))
    return [row.label, _changes(row), str(len(found)), *scores, gain, _seconds(found.values())[1]]


def _changes(row: Row) -> str:
    return ", ".join(f"`{change}`" for change in row.changes)


def _machine(record: Mapping[str, Any]) -> str:
    machine = record["machine"]
    dates = sorted({row["date"] for row in record["rows"]})
    days = " to ".join(dict.fromkeys((dates[0], dates[-1])))
    return f"{machine['device']}, {machine['cores']} cores, {machine['capability']}, {days}"


def _hits(row: Mapping[str, Any]) -> float:
    found: float = row["csls"]["left_to_right"]["hits@1"]
    return found


def _scores(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Hits@1, Hits@10 and MRR by CSLS, Hits@1 by Sinkhorn where each candidate has one partner."""
    for metric in ("hits@1", "hits@10", "mrr"):
        yield _mean([row["csls"]["left_to_right"][metric] for row in rows])
    yield _mean([row["sinkhorn"]["left_to_right"]["hits@1"] for row in rows]) if _one_to_one(rows) else "-"


def _one_to_one(rows: Sequence[Mapping[str, Any]]) -> bool:
    """Whether every candidate has a partner, as Sinkhorn assumes: of all entities of a graph many have none."""
    return all(row["candidates"] == "test" for row in rows)


def _seconds(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    known = [row for row in rows if row["seconds"] is not None]  # a run that was stopped and went on has none
    if not known:
        return ["-", "-"]
    return [f"{statistics.median(row[key] for row in known):.0f}" for key in ("seconds", "cpu_seconds")]


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
