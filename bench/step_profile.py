"""Where a training step spends its time: this package's operators, and what is plain torch between them.

python bench/step_profile.py                                  # zh_en, relations and attributes, the defaults
python bench/step_profile.py preset=loginmea --record

Whole epochs of `fit` under torch.profiler. An operator's time is that of its calls, forward and backward, with all that
they call; what no operator accounts for is Python and the profiler itself.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # run as a file, the repository root is not on the path
from bench._record import record  # noqa: E402
from loginmea_fast import fit, runs  # noqa: E402
from loginmea_fast.training import Callback, Config  # noqa: E402

MODALITIES = ["relation", "attribute"]
WARM = 2  # epochs before: they build what those that count find
LEAST = 0.01  # share of the step below which operators are summed up
ENGINE = "autograd::engine::evaluate_function: "
OWN = re.compile(r"loginmea_fast::(\w+)|GeneratedBackwardFor_loginmea_fast_(\w+)_default(Backward)?")


class Enough(Exception):
    """The epochs that count are over."""


class Watch(Callback):
    """Profiles some epochs and ends the training.

    Args:
        epochs: how many.
    """

    def __init__(self, epochs: int) -> None:
        self.last = WARM + epochs
        self.profiler = profile(activities=[ProfilerActivity.CPU])
        self.seconds, self.updates = 0.0, 0

    def on_epoch(self, trainer: Any, record: dict[str, Any]) -> None:
        """Begin after the warm epochs, count, end after the last."""
        if record["epoch"] > WARM:
            self.seconds += record["seconds"]
            self.updates += record["updates"]
        if record["epoch"] == WARM:
            self.profiler.start()
        elif record["epoch"] == self.last:
            self.profiler.stop()
            raise Enough


def name_of(event: str) -> tuple[str, bool]:
    """What an event of the profiler is called in the table, backward as forward, and whether it is of this package."""
    event = event.removeprefix(ENGINE)
    if own := OWN.fullmatch(event):
        return (own[1] or own[2]).removesuffix("_backward"), True
    if event.startswith("Optimizer."):
        return f"optimiser, {event.rpartition('.')[0].rpartition('#')[2] or event}", False
    name = re.sub(r"Backward\d*$", "", event.removeprefix("aten::")).lstrip("_")
    return re.sub(r"(?<=[a-z\d])(?=[A-Z])", "_", name).lower(), False


def operators(events: Iterable[Any], steps: int) -> list[dict[str, Any]]:
    """A row an operator that is called by none, the slowest first: its calls and seconds of a step."""
    calls: dict[tuple[str, bool], int] = defaultdict(int)
    seconds: dict[tuple[str, bool], float] = defaultdict(float)
    for event in events:
        if event.cpu_parent is None:
            calls[name_of(event.name)] += 1
            seconds[name_of(event.name)] += event.cpu_time_total / 1e6
    rows = [
        {"operator": key[0], "own": key[1], "calls": calls[key] / steps, "seconds": spent / steps}
        for key, spent in seconds.items()
    ]
    return sorted(rows, key=lambda row: -row["seconds"])


def measure(config: Config, epochs: int) -> tuple[float, list[dict[str, Any]]]:
    """Seconds of a step under the profiler, and its `operators`."""
    watch = Watch(epochs)
    try:
        fit(runs.load_pair(config), config, progress=False, callbacks=[watch])
    except Enough:
        return watch.seconds / watch.updates, operators(watch.profiler.events(), watch.updates)
    raise SystemExit(f"the run ended before epoch {watch.last}; give more epochs")


def shares(step: float, found: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows of the table: operators with their share, the small ones together, and what none accounts for."""
    rows = [{**row, "share": row["seconds"] / step} for row in found]
    large = [row for row in rows if row["share"] >= LEAST]
    for own in (True, False):
        rest = [row for row in rows if row["share"] < LEAST and row["own"] == own]
        if rest:
            total = {key: sum(row[key] for row in rest) for key in ("calls", "seconds", "share")}
            large.append({"operator": "others", "own": own, **total})
    left = step - sum(row["seconds"] for row in rows)
    return [
        *large,
        {
            "operator": "Python and the profiler",
            "own": False,
            "calls": 0.0,
            "seconds": left,
            "share": left / step,
        },
    ]


def main() -> None:
    """Measure, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    root = Path(os.environ.get("LOGINMEA_DATA") or ROOT.parent / "shared" / "data")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="of the configuration")
    parser.add_argument("--dataset", type=Path, default=root / "dbp15k" / "zh_en")
    parser.add_argument("--epochs", type=int, default=3, help="that count (default %(default)s)")
    parser.add_argument("--record", action="store_true", help="keep the figures in bench/results")
    args = parser.parse_args()
    if not args.dataset.is_dir():
        raise SystemExit(f"no data at {args.dataset}; set LOGINMEA_DATA or --dataset")
    config = Config.build(
        path=str(args.dataset), modalities=MODALITIES, seed_ratio=0.3, eval_every=1000
    ).override(args.overrides)
    step, found = measure(config, args.epochs)
    rows = shares(step, found)
    print(f"{step:.4f} s a step, {torch.get_num_threads()} threads")
    for row in rows:
        whose = "loginmea_fast" if row["own"] else "torch"
        print(
            f"{whose:15}{row['operator']:40}{row['calls']:8.1f}{row['seconds'] * 1e3:10.2f} ms{row['share']:8.1%}"
        )
    if args.record:
        name = ", ".join(args.overrides) or "the defaults"
        row = {"configuration": name, "data": args.dataset.name, "seconds": step, "operators": rows}
        record("step_profile", [row], merge="configuration")


if __name__ == "__main__":
    main()
