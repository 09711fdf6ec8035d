"""An embedding whose parts are whitened, by `loginmea_fast.whitening`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from loginmea_fast.evaluation.embedding import Embedding
from loginmea_fast.mapped import release
from loginmea_fast.whitening import SAMPLE, Whitening, fit_whitening

__all__ = ["WhitenedEmbedding", "whitened"]

_BLOCK = 16384  # rows that are whitened at once


@dataclass(frozen=True)
class WhitenedEmbedding:
    """Another embedding, each part of which is whitened by itself, so that a part keeps its columns.

    Attributes:
        other: its rows.
        parts: of a row, each with its columns.
        whitenings: of each part.
    """

    other: Embedding
    parts: list[tuple[str, int]]
    whitenings: list[Whitening]

    def embed(self, rows: Tensor) -> Tensor:
        """Unit rows [B, D]: the parts side by side, zero where an entity has nothing of a part."""
        joint = self.other.embed(rows)
        for block in joint.split(_BLOCK):
            for part, whitening in zip(_split(block, self.parts), self.whitenings, strict=True):
                part.copy_(whitening(part))
            block.copy_(F.normalize(block, dim=1))
            release(block)
        return joint


def whitened(
    embedding: Embedding,
    entities: Tensor,
    power: float,
    add_up: Callable[[list[Tensor]], None] | None = None,
) -> WhitenedEmbedding:
    """Another embedding by what its rows have in common.

    Args:
        embedding: where it names no `parts`, all is one.
        entities: int64 [N], of both graphs; every n-th of them is looked at where there are more than 65,536.
        power: of `loginmea_fast.whitening`, 0 to 1.
        add_up: see `fit_whitening`.
    """
    rows = embedding.embed(entities[:: -(-len(entities) // SAMPLE)])
    parts = list(getattr(embedding, "parts", None) or [("embedding", rows.shape[1])])
    whitenings = [fit_whitening(part, power, add_up=add_up) for part in _split(rows, parts)]
    return WhitenedEmbedding(embedding, parts, whitenings)


def _split(rows: Tensor, parts: list[tuple[str, int]]) -> tuple[Tensor, ...]:
    return rows.split([width for _, width in parts], 1)
