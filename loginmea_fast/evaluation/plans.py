"""Metrics of what a decoder made: ranks within its plan, and how many of its pairs are right."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from loginmea_fast.evaluation.decoders import (
    Candidates,
    Matching,
    decoder_names,
    find_candidates,
    get_decoder,
)
from loginmea_fast.evaluation.metrics import rank_metrics
from loginmea_fast.ops._search_exact import take_off_partners

__all__ = ["chosen_decoders", "decoder_metrics", "matching_metrics", "plan_ranks"]

RANKED_EXACTLY = ("cosine", "csls")  # what alignment_ranks gives without lists


def chosen_decoders(decoder: str) -> tuple[str, ...]:
    """Decoders to report beside the exact ranks by cosine and CSLS: one by its name, or "all".

    Raises:
        ConfigError: no decoder has this name.
    """
    names = decoder_names() if decoder == "all" else (get_decoder(decoder, or_all=True).name,)
    return tuple(name for name in names if name not in RANKED_EXACTLY)


def decoder_metrics(
    names: Iterable[str],
    left: Tensor,
    right: Tensor,
    pairs: Tensor,
    k: int,
    csls_k: int,
    backend: str = "auto",
) -> dict[str, dict[str, Any]]:
    """What each decoder makes of two sides of embeddings.

    Args:
        names: of the decoders.
        left: [n, D], each entity once.
        right: [m, D].
        pairs: int64 [B, 2], left and right rows that are partners, each pair once.
        k: candidates of each row, both ways.
        csls_k: neighbours of CSLS for the decoders that take it.
        backend: of the search.

    Returns:
        Decoder -> as `matching_metrics`, with `candidates_each`, the k that was taken.
    """
    found: dict[int, Candidates] = {}
    result = {}
    for name in names:
        decoder = get_decoder(name)
        neighbours = csls_k if decoder.scores == "csls" else 0
        if neighbours not in found:
            found[neighbours] = find_candidates(left, right, k, neighbours, backend)
        result[name] = {
            "candidates_each": min(k, len(left), len(right)),
            **matching_metrics(decoder.match(found[neighbours]), pairs.cpu().numpy()),
        }
    return result


def matching_metrics(matching: Matching, pairs: np.ndarray) -> dict[str, Any]:
    """Metrics of a matching, JSON-ready.

    Args:
        matching: of a decoder.
        pairs: int64 [B, 2], rows that are partners, each pair once.

    Returns:
        `matched`, how many pairs; `precision` among those of an entity whose partner is known, `recall` of the known
        pairs, `f1`; for an iteration `iterations` and `converged`; and where candidates rank, `left_to_right` and
        `right_to_left` as `rank_metrics`, by `plan_ranks`.
    """
    known = set(map(tuple, pairs.tolist()))
    judged = np.isin(matching.pairs[:, 0], pairs[:, 0]) | np.isin(matching.pairs[:, 1], pairs[:, 1])
    correct = sum(tuple(pair) in known for pair in matching.pairs.tolist())
    precision, recall = correct / max(int(judged.sum()), 1), correct / len(pairs)
    result: dict[str, Any] = {
        "matched": len(matching.pairs),
        "precision": precision,
        "recall": recall,
        "f1": 2 * precision * recall / max(precision + recall, 1e-300),
    }
    if matching.iterations:
        result |= {"iterations": matching.iterations, "converged": matching.converged}
    if matching.plan is not None:
        there, back = plan_ranks(matching.plan, pairs)
        result |= {
            "left_to_right": rank_metrics(torch.from_numpy(there)),
            "right_to_left": rank_metrics(torch.from_numpy(back)),
        }
    return result


def plan_ranks(plan: Candidates, pairs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ranks of pairs among the candidates of a plan, both ways, float64 [B] each.

    A candidate with an equal score counts one half, and a row's other partners are no rivals. A pair that is no
    candidate ranks in the middle of all that are none: after every candidate, and as chance would have it.

    Args:
        plan: scores.
        pairs: int64 [B, 2], rows that are partners, each pair once.
    """
    wanted = pairs[:, 0] * plan.num_right + pairs[:, 1]
    key = plan.left * plan.num_right + plan.right
    place = np.searchsorted(key, wanted).clip(max=len(key) - 1)
    listed = key[place] == wanted
    own = np.where(listed, plan.scores[place].astype(np.float64), -np.inf)
    ranks = []
    for entity, rows, count, others in (
        (pairs[:, 0], plan.left, plan.num_left, plan.num_right),
        (pairs[:, 1], plan.right, plan.num_right, plan.num_left),
    ):
        order = np.lexsort((-plan.scores, rows))
        position = np.empty(len(order), dtype=np.int64)
        position[order] = np.arange(len(order))
        by_row, scores = rows[order], plan.scores[order]
        new = np.append(True, (by_row[1:] != by_row[:-1]) | (scores[1:] != scores[:-1]))
        group = new.cumsum() - 1  # candidates of a row with equal scores
        first = np.append(np.flatnonzero(new), len(order))
        starts = np.searchsorted(by_row, np.arange(count + 1))
        mine = group[position[place]]
        above = torch.from_numpy(
            np.where(listed, first[mine] - starts[entity], starts[entity + 1] - starts[entity])
        )
        ties = torch.from_numpy(np.where(listed, first[mine + 1] - first[mine] - 1, 0))
        rivals = others - (np.bincount(entity, minlength=count)[entity] - 1)
        take_off_partners(
            torch.from_numpy(entity),
            torch.ones(len(pairs), dtype=torch.bool),
            torch.from_numpy(own),
            above,
            ties,
            0.0,
        )
        behind = above.numpy() + (rivals - above.numpy() + 1) / 2
        ranks.append(np.where(listed, 1 + above.numpy() + ties.numpy() / 2, behind))
    return ranks[0], ranks[1]
