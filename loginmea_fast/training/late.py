"""What stands beside the model: labels of a run's links, and names; by weights from validation."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor

from loginmea_fast.data import AlignmentPair
from loginmea_fast.data.sketch import sketch
from loginmea_fast.evaluation.embedding import Embedding, JointEmbedding, SpreadEmbedding
from loginmea_fast.evaluation.links import rank_links
from loginmea_fast.evaluation.metrics import rank_metrics
from loginmea_fast.evaluation.rows import link_rows
from loginmea_fast.evaluation.whitening import whitened
from loginmea_fast.log import log
from loginmea_fast.mapped import normalize, release, room_for
from loginmea_fast.parallel import shards_of, world_of
from loginmea_fast.propagation import join, late_weight, propagate_labels
from loginmea_fast.training.bootstrapping import without
from loginmea_fast.training.config import Config
from loginmea_fast.training.protocols import Problem
from loginmea_fast.whitening import whiten_rows

__all__ = [
    "JOINED",
    "Beside",
    "LateEmbedding",
    "beside_model",
    "embedding_of",
    "joined_width",
    "late_names",
    "model_embedding",
    "validation_metrics",
    "weights_by_links",
]

LABELS = "labels"  # the part of the propagated labels
JOINED = "joined"  # and of those that the links that joined have of their own
# Modalities in which nearly every entity differs from all others: what a projection to a few columns has to lose of
# them is most of it.
_NAMES = ("name_tfidf", "name", "word", "sentence")
# What serves on the field's data sets; kept unless validation links speak clearly for another.
_USUAL_WEIGHTS = {LABELS: 0.7, JOINED: 0.5}
_USUAL_NAME_WEIGHT = 0.5
_RIVALS = (
    4000  # entities of each graph, beside the partners, that a weight is judged among: CSLS needs all pairs
)
_BLOCK = 4096  # rows that are joined at once
_JOINED_WIDTH = 256  # columns in which random vectors stand for links


@dataclass(frozen=True)
class Beside:
    """What stands beside a model.

    Attributes:
        name: of the modality, or "labels", "joined".
        rows: [N, D'], unit or zero rows, on the model's device.
        weight: of them.
        links: how many links they are labels of; 0 where they are none.
    """

    name: str
    rows: Tensor
    weight: float
    links: int = 0


@dataclass(frozen=True)
class LateEmbedding:
    """Rows beside another embedding, one after the other by `propagation.join`.

    Attributes:
        model: the other, of the same entities, whitened as they are.
        beside: what stands beside it, in this order.
    """

    model: Embedding
    beside: tuple[Beside, ...]

    @property
    def parts(self) -> list[tuple[str, int]]:
        """Those of the model, then those beside it."""
        return [*getattr(self.model, "parts", ()), *((b.name, b.rows.shape[1]) for b in self.beside)]

    def without(self, name: str) -> LateEmbedding:
        """The same without one part."""
        return replace(self, beside=tuple(part for part in self.beside if part.name != name))

    @property
    def weights(self) -> dict[str, float]:
        """Of each that stands beside the model."""
        return {beside.name: beside.weight for beside in self.beside}

    def embed(self, rows: Tensor) -> Tensor:
        """Unit rows [B, D + D' + ...], in the dtype of the model's."""
        own = self.model.embed(rows)
        columns = own.shape[1] + sum(beside.rows.shape[1] for beside in self.beside)
        joined = room_for(len(own), columns, own.dtype, own.device)
        for part, ids, out in zip(own.split(_BLOCK), rows.split(_BLOCK), joined.split(_BLOCK), strict=True):
            block = part
            for beside in self.beside:
                block = join(block, beside.rows[ids.to(beside.rows.device)], beside.weight)
            out.copy_(block)
            release(part)
            release(out)
        return joined

    def summary(self) -> dict[str, Any]:
        """What stands beside the model, JSON-ready."""
        return {
            b.name: {
                "weight": b.weight,
                "columns": b.rows.shape[1],
                **({"links": b.links} if b.links else {}),
            }
            for b in self.beside
        }


def late_names(problem: Problem, config: Config) -> list[str]:
    """Modalities of `problem` that stand beside the model."""
    return [name for name in _NAMES if name in problem.features] if config.late_names else []


def joined_width(config: Config) -> int:
    """Columns of the labels of links that may join; 0 where none can or they have none."""
    joins = config.rounds > 0 or config.bootstrap
    return _JOINED_WIDTH if joins and config.propagation == "late" and config.late_pairs else 0


def model_embedding(joint: JointEmbedding, problem: Problem, config: Config) -> Embedding:
    """The model's rows, whitened by what all entities have in common."""
    return _spread(_own_embedding(joint, problem, config), problem)


def _own_embedding(joint: JointEmbedding, problem: Problem, config: Config) -> Embedding:
    """The same of the rows that this process owns."""
    if not config.whitening:
        return joint
    entities = torch.arange(problem.graph.num_entities)
    return whitened(joint, entities, config.whitening, world_of(problem.graph).sum_)


def _spread(own: Embedding, problem: Problem) -> Embedding:
    """Where processes share the work, the rows that each owns as those of one embedding."""
    shards = shards_of(problem.graph)
    return own if shards is None else cast("Embedding", SpreadEmbedding(own, shards))


def embedding_of(
    joint: JointEmbedding,
    problem: Problem,
    config: Config,
    joined: Tensor,
    weights: dict[str, float] | None = None,
) -> Embedding:
    """What a run aligns by: `model_embedding`, and what the configuration has stand beside it, by `beside_model`."""
    return beside_model(model_embedding(joint, problem, config), problem, config, joined, weights)


def beside_model(
    model: Embedding,
    problem: Problem,
    config: Config,
    joined: Tensor,
    weights: dict[str, float] | None = None,
) -> Embedding:
    """Put propagated labels and names beside a model; the same again for the same `config.seed`.

    Args:
        model: its embedding.
        problem: that it was trained on.
        config: how.
        joined: int64 [J, 2], links that joined the training links by bootstrapping.
        weights: of each; None has the validation links choose them, one after the other, or takes the usual ones where
            there are none: 0.7 for labels, 0.5 for names and for the labels of links that joined.

    Returns:
        `LateEmbedding`; `model` where the configuration has nothing beside it.

    Raises:
        InputError: see `propagate_labels`.
    """
    links = torch.cat([problem.split.train, joined])
    found = []
    if config.propagation == "late":
        backend = config.backend if config.backend in ("reference", "cpu") else "auto"
        propagated = propagate_labels(
            problem.graph,
            links,
            width=config.propagation_width,
            seed=config.seed,
            whitening=config.whitening,
            backend=backend,
        )
        found.append((LABELS, propagated.embedding))
    for name in late_names(problem, config):
        rows = whiten_rows(sketch(problem.pair.features[name]), config.whitening)
        found.append((name, rows.to(problem.device)))
    if joined_width(config) and len(joined):
        own = _own_labels(joined, problem.graph.num_entities, config.seed)
        found.append((JOINED, own.to(problem.device)))
    if not found:
        return model
    if weights is None or not weights.keys() >= {name for name, _ in found}:
        weights = _chosen(model, found, problem, config)
    told = {LABELS: len(links), JOINED: len(joined)}
    beside = tuple(Beside(name, rows, weights[name], told.get(name, 0)) for name, rows in found)
    return LateEmbedding(model, beside)


def _own_labels(links: Tensor, entities: int, seed: int) -> Tensor:
    """A random unit vector a link [J, 2], the same for both its entities: [entities, D], zero for all others.

    Propagated labels tell an entity by what its neighbours were joined with. These tell it by what it was joined with
    itself, which all entities at once gave evidence of; a nearest neighbour looks at one alone.
    """
    labels = torch.randn(len(links), _JOINED_WIDTH, generator=torch.Generator().manual_seed(seed))
    normalize(labels)
    rows = room_for(entities, _JOINED_WIDTH, labels.dtype, labels.device)
    for block in rows.split(_BLOCK):
        release(block.zero_())
    for side in links.unbind(1):
        for some in side.argsort().split(_BLOCK):
            rows[side[some]] = labels[some]
            release(rows)
    return rows


def _chosen(
    model: Embedding, found: list[tuple[str, Tensor]], problem: Problem, config: Config
) -> dict[str, float]:
    """By validation links; the usual weights where there are none."""
    split = problem.split
    usual = {name: _USUAL_WEIGHTS.get(name, _USUAL_NAME_WEIGHT) for name, _ in found}
    if not len(split.valid):
        told = ", ".join(f"{name} {weight:g}" for name, weight in usual.items())
        log.warning(
            "what stands beside the model takes the weight %s: there are no validation links to choose it by; raise "
            "valid_ratio",
            told,
        )
        return usual
    known = torch.cat([split.train, split.valid])
    beside = [(rows, usual[name]) for name, rows in found]
    return dict(
        zip(usual, weights_by_links(model, beside, problem.pair, split.valid, known, config), strict=True)
    )


def weights_by_links(
    model: Embedding,
    beside: Iterable[tuple[Tensor, float]],
    pair: AlignmentPair,
    links: Tensor,
    known: Tensor,
    config: Config,
) -> list[float]:
    """Weights of what stands beside a model by which links find each other best, one weight after the other.

    Args:
        model: that has not learned from `links`.
        beside: of each the unit or zero rows [N, D'], and the weight that is kept unless links speak clearly for
            another; see `late_weight`.
        pair: whose entities the rivals are drawn from, by `config.seed`.
        links: int64 [V, 2] to choose by.
        known: int64 [L, 2], links whose entities are no rivals.
        config: of the seed and the search.
    """
    rows = link_rows(links, *_rivals(pair, known, config.seed))
    both = torch.cat([rows.left, rows.right])
    places = torch.arange(len(both))
    joined, weights = model.embed(both), []
    for whole, usual in beside:
        some = whole[both.to(whole.device)]
        weights.append(
            late_weight(
                joined,
                some,
                rows.pairs + torch.tensor([0, len(rows.left)]),
                places[: len(rows.left)],
                places[len(rows.left) :],
                csls_k=config.csls_k,
                usual=usual,
            )
        )
        joined = join(joined, some, weights[-1])
    return weights


def validation_metrics(embedding: Embedding, problem: Problem, config: Config) -> dict[str, Any]:
    """What the validation links say of `embedding_of`, by CSLS, among each other and entities without a link.

    Returns:
        As `rank_metrics`, both ways together, with `candidates`, the largest number that a partner was found among;
        empty where there are no validation links.
    """
    split = problem.split
    if not len(split.valid):
        return {}
    rivals = _rivals(problem.pair, torch.cat([split.train, split.valid]), config.seed)
    sides = zip(split.valid.unbind(1), rivals, strict=True)
    candidates = [len(column.unique()) + len(others) for column, others in sides]
    csls_k = min(config.csls_k, *candidates)
    ranks = rank_links(embedding, split.valid, *rivals, csls_k, config.backend)
    return {"candidates": max(candidates), **rank_metrics(torch.cat(ranks))}


def _rivals(pair: AlignmentPair, known: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """Entities of each graph without a known link, so many as a choice is made among."""
    generator = torch.Generator().manual_seed(seed)
    left, right = (
        unlinked[torch.randperm(len(unlinked), generator=generator)[:_RIVALS]]
        for unlinked in map(without, (pair.left_entities, pair.right_entities), known.unbind(1))
    )
    return left, right
