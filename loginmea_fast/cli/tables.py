"""Metrics as text."""

from __future__ import annotations

import io
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from loginmea_fast.data import AlignmentPair

__all__ = ["COLUMNS", "describe_metrics", "described_epoch", "duration", "metrics_row", "table", "tell"]

COLUMNS = {
    "hits@1": "Hits@1",
    "hits@5": "Hits@5",
    "hits@10": "Hits@10",
    "hits@50": "Hits@50",
    "mrr": "MRR",
    "mr": "MR",
}
_DIRECTIONS = {"left_to_right": "left to right", "right_to_left": "right to left"}


def tell(pair: AlignmentPair, quiet: bool) -> None:
    """What was read, on stderr; where it is to be quiet, what was given and is left out or contradicts itself alone."""
    from loginmea_fast.data.notes import cautions

    if not quiet:
        print(pair.describe(), file=sys.stderr)
    else:
        for note in cautions(pair.notes):
            print(f"loginmea-fast: warning: {note}", file=sys.stderr)


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Lines with aligned columns, the first to the left, the others to the right.

    On a terminal a rule stands under the header; colours follow it and NO_COLOR. What is no terminal gets plain text.
    """
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    terminal = sys.stdout.isatty()
    drawn = Table(box=SIMPLE_HEAD if terminal else None, pad_edge=False, padding=(0, 2, 0, 0))
    for column, title in enumerate(header):
        drawn.add_column(title, justify="right" if column else "left", no_wrap=True)
    for row in rows:
        drawn.add_row(*map(escape, row))
    text = io.StringIO()
    # Wide enough for any row: a figure that is cut off is worse than a line that the terminal wraps.
    Console(file=text, force_terminal=terminal, width=1000).print(drawn)
    return "\n".join(line.rstrip() for line in text.getvalue().rstrip("\n").splitlines())


def metrics_row(
    label: str, metrics: Mapping[str, float], columns: Sequence[str] = tuple(COLUMNS)
) -> list[str]:
    """A row of `table`: Hits@k and MRR with three decimals, the mean rank with one."""
    return [label, *(f"{metrics[c]:,.1f}" if c == "mr" else f"{metrics[c]:.3f}" for c in columns)]


def duration(seconds: float) -> str:
    """Two significant digits below ten seconds, whole seconds above: "38 ms", "1.4 s", "127 s"."""
    if seconds < 0.995:
        return f"{seconds * 1e3:.{0 if seconds >= 0.00995 else 1}f} ms"
    return f"{seconds:.{1 if seconds < 9.95 else 0}f} s"


def described_epoch(epoch: int, best: int | None, epochs: int | None = None) -> str:
    """Which epoch parameters are from; `best` is what validation chose, None where nothing was validated."""
    told = f"epoch {epoch}" + (f" of {epochs}" if epochs is not None else "")
    if best is None:
        return f"{told}, the last: nothing was validated"
    return f"{told}, the best" if epoch == best else f"{told}; the best is {best}"


def describe_metrics(metrics: Mapping[str, Any]) -> str:
    """All that `evaluation.evaluate_links` returns, as text; without pairs it is a run without test links."""
    if "pairs" not in metrics:
        return "no test links, so nothing was measured: every known link was a seed"
    score = f"CSLS-{metrics['csls_k']}"
    rows = [
        metrics_row(f"{name}, {way}", metrics[key][direction])
        for key, name in (("csls", score), ("cosine", "cosine"), ("random", "random ranking"))
        if key in metrics
        for direction, way in _DIRECTIONS.items()
    ]
    for name, decoder in metrics.get("decoders", {}).items():
        rows += [
            metrics_row(f"{name}, {way}", decoder[direction])
            for direction, way in _DIRECTIONS.items()
            if direction in decoder
        ]
    among = "the test targets" if metrics["protocol"] == "test" else "all entities of the other graph"
    counts = " and ".join(f"{n:,}" for n in dict.fromkeys(metrics["candidates"].values()))
    parts = [
        f"{metrics['pairs']:,} test pairs, ranked among {among} ({counts})",
        table(["", *COLUMNS.values()], rows),
    ]
    if "beside" in metrics:
        beside = []
        for name, part in metrics["beside"].items():
            told = {"labels": "labels of {:,} links, propagated,", "joined": "own labels of {:,} that joined"}
            what = told[name].format(part["links"]) if "links" in part else name
            beside.append(f"{what} with weight {part['weight']:g}")
        *before, last = beside
        parts.append(
            f"beside the model stand {' and '.join([', '.join(before), last] if before else [last])}"
        )
    if "decoders" in metrics:
        columns = ("matched", "precision", "recall", "f1")
        matched = [
            [name, f"{decoder['matched']:,}", *(f"{decoder[column]:.3f}" for column in columns[1:])]
            for name, decoder in metrics["decoders"].items()
        ]
        parts.append(table(["decoder", *columns], matched))
        parts += [
            f"{name} did not converge in {decoder['iterations']} iterations; its last iterate was taken"
            for name, decoder in metrics["decoders"].items()
            if not decoder.get("converged", True)
        ]
    for key, groups in metrics.items():
        if key.startswith("by_"):
            what = "degree of the less connected entity" if key == "by_degree" else f"who has {key[3:]}"
            used = score if "csls" in metrics else "cosine"
            grouped = [metrics_row(f"{group['label']} ({group['pairs']:,})", group) for group in groups]
            parts.append(table([f"by {what} (pairs), {used}, both ways", *COLUMNS.values()], grouped))
    return "\n\n".join(parts)
