"""What is checked before a launch: beyond what a card takes it would fail, and the next call be blamed."""

from __future__ import annotations

import triton

__all__ = ["grid", "without_tuples"]

MOST = 2**31 - 1, 65535, 65535  # in x, y and z


def grid(*blocks: int) -> tuple[int, ...]:
    """The blocks as they are.

    Raises:
        ValueError: more of them than a card takes; of the words of csrc/cuda/launch.cuh.
    """
    if any(count > most for count, most in zip(blocks, MOST, strict=False)):
        raise ValueError(
            f"expected a grid of at most {' x '.join(map(str, MOST))} blocks, got {' x '.join(map(str, blocks))}; "
            "use fewer rows, columns or ranks a call"
        )
    return blocks


def without_tuples() -> str | None:
    """Why this Triton passes no tuples of tensors to kernels, or None."""
    if tuple(int(part) for part in triton.__version__.split(".")[:2]) < (3, 3):
        return f"needs Triton 3.3, which passes tuples of tensors to kernels; this is {triton.__version__}"
    return None
