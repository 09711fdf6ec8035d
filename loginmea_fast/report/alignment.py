"""What the page shows of an alignment, from the directory that `align` wrote."""

from __future__ import annotations

import base64
import csv
import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from loginmea_fast.errors import ConfigError, DataError
from loginmea_fast.report.figures import bars, curve, histogram, reliability
from loginmea_fast.runs.aligning.formats import plain_text, safe_text
from loginmea_fast.runs.aligning.portraits import MOST

__all__ = ["alignment_contents"]

_TABLES = ("alignment.parquet", "alignment.tsv", "alignment.csv")
_NUMBERS = ("score", "margin", "confidence")


def alignment_contents(directory: Path, before: Path | None = None, most: int = MOST) -> dict[str, Any]:
    """Title, summary, figures and matches, JSON-ready.

    Args:
        directory: what `align` wrote.
        before: an earlier alignment of the same graphs: each match says whether it is new, and those gone are shown.
        most: matches on the page: those nearest to the threshold, and for comparison a tenth that are the surest.

    Raises:
        ConfigError: no alignment is there, or it is of other graphs than `before`.
        DataError: a file is missing or malformed.
    """
    place = directory.resolve()
    report = _report(directory)
    every = _matches(directory)
    if before is not None:
        every = _compared(every, _matches(before), before)
    # A decision tells most where the threshold is.
    every.sort(key=lambda row: abs(row["confidence"] - report["threshold"]))
    rows = every[:most]
    surest = most // 10 if len(every) > most else 0
    if surest:
        others = sorted(every[most - surest :], key=lambda row: -row["confidence"])
        rows = every[: most - surest] + others[:surest]
    entities = _Entities(directory)
    side = report.get("matched_from", "left")
    other_side = "right" if side == "left" else "left"
    candidates = _candidates(directory, {row[side] for row in rows})
    columns = {
        "left": [entities.number(row["left"], "left") for row in rows],
        "right": [entities.number(row["right"], "right") for row in rows],
        **{name: [_rounded(row[name]) for row in rows] for name in _NUMBERS},
        "mutual": [row["mutual"] for row in rows],
        "accepted": [row["accepted"] for row in rows],
        "source": [row["source"] for row in rows],
        "change": [row["change"] for row in rows],
    }
    names = list(dict.fromkeys(name for row in every for name in row["evidence"]))
    found = {
        entities.number(entity, side): [
            [entities.number(other, other_side), _rounded(score)] for other, score in others
        ]
        for entity, others in candidates.items()
    }
    summary = _summary(report, every, len(rows), surest, before)
    with_picture, having = entities.pictured()
    if having:
        summary.append(["entities with a picture here", f"{with_picture:,} of {having:,} that have one"])
    written = f"{place} {report['matched_by_decoder']} {report['threshold']} {report['seconds']}"
    return {
        "title": f"Alignment: {place.parent.name}/{place.name}",
        "key": hashlib.blake2b(written.encode(), digest_size=16).hexdigest(),
        "summary": summary,
        "notes": list(report["notes"]),
        "figures": list(_figures(report, every, names)),
        "matches": columns,
        "evidence": {name: [_rounded(row["evidence"].get(name, math.nan)) for row in rows] for name in names},
        "threshold": report["threshold"],
        "candidates": {"side": side, "of": found},
        "entities": entities.told(),
    }


def _report(directory: Path) -> dict[str, Any]:
    file = directory / "report.json"
    if not file.is_file():
        raise ConfigError(
            f"{directory} holds neither an alignment nor a run; name a directory that align or train wrote"
        )
    try:
        found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        found["threshold"], found["reliability"]["bins"], found["notes"]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{file} is damaged ({error}); align again") from None
    return found


