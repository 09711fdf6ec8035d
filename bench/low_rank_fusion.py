"""Adaptive low-rank fusion and its gradient: providers side by side, right before fast, each in a process of its own.

python bench/low_rank_fusion.py                     # rows of zh_en, three modalities 300 wide, rank 8: every provider;
                                                    # then other rows, ranks, modalities and widths: authors and ours
python bench/low_rank_fusion.py --cases main        # one of the two; --record adds to what is on record
python bench/low_rank_fusion.py --rows 5000 --rank 4
"""

from __future__ import annotations

import argparse
import ctypes
import dataclasses
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from bench._record import RESULTS, commit, machine_slug, record

ENTITIES = 38_960  # of zh_en
# Largest relative L2 error of the output and of any gradient against float64 that a provider may have and be timed.
# The rank weights' gradient, a few numbers that are each a difference of large sums, is reported but not bounded.
BOUNDS = {"float32": 1e-5, "bfloat16": 6e-3}
# A virtual machine's two cores are at times threads of one. Rounds with less than this share of what all threads should
# reach are taken again, at most as many times as there are rounds.
WHOLE_MACHINE = 0.85


@dataclasses.dataclass(frozen=True)
class Case:
    """Sizes: rows B, modalities M, widths d_m = d, rank K."""

    rows: int = ENTITIES
    modalities: int = 3
    width: int = 300
    rank: int = 8

    @property
    def operations(self) -> int:
        """Floating-point operations of one product with all factors; backward has two, three with recomputation."""
        return 2 * self.rows * self.rank * self.modalities * self.width * self.width

    def __str__(self) -> str:
        return f"{self.rows:,} rows, {self.modalities} modalities {self.width} wide, rank {self.rank}"


SWEEP = (
    Case(rows=100_000),
    Case(rank=4),
    Case(rank=32),
    Case(modalities=2),
    Case(modalities=5),
    Case(width=100),
    Case(width=512),
)
CHECK_ROWS = 2000  # compared with float64 before timing
NAMES = ("inputs", "query", "factors", "rank_weights", "bias")
Arguments = dict[str, list[Tensor]]


def arguments_of(case: Case) -> Arguments:
    """Inputs and parameters whose every part counts: factors of one scale, no bias that would hide small errors."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    m, k, d = case.modalities, case.rank, case.width
    return {
        "inputs": [normal(case.rows, d) for _ in range(m)],
        "query": [normal(1, d) / d**0.5],
        "factors": [normal(k, d + 1, d) for _ in range(m)],
        "rank_weights": [normal(1, k)],
        "bias": [torch.zeros(1, d)],
        "upstream": [normal(case.rows, d)],
    }


def authors(a: Arguments) -> Tensor:
    """The authors' formulation: the constant is concatenated, every product is materialised."""
    x = a["inputs"]
    weights = (torch.tanh(torch.stack(x, 1)) @ a["query"][0].T).squeeze(-1).softmax(-1)
    product: Tensor | float = 1.0
    for m, factor in enumerate(a["factors"]):
        t = F.normalize(x[m]) * weights[:, m, None]
        product = product * torch.matmul(torch.cat([t.new_ones(len(t), 1), t], 1), factor)
    return torch.matmul(a["rank_weights"][0], product.permute(1, 0, 2)).squeeze(1) + a["bias"][0]


def clean(a: Arguments) -> Tensor:
    """The same written with care: one addmm a modality and rank, the ranks summed as they come."""
    x = a["inputs"]
    scores = torch.stack([torch.tanh(v) @ a["query"][0][0] for v in x], 1)
    scale = scores.softmax(1) / torch.stack([v.norm(dim=1) for v in x], 1).clamp_min(1e-12)
    t = [v * scale[:, m, None] for m, v in enumerate(x)]
    total = a["bias"][0]
    for k in range(a["rank_weights"][0].shape[1]):
        product = a["rank_weights"][0][0, k]
        for v, factor in zip(t, a["factors"], strict=True):
            product = product * torch.addmm(factor[k, 0], v, factor[k, 1:])
        total = total + product
    return total


