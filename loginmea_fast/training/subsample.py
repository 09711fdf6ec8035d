"""A sample of what validation ranks and bootstrapping asks about, where all of it would be compared with too much.

A query is compared with every entity of the other graph, so that its answer is exact; there are fewer of them.
"""

from __future__ import annotations

import torch
from torch import Tensor

from loginmea_fast import ops

__all__ = ["mutual_pairs", "sample_queries"]


def sample_queries(count: int, each: int, most: int, seed: int) -> Tensor | None:
    """Which of `count` queries are asked, int64 in order; None for all.

    Args:
        count: how many there are.
        each: rows that one of them is compared with.
        most: pairs that may be compared; 0 for any number. One query is always asked.
        seed: of the sample.
    """
    if not most or count * each <= most:
        return None
    generator = torch.Generator().manual_seed(seed)
    return torch.randperm(count, generator=generator)[: max(most // each, 1)].sort().values


def mutual_pairs(
    left: Tensor, right: Tensor, most: int, seed: int, backend: str = "auto"
) -> tuple[Tensor, int | None]:
    """Mutual nearest rows, int64 [P, 2]: all pairs, or those whose left row is in a sample, and the sample's size.

    All pairs are compared once for both directions; a sample is compared with all right rows, and what it finds there
    with all left rows.
    """
    whole = not most or len(left) * len(right) <= most
    asked = None if whole else sample_queries(len(left), len(left) + len(right), most, seed)
    if asked is None:
        return ops.mutual_nearest(left, right, backend=backend).cpu(), None
    asked = asked.to(left.device)
    nearest = ops.alignment_topk(left[asked], right, 1, backend=backend)[1][:, 0]
    back = ops.alignment_topk(right[nearest], left, 1, backend=backend)[1][:, 0]
    mutual = back == asked
    return torch.stack([asked[mutual], nearest[mutual]], 1).cpu(), len(asked)
