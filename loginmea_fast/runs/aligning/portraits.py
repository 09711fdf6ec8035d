"""What a person looks at to decide whether two entities are the same: neighbours, attributes, a picture, in columns."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from loginmea_fast.data import AlignmentPair
from loginmea_fast.data.images import thumbnail
from loginmea_fast.data.tables import AttributeTable
from loginmea_fast.runs.aligning.formats import Columns

__all__ = ["MOST", "portraits"]

MOST = 20_000
"""Matches that a page shows, those nearest to the threshold; it says so where there are more."""

_NEIGHBOURS = 12  # of an entity; the total is told
_ATTRIBUTES = 12
_LONGEST = 200  # characters of a value
_PICTURES = 1_000  # entities that are shown with a picture, those of the most doubtful matches; the others are counted
_PICTURE_BYTES = 6_000  # of one, so that all of them stay below 8 MB inside a page


def portraits(
    pair: AlignmentPair, entities: Tensor, known: Tensor, pictures: Mapping[int, Path] | None = None
) -> Columns:
    """Columns about entities, one row each.

    Args:
        pair: the graphs.
        entities: int64 [Q], of both graphs, those first that matter most; each is told once.
        known: int64 [K, 2], links that are known.
        pictures: entity -> file. The first 1,000 entities that have one get it, small.

    Returns:
        `entity` (identifier), `side`, `name`, `degree` (distinct neighbours), `neighbors` (direction, relation,
        identifier and name of the other entity, and the identifier that it is known to be the same as; those with the
        fewest neighbours first, which tell most), `attributes` (attribute, value; types alone where the pair has no
        values), `pictured` (whether it has a picture) and `picture` (JPEG, or nothing).
    """
    chosen = entities.unique()
    degrees = pair.degrees()
    neighbors = _neighbors(pair, chosen, degrees, known)
    attributes = _attributes(pair, chosen)
    is_left = torch.isin(chosen, pair.left_entities).tolist()
    ids = chosen.tolist()
    pictures = pictures or {}
    small = _thumbnails(entities, pictures)
    return {
        "entity": [pair.uris[entity] for entity in ids],
        "side": ["left" if left else "right" for left in is_left],
        "name": [pair.names[entity] for entity in ids],
        "degree": degrees[chosen].tolist(),
        "neighbors": [neighbors[entity] for entity in ids],
        "attributes": [attributes[entity] for entity in ids],
        "pictured": [entity in pictures for entity in ids],
        "picture": [small.get(entity) for entity in ids],
    }


def _thumbnails(entities: Tensor, pictures: Mapping[int, Path]) -> dict[int, bytes]:
    """Pictures of the first entities that have one; what cannot be read any more is none."""
    wanted = [entity for entity in dict.fromkeys(entities.tolist()) if entity in pictures][:_PICTURES]
    found = {entity: thumbnail(pictures[entity], _PICTURE_BYTES) for entity in wanted}
    return {entity: content for entity, content in found.items() if content is not None}


def _neighbors(
    pair: AlignmentPair, chosen: Tensor, degrees: Tensor, known: Tensor
) -> dict[int, list[dict[str, str]]]:
    same = dict(known.tolist()) | dict(known.flip(1).tolist())
    found: dict[int, list[dict[str, str]]] = defaultdict(list)
    wanted = torch.zeros(pair.num_entities, dtype=torch.bool)
    wanted[chosen] = True
    for own, other, direction in ((0, 2, "out"), (2, 0, "in")):
        triples = pair.triples[wanted[pair.triples[:, own]]]
        order = degrees[triples[:, other]].argsort(stable=True)
        for row in triples[order].tolist():
            told = found[row[own]]
            if len(told) < _NEIGHBOURS * (1 if direction == "out" else 2):
                relation = str(row[1]) if pair.relation_names is None else pair.relation_names[row[1]]
                entity, partner = row[other], same.get(row[other])
                told.append(
                    {
                        "direction": direction,
                        "relation": relation,
                        "entity": pair.uris[entity],
                        "name": pair.names[entity],
                        "known": "" if partner is None else pair.uris[partner],
                    }
                )
    return found


def _attributes(pair: AlignmentPair, chosen: Tensor) -> dict[int, list[dict[str, str]]]:
    """Values where the pair has them, else the types alone."""
    found: dict[int, list[dict[str, str]]] = defaultdict(list)
    table = pair.attributes if pair.values is None else pair.values
    if table is None:
        return found
    names = table.types if isinstance(table, AttributeTable) else table.kinds
    for row in torch.isin(table.entity, chosen).nonzero()[:, 0].tolist():
        told = found[int(table.entity[row])]
        if len(told) < _ATTRIBUTES:
            value = "" if isinstance(table, AttributeTable) else table.texts[row]
            short = value if len(value) <= _LONGEST else f"{value[:_LONGEST]}…"
            told.append({"attribute": names[int(table.kind[row])], "value": short})
    return found