def ours(**options: object) -> Callable[[Arguments], Tensor]:
    """The operator, its scale folded in."""

    def forward(a: Arguments) -> Tensor:
        from loginmea_fast.ops.low_rank_fusion import adaptive_low_rank_fusion

        return adaptive_low_rank_fusion(
            a["inputs"], a["query"][0], a["factors"], a["rank_weights"][0], a["bias"][0], **options
        )

    return forward


PROVIDERS: dict[str, Callable[[Arguments], Tensor]] = {
    "authors": authors,
    "clean": clean,
    "torch.compile": torch.compile(authors, dynamic=False),
    "blocked torch": ours(backend="reference"),
    "ours float32": ours(),
    "ours float32 kept": ours(keep_products=True),
    "ours bfloat16 products": ours(precision="bfloat16"),
    "ours bfloat16": ours(),
}
OURS = tuple(name for name in PROVIDERS if name.startswith("ours"))


def prepared(name: str, case: Case, rows: int | None = None) -> Arguments:
    """Leaves of autograd for this provider; `rows` cuts the case short."""
    a = arguments_of(case if rows is None else dataclasses.replace(case, rows=min(rows, case.rows)))
    if name == "ours bfloat16":
        a = {
            n: [t.bfloat16() if n in ("inputs", "factors", "upstream") else t for t in g]
            for n, g in a.items()
        }
    return {n: [t.requires_grad_(n != "upstream") for t in g] for n, g in a.items()}


def step(forward: Callable[[Arguments], Tensor], a: Arguments) -> tuple[float, float, list[Tensor]]:
    """Seconds of forward and backward; output and gradients, in the order of NAMES."""
    start = time.perf_counter()
    y = forward(a)
    between = time.perf_counter()
    gradients = torch.autograd.grad(y, [t for n in NAMES for t in a[n]], a["upstream"][0])
    return between - start, time.perf_counter() - between, [y.detach(), *gradients]


def errors_of(name: str, case: Case, rows: int = CHECK_ROWS) -> dict[str, float]:
    """Relative L2 errors on the first rows, from the same rounded arguments; raises where they are too large."""
    from loginmea_fast.reference.low_rank_fusion import low_rank_fusion, modality_scale

    def formula(a: Arguments) -> Tensor:
        scale = modality_scale(a["inputs"], a["query"][0])
        return low_rank_fusion(a["inputs"], a["factors"], a["rank_weights"][0], a["bias"][0], scale)

    a = prepared(name, case, rows)
    *_, actual = step(PROVIDERS[name], a)
    exact = {n: [t.detach().double().requires_grad_(n != "upstream") for t in g] for n, g in a.items()}
    *_, expected = step(formula, exact)
    labels = ["output", *(n for n in NAMES for _ in a[n])]
    errors: dict[str, float] = {}
    for label, x, e in zip(labels, actual, expected, strict=True):
        errors[label] = max(errors.get(label, 0.0), ((x.double() - e).norm() / e.norm()).item())
    bound = BOUNDS["bfloat16" if "bfloat16" in name else "float32"]
    worst = max(error for label, error in errors.items() if label != "rank_weights")
    if not worst <= bound:
        raise SystemExit(f"{name}: errors {errors}: not timed")
    return errors


def resident(field: str) -> int:
    """Bytes of this process's memory: VmRSS now, VmHWM at most since the peak was reset."""
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith(field + ":"))
    return int(line.split()[1]) * 1024


def fma_rate(threads: int) -> float:
    """Float32 operations a second of multiply-adds that stay in registers: what no product can exceed."""
    from loginmea_fast import native

    return native.load("cpu").measure_fma(0.05, threads)


def gemm_rate(case: Case, dtype: torch.dtype) -> float:
    """FLOP/s of torch.mm on the product of one modality and one rank, into memory that is there."""
    left = torch.randn(case.rows, case.width).to(dtype)
    right = torch.randn(case.width, case.width).to(dtype)
    out = torch.empty(case.rows, case.width, dtype=dtype)
    seconds = []
    for _ in range(6):
        start = time.perf_counter()
        torch.mm(left, right, out=out)
        seconds.append(time.perf_counter() - start)
    return 2 * case.rows * case.width**2 / statistics.median(seconds[1:])


