"""Rows of features of one size, so that an entity that says more is not louder."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from loginmea_fast.data.bags import sparse_csr
from loginmea_fast.data.feature_store import FeatureStore

__all__ = ["scale_rows"]


def scale_rows(values: Tensor | FeatureStore) -> Tensor | FeatureStore:
    """Rows of a sparse matrix divided by the sum of their entries' sizes, a mean; rows of a dense one by their length.

    Args:
        values: [N, columns], sparse CSR, dense or a store. Rows of zeros stay as they are.

    Returns:
        The same shape, dtype and layout.
    """
    if isinstance(values, FeatureStore):
        return values.through(_unit_rows)
    if values.layout != torch.sparse_csr:
        return _unit_rows(values)
    crow, entries = values.crow_indices(), values.values()
    sums = torch.segment_reduce(entries.abs(), "sum", offsets=crow, initial=0.0)
    scaled = entries / sums.clamp_min(1e-12).repeat_interleave(crow.diff())
    return sparse_csr(crow, values.col_indices(), scaled, (values.shape[0], values.shape[1]))


def _unit_rows(rows: Tensor) -> Tensor:
    return F.normalize(rows.float(), dim=1, eps=1e-12).to(rows.dtype)
