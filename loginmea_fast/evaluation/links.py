"""Metrics of a model on links, by the field's protocol or among all entities, with its breakdowns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from loginmea_fast.data import AlignmentPair
from loginmea_fast.errors import ConfigError, InputError
from loginmea_fast.evaluation.embedding import joint_embedding
from loginmea_fast.evaluation.metrics import alignment_metrics, degree_groups, presence_groups
from loginmea_fast.nn import LoginMEA

__all__ = ["evaluate_links"]

PROTOCOLS = ("test", "all")


def evaluate_links(
    model: LoginMEA,
    features: Mapping[str, Tensor],
    pair: AlignmentPair,
    links: Tensor,
    csls_k: int = 10,
    candidates: str = "test",
    backend: str = "auto",
    breakdown: bool = True,
) -> dict[str, Any]:
    """Hits@k, MRR and MR of `links`, both ways, with CSLS and without.

    Args:
        model: trained, on one device with `features`.
        features: modality -> [N, d_m], what the model was trained on.
        pair: the data, for the entities of each graph and the presence of its modalities.
        links: int64 [B, 2], usually the test links.
        csls_k: neighbours of CSLS; 0 leaves it out.
        candidates: "test" ranks a partner among the partners of all `links` (the field's protocol), "all" among all
            entities of its graph (what a user meets).
        backend: of the search.
        breakdown: add `by_degree` and, for each modality that some entities lack, `by_<modality>`.

    Returns:
        As `alignment_metrics`, with `protocol`.

    Raises:
        InputError: no links.
        ConfigError: an unknown protocol.
    """
    if candidates not in PROTOCOLS:
        raise ConfigError(f"candidates must be one of {', '.join(PROTOCOLS)}; got {candidates!r}")
    if len(links) == 0:
        raise InputError(
            "there are no test links to rank: every known link is a seed; lower seed_ratio or add links"
        )
    links = links.cpu()
    parts = [links[:, 0], links[:, 1]]
    if candidates == "all":
        for entities, linked in zip((pair.left_entities, pair.right_entities), links.unbind(1), strict=True):
            parts.append(entities[~torch.isin(entities, linked)])
    left, right, *extra = joint_embedding(model, features, torch.cat(parts)).split([len(p) for p in parts])
    groups: dict[str, dict[str, Tensor]] = {}
    if breakdown:
        groups["by_degree"] = degree_groups(model.graph.degrees(), links)
        for name, feature in pair.features.items():
            if not feature.present.all():
                groups[f"by_{name}"] = presence_groups(feature.present, links)
    left_extra, right_extra = extra or (None, None)
    result = alignment_metrics(left, right, csls_k, left_extra, right_extra, groups, backend)
    return {"protocol": candidates, **result}
