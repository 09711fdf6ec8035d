"""A whole training step: encode both graphs, the loss of every batch of links, backward, AdamW; and the largest graph.

All models start from the same parameters (the authors' names are loaded into ours), so their first losses must agree.
The images are random: no benchmark's can be had here.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from bench._authors import AuthorsModel
from bench._clean import CleanModel
from bench._graphs import generated
from bench.gpu import work
from bench.gpu.graphs import BAG, CACHE, Problem, problem
from bench.gpu.run import NO_CUDA, Run
from loginmea_fast import AlignmentGraph, LoginMEA, ops

__all__ = ["authors", "clean", "largest", "ours", "prepare"]

IMAGE, BATCH, TEMPERATURE = 2048, 3500, 0.1
MODALITIES = ("image", "relation", "attribute")
LEARNING_RATE = 5e-4
SCRATCH = "LOGINMEA_BENCH_SCRATCH"  # set by bench/gpu for its tasks


class Setting:
    """zh_en with 30 % of its links for training, random images, and the authors' model that everyone starts from."""

    def __init__(self, run: Run) -> None:
        self.problem: Problem = problem("zh_en", run.pick(1, 1, 2000))
        self.graph = self.problem.graph
        entities, dim = self.graph.num_entities, run.pick(IMAGE, IMAGE, 5)
        links = self.problem.links[: run.pick(*[int(0.3 * len(self.problem.links))] * 2, 6)]
        self.rows = links.T.reshape(-1).to(run.device)
        self.links = len(links)
        batch = run.pick(BATCH, BATCH, 4)  # a batch of one pair would have a loss of 0
        self.batches = [slice(i, min(i + batch, self.links)) for i in range(0, self.links, batch)]
        image = F.normalize(torch.randn(entities, dim, generator=torch.Generator().manual_seed(1)))
        self.features = {
            "image": image,
            "relation": self.problem.relation_bag(),
            "attribute": self.problem.attributes,
        }
        self.sizes: dict[str, Any] = dict(
            zip(("width", "rank", "depth"), run.pick(*[(300, 8, 2)] * 2, (4, 2, 2)), strict=True)
        )

    def authors_model(self, device: torch.device | str) -> AuthorsModel:
        """Their model, from the same seed wherever it is built."""
        torch.manual_seed(0)
        with torch.device(device):
            graph = self.graph.to(device)
            model = AuthorsModel(graph, self.features["image"].shape[1], bag_dim=BAG, **self.sizes)
        torch.manual_seed(0)
        with torch.no_grad():
            for parameter in model.parameters():
                drawn = torch.randn(parameter.shape) / max(1, parameter.shape[-1]) ** 0.5
                parameter.copy_(drawn)
        return model

    def our_model(self, run: Run, backend: str, dtype: torch.dtype) -> LoginMEA:
        """Ours with the same parameters."""
        state = self.authors_model("cpu").state_dict()
        dims = {name: feature.shape[1] for name, feature in self.features.items()}
        names = {"width": "hidden_dim"}
        sizes = {names.get(name, name): value for name, value in self.sizes.items()}
        of_graph = self.graph.num_entities, self.graph.num_relations
        model = LoginMEA(*of_graph, dims, backend=backend, compute_dtype=dtype, **sizes)
        model.load_authors_state_dict(state)
        return model.to(run.device)

    def dense_features(self, run: Run) -> dict[str, Tensor]:
        """Features as the authors keep them."""
        dense = {n: f.to_dense() if f.layout == torch.sparse_csr else f for n, f in self.features.items()}
        return {name: feature.to(run.device) for name, feature in dense.items()}

    def share(self, batch: slice) -> float:
        """Of a batch in the step's loss."""
        return (batch.stop - batch.start) / self.links

    def work(self, itemsize: int) -> work.Work:
        """The step's operations and bytes."""
        size = work.GraphSize(self.graph.num_entities, self.graph.num_edges, self.graph.num_relation_sets)
        sparse = sum(f.values().numel() for f in self.features.values() if f.layout == torch.sparse_csr)
        dense = [f.shape[1] for f in self.features.values() if f.layout == torch.strided]
        batches = [b.stop - b.start for b in self.batches]
        width, rank, depth = (self.sizes[name] for name in ("width", "rank", "depth"))
        return work.step(size, dense, batches, width, rank, depth, itemsize, sparse)


