"""How large, how long: memory and seconds of a training step over entities and width, on generated pairs of graphs.

python bench/sizes.py                                             # the defaults, what fits 12 GB
python bench/sizes.py --entities 10000 --width 64 --record
python bench/sizes.py depth=3 attention=triple --record           # another configuration
python bench/sizes.py --changes --record                          # one key at a time, one size

A pair and a width are trained for a few steps in a process of their own, and in another that gives memory back at once.
Nothing is learnt from a generated pair, and nothing here says how well a configuration aligns.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(
    0, str(Path(__file__).resolve().parents[1])
)  # run as a file, the repository root is not on the path
from bench._record import record
from loginmea_fast.data import Synthetic, generate

ENTITIES, WIDTHS = (10_000, 40_000, 100_000, 300_000), (64, 300)
MODALITIES = ["relation", "attribute"]
EPOCHS = 2  # of which the first is not counted: it builds what the second finds
LARGE = 1 << 26  # bytes of a buffer that malloc maps by itself, and so gives back, whatever it is told
# Memory that is freed goes back at once, so that the peak of a step is of what is alive.
EXACT = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
# What else a step depends on, one key at a time beside the defaults.
CHANGES = (
    "dtype=bfloat16",
    "depth=3",
    "modalities=relation",
    "modalities=name,relation,attribute",
    "seed_ratio=0.9",
    "attention=triple",
    "missing=learned",
    "objectives=hard_sample",
)
CHANGED = 20_000, 128  # entities and width at which they are measured
BASE = 600_000_000  # bytes that Python and torch take whatever the size
GENEROUS = 1.05  # how much more than in proportion a size may need before it is run


def like_zh_en(entities: int) -> Synthetic:
    """With the ratios of zh_en: triples, links and attributes for each entity."""
    relations = min(1500, entities // 2)
    return Synthetic(entities, triples=4.25, relations=relations, overlap=0.77, attributes=6.0)


def measure(directory: str, overrides: Sequence[str]) -> dict[str, Any]:
    """What a child process does: train a few epochs of a configuration, and say what they took."""
    import loginmea_fast as lf
    from loginmea_fast.training import Callback

    class Enough(Exception):
        """The epochs that are measured are over."""

    class Watch(Callback):
        def on_start(self, trainer: Any) -> None:
            """What loading and assembling took at most."""
            self.before = peak_bytes()
            self.parameters = sum(p.numel() for p in trainer.model.parameters())

        def on_epoch(self, trainer: Any, record: dict[str, Any]) -> None:
            """Count the last, and end the training before it validates."""
            if record["epoch"] == EPOCHS:
                self.cpu_seconds = time.process_time() - self.started
                self.records = [r for r in trainer.history if r["event"] == "epoch"]
                raise Enough
            self.started = time.process_time()

    config = lf.Config.build(path=directory, modalities=MODALITIES, seed_ratio=0.3, eval_every=1000).override(
        overrides
    )
    pair, watch = lf.runs.load_pair(config), Watch()
    try:
        lf.fit(pair, config, progress=False, callbacks=[watch])
    except Enough:
        last = watch.records[-1]
        updates = last.get("updates", 1)
        return {
            "triples": len(pair.triples),
            "links": last["links"],
            "parameters": watch.parameters,
            "seconds": last["seconds"] / updates,
            "cpu_seconds": watch.cpu_seconds / updates,
            "step_bytes": last["step_memory"],
            "process_bytes": max([watch.before, *(r["peak_memory"] for r in watch.records)]),
        }
    raise SystemExit(f"the run ended before epoch {EPOCHS}; give more epochs")


def peak_bytes() -> int:
    """The most that this process has held so far."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


def child(directory: Path, overrides: Sequence[str], environment: Mapping[str, str] = {}) -> dict[str, Any]:
    """Measure in a process of its own.

    Raises:
        SystemExit: it failed; its last line says why.
    """
    command = [sys.executable, __file__, "--child", str(directory), *overrides]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment})
    if done.returncode:
        raise SystemExit((done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1])
    return json.loads(done.stdout.splitlines()[-1])


