"""What a person looks at to decide whether two entities are the same: neighbours and attributes, in columns."""

from __future__ import annotations

from collections import defaultdict

import torch
from torch import Tensor

from loginmea_fast.data import AlignmentPair
from loginmea_fast.data.tables import AttributeTable
from loginmea_fast.runs.aligning.formats import Columns

__all__ = ["MOST", "portraits"]

MOST = 20_000
"""Matches that a page shows, those nearest to the threshold; it says so where there are more."""

_NEIGHBOURS = 12  # of an entity; the total is told
_ATTRIBUTES = 12
_LONGEST = 200  # characters of a value


def portraits(pair: AlignmentPair, entities: Tensor, known: Tensor) -> Columns:
    """Columns about entities, one row each.

    Args:
        pair: the graphs.
        entities: int64 [Q], of both graphs; each is told once.
        known: int64 [K, 2], links that are known.

    Returns:
        `entity` (identifier), `side`, `name`, `degree` (distinct neighbours), `neighbors` (direction, relation,
        identifier and name of the other entity, and the identifier that it is known to be the same as; those with the
        fewest neighbours first, which tell most) and `attributes` (attribute, value; types alone where the pair has no
        values).
    """
    chosen = entities.unique()
    degrees = pair.degrees()
    neighbors = _neighbors(pair, chosen, degrees, known)
    attributes = _attributes(pair, chosen)
    is_left = torch.isin(chosen, pair.left_entities).tolist()
    ids = chosen.tolist()
    return {
        "entity": [pair.uris[entity] for entity in ids],
        "side": ["left" if left else "right" for left in is_left],
        "name": [pair.names[entity] for entity in ids],
        "degree": degrees[chosen].tolist(),
        "neighbors": [neighbors[entity] for entity in ids],
        "attributes": [attributes[entity] for entity in ids],
    }


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
