"""A whole training step on zh_en: encoding, losses of the batches, gradients, optimiser; providers side by side.

    python bench/training_step.py                          # all providers, a few minutes
    python bench/training_step.py --providers "ours float32" "ours bfloat16"
    python bench/training_step.py --dataset DIR --modalities relation --providers clean "ours float32"

Relation and attribute bags are the real ones (the 1,000 most frequent); no image features can be had, so random vectors
of 2,048 numbers stand in for them. 4,500 seed links in batches of 3,500 and 1,000, hidden size 300, rank 8, depth 2.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
from bench._authors import AuthorsModel  # noqa: E402
from bench._clean import CleanModel  # noqa: E402
from bench._record import record  # noqa: E402
from loginmea_fast import AlignmentGraph, LoginMEA, data, ops  # noqa: E402
from loginmea_fast.machine import free_memory  # noqa: E402

BATCH, SEEDS, TEMPERATURE = 3500, 4500, 0.1
HIDDEN, RANK, DEPTH, BAG, IMAGE = 300, 8, 2, 1000, 2048
MODALITIES = ("image", "relation", "attribute")
# Largest relative L2 error of any parameter's gradient against the authors' formulation in float32.
BOUNDS = {"float32": 1e-4, "bfloat16": 1e-1}


@dataclass(frozen=True)
class Problem:
    """Graph, features and training links."""

    graph: AlignmentGraph
    features: dict[str, Tensor]
    links: Tensor


def problem(dataset: Path, modalities: Sequence[str] = MODALITIES) -> Problem:
    """The data set, with random vectors in place of images."""
    bags = [name for name in modalities if name != "image"]
    pair = data.load(dataset, modalities=bags, bag_size=BAG)
    generator = torch.Generator().manual_seed(0)
    features = {name: feature.values for name, feature in pair.features.items()}
    if "image" in modalities:
        features = {"image": torch.randn(pair.num_entities, IMAGE, generator=generator), **features}
    links = pair.links[torch.randperm(len(pair.links), generator=generator)[:SEEDS]]
    return Problem(pair.graph(), features, links)


def dense(features: dict[str, Tensor]) -> dict[str, Tensor]:
    """Features as the authors keep them: every bag a dense matrix."""
    return {name: f.to_dense() if f.layout == torch.sparse_csr else f for name, f in features.items()}


@dataclass(frozen=True)
class Provider:
    """Something that trains.

    Attributes:
        parameters: what the optimiser moves.
        gradients: one forward and backward pass; leaves gradients in the parameters, returns the summed loss.
        named: gradients by the names of `LoginMEA`.
        fused: whether the optimiser is the fused one.
    """

    parameters: list[Tensor]
    gradients: Callable[[], float]
    named: Callable[[], dict[str, Tensor]]
    fused: bool = True


def build_authors(problem: Problem, together: bool) -> Provider:
    """The authors' formulation, with one backward pass a batch as they train, or with one for the sum."""
    torch.manual_seed(0)
    model = AuthorsModel(problem.graph, IMAGE, HIDDEN, RANK, DEPTH, BAG)
    features = dense(problem.features)

    def gradients() -> float:
        joint = model(**features)
        total, losses = 0.0, []
        for links in problem.links.split(BATCH):
            embedding = F.normalize(joint)
            left, right = embedding[links[:, 0]], embedding[links[:, 1]]
            loss = F.cross_entropy(left.mm(right.T) / TEMPERATURE, torch.arange(len(links)))
            total += loss.item()
            if together:
                losses.append(loss)
            else:
                loss.backward(retain_graph=True)
        if together:
            torch.stack(losses).sum().backward()
        return total

    def named() -> dict[str, Tensor]:
        ours = our_model(problem)
        ours.load_authors_state_dict(
            {n: torch.zeros_like(p) if p.grad is None else p.grad for n, p in model.named_parameters()}
        )
        return {name: p.detach() for name, p in ours.named_parameters()}

    return Provider(list(model.parameters()), gradients, named, fused=False)


def dims(problem: Problem) -> dict[str, int]:
    """Columns of each modality."""
    return {name: feature.shape[1] for name, feature in problem.features.items()}


def our_model(problem: Problem, dtype: torch.dtype = torch.float32) -> LoginMEA:
    """Ours, of the authors' sizes."""
    sizes = problem.graph.num_entities, problem.graph.num_relations
    return LoginMEA(*sizes, dims(problem), HIDDEN, RANK, DEPTH, compute_dtype=dtype)


def same_parameters(problem: Problem, dtype: torch.dtype = torch.float32) -> LoginMEA:
    """Our model with the parameters that the authors' model is given here."""
    torch.manual_seed(0)
    if tuple(problem.features) != MODALITIES:
        return our_model(problem, dtype)  # theirs has these three and no others
    theirs = AuthorsModel(problem.graph, IMAGE, HIDDEN, RANK, DEPTH, BAG)
    model = our_model(problem, dtype)
    model.load_authors_state_dict(theirs.state_dict())
    return model


