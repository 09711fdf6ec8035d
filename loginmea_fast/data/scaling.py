"""Rows of features of one size, so that an entity that says more is not louder."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from loginmea_fast.data.bags import sparse_csr

__all__ = ["scale_rows"]


def scale_rows(values: Tensor) -> Tensor:
    """Rows of a sparse matrix divided by the sum of their entries' sizes, a mean; rows of a dense one by their length.

    Args:
        values: [N, columns], sparse CSR or dense. Rows of zeros stay as they are.

    Returns:
        The same shape, dtype and layout.
    """
    if values.layout != torch.sparse_csr:
        return F.normalize(values.float(), dim=1, eps=1e-12).to(values.dtype)
    crow, entries = values.crow_indices(), values.values()
    sums = torch.segment_reduce(entries.abs(), "sum", offsets=crow, initial=0.0)
    scaled = entries / sums.clamp_min(1e-12).repeat_interleave(crow.diff())
    return sparse_csr(crow, values.col_indices(), scaled, (values.shape[0], values.shape[1]))
