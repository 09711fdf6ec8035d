"""Ways to embed entities from known links: a trained model, or propagation, which is not trained."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from loginmea_fast.data import AlignmentPair, Feature
from loginmea_fast.errors import ConfigError, DataError
from loginmea_fast.evaluation.embedding import Embedding, StoredEmbedding
from loginmea_fast.graph import AlignmentGraph
from loginmea_fast.propagation import join, late_weight, one_sided, propagate_rounds
from loginmea_fast.runs.fitting import fit
from loginmea_fast.training.config import Config

__all__ = ["METHODS", "Method", "Plan", "divide_links", "embed_by"]

Method = Literal["model", "propagate"]
METHODS: tuple[Method, ...] = ("model", "propagate")

HELD_OUT = 0.2  # of the known links, for calibration
MOST_HELD_OUT = 1000  # which calibrate as well as more would
FOLDS = 5  # where known links are few, each is held out once
ROUNDS = 2  # of bootstrapping by propagation
_RIVALS = 4000  # entities of each graph among which a weight is judged: CSLS needs all pairs
_SKETCH = 1024  # columns of a sparse modality beside propagated labels
_BESIDE_MODALITIES = ("relation", "attribute")  # the graph itself, and what two graphs seldom name alike


@dataclass(frozen=True)
class Plan:
    """Known links divided for calibration.

    Attributes:
        rounds: links to learn from and links held out, int64 [., 2]; no entity of a held-out link stands among those
            to learn from.
        again: whether the matches are those of the method learned anew from all links; else of the only round, so that
            nothing is trained twice.
    """

    rounds: tuple[tuple[Tensor, Tensor], ...]
    again: bool


def divide_links(links: Tensor, method: Method, folds: int | None, seed: int) -> Plan:
    """Divide known links [S, 2] into those to learn from and those held out.

    Args:
        links: each once.
        method: "propagate" is cheap enough to be done again with all links; "model" learns from the rest alone unless
            `folds` asks for more.
        folds: 1 holds a part out once; K from 2 on holds every link out once, in K rounds and one more with all links;
            None chooses.
        seed: of the shuffle.
    """
    count = len(links)
    if folds is None:
        folds = FOLDS if method == "propagate" and count * HELD_OUT < 30 else 1
    folds = min(folds, count)
    shuffled = links[torch.randperm(count, generator=torch.Generator().manual_seed(seed))]
    if count < 2:
        return Plan(((links, links[:0]),), False)
    if folds > 1:
        number = torch.arange(count) % folds
        parts = [(shuffled[number != n], shuffled[number == n]) for n in range(folds)]
    else:
        held = min(max(int(count * HELD_OUT), 1), MOST_HELD_OUT)
        parts = [(shuffled[held:], shuffled[:held])]
    rounds = tuple((train, _apart(held, train)) for train, held in parts)
    return Plan(rounds, folds > 1 or method == "propagate")


def _apart(held: Tensor, train: Tensor) -> Tensor:
    """Links that share no entity with those to learn from."""
    linked = torch.isin(held[:, 0], train[:, 0]) | torch.isin(held[:, 1], train[:, 1])
    return held[~linked]


def embed_by(
    method: Method, pair: AlignmentPair, config: Config, progress: bool | None
) -> Callable[[Tensor], Embedding]:
    """A function from links to learn from, int64 [T, 2], to an embedding of all entities.

    Raises:
        ConfigError: an unknown method, or modalities that the pair does not have.
    """
    if method == "model":
        return lambda links: _trained(pair, config, links, progress)
    if method == "propagate":
        graph = pair.graph()
        sketches = [_sketch(pair.features[name]) for name in _spoken(pair, config)]
        return lambda links: _propagated(pair, graph, sketches, config, links)
    raise ConfigError(f"method must be one of {', '.join(METHODS)}; got {method!r}")


def _trained(pair: AlignmentPair, config: Config, links: Tensor, progress: bool | None) -> Embedding:
    known = replace(pair, links=links, official_split=None)
    return fit(known, config.override(seed_ratio=1.0), progress=progress).embedding


def _spoken(pair: AlignmentPair, config: Config) -> list[str]:
    names = list(pair.features) if config.modalities is None else list(config.modalities)
    if missing := [name for name in names if name not in pair.features]:
        has = ", ".join(pair.features) or "none"
        raise ConfigError(f"the data has no modality {missing[0]!r}; there are {has}", "modalities")
    return [name for name in names if name not in _BESIDE_MODALITIES]


def _propagated(
    pair: AlignmentPair, graph: AlignmentGraph, sketches: list[Tensor], config: Config, links: Tensor
) -> Embedding:
    """Labels of the links, propagated, and modalities beside them by weights that links held back choose."""
    if not sketches:
        return StoredEmbedding(_labels(pair, graph, config, links))
    held = max(int(len(links) * config.valid_ratio), 1)
    known, chosen = links[held:], _apart(links[:held], links[held:])
    if not len(known) or not len(chosen):
        raise DataError(
            f"{len(links)} known links are too few to weigh {len(sketches)} modalities beside propagated labels; "
            "give more, or take no modality"
        )
    labels = _labels(pair, graph, config, known)
    generator = torch.Generator().manual_seed(config.seed)
    sides = []
    for side, entities in enumerate((pair.left_entities, pair.right_entities)):
        unlinked = entities[~torch.isin(entities, links[:, side])]
        sides.append(unlinked[torch.randperm(len(unlinked), generator=generator)[:_RIVALS]])
    weights, joined = [], labels
    for sketch in sketches:
        weight = late_weight(
            joined, sketch, chosen, sides[0], sides[1], csls_k=config.csls_k, backend=config.backend
        )
        joined = join(joined, sketch, weight)
        weights.append(weight)
    found = _labels(pair, graph, config, links)
    for sketch, weight in zip(sketches, weights, strict=True):
        found = join(found, sketch, weight)
    return StoredEmbedding(found)


def _labels(pair: AlignmentPair, graph: AlignmentGraph, config: Config, links: Tensor) -> Tensor:
    one_sided(graph, links)
    return propagate_rounds(
        graph,
        links,
        pair.left_entities,
        pair.right_entities,
        rounds=ROUNDS,
        csls_k=config.csls_k,
        backend="auto" if config.backend == "triton" else config.backend,
        width=config.propagation_width,
        seed=config.seed,
    )[0].embedding


def _sketch(feature: Feature) -> Tensor:
    """Unit rows of a modality, [N, at most 1,024 columns where it is sparse]; zero where an entity lacks it.

    A sparse one by a count sketch (Charikar, Chen and Farach-Colton 2002): every column goes to one of the sketch, with
    a random sign. Products of rows keep their expectation.
    """
    values = feature.values
    if not feature.is_sparse:
        rows = torch.nn.functional.normalize(values.float(), dim=1)
        return rows * feature.present[:, None]
    generator = torch.Generator().manual_seed(0)
    width = values.shape[1]
    place = torch.randint(0, _SKETCH, (width,), generator=generator)
    sign = torch.randint(0, 2, (width,), generator=generator) * 2.0 - 1
    owner = torch.repeat_interleave(torch.arange(len(values)), values.crow_indices().diff())
    column = values.col_indices()
    flat = torch.zeros(len(values) * _SKETCH)
    flat.index_add_(0, owner * _SKETCH + place[column], values.values().float() * sign[column])
    return torch.nn.functional.normalize(flat.view(len(values), _SKETCH), dim=1)
