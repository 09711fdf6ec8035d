"""Two labelled graphs and the links between them as the fields of one pair: numbers, names, links, what was odd."""

from __future__ import annotations

import difflib
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch

from loginmea_fast.data.attributes import literal_language, literal_text
from loginmea_fast.data.identifiers import NONE, SEVERAL, Listed, Respelled, by_identifier, plain_spelling
from loginmea_fast.data.labeled import LabeledGraph, LabeledLinks
from loginmea_fast.data.names import display_name
from loginmea_fast.data.notes import Caution
from loginmea_fast.data.split import Split
from loginmea_fast.data.tables import AttributeTable, Entities, ValueTable
from loginmea_fast.data.textfile import shorten, some_of
from loginmea_fast.data.values import holds_numbers
from loginmea_fast.errors import DataError

__all__ = ["LONGEST_NAME", "NAME_ATTRIBUTES", "join", "name_of", "usual_modalities"]

# Attributes whose values are names wherever they are met, the best first.
NAME_ATTRIBUTES = (
    "http://www.w3.org/2000/01/rdf-schema#label",
    "http://www.w3.org/2004/02/skos/core#prefLabel",
    "http://schema.org/name",
    "http://xmlns.com/foaf/0.1/name",
    "http://purl.org/dc/elements/1.1/title",
    "http://purl.org/dc/terms/title",
    "rdfs:label",
    "skos:prefLabel",
    "schema:name",
    "foaf:name",
    "dc:title",
    "dcterms:title",
    "label",
    "prefLabel",
    "name",
)
LONGEST_NAME = 1000  # characters; what is longer is a text, of which the beginning will do
_COMPARED = 20_000  # entities that are compared with a misspelt one


def join(
    left: LabeledGraph,
    right: LabeledGraph,
    links: dict[str, LabeledLinks],
    *,
    name_attributes: tuple[str, ...],
    max_repeated_links: float,
    name: str | None,
) -> dict[str, Any]:
    """The fields of the AlignmentPair that two labelled graphs make, without features.

    Entities are numbered as their graphs list them, those of the left graph first; a relation or an attribute that both
    graphs name is one.

    Args:
        left: graph 1.
        right: graph 2.
        links: by "train", "valid" and "test", the parts of the official split; others are links besides.
        name_attributes: attributes whose values are names, the best first; those that are known as such come after.
        max_repeated_links: share of links whose entity has another link that is tolerated.
        name: what to call the pair; None names it by its graphs.

    Raises:
        DataError: the same graph twice, a graph without entities, an attribute for names that neither graph has, or
            links of which none can be used.
    """
    _check_sides(left, right)
    notes = [*left.notes, *right.notes]
    if left.entities == right.entities and np.array_equal(left.triples, right.triples):
        notes.append(f"{left.name} and {right.name} say the same: is one a copy of the other?")
    uris = [*left.entities, *right.entities]
    count = len(left.entities)
    relations, relation_of = _union(left.relations, right.relations)
    triples = [left.triples.copy(), right.triples.copy()]
    triples[1][:, ::2] += count
    triples[1][:, 1] = relation_of[triples[1][:, 1]]
    attributes, values = _tables(left, right)
    words, names = _names(left, right, attributes, values, name_attributes, notes)
    parts = _match(links, left, right, notes)
    rows = np.concatenate(list(parts.values()))
    notes += _contradictions(parts, links, uris, max_repeated_links)
    split = None
    if len(parts["train"]):
        split, said = Split.apart(*(torch.from_numpy(parts[part]) for part in ("train", "valid", "test")))
        notes += said
    return {
        "name": name or f"{left.name} - {right.name}",
        "uris": uris,
        "names": names,
        "left_entities": torch.arange(count),
        "right_entities": torch.arange(count, len(uris)),
        "triples": torch.from_numpy(np.concatenate(triples)),
        "num_left_triples": len(triples[0]),
        "num_relations": len(relations),
        "relation_names": relations,
        "links": torch.from_numpy(rows),
        "official_split": split,
        "attributes": attributes,
        "values": values,
        "words": words,
        "numbering": "labels have no ids, so entities count in the order of `entities`, then as other tables first "
        "name them, the left graph before the right",
        "notes": tuple(notes),
    }


