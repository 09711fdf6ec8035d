"""Whitening: directions that most entities share are damped, so that a cosine tells entities apart by the others.

With x the unit rows of one part of an embedding, mu their mean and C their covariance over all entities of both graphs,
and l the mean length of the part before:

    y = l unit( C'^(-power / 2) (x - mu) ) ,   C' = (N C + trace(C) I) / (N + D)

N rows of D columns say less of their covariance the fewer they are, so that C' is drawn to that of a sphere (a plain
form of Ledoit and Wolf, 2004).

Power 1 makes every direction count alike, which raises noise as well; half of it keeps the order of the directions.
(Whitening of sentence vectors after Su et al., arXiv 2103.15316; before bilingual dictionaries are induced, Artetxe,
Labaka and Agirre, AAAI 2018.) No link is looked at.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from loginmea_fast.mapped import release

__all__ = ["SAMPLE", "Whitening", "fit_whitening", "whiten_rows"]

_BLOCK = 16384  # rows that are formed at once
SAMPLE = 65536  # rows that a covariance is taken of, at most
_NONE = 1e-12  # a variance of unit rows that is rounding


@dataclass(frozen=True)
class Whitening:
    """The map of one part.

    Attributes:
        mean: mu [D].
        matrix: C'^(-power / 2) [D, D], symmetric.
        length: l.
    """

    mean: Tensor
    matrix: Tensor
    length: float = 1.0

    def __call__(self, rows: Tensor) -> Tensor:
        """Rows y [B, D] of x [B, D], in their dtype; zero where x is, of which nothing is known."""
        known = rows.any(1, keepdim=True)
        centred = F.normalize(rows.float(), dim=1) - self.mean
        return F.normalize(centred @ self.matrix, dim=1).mul_(known * self.length).to(rows.dtype)


def whiten_rows(rows: Tensor, power: float, centred: bool = True) -> Tensor:
    """Unit or zero rows [N, D], whitened in place; every n-th is looked at where there are more than 65,536."""
    if not power:
        return rows
    whitening = replace(fit_whitening(rows[:: -(-len(rows) // SAMPLE)], power, centred), length=1.0)
    for block in rows.split(_BLOCK):
        block.copy_(whitening(block))
        release(block)
    return rows


def fit_whitening(
    rows: Tensor, power: float, centred: bool = True, add_up: Callable[[list[Tensor]], None] | None = None
) -> Whitening:
    """The map that whitens rows [B, D]; zero rows do not count.

    Args:
        rows: whose covariance is taken.
        power: 0 to 1.
        centred: whether their mean is taken off.
        add_up: sums tensors over processes in place, where each has some of the rows.
    """
    width = rows.shape[1]
    total = torch.zeros(width, dtype=torch.float64, device=rows.device)
    squares = torch.zeros(width, width, dtype=torch.float64, device=rows.device)
    counted = torch.zeros(2, dtype=torch.float64, device=rows.device)  # rows and their lengths
    for block in rows.split(_BLOCK):
        length = block.float().norm(dim=1)
        unit = F.normalize(block.float(), dim=1)
        counted[0] += (length > 0).sum()
        counted[1] += float(length.sum())
        total += unit.sum(0, dtype=torch.float64)
        squares += unit.T @ unit
    if add_up is not None:
        add_up([total, squares, counted])
    count, lengths = int(counted[0]), float(counted[1])
    mean = total / max(count, 1) if centred else torch.zeros_like(total)
    covariance = squares / max(count, 1) - mean.outer(mean)
    variance, directions = torch.linalg.eigh(covariance)
    variance = (count * variance.clamp_min(0) + variance.sum()) / (count + width)
    # Where all rows are alike there is no direction to damp.
    variance = torch.where(variance > _NONE, variance, torch.ones_like(variance))
    matrix = directions * variance.pow(-power / 2) @ directions.T
    return Whitening(mean.float(), matrix.float(), lengths / max(count, 1))