def peak_memory(forward: Callable[[Arguments], Tensor], a: Arguments) -> dict[str, int]:
    """Bytes of one forward and backward beyond the arguments, and of the output and gradients among them."""
    libc, trim, mmap = ctypes.CDLL(None), -1, -3  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD
    # Memory that is freed goes back at once, so that the peak is of what is alive.
    libc.mallopt(trim, 65536), libc.mallopt(mmap, 65536), libc.malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    before = resident("VmRSS")
    *_, results = step(forward, a)
    peak = resident("VmHWM") - before
    libc.mallopt(trim, 64 << 20), libc.mallopt(mmap, 32 << 20)  # as glibc itself would have adapted by now
    return {"bytes": peak, "result_bytes": sum(t.numel() * t.element_size() for t in results)}


def rounds(forward: Callable[[Arguments], Tensor], a: Arguments, repeats: int) -> dict[str, float]:
    """Median seconds of `repeats` rounds, and the ceiling measured around each."""
    threads = torch.get_num_threads()
    taken: list[tuple[float, float, float]] = []  # rate of multiply-adds, forward, backward
    enough = WHOLE_MACHINE * threads * fma_rate(1)
    while sum(rate >= enough for rate, *_ in taken) < repeats and len(taken) < 2 * repeats:
        before = fma_rate(threads)
        seconds = step(forward, a)[:2]
        taken.append((min(before, fma_rate(threads)), *seconds))
    whole = [t for t in taken if t[0] >= enough]
    rate, ahead, back = (statistics.median(column) for column in zip(*(whole or taken), strict=True))
    return {
        "forward": ahead,
        "backward": back,
        "fma": rate,
        "rounds": len(whole or taken),
        "whole_machine": bool(whole),
    }


def in_process(name: str, case: Case, repeats: int) -> dict[str, object]:
    """What a child process does: check one provider, find its peak memory, time it."""
    errors = errors_of(name, case)
    forward, a = PROVIDERS[name], prepared(name, case)
    if name == "torch.compile":
        step(forward, a)  # compiles for these sizes
    used = peak_memory(forward, a)
    return {**rounds(forward, a, repeats), **used, "errors": errors}


def child(name: str, case: Case, repeats: int) -> dict[str, object]:
    """Run one provider in a process of its own."""
    command = [sys.executable, __file__, "--provider", name, "--repeats", str(repeats)]
    for field, value in dataclasses.asdict(case).items():
        command += [f"--{field}", str(value)]
    with tempfile.TemporaryFile("w+") as log:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=log, text=True)
        log.seek(0)
        if done.returncode:
            raise SystemExit(log.read().strip().splitlines()[-1])
    return json.loads(done.stdout.splitlines()[-1])


def measured(name: str, case: Case, repeats: int) -> dict[str, object]:
    """One row of the record."""
    row = child(name, case, repeats)
    errors = row.pop("errors")
    products = (
        3 if name.startswith("ours") and "kept" not in name else 2
    )  # recomputation is work that is done
    return {
        "provider": name,
        **dataclasses.asdict(case),
        **row,
        "forward_flops": case.operations / row["forward"],
        "backward_flops": products * case.operations / row["backward"],
        "error": errors["output"],
        "gradient_error": max(e for label, e in errors.items() if label not in ("output", "rank_weights")),
        "rank_weights_error": errors["rank_weights"],
        "commit": commit(),
    }


