"""The blocks of a launch, checked before it: beyond what a card takes it would fail, and the next call be blamed."""

from __future__ import annotations

__all__ = ["grid"]

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
