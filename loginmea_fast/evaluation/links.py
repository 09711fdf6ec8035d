"""Metrics of an embedding on links, by the field's protocol or among all entities, with its breakdowns."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from loginmea_fast import ops
from loginmea_fast.data import AlignmentPair
from loginmea_fast.errors import InputError
from loginmea_fast.evaluation.embedding import Embedding, check_embedding
from loginmea_fast.evaluation.metrics import alignment_metrics, degree_groups, presence_groups
from loginmea_fast.evaluation.plans import chosen_decoders, decoder_metrics
from loginmea_fast.evaluation.rows import check_candidates, check_links, link_rows
from loginmea_fast.ops.alignment_search import AlignmentRanks
from loginmea_fast.parallel import SpreadRows

__all__ = ["evaluate_links", "rank_links"]


def evaluate_links(
    embedding: Embedding,
    pair: AlignmentPair,
    links: Tensor,
    csls_k: int = 10,
    candidates: str = "test",
    backend: str = "auto",
    breakdown: bool = True,
    decoder: str = "csls",
    decoder_k: int = 50,
) -> dict[str, Any]:
    """Hits@k, MRR and MR of `links`, both ways, with CSLS and without.

    Targets are distinct: an entity that stands in several links (1-to-n, n-to-m) is one candidate, and its other
    partners are no rivals of the one that is ranked.

    Args:
        embedding: of the entities, for example `JointEmbedding(model, features, graph)` or `load_run(RUN).embedding`.
        pair: the data, for the entities of each graph and the presence of its modalities.
        links: int64 [B, 2], usually the test links, each once.
        csls_k: neighbours of CSLS; 0 leaves it out.
        candidates: "test" ranks a partner among the partners of all `links` (the field's protocol), "all" among all
            entities of its graph (what a user meets).
        backend: of the search.
        breakdown: add `by_degree` and, for each modality that some entities lack, `by_<modality>`.
        decoder: beside the exact ranks by cosine and CSLS, what this decoder makes of the best candidates; "all" for
            every one.
        decoder_k: candidates of each entity, both ways, that a decoder sees.

    Returns:
        As `alignment_metrics`, with `protocol` and, for a decoder other than "cosine" and "csls", `decoders`: its name
        -> as `decoder_metrics`.

    Raises:
        InputError: no embedding, no links, or others than `check_links` takes.
        ConfigError: an unknown protocol or decoder.
    """
    check_embedding(embedding)
    check_candidates(candidates)
    decoders = chosen_decoders(decoder)
    links = check_links(pair, links)
    if len(links) == 0:
        raise InputError(
            "there are no test links to rank: every known link is a seed; lower seed_ratio or add links"
        )
    rows = link_rows(links, *((pair.left_entities, pair.right_entities) if candidates == "all" else ()))
    joint = embedding.embed(torch.cat([rows.left, rows.right]))
    groups: dict[str, dict[str, Tensor]] = {}
    if breakdown:
        groups["by_degree"] = degree_groups(pair.degrees(), links)
        for name, feature in pair.features.items():
            if not feature.present.all():
                groups[f"by_{name}"] = presence_groups(feature.present, links)
    left, right = joint[: len(rows.left)], joint[len(rows.left) :]
    result = alignment_metrics(left, right, csls_k, groups=groups, backend=backend, pairs=rows.pairs)
    if decoders:
        result["decoders"] = decoder_metrics(
            decoders, left, right, rows.pairs, decoder_k, result["csls_k"], backend
        )
    return {"protocol": candidates, **result}


def rank_links(
    embedding: Embedding,
    links: Tensor,
    left_entities: Tensor,
    right_entities: Tensor,
    csls_k: int = 0,
    backend: str = "auto",
) -> AlignmentRanks:
    """Ranks of `links` [B, 2], both ways, among the targets of all of them and further entities.

    Args:
        embedding: of the entities.
        links: int64 [B, 2], each once.
        left_entities: int64, entities of graph 1 that may be mistaken for a partner.
        right_entities: the same of graph 2.
        csls_k: neighbours of CSLS; 0 ranks by cosine.
        backend: of the search.
    """
    rows = link_rows(links, left_entities, right_entities)
    joint = embedding.embed(torch.cat([rows.left, rows.right]))
    left, right = joint[: len(rows.left)], joint[len(rows.left) :]
    if isinstance(joint, SpreadRows):
        return left.ranks(right, csls_k, rows.pairs, backend)
    return ops.alignment_ranks(left, right, csls_k, backend=backend, pairs=rows.pairs)