def own_gradients(model: LoginMEA) -> Callable[[], dict[str, Tensor]]:
    """Gradients of our model by its own names."""
    return lambda: {n: p.grad for n, p in model.named_parameters() if p.grad is not None}


def build_clean(problem: Problem, compiled: bool) -> Provider:
    """A clean reimplementation in PyTorch, or torch.compile of it."""
    model = same_parameters(problem)
    clean = CleanModel(model, problem.graph)
    features = dense(problem.features)
    rows = problem.links.T.reshape(-1)
    batches = [slice(start, start + BATCH) for start in range(0, SEEDS, BATCH)]

    def loss() -> Tensor:
        joint = F.normalize(clean.joint(features, rows))
        left, right = joint[:SEEDS], joint[SEEDS:]
        losses = [
            F.cross_entropy(left[b] @ right[b].T / TEMPERATURE, torch.arange(len(left[b]))) for b in batches
        ]
        return torch.stack(losses).sum()

    function = torch.compile(loss, dynamic=False) if compiled else loss

    def gradients() -> float:
        total = function()
        total.backward()
        return total.item()

    return Provider(list(model.parameters()), gradients, own_gradients(model))


def build_ours(problem: Problem, dtype: torch.dtype) -> Provider:
    """The step of `lf.fit`: one encoding of the links' rows, a fused loss a batch, one backward pass."""
    model = same_parameters(problem, dtype)
    rows = problem.links.T.reshape(-1)

    def gradients() -> float:
        joint = model(problem.features, problem.graph.view(rows, DEPTH)).joint
        left, right = joint[:SEEDS].split(BATCH), joint[SEEDS:].split(BATCH)
        losses = [ops.contrastive_loss(a, b, TEMPERATURE) for a, b in zip(left, right, strict=True)]
        total = torch.stack(losses).sum()
        total.backward()
        return total.item()

    return Provider(list(model.parameters()), gradients, own_gradients(model))


PROVIDERS: dict[str, Callable[[Problem], Provider]] = {
    "authors, one backward": lambda p: build_authors(p, together=True),
    "authors, one a batch": lambda p: build_authors(p, together=False),
    "clean": lambda p: build_clean(p, compiled=False),
    "torch.compile": lambda p: build_clean(p, compiled=True),
    "ours float32": lambda p: build_ours(p, torch.float32),
    "ours bfloat16": lambda p: build_ours(p, torch.bfloat16),
}


def resident(field: str) -> int:
    """Bytes of this process's memory: VmRSS now, VmHWM at most since the peak was reset."""
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith(field + ":"))
    return int(line.split()[1]) * 1024


def in_process(
    name: str, dataset: Path, modalities: Sequence[str], calls: int, gradients_to: Path
) -> dict[str, float]:
    """What a child process does: one provider's gradients, peak memory and seconds a step.

    A provider that takes a minute is called once, cold: what it allocates for the first time is small beside it. The
    others are called once before memory is measured, and then timed.
    """
    made = PROVIDERS[name](problem(dataset, modalities))
    optimizer = torch.optim.AdamW(made.parameters, lr=1e-9, fused=made.fused or None)
    for parameter in made.parameters:
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()  # its moments are state, as parameters are
    optimizer.zero_grad(set_to_none=True)
    heavy = name.startswith("authors")
    if not heavy:
        made.gradients()
        optimizer.zero_grad(set_to_none=True)
    Path("/proc/self/clear_refs").write_text("5")
    before = resident("VmRSS")
    seconds = []
    for call in range(1 if heavy else 1 + calls):
        start = time.perf_counter()
        loss = made.gradients()
        spent = time.perf_counter() - start
        if call == 0:
            bytes_ = resident("VmHWM") - before
            torch.save({n: g.detach().clone() for n, g in made.named().items()}, gradients_to)
        start = time.perf_counter()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        seconds.append(spent + time.perf_counter() - start)
    timed = seconds if heavy else seconds[1:]
    return {"seconds": statistics.median(timed), "loss": loss, "bytes": bytes_, "total": resident("VmHWM")}