def both(directory: Path, overrides: Sequence[str], buffer: int) -> dict[str, Any]:
    """Seconds and the whole process as people have them, and the exact memory of a step.

    Args:
        directory: of the pair.
        overrides: of the configuration.
        buffer: bytes of entities x width; a large one goes back at once in any case.
    """
    row = child(directory, overrides)
    if buffer < LARGE:
        row["step_bytes"] = child(directory, overrides, EXACT)["step_bytes"]
    return row


def changes_of(changes: Sequence[str], overrides: Sequence[str]) -> list[dict[str, Any]]:
    """A row for the configuration and one for each change of it, printed as it comes."""
    rows = []
    entities, width = CHANGED
    with tempfile.TemporaryDirectory() as folder:
        generate(folder, like_zh_en(entities))
        for change in ("", *changes):
            keys = [f"hidden_dim={width}", *overrides, *filter(None, [change])]
            row = {"entities": entities, "width": width, "change": change}
            row |= both(Path(folder), keys, 4 * entities * width)
            rows.append(row)
            print(f"{change:40}{row['step_bytes'] / 1e6:8,.0f} MB{row['cpu_seconds']:8.2f} CPU s", flush=True)
    return rows


def sizes(
    entities: Sequence[int],
    widths: Sequence[int],
    limit_gb: float,
    overrides: Sequence[str],
    keep: Callable[[dict[str, Any]], object],
) -> None:
    """Print and `keep` a row a size as it comes; what would need more than `limit_gb`, by the largest, is not run."""
    largest, each = (
        0,
        0.0,
    )  # entities x width so far, and its bytes of a process, beyond the base, for one of them
    print(
        f"{'entities':>10}{'width':>7}{'triples':>11}{'step, MB':>10}{'process, MB':>13}{'s a step':>10}{'CPU s':>8}"
    )
    for count in entities:
        with tempfile.TemporaryDirectory() as folder:
            directory = Path(folder)
            generate(directory, like_zh_en(count))
            for width in widths:
                if BASE + GENEROUS * each * count * width > limit_gb * 1e9:
                    print(f"{count:10,}{width:7}  would need more than {limit_gb:g} GB", flush=True)
                    continue
                row = {"entities": count, "width": width}
                row |= both(directory, [f"hidden_dim={width}", *overrides], 4 * count * width)
                if count * width > largest:
                    largest = count * width
                    each = (row["process_bytes"] - BASE) / largest
                keep(row)
                print(
                    f"{count:10,}{width:7}{row['triples']:11,}{row['step_bytes'] / 1e6:10,.0f}"
                    f"{row['process_bytes'] / 1e6:13,.0f}{row['seconds']:10.2f}{row['cpu_seconds']:8.2f}",
                    flush=True,
                )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="of the configuration")
    parser.add_argument("--entities", type=int, nargs="+", default=ENTITIES)
    parser.add_argument("--width", type=int, nargs="+", default=WIDTHS)
    parser.add_argument(
        "--limit", type=float, default=12.0, metavar="GB", help="of memory (default %(default)s)"
    )
    parser.add_argument("--name", help="what the record calls the configuration")
    parser.add_argument("--note", default="", help="what a reader of the seconds must know")
    parser.add_argument("--record", action="store_true", help="keep the figures in bench/results")
    parser.add_argument("--changes", action="store_true", help="one key at a time, at one size")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        print(json.dumps(measure(args.child, args.overrides)))
        return
    name = args.name or ", ".join(args.overrides) or "defaults"
    if args.changes:
        rows = changes_of(CHANGES, args.overrides)
        if args.record:
            print(record("sizes-changes", rows, configuration=name, keys=args.overrides))
        return

    def keep(row: dict[str, Any]) -> None:
        case = f"{name}, {row['entities']} x {row['width']}"
        row = {"case": case, "configuration": name, "keys": args.overrides, "note": args.note, **row}
        if args.record:
            record("sizes", [row], merge="case")

    sizes(args.entities, args.width, args.limit, args.overrides, keep)


if __name__ == "__main__":
    main()
