"""Ranks with CSLS both ways: providers side by side, right before fast, each run in a process of its own.

python bench/alignment_search.py                       # 10,500 pairs, 2,400 wide: the test links of zh_en
python bench/alignment_search.py --pairs 70000 --providers "ours float32" "ours bfloat16 screen" --rounds 1
"""

from __future__ import annotations

import argparse
import ctypes
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

sys.path.insert(
    0, str(Path(__file__).resolve().parents[1])
)  # run as a file, the repository root is not on the path
from bench._record import record

ROOT = Path(__file__).resolve().parents[1]
PAIRS = 10_500
NEIGHBOURS = 10  # of CSLS
LATENT = 96  # dimensions in which entities differ
CHUNK = 4096
SLOW = 5.0  # seconds; a provider that takes longer is run once


def pairs_of(count: int, width: int) -> tuple[Tensor, Tensor]:
    """Embeddings [count, width] of pairs as a trained model leaves them: most, not all, find their counterpart."""
    generator = torch.Generator().manual_seed(0)
    basis = torch.randn(LATENT, width, generator=generator)
    left, right = torch.empty(count, width), torch.empty(count, width)
    for start in range(0, count, CHUNK):
        rows = min(CHUNK, count - start)
        entity = torch.randn(rows, LATENT, generator=generator)
        for side in (left, right):
            seen = entity + 1.1 * torch.randn(rows, LATENT, generator=generator)
            side[start : start + rows] = seen @ basis + 3 * torch.randn(rows, width, generator=generator)
    return left, right


def authors(left: Tensor, right: Tensor, csls_k: int = NEIGHBOURS) -> tuple[Tensor, Tensor]:
    """As the authors evaluate: a dense distance matrix, CSLS on it, and a sort of every row and of every column."""
    left, right = F.normalize(left), F.normalize(right)
    squares = (left**2).sum(1)[:, None] + (right**2).sum(1)[None, :]
    distance = (squares - 2 * torch.mm(left, right.T)).clamp(min=0)
    similarity = 1 - distance
    nearest_left = similarity.topk(csls_k)[0].mean(1)
    nearest_right = similarity.t().topk(csls_k)[0].mean(1)
    corrected = (2 * similarity.t() - nearest_left).t() - nearest_right
    distance = 1 - corrected
    ranks: tuple[list[int], list[int]] = ([], [])
    for pair in range(len(left)):
        for way, line in zip(ranks, (distance[pair], distance[:, pair]), strict=True):
            order = line.sort()[1]
            way.append((order == pair).nonzero().item() + 1)
    return torch.tensor(ranks[0], dtype=torch.float32), torch.tensor(ranks[1], dtype=torch.float32)


def dense(left: Tensor, right: Tensor, csls_k: int = NEIGHBOURS) -> tuple[Tensor, Tensor]:
    """The same matrix, with a comparison in place of every sort."""
    scores = F.normalize(left) @ F.normalize(right).T
    nearest_left = scores.topk(csls_k, dim=1)[0].mean(1)
    nearest_right = scores.topk(csls_k, dim=0)[0].mean(0)
    scores = scores.mul_(2).sub_(nearest_left[:, None]).sub_(nearest_right)
    own = scores.diagonal()
    return 1 + (scores > own[:, None]).sum(1).float(), 1 + (scores > own[None, :]).sum(0).float()


