"""Bootstrapping: pairs that stay mutual nearest neighbours through a window of rounds become training links.

docs/model.md; LoginMEA (arXiv 2407.19625, 4.4) after BootEA. The pool is every entity without a *training* link:
which of them are held out for validation or test is never looked at.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from loginmea_fast.data.split import is_among
from loginmea_fast.training.config import Config

__all__ = ["Bootstrapping"]

FindPairs = Callable[[Tensor, Tensor], Tensor]


class Bootstrapping:
    """Proposes links between rounds of training and keeps what the window needs.

    Attributes:
        joined: [J, 2] int64, links that have joined, in order.
        candidates: [C, 2] int64, pairs that were mutual in every round of the present window.
    """

    def __init__(
        self, config: Config, left_entities: Tensor, right_entities: Tensor, train: Tensor, rejected: Tensor
    ) -> None:
        """Take the entity ids of both graphs, the training links [T, 2], and pairs [R, 2] that never join.

        Whose nearest is rejected proposes nobody: the next best is no mutual nearest neighbour.
        """
        self.config = config
        self.left_entities = left_entities
        self.right_entities = right_entities
        self.train = train
        self.rejected = rejected
        self.joined = torch.empty(0, 2, dtype=torch.int64)
        self.candidates = torch.empty(0, 2, dtype=torch.int64)

    @property
    def links(self) -> Tensor:
        """Training links, then those that joined: [T + J, 2]."""
        return torch.cat([self.train, self.joined])

    def begin(self, joined: Tensor) -> None:
        """Begin anew with these links, [J, 2]: candidates were mutual for parameters that are gone."""
        self.joined, self.candidates = joined, self.candidates[:0]

    def due(self, epoch: int) -> bool:
        """Whether a round follows epoch `epoch`, counted from 0 since the parameters were new."""
        c = self.config
        return c.bootstrap and epoch >= c.bootstrap_start and (epoch + 1) % c.bootstrap_every == 0

    def round(self, epoch: int, find_pairs: FindPairs) -> int:
        """One round after `epoch`; returns how many links joined.

        Args:
            epoch: one for which `due` holds.
            find_pairs: takes left ids [L] and right ids [R] without a link, returns the mutual nearest pairs of
                positions [P, 2].
        """
        left = without(self.left_entities, self.links[:, 0])
        right = without(self.right_entities, self.links[:, 1])
        if not (len(left) and len(right)):
            return 0
        found = find_pairs(left, right)
        pairs = torch.stack([left[found[:, 0]], right[found[:, 1]]], 1)
        pairs = pairs[~is_among(pairs, self.rejected)]
        place = self._place_in_window(epoch)
        self.candidates = pairs if place == 0 else self.candidates[is_among(self.candidates, pairs)]
        if place < self.config.bootstrap_window - 1:
            return 0
        joining, self.candidates = self.candidates, self.candidates[:0]
        self.joined = torch.cat([self.joined, joining])
        return len(joining)

    def window(self, epoch: int) -> int:
        """The number of the window that the round after `epoch` is in."""
        return self._rounds_before(epoch) // self.config.bootstrap_window

    def _place_in_window(self, epoch: int) -> int:
        return self._rounds_before(epoch) % self.config.bootstrap_window

    def _rounds_before(self, epoch: int) -> int:
        c = self.config
        rounds = (epoch + 1) // c.bootstrap_every
        # The authors count rounds from epoch 0, so that a start inside a window idles until the next one begins.
        first = 1 if c.compat == "authors" else c.bootstrap_start // c.bootstrap_every + 1
        return rounds - first


def without(entities: Tensor, linked: Tensor) -> Tensor:
    """`entities` that are not in `linked`, in their order."""
    return entities[~torch.isin(entities, linked)]
