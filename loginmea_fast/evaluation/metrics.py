"""Alignment metrics: Hits@k, mean reciprocal rank and mean rank, both ways, with CSLS and without, and by group.

Everything is a function of ranks, and ranks come from `ops.alignment_ranks` block by block (docs/model.md): no matrix
of all similarities exists at any time.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from loginmea_fast import ops
from loginmea_fast.errors import InputError
from loginmea_fast.log import log
from loginmea_fast.parallel import SpreadRows

__all__ = ["HITS", "alignment_metrics", "degree_groups", "presence_groups", "random_baseline", "rank_metrics"]

HITS = (1, 5, 10, 50)


def rank_metrics(ranks: Tensor) -> dict[str, float]:
    """Hits@1/5/10/50, MRR and MR of ranks [B].

    Ranks start at 1; a tie counts half, so a rank may end in .5, and hits@k counts ranks up to k.

    Raises:
        InputError: there are no ranks.
    """
    if ranks.numel() == 0:
        raise InputError("no pairs to rank; give at least one test link")
    ranks = ranks.double()
    hits = {f"hits@{k}": (ranks <= k).double().mean().item() for k in HITS}
    return {**hits, "mrr": ranks.reciprocal().mean().item(), "mr": ranks.mean().item()}


def random_baseline(candidates: int) -> dict[str, float]:
    """The expected metrics of a ranking drawn at random among `candidates`: what 'nothing learned' scores."""
    ranks = torch.arange(1, candidates + 1, dtype=torch.float64)
    return rank_metrics(ranks)


def alignment_metrics(
    left: Tensor | SpreadRows,
    right: Tensor | SpreadRows,
    csls_k: int = 10,
    left_extra: Tensor | None = None,
    right_extra: Tensor | None = None,
    groups: Mapping[str, Mapping[str, Tensor]] | None = None,
    backend: str = "auto",
    pairs: Tensor | None = None,
) -> dict[str, Any]:
    """Metrics of pairs whose embeddings stand in the same row of `left` and `right`, or where `pairs` says.

    Args:
        left: [B, D] embeddings of the left entities, or rows that lie divided among processes, both sides then.
        right: [B, D] of their partners.
        csls_k: neighbours of CSLS; 0 leaves it out. At most as many as there are candidates are taken: the `csls_k` of
            the result is the number taken, and a warning is logged where it is not the one asked for.
        left_extra: [X, D] further left entities that may be mistaken for a partner; None for none.
        right_extra: [Y, D] the same on the right.
        groups: breakdown -> label -> bool [B], pairs to report on by themselves, ranked among all candidates.
        backend: of the search.
        pairs: int64 [P, 2], rows of `left` and `right` that are partners, each pair once; entities stand once and may
            have several partners, which are no rivals of each other. None pairs row b with row b.

    Returns:
        JSON-ready: `pairs`, `candidates`, `cosine` and (with CSLS) `csls`, each with `left_to_right` and
        `right_to_left`; `random`, the same of a random ranking; and for each breakdown a list of `label`, `pairs` and
        the metrics over both directions, of CSLS where there is any.
    """
    count = {"left_to_right": _rows(right, right_extra), "right_to_left": _rows(left, left_extra)}
    if pairs is None:
        pairs = torch.arange(len(left))[:, None].expand(-1, 2)
    csls_k = neighbours(csls_k, *count.values())
    ranks = {"cosine": _ranks(left, right, pairs, 0, left_extra, right_extra, backend)}
    if csls_k:
        ranks["csls"] = _ranks(left, right, pairs, csls_k, left_extra, right_extra, backend)
    result: dict[str, Any] = {"pairs": len(pairs), "candidates": count, "csls_k": csls_k}
    for name, by_direction in ranks.items():
        result[name] = {direction: rank_metrics(r) for direction, r in by_direction.items()}
    result["random"] = {
        direction: _random(n, pairs[:, side].cpu()) for side, (direction, n) in enumerate(count.items())
    }
    reported = torch.stack(list(ranks["csls" if csls_k else "cosine"].values())).cpu()
    for breakdown, labels in (groups or {}).items():
        result[breakdown] = [
            {"label": label, "pairs": int(chosen.sum()), **rank_metrics(reported[:, chosen])}
            for label, chosen in labels.items()
            if chosen.any()
        ]
    return result


def neighbours(csls_k: int, *candidates: int) -> int:
    """The neighbours that CSLS can take where it is asked for `csls_k`; a warning says so where they are fewer."""
    used = min(csls_k, *candidates)
    if used < csls_k:
        log.warning(
            "CSLS takes %d neighbours instead of %d: there are %d candidates", used, csls_k, min(candidates)
        )
    return used


def degree_groups(degrees: Tensor, links: Tensor, buckets: int = 4) -> dict[str, Tensor]:
    """Quantile buckets of the degree of a pair's less connected entity: label -> bool [B].

    Args:
        degrees: [N] edges of each entity.
        links: [B, 2].
        buckets: how many; equal degrees stay together, so there may be fewer.
    """
    degree = degrees.cpu()[links].amin(1)
    steps = torch.linspace(0, 1, buckets + 1, dtype=torch.float64)[1:-1]
    ends = sorted({*torch.quantile(degree.double(), steps).floor().long().tolist(), int(degree.max())})
    groups, low = {}, int(degree.min())
    for high in ends:
        label = f"{low}" if low == high else f"{low}-{high}"
        groups[label] = (degree >= low) & (degree <= high)
        low = high + 1
    return groups


def presence_groups(present: Tensor, links: Tensor) -> dict[str, Tensor]:
    """Pairs of which both, one or neither entity has the modality: label -> bool [B].

    Args:
        present: [N] bool, which entities have it.
        links: [B, 2].
    """
    having = present.cpu()[links].sum(1)
    return {label: having == n for label, n in (("both", 2), ("one", 1), ("neither", 0))}


def _rows(pairs: Tensor | SpreadRows, extra: Tensor | None) -> int:
    return len(pairs) + (0 if extra is None else len(extra))


def _random(candidates: int, queries: Tensor) -> dict[str, float]:
    """The random baseline of pairs with these queries: a query's other partners are no candidates."""
    partners = torch.unique(queries, return_counts=True)[1]
    total: dict[str, float] = {}
    for several, entities in zip(*(t.tolist() for t in partners.unique(return_counts=True)), strict=True):
        share = several * entities / len(queries)
        for name, value in random_baseline(candidates - several + 1).items():
            total[name] = total.get(name, 0.0) + share * value
    return total


def _ranks(
    left: Tensor | SpreadRows,
    right: Tensor | SpreadRows,
    pairs: Tensor,
    csls_k: int,
    left_extra: Tensor | None,
    right_extra: Tensor | None,
    backend: str,
) -> dict[str, Tensor]:
    if isinstance(left, SpreadRows) or isinstance(right, SpreadRows):
        assert isinstance(left, SpreadRows)
        assert isinstance(right, SpreadRows)
        found = left.ranks(right, csls_k, pairs, backend)
    else:
        found = ops.alignment_ranks(
            left, right, csls_k, left_extra, right_extra, backend=backend, pairs=pairs
        )
    return {"left_to_right": found[0], "right_to_left": found[1]}
