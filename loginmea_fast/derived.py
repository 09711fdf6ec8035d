"""What is computed from tensors once and kept for as long as they are the same."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Generic, TypeVar

from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

__all__ = ["Derived", "version_of"]

T = TypeVar("T")


def version_of(tensor: Tensor) -> int | None:
    """How often torch has changed the tensor in place; None for one of inference mode, which does not count.

    Changes through a NumPy view or a raw pointer go unseen: nothing counts them.
    """
    return None if tensor.is_inference() else tensor._version


class Derived(Generic[T]):
    """Values computed from tensors, one a key tensor, freed with it and computed anew once a source was changed.

    The key is the object, the sources are known by where they lie and how often they were changed in place.
    """

    def __init__(self) -> None:
        """Keep nothing yet."""
        self._kept: WeakTensorKeyDictionary = WeakTensorKeyDictionary()

    def of(self, key: Tensor, sources: Sequence[Tensor], compute: Callable[[], T], *more: Hashable) -> T:
        """The value kept for `key`, or a new one where there is none for these sources.

        Args:
            key: for whose lifetime the value is kept.
            sources: what it is computed from; they live as long as the key.
            compute: makes the value, which must not hold the key.
            more: what else it depends on.
        """
        versions = [version_of(t) for t in sources]
        if None in versions:
            return compute()
        state = (*((t.data_ptr(), t.shape, v) for t, v in zip(sources, versions, strict=True)), *more)
        kept = self._kept.get(key)
        if kept is None or kept[0] != state:
            kept = self._kept[key] = (state, compute())
        value: T = kept[1]
        return value