def name_of(value: str) -> str:
    """The name that a value is: its text on one line, the beginning of it where it is long."""
    return " ".join(" ".join(literal_text(value).split())[:LONGEST_NAME].split())


def usual_modalities(pair: Entities) -> list[str]:
    """The features for which a pair has something: relations, attributes, numbers, names that came along."""
    named = [entity for entity, own in (pair.words or {}).items() if own]
    there = {
        "relation": len(pair.triples) > 0,
        "attribute": pair.attributes is not None,
        "value": pair.values is not None and holds_numbers(pair.values),
        "name": bool(named) and min(named) < len(pair.left_entities) <= max(named),
    }
    return [modality for modality, usable in there.items() if usable]


def _check_sides(left: LabeledGraph, right: LabeledGraph) -> None:
    same = [path for path in left.paths if any(_same_file(path, other) for other in right.paths)]
    if same:
        raise DataError(
            f"{some_of(map(str, same))} is left and right at once; a graph aligned with itself tells nothing, name the "
            "file of the other graph"
        )
    for side, graph in (("left", left), ("right", right)):
        if not graph.entities:
            raise DataError(
                f"the {side} graph, {graph.name}, has no entity; give it triples, attributes or a list of entities"
            )
        if "" in graph.entities:
            raise DataError(f"the {side} graph, {graph.name}, has an entity without a label; give it one")


def _same_file(path: Any, other: Any) -> bool:
    try:
        return bool(path.samefile(other))
    except OSError:
        return bool(path == other)


def _union(left: Sequence[str], right: Sequence[str]) -> tuple[list[str], np.ndarray]:
    """Labels of both lists, and the position in them of each label of the right one."""
    place = {label: position for position, label in enumerate(left)}
    of_right = np.array([place.setdefault(label, len(place)) for label in right], dtype=np.int64)
    return list(place), of_right


def _tables(left: LabeledGraph, right: LabeledGraph) -> tuple[AttributeTable | None, ValueTable | None]:
    kinds, kind_of = _union(left.attributes, right.attributes)
    entity = torch.from_numpy(
        np.concatenate([left.attribute_triples[:, 0], right.attribute_triples[:, 0] + len(left.entities)])
    )
    kind = torch.from_numpy(
        np.concatenate([left.attribute_triples[:, 1], kind_of[right.attribute_triples[:, 1]]])
    )
    if not len(entity):
        return None, None
    texts = [*left.values, *right.values]
    said = torch.tensor([bool(text) for text in texts])
    values = None
    if bool(said.any()):
        values = ValueTable(entity[said], kind[said], [text for text in texts if text], kinds)
    return AttributeTable(entity, kind, kinds), values


def _names(
    left: LabeledGraph,
    right: LabeledGraph,
    attributes: AttributeTable | None,
    values: ValueTable | None,
    asked: tuple[str, ...],
    notes: list[str],
) -> tuple[dict[int, list[str]] | None, list[str]]:
    """Words of names by entity where attributes give names, and what to call every entity."""
    labels = [*left.entities, *right.entities]
    names = [_called(label) for label in labels]
    count = len(left.entities)
    rank_of: dict[str, int] = {}
    for name in (*asked, *NAME_ATTRIBUTES):
        rank_of.setdefault(plain_spelling(name), len(rank_of))
    kinds = attributes.types if attributes is not None else []
    known = {plain_spelling(kind) for kind in kinds}
    if unknown := [name for name in asked if plain_spelling(name) not in known]:
        near = difflib.get_close_matches(unknown[0], kinds[:_COMPARED], 3, 0.4) or kinds[:3]
        raise DataError(
            f"neither graph has an attribute {shorten(unknown[0])} to be named by; near are "
            f"{some_of(map(shorten, near)) or 'none'}"
        )
    long = 0
    found: dict[int, list[tuple[int, str, str]]] = defaultdict(list)  # entity -> rank, language, name
    if values is not None:
        rank = np.array([rank_of.get(plain_spelling(kind), -1) for kind in kinds], dtype=np.int64)
        for row in np.flatnonzero(rank[values.kind.numpy()] >= 0).tolist():
            text = values.texts[row]
            if name := name_of(text):
                long += len(literal_text(text)) > LONGEST_NAME
                found[int(values.entity[row])].append(
                    (int(rank[int(values.kind[row])]), literal_language(text), name)
                )
    languages = _languages(found, count, len(labels))
    words: dict[int, list[str]] = {}
    for entity, candidates in found.items():
        _, _, name = min(candidates, key=lambda item: (item[0], languages[item[1]]))
        names[entity], words[entity] = name, name.split()
    if words:
        sides = [sum(entity < count for entity in words), sum(entity >= count for entity in words)]
        by = some_of(
            shorten(kinds[kind]) for kind in dict.fromkeys(_used(values, rank_of, kinds) if values else ())
        )
        notes.append(
            f"{sides[0]:,} of {count:,} and {sides[1]:,} of {len(labels) - count:,} entities are named by {by}, the "
            "others by their label"
        )
    if long:
        notes.append(
            f"{long:,} names are longer than {LONGEST_NAME:,} characters, of which the first {LONGEST_NAME:,} count"
        )
    for entity, label in enumerate(labels):
        if label.startswith("_:") and entity not in words:
            words[entity] = []  # the number of a blank node is nobody's name
    return words or None, names