def ours(run: Run, precision: str) -> None:
    """Ours by every backend, then in a CUDA graph; a hundred steps of each that the dispatcher chooses."""
    setting = Setting(run)
    dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
    features = {name: f.to(run.device) for name, f in setting.features.items()}
    torch.set_float32_matmul_precision("high")  # of the projections in either precision
    for backend in ("auto", "triton", "cuda"):
        what = _what(setting, backend, precision)
        if run.possible(**what):
            with run.attempt(**what) as row:
                model = setting.our_model(run, backend, dtype)
                step = _our_step(run, setting, model, features, backend)
                _time_step(run, row, setting, step, dtype.itemsize)
                if backend == "auto":
                    _many_steps(run, row, step)
                del model, step
    what = {**_what(setting, "auto", precision), "variant": "CUDA graph"}
    if run.rehearsal:
        run.write(**what, status="not run", reason=NO_CUDA)
        return
    with run.attempt(**what) as row:
        model = setting.our_model(run, "auto", dtype)
        step = _our_step(run, setting, model, features, "auto")
        row["first_loss"] = round(step().item(), 5)
        replay = _captured(step)
        _time_step(run, row, setting, replay, dtype.itemsize)
        row.pop("peak_mb", None)  # a replay allocates nothing; the graph keeps what the capture took
        _many_steps(run, row, replay)


def _many_steps(run: Run, row: dict[str, Any], step: Callable[[], Tensor]) -> None:
    """Steps one after the other, as a user waits for them; the loss must have fallen since the first of all."""
    count = run.pick(100, 100, 3)
    start = time.perf_counter()
    for _ in range(count):
        loss = step()
    last = loss.item()
    if not run.rehearsal:
        row["hundred_steps_s"] = round((time.perf_counter() - start) * 100 / count, 4)
    row["last_loss"] = round(last, 5)
    assert last < row["first_loss"], f"the loss went from {row['first_loss']} to {last}"


def _what(setting: Setting, provider: str, precision: str) -> dict[str, Any]:
    return {"op": "training step", "case": setting.problem.name, "provider": provider, "dtype": precision}


def _our_step(
    run: Run, setting: Setting, model: LoginMEA, features: dict[str, Tensor], backend: str
) -> Callable[[], Tensor]:
    optimizer = _optimizer(run, model)
    view = setting.graph.to(run.device).view(setting.rows, model.depth)
    loss_backend = "auto" if backend == "cuda" else backend  # the loss has no CUDA kernels

    def step() -> Tensor:
        joint = model(features, view).joint
        left, right = joint[: setting.links], joint[setting.links :]
        losses = [
            ops.contrastive_loss(left[b], right[b], TEMPERATURE, backend=loss_backend) * setting.share(b)
            for b in setting.batches
        ]
        loss = torch.stack(losses).sum()
        _update(loss, model, optimizer)
        return loss.detach()

    return step


def _optimizer(run: Run, model: torch.nn.Module) -> torch.optim.AdamW:
    on_gpu = run.device.type == "cuda"
    return torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, fused=True, capturable=on_gpu)


def _update(loss: Tensor, model: torch.nn.Module, optimizer: torch.optim.AdamW) -> None:
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), float("inf"))  # the norm that the trainer records
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def _captured(step: Callable[[], Tensor]) -> Callable[[], Tensor]:
    """The step as one CUDA graph: no launch waits for Python."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        loss = step()

    def replay() -> Tensor:
        graph.replay()
        return loss

    return replay


def authors(run: Run) -> None:
    """The authors' formulation: one backward pass a batch, as their code does, and one a step."""
    setting = Setting(run)
    torch.set_float32_matmul_precision("high")
    features = list(setting.dense_features(run).values())
    for variant in ("one backward a step", "one backward a batch"):
        what = {**_what(setting, "authors", "tf32"), "variant": variant}
        with run.attempt(**what) as row, torch.device(run.device):
            together = variant == "one backward a step"
            _time_step(run, row, setting, _authors_step(run, setting, features, together), 4)


def _authors_step(run: Run, setting: Setting, features: list[Tensor], together: bool) -> Callable[[], Tensor]:
    model = setting.authors_model(run.device)
    optimizer = _optimizer(run, model)

    def step() -> Tensor:
        joint = F.normalize(model(*features))
        left, right = joint[setting.rows[: setting.links]], joint[setting.rows[setting.links :]]
        losses = []
        for b in setting.batches:
            loss = _plain_loss(left[b], right[b]) * setting.share(b)
            if not together:
                loss.backward(retain_graph=b.stop < setting.links)
            losses.append(loss)
        total = torch.stack(losses).sum()
        if together:
            total.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return total.detach()

    return step


def _plain_loss(left: Tensor, right: Tensor) -> Tensor:
    return F.cross_entropy(left @ right.T / TEMPERATURE, torch.arange(len(left), device=left.device))


def clean(run: Run) -> None:
    """A careful reimplementation in PyTorch on the same parameters, eager and through torch.compile."""
    setting = Setting(run)
    torch.set_float32_matmul_precision("high")
    features = setting.dense_features(run)
    for provider in ("clean", "torch.compile"):
        with run.attempt(**_what(setting, provider, "tf32")) as row, torch.device(run.device):
            step = _clean_step(run, setting, features, compiled=provider == "torch.compile")
            _time_step(run, row, setting, step, 4)


