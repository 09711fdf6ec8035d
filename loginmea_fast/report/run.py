"""What the page shows of a run: its curves and what the test links said, from the records in its directory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from loginmea_fast.errors import ConfigError
from loginmea_fast.report.figures import bars, lines
from loginmea_fast.runs import RunDirectory

__all__ = ["run_contents", "run_figures"]

Records = Sequence[Mapping[str, Any]]


def run_contents(directory: Path) -> dict[str, Any]:
    """Title, summary and figures, JSON-ready.

    Raises:
        ConfigError: the run has no record yet.
    """
    place = directory.resolve()
    run, history, epochs = _records(directory)
    final = next((record for record in reversed(history) if record["event"] == "final"), None)
    return {
        "title": f"Run: {place.parent.name}/{place.name}",
        "summary": _summary(run, history, epochs, final),
        "notes": [note for record in history if record["event"] == "start" for note in record["notes"]],
        "figures": list(_figures(history, epochs, final)),
    }


def run_figures(directory: Path, metrics: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The figures alone, Hits by `metrics` that were measured just now.

    Raises:
        ConfigError: the run has no record yet.
    """
    _, history, epochs = _records(directory)
    return list(_figures(history, epochs, {"metrics": metrics}))


def _records(directory: Path) -> tuple[RunDirectory, Records, Records]:
    """The run, its records and those of its epochs."""
    run = RunDirectory.open(directory)
    history = run.metrics()
    epochs = [record for record in history if record["event"] == "epoch"]
    if not epochs:
        raise ConfigError(f"the run in {directory} has no epoch yet; let it train, then make the page")
    return run, history, epochs


def _summary(
    run: RunDirectory, history: Records, epochs: Records, final: Mapping[str, Any] | None
) -> list[list[str]]:
    config = run.config
    start = next((record for record in history if record["event"] == "start"), {})
    links = start.get("links", {})
    told = [
        ["data", str(config.path or "a pair in memory")],
        ["preset", config.preset],
        ["links", ", ".join(f"{count:,} {name}" for name, count in links.items())],
        ["epochs", f"{epochs[-1]['epoch']} of {config.total_epochs}"],
        ["parameters", f"{start.get('parameters', 0):,}"],
        ["seconds of training", f"{sum(record['seconds'] for record in epochs):,.0f}"],
        ["peak memory", f"{max(record['peak_memory'] for record in epochs) / 2**20:,.0f} MiB"],
    ]
    if scores := (final or {}).get("validation"):
        told.append(["Hits@1 of validation links", f"{scores['hits@1']:.3f}, MRR {scores['mrr']:.3f}"])
    if final is None:
        told.append(["test links", "not measured yet: the run has not ended"])
    elif final["metrics"]:
        told.append(["best epoch", str(final["best_epoch"])])
        for name in ("cosine", "csls"):
            if found := final["metrics"].get(name):
                scores = found["left_to_right"]
                told.append([f"Hits@1 by {name}", f"{scores['hits@1']:.3f}, MRR {scores['mrr']:.3f}"])
    return told


def _figures(history: Records, epochs: Records, final: Mapping[str, Any] | None) -> Iterator[dict[str, Any]]:
    def points(records: Records, key: str, scale: float = 1.0) -> list[tuple[float, float]]:
        return [(record["epoch"], record[key] * scale) for record in records if key in record]

    says = "Mean loss of each epoch; a new round begins anew."
    yield lines("Loss", says, "epoch", "loss", {"loss": points(epochs, "loss")})
    if validations := [record for record in history if record["event"] == "validation"]:
        yield lines(
            "Validation",
            "Links that were held out, both ways, each among all entities without a training link.",
            "epoch",
            "",
            {name: points(validations, name) for name in ("hits@1", "hits@10", "mrr")},
        )
    yield lines(
        "Links",
        "Links that an epoch trains on: the known ones, and those that bootstrapping has proposed.",
        "epoch",
        "links",
        {"links": points(epochs, "links")},
    )
    yield lines(
        "Seconds", "Seconds of each epoch.", "epoch", "seconds", {"seconds": points(epochs, "seconds")}
    )
    yield lines(
        "Memory",
        "Peak memory of the process in each epoch.",
        "epoch",
        "MiB",
        {"peak": points(epochs, "peak_memory", 2.0**-20)},
    )
    if weights := (final or {}).get("weights"):
        yield bars(
            "Weights",
            "Share that each part has in the square of a row's length, on average: how much it can say when two rows "
            "are compared.",
            list(weights),
            {"weight": list(weights.values())},
            "share",
        )
    metrics = {} if final is None else final["metrics"]
    for name, groups in metrics.items():
        if not name.startswith("by_"):
            continue
        what = name.removeprefix("by_")
        meaning = (
            "the smaller number of neighbours of the two entities"
            if what == "degree"
            else f"which of the two entities have the modality {what}"
        )
        yield bars(
            f"Hits by {what}",
            f"Test links in groups, by {meaning}.",
            [f"{group['label']} ({group['pairs']:,})" for group in groups],
            {key: [group[key] for group in groups] for key in ("hits@1", "hits@10")},
            "share of the links",
        )
