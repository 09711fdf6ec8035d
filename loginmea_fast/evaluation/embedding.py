"""Embeddings for looking, not for learning: whatever gives unit rows for entities can be ranked and decoded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from loginmea_fast.errors import InputError
from loginmea_fast.graph import AlignmentGraph
from loginmea_fast.mapped import room_for
from loginmea_fast.nn import EntityModel, RawFeatures, members_of
from loginmea_fast.parallel import Shards, SpreadRows

__all__ = [
    "Embedding",
    "JointEmbedding",
    "SpreadEmbedding",
    "StoredEmbedding",
    "check_embedding",
    "shares_of",
]


@runtime_checkable
class Embedding(Protocol):
    """What evaluation and decoding look at."""

    def embed(self, rows: Tensor) -> Tensor:
        """Unit rows [B, D] of entities `rows`, int64 [B] on any device, without a gradient; formed when asked for."""


@dataclass(frozen=True)
class JointEmbedding:
    """The joint embedding of a model.

    Attributes:
        model: on one device with `features` and `graph`; its training mode is kept.
        features: modality -> [N, d_m].
        graph: both knowledge graphs. Of a divided one, whose model and features are those of this process, `embed` is a
            collective and returns the own ones of the rows.
    """

    model: EntityModel
    features: Mapping[str, RawFeatures]
    graph: AlignmentGraph | Shards

    def __post_init__(self) -> None:
        given = self.model, self.features, self.graph
        if (
            not hasattr(self.model, "joint_rows")
            or not isinstance(self.features, Mapping)
            or not isinstance(self.graph, AlignmentGraph | Shards)
        ):
            raise InputError(
                "JointEmbedding takes a model, its features and the graph, as in JointEmbedding(run.model, "
                "run.problem.features, run.problem.graph); got " + ", ".join(type(g).__name__ for g in given)
            )

    @property
    def parts(self) -> list[tuple[str, int]]:
        """Those of the model."""
        return self.model.parts

    def embed(self, rows: Tensor) -> Tensor:
        """Unit rows [B, D], in the model's dtype, by its `joint_rows`; very many are in a file (`mapped.room_for`)."""
        training = self.model.training
        dtype = members_of(self.model)[0].compute_dtype
        view = self.graph.view(rows, self.model.depth)
        room = room_for(view.num_rows, self.model.embedding_dim, dtype, self.graph.device)
        self.model.eval()
        try:
            return self.model.joint_rows(self.features, view, out=room)
        finally:
            self.model.train(training)


@dataclass(frozen=True)
class SpreadEmbedding:
    """An embedding whose rows stay with the processes that own them, to be ranked there.

    Attributes:
        own: gives of the rows asked for those of this process.
        shards: who owns what.
    """

    own: Embedding
    shards: Shards

    @property
    def parts(self) -> list[tuple[str, int]]:
        """Those of `own`."""
        return list(getattr(self.own, "parts", ()))

    def embed(self, rows: Tensor) -> SpreadRows:
        """Rows [B, D] over all processes; a collective."""
        return SpreadRows(self.shards.world, self.own.embed(rows), self.shards.owner_of(rows))


@dataclass(frozen=True)
class StoredEmbedding:
    """An embedding whose rows are all there.

    Attributes:
        rows: [N, D], unit or zero rows.
        parts: what stands side by side in a row, and in how many columns.
    """

    rows: Tensor
    parts: list[tuple[str, int]] = field(default_factory=list)

    def embed(self, rows: Tensor) -> Tensor:
        """Rows [B, D]."""
        return self.rows[rows.to(self.rows.device)]


def shares_of(embedding: Embedding, left: Tensor, right: Tensor) -> dict[str, Tensor]:
    """Which share of the similarity of two entities comes from which part of the embedding.

    A product of two rows is the sum of those of their parts; what speaks against a match counts as zero.

    Args:
        embedding: where it names no `parts`, all is one.
        left: int64 [P], entities.
        right: int64 [P].

    Returns:
        Part -> float64 [P]; the shares of a match sum to one, or are all zero where nothing speaks for it.
    """
    rows = embedding.embed(torch.cat([left, right]))
    if isinstance(rows, SpreadRows):  # of an embedding whose processes hold a part each
        rows = rows.gathered()
    parts = getattr(embedding, "parts", None) or [("embedding", rows.shape[1])]
    found: dict[str, Tensor] = {}
    first = 0
    for name, width in parts:
        own = rows[:, first : first + width]
        product = torch.linalg.vecdot(own[: len(left)], own[len(left) :]).double().cpu()
        found[name] = found.get(name, 0) + product
        first += width
    found = {name: product.clamp_min(0) for name, product in found.items()}
    total = torch.stack([*found.values()]).sum(0).clamp_min(1e-300)
    return {name: product / total for name, product in found.items()}


def check_embedding(embedding: object) -> None:
    """Raise `InputError` unless `embedding` can embed; a model alone lacks its features."""
    if not isinstance(embedding, Embedding):
        raise InputError(
            f"an embedding is asked for, with embed(rows) -> unit rows [B, D]; got {type(embedding).__name__}. Give "
            "the embedding of a run (load_run(RUN).embedding), or JointEmbedding(model, features, graph)"
        )