def _used(values: ValueTable, rank_of: dict[str, int], kinds: list[str]) -> Iterable[int]:
    return (kind for kind in values.kind.unique().tolist() if plain_spelling(kinds[kind]) in rank_of)


def _languages(found: dict[int, list[tuple[int, str, str]]], count: int, total: int) -> dict[str, int]:
    """Rank of each language of names: one in which both graphs name many entities is what can be compared."""
    having: dict[str, list[int]] = {}
    for entity, candidates in found.items():
        for language in {language for _, language, _ in candidates}:
            having.setdefault(language, [0, 0])[entity >= count] += 1
    sizes = (max(count, 1), max(total - count, 1))

    def worth(language: str) -> tuple[float, float, bool, str]:
        shares = [number / size for number, size in zip(having[language], sizes, strict=True)]
        return -min(shares), -sum(shares), language != "", language

    return {language: rank for rank, language in enumerate(sorted(having, key=worth))}


def _match(
    links: dict[str, LabeledLinks], left: LabeledGraph, right: LabeledGraph, notes: list[str]
) -> dict[str, np.ndarray]:
    """Entity ids of links, int64 [., 2] a part, without those that name somebody else."""
    respelled = Respelled()
    count = len(left.entities)
    sides = [
        Listed(
            by_identifier(graph.entities, range(start, start + len(graph.entities))), graph.name, respelled
        )
        for graph, start in ((left, 0), (right, count))
    ]
    parts = {part: _match_part(own, sides, notes) for part, own in links.items()}
    notes += respelled.notes()
    return parts


def _match_part(links: LabeledLinks, sides: list[Listed], notes: list[str]) -> np.ndarray:
    notes += links.notes
    if not len(links):
        return np.empty((0, 2), dtype=np.int64)
    ids = []
    for side, labels in zip(sides, (links.left, links.right), strict=True):
        distinct = list(dict.fromkeys(labels))
        found = dict(zip(distinct, side.match(distinct, links.name).tolist(), strict=True))
        ids.append([found[label] for label in labels])
    rows = np.array(ids, dtype=np.int64).T
    wrong = np.asarray((rows < 0).any(axis=1))
    first = (links.left[0], links.right[0])
    if (
        (rows[0] < 0).all()
        and not wrong[1:].any()
        and len(rows) > 1
        and not all(_near(label, side, 1, 0.8) for label, side in zip(first, sides, strict=True))
    ):
        notes.append(
            f"{links.where(0)}, {shorten(links.left[0])} and {shorten(links.right[0])}, names no entities and is taken "
            "for a header"
        )
        return _each_once(rows, np.arange(1, len(rows)), links, notes)
    if not wrong.any():
        return _each_once(rows, np.arange(len(rows)), links, notes)
    told = f"{int(wrong.sum()):,} of {len(rows):,} links of {links.name} name entities that no graph has"
    examples = "; ".join(_unknown(links, rows, int(row), sides) for row in np.flatnonzero(wrong)[:3].tolist())
    if wrong.all():
        swapped = all(
            (sides[1 - side].match(labels[:100], links.name) >= 0).all()
            for side, labels in enumerate((links.left, links.right))
        )
        remedy = (
            "its columns are swapped: give the left graph's entity first"
            if swapped
            else "spell them as the graphs do, and list entities that stand in no triple (entities=...)"
        )
        raise DataError(f"{told}: {examples}; {remedy}")
    notes.append(Caution(f"{told} and are left out: {examples}"))
    return _each_once(rows, np.flatnonzero(~wrong), links, notes)


