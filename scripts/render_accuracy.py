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
        groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
        for row in record["rows"]:
            if not row["changes"] and not row["removed"]:
                groups.setdefault((row["task"], row["preset"]), []).append(row)
        lines = []
        for (task, preset), rows in sorted(groups.items(), key=lambda group: group[0]):
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
            yield table(
                f"{task}, preset `{study.preset}`; {_machine(record)}:",
                "| changed | seeds | Hits@1, CSLS | Hits@10 | MRR | Hits@1, Sinkhorn | CSLS beside the first "
                "| CPU seconds",
                [_line(row, found, base) for row, found in rows.items()],
            )


def _line(
    row: Row, found: Mapping[int, Mapping[str, Any]], base: Mapping[int, Mapping[str, Any]]
) -> list[str]:
    """A row over its seeds; the gain is over those that the first row has as well."""
    gains = [_hits(of_seed) - _hits(base[seed]) for seed, of_seed in found.items() if seed in base]
    gain = f"{statistics.fmean(gains):+.3f}" if gains else "-"
    changes = ", ".join(f"`{change}`" for change in row.changes)
    scores = _scores(list(found.values()))
    return [row.label, changes, str(len(found)), *scores, gain, _seconds(found.values())[1]]


def _machine(record: Mapping[str, Any]) -> str:
    machine = record["machine"]
    dates = sorted({row["date"] for row in record["rows"]})
    days = " to ".join(dict.fromkeys((dates[0], dates[-1])))
    return f"{machine['device']}, {machine['cores']} cores, {machine['capability']}, {days}"


def _hits(row: Mapping[str, Any]) -> float:
    found: float = row["csls"]["left_to_right"]["hits@1"]
    return found


def _scores(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Hits@1, Hits@10 and MRR by CSLS, Hits@1 by Sinkhorn."""
    for decoder, metric in (("csls", "hits@1"), ("csls", "hits@10"), ("csls", "mrr"), ("sinkhorn", "hits@1")):
        yield _mean([row[decoder]["left_to_right"][metric] for row in rows])


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
    for name, study in STUDIES.items():
        changed.append(render_into(ROOT / "docs" / "accuracy.md", name, render_study(results, study)))
    print("README.md and docs/accuracy.md", "written" if any(changed) else "are up to date")
