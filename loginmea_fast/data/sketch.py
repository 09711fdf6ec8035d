"""Modalities as they are: unit rows of few columns, whose cosines are nearly those of the modality."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from loginmea_fast.data.tables import Feature
from loginmea_fast.mapped import release, room_for

__all__ = ["SKETCH", "sketch", "sketch_width"]

SKETCH = 1024  # columns of a sparse modality
_BLOCK = 16384  # rows that are made at once


def sketch_width(feature: Feature) -> int:
    """Columns of `sketch`."""
    return SKETCH if feature.is_sparse else feature.width


def sketch(feature: Feature) -> Tensor:
    """Unit rows of a modality, float32 [N, `sketch_width`]; zero where an entity lacks it.

    A sparse one by a count sketch (Charikar, Chen and Farach-Colton 2002): every column goes to one of the sketch, with
    a random sign. Products of rows keep their expectation.
    """
    count, width = len(feature.present), sketch_width(feature)
    made = room_for(count, width, torch.float32, torch.device("cpu"))
    if feature.is_sparse:
        generator = torch.Generator().manual_seed(0)
        place = torch.randint(0, width, (feature.width,), generator=generator)
        sign = torch.randint(0, 2, (feature.width,), generator=generator) * 2.0 - 1
    for start in range(0, count, _BLOCK):
        block = slice(start, min(start + _BLOCK, count))
        rows = made[block]
        if feature.is_sparse:
            owner, column, entries = _entries(feature.values, block)
            rows.zero_()
            rows.view(-1).index_add_(0, owner * width + place[column], entries * sign[column])
        else:
            rows.copy_(feature.values[block])
        rows.copy_(F.normalize(rows, dim=1)).mul_(feature.present[block, None])
        release(rows)
    return made


def _entries(bag: Tensor, block: slice) -> tuple[Tensor, Tensor, Tensor]:
    """Of some rows of a sparse matrix the entries: row, counted from the first of them, column and number."""
    pointers = bag.crow_indices()[block.start : block.stop + 1]
    at = slice(int(pointers[0]), int(pointers[-1]))
    owner = torch.repeat_interleave(torch.arange(block.stop - block.start), pointers.diff())
    return owner, bag.col_indices()[at], bag.values()[at].float()
