"""A small case for every operator: which backend answers it, and whether it agrees with the formula in float64."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from loginmea_fast import ops
from loginmea_fast.errors import BackendError
from loginmea_fast.graph import AlignmentGraph
from loginmea_fast.ops import _dispatch
from loginmea_fast.ops.modality_scale import modality_scale

__all__ = ["Check", "Serving", "self_check", "serving"]

# Relative L2 error, result and gradients alike: float32 carries 24 bits and sums of some hundred terms lose a few of
# them; bfloat16 carries 8 and a chain of two layers rounds several times.
BOUNDS = {torch.float32: 1e-4, torch.bfloat16: 5e-2}
_NATIVE = ("cpu", "triton", "cuda")
_ENTITIES, _RELATIONS, _WIDTH, _PAIRS = 120, 7, 37, 50

Call = Callable[[Sequence[Tensor], str], Sequence[Tensor]]


@dataclass(frozen=True)
class Case:
    """An operator on tensors: `call(tensors, backend)` returns its results; some choose their backend themselves."""

    op: str
    tensors: list[Tensor]
    call: Call
    takes_backend: bool = True


@dataclass(frozen=True)
class Check:
    """The outcome of one case. `error` is the largest relative L2 error; None where the call itself failed."""

    op: str
    device: str
    dtype: str
    backend: str
    error: float | None
    bound: float
    seconds: float
    problem: str | None = None

    @property
    def passed(self) -> bool:
        """Whether result and gradients are within the bound."""
        return self.error is not None and self.error <= self.bound


@dataclass(frozen=True)
class Serving:
    """Which backend "auto" takes for an operator, and of the others why they cannot serve (None: they can)."""

    op: str
    device: str
    dtype: str
    backend: str
    others: dict[str, str | None] = field(default_factory=dict)


def serving(devices: Sequence[str]) -> Iterator[Serving]:
    """Ask every operator on every device and dtype which backend answers; the answers themselves are not looked at."""
    for device, dtype, case in _cases(devices):
        with torch.no_grad(), _dispatch.watch_choices() as choices, contextlib.suppress(Exception):
            case.call(case.tensors, "auto")  # that it fails, if it does, is for the self-check to tell
        chosen = _backends(choices)
        others: dict[str, str | None]
        if case.takes_backend:
            others = {name: _reason(case, name) for name in _NATIVE if name != chosen}
        else:
            others = {name: reason for choice in choices for name, reason in choice.passed_over.items()}
        yield Serving(case.op, device, _name(dtype), chosen, others)


def self_check(devices: Sequence[str]) -> Iterator[Check]:
    """Compare every operator with the reference in float64, results and gradients."""
    for device, dtype, case in _cases(devices):
        started = time.perf_counter()
        error, problem = None, None
        choices: list[_dispatch.Choice] = []
        try:
            # The formula sees what the backend sees: inputs already rounded to the dtype in question.
            with _formula_only():
                truth = _results(case, [t.double() for t in case.tensors], "reference")
            with _dispatch.watch_choices() as choices:
                found = _results(case, case.tensors, "auto")
            error = max(_relative_error(f, t) for f, t in zip(found, truth, strict=True))
        except Exception as failure:  # whatever a broken backend raises is what this check is there to report
            problem = f"{type(failure).__name__}: {failure}"
        seconds = time.perf_counter() - started
        yield Check(case.op, device, _name(dtype), _backends(choices), error, BOUNDS[dtype], seconds, problem)


@contextlib.contextmanager
def _formula_only() -> Iterator[None]:
    """Let the formula answer operators that take no backend, too."""
    before = os.environ.get("LOGINMEA_BACKEND")
    os.environ["LOGINMEA_BACKEND"] = "reference"
    try:
        yield
    finally:
        if before is None:
            del os.environ["LOGINMEA_BACKEND"]
        else:
            os.environ["LOGINMEA_BACKEND"] = before


def _backends(choices: Sequence[_dispatch.Choice]) -> str:
    return " + ".join(dict.fromkeys(choice.backend for choice in choices)) or "torch"


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _reason(case: Case, backend: str) -> str | None:
    try:
        with torch.no_grad():
            case.call(case.tensors, backend)
    except BackendError as error:
        return str(error).partition("cannot serve this call: ")[2] or str(error)
    except Exception as error:
        return f"fails: {type(error).__name__}: {error}"
    return None


def _results(case: Case, tensors: Sequence[Tensor], backend: str) -> list[Tensor]:
    """Results, then gradients of a fixed weighted sum of the differentiable ones."""
    leaves = [t.detach().clone().requires_grad_() for t in tensors]
    results = list(case.call(leaves, backend))
    differentiable = [r for r in results if r.requires_grad]
    if not differentiable:
        return results
    total = torch.stack([(r.double() * _weights(r)).sum() for r in differentiable]).sum()
    gradients = torch.autograd.grad(total, leaves)
    return [*(r.detach() for r in results), *gradients]


def _weights(result: Tensor) -> Tensor:
    return torch.linspace(-1, 1, result.numel(), dtype=torch.float64, device=result.device).view(result.shape)


def _relative_error(found: Tensor, truth: Tensor) -> float:
    if found.shape != truth.shape:
        return float("inf")
    distance = (found.double() - truth.double()).norm()
    return float(distance / truth.double().norm().clamp_min(1e-30))


def _cases(devices: Sequence[str]) -> Iterator[tuple[str, torch.dtype, Case]]:
    for device in devices:
        for dtype in BOUNDS:
            for case in _cases_of(torch.device(device), dtype):
                yield device, dtype, case


def _cases_of(device: torch.device, dtype: torch.dtype) -> Iterator[Case]:
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).to(device, dtype)

    graph = _graph(generator).to(device)
    sets, d = graph.num_relation_sets, _WIDTH
    yield Case(
        "relation_reflectors",
        [normal(2 * _RELATIONS, d)],
        lambda t, _: [ops.relation_reflectors(t[0], graph)],
        takes_backend=False,
    )
    yield Case(
        "neighbor_mean",
        [normal(_ENTITIES, d)],
        lambda t, _: [ops.neighbor_mean(t[0], graph)],
        takes_backend=False,
    )
    weights = normal(sets, d).float()
    yield Case(
        "propagate",
        [normal(_ENTITIES, d)],
        lambda t, backend: [ops.propagate(t[0], weights, graph, backend=backend)],
    )
    unit = torch.nn.functional.normalize(normal(sets, d).double(), dim=1).to(dtype)
    yield Case(
        "relation_reflection_attention",
        [normal(_ENTITIES, d), unit, normal(sets), normal(d)],
        lambda t, backend: [
            ops.relation_reflection_attention(t[0], t[1], t[2], graph, t[3], "tanh", backend=backend)
        ],
    )
    yield Case(
        "relation_reflection_layers",
        [normal(_ENTITIES, d), unit, normal(2, sets)],
        lambda t, backend: [ops.relation_reflection_layers(t[0], t[1], t[2], graph, backend=backend)],
    )
    modalities, rank = 3, 4
    yield Case(
        "low_rank_fusion",
        [
            *(normal(_PAIRS, d) for _ in range(modalities)),
            *(0.2 * normal(rank, d + 1, d) for _ in range(modalities)),
            normal(1, rank),
            normal(1, d),
        ],
        lambda t, backend: [ops.low_rank_fusion(t[:3], t[3:6], t[6], t[7], backend=backend)],
    )
    yield Case(
        "modality_scale",
        [*(normal(_PAIRS, d) for _ in range(modalities)), normal(1, d)],
        lambda t, backend: [modality_scale(t[:3], t[3], backend=backend)],
    )
    sides = [normal(_PAIRS, d), normal(_PAIRS, d)]
    yield Case(
        "contrastive_loss",
        sides,
        lambda t, backend: [ops.contrastive_loss(t[0], t[1], 0.1, bidirectional=True, backend=backend)],
    )
    yield Case(
        "contrastive_loss_to_keys",
        sides,
        lambda t, backend: [
            ops.contrastive_loss_to_keys(
                t[0], t[1], torch.arange(_PAIRS, device=t[0].device), 0.1, backend=backend
            )
        ],
    )
    yield Case(
        "alignment_ranks",
        sides,
        lambda t, backend: ops.alignment_ranks(t[0], t[1], csls_k=5, backend=backend),
    )
    yield Case(
        "alignment_topk",
        sides,
        lambda t, backend: ops.alignment_topk(t[0], t[1], 5, csls_k=5, backend=backend),
    )
    yield Case(
        "alignment_topk_both",
        sides,
        lambda t, backend: [
            part for way in ops.alignment_topk_both(t[0], t[1], 5, csls_k=5, backend=backend) for part in way
        ],
    )
    yield Case(
        "mutual_nearest",
        sides,
        lambda t, backend: [ops.mutual_nearest(t[0], t[1], csls_k=5, backend=backend)],
    )


def _graph(generator: torch.Generator) -> AlignmentGraph:
    """Some hundred triples, a hub among them, some entities without any."""
    count = 6 * _ENTITIES
    triples = torch.stack(
        [
            torch.randint(0, _ENTITIES - 5, (count,), generator=generator),
            torch.randint(0, _RELATIONS, (count,), generator=generator),
            torch.randint(0, _ENTITIES - 5, (count,), generator=generator),
        ],
        1,
    )
    triples[: count // 4, 2] = 0
    return AlignmentGraph.from_triples(triples, _ENTITIES, _RELATIONS)