def blocked(left: Tensor, right: Tensor, csls_k: int = NEIGHBOURS, rows: int = 1024) -> tuple[Tensor, Tensor]:
    """Two passes over blocks of rows in PyTorch: nothing of size pairs x pairs."""
    left, right = F.normalize(left), F.normalize(right)
    nearest_left = torch.empty(len(left))
    best_right = torch.full((csls_k, len(right)), -torch.inf)
    for start in range(0, len(left), rows):
        scores = left[start : start + rows] @ right.T
        nearest_left[start : start + rows] = scores.topk(csls_k, dim=1)[0].mean(1)
        best_right = torch.cat([best_right, scores.topk(min(csls_k, len(scores)), dim=0)[0]]).topk(
            csls_k, dim=0
        )[0]
    nearest_right = best_right.mean(0)
    own = 2 * (left * right).sum(1) - nearest_left - nearest_right
    ranks_lr, ranks_rl = torch.ones(len(left)), torch.ones(len(right))
    for start in range(0, len(left), rows):
        scores = left[start : start + rows] @ right.T
        scores = scores.mul_(2).sub_(nearest_left[start : start + rows, None]).sub_(nearest_right)
        ranks_lr[start : start + rows] += (scores > own[start : start + rows, None]).sum(1)
        ranks_rl += (scores > own).sum(0)
    return ranks_lr, ranks_rl


def ours(backend: str, screen: str | None = None) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """The operator on one backend."""

    def ranks(left: Tensor, right: Tensor, csls_k: int = NEIGHBOURS) -> tuple[Tensor, Tensor]:
        from loginmea_fast.ops import alignment_ranks

        return tuple(alignment_ranks(left, right, csls_k, screen=screen, backend=backend))

    return ranks


TRUTH = "reference float64"
PROVIDERS = {
    "authors": authors,
    "dense": dense,
    "blocked": blocked,
    TRUTH: ours("reference"),
    "ours float32": ours("cpu"),
    "ours bfloat16 screen": ours("cpu", "bfloat16"),
}
DESCRIPTIONS = {
    "authors": "dense matrix, every row and column sorted",
    "dense": "dense matrix, compared",
    "blocked": "blocks in PyTorch, float32",
    TRUTH: "blocks in PyTorch, float64",
    "ours float32": "float32 tiles, settled in float64",
    "ours bfloat16 screen": "bfloat16 tiles, settled in float64",
}


def resident(field: str) -> int:
    """Bytes of this process's memory: VmRSS now, VmHWM at most since the peak was reset."""
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith(field + ":"))
    return int(line.split()[1]) * 1024


def in_process(provider: str, pairs: int, width: int, ranks_file: str) -> dict[str, float]:
    """One run of one provider: its time, its peak memory beyond the inputs, and its ranks to a file."""
    function = PROVIDERS[provider]
    function(*pairs_of(1000, width))  # libraries are loaded, threads exist
    left, right = pairs_of(pairs, width)
    ctypes.CDLL(None).malloc_trim(0)  # what was freed must not serve the provider unseen
    Path("/proc/self/clear_refs").write_text("5")
    before = resident("VmRSS")
    start = time.perf_counter()
    ranks = function(left, right)
    seconds = time.perf_counter() - start
    peak = resident("VmHWM") - before
    torch.save(ranks, ranks_file)
    return {"seconds": seconds, "bytes": peak}


