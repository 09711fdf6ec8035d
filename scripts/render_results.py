"""Writes tables of the README and of pages under docs from the records of bench/results.

A line a case, main cases only: sweeps over sizes keep records of their own and stay in docs/ops.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from statistics import fmean
from typing import Any

from markers import joined, read_records, render_into, table

ROOT = Path(__file__).resolve().parents[1]

# Benchmark -> what tells its cases apart, of the keys of a row or of its record; in the order of the table.
CASES = {
    "training_step": "a whole training step: {note}",
    "relation_reflection_attention": "`relation_reflection_layers`, {graph}, {layers} layers {width:,} wide",
    "low_rank_fusion": "`low_rank_fusion`, {rows:,} entities, {modalities} modalities {width:,} wide, rank {rank}",
    "contrastive_loss": "`contrastive_loss`, {batch:,} links, {width:,} wide",
    "alignment_search": "`alignment_ranks` by CSLS, {case}",
}
NOTHING = "No benchmark of the operators is recorded yet: `make bench` measures them."
NO_SAME_STEPS = "Nothing is recorded yet: `python bench/same_steps.py --record` measures it."
NO_VIEWS = "Nothing is recorded yet: `python bench/views.py --record` measures it."
PYTHON = "Python and the profiler"  # what bench/step_profile.py calls the rest
NO_PROFILE = "Nothing is recorded yet: `python bench/step_profile.py --record` measures it."
NO_ALIGN = "Nothing is recorded yet: `python -m bench.align --record` measures it."
NO_DECISIONS = "Nothing is recorded yet: `python -m bench.align.oracle --record` measures it."
NO_RELIABILITY = "Nothing is recorded yet: `make {verb}` measures it."
NO_PROCESSES = "Nothing is recorded yet: `python bench/processes.py DIR --record` measures it."
NO_LARGE_STEP = "Nothing is recorded yet: `python bench/training_step.py --dataset DIR --record` measures it."
NO_READING = "Nothing is recorded yet: `python bench/reading.py --record` measures it."
NO_SCALE = "Nothing is recorded yet: `python bench/scale.py {verb} --record` measures it."
NO_SIZES = "Nothing is recorded yet: `python bench/sizes.py --record` measures it."


@joined(NOTHING)
def render(results: Path) -> Iterator[str]:
    """The tables of all machines as markdown; a machine is a directory of records."""
    for directory in sorted(path for path in results.iterdir() if path.is_dir()):
        records = [directory / f"{name}.json" for name in CASES]
        found = [json.loads(path.read_text(encoding="utf-8")) for path in records if path.is_file()]
        if found:
            yield table(
                _machine(found),
                "| authors' form | fastest other | ours | faster than authors' / other | ours, bfloat16",
                _rows(found),
            )


@joined(NO_ALIGN)
def render_align(results: Path) -> Iterator[str]:
    """A table a machine of bench.align, a line a task and method."""
    for record in read_records(results, "align"):
        machine = record["machine"]
        days = " to ".join(dict.fromkeys(f(row["date"] for row in record["rows"]) for f in (min, max)))
        lines = []
        for row in sorted(record["rows"], key=lambda row: (row["title"], row["key"])):
            alone = (
                f"{row['dangling_precision']:.3f}, {row['dangling_recall']:.3f}" if "dangling" in row else ""
            )
            told = " ".join([row["method"], *row.get("flags", ())])
            cells = [row["title"], f"`{told}`", f"{row['matches']:,}"]
            cells += [f"{row[name]:.3f}" for name in ("precision", "recall", "calibration_error")]
            lines.append([*cells, alone, round(row["seconds"])])
        yield table(
            f"{record['note'].capitalize()}. {machine['device']}, {machine['cores']} cores, {machine['capability']}, "
            f"{days}:",
            "two graphs | method | matches | precision | recall | calibration error "
            "| without counterpart: precision, recall | seconds",
            lines,
        )


@joined(NO_READING)
def render_reading(results: Path) -> Iterator[str]:
    """A table a machine of bench/reading.py: a line a format."""
    for record in read_records(results, "reading"):
        machine = record["machine"]
        lines = []
        for row in record["rows"]:
            ours, parser = row["ours"], f"{row['parser']['seconds']:.0f}"
            measured = f"{ours['seconds']:.0f}", _size(ours["bytes"])
            lines.append([row["format"], _size(row["file_bytes"]), *measured, parser])
        yield table(
            f"{record['rows'][0]['lines']:,} triples, {record['note']}; {machine['device']}, {machine['cores']} cores, "
            f"{machine['date']}:",
            "format | file | seconds | peak memory | the parser alone, seconds",
            lines,
        )


@joined(NO_SIZES)
def render_sizes(results: Path) -> Iterator[str]:
    """A table a machine and configuration of bench/sizes.py, as markdown."""
    for record in read_records(results, "sizes"):
        machine = record["machine"]
        configurations: dict[str, list[Mapping[str, Any]]] = {}
        for row in sorted(record["rows"], key=lambda row: (row["entities"], row["width"])):
            configurations.setdefault(row["configuration"], []).append(row)
        for name, rows in configurations.items():
            first = rows[0]
            keys = ", ".join(f"`{key}`" for key in first["keys"])
            told = [
                f"**{name}{f' ({keys})' if keys else ''}**",
                f"{machine['device']}, {machine['cores']} cores, {machine['capability']}, {first['date']}",
                *([first["note"]] if first["note"] else []),
            ]
            yield table(
                f"{'; '.join(told)}:",
                "entities | triples | width | parameters | memory of a step | numbers an entity and column "
                "| whole process | CPU seconds of a step | seconds",
                map(_size_cells, rows),
            )


def _size_cells(row: Mapping[str, Any]) -> list[str]:
    return [
        f"{row['entities']:,}",
        f"{row['triples']:,}",
        f"{row['width']}",
        f"{row['parameters'] / 1e6:.1f} M",
        _size(row["step_bytes"]),
        f"{row['step_bytes'] / (4 * row['entities'] * row['width']):.0f}",
        _size(row["process_bytes"]),
        f"{row['cpu_seconds']:.2f}",
        f"{row['seconds']:.2f}",
    ]


@joined(NO_SIZES)
def render_changes(results: Path) -> Iterator[str]:
    """A table a machine of `bench/sizes.py --changes`: one key at a time, as multiples of the configuration without."""
    for record in read_records(results, "sizes-changes"):
        machine, (base, *changed) = record["machine"], record["rows"]
        lines = []
        for row in changed:
            ratios = [row[key] / base[key] for key in ("step_bytes", "cpu_seconds")]
            lines.append([f"`{row['change']}`", *(f"{ratio:.2f} times" for ratio in ratios)])
        yield table(
            f"**{record['configuration']}**, {base['entities']:,} entities, width {base['width']}: "
            f"{_size(base['step_bytes'])} and {base['cpu_seconds']:.2f} CPU seconds a step; {machine['device']}, "
            f"{machine['cores']} cores, {machine['date']}:",
            "with | memory of a step | CPU seconds of a step",
            lines,
        )


@joined(NO_VIEWS)
def render_views(results: Path) -> Iterator[str]:
    """A table a machine of bench/views.py: a step over what its rows need beside one over the whole graph."""
    for record in read_records(results, "views"):
        machine = record["machine"]
        lines = []
        for row in record["rows"]:
            edges = " + ".join(f"{count:,}" for count in row["edges"])
            both = (f"{row[name]:.2f}" for name in ("whole_seconds", "view_seconds"))
            counts = f"{row['rows']:,}", f"{row['entities']:,}"
            lines.append([row["case"], *counts, edges, *both, f"{row['faster_typically']:.2f}x"])
        yield table(
            f"{record['note']}; {machine['device']}, {machine['cores']} cores, {machine['date']}:",
            "embedded | rows | entities needed | edges of each layer | whole graph, s | view, s | faster, median",
            lines,
        )


@joined(NO_SAME_STEPS)
def render_same_steps(results: Path) -> Iterator[str]:
    """A table a machine of bench/same_steps.py: parameters after updates over views and over the whole graph."""
    for record in read_records(results, "same_steps"):
        machine = record["machine"]
        errors = ("together", "worst", "exact", "rounding")
        yield table(
            f"{record['note']}, {record['rows'][0]['updates']} updates; {machine['device']}, {machine['date']}:",
            "data | all parameters, float32 | the one that is off most | the one that is off most, float64 "
            "| float32 against float64",
            ([row["dataset"], *(f"{row[name]:.1e}" for name in errors)] for row in record["rows"]),
        )


@joined(NO_VIEWS)
def render_optimiser(results: Path) -> Iterator[str]:
    """A table a machine of bench/views.py: RMSprop on all rows of the table of entities, or those with a gradient."""
    for record in read_records(results, "optimiser"):
        machine = record["machine"]
        lines = []
        for row in record["rows"]:
            took = (
                f"{row['step_seconds']:.2f}",
                f"{row['dense_seconds']:.3f}",
                f"{row['by_rows_seconds']:.3f}",
            )
            lines.append([row["case"], f"{row['touched'] / row['entities']:.0%}", *took])
        yield table(
            f"{record['note']}; {machine['device']}, {machine['cores']} cores, {machine['date']}, beside other work:",
            "embedded | rows with a gradient | the step, s | optimiser on all rows, s | on these alone, s",
            lines,
        )


@joined(NO_SCALE.format(verb="run"))
def render_scale(results: Path) -> Iterator[str]:
    """A table a machine of the whole runs of bench/scale.py."""
    for record in read_records(results, "scale"):
        machine = record["machine"]
        yield table(
            f"{machine['device']}, {machine['cores']} cores, {machine['capability']}:",
            "run | entities | triples | memory of the process | planned before | steps | seconds of the last epoch "
            "| loss, first and last epoch | links ranked | among | Hits@1 | MRR | in all, s | CPU s",
            map(_scale_cells, record["rows"]),
        )


def _scale_cells(row: Mapping[str, Any]) -> list[str]:
    keys = " ".join(f"`{key}`" for key in row["keys"])
    note = f"; {row['note']}" if row["note"] else ""
    return [
        f"{row['case']} ({keys}{note}; {row['date']})",
        f"{row['entities']:,}",
        f"{row['triples']:,}",
        _size(row["process_bytes"]),
        _size(row["planned_bytes"]),
        f"{row['steps']:,}",
        f"{row['epoch_seconds'][-1]:.1f}",
        f"{row['losses'][0]:.2f}, {row['losses'][-1]:.2f}",
        f"{row['ranked']:,}",
        f"{row['candidates']['left_to_right']:,} and {row['candidates']['right_to_left']:,}",
        f"{row['hits@1']:.3f}",
        f"{row['mrr']:.3f}",
        f"{row['seconds']:,.0f}",
        f"{row['cpu_seconds']:,.0f}",
    ]


@joined(NO_LARGE_STEP)
def render_large_step(results: Path) -> Iterator[str]:
    """A table a machine of bench/training_step.py on a large pair: plain PyTorch beside ours, or where it failed."""
    for record in read_records(results, "training_step-large"):
        machine = record["machine"]
        lines = []
        for row in record["rows"]:
            sizes = [_size(row[key]) for key in ("bytes", "total")] if _measured(row) else ["", ""]
            lines.append(
                [row["provider"], f"{seconds(row):.2f}" if _measured(row) else row["skipped"], *sizes]
            )
        yield table(
            f"{record['note']}; {machine['device']}, {machine['cores']} cores, {machine['date']}:",
            "formulation | seconds of a step | memory beyond the arguments | whole process",
            lines,
        )


@joined(NO_SCALE.format(verb="growth"))
def render_growth(results: Path) -> Iterator[str]:
    """A table a machine of `bench/scale.py growth`, and the exponents."""
    for record in read_records(results, "scale-growth"):
        machine, fitted = record["machine"], record["exponents"]
        keys = " ".join(f"`{key}`" for key in record["keys"])
        lines = []
        for row in record["rows"]:
            counts = f"{row['entities']:,}", f"{row['triples']:,}", _size(row["step_bytes"])
            each = f"{row['step_bytes'] / row['entities'] / 64:.0f}"
            lines.append([*counts, each, _size(row["process_bytes"]), f"{row['cpu_seconds']:.2f}"])
        yield table(
            f"Memory of a step grows as entities^{fitted['step_bytes']:.2f}, CPU seconds as "
            f"entities^{fitted['cpu_seconds']:.2f} ({keys}; {machine['device']}, {machine['cores']} cores, "
            f"{machine['date']}{', ' + record['note'] if record['note'] else ''}):",
            "entities | triples | memory of a step | bytes an entity and column | whole process | CPU s of a step",
            lines,
        )


@joined(NO_PROCESSES)
def render_processes(results: Path) -> Iterator[str]:
    """A table a machine of bench/processes.py: each number of processes against one on the same data."""
    for record in read_records(results, "processes"):
        machine, rows = record["machine"], record["rows"]
        alone = {_data(row): row for row in rows if row["processes"] == 1}
        yield table(
            f"{machine['device']}, {machine['cores']} cores, {machine['capability']}; memory of the largest process:",
            "data | processes | loss, first and last epoch | farthest from one process | Hits@1 and MRR, left to "
            "right | farthest from one process | rows held, fetched a layer | interpreter | before a step | at most "
            "| s an epoch",
            (_process_cells(row, alone[_data(row)]) for row in rows),
        )
        keys = {_data(row): _last_of_each(row["keys"]) for row in rows}
        common = [key for key in next(iter(keys.values())) if all(key in own for own in keys.values())]
        beside = [
            f"{data}: {_coded(key for key in own if key not in common)}"
            for data, own in keys.items()
            if len(own) > len(common)
        ]
        yield f"Keys: {'; '.join([_coded(common), *beside])}."


def _last_of_each(keys: Iterable[str]) -> list[str]:
    """Of KEY=VALUE what holds: of several of one key the last."""
    return [f"{key}={value}" for key, value in dict(key.split("=", 1) for key in keys).items()]


def _coded(keys: Iterable[str]) -> str:
    return " ".join(f"`{key}`" for key in keys)


def _process_cells(row: Mapping[str, Any], first: Mapping[str, Any]) -> list[str]:
    losses = max(abs(a - b) for a, b in zip(row["losses"], first["losses"], strict=True))
    scores = max(
        abs(score - first["scores"][way][name])
        for way, found in row["scores"].items()
        for name, score in found.items()
    )
    ours = row["scores"]["left_to_right"]
    note = f", {row['note']}" if row["note"] else ""
    return [
        f"{_data(row)} ({row['date']}{note})",
        f"{row['processes']}",
        f"{row['losses'][0]:.4f}, {row['losses'][-1]:.4f}",
        f"{losses:.1e}" if row is not first else "",
        f"{ours['hits@1']:.4f}, {ours['mrr']:.4f}",
        f"{scores:.1e}" if row is not first else "",
        f"{-(-row['entities'] // row['processes']):,}, {row['fetched']:,}",
        *(_size(row[key]) for key in ("begun_bytes", "held_bytes", "peak_bytes")),
        f"{min(row['epoch_seconds']):.1f}",
    ]


def _data(row: Mapping[str, Any]) -> str:
    return str(row["case"]).rpartition(", ")[0]


@joined(NO_PROFILE)
def render_profile(results: Path) -> Iterator[str]:
    """A table a machine of bench/step_profile.py: what each operator takes of a step, configurations side by side."""
    for record in read_records(results, "step_profile"):
        machine, rows = record["machine"], record["rows"]
        told = [
            f"{row['configuration']} ({row['data']}, {row['seconds']:.2f} s a step, {row['date']})"
            for row in rows
        ]
        shares: dict[tuple[str, bool], dict[str, float]] = {}
        for row in rows:
            for operator in row["operators"]:
                key = operator["operator"], operator["own"]
                shares.setdefault(key, {})[row["configuration"]] = operator["share"]
        columns = [row["configuration"] for row in rows]
        lines = []
        # What is summed up comes after what has a name, Python last of all.
        for own, whose in ((True, "ours"), (False, "torch")):
            found = [(key, share) for key, share in shares.items() if key[1] == own]
            last = ["others", PYTHON]
            found.sort(
                key=lambda entry: (entry[0][0] in last, entry[0][0] == PYTHON, -max(entry[1].values()))
            )
            for (name, _), share in found:
                label = name if name == PYTHON else f"{whose}: {name}"
                lines.append([label, *(f"{share[c]:.1%}" if c in share else "" for c in columns)])
        yield table(
            f"{machine['device']}, {machine['cores']} cores, {machine['capability']}, beside other work: "
            f"{'; '.join(told)}.",
            " | ".join(["operator", *columns]),
            lines,
        )


@joined(NO_DECISIONS)
def render_decisions(results: Path) -> Iterator[str]:
    """What decisions were worth, a line before them and one after."""
    for record in read_records(results, "align-decisions"):
        lines = []
        for row in record["rows"]:
            draws = row["draws"]
            decided, accepted = (fmean(draw[key] for draw in draws) for key in ("decisions", "accepted"))
            told = f"after {decided:,.0f} decisions, of which {accepted:,.0f} accept"
            apart = "without the entities decided on"
            for name, when in (
                ("before", "before"),
                ("after", f"{told}, at the default threshold"),
                ("after_as_many", "after, as many matches as before"),
                ("before_apart", f"before, {apart}"),
                ("after_apart", f"after, {apart}"),
                ("after_as_many_apart", f"after, {apart}, as many matches"),
            ):
                figures = [
                    f"{fmean(draw[name][key] for draw in draws):.3f}" for key in ("precision", "recall", "f1")
                ]
                told_of = f"; mean of {len(draws)} draws of known pairs" if len(draws) > 1 else ""
                lines.append([f"{row['title']}, `{row['method']}`{told_of}", when, *figures])
        title = f"{record['note'][:1].upper()}{record['note'][1:]}:"
        yield table(title, "two graphs | | precision | recall | F1", lines)


def render_reliability(results: Path, what: str) -> str:
    """Counts of bench.reliability, a table a machine: kills by place, or hostile cases by kind."""
    title, one = ("kills", "killed") if what == "killed" else ("cases", "kind")
    parts = []
    for record in read_records(results, f"reliability-{what}"):
        machine, rows = record["machine"], record["rows"]
        total, skipped = (sum(row[key] for row in rows) for key in ("count", "skipped"))
        told = f", {skipped} skipped" if skipped else ""
        parts.append(
            table(
                f"{total:,} {title}, all of them survived{told}; {record['seconds'] / 60:.0f} minutes beside other "
                f"work, {machine['device']}, {machine['cores']} cores, {machine['date']}:",
                f"{one} | {title}",
                ([row["kind"], f"{row['count']:,}"] for row in rows),
            )
        )
    verb = "kill-test" if what == "killed" else "hostile-test"
    return "\n\n".join(parts) or NO_RELIABILITY.format(verb=verb)


def _size(count: float) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"


def _machine(records: Iterable[Mapping[str, Any]]) -> str:
    machines = [record["machine"] for record in records]
    first = machines[0]
    dates = sorted({machine["date"] for machine in machines})
    days = " to ".join(dict.fromkeys((dates[0], dates[-1])))
    return (
        f"{first['device']}, {first['cores']} cores, {first['capability']}, torch {first['torch']}, "
        f"{days}; seconds of one call, with gradients where there are any, and megabytes at its peak beyond the "
        "arguments:"
    )


def _rows(records: Iterable[Mapping[str, Any]]) -> Iterator[list[str]]:
    for record in records:
        cases: dict[str, list[Mapping[str, Any]]] = {}
        for row in record["rows"]:
            label = CASES[record["name"]].format(
                **{**record, **row, "note": record["note"].partition(";")[0]}
            )
            cases.setdefault(label, []).append(row)
        for label, rows in cases.items():
            # Sizes with the authors' form alone beside ours are for the operator's own page.
            authors, others, *_ = _sort(rows)
            if others or not (authors and _measured(authors)):
                yield [label, *_cells(rows)]


def _cells(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    authors, others, ours, half = _sort(rows)
    fastest = min((row for row in others if _measured(row)), key=seconds, default=None)
    faster = " / ".join(
        f"{seconds(slow) / seconds(ours):.1f}x" if slow and _measured(slow) and ours else "-"
        for slow in (authors, fastest)
    )
    name = f"{fastest['provider']}: " if fastest else ""
    return [_cell(authors), name + _cell(fastest), _cell(ours), faster, _cell(half)]


def _sort(rows: Iterable[Mapping[str, Any]]) -> tuple[Any, list[Mapping[str, Any]], Any, Any]:
    """Authors' form, other plain forms, ours in float32, ours in bfloat16; the first of each kind as recorded."""
    kinds: dict[str, list[Mapping[str, Any]]] = {"authors": [], "other": [], "ours": [], "half": []}
    for row in rows:
        provider = row["provider"]
        if provider.startswith("authors"):
            kinds["authors"].append(row)
        elif provider.startswith("ours bfloat16"):
            kinds["half"].append(row)
        elif provider in ("ours", "ours float32"):
            kinds["ours"].append(row)
        elif not provider.startswith("ours"):
            kinds["other"].append(row)
    first = {kind: next(iter(found), None) for kind, found in kinds.items()}
    return first["authors"], kinds["other"], first["ours"], first["half"]


