"""One model trained by 1, 2 and 4 processes: losses, final metrics, and what each process holds.

    python bench/processes.py DIR [KEY=VALUE ...] [--processes 1 2 4] [--record]

torchrun starts them on this machine, a thread each, one number after the other; they talk by gloo. Seconds are those of
cores that are shared, and say how much exchanging costs at most. Memory is given back to the system at once, so that
what a process has is what it holds.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
from bench._record import record  # noqa: E402
from bench.sizes import EXACT  # noqa: E402

# What several processes can do; ten epochs of the default recipe's one round.
KEYS = ("modalities=relation,attribute", "epochs=10", "rounds=0", "propagation=none", "threads=1")


def run(directory: str, overrides: Sequence[str]) -> dict[str, Any] | None:
    """What each process does; process 0 says what came of it."""
    import torch

    import loginmea_fast as lf
    from loginmea_fast.parallel import shards_of, world
    from loginmea_fast.training.memory import resident_memory

    config = lf.Config.build(path=directory).override(overrides)
    there, begun = world(), resident_memory(torch.device("cpu"))
    handed = [lf.runs.load_pair(config)]
    with tempfile.TemporaryDirectory() as folder:
        out = there.first(lambda: str(Path(folder) / "run"))
        result = lf.fit(handed.pop(), config, out=out, progress=False)
        there.gather(0)
    shards = shards_of(result.problem.graph)
    fetched = there.gather(0 if shards is None else shards.remote_rows)
    epochs = [r for r in result.history if r["event"] == "epoch"]
    if not there.leads:
        return None
    # Where CSLS was left out, there being too many to compare.
    scores = result.metrics.get("csls") or result.metrics["cosine"]
    return {
        "processes": there.size,
        "entities": result.problem.pair.num_entities,
        "fetched": max(fetched),
        "losses": [r["loss"] for r in epochs],
        "epoch_seconds": [r["seconds"] for r in epochs],
        "begun_bytes": begun,
        "held_bytes": epochs[-1]["peak_memory"]
        - epochs[-1]["step_memory"],  # the optimiser's moments among it
        "peak_bytes": max(r["peak_memory"] for r in epochs),
        "scores": {way: {name: scores[way][name] for name in ("hits@1", "hits@10", "mrr")} for way in scores},
    }


def started(directory: Path, overrides: Sequence[str], processes: int) -> dict[str, Any]:
    """Run in so many processes.

    Raises:
        SystemExit: it failed; its last lines say why.
    """
    command = [
        *(sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={processes}", "--standalone"),
        *(__file__, str(directory), *overrides, "--child"),
    ]
    environment = {**os.environ, **EXACT, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise SystemExit(done.stderr[-3000:])
    return dict(json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("directory", type=Path)
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--note", default="", help="what a reader of the seconds must know")
    parser.add_argument("--record", action="store_true", help="keep the figures in bench/results")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        found = run(str(args.directory), args.overrides)
        if found is not None:
            print(json.dumps(found))
        return
    keys = [*KEYS, *args.overrides]
    case = "_".join(args.directory.parts[-2:])
    for processes in args.processes:
        row = {"case": f"{case}, {processes}", "keys": keys, "note": args.note}
        row |= started(args.directory, keys, processes)
        print(
            f"{processes}: losses {row['losses'][0]:.4f} to {row['losses'][-1]:.4f}, Hits@1 "
            f"{row['scores']['left_to_right']['hits@1']:.4f}, {row['peak_bytes'] / 2**20:,.0f} MiB a process, "
            f"{min(row['epoch_seconds']):.1f} s an epoch",
            flush=True,
        )
        if args.record:
            print(record("processes", [row], merge="case"))


if __name__ == "__main__":
    main()
