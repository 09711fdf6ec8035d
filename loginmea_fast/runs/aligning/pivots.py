"""Pivots: pairs that names and identifiers give, where few links or none are known.

Sources, the surest first: the same identifier in both graphs; an attribute of each graph whose values are nearly unique
and which share many (an ISO code, a telephone number); names that are equal once spelling is set aside; names that are
nearly equal, of entities that have no other pivot; and, where all of these are few, pictures that are nearly the same.
What is not unique on both sides is no pivot, and sources that contradict each other about an entity give none of it.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from loginmea_fast.data import AlignmentPair
from loginmea_fast.data.attributes import literal_text
from loginmea_fast.data.identifiers import plain_spelling
from loginmea_fast.data.names import name_words
from loginmea_fast.runs.aligning.confidence import FEW
from loginmea_fast.runs.aligning.near import near_names, near_pictures

__all__ = ["NAME_MODALITIES", "Pivots", "find_pivots", "normal_name", "weigh_pivots"]

NAME_MODALITIES = (
    "name",
    "name_tfidf",
    "word",
    "sentence",
)  # which say of a pivot by name what is known already

_BY_NAME = ("equal names", "nearly equal names")
_BY_PICTURE = "nearly equal pictures"
_UNIQUE = 0.95  # of the values of an identifier stand for one entity
_SHARED = 0.1  # of the values of the smaller side stand on the other
_LEAST_SHARED = 10
_LEAST_LETTERS = 3  # a shorter value is shared by chance
_SEPARATORS = re.compile(r"[\W_]+")


@dataclass(frozen=True)
class Pivots:
    """Pairs of entities that are probably the same.

    Attributes:
        links: int64 [P, 2], each entity once.
        source: what gave each.
        counts: source -> how many pairs it gave, contradicted ones left out.
    """

    links: Tensor
    source: list[str]
    counts: dict[str, int]

    def __len__(self) -> int:
        """Pairs."""
        return len(self.links)

    def apart_from(self, known: Tensor) -> Pivots:
        """Those whose entities have no known link."""
        return self.only(
            ~(torch.isin(self.links[:, 0], known[:, 0]) | torch.isin(self.links[:, 1], known[:, 1]))
        )

    def only(self, chosen: Tensor) -> Pivots:
        """Those at the places that are true in `chosen`, bool [P]."""
        source = [name for name, kept in zip(self.source, chosen.tolist(), strict=True) if kept]
        counts = Counter(source)
        return Pivots(self.links[chosen], source, {name: counts[name] for name in self.counts})

    def right_among(self, known: Tensor) -> tuple[int, int]:
        """How many of those of an entity with a known link are known to be right, and how many there are."""
        judged = torch.isin(self.links[:, 0], known[:, 0]) | torch.isin(self.links[:, 1], known[:, 1])
        links = set(map(tuple, known.tolist()))
        return sum(tuple(link) in links for link in self.links[judged].tolist()), int(judged.sum())

    @property
    def found_by(self) -> tuple[str, ...]:
        """Modalities that gave any: they find these again, and cannot tell of the others how good they are."""
        names = NAME_MODALITIES if any(self.counts.get(source) for source in _BY_NAME) else ()
        return (*names, "image") if self.counts.get(_BY_PICTURE) else names

    def summary(self) -> str:
        """How many there are, by source."""
        parts = [f"{count:,} by {source}" for source, count in self.counts.items() if count]
        return ", ".join(parts) or "none"


def find_pivots(pair: AlignmentPair) -> Pivots:
    """All pivots of a pair, its links left aside."""
    left, right = pair.left_entities.tolist(), pair.right_entities.tolist()
    found: dict[str, dict[int, int]] = {
        "the same identifier": _shared(_spelt(pair, left), _spelt(pair, right))
    }
    found |= _identifiers(pair)
    words = name_words(pair)
    names = [{e: normal_name(" ".join(words[e])) for e in side} for side in (left, right)]
    found[_BY_NAME[0]] = _shared(*names)
    pairs, sources = _uncontradicted(found)
    taken = {entity for link in pairs for entity in link}
    found[_BY_NAME[1]] = near_names(*({e: n for e, n in side.items() if e not in taken} for side in names))
    pairs, sources = _uncontradicted(found)
    if len(pairs) < FEW and "image" in pair.features and not pair.features["image"].is_sparse:
        found[_BY_PICTURE] = near_pictures(
            pair.features["image"], pair.left_entities.numpy(), pair.right_entities.numpy()
        )
        pairs, sources = _uncontradicted(found)
    counts = Counter(sources)
    links = torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2)
    return Pivots(links, sources, {name: counts[name] for name in found})


def _uncontradicted(found: Mapping[str, Mapping[int, int]]) -> tuple[list[tuple[int, int]], list[str]]:
    """Pairs of which no source says anything else, and the first source of each."""
    partners: dict[int, set[int]] = {}
    for links in found.values():
        for a, b in links.items():
            partners.setdefault(a, set()).add(b)
            partners.setdefault(b, set()).add(a)
    taken: dict[tuple[int, int], str] = {}
    for name, links in found.items():
        for a, b in links.items():
            if len(partners[a]) == len(partners[b]) == 1:
                taken.setdefault((a, b), name)
    return list(taken), list(taken.values())


def normal_name(name: str) -> str:
    """A name without case, accents and punctuation; empty where too little is left to tell anything by."""
    decomposed = unicodedata.normalize("NFKD", name.casefold())
    bare = "".join(letter for letter in decomposed if not unicodedata.combining(letter))
    text = _SEPARATORS.sub(" ", bare).strip()
    return text if len(text) >= _LEAST_LETTERS else ""


def weigh_pivots(
    agrees: np.ndarray, sure: np.ndarray, trust: float | None = None
) -> tuple[np.ndarray, float]:
    """How probable it is that pivots are right, by what a method that does not know them matches instead.

    Let t be the share of the pivots that are right. A method that is calibrated by pivots agrees with one with the
    probability t p where it is right with probability p, so that its confidence is t p, and among its surest matches,
    where p is near one, the share that agrees is near t. Where both say the same, one of them is enough: 1 - (1 - t)
    (1 - p). Where they do not, the pivot is right if the method is wrong: t (1 - p) / (t (1 - p) + 1 - t).

    Args:
        agrees: bool [P], whether the method matches the two entities of a pivot.
        sure: [P], how sure it is of what it matches, calibrated by the pivots; 0 where it matches nothing.
        trust: t; None has it estimated.

    Returns:
        A probability for each, and t, by the surest quarter and Laplace's rule of succession.
    """
    if trust is None:
        surest = np.argsort(-sure, kind="stable")[: -(-len(sure) // 4)]
        trust = (float(agrees[surest].sum()) + 1) / (len(surest) + 2)
    method = np.minimum(sure / trust, 1)
    against = trust * (1 - method)
    return np.where(agrees, 1 - (1 - trust) * (1 - method), against / (against + 1 - trust)), trust


def _spelt(pair: AlignmentPair, entities: Iterable[int]) -> dict[int, str]:
    """Identifiers that tell something: those without a letter are numbers, which two graphs share by chance."""
    found = {entity: plain_spelling(pair.uris[entity]) for entity in entities}
    return {entity: text for entity, text in found.items() if any(map(str.isalpha, text))}


def _shared(left: Mapping[int, str], right: Mapping[int, str]) -> dict[int, int]:
    """Entities by texts that one entity of each side has."""
    sides = []
    for side in (left, right):
        times = Counter(side.values())
        sides.append({text: entity for entity, text in side.items() if text and times[text] == 1})
    return {entity: sides[1][text] for text, entity in sides[0].items() if text in sides[1]}


def _identifiers(pair: AlignmentPair) -> dict[str, dict[int, int]]:
    """Pairs by attributes that identify: "identifier a = b" -> left entity -> right entity."""
    if pair.values is None:
        return {}
    table = pair.values
    is_left = torch.zeros(pair.num_entities, dtype=torch.bool)
    is_left[pair.left_entities] = True
    owners: list[dict[int, dict[str, set[int]]]] = [{}, {}]
    said, names = Counter(table.kind.tolist()), Counter[int]()
    for entity, kind, text in zip(table.entity.tolist(), table.kind.tolist(), table.texts, strict=True):
        names[kind] += literal_text(text) == pair.names[entity]
    for entity, kind, text in zip(table.entity.tolist(), table.kind.tolist(), table.texts, strict=True):
        value = literal_text(text).casefold()
        if len(value) >= _LEAST_LETTERS and names[kind] <= said[kind] / 2:  # names are a source of their own
            side = owners[0 if is_left[entity] else 1]
            side.setdefault(kind, {}).setdefault(value, set()).add(entity)
    unique = [
        {
            kind: {value: next(iter(own)) for value, own in values.items() if len(own) == 1}
            for kind, values in side.items()
            if sum(len(own) == 1 for own in values.values()) >= max(_UNIQUE * len(values), _LEAST_SHARED)
        }
        for side in owners
    ]
    kinds_of: dict[str, list[int]] = {}
    for kind, values in unique[1].items():
        for value in values:
            kinds_of.setdefault(value, []).append(kind)
    result = {}
    for kind, values in unique[0].items():
        met = Counter(other for value in values for other in kinds_of.get(value, ()))
        for other, count in met.most_common(1):
            if count >= max(_LEAST_SHARED, _SHARED * min(len(values), len(unique[1][other]))):
                links = {
                    a: unique[1][other][value] for value, a in values.items() if value in unique[1][other]
                }
                result[f"identifier {_short(table.kinds[kind])} = {_short(table.kinds[other])}"] = links
    return result


def _short(kind: str) -> str:
    return re.split(r"[/#]", kind.strip("<>/#"))[-1] or kind
