"""A million entities on one machine: whole runs, from reading to ranking, and how time and memory grow.

    python bench/scale.py run                                  # 1,000,000 entities, 300 and 128 wide
    python bench/scale.py run --entities 100000 --width 64 --record
    python bench/scale.py growth --record                      # 10^4 to 10^6 entities, exponents fitted
    python bench/scale.py train DIR KEY=VALUE ... --record     # any data, trained to its end

A run is three steps of the default model on relations, attributes and 512-wide half-precision vectors that stay in a
file, then 10,000 links ranked among all entities by cosine. Graphs are synthetic: nothing here says how well a
configuration aligns, but for `train` on real data. Memory is what the system counts as the process's at its highest.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
from bench import sizes  # noqa: E402
from bench._record import record  # noqa: E402
from loginmea_fast.data import Split, Synthetic, generate  # noqa: E402

STEPS, SEEDS, RANKED = 3, 1024, 10_000
WHOLE = ("candidates=all", "csls_k=0", "propagation=none", "rounds=0", "valid_ratio=0")
GROWING = (10_000, 30_000, 100_000, 300_000, 1_000_000)
# Every entity is needed and every link in the step, so that nothing is left out as the graph grows.
STEP = ("preset=loginmea", "hidden_dim=64", "batch_size=512")


def large(entities: int) -> Synthetic:
    """Eight triples an entity, vectors for four of five."""
    return Synthetic(entities, triples=8.0, vectors={"image": 512}, present=0.8)


def run(directory: str, overrides: Sequence[str], ranked: int) -> dict[str, Any]:
    """What a child process does: train and rank; where links to rank are counted, a few steps on few links."""
    import torch

    import loginmea_fast as lf

    started = time.perf_counter()
    config = lf.Config.build(path=directory).override(overrides)
    if ranked:
        few = {"modalities": ["image", "relation", "attribute"], "epochs": STEPS, "updates": 1}
        config = config.override(seed_ratio=None, **few)
    pair = lf.runs.load_pair(config)
    if ranked:
        split = pair.split(0.5, 0.0, 0)
        split = Split(split.train[:SEEDS], split.valid[:0], split.test[:ranked])
        links = torch.cat([split.train, split.test])
        pair = replace(pair, links=links, official_split=split)
    loaded = time.perf_counter()
    standing = sizes.peak_bytes()
    lf.runs.prepare_kernels(config)
    with tempfile.TemporaryDirectory() as folder:
        result = lf.fit(pair, config, out=Path(folder) / "run", progress=False)
    epochs = [r for r in result.history if r["event"] == "epoch"]
    scores = result.metrics.get("csls") or result.metrics["cosine"]
    ways = [scores["left_to_right"], scores["right_to_left"]]
    return {
        "entities": pair.num_entities,
        "triples": len(pair.triples),
        "links": epochs[-1]["links"],
        "ranked": len(result.problem.split.test),
        "candidates": result.metrics["candidates"],
        "loading_seconds": loaded - started,
        "loading_bytes": standing,
        "epoch_seconds": [r["seconds"] for r in epochs],
        "steps": epochs[-1]["global_step"],
        "losses": [r["loss"] for r in epochs],
        "step_bytes": max(r["peak_memory"] for r in epochs),
        "seconds": time.perf_counter() - started,
        "cpu_seconds": time.process_time(),
        "planned_bytes": result.plan.peak,
        "process_bytes": sizes.peak_bytes(),
        "hits@1": sum(way["hits@1"] for way in ways) / 2,
        "mrr": sum(way["mrr"] for way in ways) / 2,
        "left_to_right": ways[0],
    }


def child(directory: Path, overrides: Sequence[str], ranked: int = 0) -> dict[str, Any]:
    """Run in a process of its own; the peak is what the system counted for all of it.

    Raises:
        SystemExit: it failed; its last lines say why.
    """
    command = [sys.executable, __file__, "child", str(directory), *overrides, "--ranked", str(ranked)]
    done = subprocess.run(["/usr/bin/time", "-v", *command], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr[-2000:])
    found = json.loads(done.stdout.splitlines()[-1])
    told = next(line for line in done.stderr.splitlines() if "Maximum resident set size" in line)
    return {**found, "process_bytes": int(told.rpartition(":")[2]) * 1024}


def told(row: dict[str, Any]) -> str:
    """A run in a line."""
    losses = " ".join(f"{loss:.2f}" for loss in (row["losses"][0], row["losses"][-1]))
    return (
        f"{row['case']}: {row['process_bytes'] / 1e9:.2f} GB ({row['planned_bytes'] / 1e9:.2f} planned), "
        f"{row['seconds']:,.0f} s, {row['cpu_seconds']:,.0f} CPU s, losses {losses}, Hits@1 {row['hits@1']:.3f}, "
        f"MRR {row['mrr']:.3f}"
    )


def exponent(sizes_: Sequence[float], values: Sequence[float]) -> float:
    """The b of values ~ sizes^b, by least squares of logarithms."""
    x, y = [math.log(size) for size in sizes_], [math.log(value) for value in values]
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    over = sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True))
    return over / sum((a - mean_x) ** 2 for a in x)


def growth(entities: Sequence[int]) -> list[dict[str, Any]]:
    """A step over everything, on graphs of one degree; memory is that of what is alive, by a run of its own."""
    rows = []
    for count in entities:
        with tempfile.TemporaryDirectory() as folder:
            generate(folder, Synthetic(count, triples=8.0))
            row = {"entities": count, **sizes.both(Path(folder), STEP, 0)}
        rows.append(row)
        print(
            f"{count:10,} entities: {row['step_bytes'] / 1e6:9,.0f} MB a step, {row['cpu_seconds']:8.2f} CPU s",
            flush=True,
        )
    return rows


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["run", "growth", "train", "child"])
    parser.add_argument(
        "rest", nargs="*", metavar="KEY=VALUE", help="of the configuration; for train the data first"
    )
    parser.add_argument("--entities", type=int, nargs="+")
    parser.add_argument("--width", type=int, nargs="+", default=[128, 300])
    parser.add_argument("--data", type=Path, help="a generated directory that is kept for the next time")
    parser.add_argument("--note", default="", help="what a reader of the seconds must know")
    parser.add_argument("--record", action="store_true", help="keep the figures in bench/results")
    parser.add_argument("--ranked", type=int, default=RANKED, metavar="N", help="links (default %(default)s)")
    args = parser.parse_args()
    if args.what == "child":
        print(json.dumps(run(args.rest[0], args.rest[1:], args.ranked)))
        return
    if args.what == "growth":
        rows = growth(args.entities or GROWING)
        counts = [row["entities"] for row in rows]
        fitted = {key: exponent(counts, [row[key] for row in rows]) for key in ("step_bytes", "cpu_seconds")}
        print(", ".join(f"{key} grows as entities^{value:.2f}" for key, value in fitted.items()))
        if args.record:
            print(record("scale-growth", rows, exponents=fitted, keys=STEP, note=args.note))
        return
    if args.what == "train":
        directory, *keys = args.rest
        row = {
            "case": f"{Path(directory).parent.name}_{Path(directory).name}",
            "keys": keys,
            "note": args.note,
        }
        row |= child(Path(directory), keys)
        print(told(row))
        if args.record:
            print(record("scale", [row], merge="case"))
        return
    if args.data is not None and len(args.entities or []) > 1:
        parser.error("--data is of one number of entities; name one")
    for count in args.entities or [1_000_000]:
        with tempfile.TemporaryDirectory() as folder:
            directory = args.data or Path(folder) / "pair"
            if not directory.exists():
                generate(directory, large(count))
            for width in args.width:
                keys = [*WHOLE, f"hidden_dim={width}", *args.rest]
                row = {"case": f"synthetic, {count:,} x {width}", "keys": keys, "note": args.note}
                row |= child(directory, keys, args.ranked)
                print(told(row), flush=True)
                if args.record:
                    print(record("scale", [row], merge="case"))


if __name__ == "__main__":
    main()
