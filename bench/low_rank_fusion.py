"""Adaptive low-rank fusion and its gradient: providers side by side, right before fast, each in a process of its own.

python bench/low_rank_fusion.py                     # rows of zh_en, three modalities 300 wide, rank 8
python bench/low_rank_fusion.py --sweep             # rows, ranks, modalities and widths, ours alone
python bench/low_rank_fusion.py --rows 5000 --rank 4
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
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
from bench._record import record

ENTITIES = 38_960  # of zh_en
# Largest relative L2 error of the output and of any gradient against float64 that a provider may have and be timed.
# The rank weights' gradient, a few numbers that are each a difference of large sums, is reported but not bounded.
BOUNDS = {"float32": 1e-5, "bfloat16": 6e-3}


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
    """The operator, with the scale that folds attention and lengths into it."""

    def forward(a: Arguments) -> Tensor:
        from loginmea_fast.ops.low_rank_fusion import low_rank_fusion, modality_scale

        scale = modality_scale(a["inputs"], a["query"][0])
        return low_rank_fusion(
            a["inputs"], a["factors"], a["rank_weights"][0], a["bias"][0], scale, **options
        )

    return forward


PROVIDERS: dict[str, Callable[[Arguments], Tensor]] = {
    "authors": authors,
    "clean": clean,
    "torch.compile": torch.compile(authors, dynamic=False),
    "ours reference": ours(backend="reference"),
    "ours float32": ours(),
    "ours float32 kept": ours(keep_products=True),
    "ours bfloat16 products": ours(precision="bfloat16"),
    "ours bfloat16": ours(),
}
OURS = tuple(name for name in PROVIDERS if name.startswith("ours") and "reference" not in name)


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


def errors_of(name: str, case: Case, rows: int) -> dict[str, float]:
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


def fma_rate() -> float:
    """Float32 operations a second of multiply-adds that stay in registers: what no product can exceed."""
    from loginmea_fast import native

    return native.load("cpu").measure_fma(0.1, torch.get_num_threads())


def gemm_rate(case: Case, dtype: torch.dtype) -> float:
    """FLOP/s of torch.mm on the product of one modality and one rank."""
    left = torch.randn(case.rows, case.width).to(dtype)
    right = torch.randn(case.width, case.width).to(dtype)
    seconds = []
    for _ in range(6):
        start = time.perf_counter()
        torch.mm(left, right)
        seconds.append(time.perf_counter() - start)
    return 2 * case.rows * case.width**2 / statistics.median(seconds[1:])


def in_process(name: str, case: Case, measure: str, repeats: int, check_rows: int) -> dict[str, object]:
    """What a child process does: check and time one provider, or find its peak memory."""
    forward = PROVIDERS[name]
    if measure == "memory":
        a = prepared(name, case)
        warm = prepared(name, case, 100) if name != "torch.compile" else a
        step(forward, warm)
        Path("/proc/self/clear_refs").write_text("5")
        before = resident("VmRSS")
        *_, results = step(forward, a)
        kept = sum(t.numel() * t.element_size() for t in results)
        return {"bytes": resident("VmHWM") - before, "result_bytes": kept}
    errors = errors_of(name, case, check_rows)
    a = prepared(name, case)
    step(forward, a)
    times, rates = [], []
    for _ in range(repeats):
        rates.append(fma_rate())
        times.append(step(forward, a)[:2])
    seconds = [statistics.median(t) for t in zip(*times, strict=True)]
    return {"forward": seconds[0], "backward": seconds[1], "fma": statistics.median(rates), "errors": errors}


def child(name: str, case: Case, measure: str, repeats: int, check_rows: int) -> dict[str, object]:
    """Run one provider in a process of its own."""
    command = [sys.executable, __file__, "--provider", name, "--measure", measure, "--repeats", str(repeats)]
    command += ["--check-rows", str(check_rows)]
    for field, value in dataclasses.asdict(case).items():
        command += [f"--{field}", str(value)]
    environment = dict(os.environ)
    if measure == "memory":
        # Memory that is freed goes back at once, so that the peak is of what is alive.
        environment |= {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    with tempfile.TemporaryFile("w+") as log:
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, stderr=log, text=True)
        log.seek(0)
        if done.returncode:
            raise SystemExit(log.read().strip().splitlines()[-1])
    return json.loads(done.stdout.splitlines()[-1])


def report(case: Case, providers: Sequence[str], repeats: int, check_rows: int) -> list[dict[str, object]]:
    """Print the table of one case; returns its rows."""
    rates = {dtype: gemm_rate(case, dtype) for dtype in (torch.float32, torch.bfloat16)}
    print(f"\n{case}; {case.operations / 1e9:.0f} GFLOP a product with all factors")
    print(
        f"torch.mm: float32 {rates[torch.float32] / 1e9:.0f} GFLOP/s, bfloat16 {rates[torch.bfloat16] / 1e9:.0f}; "
        f"multiply-adds in registers, float32: {fma_rate() / 1e9:.0f} GFLOP/s"
    )
    print(
        f"{'':24}{'forward':>9}{'':>8}{'GFLOP/s':>9}{'of FMA':>8}{'backward':>10}{'':>8}{'GFLOP/s':>9}{'MB':>8}"
        f"{'beside results':>16}{'error':>9}{'gradients':>11}"
    )
    rows: list[dict[str, object]] = []
    for name in providers:
        timed = child(name, case, "time", repeats, check_rows)
        used = child(name, case, "memory", 1, check_rows)
        errors: dict[str, float] = timed.pop("errors")
        worst = max(error for label, error in errors.items() if label not in ("output", "rank_weights"))
        products = 3 if "ours" in name and "kept" not in name else 2  # recomputation is work that is done
        row = {
            "provider": name,
            **dataclasses.asdict(case),
            **timed,
            **used,
            "forward_flops": case.operations / timed["forward"],
            "backward_flops": products * case.operations / timed["backward"],
            "error": errors["output"],
            "gradient_error": worst,
            "rank_weights_error": errors["rank_weights"],
        }
        rows.append(row)
        first = rows[0]
        print(
            f"{name:24}{row['forward']:9.3f}{first['forward'] / row['forward']:7.2f}x{row['forward_flops'] / 1e9:9.0f}"
            f"{row['forward_flops'] / row['fma']:8.0%}{row['backward']:10.3f}"
            f"{first['backward'] / row['backward']:7.2f}x{row['backward_flops'] / 1e9:9.0f}{row['bytes'] / 1e6:8.0f}"
            f"{(row['bytes'] - row['result_bytes']) / 1e6:16.0f}{row['error']:9.1e}{worst:11.1e}",
            flush=True,
        )
    rows[0] |= {"mm_float32": rates[torch.float32], "mm_bfloat16": rates[torch.bfloat16]}
    return rows


def main() -> None:
    """Print the tables, or serve as one provider's process."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for field in dataclasses.fields(Case):
        parser.add_argument(
            f"--{field.name}", type=int, default=field.default, help=f"default {field.default}"
        )
    parser.add_argument("--sweep", action="store_true", help="other sizes, one at a time, ours alone")
    parser.add_argument("--providers", nargs="+", choices=tuple(PROVIDERS), help="default: all")
    parser.add_argument("--repeats", type=int, default=5, help="timed calls; their median counts")
    parser.add_argument(
        "--check-rows", type=int, default=2000, help="rows compared with float64 before timing"
    )
    parser.add_argument("--record", action="store_true", help="keep the figures in bench/results")
    parser.add_argument("--provider", choices=tuple(PROVIDERS), help=argparse.SUPPRESS)
    parser.add_argument("--measure", choices=("time", "memory"), default="time", help=argparse.SUPPRESS)
    args = parser.parse_args()
    case = Case(args.rows, args.modalities, args.width, args.rank)
    if args.provider:
        print(json.dumps(in_process(args.provider, case, args.measure, args.repeats, args.check_rows)))
        return
    providers = args.providers or (OURS if args.sweep else tuple(PROVIDERS))
    rows = [
        row
        for each in (SWEEP if args.sweep else (case,))
        for row in report(each, providers, args.repeats, args.check_rows)
    ]
    if args.record:
        record(
            "low_rank_fusion-sizes" if args.sweep else "low_rank_fusion",
            rows,
            note="forward and backward in seconds; backward_flops count the recomputation as work; `bytes` is the "
            "peak of one forward and backward beyond the arguments, `result_bytes` the output and gradients in it",
        )


if __name__ == "__main__":
    main()