def _matches(directory: Path) -> list[dict[str, Any]]:
    """All matches, those that are not sure enough included."""
    table = next((directory / name for name in _TABLES if (directory / name).is_file()), None)
    if table is None:
        raise ConfigError(
            f"{directory} has its matches in no format that a page can be made of; align with --format tsv beside the "
            "others"
        )
    accepted = _parquet(table) if table.suffix == ".parquet" else _table(table)
    rejected = _table(directory / "rejected.tsv")
    found = []
    for rows, sure in ((accepted, True), (rejected, False)):
        for row in rows:
            evidence = {
                name.removeprefix("evidence_"): float(value)
                for name, value in row.items()
                if name.startswith("evidence_") and value not in ("", None)
            }
            found.append(
                {
                    "left": row["left"],
                    "right": row["right"],
                    **{name: float("nan" if row[name] in ("", None) else row[name]) for name in _NUMBERS},
                    "mutual": str(row["mutual"]).lower() == "true",
                    "accepted": sure,
                    "source": row.get("source", "") or "",
                    "change": "",
                    "evidence": evidence,
                }
            )
    return found


def _table(path: Path) -> list[dict[str, str]]:
    if not path.is_file():
        raise DataError(f"{path} is missing; align again")
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file, delimiter="," if path.suffix == ".csv" else "\t")
        rows = []
        try:
            for row in reader:
                if None in row or None in row.values():
                    raise DataError(f"{path}, line {reader.line_num}: another number of columns; align again")
                rows.append({name: plain_text(cell) for name, cell in row.items()})
        except csv.Error as error:
            raise DataError(f"{path}, line {reader.line_num} cannot be read ({error}); align again") from None
    return rows


