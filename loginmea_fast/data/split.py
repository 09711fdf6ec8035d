"""Split: links to train on, to select a model by, and to report on; no entity ever stands in two of them.

Links that share an entity (1-to-n and n-to-m data) form a group, a connected component of the graph of links. A group
stays together, because a test link of an entity that training has seen measures something else.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from loginmea_fast.data.notes import Caution
from loginmea_fast.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Sequence

    Ids = Tensor | np.ndarray | Sequence[int] | Sequence[Sequence[int]]

__all__ = ["Split", "as_ids", "divide", "first_of_each", "link_groups", "take_valid"]

PARTS = ("train", "valid", "test")


@dataclass(frozen=True)
class Split:
    """Links to train on, to select a model by, and to report on; each int64 [., 2], left entity first.

    Tensors or numpy arrays. An entity stands in one of the three at most, a link stands once; `Split.apart` makes that
    so. `test` may be empty: then there is nothing to report on.

    Raises:
        DataError: no link to train on, no [., 2] of integers, a link that stands twice, or an entity on two sides.
    """

    train: Tensor
    valid: Tensor
    test: Tensor

    def __post_init__(self) -> None:
        for name in PARTS:
            object.__setattr__(self, name, as_ids(f"the {name} links", getattr(self, name), 2))
        if len(self.train) == 0:
            raise DataError(
                "the split leaves no link to train on; raise seed_ratio (--seed-ratio) or lower valid_ratio "
                "(--set valid_ratio=0)"
            )
        parts = (self.train, self.valid, self.test)
        for name, part, kept in zip(PARTS, parts, _apart(parts), strict=True):
            if not bool(kept.all()):
                link = part[int((~kept).nonzero()[0, 0])].tolist()
                raise DataError(
                    f"link {link} of the {name} part stands there already, or shares an entity with an earlier part; "
                    "an entity belongs to one part: Split.apart(train, valid, test) leaves such links out and counts "
                    "them"
                )

    @classmethod
    def apart(cls, train: Ids, valid: Ids, test: Ids) -> tuple[Split, tuple[str, ...]]:
        """A split from parts that may overlap, as published ones of 1-to-n data do.

        A link that stands in its part already is left out, and so is one that shares an entity with a link of an
        earlier part: training comes before validation, validation before test.

        Returns:
            The split, and a note that counts what was left out and names the first; none where nothing was.
        """
        parts = [
            as_ids(f"the {name} links", part, 2)
            for name, part in zip(PARTS, (train, valid, test), strict=True)
        ]
        kept = _apart(parts)
        notes: tuple[str, ...] = ()
        lost = sum(int((~mask).sum()) for mask in kept)
        if lost:
            name, link = next(
                (name, part[~mask][0].tolist())
                for name, part, mask in zip(PARTS, parts, kept, strict=True)
                if not bool(mask.all())
            )
            notes = (
                Caution(
                    f"{lost:,} links of the official split stand twice or share an entity with an earlier part and are "
                    f"left out, the first is {link} of its {name} part"
                ),
            )
        return cls(*(part[mask] for part, mask in zip(parts, kept, strict=True))), notes


def as_ids(name: str, values: object, columns: int | None = None) -> Tensor:
    """Whole numbers as an int64 tensor on the CPU; numpy arrays share their memory where they can.

    Args:
        name: what they are, for the message.
        values: a tensor, a numpy array, or nested lists.
        columns: of the table that is expected; None expects a row of numbers.

    Raises:
        DataError: no whole numbers, or another shape.
    """
    wanted = "int64 [.]" if columns is None else f"int64 [., {columns}]"
    if isinstance(values, Tensor):
        tensor, dtype, shape = values.cpu(), str(values.dtype), list(values.shape)
    else:
        try:
            array = np.asarray(values)
        except ValueError:
            raise DataError(f"{name} must be {wanted}, these are rows of different lengths") from None
        dtype, shape = f"{type(values).__name__} of {array.dtype}", list(array.shape)
        if array.size == 0 and not isinstance(values, np.ndarray):
            array = np.empty((0,) if columns is None else (0, columns), dtype=np.int64)
            shape = list(array.shape)
        elif array.dtype.kind in "iu":
            array = array.astype(np.int64, copy=False)
            array = array if array.flags.writeable and min(array.strides, default=0) >= 0 else array.copy()
        else:
            raise DataError(f"{name} must be {wanted}, not {dtype} {shape}; give whole numbers")
        tensor = torch.from_numpy(array)
    if tensor.dtype.is_floating_point or tensor.dtype.is_complex or tensor.dtype == torch.bool:
        raise DataError(f"{name} must be {wanted}, not {dtype} {shape}; give whole numbers")
    if tensor.ndim != (1 if columns is None else 2) or (columns is not None and tensor.shape[1] != columns):
        raise DataError(f"{name} must be {wanted}, not {dtype} {shape}")
    return tensor.to(torch.int64)


def first_of_each(links: Tensor) -> Tensor:
    """Bool [P], True where a link [P, 2] stands for the first time."""
    if len(links) == 0:
        return torch.ones(0, dtype=torch.bool)
    _, inverse = links.unique(dim=0, return_inverse=True)
    first = torch.full((int(inverse.max()) + 1,), len(links))
    places = torch.arange(len(links))
    return first.scatter_reduce(0, inverse, places, "amin")[inverse] == places


def is_among(links: Tensor, others: Tensor) -> Tensor:
    """Which of `links` int64 [P, 2] stand among `others` int64 [Q, 2] as well, bool [P]; ids are below 2^31."""
    return torch.isin(links[:, 0] << 32 | links[:, 1], others[:, 0] << 32 | others[:, 1])


def divide(links: Tensor, seed_ratio: float, valid_ratio: float, seed: int) -> Split:
    """Training, validation and test links; groups of links that share an entity stay together.

    Args:
        links: int64 [P, 2], each once.
        seed_ratio: share of training plus validation, in (0, 1].
        valid_ratio: share of the seeds held back for validation, in [0, 1).
        seed: of the shuffle.

    Raises:
        DataError: no link to train on, or links that all hang together.
    """
    links, cuts = _shuffled(links, seed)
    # Rounded down like the field's scripts, but 0.29 * 100 must not become 28.
    wanted = int(len(links) * seed_ratio + 1e-9)
    num_seeds = _nearest(cuts, wanted, min(wanted, 1), len(links) - (seed_ratio < 1))
    if num_seeds is None:
        raise DataError(
            f"the {len(links):,} links hang together through the entities they share and cannot be divided without an "
            "entity on both sides; give seed_ratio=1 to train on all of them, or a split of your own"
        )
    train, valid = _take_valid(links[:num_seeds], cuts[cuts <= num_seeds], valid_ratio)
    return Split(train, valid, links[num_seeds:])


def take_valid(train: Tensor, valid_ratio: float, seed: int) -> tuple[Tensor, Tensor]:
    """Training links [., 2] divided into training and validation links, groups kept together."""
    return _take_valid(*_shuffled(train, seed), valid_ratio)


def _shuffled(links: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """Shuffled links, those of a group together where its first one came, and the places where groups meet."""
    links = links[torch.randperm(len(links), generator=torch.Generator().manual_seed(seed))]
    group = link_groups(links)
    if group is None:
        return links, torch.arange(len(links) + 1)
    places = torch.arange(len(links))
    first = torch.full((int(group.max()) + 1,), len(links)).scatter_reduce(0, group, places, "amin")[group]
    order = first.argsort(stable=True)
    starts = first[order].diff(prepend=torch.tensor([-1])).nonzero()[:, 0]
    return links[order], torch.cat([starts, torch.tensor([len(links)])])


def link_groups(links: Tensor) -> Tensor | None:
    """Number of the connected component of each link; None where no two links share an entity."""
    if all(len(column.unique()) == len(links) for column in links.unbind(1)):
        return None
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    left, right = (column.unique(return_inverse=True)[1].numpy() for column in links.unbind(1))
    count = int(left.max()) + 1
    size = count + int(right.max()) + 1
    edges = coo_array((np.ones(len(links), dtype=np.int8), (left, right + count)), shape=(size, size))
    return torch.from_numpy(connected_components(edges, directed=False)[1][left]).to(torch.int64)


def _nearest(cuts: Tensor, wanted: int, low: int, high: int) -> int | None:
    """The cut in [low, high] that is nearest to the one wanted, the smaller of two; None where there is none."""
    allowed = cuts[(cuts >= low) & (cuts <= high)]
    return int(allowed[(allowed - wanted).abs().argmin()]) if len(allowed) else None


def _take_valid(seeds: Tensor, cuts: Tensor, valid_ratio: float) -> tuple[Tensor, Tensor]:
    """Training and validation part; a share above zero gives at least one validation link if one can be spared."""
    wanted = int(len(seeds) * valid_ratio + 1e-9)
    spare = valid_ratio > 0 and len(seeds) > 1
    num_valid = _nearest(cuts, max(wanted, 1), 1, len(seeds) - 1) if spare else None
    return seeds[num_valid or 0 :], seeds[: num_valid or 0]


def _apart(parts: Sequence[Tensor]) -> list[Tensor]:
    """Which links of each part stand there for the first time and share no entity with an earlier part."""
    kept: list[Tensor] = []
    for number, part in enumerate(parts):
        mask = first_of_each(part)
        for earlier, taken in zip(parts[:number], kept, strict=True):
            for side in (0, 1):
                mask &= ~torch.isin(part[:, side], earlier[taken][:, side])
        kept.append(mask)
    return kept
