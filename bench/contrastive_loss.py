"""The contrastive loss and its gradient: providers side by side, right before fast, each in a process of its own.

python bench/contrastive_loss.py                      # B = 3,500 and 10,000, 2,100 wide
python bench/contrastive_loss.py --batch 1000 --width 300
python bench/contrastive_loss.py --hard-sample 900 7300 576    # links, keys, width of the loss over squared distances
python bench/contrastive_loss.py --hard-sample 900 7300 576 --sharpness 50   # the same of a model that is sure
"""

from __future__ import annotations

import argparse
import json
import os
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

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from bench._record import record

TEMPERATURE = 0.1
ENTITIES = 38_960  # of zh_en: the authors' loss normalises the rows of all before it picks those of the batch
SLOW = 5.0  # seconds; a provider that takes longer is timed once
# Largest relative L2 error of a gradient against the float64 formula that a provider may have and still be timed.
BOUNDS = {"float32": 1e-5, "bfloat16": 1e-2}
HARD_SAMPLE_BOUND = 1e-4  # the plain form is float32 too


def rows_of(batch: int, width: int) -> tuple[Tensor, Tensor]:
    """Left and right rows [batch, width] that resemble each other as half-trained embeddings do."""
    generator = torch.Generator().manual_seed(0)
    left = torch.randn(batch, width, generator=generator)
    right = left + 2 * torch.randn(batch, width, generator=generator)
    return left, right


def plain(left: Tensor, right: Tensor) -> Tensor:
    """Cross entropy of the similarity matrix, as one writes it in PyTorch."""
    scores = F.normalize(left) @ F.normalize(right).T / TEMPERATURE
    return F.cross_entropy(scores, torch.arange(len(left)))


def authors(embedding: Tensor, links: Tensor) -> Tensor:
    """The authors' formulation: every row of the embedding is normalised, those of the links are picked."""
    embedding = F.normalize(embedding)
    left, right = embedding[links[:, 0]], embedding[links[:, 1]]
    return F.cross_entropy(left.mm(right.T) / TEMPERATURE, torch.arange(len(links)))


def formula(left: Tensor, right: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Loss and gradients by the formula in float64: what is right."""
    from loginmea_fast.reference.contrastive_loss import contrastive_loss_gradient

    found = contrastive_loss_gradient(left.double(), right.double(), torch.arange(len(left)), TEMPERATURE)
    return found.loss, found.queries, found.keys


Step = Callable[[], tuple[Tensor, Tensor, Tensor]]  # the loss, and its gradients to left and right rows


def provider(name: str, batch: int, width: int) -> Step:
    """One provider's loss and gradient on the rows of this size."""
    from loginmea_fast.ops import contrastive_loss

    left, right = rows_of(batch, width)
    if name == "authors":
        embedding = torch.zeros(max(ENTITIES, 2 * batch), width)
        embedding[:batch], embedding[batch : 2 * batch] = left, right
        links = torch.arange(2 * batch).view(2, batch).T
        embedding.requires_grad_()

        def step() -> tuple[Tensor, Tensor, Tensor]:
            loss = authors(embedding, links)
            (gradient,) = torch.autograd.grad(loss, embedding)
            return loss, gradient[:batch], gradient[batch : 2 * batch]

        return step
    functions = {
        "clean": plain,
        "torch.compile": torch.compile(plain, dynamic=False),
        "ours float32": lambda a, b: contrastive_loss(a, b, TEMPERATURE),
        "ours bfloat16 products": lambda a, b: contrastive_loss(a, b, TEMPERATURE, precision="bfloat16"),
        "ours bfloat16 rows": lambda a, b: contrastive_loss(a, b, TEMPERATURE),
    }
    if name == "ours bfloat16 rows":
        left, right = left.bfloat16(), right.bfloat16()
    left.requires_grad_()
    right.requires_grad_()

    def step() -> tuple[Tensor, Tensor, Tensor]:
        loss = functions[name](left, right)
        return loss, *torch.autograd.grad(loss, (left, right))

    return step


PROVIDERS = (
    "authors",
    "clean",
    "torch.compile",
    "ours float32",
    "ours bfloat16 products",
    "ours bfloat16 rows",
)


def resident(field: str) -> int:
    """Bytes of this process's memory: VmRSS now, VmHWM at most since the peak was reset."""
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith(field + ":"))
    return int(line.split()[1]) * 1024


