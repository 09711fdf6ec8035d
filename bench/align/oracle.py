"""What decisions are worth: the most doubtful matches are decided by links known to be right, then aligned again.

python -m bench.align.oracle                    # 200 decisions on the pair inside the package, by propagation
python -m bench.align.oracle fr_en-without-names --method model --draws 3 --record

The oracle stands in for the person at the page of `report`, who sees the same matches first.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import shutil
import subprocess
import sys
from pathlib import Path
from statistics import fmean
from typing import Any

from bench._record import ROOT, record
from bench.align.tasks import TASKS
from loginmea_fast.evaluation.matches import match_metrics
from loginmea_fast.runs.aligning import MatchFile, read_matches
from loginmea_fast.runs.aligning.formats import safe_text

Pair = tuple[str, str]
STATES = tuple(f"{when}{which}" for which in ("", "_apart") for when in ("before", "after", "after_as_many"))


def main() -> None:
    """Align, decide, align again, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("task", nargs="?", choices=list(TASKS), default="embedded")
    parser.add_argument("--method", choices=("propagate", "model"), default="propagate")
    parser.add_argument("--count", type=int, default=200, help="decisions")
    parser.add_argument("--draws", type=int, default=1, help="of which pairs are known; means are printed")
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "bench-align")
    parser.add_argument("--record", action="store_true")
    args = parser.parse_args()
    draws = [measure(args.task, args.method, args.count, args.work, draw) for draw in range(args.draws)]
    for name in STATES:
        means = {key: fmean(draw[name][key] for draw in draws) for key in ("precision", "recall")}
        print(f"{name:19} precision {means['precision']:.3f} recall {means['recall']:.3f}")
    if args.record:
        row = {
            "key": f"{args.task} {args.method} {args.count}",
            "task": args.task,
            "title": TASKS[args.task].title,
            "method": args.method,
            "draws": draws,
        }
        note = "precision and recall by all links that were not known; decided ones count"
        record("align-decisions", [row], note=note, merge="key")


def measure(name: str, method: str, count: int, work: Path, draw: int) -> dict[str, Any]:
    """Precision and recall before the decisions and after them, of all and apart from the entities decided on.

    After them they are measured twice: at the default threshold, and of as many matches as there were before, the
    surest, which tells what was learned from where the threshold fell.
    """
    task, folder = TASKS[name], work / f"{name}-{draw}"
    if not folder.is_dir():
        half = folder.with_name(f".{folder.name}")
        shutil.rmtree(half, ignore_errors=True)
        half.mkdir(parents=True)
        task.export(half)
        if draw:
            _redraw(half, draw)
        half.rename(folder)
    gold = read_matches(folder / "gold.tsv").pairs
    command = [sys.executable, "-m", "loginmea_fast", "align", f"left{task.suffix}", f"right{task.suffix}"]
    command += ["--seeds", "seeds.tsv", *task.flags, "--method", method, "--overwrite", "--json"]

    def align(out: str, *more: str) -> tuple[list[Pair], list[Pair], list[Pair]]:
        """Accepted matches; all, the surest first; and all, the most doubtful first."""
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
        surest = sorted(range(len(every)), key=lambda place: -sure[place])
        doubtful = sorted(range(len(every)), key=lambda place: abs(sure[place] - threshold))
        return list(parts[0].pairs), [every[place] for place in surest], [every[place] for place in doubtful]

    def figures(pairs: list[Pair], known: list[Pair]) -> dict[str, float]:
        found = match_metrics(pairs, known)
        return {key: found[key] for key in ("precision", "recall", "f1")}

    before, _, doubtful = align("before-decisions")
    right, judged = set(gold), {entity for pair in gold for entity in pair}
    decided = [pair for pair in doubtful if pair[0] in judged or pair[1] in judged][:count]
    with (folder / "decisions.tsv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter="\t", lineterminator="\n")
        writer.writerow(["left", "right", "decision"])
        for pair in decided:
            writer.writerow([*map(safe_text, pair), "accepted" if pair in right else "rejected"])
    after, surest, _ = align("after-decisions", "--decisions", "decisions.tsv")
    seen = [{pair[side] for pair in decided} for side in (0, 1)]

    def apart(pairs: list[Pair]) -> list[Pair]:
        return [pair for pair in pairs if pair[0] not in seen[0] and pair[1] not in seen[1]]

    return {
        "decisions": len(decided),
        "accepted": sum(pair in right for pair in decided),
        "before": figures(before, gold),
        "after": figures(after, gold),
        "after_as_many": figures(surest[: len(before)], gold),
        "before_apart": figures(apart(before), apart(gold)),
        "after_apart": figures(apart(after), apart(gold)),
        "after_as_many_apart": figures(apart(surest)[: len(apart(before))], apart(gold)),
    }


def _redraw(folder: Path, draw: int) -> None:
    """Exchange known pairs for others."""
    header, *known = (folder / "seeds.tsv").read_text(encoding="utf-8").splitlines()
    links = known + (folder / "gold.tsv").read_text(encoding="utf-8").splitlines()
    random.Random(draw).shuffle(links)
    for file, lines in (("seeds", [header, *links[: len(known)]]), ("gold", links[len(known) :])):
        (folder / f"{file}.tsv").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


if __name__ == "__main__":
    main()
