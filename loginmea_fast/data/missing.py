"""What stands in for a modality that an entity lacks, made of its raw features before training.

A projection is linear, x_m = f_m W_m + b_m, so both stand-ins cost nothing in a step: the mean of the neighbours' x_m
is the projection of the mean of their f_m, and a learned vector is a column of f_m that is 1 where an entity has none.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from loginmea_fast.data.bags import csr_matrix
from loginmea_fast.data.feature_store import FeatureStore
from loginmea_fast.data.tables import Feature
from loginmea_fast.errors import ConfigError
from loginmea_fast.graph import AlignmentGraph

__all__ = ["Missing", "stand_in"]

Missing = Literal["mask", "learned", "neighbors"]


def stand_in(feature: Feature, graph: AlignmentGraph, missing: Missing) -> Feature:
    """A feature for a model, with what stands in for absent rows.

    Args:
        feature: one modality, on the CPU.
        graph: of the same entities, on the CPU.
        missing: `"mask"`: nothing, absent rows get no weight; `"learned"`: one vector for all of them, learned, by a
            column of its own; `"neighbors"`: the mean of the distinct neighbours that have the modality, and nothing
            where there are none.

    Returns:
        The feature; its mask says which rows are still absent.

    Raises:
        ConfigError: another word.
    """
    if missing not in get_args(Missing):
        raise ConfigError(
            f"missing must be one of {', '.join(get_args(Missing))}; got {missing!r}", key="missing"
        )
    if missing == "mask" or bool(feature.present.all()):
        return feature
    rows, columns, weights, present = _sources(feature.present, graph, missing == "neighbors")
    values: Tensor | FeatureStore
    if isinstance(feature.values, FeatureStore):
        values = _mixed_in_file(feature.values, feature.present, rows, columns, weights)
    elif feature.is_sparse:
        values = _mixed(feature.values, rows, columns, weights)
    else:
        values = _mixed_dense(feature.values, rows, columns, weights)
    if missing == "learned":
        return replace(
            feature, values=_with_column(values, ~feature.present), present=torch.ones_like(feature.present)
        )
    return replace(feature, values=values, present=present)


def _sources(
    present: Tensor, graph: AlignmentGraph, neighbors: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray, Tensor]:
    """Row, row that it is made of, and share, one entry a pair; and which rows are made of anything."""
    has = present.numpy()
    own = np.flatnonzero(has)
    if not neighbors:
        return own, own, np.ones(len(own)), present
    source, destination = graph.edge_index().numpy()
    takes = ~has[destination] & has[source]
    source, destination = source[takes], destination[takes]
    count = np.bincount(destination, minlength=len(has))
    return (
        np.concatenate([own, destination]),
        np.concatenate([own, source]),
        np.concatenate([np.ones(len(own)), 1 / count[destination]]),
        present | torch.from_numpy(count > 0),
    )


def _mixed(values: Tensor, rows: np.ndarray, sources: np.ndarray, weights: np.ndarray) -> Tensor:
    """The sparse matrix whose rows are the weighted sums of others."""
    start, entries = values.crow_indices().numpy(), values.values().to(torch.float64).numpy()
    count = np.diff(start)[sources]
    place = (
        np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count) + np.repeat(start[sources], count)
    )
    return csr_matrix(
        np.repeat(rows, count),
        values.col_indices().numpy()[place],
        np.repeat(weights, count) * entries[place],
        (values.shape[0], values.shape[1]),
    ).to(values.dtype)


def _mixed_dense(values: Tensor, rows: np.ndarray, sources: np.ndarray, weights: np.ndarray) -> Tensor:
    """The same of a dense one, rows that are their own left where they are."""
    mixed = torch.zeros_like(values)
    own = torch.from_numpy(rows[rows == sources])
    mixed[own] = values[own]
    made, sums = _mixed_rows(values, rows, sources, weights)
    mixed[made] = sums.to(values.dtype)
    return mixed


def _mixed_in_file(
    store: FeatureStore, present: Tensor, rows: np.ndarray, sources: np.ndarray, weights: np.ndarray
) -> FeatureStore:
    """The same of rows in a file: only those made of others are in memory."""
    made, sums = _mixed_rows(store, rows, sources, weights)
    absent = (~present).nonzero()[:, 0]
    mixed = torch.zeros(len(absent), store.shape[1], dtype=store.dtype)
    mixed[torch.searchsorted(absent, made)] = sums.to(store.dtype)
    return store.replaced(absent, mixed)


def _mixed_rows(
    values: Tensor | FeatureStore, rows: np.ndarray, sources: np.ndarray, weights: np.ndarray
) -> tuple[Tensor, Tensor]:
    """Entities whose rows are made of others, ascending, and these rows, float32."""
    others = rows != sources
    at, of = torch.from_numpy(rows[others]), torch.from_numpy(sources[others])
    made, position = at.unique(return_inverse=True)
    sums = torch.zeros(len(made), values.shape[1])
    for start in range(0, len(at), 1 << 14):  # wide rows a block at a time
        part = slice(start, start + (1 << 14))
        share = torch.from_numpy(weights[others][part]).float()[:, None]
        sums.index_add_(0, position[part], values[of[part]].float() * share)
    return made, sums


def _with_column(values: Tensor | FeatureStore, flags: Tensor) -> Tensor | FeatureStore:
    """One more column, 1 where flagged."""
    if isinstance(values, FeatureStore):
        return values.with_column(flags)
    if values.layout != torch.sparse_csr:
        return torch.cat([values, flags[:, None].to(values.dtype)], 1)
    flagged = flags.nonzero()[:, 0].numpy()
    rows = np.repeat(np.arange(values.shape[0]), np.diff(values.crow_indices().numpy()))
    return csr_matrix(
        np.concatenate([rows, flagged]),
        np.concatenate([values.col_indices().numpy(), np.full(len(flagged), values.shape[1])]),
        np.concatenate([values.values().to(torch.float64).numpy(), np.ones(len(flagged))]),
        (values.shape[0], values.shape[1] + 1),
    ).to(values.dtype)
