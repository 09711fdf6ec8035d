"""Raw features together with who has them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Protocol, TypeAlias

import torch
from torch import Tensor

from loginmea_fast.errors import InputError

__all__ = ["FeatureRows", "Features", "RawFeatures"]


class FeatureRows(Protocol):
    """Features [N, columns] that are nowhere whole, on the host; `data.FeatureStore` is one.

    Attributes:
        shape: N and columns.
        dtype: of the numbers.
    """

    shape: torch.Size
    dtype: torch.dtype

    def __getitem__(self, rows: Tensor | slice) -> Tensor:
        """Rows of a slice, or of entities int64 [B], as a tensor on the CPU."""

    def blocks(self) -> Iterator[Tensor]:
        """All rows, a block at a time."""


RawFeatures: TypeAlias = Tensor | FeatureRows
"""Features of one modality, a row an entity."""


class Features(dict[str, RawFeatures]):
    """Modality -> raw features [N, columns], wherever a mapping of them is taken, and which entities have each.

    Args:
        values: modality -> raw features.
        present: modality -> bool [N], True where the entity has it. A modality that is not named is everybody's.
    """

    def __init__(
        self, values: Mapping[str, RawFeatures], present: Mapping[str, Tensor] | None = None
    ) -> None:
        super().__init__(values)
        self.present: dict[str, Tensor] = dict(present or {})


def presence_of(
    modalities: tuple[str, ...], present: Mapping[str, Tensor], num_entities: int, device: torch.device
) -> Tensor | None:
    """Which entity has which modality, bool [N, M], modalities in order; None where everybody has all.

    Raises:
        InputError: a mask for an unknown modality, or one of another shape, dtype or device.
    """
    if unknown := sorted(set(present) - set(modalities)):
        raise InputError(
            f"present names {', '.join(unknown)}, but the modalities are {', '.join(modalities) or 'none'}"
        )
    if not present:
        return None
    for name, mask in present.items():
        if mask.dtype != torch.bool or mask.shape != (num_entities,):
            raise InputError(
                f"present[{name!r}] must be bool [{num_entities}], one flag an entity; "
                f"got {str(mask.dtype).removeprefix('torch.')} {list(mask.shape)}"
            )
        if mask.device != device:
            raise InputError(
                f"present[{name!r}] is on {mask.device}, the graph on {device}; move it with .to({str(device)!r})"
            )
    everybody = torch.ones(num_entities, dtype=torch.bool, device=device)
    return torch.stack([present.get(name, everybody) for name in modalities], 1)
