"""Late propagation: labels of a run's links, propagated, beside the model's embedding, by a weight from validation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from loginmea_fast.evaluation.embedding import Embedding, JointEmbedding
from loginmea_fast.evaluation.rows import link_rows
from loginmea_fast.evaluation.whitening import whitened
from loginmea_fast.log import log
from loginmea_fast.mapped import release, room_for
from loginmea_fast.propagation import join, late_weight, propagate_labels
from loginmea_fast.training.bootstrapping import without
from loginmea_fast.training.config import Config
from loginmea_fast.training.protocols import Problem

__all__ = ["LateEmbedding", "beside_propagation", "embedding_of", "model_embedding"]

_WEIGHT = 0.7  # where there is nothing to choose by
_RIVALS = (
    4000  # entities of each graph, beside the partners, that a weight is judged among: CSLS needs all pairs
)
_BLOCK = 4096  # rows that are joined at once


@dataclass(frozen=True)
class LateEmbedding:
    """Propagated labels beside another embedding, by `propagation.join`.

    Attributes:
        model: the other, of the same entities.
        propagated: F [N, D'], unit or zero rows, whitened as the other is, on its device.
        weight: of F.
        links: how many links' labels were propagated.
    """

    model: Embedding
    propagated: Tensor
    weight: float
    links: int

    @property
    def parts(self) -> list[tuple[str, int]]:
        """Those of the model, then the labels."""
        return [*getattr(self.model, "parts", ()), ("labels", self.propagated.shape[1])]

    def embed(self, rows: Tensor) -> Tensor:
        """Unit rows [B, D + D'], in the dtype of the model's."""
        own = self.model.embed(rows)
        joined = room_for(len(own), own.shape[1] + self.propagated.shape[1], own.dtype, own.device)
        rows = rows.to(self.propagated.device)
        for part, ids, out in zip(own.split(_BLOCK), rows.split(_BLOCK), joined.split(_BLOCK), strict=True):
            out.copy_(join(part, self.propagated[ids], self.weight))
            release(part)
            release(out)
        return joined

    def summary(self) -> dict[str, Any]:
        """What stands beside the model, JSON-ready."""
        return {"weight": self.weight, "links": self.links, "columns": self.propagated.shape[1]}


def model_embedding(joint: JointEmbedding, problem: Problem, config: Config) -> Embedding:
    """The model's rows, whitened by what all entities have in common."""
    if not config.whitening:
        return joint
    return whitened(joint, torch.arange(problem.graph.num_entities), config.whitening)


def embedding_of(
    joint: JointEmbedding, problem: Problem, config: Config, joined: Tensor, weight: float | None = None
) -> Embedding:
    """What a run aligns by: `model_embedding`, with propagated labels beside it where the configuration has them.

    The arguments are those of `beside_propagation`.
    """
    embedding = model_embedding(joint, problem, config)
    if config.propagation == "late":
        return beside_propagation(embedding, problem, config, joined, weight)
    return embedding


def beside_propagation(
    joint: Embedding, problem: Problem, config: Config, joined: Tensor, weight: float | None = None
) -> LateEmbedding:
    """Propagate the labels of training links and put them beside a model; the same again for the same `config.seed`.

    Args:
        joint: of the model.
        problem: that it was trained on.
        config: how.
        joined: int64 [J, 2], links that joined the training links by bootstrapping.
        weight: of the labels; None has the validation links choose it, or takes 0.7 where there are none.

    Raises:
        InputError: see `propagate_labels`.
    """
    split, pair = problem.split, problem.pair
    links = torch.cat([split.train, joined])
    backend = config.backend if config.backend in ("reference", "cpu") else "auto"
    propagated = propagate_labels(
        problem.graph,
        links,
        width=config.propagation_width,
        seed=config.seed,
        whitening=config.whitening,
        backend=backend,
    ).embedding
    if weight is None and not len(split.valid):
        weight = _WEIGHT
        log.warning(
            "propagated labels take the weight %s: there are no validation links to choose it by; raise valid_ratio",
            weight,
        )
    if weight is None:
        generator = torch.Generator().manual_seed(config.seed)
        rivals = []
        for side, entities in enumerate((pair.left_entities, pair.right_entities)):
            unlinked = without(entities, torch.cat([split.train[:, side], split.valid[:, side]]))
            rivals.append(unlinked[torch.randperm(len(unlinked), generator=generator)[:_RIVALS]])
        rows = link_rows(split.valid, *rivals)
        both = torch.cat([rows.left, rows.right])
        places = torch.arange(len(both))
        weight = late_weight(
            joint.embed(both),
            propagated[both.to(propagated.device)],
            rows.pairs + torch.tensor([0, len(rows.left)]),
            places[: len(rows.left)],
            places[len(rows.left) :],
            csls_k=config.csls_k,
            backend=config.backend,
        )
    return LateEmbedding(joint, propagated, weight, len(links))
