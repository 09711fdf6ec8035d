"""Sparse bags over entities: incident relations and attribute types, which there are or how many."""

from __future__ import annotations

import warnings

import numpy as np
import torch
from torch import Tensor

from loginmea_fast.data.tables import AttributeTable, Feature

__all__ = ["attribute_bag", "csr_matrix", "relation_bag", "rows_with_entries", "sparse_csr"]


def relation_bag(
    triples: Tensor, num_entities: int, top: int | None = 1000, width: int | None = None, kind: str = "counts"
) -> Feature:
    """How often each of the most frequent relations meets an entity, or which of them lead from it and to it.

    Column c belongs to the relation that is c-th by number of triples (ties: first in the files first). Every triple
    adds one to the row of its head and one to the row of its tail, so a self loop adds two. Raw counts, without
    inverse relations and without normalisation, as in the authors' ``load_relation``.

    With ``kind="types"`` an entry is 1 however often the relation meets the entity, and the columns of relations that
    lead to it stand after those that lead from it, as in Dual-AMN (Mao et al., WWW 2021).

    Args:
        triples: int64 [T, 3] (head, relation, tail).
        num_entities: N.
        top: how many relations to keep; None for all.
        width: columns; None makes it the number of relations kept, 1000 gives the authors' shape (the rest is empty).
        kind: "counts" or "types".

    Returns:
        A sparse CSR feature [N, width] of float32.
    """
    head, relation, tail = triples.numpy().T
    column, kept = _columns_by_frequency(relation, top)
    keep = column >= 0
    rows = np.concatenate([head[keep], tail[keep]])
    if kind == "types":
        columns = np.concatenate([column[keep], column[keep] + kept])
        values = csr_matrix(rows, columns, None, (num_entities, 2 * kept))
        values.values().fill_(1.0)
        return Feature(
            values, rows_with_entries(values), f"which of {kept:,} relations lead from it and to it"
        )
    columns = np.concatenate([column[keep], column[keep]])
    values = csr_matrix(rows, columns, None, (num_entities, kept if width is None else width))
    return Feature(values, rows_with_entries(values), f"counts of the {kept:,} most frequent relations")


def attribute_bag(
    attributes: AttributeTable, num_entities: int, top: int | None = 1000, width: int | None = None
) -> Feature:
    """Which of the most frequent attribute types an entity has.

    Column c belongs to the type that occurs c-th most often (ties: first in the files first); an entry is 1 however
    often the entity repeats the type, as in the authors' ``load_attr``.

    Args:
        attributes: occurrences of attribute types.
        num_entities: N.
        top: how many types to keep; None for all.
        width: columns; None makes it the number of types kept, 1000 gives the authors' shape (the rest is empty).

    Returns:
        A sparse CSR feature [N, width] of float32.
    """
    column, kept = _columns_by_frequency(attributes.kind.numpy(), top)
    keep = column >= 0
    shape = (num_entities, kept if width is None else width)
    values = csr_matrix(attributes.entity.numpy()[keep], column[keep], None, shape)
    values.values().fill_(1.0)
    return Feature(values, rows_with_entries(values), f"the {kept:,} most frequent attribute types")


def csr_matrix(
    rows: np.ndarray, columns: np.ndarray, weights: np.ndarray | None, shape: tuple[int, int]
) -> Tensor:
    """A float32 CSR matrix from coordinates; entries at the same place are added up, a weight of None is 1."""
    key = rows.astype(np.int64) * shape[1] + columns
    if (
        weights is None
    ):  # equal keys are told by one sort in place: nothing of their number is held beside them
        key.sort()
        starts = np.flatnonzero(np.diff(key, prepend=-1))
        places = key[starts]
        values = np.diff(starts, append=len(key)).astype(np.float32)
    else:
        places, inverse = np.unique(key, return_inverse=True)
        values = np.bincount(inverse, weights=weights, minlength=len(places)).astype(np.float32)
    crow = np.zeros(shape[0] + 1, dtype=np.int64)
    np.cumsum(np.bincount(places // shape[1], minlength=shape[0]), out=crow[1:])
    return sparse_csr(
        torch.from_numpy(crow), torch.from_numpy(places % shape[1]), torch.from_numpy(values), shape
    )


def sparse_csr(crow: Tensor, columns: Tensor, values: Tensor, shape: tuple[int, int]) -> Tensor:
    """A checked CSR tensor, without PyTorch's remark that the layout is in beta."""
    if not len(columns):  # NumPy's empty arrays come with a stride of 0, which torch 2.6 refuses
        columns, values = columns.new_empty(0), values.new_empty(0)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
        return torch.sparse_csr_tensor(crow, columns, values, shape, check_invariants=True)


def rows_with_entries(values: Tensor) -> Tensor:
    """Bool [N]: which rows of a CSR matrix hold anything."""
    return values.crow_indices().diff() > 0


def _columns_by_frequency(symbols: np.ndarray, top: int | None) -> tuple[np.ndarray, int]:
    """Column of each symbol, -1 for those that are not among the ``top`` most frequent; and how many columns."""
    counts = np.bincount(symbols)
    first = np.full(len(counts), len(symbols))
    first[symbols[::-1]] = np.arange(len(symbols))[
        ::-1
    ]  # of several, the last that is written stays: the first
    order = np.lexsort((first, -counts))[:top]
    order = order[counts[order] > 0]
    column = np.full(len(counts), -1, dtype=np.int64)
    column[order] = np.arange(len(order))
    return column[symbols], len(order)
