"""Embeddings for looking, not for learning: whatever gives unit rows for entities can be ranked and decoded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torch import Tensor

from loginmea_fast.errors import InputError
from loginmea_fast.nn import EntityModel

__all__ = ["Embedding", "JointEmbedding", "StoredEmbedding", "check_embedding"]


@runtime_checkable
class Embedding(Protocol):
    """What evaluation and decoding look at."""

    def embed(self, rows: Tensor) -> Tensor:
        """Unit rows [B, D] of entities `rows`, int64 [B] on any device, without a gradient; formed when asked for."""


@dataclass(frozen=True)
class JointEmbedding:
    """The joint embedding of a model.

    Attributes:
        model: on one device with `features`; its training mode is kept.
        features: modality -> [N, d_m].
    """

    model: EntityModel
    features: Mapping[str, Tensor]

    def embed(self, rows: Tensor) -> Tensor:
        """Unit rows [B, D], in the model's dtype, by its `joint_rows`."""
        training = self.model.training
        self.model.eval()
        try:
            return self.model.joint_rows(self.features, rows.to(self.model.graph.device))
        finally:
            self.model.train(training)


@dataclass(frozen=True)
class StoredEmbedding:
    """An embedding whose rows are all there.

    Attributes:
        rows: [N, D], unit or zero rows.
    """

    rows: Tensor

    def embed(self, rows: Tensor) -> Tensor:
        """Rows [B, D]."""
        return self.rows[rows.to(self.rows.device)]


def check_embedding(embedding: object) -> None:
    """Raise `InputError` unless `embedding` can embed; a model alone lacks its features."""
    if not isinstance(embedding, Embedding):
        raise InputError(
            f"an embedding is asked for, with embed(rows) -> unit rows [B, D]; got {type(embedding).__name__}. Give "
            "the embedding of a run (load_run(RUN).embedding), or JointEmbedding(model, features)"
        )
