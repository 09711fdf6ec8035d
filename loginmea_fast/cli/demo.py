"""`loginmea-fast demo`."""

from __future__ import annotations

import json
import random
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from loginmea_fast.cli.options import Json, key_flags, keys_given
from loginmea_fast.cli.runs import fresh_run_directory
from loginmea_fast.cli.tables import COLUMNS, metrics_row, table

if TYPE_CHECKING:
    from loginmea_fast.evaluation import Decoded
    from loginmea_fast.runs import FitResult

EXAMPLES = """\
examples:
  loginmea-fast demo
  loginmea-fast demo --epochs 10 --out /tmp/demo

It trains twice: on relations, attributes and images of flags, then on the same with names."""

_WITHOUT_NAMES = ("image", "relation", "attribute")
_RUNS = {"without-names": _WITHOUT_NAMES, "with-names": (*_WITHOUT_NAMES, "name")}
_SHOWN = ("hits@1", "hits@10", "mrr")
_RIGHT, _WRONG = 10, 5


if TYPE_CHECKING:
    Flags = dict[str, Any]
else:
    Flags = key_flags(("epochs", "seed", "device", "dtype", "backend", "threads"))


def run(
    *,
    directory: Annotated[
        str | None,
        Parameter(
            name="--out", metavar="DIR", help="new directory for its two runs; default: one under runs/"
        ),
    ] = None,
    as_json: Json = False,
    keys: Annotated[Flags | None, Parameter(name="*")] = None,
) -> int:
    """Train with and without names, print metrics and example pairs."""
    from loginmea_fast.evaluation import decode
    from loginmea_fast.runs import RunDirectory, fit, load_pair
    from loginmea_fast.training.config import Config

    started = time.perf_counter()
    overrides = keys_given(keys)
    out = Path(directory or fresh_run_directory("demo"))
    for name in _RUNS:
        RunDirectory.check_new(out / name)
    results: dict[str, FitResult] = {}
    for name, modalities in _RUNS.items():
        config = Config.build({"path": "embedded", "preset": "fast", "modalities": modalities, **overrides})
        pair = load_pair(config)
        what = pair.describe() if not results else "the same with names"
        print(f"{what}\ntraining on {', '.join(modalities)}", file=sys.stderr)
        results[name] = fit(pair, config, out / name)
    first = results["without-names"]
    problem, config = first.problem, first.config
    decoded = decode(
        first.embedding,
        problem.pair,
        problem.split.test,
        k=1,
        csls_k=config.csls_k,
        backend=config.backend,
    )
    page = _page(results["with-names"], out / "alignment")
    seconds = time.perf_counter() - started
    right = _sample([d for d in decoded if d.correct], _RIGHT, config.seed)
    wrong = _sample([d for d in decoded if not d.correct], _WRONG, config.seed)
    if as_json:
        print(json.dumps(_answer(results, right, wrong, problem.pair.names, out, page, seconds), indent=2))
    else:
        print(_describe(results, right, wrong, problem.pair.names, out, page, seconds))
    return 0


def _page(result: FitResult, directory: Path) -> Path | None:
    """Matches of the second run and a page of them; None where plotly is missing."""
    from loginmea_fast.report import can_write, write_report
    from loginmea_fast.runs import align

    align(result, progress=False).save(directory)
    return write_report(directory) if can_write() else None


def _sample(decoded: Sequence[Decoded], count: int, seed: int) -> list[Decoded]:
    return random.Random(seed).sample(decoded, min(count, len(decoded)))


def _score(metrics: dict[str, Any], name: str = "") -> dict[str, float]:
    """Left to right, the field's direction, by CSLS where it is on."""
    return metrics[name or ("csls" if "csls" in metrics else "cosine")]["left_to_right"]


def _answer(
    results: dict[str, FitResult],
    right: Sequence[Decoded],
    wrong: Sequence[Decoded],
    names: Sequence[str],
    out: Path,
    page: Path | None,
    seconds: float,
) -> dict[str, Any]:
    return {
        "runs": {name: str(out / name) for name in results},
        "metrics": {name: result.metrics for name, result in results.items()},
        "right": [{"left": d.name, "right": d.matches[0].name} for d in right],
        "wrong": [{"left": d.name, "right": d.matches[0].name, "truth": names[d.partners[0]]} for d in wrong],
        "page": None if page is None else str(page),
        "seconds": round(seconds, 1),
    }


def _describe(
    results: dict[str, FitResult],
    right: Sequence[Decoded],
    wrong: Sequence[Decoded],
    names: Sequence[str],
    out: Path,
    page: Path | None,
    seconds: float,
) -> str:
    metrics = results["without-names"].metrics
    rows = [
        metrics_row("relations + attributes + images", _score(metrics), _SHOWN),
        metrics_row("the same with names", _score(results["with-names"].metrics), _SHOWN),
        metrics_row("random ranking", _score(metrics, "random"), _SHOWN),
    ]
    width = max((len(d.name) for d in [*right, *wrong]), default=0)
    lines = [
        f"\n{metrics['pairs']:,} test links, left to right, each among {metrics['candidates']['left_to_right']:,} "
        "candidates",
        table(["", *(COLUMNS[column] for column in _SHOWN)], rows),
        f"\n{len(right)} that are right, found without names",
        *(f"  {d.name:{width}}  =  {d.matches[0].name}" for d in right),
        f"\n{len(wrong)} that are wrong",
        *(f"  {d.name:{width}}  is not  {d.matches[0].name}, but  {names[d.partners[0]]}" for d in wrong),
        f"\n{seconds:.0f} s in all; run directories: {', '.join(str(out / name) for name in results)}",
        "look at all matches: "
        + (
            "pip install 'loginmea-fast[report]' for the page"
            if page is None
            else f"open {page} in a browser"
        ),
        f"look closer: loginmea-fast evaluate {shlex.quote(str(out / 'without-names'))}",
        "your own data: loginmea-fast train --help",
    ]
    return "\n".join(lines)
