"""Pairs of nearly the same name or picture: each the other's best by far.

Two rows are near where their cosine is high, each is the best of the other, and the runner-up is at least twice as far
away, by one minus the cosine (Lowe's ratio test, IJCV 2004): what several resemble tells nothing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from loginmea_fast import ops
from loginmea_fast.data import Feature
from loginmea_fast.data.names import tfidf_bag

__all__ = ["near_names", "near_pictures"]

_NAMES = 0.8  # cosine of TF-IDF of n-grams
_PICTURES = 0.9  # cosine of vectors around their mean
_RATIO = 0.5
_ROUNDING = 1e-6
_COMMON = 300  # names that have an n-gram, above which it brings nobody together
_CANDIDATES = 5
_BLOCK = 4096
_DIGITS = re.compile(r"\d+")


def near_names(left: Mapping[int, str], right: Mapping[int, str]) -> dict[int, int]:
    """Entities with names that are nearly the same, by character 2- and 3-grams; numbers in them must be the same.

    Args:
        left: entity -> name, normalised; the empty is nobody's.
        right: the same of the other graph.
    """
    from scipy.sparse import csr_array

    sides = [{entity: name for entity, name in side.items() if name} for side in (left, right)]
    if not all(sides):
        return {}
    names = [name for side in sides for name in side.values()]
    bag = tfidf_bag(name.split() for name in names).values
    rows = csr_array(
        (bag.values().numpy(), bag.col_indices().numpy(), bag.crow_indices().numpy()), shape=tuple(bag.shape)
    )
    rare = rows[:, np.flatnonzero(np.bincount(rows.indices, minlength=rows.shape[1]) <= _COMMON)]
    count = len(sides[0])
    to_right = _best_two(rows[:count], rows[count:], rare[:count], rare[count:])
    to_left = _best_two(rows[count:], rows[:count], rare[count:], rare[:count])
    ids = [list(side) for side in sides]
    numbers = [[_DIGITS.findall(name) for name in side.values()] for side in sides]
    return {
        ids[0][a]: ids[1][b] for a, b in _mutual(to_right, to_left, _NAMES) if numbers[0][a] == numbers[1][b]
    }


def near_pictures(feature: Feature, left: np.ndarray, right: np.ndarray) -> dict[int, int]:
    """Entities whose dense vectors are nearly the same, of entities `left` and `right`, int64, that have one."""
    own = [side[feature.present.numpy()[side]] for side in (left, right)]
    if min(map(len, own)) < 2:
        return {}
    vectors = [feature.values[torch.from_numpy(side)].float() for side in own]
    mean = torch.cat(vectors).mean(0)
    rows = [torch.nn.functional.normalize(side - mean, dim=1) for side in vectors]
    (score, best), (back, best_back) = ops.alignment_topk_both(rows[0], rows[1], 2)
    to_right = best[:, 0].numpy(), score[:, 0].numpy(), score[:, 1].numpy()
    to_left = best_back[:, 0].numpy(), back[:, 0].numpy(), back[:, 1].numpy()
    return {int(own[0][a]): int(own[1][b]) for a, b in _mutual(to_right, to_left, _PICTURES)}


def _mutual(to_right: tuple[np.ndarray, ...], to_left: tuple[np.ndarray, ...], least: float) -> Any:
    """Pairs of rows that are near; each side gives the best row of the other, its score and the runner-up's."""
    (best, score, second), (back, back_score, back_second) = to_right, to_left
    clear, clear_back = (
        (one >= least) & (1 - one < _RATIO * (1 - two) - _ROUNDING)
        for one, two in ((score, second), (back_score, back_second))
    )
    rows = np.flatnonzero(clear)
    rows = rows[clear_back[best[rows]] & (back[best[rows]] == rows)]
    return zip(rows.tolist(), best[rows].tolist(), strict=True)


def _best_two(
    own: Any, other: Any, own_rare: Any, other_rare: Any
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of every sparse row the best row of the others, its product and that of the second: among the likely ones.

    Likely are those of which the rare columns alone make the largest products: all columns would compare everybody.
    """
    count = own.shape[0]
    best, first, second = np.zeros(count, dtype=np.int64), np.zeros(count), np.zeros(count)
    turned = other_rare.T.tocsr()
    for start in range(0, count, _BLOCK):
        products = (own_rare[start : start + _BLOCK] @ turned).tocsr()
        row = np.repeat(np.arange(products.shape[0]), np.diff(products.indptr))
        order = np.lexsort((products.indices, -products.data, row))
        place = np.arange(len(order)) - products.indptr[row]
        chosen = order[place < _CANDIDATES]
        a, b = row[chosen], products.indices[chosen]
        score = np.asarray(own[start + a].multiply(other[b]).sum(1)).reshape(-1)
        order = np.lexsort((b, -score, a))
        a, b, score = a[order], b[order], score[order]
        place = np.arange(len(a)) - np.searchsorted(a, a)
        best[start + a[place == 0]], first[start + a[place == 0]] = b[place == 0], score[place == 0]
        second[start + a[place == 1]] = score[place == 1]
    return best, first, second
