"""What a training will need of memory, before it begins: counted from the sizes of its first update."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch

from loginmea_fast.data.sketch import sketch_width
from loginmea_fast.errors import ConfigError
from loginmea_fast.machine import is_memory
from loginmea_fast.mapped import IN_MEMORY
from loginmea_fast.nn import EntityModel, members_of
from loginmea_fast.training.config import Config
from loginmea_fast.training.late import joined_width, late_names
from loginmea_fast.training.memory import available_memory, resident_memory
from loginmea_fast.training.objectives import further_entities
from loginmea_fast.training.protocols import Problem
from loginmea_fast.training.sampling import Sampler

__all__ = ["Plan", "check_plan", "plan_memory", "plan_with_advice"]

_LOSS_ROWS = 6  # matrices as the embedding of a batch: of the forward pass, and of the loss and its gradient
_KERNELS = 32 << 20  # bytes that kernels and the allocator take in a step whatever its size
_RANKING = 128 << 20  # bytes that ranking takes: packed rows, lists, and what the allocator keeps of them
_WEIGHED = (
    8000  # rows that weights of what stands beside the model are chosen by, beside those of validation links
)
_CANDIDATE = 5000  # bytes an entity of the candidates that a round is proposed from
# What may be changed where it does not fit: key, its new value as the old one gives it, and the price.
_SWITCHES: tuple[tuple[str, Callable[[Any], Any], str], ...] = (
    ("recompute", lambda _: True, "modalities are projected and fused twice in a step"),
    ("dtype", lambda _: "bfloat16", "activations and embeddings of 8 bits' precision"),
    ("optimizer", lambda _: "rmsprop", "one moment a parameter in place of two"),
    (
        "propagation",
        lambda _: "none",
        "no propagated labels beside the model, and further rounds without them",
    ),
    ("propagation_width", lambda width: max(width // 4, 1), "labels that are told apart less well"),
    ("updates", lambda count: count or 1, "batches, each an update of its own"),
    ("hard_samples", lambda count: count // 4, "fewer entities that links are told apart from"),
    ("members", lambda _: 1, "one model in place of several"),
    ("hidden_dim", lambda width: max(width // 2, 1), "narrower embeddings, which align less well"),
)


@dataclass(frozen=True)
class Plan:
    """Bytes, by what they are for; of one process, on the machine's memory or the device's.

    Attributes:
        standing: what is there already: Python, the libraries, both graphs and the features.
        parameters: of the model.
        optimiser: its moments.
        step: what a step needs beside them: gradients, activations, the loss.
        propagation: what propagating labels needs while it runs; 0 without it.
        search: the embedding of what is ranked at the end, and what forming it needs.
        entities: how many entities' features the first update needs.
        advice: where it is more than there is, that it is, and what would make it fit at which cost.
    """

    standing: int
    parameters: int
    optimiser: int
    step: int
    propagation: int
    search: int
    entities: int
    advice: str = ""

    @property
    def further(self) -> int:
        """Bytes beside those that are standing, at the highest moment."""
        return self.parameters + self.optimiser + max(self.step, self.propagation, self.search)

    @property
    def peak(self) -> int:
        """Bytes of the process at its highest moment."""
        return self.standing + self.further

    def describe(self) -> str:
        """A few lines of text."""
        rows = [
            ("standing: Python, graphs, features", self.standing),
            ("parameters", self.parameters),
            ("the optimiser's moments", self.optimiser),
            (f"a step, of {self.entities:,} entities' features", self.step),
            ("propagating labels, between trainings", self.propagation),
            ("embedding and ranking, at the end", self.search),
            ("peak", self.peak),
        ]
        lines = [f"{name:44}{size / 2**20:10,.0f} MiB" for name, size in rows if size]
        return "\n".join([*lines, *([f"it does not fit: {self.advice}"] if self.advice else [])])


def plan_memory(problem: Problem, model: EntityModel, config: Config) -> Plan:
    """Count what training `model` will need.

    Args:
        problem: what is trained on.
        model: its parameters may be on the meta device, where they take nothing.
        config: how.
    """
    members = members_of(model)
    one = members[0]
    parameters = sum(p.numel() * p.element_size() for p in model.parameters())
    there = sum(p.numel() * p.element_size() for p in model.parameters() if p.device.type != "meta")
    entities, step = _step(problem, model, config)
    moments = 1 if config.optimizer == "rmsprop" else 2
    count, width = problem.graph.num_entities, config.hidden_dim
    size = one.compute_dtype.itemsize
    propagated = count * (config.propagation_width + config.propagation_width // 4) * 4
    late = config.propagation == "late"
    columns = model.embedding_dim + (late * 5 * config.propagation_width) // 4
    names = [sketch_width(problem.pair.features[name]) for name in late_names(problem, config)]
    kept = [*names, joined_width(config)]
    columns += sum(kept)
    ranked = _ranked(problem, config)
    layers = (one.depth + 1) * width * size
    # One encoder writes all its layers, of all entities or nearly; of fewer rows they are copied.
    search = count * (layers + 2 * width * size) + (0 if 2 * ranked > count else ranked * layers)
    search += sum(_kept(ranked * wide * size) for wide in {model.embedding_dim, columns})
    search += joined_width(config) * count // 2 * 4  # of the links, before each entity has its link's
    search += late * _kept(propagated) + sum(_kept(count * wide * 4) for wide in kept)
    search += parameters  # of the best checkpoint, as it is read back
    # Weights are chosen before anything is ranked by them.
    weighed = bool(late or names) * 2 * min(_WEIGHED + 2 * len(problem.split.valid), count) * columns * size
    search += max(_RANKING, weighed) + bool(config.rounds) * ranked * _CANDIDATE
    labels = config.propagation_width * 4
    return Plan(
        standing=resident_memory(problem.device) - there,
        parameters=parameters,
        optimiser=moments * parameters,
        step=step,
        propagation=late * labels * (3 * count + problem.graph.num_relation_sets),
        search=search,
        entities=entities,
    )


def check_plan(problem: Problem, config: Config, build: Callable[[Config], EntityModel]) -> Plan:
    """Refuse a training that the machine has no memory for.

    Args:
        problem: what is to be trained on.
        config: how.
        build: the model of a configuration, on the meta device.

    Returns:
        The plan.

    Raises:
        ConfigError: it needs more than there is; names what would make it fit and what each costs.
    """
    plan = plan_with_advice(problem, config, build)
    if plan.advice:
        raise ConfigError(plan.advice)
    return plan


def plan_with_advice(problem: Problem, config: Config, build: Callable[[Config], EntityModel]) -> Plan:
    """The same plan, which refuses nothing and says what `check_plan` would."""
    plan = plan_memory(problem, build(config), config)
    return replace(plan, advice=_advice(plan, problem, config, build))


def _advice(plan: Plan, problem: Problem, config: Config, build: Callable[[Config], EntityModel]) -> str:
    free = available_memory(problem.device)
    if free is None or plan.further <= free:
        return ""
    found = []
    for key, change, price in _SWITCHES:
        before = getattr(config, key)
        if (now := change(before)) == before:
            continue
        other = config.override(**{key: now})
        needs = plan_memory(problem, build(other), other).further
        if needs < plan.further:
            found.append((needs, f"  {key}={now}: {_gb(needs)} ({price})"))
    fits = [line for needs, line in found if needs <= free]
    told = "one of these makes it fit:" if fits else "no switch alone makes it fit; several of these may:"
    lines = fits or [line for _, line in sorted(found)]
    return (
        f"training needs {_gb(plan.further)} beside the {_gb(plan.standing)} that are in use, and {_gb(free)} are free "
        f"(loginmea-fast train --plan says for what); {told}\n" + ";\n".join(lines[:8])
    )


def _gb(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.0f} MB"


def _kept(size: int) -> int:
    """Bytes of a matrix that are in memory: none where `mapped.room_for` has it in a file that takes none."""
    return size if size < IN_MEMORY or is_memory(tempfile.gettempdir()) else 0


def _ranked(problem: Problem, config: Config) -> int:
    """How many entities are embedded at the end, or where rounds or validation look at most."""
    count = problem.graph.num_entities
    if config.candidates == "all" or config.rounds or len(problem.split.valid):
        return count
    return min(2 * len(problem.split.test), count)


def _step(problem: Problem, model: EntityModel, config: Config) -> tuple[int, int]:
    """How many entities the first update needs features of, and the bytes of the step."""
    graph, one = problem.graph, members_of(model)[0]
    sampler = Sampler(config, problem.pair, problem.split.train, graph)
    positions = sampler.positions(0)
    further = sampler.further(positions, further_entities(config), 0, 0)
    rows = torch.cat([sampler.links[positions].t().reshape(-1), further]).to(problem.device).unique()
    view = sampler.graph.view(rows, one.depth)
    sizes = [block.sources for block in view.blocks] or [graph.num_entities] * one.depth
    batch = len(rows)
    count, width, size = graph.num_entities, config.hidden_dim, one.compute_dtype.itemsize
    channels = len(one.modalities) * (one.channels is not None)
    fused = one.local_to_global is not None
    encoders = channels + fused + (one.graph_encoder is not None)
    # Each encoder keeps its layers for the gradient, a fusion also what it is made of; the gradient of one at a time.
    chain = sum(sizes) + (one.depth + 1) * batch
    whole = fused * len(one.modalities) * (not config.recompute) * sizes[0]
    kept = encoders * chain + fused * sizes[0] + whole
    gradient = sum(sizes[:2]) + whole
    loss = (
        _LOSS_ROWS * 2 * len(positions) * one.embedding_dim
        + (_LOSS_ROWS // 2) * len(further) * one.embedding_dim
    )
    sets = (encoders + 3) * graph.num_relation_sets
    activations = (width * (kept + sets) + max(loss, width * gradient)) * size
    table = 4 * count * width * (one.entity_embedding is not None)
    parameters = sum(p.numel() * p.element_size() for p in one.parameters())
    last = (
        parameters + (chain + gradient) * width * size + table
    )  # the graph's encoder, whose table's gradient is filled
    bytes_ = max(activations, last, 2 * parameters) + _KERNELS
    others = (len(members_of(model)) - 1) * parameters  # gradients of the other members
    return sizes[0], bytes_ + others
