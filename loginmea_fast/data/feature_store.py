"""FeatureStore: dense features with a row an entity that stay in their file, made ready a block of rows at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from loginmea_fast.mapped import MappedMatrix

__all__ = ["FeatureStore"]

_BLOCK = 1 << 22  # numbers that are made ready at once where all rows are wanted


class FeatureStore:
    """Features [N, columns] on the host, of which only the rows that no file has are in memory.

    It has of a tensor what a dense feature is asked for, and `store[rows]` are rows [B, columns] as a tensor with the
    same values would have them.

    Args:
        matrix: the file's rows.
        place: int64 [N], the row of each entity in the file, or -1 - k for row k of `own`.
        own: [g, columns], rows that are not in the file.
        steps: what the file's rows go through, row by row, when they are read.
        flags: bool [N], one more column, or None.
    """

    def __init__(
        self,
        matrix: MappedMatrix,
        place: Tensor,
        own: Tensor | None = None,
        steps: tuple[Callable[[Tensor], Tensor], ...] = (),
        flags: Tensor | None = None,
    ) -> None:
        self._matrix, self._place, self._steps, self._flags = matrix, place, steps, flags
        self._own = torch.zeros(1, matrix.shape[1], dtype=matrix.dtype) if own is None else own
        self.dtype, self.layout, self.ndim = matrix.dtype, torch.strided, 2
        self.shape = torch.Size([len(place), matrix.shape[1] + (flags is not None)])

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Tensor | slice) -> Tensor:
        """Rows of a slice, or of entities int64 [B].

        Raises:
            DataError: the file is no longer what it was.
        """
        at = self._place[rows]
        there = at >= 0
        if bool(there.all()):
            found = self._read(at)
        else:
            found = self._own.new_empty(len(at), self._own.shape[1])
            found[there] = self._read(at[there])
            found[~there] = self._own[-1 - at[~there]]
        if self._flags is not None:
            found = torch.cat([found, self._flags[rows][:, None].to(found.dtype)], 1)
        return found

    def _read(self, at: Tensor) -> Tensor:
        rows = self._matrix.rows(at)
        for step in self._steps:
            rows = step(rows)
        return rows

    @property
    def in_memory(self) -> int:
        """Bytes that are in memory: rows that no file has, and where the others are."""
        return self._own.nbytes + self._place.nbytes

    def blocks(self) -> Iterator[Tensor]:
        """All rows, a block at a time."""
        step = max(1, _BLOCK // self.shape[1])
        for start in range(0, len(self), step):
            yield self[start : start + step]

    def through(self, step: Callable[[Tensor], Tensor]) -> FeatureStore:
        """The same with each block of rows given to `step`, which looks at every row by itself."""
        return FeatureStore(self._matrix, self._place, step(self._own), (*self._steps, step), self._flags)

    def replaced(self, entities: Tensor, rows: Tensor) -> FeatureStore:
        """The same with `rows` [g, columns] for `entities` int64 [g], in place of theirs."""
        place = self._place.clone()
        place[entities] = -1 - torch.arange(len(self._own), len(self._own) + len(rows))
        return FeatureStore(self._matrix, place, torch.cat([self._own, rows]), self._steps, self._flags)

    def with_column(self, flags: Tensor) -> FeatureStore:
        """The same with one more column, 1 where flagged."""
        return FeatureStore(self._matrix, self._place, self._own, self._steps, flags)

    def taken(self, entities: Tensor) -> FeatureStore:
        """A store of `entities` alone, int64 [B], in their order."""
        flags = None if self._flags is None else self._flags[entities]
        return FeatureStore(self._matrix, self._place[entities], self._own, self._steps, flags)

    def cpu(self) -> Tensor:
        """All rows in memory, [N, columns]."""
        return torch.cat([*self.blocks()]) if len(self) else self[:0]

    def float(self) -> Tensor:
        """All rows in memory, float32."""
        return torch.cat([block.float() for block in self.blocks()]) if len(self) else self[:0].float()
