"""How bootstrapping adds links while it trains on the pair inside the package, and how many of them are right.

python bench/bootstrapping.py --record
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench._record import record
from loginmea_fast.data import load_embedded
from loginmea_fast.runs import fit

CASES: dict[str, dict[str, Any]] = {
    "windows of the paper's model": {
        "preset": "loginmea",
        "epochs": 100,
        "bootstrap": True,
        "bootstrap_start": 40,
    },
    "rounds of the defaults": {},
}


def main() -> None:
    """Train, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--record", action="store_true")
    args = parser.parse_args()
    pair = load_embedded()
    rows = []
    for name, keys in CASES.items():
        started = time.perf_counter()
        found = fit(pair, seed_ratio=0.3, progress=False, **keys)
        links = [[one["epoch"], one["links"]] for one in found.history if one["event"] == "epoch"]
        rows.append(
            {"case": name, "keys": keys, "links": links, "seconds": round(time.perf_counter() - started, 1)}
        )
        print(f"{name}: {links[0][1]:,} links at first, {max(count for _, count in links):,} at most")
    if args.record:
        record(
            "bootstrapping",
            rows,
            note="links that an epoch trains on, embedded pair, 30 % known",
            pair=pair.name,
        )


if __name__ == "__main__":
    main()
