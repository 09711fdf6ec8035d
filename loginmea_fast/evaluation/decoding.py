"""From embeddings back to entities: the best matches of each, by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from loginmea_fast import ops
from loginmea_fast.data import AlignmentPair
from loginmea_fast.evaluation.embedding import joint_embedding
from loginmea_fast.nn import LoginMEA

__all__ = ["Decoded", "Match", "decode"]


@dataclass(frozen=True)
class Match:
    """An entity that may be the partner, its name, and the cosine or CSLS score."""

    entity: int
    name: str
    score: float


@dataclass(frozen=True)
class Decoded:
    """A left entity, its name, its partner where that is known, and its matches, the best first."""

    entity: int
    name: str
    partner: int | None
    matches: tuple[Match, ...]

    @property
    def correct(self) -> bool | None:
        """Whether the best match is the partner; None where that is not known."""
        return None if self.partner is None else self.matches[0].entity == self.partner


def decode(
    model: LoginMEA,
    features: Mapping[str, Tensor],
    pair: AlignmentPair,
    links: Tensor | None = None,
    k: int = 5,
    csls_k: int = 10,
    candidates: str = "test",
    backend: str = "auto",
) -> list[Decoded]:
    """The k best right entities of each left entity.

    Args:
        model: trained, on one device with `features`.
        features: modality -> [N, d_m].
        pair: names and entities.
        links: int64 [B, 2], left entities to decode with their partners; None decodes every left entity of the pair.
        k: matches of each.
        csls_k: neighbours of CSLS; 0 scores by cosine.
        candidates: "test" matches among the partners in `links`, "all" (always so without links) among all right
            entities.
        backend: of the search.
    """
    queries = pair.left_entities if links is None else links[:, 0].cpu()
    keys = pair.right_entities if links is None or candidates == "all" else links[:, 1].cpu()
    joint = joint_embedding(model, features, torch.cat([queries, keys]))
    csls_k = min(csls_k, len(queries), len(keys))
    scores, index = ops.alignment_topk(
        joint[: len(queries)], joint[len(queries) :], min(k, len(keys)), csls_k=csls_k, backend=backend
    )
    partners = [None] * len(queries) if links is None else links[:, 1].tolist()
    return [
        Decoded(
            entity,
            pair.names[entity],
            partner,
            tuple(Match(key, pair.names[key], score) for key, score in zip(found, values, strict=True)),
        )
        for entity, partner, found, values in zip(
            queries.tolist(), partners, keys[index.cpu()].tolist(), scores.tolist(), strict=True
        )
    ]
