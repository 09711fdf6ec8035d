"""Which of Triton and CUDA C++ serves a GPU first, by operator, dtype and width.

The table is rendered from a card's record by `scripts/render_device_choice.py`; nothing is read at run time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch

__all__ = ["DEFAULT", "MEASURED_ON", "TABLE", "in_order"]

# Unmeasured: Triton needs no compiler beside it. An operator that has but one of the two is absent.
DEFAULT = {
    "relation_reflection_attention": ("triton", "cuda"),
    "low_rank_fusion": ("triton", "cuda"),
}

# rendered: begin
MEASURED_ON: str | None = None  # card and date of the record
TABLE: dict[
    str, dict[str, list[tuple[int, str]]]
] = {}  # operator -> dtype -> (up to this width, first backend)
# rendered: end

Reason = Callable[[], str | None]


def first(op: str, dtype: torch.dtype, width: int) -> str:
    """The backend to ask first; beyond the widest that was measured, what won there."""
    measured = TABLE.get(op, {}).get(str(dtype).removeprefix("torch."), [])
    for widest, backend in measured:
        if width <= widest:
            return backend
    return measured[-1][1] if measured else DEFAULT[op][0]


def in_order(op: str, dtype: torch.dtype, width: int, candidates: Mapping[str, Reason]) -> dict[str, Reason]:
    """The candidates of `choose_backend`, with Triton and CUDA in the order of the table.

    Args:
        op: the operator.
        dtype: of its rows.
        width: of its rows.
        candidates: backends and why they cannot serve, in any order.
    """
    favourite = first(op, dtype, width)
    return dict(sorted(candidates.items(), key=lambda item: item[0] in DEFAULT[op] and item[0] != favourite))