def report(case: Case, providers: Sequence[str], repeats: int) -> list[dict[str, object]]:
    """Print the table of one case and return its rows."""
    rates = {dtype: gemm_rate(case, dtype) for dtype in (torch.float32, torch.bfloat16)}
    print(f"\n{case}; {case.operations / 1e9:.0f} GFLOP a product with all factors")
    print(
        f"torch.mm: float32 {rates[torch.float32] / 1e9:.0f} GFLOP/s, bfloat16 {rates[torch.bfloat16] / 1e9:.0f}; "
        f"multiply-adds in registers, float32: {fma_rate(torch.get_num_threads()) / 1e9:.0f} GFLOP/s"
    )
    print(
        f"{'':24}{'forward':>9}{'x authors':>11}{'x compiled':>12}{'GFLOP/s':>9}{'of FMA':>8}{'backward':>10}"
        f"{'x authors':>11}{'x compiled':>12}{'GFLOP/s':>9}{'of FMA':>8}{'MB':>7}{'temporary':>11}{'error':>9}"
        f"{'gradients':>11}"
    )
    seen: dict[str, dict[str, object]] = {}
    for name in providers:
        row = seen[name] = measured(name, case, repeats)
        row |= {"mm_float32": rates[torch.float32], "mm_bfloat16": rates[torch.bfloat16]}
        cells = [f"{name:24}"]
        for half in ("forward", "backward"):
            cells.append(f"{row[half]:{9 if half == 'forward' else 10}.3f}")
            for other, space in (("authors", 10), ("torch.compile", 11)):
                ratio = f"{seen[other][half] / row[half]:.2f}x" if other in seen else ""
                cells.append(f"{ratio:>{space + 1}}")
            cells.append(f"{row[half + '_flops'] / 1e9:9.0f}{row[half + '_flops'] / row['fma']:8.0%}")
        beside = f"{row['bytes'] / 1e6:7.0f}{(row['bytes'] - row['result_bytes']) / 1e6:11.0f}"
        slow = "" if row["whole_machine"] else "  (only part of the machine)"
        print(*cells, beside, f"{row['error']:9.1e}{row['gradient_error']:11.1e}", slow, sep="", flush=True)
    return list(seen.values())


def add_to_record(rows: Sequence[dict[str, object]]) -> None:
    """Replace what is on record of the same cases and providers, keep the rest; each row names its commit."""
    keys = ("provider", *(field.name for field in dataclasses.fields(Case)))
    path = RESULTS / machine_slug() / "low_rank_fusion.json"
    known = json.loads(path.read_text())["rows"] if path.is_file() else []
    table = {tuple(row[key] for key in keys): row for row in [*known, *rows]}
    record(
        "low_rank_fusion",
        list(table.values()),
        note="adaptive fusion, forward and backward in seconds; backward_flops count the recomputation as work; fma: "
        "float32 multiply-adds in registers, mm: torch.mm, measured beside; `bytes` is the peak of one forward and "
        "backward beyond the arguments, `result_bytes` the output and gradients in it",
    )


def main() -> None:
    """Print the tables, or serve as one provider's process."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for field in dataclasses.fields(Case):
        parser.add_argument(
            f"--{field.name}", type=int, help=f"of the one case to run; {field.default} if not given"
        )
    parser.add_argument(
        "--cases",
        choices=("main", "sweep"),
        help="all providers at zh_en's size, or the other sizes; default: both",
    )
    parser.add_argument(
        "--providers", nargs="+", choices=tuple(PROVIDERS), help="default: all, in the sweep authors and ours"
    )
    parser.add_argument("--repeats", type=int, default=3, help="timed calls; their median counts")
    parser.add_argument("--record", action="store_true", help="add the figures to bench/results")
    parser.add_argument("--provider", choices=tuple(PROVIDERS), help=argparse.SUPPRESS)
    args = parser.parse_args()
    given = {
        f.name: getattr(args, f.name) for f in dataclasses.fields(Case) if getattr(args, f.name) is not None
    }
    if args.provider:
        print(json.dumps(in_process(args.provider, Case(**given), args.repeats)))
        return
    cases = [] if args.cases == "sweep" and not given else [(Case(**given), tuple(PROVIDERS))]
    if args.cases != "main" and not given:
        cases += [(case, ("authors", *OURS)) for case in SWEEP]
    for case, providers in cases:
        rows = report(case, args.providers or providers, args.repeats)
        if args.record:
            add_to_record(rows)


if __name__ == "__main__":
    main()