def _parquet(path: Path) -> list[dict[str, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        rows: list[dict[str, Any]] = pq.read_table(path).to_pylist()
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{path} is damaged ({str(error).splitlines()[0]}); align again") from None
    return rows


class _Entities:
    """Entities of the page, numbered as they come, and what is told of each."""

    def __init__(self, directory: Path) -> None:
        file = directory / "entities.parquet"
        if not file.is_file():
            raise DataError(
                f"{file} is missing: it holds what the page shows of an entity; align again with this version"
            )
        self._portraits = {(row["side"], row["entity"]): row for row in _parquet(file)}
        self._numbers: dict[tuple[str, str], int] = {}

    def number(self, identifier: str, side: str) -> int:
        """Of an entity, a new one where it has none."""
        return self._numbers.setdefault((side, identifier), len(self._numbers))

    def told(self) -> list[dict[str, Any]]:
        """Of all that were numbered: identifier, the same as a table writes it, side, name, degree, neighbours, ..."""
        found = []
        for side, identifier in self._numbers:
            row = self._portraits.get((side, identifier), {})
            neighbors = [
                [n["direction"], n["relation"], n["name"], n["entity"], n["known"]]
                for n in row.get("neighbors") or ()
            ]
            found.append(
                {
                    "id": identifier,
                    "cell": safe_text(identifier),
                    "side": side,
                    "name": row.get("name", identifier),
                    "degree": row.get("degree"),
                    "neighbors": neighbors,
                    "attributes": [[a["attribute"], a["value"]] for a in row.get("attributes") or ()],
                    "picture": base64.b64encode(row.get("picture") or b"").decode(),
                }
            )
        return found

    def pictured(self) -> tuple[int, int]:
        """How many of those that were numbered are shown with a picture, and how many have one."""
        rows = [self._portraits.get(key, {}) for key in self._numbers]
        return sum(bool(row.get("picture")) for row in rows), sum(bool(row.get("pictured")) for row in rows)


def _candidates(directory: Path, wanted: set[str]) -> dict[str, list[tuple[str, float]]]:
    found: dict[str, list[tuple[str, float]]] = {}
    for row in _table(directory / "candidates.tsv"):
        if row["entity"] in wanted:
            found.setdefault(row["entity"], []).append((row["candidate"], float(row["score"] or "nan")))
    return found


def _compared(
    rows: list[dict[str, Any]], earlier: Sequence[Mapping[str, Any]], before: Path
) -> list[dict[str, Any]]:
    """Rows with what has changed since `earlier`, and the accepted matches that are gone."""
    old = {(row["left"], row["right"]): row for row in earlier if row["accepted"]}
    for side in ("left", "right"):
        here, then = ({row[side] for row in some} for some in (rows, earlier))
        # Labels of other graphs coincide here and there; matches of the same graphs share nearly all entities.
        if 2 * len(here & then) < min(len(here), len(then)):
            raise ConfigError(
                f"{before} is an alignment of other graphs: {len(here & then):,} of its {len(then):,} {side} entities "
                "are matched here"
            )
    present = {(row["left"], row["right"]) for row in rows}
    for row in rows:
        key = (row["left"], row["right"])
        row["change"] = "new" if row["accepted"] and key not in old else ""
        if not row["accepted"] and key in old:
            row["change"] = "gone"
    gone = [row for key, row in old.items() if key not in present]
    return rows + [{**row, "accepted": False, "change": "gone"} for row in gone]


def _summary(
    report: Mapping[str, Any],
    every: Sequence[Mapping[str, Any]],
    shown: int,
    surest: int,
    before: Path | None,
) -> list[list[str]]:
    alone = report["without_counterpart"]
    beside = ", beside pivots" if report["pivots"] else ""
    told = [
        ["matches", f"{report['matches']:,}"],
        ["not sure enough", f"{report['matched_by_decoder'] - report['matches']:,}"],
        ["threshold of confidence", f"{report['threshold']:.3f}"],
        ["expected precision", _share(report["expected_precision"])],
        [f"counterparts found, expected{beside}", _share(report["expected_recall"])],
        ["without counterpart", f"{alone['left']:,} left, {alone['right']:,} right"],
        ["known links, pivots", f"{report['known_links']:,}, {sum(report['pivots'].values()):,}"],
        ["confidences rest on", f"{report['held_out_links']:,} held-out links"],
        ["method", f"{report['method']}, {report['decoder']}"],
        ["seconds", f"{report['seconds']:,.0f}"],
    ]
    if report["measured"]:
        measured = report["measured"]
        told.append(
            [
                f"measured on {report['withheld_links']:,} withheld links",
                f"precision {measured['precision']:.3f}, recall {measured['recall']:.3f}",
            ]
        )
    taken = report.get("decisions", {})
    if any(taken.values()):
        told.append(
            ["decisions taken back", f"{taken['accepted']:,} accepted, {taken['rejected']:,} rejected"]
        )
    if before is not None:
        changes = [row["change"] for row in every]
        told.append([f"since {before.name}", f"{changes.count('new'):,} new, {changes.count('gone'):,} gone"])
    if len(every) > shown:
        told.append(
            [
                "on this page",
                f"{shown:,} of {len(every):,}: the {shown - surest:,} most doubtful and the {surest:,} surest",
            ]
        )
    return told


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _rounded(value: float) -> float | None:
    return round(value, 4) if math.isfinite(value) else None


def _figures(
    report: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], evidence: Sequence[str]
) -> Iterator[dict[str, Any]]:
    bins = report["reliability"]["bins"]
    if bins:
        yield reliability(bins, report["reliability"]["error"])
    confidences = sorted((row["confidence"] for row in rows if row["change"] != "gone"), reverse=True)
    if confidences:
        yield curve(confidences, report["threshold"])
        yield histogram(confidences, report["threshold"])
    groups = {True: "accepted", False: "not sure enough"}
    heights: dict[str, list[float]] = {}
    for sure, label in groups.items():
        chosen = [row for row in rows if row["accepted"] == sure and row["change"] != "gone"]
        if chosen:
            heights[label] = [
                sum(row["evidence"].get(name, 0.0) for row in chosen) / len(chosen) for name in evidence
            ]
    if heights and evidence:
        yield bars(
            "Evidence",
            "How alike matched entities are in each modality and in their neighbourhoods, on average: where accepted "
            "matches are hardly more alike than the others, it tells little.",
            list(evidence),
            heights,
            "mean likeness",
        )