def in_process(name: str, batch: int, width: int, measure: str, repeats: int, truth: str) -> dict[str, float]:
    """What a child process does: check and time one provider, or find its peak memory."""
    step = provider(name, batch, width)
    if measure == "memory":
        step()
        Path("/proc/self/clear_refs").write_text("5")
        before = resident("VmRSS")
        step()
        return {"bytes": resident("VmHWM") - before}
    loss, *gradients = step()
    gradient = torch.cat(gradients)
    expected = torch.load(truth)
    gradient_error = ((gradient.double() - expected["gradient"]).norm() / expected["gradient"].norm()).item()
    loss_error = abs(loss.item() - expected["loss"].item()) / expected["loss"].item()
    bound = BOUNDS["bfloat16" if "bfloat16" in name else "float32"]
    if gradient_error > bound or loss_error > bound:
        raise SystemExit(f"{name}: loss off by {loss_error:.1e}, gradient by {gradient_error:.1e}: not timed")
    del loss, gradient, gradients, expected
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - start)
        if seconds[0] > SLOW:
            break
    return {"seconds": statistics.median(seconds), "loss_error": loss_error, "gradient_error": gradient_error}


def child(name: str, batch: int, width: int, measure: str, repeats: int, truth: str) -> dict[str, float]:
    """Run one provider in a process of its own."""
    command = [sys.executable, __file__, "--provider", name, "--batch", str(batch), "--width", str(width)]
    command += ["--measure", measure, "--repeats", str(repeats), "--truth", truth]
    environment = dict(os.environ)
    if measure == "memory":
        # Memory that is freed goes back at once, so that the peak is of what is alive.
        environment |= {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr.strip().splitlines()[-1])
    return json.loads(done.stdout.splitlines()[-1])


def gemm_rate(batch: int, width: int, dtype: torch.dtype) -> float:
    """FLOP/s of torch.mm on the product of the similarities."""
    left, right = (rows.to(dtype) for rows in rows_of(batch, width))
    seconds = []
    for _ in range(4):
        start = time.perf_counter()
        torch.mm(left, right.T)
        seconds.append(time.perf_counter() - start)
    return 2 * batch * batch * width / statistics.median(seconds[1:])


def fma_rate() -> float:
    """Float32 operations a second of multiply-adds that stay in registers: what no product can exceed."""
    from loginmea_fast import native

    return max(native.load("cpu").measure_fma(0.2, torch.get_num_threads()) for _ in range(3))


def report(batch: int, width: int, repeats: int) -> tuple[list[dict[str, object]], dict[str, float]]:
    """Print the table of one size; returns its rows and the ceilings measured beside them."""
    operations = 3 * 2 * batch * batch * width
    rates = {dtype: gemm_rate(batch, width, dtype) for dtype in (torch.float32, torch.bfloat16)}
    registers = fma_rate()
    print(f"\nB = {batch:,}, {width:,} wide; {operations / 1e9:.0f} GFLOP in three products")
    print(
        f"torch.mm: float32 {rates[torch.float32] / 1e9:.0f} GFLOP/s, bfloat16 {rates[torch.bfloat16] / 1e9:.0f}; "
        f"multiply-adds in registers, float32: {registers / 1e9:.0f} GFLOP/s; "
        f"inputs {2 * 4 * batch * width / 1e6:.0f} MB"
    )
    print(f"{'':24}{'seconds':>9}{'GFLOP/s':>9}{'speed':>8}{'MB':>8}{'loss error':>12}{'gradient error':>16}")
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        truth = str(Path(folder) / "truth.pt")
        loss, *gradients = formula(*rows_of(batch, width))
        torch.save({"loss": loss, "gradient": torch.cat(gradients).float()}, truth)
        del gradients
        first = 0.0
        for name in PROVIDERS:
            timed = child(name, batch, width, "time", repeats, truth)
            bytes_ = child(name, batch, width, "memory", 1, truth)["bytes"]
            seconds = timed["seconds"]
            first = first or seconds
            print(
                f"{name:24}{seconds:9.3f}{operations / seconds / 1e9:9.0f}{first / seconds:7.1f}x{bytes_ / 1e6:8.0f}"
                f"{timed['loss_error']:12.1e}{timed['gradient_error']:16.1e}",
                flush=True,
            )
            row = {
                "provider": name,
                "batch": batch,
                "width": width,
                "flops": operations / seconds,
                "bytes": bytes_,
            }
            rows.append({**row, **timed})
    ceilings = {
        "mm_float32": rates[torch.float32],
        "mm_bfloat16": rates[torch.bfloat16],
        "registers_float32": registers,
    }
    return rows, {f"{name} at {batch}": rate for name, rate in ceilings.items()}


