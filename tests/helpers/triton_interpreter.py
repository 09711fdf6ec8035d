"""Triton's interpreter under NumPy 2.4 and later: a loop bound in an array of one element is a number again.

Triton 3.6 turns scalars into Python's with int(array), which NumPy deprecated in 1.25 and refuses from 2.4 on.
"""

from __future__ import annotations

from typing import Any

__all__ = ["repair"]


def repair() -> None:
    """Make the interpreter take the element out of the array first; harmless where it already does."""
    try:
        from triton.runtime import interpreter
    except ImportError:
        return
    patch = interpreter._patch_lang_tensor

    def patch_and_repair(tensor: Any, *scope: Any) -> None:
        patch(tensor, *scope)
        set_attr = scope[0].set_attr if scope else setattr  # Triton 3.2 has none
        set_attr(tensor, "__index__", lambda self: int(self.handle.data.item()))

    interpreter._patch_lang_tensor = patch_and_repair