def child(
    name: str, dataset: Path, modalities: Sequence[str], calls: int, gradients_to: Path
) -> dict[str, Any]:
    """Run one provider in a process of its own; what needs more memory than is free is told, and where it failed."""
    command = [sys.executable, __file__, "--child", name, "--dataset", str(dataset), "--calls", str(calls)]
    limit = int(0.8 * (free_memory() or 0))  # the rest may be taken by others meanwhile
    command += ["--modalities", *modalities, "--limit", str(limit)]
    # Memory that is freed goes back at once, so that the peak is of what is alive; every provider pays for it alike.
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "1048576", "MALLOC_TRIM_THRESHOLD_": "1048576"}
    done = subprocess.run(
        [*command, "--gradients", str(gradients_to)], env=environment, capture_output=True, text=True
    )
    if done.returncode:
        if "can't allocate memory" in done.stderr:
            return {"skipped": f"out of memory: {limit / 1e9:.1f} GB were free; {_place(done.stderr)}"}
        raise SystemExit(f"{name}: {done.stderr.strip()[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def _place(trace: str) -> str:
    """The last line of a formulation that stands in the traceback, as it is written there."""
    lines = trace.splitlines()
    last = max(number for number, line in enumerate(lines) if "/bench/_" in line)
    return f"it failed in `{lines[last + 1].strip()}`"


def errors(actual: dict[str, Tensor], expected: dict[str, Tensor]) -> dict[str, float]:
    """Relative L2 error of each parameter's gradient."""
    return {
        name: ((actual[name].double() - truth.double()).norm() / truth.double().norm()).item()
        for name, truth in expected.items()
    }


def compare(
    names: list[str], dataset: Path, modalities: Sequence[str], calls: int
) -> list[dict[str, object]]:
    """Run the providers, print the table and return its rows; gradients must be those of the first."""
    print(
        f"{'':24}{'seconds':>9}{'speed':>8}{'MB':>8}{'less':>7}{'gradient error, typical':>26}{'worst':>10}"
    )
    rows: list[dict[str, object]] = []
    expected: dict[str, Tensor] = {}
    with tempfile.TemporaryDirectory() as folder:
        for number, name in enumerate(names):
            path = Path(folder) / f"{number}.pt"
            row = {"provider": name, **child(name, dataset, modalities, calls, path)}
            if "skipped" in row:
                rows.append(row)
                print(f"{name:24}{row['skipped']}", flush=True)
                continue
            found = torch.load(path)
            path.unlink()
            line = ""
            if expected:
                of_parameter = errors(found, expected)
                row["error_typical"] = statistics.median(of_parameter.values())
                worst = max(of_parameter, key=lambda n: of_parameter[n])
                row["error_worst"], row["worst_parameter"] = of_parameter[worst], worst
                line = f"{row['error_typical']:26.1e}{row['error_worst']:10.1e}  {worst}"
                bound = BOUNDS["bfloat16" if "bfloat16" in name else "float32"]
                if not of_parameter[worst] <= bound:
                    raise SystemExit(f"{name}: the gradient of {worst} is off by {of_parameter[worst]:.1e}")
            expected = expected or found
            rows.append(row)
            first = next(row for row in rows if "seconds" in row)
            print(
                f"{name:24}{row['seconds']:9.2f}{first['seconds'] / row['seconds']:7.1f}x{row['bytes'] / 1e6:8.0f}"
                f"{first['bytes'] / row['bytes']:6.1f}x{line}",
                flush=True,
            )
    return rows


def main() -> None:
    """Print the table, or serve as one provider's process."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    root = Path(os.environ.get("LOGINMEA_DATA") or ROOT.parent / "shared" / "data")
    parser.add_argument("--dataset", type=Path, default=root / "dbp15k" / "zh_en")
    parser.add_argument("--modalities", nargs="+", choices=MODALITIES, default=list(MODALITIES))
    parser.add_argument("--providers", nargs="+", choices=list(PROVIDERS), default=list(PROVIDERS))
    parser.add_argument(
        "--calls", type=int, default=3, help="timed calls of the quick ones; their median counts"
    )
    parser.add_argument("--record", action="store_true", help="keep the figures in bench/results")
    parser.add_argument("--child", choices=list(PROVIDERS), help=argparse.SUPPRESS)
    parser.add_argument("--limit", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--gradients", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if not args.dataset.is_dir():
        raise SystemExit(f"no data at {args.dataset}; set LOGINMEA_DATA or --dataset")
    if args.child:
        if args.limit:
            resource.setrlimit(resource.RLIMIT_DATA, (args.limit, args.limit))
        print(json.dumps(in_process(args.child, args.dataset, args.modalities, args.calls, args.gradients)))
        return
    rows = compare(args.providers, args.dataset, args.modalities, args.calls)
    if args.record:
        name = "_".join(args.dataset.parts[-2:])
        if args.modalities == list(MODALITIES):
            note = (
                f"{args.dataset.name}, {SEEDS} links in batches of {BATCH}; image features are random vectors"
            )
            record("training_step", rows, note=note)
        else:
            note = f"{name}, {SEEDS} links in batches of {BATCH}, modalities: {', '.join(args.modalities)}"
            record("training_step-large", rows, note=note)


if __name__ == "__main__":
    main()