def hard_sample(batch: int, count: int, width: int, sharpness: float = 1.0) -> dict[str, Step]:
    """Loss, and gradients to queries and keys, of both sides of `batch` links over `count` keys, theirs among them.

    The larger `sharpness`, the smaller the weights of most keys: where they are less than a float resolves, processors
    may slow down.
    """
    from loginmea_fast.ops import contrastive_loss_to_keys

    left, right = rows_of(batch, width)
    others = torch.randn(count - 2 * batch, width, generator=torch.Generator().manual_seed(1))
    keys = torch.cat([left, right, others]).requires_grad_()
    queries = keys[: 2 * batch].detach().requires_grad_()
    own = torch.arange(2 * batch)
    positives, pairs = own.roll(batch), torch.stack([own, own], 1)
    tau = torch.full((2 * batch,), width / sharpness)

    def clean() -> tuple[Tensor, Tensor, Tensor]:
        scores = (queries @ keys.T - keys.square().sum(1) / 2) / tau[:, None]
        out = torch.zeros_like(scores, dtype=torch.bool)
        out[own, own] = out[own, positives] = True
        loss = (scores.masked_fill(out, -torch.inf).logsumexp(1) - scores[own, positives]).mean()
        return loss, *torch.autograd.grad(loss, (queries, keys))

    def ours() -> tuple[Tensor, Tensor, Tensor]:
        loss = contrastive_loss_to_keys(
            queries,
            keys,
            positives,
            tau,
            key_bias=-keys.square().sum(1) / 2,
            excluded=pairs,
            normalize=False,
            positive_in_denominator=False,
        )
        return loss, *torch.autograd.grad(loss, (queries, keys))

    return {"clean": clean, "ours": ours}


def hard_sample_error(steps: dict[str, Step]) -> float:
    """The largest relative L2 error of ours, of loss and gradients, against the plain form."""
    (loss, *gradients), (expected, *truth) = steps["ours"](), steps["clean"]()
    errors = [(a - e).norm() / e.norm() for a, e in zip(gradients, truth, strict=True)]
    return max(error.item() for error in [abs(loss - expected) / expected.abs(), *errors])


def report_hard_sample(batch: int, count: int, width: int, sharpness: float, repeats: int) -> None:
    """Print seconds of both in turn, once they agree. CPU seconds are of all threads, whoever else wants the cores."""
    steps = hard_sample(batch, count, width, sharpness)
    operations = 3 * 2 * 2 * batch * count * width
    error = hard_sample_error(steps)
    if error > HARD_SAMPLE_BOUND:
        raise SystemExit(f"ours differs from the plain form by {error:.1e}: not timed")
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in steps}
    for _ in range(repeats):
        for name, step in steps.items():
            wall, cpu = time.perf_counter(), time.process_time()
            step()
            taken[name].append((time.perf_counter() - wall, time.process_time() - cpu))
    print(f"{batch:,} links, {count:,} keys, {width} wide; {operations / 1e9:.0f} GFLOP in three products")
    for name, times in taken.items():
        wall, cpu = (statistics.median(column) for column in zip(*times, strict=True))
        print(f"{name:12}{wall:9.3f} s{cpu:9.3f} CPU s{operations / cpu / 1e9:9.0f} GFLOP a CPU s")


def main() -> None:
    """Print the tables, or serve as one provider's process."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, nargs="+", default=[3500, 10_000], help="numbers of seed pairs")
    parser.add_argument("--width", type=int, default=2100, help="width of a row")
    parser.add_argument(
        "--repeats", type=int, default=3, help="timed calls of the quick ones; their median counts"
    )
    parser.add_argument("--record", action="store_true", help="keep the figures in bench/results")
    parser.add_argument("--provider", choices=PROVIDERS, help=argparse.SUPPRESS)
    parser.add_argument("--measure", choices=("time", "memory"), default="time", help=argparse.SUPPRESS)
    parser.add_argument("--truth", default="", help=argparse.SUPPRESS)
    parser.add_argument(
        "--hard-sample", type=int, nargs=3, metavar=("LINKS", "KEYS", "WIDTH"), help="that loss alone"
    )
    parser.add_argument(
        "--sharpness", type=float, default=1.0, help="what that loss's logits are multiplied by"
    )
    args = parser.parse_args()
    if args.hard_sample:
        report_hard_sample(*args.hard_sample, args.sharpness, args.repeats)
        return
    if args.provider:
        print(
            json.dumps(
                in_process(args.provider, args.batch[0], args.width, args.measure, args.repeats, args.truth)
            )
        )
        return
    rows, ceilings = [], {}
    for batch in args.batch:
        more, measured = report(batch, args.width, args.repeats)
        rows += more
        ceilings |= measured
    if args.record:
        record("contrastive_loss", rows, note=f"loss and gradient, rows {args.width} wide", ceilings=ceilings)


if __name__ == "__main__":
    main()
