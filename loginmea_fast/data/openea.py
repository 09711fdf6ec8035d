"""The layout of OpenEA's benchmarks: entities by URI, prepared splits.

``rel_triples_1/2``: head TAB relation TAB tail; ``attr_triples_1/2``: entity TAB attribute TAB value; ``ent_links``:
left TAB right; ``721_5fold/<k>/{train,valid,test}_links``: five official splits. Ids are given in order of first
appearance: relation triples, attribute triples, links; graph 1 first. A relation that both graphs name is two
relations, as it is in DBP15K.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch

from loginmea_fast.data.checks import check_parts, repeated_links
from loginmea_fast.data.formats import Format, ReadOptions, register_format
from loginmea_fast.data.names import display_name
from loginmea_fast.data.pair import AlignmentPair, AttributeTable, Split
from loginmea_fast.data.textfile import read_fields, shorten, write_lines
from loginmea_fast.errors import DataError

__all__ = ["read_openea", "write_openea"]

_FOLDS = "721_5fold"
_PARTS = ("train_links", "valid_links", "test_links")


def read_openea(directory: Path, options: ReadOptions) -> AlignmentPair:
    """Reads a directory of this layout; features are built elsewhere.

    Args:
        directory: where the files are.
        options: which fold is the official split, how much repetition among the links is tolerated.

    Returns:
        The pair, without features; attribute values are not kept.

    Raises:
        DataError: names the file, the line and the remedy.
    """
    known: list[dict[str, int]] = []
    relations: list[str] = []
    triples: list[np.ndarray] = []
    types: dict[str, int] = {}
    owners: list[int] = []
    kinds: list[int] = []
    total = 0
    for graph in (1, 2):
        entities: dict[str, int] = {}
        triples.append(_relation_triples(directory / f"rel_triples_{graph}", entities, relations, total))
        path = directory / f"attr_triples_{graph}"
        if path.is_file():
            for _, (uri, kind, *_value) in read_fields(path, 2, None, "entity, attribute, value"):
                owners.append(entities.setdefault(uri, total + len(entities)))
                kinds.append(types.setdefault(kind, len(types)))
        known.append(entities)
        total += len(entities)
    uris = [*known[0], *known[1]]
    path = directory / "ent_links"
    links = _read_links(path, known)
    notes = repeated_links(path, links, options.max_repeated_links, uris)
    split, split_notes = _official_split(directory / _FOLDS, options.fold, known, links)
    return AlignmentPair(
        name=directory.resolve().name,
        uris=uris,
        names=[display_name(uri) for uri in uris],
        left_entities=torch.arange(len(known[0])),
        right_entities=torch.arange(len(known[0]), total),
        triples=torch.from_numpy(np.concatenate(triples)),
        num_left_triples=len(triples[0]),
        num_relations=len(relations),
        links=torch.from_numpy(links),
        official_split=split,
        relation_names=relations,
        attributes=AttributeTable(torch.tensor(owners), torch.tensor(kinds), list(types)) if types else None,
        notes=notes + split_notes,
    )


def _relation_triples(path: Path, entities: dict[str, int], relations: list[str], offset: int) -> np.ndarray:
    """Numbers the entities and relations of one graph while reading; ids of entities start at ``offset``."""
    own: dict[str, int] = {}
    base = len(relations)
    flat: list[int] = []
    for _, (head, relation, tail) in read_fields(path, 3, 3, "head, relation, tail"):
        flat.append(entities.setdefault(head, offset + len(entities)))
        flat.append(own.setdefault(relation, base + len(own)))
        flat.append(entities.setdefault(tail, offset + len(entities)))
    relations += own
    return np.array(flat, dtype=np.int64).reshape(-1, 3)


def _read_links(path: Path, known: list[dict[str, int]]) -> np.ndarray:
    flat: list[int] = []
    for number, pair in read_fields(path, 2, 2, "left entity, right entity"):
        for graph, (uri, entities) in enumerate(zip(pair, known, strict=True), start=1):
            entity = entities.get(uri)
            if entity is None:
                raise DataError(
                    f"{path}, line {number}: entity {shorten(uri)} stands in no triple of graph {graph}; "
                    "correct the line or delete it"
                )
            flat.append(entity)
    return np.array(flat, dtype=np.int64).reshape(-1, 2)


def _official_split(
    folds: Path, fold: int, known: list[dict[str, int]], links: np.ndarray
) -> tuple[Split | None, tuple[str, ...]]:
    if not folds.is_dir():
        return None, ()
    paths = [folds / str(fold) / part for part in _PARTS]
    if not paths[0].parent.is_dir():
        there = ", ".join(sorted(entry.name for entry in folds.iterdir() if entry.is_dir())) or "none"
        raise DataError(f"{folds} has no fold {fold}; choose one of: {there}")
    if not paths[1].is_file():  # a split without validation links, as the other layout may have
        del paths[1]
    parts = [_read_links(path, known) for path in paths]
    notes = check_parts(paths, parts, links, len(known[0]) + len(known[1]))
    if len(parts) == 2:
        parts.insert(1, np.empty((0, 2), dtype=np.int64))
    split, left_out = Split.apart(*parts)
    return split, notes + left_out


def write_openea(pair: AlignmentPair, directory: Path) -> list[str]:
    """Writes a pair in this layout; features are written elsewhere.

    Args:
        pair: what to write.
        directory: an existing directory.

    Returns:
        What this layout cannot hold, one sentence each.

    Raises:
        DataError: two entities of a graph share a uri, a name holds a tab or line break, or an entity has neither
            triple nor attribute nor link, so that no file would mention it.
    """
    relation_names = pair.relation_names or [f"relation_{relation}" for relation in range(pair.num_relations)]
    _check_writable(pair, relation_names)
    sides = (pair.left_entities, pair.right_entities)
    triples = (pair.triples[: pair.num_left_triples], pair.triples[pair.num_left_triples :])
    for graph, (entities, own) in enumerate(zip(sides, triples, strict=True), start=1):
        facts = (f"{pair.uris[h]}\t{relation_names[r]}\t{pair.uris[t]}" for h, r, t in own.tolist())
        write_lines(directory / f"rel_triples_{graph}", facts)
        if pair.attributes is not None:
            table = pair.attributes
            keep = torch.isin(table.entity, entities)
            occurrences = zip(table.entity[keep].tolist(), table.kind[keep].tolist(), strict=True)
            lines = [f"{pair.uris[entity]}\t{table.types[kind]}\t" for entity, kind in occurrences]
            if lines:
                write_lines(directory / f"attr_triples_{graph}", lines)
    write_lines(directory / "ent_links", _link_lines(pair, pair.links))
    if pair.official_split is not None:
        fold = directory / _FOLDS / "1"
        fold.mkdir(parents=True)
        split = pair.official_split
        for name, part in zip(_PARTS, (split.train, split.valid, split.test), strict=True):
            if len(part):
                write_lines(fold / name, _link_lines(pair, part))
    lost = []
    if pair.words is not None:
        lost.append("translated names are not part of OpenEA's layout and were left out")
    if pair.has_image is not None:
        lost.append("the list of entities with an image is not part of OpenEA's layout and was left out")
    return lost


def _link_lines(pair: AlignmentPair, links: torch.Tensor) -> Iterable[str]:
    return (f"{pair.uris[left]}\t{pair.uris[right]}" for left, right in links.tolist())


def _check_writable(pair: AlignmentPair, relation_names: list[str]) -> None:
    for name in {*pair.uris, *relation_names, *(pair.attributes.types if pair.attributes else ())}:
        if any(character in name for character in "\t\n\r"):
            raise DataError(
                f"{shorten(name)} holds a tab or line break, which OpenEA's layout cannot; rename it"
            )
    for entities in (pair.left_entities, pair.right_entities):
        seen: set[str] = set()
        for entity in entities.tolist():
            if pair.uris[entity] in seen:
                raise DataError(
                    f"two entities are called {shorten(pair.uris[entity])}; OpenEA's layout tells by name"
                )
            seen.add(pair.uris[entity])
    mentioned = torch.zeros(pair.num_entities, dtype=torch.bool)
    mentioned[pair.triples[:, ::2].reshape(-1)] = True
    if pair.attributes is not None:
        mentioned[pair.attributes.entity] = True
    if not bool(mentioned.all()):
        entity = int((~mentioned).nonzero()[0, 0])
        raise DataError(
            f"{int((~mentioned).sum())} entities, the first is {entity} ({shorten(pair.uris[entity])}), have neither "
            "triple nor attribute and OpenEA's layout has no list of entities; write format='dbp15k' instead"
        )


register_format(Format("openea", ("rel_triples_1", "rel_triples_2", "ent_links"), read_openea, write_openea))