def _each_once(rows: np.ndarray, kept: np.ndarray, links: LabeledLinks, notes: list[str]) -> np.ndarray:
    """The rows `kept`, in their order, without those that repeat another, which a note counts."""
    _, first = np.unique(rows[kept], axis=0, return_index=True)
    if len(first) < len(kept):
        again = int(np.delete(kept, first)[0])
        notes.append(
            f"{len(kept) - len(first):,} of {len(rows):,} links of {links.name} repeat another and are left out: "
            f"{links.where(again)}, {shorten(links.left[again])} and {shorten(links.right[again])}"
        )
    return rows[kept[np.sort(first)]]


def _unknown(links: LabeledLinks, rows: np.ndarray, row: int, sides: list[Listed]) -> str:
    side = int((rows[row] < 0).argmax())
    label = (links.left, links.right)[side][row]
    which = ("left", "right")[side]
    if rows[row, side] == SEVERAL:
        return f"{links.where(row)}, {shorten(label)} is spelt like several entities of the {which} graph"
    near = _near(label, sides[side], 3, 0.6)
    hint = f" (near: {some_of(map(shorten, near))})" if near else ""
    elsewhere = " but in the other" if int(sides[1 - side].match([label], "")[0]) != NONE else ""
    return f"{links.where(row)}, {shorten(label)} is not in the {which} graph{elsewhere}{hint}"


def _near(label: str, side: Listed, count: int, cutoff: float) -> list[str]:
    return difflib.get_close_matches(label, _likely(label, list(side.ids)), count, cutoff)


def _likely(label: str, known: list[str]) -> list[str]:
    """Labels that may be near: comparing with every one of a million takes a minute."""
    if len(known) <= _COMPARED:
        return known
    wanted = Counter(display_name(label).lower())
    length = len(label)
    alike = [other for other in known if abs(len(other) - length) <= 3]
    scored = sorted(alike, key=lambda other: -sum((Counter(display_name(other).lower()) & wanted).values()))
    return scored[:_COMPARED]


def _contradictions(
    parts: dict[str, np.ndarray], links: dict[str, LabeledLinks], uris: list[str], tolerated: float
) -> list[str]:
    """Different links of one entity: a note where they are tolerated, else a DataError; both are shown."""
    rows = np.unique(np.concatenate(list(parts.values())), axis=0)
    again = np.zeros(len(rows), dtype=bool)
    example = None
    for column in (0, 1):
        order = rows[:, column].argsort(kind="stable")
        same = np.flatnonzero(np.diff(rows[order, column]) == 0)
        again[order[same + 1]] = True
        if len(same) and example is None:
            example = rows[order[same[0]]], rows[order[same[0] + 1]], column
    if example is None:
        return []
    first, second, column = example
    entity = shorten(uris[first[column]])
    others = [shorten(uris[row[1 - column]]) for row in (first, second)]
    names = ", ".join(own.name for own in links.values() if len(own))
    told = f"{names}: {entity} is linked with {others[0]} and with {others[1]}"
    count = int(again.sum())
    if count <= tolerated * len(rows):
        return [Caution(f"{told}; {count:,} of {len(rows):,} links are such, all are kept")]
    raise DataError(
        f"{told} ({count:,} of {len(rows):,} links contradict another, tolerated are {tolerated:.1%}); keep one of the "
        "two, or allow entities with several partners by max_repeated_links=1"
    )


def _called(label: str) -> str:
    """What to call an entity: of an IRI its last part, any other label (AC/DC, Track #1) as it stands."""
    if label.startswith("_:") or not re.match(r"<?[A-Za-z][A-Za-z0-9+.\-]*:\S", label.strip()):
        return label.replace("_", " ").strip() if not label.startswith("_:") else label
    return display_name(label)