def child(provider: str, pairs: int, width: int, ranks_file: Path) -> dict[str, float]:
    """Run a provider in a process of its own."""
    command = [sys.executable, __file__, "--child", provider, "--pairs", str(pairs), "--width", str(width)]
    done = subprocess.run([*command, "--ranks-file", str(ranks_file)], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{provider}: {done.stderr.strip().splitlines()[-1]}")
    return json.loads(done.stdout.splitlines()[-1])


def multiply_adds() -> float:
    """FLOP/s of multiply-adds in float32 that never leave the registers."""
    from loginmea_fast import native

    return max(native.load("cpu").measure_fma(0.2, torch.get_num_threads()) for _ in range(3))


def report(pairs: int, width: int, providers: list[str], rounds: int, keep: bool) -> None:
    """Print the table of one size and keep its record."""
    peak = multiply_adds()
    operations = 2 * 2 * pairs * pairs * width
    inputs = 2 * 4 * pairs * width
    print(
        f"{pairs:,} pairs, {width:,} wide, CSLS with {NEIGHBOURS} neighbours, both ways; inputs {inputs / 1e6:,.0f} MB"
    )
    print(
        f"two passes {operations / 1e9:,.0f} GFLOP; multiply-adds of this machine {peak / 1e9:,.0f} GFLOP/s in float32"
    )
    print(
        f"medians of {rounds}, providers in turn, one run of what takes {SLOW:.0f} s; memory beyond the inputs",
        flush=True,
    )
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in providers}
    ranks: dict[str, tuple[Tensor, Tensor]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(rounds):
            for name in providers:
                if turn == 0 or runs[name][0]["seconds"] < SLOW:
                    runs[name].append(child(name, pairs, width, Path(folder) / "ranks.pt"))
                    ranks[name] = torch.load(Path(folder) / "ranks.pt")
    exact = [name for name in providers if name == TRUTH or name.startswith("ours")]
    for name in exact[1:]:
        for one, other in zip(ranks[exact[0]], ranks[name], strict=True):
            if not torch.equal(one, other):
                unequal = int((one != other).sum())
                raise SystemExit(f"{name} and {exact[0]} disagree on {unequal} ranks: not reported")
    truth = ranks[exact[0] if exact else providers[0]]
    hits = (truth[0] <= 1).double().mean().item()
    print(f"Hits@1 {hits:.3f}; every rank the same: {', '.join(exact)}\n")
    print(f"{'':24}{'seconds':>9}{'GFLOP/s':>9}{'speed':>8}{'MB':>8}{'memory':>9}{'other ranks':>13}")
    rows: list[dict[str, object]] = []
    middle = {name: statistics.median(run["seconds"] for run in runs[name]) for name in providers}
    peaks = {name: statistics.median(run["bytes"] for run in runs[name]) for name in providers}
    for name in providers:
        seconds, held = middle[name], peaks[name]
        speed, memory = middle[providers[0]] / seconds, peaks[providers[0]] / held
        unequal = sum(int((one != other).sum()) for one, other in zip(ranks[name], truth, strict=True))
        print(
            f"{name:24}{seconds:9.2f}{operations / seconds / 1e9:9,.0f}{speed:7.1f}x"
            f"{held / 1e6:8,.0f}{f'1/{memory:.1f}':>9}{unequal:13,}"
        )
        row = {
            "provider": name,
            "case": f"{pairs:,} x {width:,}",
            "what": DESCRIPTIONS[name],
            "seconds": seconds,
        }
        row |= {
            "speed": speed,
            "bytes": held,
            "flops": operations / seconds,
            "other_ranks": unequal,
        }
        rows.append(row | {"runs": [run["seconds"] for run in runs[name]]})
    if keep:
        name = "alignment_search" if pairs == PAIRS else f"alignment_search-{pairs}"
        note = "Speed is relative to the first provider; bytes are the peak beyond the inputs, in a process of its own."
        path = record(name, rows, note=note, fma_flops=peak, hits_at_1=hits, csls_k=NEIGHBOURS)
        print(f"\nkept in {path.relative_to(ROOT)}")


def main() -> None:
    """Print the table, or serve as one provider's process."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=PAIRS, help="number of pairs")
    parser.add_argument("--width", type=int, default=2400, help="width of a row")
    parser.add_argument(
        "--rounds", type=int, default=3, help="runs of every quick provider, in turn; the median counts"
    )
    parser.add_argument("--providers", nargs="+", choices=PROVIDERS, default=list(PROVIDERS), metavar="NAME")
    parser.add_argument("--record", action="store_true", help="keep the figures in bench/results")
    parser.add_argument("--child", choices=PROVIDERS, help=argparse.SUPPRESS)
    parser.add_argument("--ranks-file", default="", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        print(json.dumps(in_process(args.child, args.pairs, args.width, args.ranks_file)))
        return
    report(args.pairs, args.width, args.providers, args.rounds, args.record)


if __name__ == "__main__":
    main()
