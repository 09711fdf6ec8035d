"""A data set with the attributes of some of its entities taken away, for curves of accuracy against what is missing."""

from __future__ import annotations

from pathlib import Path
from random import Random

__all__ = ["without_attributes"]

_ATTRIBUTES = ("training_attrs_1", "training_attrs_2", "attr_triples_1", "attr_triples_2")


def without_attributes(directory: Path, share: float, beside: Path) -> Path:
    """A copy of a directory in the field's layout in which a share of the entities has neither attribute nor value.

    Args:
        directory: what is copied; files that stay as they are are linked.
        share: of the entities of each graph, from 0 to 1; those without at one share are without at any larger one.
        beside: where the copy goes.

    Returns:
        The copy.
    """
    copy = beside / f"{directory.name}-without-{share}"
    copy.mkdir(parents=True, exist_ok=True)
    for file in sorted(directory.iterdir()):
        target = copy / file.name
        target.unlink(missing_ok=True)
        if file.name not in _ATTRIBUTES:
            target.symlink_to(file.resolve())
            continue
        side = file.name[-1]
        lines = (directory / f"ent_ids_{side}").read_text(encoding="utf-8").splitlines()
        entities = sorted(line.split("\t")[1] for line in lines)
        Random(int(side)).shuffle(entities)
        gone = set(entities[: round(share * len(entities))])
        with file.open(encoding="utf-8") as whole, target.open("w", encoding="utf-8") as thinned:
            thinned.writelines(line for line in whole if line.split("\t", 1)[0].rstrip("\n") not in gone)
    return copy