def _measured(row: Mapping[str, Any]) -> bool:
    return "seconds" in row or "forward" in row


def seconds(row: Mapping[str, Any]) -> float:
    """Of one call, forward and backward."""
    return row["seconds"] if "seconds" in row else row["forward"] + row["backward"]


def _cell(row: Mapping[str, Any] | None) -> str:
    if row is None:
        return ""
    if not _measured(row):
        return row["skipped"]
    return f"{seconds(row):.2f} s, {row['bytes'] / 1e6:,.0f} MB"


if __name__ == "__main__":
    results = ROOT / "bench" / "results"
    for document, name, text in (
        ("README.md", "results", render(results)),
        ("docs/align.md", "align", render_align(results)),
        ("docs/data.md", "reading", render_reading(results)),
        ("docs/report.md", "decisions", render_decisions(results)),
        ("docs/training.md", "profile", render_profile(results)),
        ("docs/sizes.md", "sizes", render_sizes(results)),
        ("docs/sizes.md", "changes", render_changes(results)),
        ("docs/sizes.md", "views", render_views(results)),
        ("docs/scale.md", "same steps", render_same_steps(results)),
        ("docs/scale.md", "optimiser", render_optimiser(results)),
        ("docs/scale.md", "scale", render_scale(results)),
        ("docs/scale.md", "large step", render_large_step(results)),
        ("docs/scale.md", "growth", render_growth(results)),
        ("docs/scale.md", "processes", render_processes(results)),
        *(("docs/reliability.md", what, render_reliability(results, what)) for what in ("killed", "hostile")),
    ):
        changed = render_into(ROOT / document, name, text)
        print(document, "written" if changed else "is up to date")
