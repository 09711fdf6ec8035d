"""What decisions are worth: the most doubtful matches are decided by links known to be right, then aligned again.

python -m bench.align.oracle                    # 200 decisions on the pair inside the package, by propagation
python -m bench.align.oracle fr_en-without-names --method model --record

The oracle stands in for the person at the page of `report`, who sees the same matches first.
"""

from __future__ import annotations

import argparse
import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from bench._record import ROOT, record
from bench.align.tasks import TASKS
from loginmea_fast.evaluation.matches import match_metrics
from loginmea_fast.runs.aligning import MatchFile, read_matches
from loginmea_fast.runs.aligning.formats import safe_text

Pair = tuple[str, str]


def main() -> None:
    """Align, decide, align again, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("task", nargs="?", choices=list(TASKS), default="embedded")
    parser.add_argument("--method", choices=("propagate", "model"), default="propagate")
    parser.add_argument("--count", type=int, default=200, help="decisions")
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "bench-align")
    parser.add_argument("--record", action="store_true")
    args = parser.parse_args()
    row = measure(args.task, args.method, args.count, args.work)
    for name in ("before", "after", "before_apart", "after_apart"):
        found = row[name]
        print(f"{name:13} precision {found['precision']:.3f} recall {found['recall']:.3f}")
    if args.record:
        note = "precision and recall at the default threshold, by all links that were not known; decided ones count"
        record("align-decisions", [row], note=note, merge="key")


def measure(name: str, method: str, count: int, work: Path) -> dict[str, Any]:
    """Precision and recall before the decisions and after them, of all and apart from the entities decided on."""
    task, folder = TASKS[name], work / name
    if not (folder / "gold.tsv").is_file():
        folder.mkdir(parents=True, exist_ok=True)
        task.export(folder)
    gold = read_matches(folder / "gold.tsv").pairs
    command = [sys.executable, "-m", "loginmea_fast", "align", f"left{task.suffix}", f"right{task.suffix}"]
    command += ["--seeds", "seeds.tsv", *task.flags, "--method", method, "--overwrite", "--json"]

    def align(out: str, *more: str) -> tuple[list[Pair], list[Pair]]:
        """Accepted matches, and all, the most doubtful first."""
        done = subprocess.run([*command, "--out", out, *more], cwd=folder, stdout=subprocess.PIPE, text=True)
        if done.returncode:
            raise SystemExit(f"align ended with {done.returncode}")
        threshold = json.loads(done.stdout)["threshold"]
        files = [folder / out / f"{part}.tsv" for part in ("alignment", "rejected")]
        parts = [
            read_matches(file) if len(file.read_text().splitlines()) > 1 else MatchFile([], None)
            for file in files
        ]
        every = [pair for part in parts for pair in part.pairs]
        sure = [confidence for part in parts for confidence in part.confidence or []]
        order = sorted(range(len(every)), key=lambda place: abs(sure[place] - threshold))
        return list(parts[0].pairs), [every[place] for place in order]

    def figures(pairs: list[Pair], known: list[Pair]) -> dict[str, float]:
        found = match_metrics(pairs, known)
        return {key: found[key] for key in ("precision", "recall", "f1")}

    before, doubtful = align("before-decisions")
    right, judged = set(gold), {entity for pair in gold for entity in pair}
    decided = [pair for pair in doubtful if pair[0] in judged or pair[1] in judged][:count]
    with (folder / "decisions.tsv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter="\t", lineterminator="\n")
        writer.writerow(["left", "right", "decision"])
        for pair in decided:
            writer.writerow([*map(safe_text, pair), "accepted" if pair in right else "rejected"])
    after, _ = align("after-decisions", "--decisions", "decisions.tsv")
    seen = [{pair[side] for pair in decided} for side in (0, 1)]

    def apart(pairs: list[Pair]) -> list[Pair]:
        return [pair for pair in pairs if pair[0] not in seen[0] and pair[1] not in seen[1]]

    return {
        "key": f"{name} {method} {count}",
        "task": name,
        "title": task.title,
        "method": method,
        "decisions": len(decided),
        "accepted": sum(pair in right for pair in decided),
        "before": figures(before, gold),
        "after": figures(after, gold),
        "before_apart": figures(apart(before), apart(gold)),
        "after_apart": figures(apart(after), apart(gold)),
    }


if __name__ == "__main__":
    main()