def _clean_step(
    run: Run, setting: Setting, features: dict[str, Tensor], compiled: bool
) -> Callable[[], Tensor]:
    model = setting.our_model(run, "reference", torch.float32)
    plain = CleanModel(model, setting.graph.to(run.device))
    optimizer = _optimizer(run, model)

    def loss() -> Tensor:
        joint = F.normalize(plain.joint(features, setting.rows))
        left, right = joint[: setting.links], joint[setting.links :]
        return torch.stack([_plain_loss(left[b], right[b]) * setting.share(b) for b in setting.batches]).sum()

    forward = run.compiled(loss) if compiled else loss

    def step() -> Tensor:
        total = forward()
        _update(total, model, optimizer)
        return total.detach()

    return step


def _time_step(
    run: Run, row: dict[str, Any], setting: Setting, step: Callable[[], Tensor], itemsize: int
) -> None:
    first = round(step().item(), 5)
    row.setdefault("first_loss", first)
    row |= run.measure(lambda _: step(), seconds=2.0)
    if row.get("ms"):
        row["flop"], row["bytes"], row["gathered"] = ([value] for value in setting.work(itemsize))


def _file(entities: int) -> Path:
    """Where this run keeps a graph: a folder that is gone after it."""
    return Path(os.environ.get(SCRATCH, CACHE)) / f"generated-{entities}.safetensors"


def _sizes(run: Run) -> tuple[int, ...]:
    return run.pick((1_000_000, 2_000_000, 4_000_000), (1_000_000,), (300,))


def prepare(run: Run) -> None:
    """Build the graphs of `largest`, in the background: a minute of sorting on one core."""
    for entities in _sizes(run):
        with run.attempt(prepared=entities) as row:
            graph = _largest_graph(entities)
            partial = _file(entities).with_suffix(".partial")
            graph.save(partial)
            partial.replace(_file(entities))
            row |= graph.summary()


def _largest_graph(entities: int) -> AlignmentGraph:
    return AlignmentGraph.from_triples(
        torch.from_numpy(generated(entities, 1000, 3 * entities)), entities, 1000
    )


def largest(run: Run) -> None:
    """One training step, bfloat16, on ever larger power-law graphs, until one does not fit."""
    torch.set_float32_matmul_precision("high")
    for entities in _sizes(run):
        what = {"op": "training step", "provider": "auto", "dtype": "bfloat16"}
        case = f"power law, {entities:,} entities"
        with run.attempt(**what, case=case) as row:
            path = _file(entities)
            graph = AlignmentGraph.load(path) if path.is_file() else _largest_graph(entities)
            row["edges"] = graph.num_edges
            _largest_step(run, row, graph)
        if row["status"] != "ok":
            break


def _largest_step(run: Run, row: dict[str, Any], graph: AlignmentGraph) -> None:
    n, width = graph.num_entities, run.pick(300, 300, 4)
    links = run.pick(BATCH, BATCH, 20)
    graph = graph.to(run.device)
    view = graph.view(torch.randperm(n)[: 2 * links])
    image = torch.randn(n, 64, device=run.device, dtype=torch.bfloat16)
    features = {"image": image, **{name: _sparse_feature(run, n) for name in MODALITIES[1:]}}
    dims = {name: f.shape[1] for name, f in features.items()}
    with torch.device(run.device):
        # Parameters are drawn on the card: two gigabytes an embedding table is slow to draw elsewhere.
        sizes = width, run.pick(8, 8, 2)
        model = LoginMEA(n, graph.num_relations, dims, *sizes, compute_dtype=torch.bfloat16)
    optimizer = _optimizer(run, model)

    def step() -> Tensor:
        joint = model(features, view).joint
        loss = ops.contrastive_loss(joint[:links], joint[links:], TEMPERATURE)
        _update(loss, model, optimizer)
        return loss.detach()

    losses = [step().item()]
    if run.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        row |= run.measure(lambda _: step(), seconds=2.0)
        peak = torch.cuda.max_memory_allocated()
        row |= {"whole_peak_gb": round(peak / 1e9, 2), "bytes_per_entity": round(peak / n)}
    losses.append(step().item())
    row["losses"] = losses
    assert losses[1] < losses[0], f"the loss went from {losses[0]} to {losses[1]}"


def _sparse_feature(run: Run, rows: int, per_row: int = 4, columns: int = 256) -> Tensor:
    index = torch.randint(columns, (rows, per_row), device=run.device).sort(1).values.reshape(-1)
    pointers = torch.arange(0, rows * per_row + 1, per_row, device=run.device)
    return torch.sparse_csr_tensor(
        pointers, index, torch.ones(rows * per_row, device=run.device), (rows, columns)
    )
