"""What is computed from tensors once and kept for as long as they are the same."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Generic, TypeVar
from weakref import WeakKeyDictionary

from torch import Tensor, UntypedStorage

__all__ = ["Derived", "version_of"]

T = TypeVar("T")


def version_of(tensor: Tensor) -> int | None:
    """How often torch has changed the tensor in place; None for one of inference mode, which does not count.

    Changes through a NumPy view or a raw pointer go unseen: nothing counts them.
    """
    return None if tensor.is_inference() else tensor._version


class Derived(Generic[T]):
    """Values computed from tensors, one a key tensor, freed with its memory and computed anew once a source changed.

    The key is where the tensor lies, not the object: what wraps the same memory anew, as compiled code may and saved
    tensors, finds the value. The sources are known by where they lie and how often they were changed in place.
    """

    def __init__(self) -> None:
        """Keep nothing yet."""
        # torch gives a memory one storage object for as long as any tensor holds it.
        self._kept: WeakKeyDictionary[UntypedStorage, dict[Hashable, tuple[Hashable, T]]] = (
            WeakKeyDictionary()
        )

    def of(self, key: Tensor, sources: Sequence[Tensor], compute: Callable[[], T], *more: Hashable) -> T:
        """The value kept for `key`, or a new one where there is none for these sources.

        Args:
            key: a dense tensor, for the lifetime of whose memory the value is kept.
            sources: what it is computed from; they live as long as the key.
            compute: makes the value, which must not hold the key's memory.
            more: what else it depends on.
        """
        versions = [version_of(t) for t in sources]
        if None in versions:
            return compute()
        state = (*((t.data_ptr(), t.shape, v) for t, v in zip(sources, versions, strict=True)), *more)
        place = key.storage_offset(), key.shape
        kept = self._kept.setdefault(key.untyped_storage(), {})
        if place not in kept or kept[place][0] != state:
            kept.pop(place, None)  # or the old value would live until the new one is made
            kept[place] = state, compute()
        return kept[place][1]
