"""Rounds: what one training is sure of becomes links of the next, which begins from new parameters.

Every round proposes afresh among all entities without a training link, so that a wrong pair can go again. Which of them
are held out for validation or test is never looked at. (BootEA and Dual-AMN add links and go on; beginning anew finds
more.)
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from loginmea_fast.data.split import is_among
from loginmea_fast.evaluation.decoders import find_candidates
from loginmea_fast.evaluation.decoders.sinkhorn import sinkhorn
from loginmea_fast.evaluation.embedding import Embedding
from loginmea_fast.parallel.search import of_all_rows

__all__ = ["propose"]

_CANDIDATES = 50  # of each entity, both ways


def propose(
    embedding: Embedding,
    left: Tensor,
    right: Tensor,
    rejected: Tensor,
    certainty: float,
    backend: str = "auto",
) -> Tensor:
    """Pairs that are each other's most probable partner under optimal transport, and probable enough.

    Args:
        embedding: of the entities.
        left: int64 [n], entities of graph 1 without a link.
        right: int64 [m], the same of graph 2.
        rejected: int64 [R, 2], pairs that are never proposed.
        certainty: probability that a pair must exceed.
        backend: of the search.

    Returns:
        int64 [P, 2], left entity first; no entity stands in two of them.
    """
    if not (len(left) and len(right)):
        return left.new_empty(0, 2)

    def pairs(embedded: Tensor) -> Tensor:
        sides = embedded[: len(left)], embedded[len(left) :]
        candidates = find_candidates(*sides, _CANDIDATES, backend=backend)
        rows = [np.arange(len(side)) for side in (left, right)]
        if len(rejected):
            ids = torch.stack([left[candidates.left], right[candidates.right]], 1)
            candidates, *rows = candidates.only(~is_among(ids, rejected).numpy())
        if not len(candidates.scores):
            return torch.empty(0, 2, dtype=torch.int64)
        plan = sinkhorn(candidates).plan
        assert plan is not None, "Sinkhorn ranks its candidates"
        sure = plan.mutual(certainty).pairs
        return torch.from_numpy(np.stack([of[one] for of, one in zip(rows, sure.T, strict=True)], 1))

    found = of_all_rows(embedding.embed(torch.cat([left, right])), pairs)
    return torch.stack([left[found[:, 0]], right[found[:, 1]]], 1)
