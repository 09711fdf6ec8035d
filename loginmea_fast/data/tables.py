"""What is said of entities: features, attribute types and values; and what a builder of features sees of a pair."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from loginmea_fast.data.feature_store import FeatureStore
from loginmea_fast.errors import DataError

__all__ = ["AttributeTable", "Entities", "Feature", "ValueTable", "first_nonfinite_row"]


class Entities(Protocol):
    """What features are built from: an :class:`~loginmea_fast.data.AlignmentPair`, whose fields these are."""

    @property
    def num_entities(self) -> int:
        """N, entities of both graphs together."""

    @property
    def uris(self) -> list[str]:
        """[N] identifiers."""

    @property
    def names(self) -> list[str]:
        """[N] names for display."""

    @property
    def left_entities(self) -> Tensor:
        """[n1] int64 ids of graph 1."""

    @property
    def right_entities(self) -> Tensor:
        """[n2] int64 ids of graph 2."""

    @property
    def triples(self) -> Tensor:
        """[T, 3] int64 head, relation, tail."""

    @property
    def attributes(self) -> AttributeTable | None:
        """Attribute types of entities, if the data say any."""

    @property
    def values(self) -> ValueTable | None:
        """Attributes with their values, where these were read."""

    @property
    def words(self) -> Mapping[int, list[str]] | None:
        """Words of names by entity, where names came with the data."""

    @property
    def has_image(self) -> Tensor | None:
        """[N] bool, who has a picture, if the data say so."""

    @property
    def file_ids(self) -> Tensor | None:
        """[N] int64 ids that the files give, if not ours."""

    @property
    def numbering(self) -> str | None:
        """How entities came by their ids where these are not those of the files."""


@dataclass(frozen=True)
class Feature:
    """One modality: a row of numbers for every entity of both graphs.

    Attributes:
        values: [N, width] floating point, dense (float32, float16, bfloat16 or float64), sparse CSR, or a store of rows
            that stay in their file. A sparse feature is never made dense, a half-precision one never widened.
        present: [N] bool, True where the entity has this modality itself. Elsewhere the row of a dense feature was
            filled in (see ``description``), the row of a sparse one is empty.
        description: one line for summaries: what the numbers are and how gaps were filled.
        pictures: entity id -> the picture that its numbers were made of, where they come from a folder of pictures.
    """

    values: Any  # a Tensor or a FeatureStore
    present: Tensor
    description: str = ""
    pictures: Mapping[int, Path] = field(default_factory=dict, compare=False)

    def __post_init__(self) -> None:
        values, present = self.values, self.present
        if values.ndim != 2 or not values.dtype.is_floating_point:
            raise DataError(
                f"a feature must be a floating-point matrix [entities, width], "
                f"this one has shape {list(values.shape)} and dtype {values.dtype}; convert it first"
            )
        if values.layout not in (torch.strided, torch.sparse_csr):
            raise DataError(
                f"a feature must be dense or sparse CSR, not {values.layout}; call .to_sparse_csr() on it"
            )
        if present.shape != (values.shape[0],) or present.dtype != torch.bool:
            raise DataError(
                f"a presence mask must be bool [{values.shape[0]}], one flag for each row of its feature, "
                f"this one is {present.dtype} {list(present.shape)}"
            )
        # Rows in a file were looked at when it was opened.
        row = None if isinstance(values, FeatureStore) else first_nonfinite_row(values)
        if row is not None:
            raise DataError(
                f"the feature row of entity {row} holds NaN or infinity; repair it or leave the entity out"
            )

    @property
    def width(self) -> int:
        """Columns, the ``d_m`` that a projection of this modality takes in."""
        return self.values.shape[1]

    @property
    def is_sparse(self) -> bool:
        """Whether ``values`` is sparse CSR."""
        return self.values.layout == torch.sparse_csr

    @property
    def num_present(self) -> int:
        """How many entities have this modality themselves."""
        return int(self.present.sum())

    def to(self, device: torch.device | str) -> Feature:
        """The same feature on another device; rows in a file stay there."""
        values = self.values if isinstance(self.values, FeatureStore) else self.values.to(device)
        return replace(self, values=values, present=self.present.to(device))


@dataclass(frozen=True)
class AttributeTable:
    """Which entity has which attribute type: one row an occurrence, in file order, repeats kept.

    Attributes:
        entity: [A] int64 entity ids.
        kind: [A] int64 index into ``types``.
        types: the attribute types, in order of first occurrence.
    """

    entity: Tensor
    kind: Tensor
    types: list[str]


@dataclass(frozen=True)
class ValueTable:
    """Values of attributes: one row an attribute triple, in file order.

    Attributes:
        entity: int64 [V] entity ids.
        kind: int64 [V] index into ``kinds``.
        texts: [V] the values as they stand in the files.
        kinds: the attributes, in order of first occurrence.
        unknown: rows of the files that speak of entities outside the pair, which are read past.
        first_unknown: the first of these entities.
    """

    entity: Tensor
    kind: Tensor
    texts: list[str]
    kinds: list[str]
    unknown: int = 0
    first_unknown: str = ""


def first_nonfinite_row(values: Tensor) -> int | None:
    """Row of the first NaN or infinity, or None; looks at a block of rows at a time to stay frugal."""
    if values.layout == torch.sparse_csr:
        bad = (~values.values().isfinite()).nonzero()
        if not len(bad):
            return None
        return int(torch.searchsorted(values.crow_indices(), bad[0, 0], right=True)) - 1
    block = max(1, (1 << 22) // max(values.shape[1], 1))
    for start in range(0, values.shape[0], block):
        rows = values[start : start + block].isfinite().all(dim=1)
        if not bool(rows.all()):
            return start + int((~rows).nonzero()[0, 0])
    return None
