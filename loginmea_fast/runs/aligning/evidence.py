"""What speaks for a match apart from the embedding that found it: neighbours that match too, and modalities alike."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from loginmea_fast.data import AlignmentPair, Feature

__all__ = ["Evidence"]

_BLOCK = 1 << 16  # matches whose rows are compared at once


class Evidence:
    """Measures that depend on the two entities and on which other entities match, not on how they were embedded.

    `neighbors` is the cosine of the two neighbourhoods, entities that match each other taken for one, each weighted by
    1 / log(2 + its neighbours) as in Adamic and Adar's measure (Social Networks 2003); `neighbors_shared` is the
    logarithm of one more than the sum of the weights that they share, which is large only where neighbours are many.
    Every modality adds the cosine of the two rows, 0 where either lacks it.

    Args:
        pair: graphs and features.

    Attributes:
        names: what the columns are.
    """

    def __init__(self, pair: AlignmentPair) -> None:
        from scipy.sparse import coo_array, diags_array

        size = pair.num_entities
        ends = torch.cat([pair.triples[:, ::2], pair.triples[:, ::2].flip(1)]).numpy()
        edges = coo_array((np.ones(len(ends)), (ends[:, 0], ends[:, 1])), shape=(size, size)).tocsr()
        edges.data[:] = 1
        weight = 1 / np.log(2 + np.diff(edges.indptr))
        self._weighted = (edges @ diags_array(weight)).tocsr()
        self._length = np.sqrt(np.asarray(self._weighted.multiply(self._weighted).sum(1)).reshape(-1))
        self._modalities = {name: _unit_rows(feature) for name, feature in pair.features.items()}
        self.names = ("neighbors", "neighbors_shared", *self._modalities)
        self._size = size

    def __call__(self, left: np.ndarray, right: np.ndarray, matched: np.ndarray) -> np.ndarray:
        """The measures [P, len(names)] of entities `left` and `right`, int64 [P], given matches [M, 2]."""
        from scipy.sparse import coo_array

        found = np.zeros((len(left), len(self.names)))
        if not len(left):
            return found
        ones = np.ones(len(matched))
        across = coo_array((ones, (matched[:, 0], matched[:, 1])), shape=(self._size, self._size)).tocsr()
        carried = (self._weighted @ across).tocsr()
        for start in range(0, len(left), _BLOCK):
            block = slice(start, start + _BLOCK)
            a, b = left[block], right[block]
            shared = np.asarray(carried[a].multiply(self._weighted[b]).sum(1)).reshape(-1)
            lengths = self._length[a] * self._length[b]
            found[block, 0] = shared / np.maximum(lengths, 1e-12)
            found[block, 1] = np.log1p(shared)
            for column, rows in enumerate(self._modalities.values(), start=2):
                found[block, column] = np.asarray((rows[a] * rows[b]).sum(1)).reshape(-1)
        return found


def _unit_rows(feature: Feature) -> Any:
    """Rows of length one, of a modality that an entity lacks zero: sparse or dense."""
    values, present = feature.values, feature.present.numpy()
    if feature.is_sparse:
        from scipy.sparse import csr_array, diags_array

        parts = values.values().float().numpy(), values.col_indices().numpy(), values.crow_indices().numpy()
        rows = csr_array(parts, shape=tuple(values.shape))
        length = np.sqrt(np.asarray(rows.multiply(rows).sum(1)).reshape(-1))
        return (diags_array(present / np.maximum(length, 1e-12)) @ rows).tocsr()
    return (torch.nn.functional.normalize(values.float(), dim=1) * feature.present[:, None]).numpy()
