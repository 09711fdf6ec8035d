"""Names that people give to modalities, as keys of modules and as parts of an embedding: any text will do."""

from __future__ import annotations

from torch import nn

__all__ = ["module_key", "part_of_modality"]

_TAKEN = frozenset(dir(nn.ModuleDict()))
_PARTS = ("graph", "fusion", "labels", "joined")  # what else stands in an embedding


def module_key(modality: str) -> str:
    """The key of a modality in an `nn.ModuleDict`, and in the names of parameters: its name wherever it can be.

    torch refuses the names of what a module has ("half", "type", "training"), dots, and none: these begin with "~".
    """
    if modality and modality not in _TAKEN and "." not in modality and modality[0] != "~":
        return modality
    return "~" + modality.replace("~", "~0").replace(".", "~1")


def part_of_modality(modality: str) -> str:
    """What a modality is called among the parts of an embedding, where other parts have names of their own."""
    return f"{modality} (modality)" if modality in _PARTS else modality
