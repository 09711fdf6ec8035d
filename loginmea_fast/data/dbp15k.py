"""The layout of DBP15K, which MMKB and ContEA also come in: numbered entities, one file a kind of fact.

``ent_ids_1/2``: id TAB uri; ``triples_1/2``: head TAB relation TAB tail; ``ill_ent_ids``: left TAB right, all links.
Optional: ``training_attrs_1/2``: uri TAB attribute type...; ``rel_ids_1/2``: id TAB name; ``translated_names.json``:
[[id, [word, ...]], ...]; ``has_image_1/2``: ids; ``sup/dev/ref_ent_ids``: an official split.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch

from loginmea_fast.data.checks import check_membership, check_parts, repeated_links
from loginmea_fast.data.formats import Format, ReadOptions, register_format
from loginmea_fast.data.names import display_name
from loginmea_fast.data.pair import AlignmentPair, AttributeTable, Split
from loginmea_fast.data.textfile import read_bytes, read_fields, read_integers, shorten, write_lines
from loginmea_fast.errors import DataError

__all__ = ["read_dbp15k", "write_dbp15k"]

_SPLIT_FILES = ("sup_ent_ids", "dev_ent_ids", "ref_ent_ids")


def read_dbp15k(directory: Path, options: ReadOptions) -> AlignmentPair:
    """Reads a directory of this layout; features are built elsewhere.

    Args:
        directory: where the files are.
        options: how much repetition among the links is tolerated.

    Returns:
        The pair, without features.

    Raises:
        DataError: names the file, the line and the remedy.
    """
    lists = [_entity_list(directory / f"ent_ids_{graph}") for graph in (1, 2)]
    uris, side = _join_lists(directory, lists)
    triples = [_triples(directory / f"triples_{graph}", side, graph) for graph in (1, 2)]
    relation_names, num_relations = _relation_names(directory, triples)
    links, split, notes = _links(directory, side, uris, options)
    return AlignmentPair(
        name="/".join(directory.resolve().parts[-2:]),
        uris=uris,
        names=[display_name(uri) for uri in uris],
        left_entities=torch.tensor(list(lists[0]), dtype=torch.int64),
        right_entities=torch.tensor(list(lists[1]), dtype=torch.int64),
        triples=torch.from_numpy(np.concatenate(triples)),
        num_left_triples=len(triples[0]),
        num_relations=num_relations,
        links=torch.from_numpy(links),
        official_split=split,
        relation_names=relation_names,
        attributes=_attributes(directory, lists),
        words=_translated_names(directory / "translated_names.json", len(uris)),
        has_image=_has_image(directory, side),
        notes=notes,
    )


def _entity_list(path: Path) -> dict[int, tuple[int, str]]:
    """Id -> (line, uri), in file order."""
    entities: dict[int, tuple[int, str]] = {}
    for number, (token, uri) in read_fields(path, 2, 2, "id, uri"):
        token = token.strip()
        if not (token.isascii() and token.isdigit() and len(token) <= 18):
            kind = "a negative id" if token.startswith("-") and token[1:].isdigit() else "no id"
            raise DataError(f"{path}, line {number}: {shorten(token)} is {kind}; ids are integers from 0")
        entity = int(token)
        if entity in entities:
            raise DataError(
                f"{path}, line {number}: entity id {entity} stands already on line {entities[entity][0]}; "
                "give every entity an id of its own"
            )
        entities[entity] = (number, uri)
    return entities


def _join_lists(directory: Path, lists: list[dict[int, tuple[int, str]]]) -> tuple[list[str], np.ndarray]:
    """Uris by entity id, and which graph each id belongs to; ids must be 0 to N - 1 over both lists."""
    count = len(lists[0]) + len(lists[1])
    uris, side = [""] * count, np.zeros(count, dtype=np.int8)
    for graph, entities in enumerate(lists, start=1):
        path = directory / f"ent_ids_{graph}"
        for entity, (number, uri) in entities.items():
            if entity >= count:
                raise DataError(
                    f"{path}, line {number}: id {entity} is beyond the entity list, ids of the {count:,} entities "
                    f"of both graphs together must be 0 to {count - 1}; renumber them without gaps"
                )
            if side[entity]:
                raise DataError(
                    f"{path}, line {number}: entity id {entity} stands already in ent_ids_1; "
                    "ids must be unique over both graphs, renumber those of graph 2"
                )
            uris[entity], side[entity] = uri, graph
    return uris, side


def _triples(path: Path, side: np.ndarray, graph: int) -> np.ndarray:
    triples = read_integers(path, 3, "head, relation, tail")
    for column in (triples[:, 0], triples[:, 2]):
        check_membership(path, column, side, graph, f"ent_ids_{graph}")
    return triples


def _relation_names(directory: Path, triples: list[np.ndarray]) -> tuple[list[str] | None, int]:
    count = 1 + max(int(part[:, 1].max()) for part in triples)
    total = sum(len(part) for part in triples)
    for graph, part in enumerate(triples, start=1):
        # A stray huge id would cost a table of that height; real data number relations without large gaps.
        if int(part[:, 1].max()) >= 10 * total + 1000:
            line = int(part[:, 1].argmax()) + 1
            raise DataError(
                f"{directory / f'triples_{graph}'}, line {line}: relation id {part[line - 1, 1]} is out of proportion "
                f"to {total:,} triples; number relations from 0 without large gaps"
            )
    names = {}
    for graph in (1, 2):
        path = directory / f"rel_ids_{graph}"
        if not path.is_file():
            continue
        for number, (token, name) in read_fields(path, 2, 2, "id, relation"):
            if not (token.isascii() and token.isdigit() and len(token) <= 18):
                raise DataError(f"{path}, line {number}: {shorten(token)} is no id; ids are integers from 0")
            if int(token) < count:
                names[int(token)] = name
    return (
        [names.get(relation, f"relation {relation}") for relation in range(count)] if names else None
    ), count


def _links(
    directory: Path, side: np.ndarray, uris: list[str], options: ReadOptions
) -> tuple[np.ndarray, Split | None, tuple[str, ...]]:
    def read(path: Path) -> np.ndarray:
        links = read_integers(path, 2, "left entity, right entity")
        for graph in (1, 2):
            check_membership(path, links[:, graph - 1], side, graph, f"ent_ids_{graph}")
        return links

    path = directory / "ill_ent_ids"
    links = read(path)
    notes = repeated_links(path, links, options.max_repeated_links, uris)
    split_paths = [directory / name for name in _SPLIT_FILES]
    there = [entry for entry in split_paths if entry.is_file()]
    if not (split_paths[0] in there and split_paths[2] in there):
        if there:
            notes += (f"{there[0].name} alone is no official split, which needs sup_ent_ids and ref_ent_ids",)
        return links, None, notes
    split_paths = there
    parts = [read(entry) for entry in split_paths]
    notes += check_parts(split_paths, parts, links, len(side))
    if len(parts) == 2:
        parts.insert(1, np.empty((0, 2), dtype=np.int64))
    split, left_out = Split.apart(*parts)
    return links, split, notes + left_out


def _attributes(directory: Path, lists: list[dict[int, tuple[int, str]]]) -> AttributeTable | None:
    paths = [directory / f"training_attrs_{graph}" for graph in (1, 2)]
    types: dict[str, int] = {}
    owners, counts, kinds = [], [], []
    for path, entities in zip(paths, lists, strict=True):
        if not path.is_file():
            continue
        by_uri = {uri: entity for entity, (_, uri) in entities.items()}
        for _, (uri, *own) in read_fields(path, 1, None, "uri, attribute type..."):
            entity = by_uri.get(uri)
            if entity is None:
                continue  # attribute dumps cover more than the sampled entities
            owners.append(entity)
            counts.append(len(own))
            kinds += [types.setdefault(kind, len(types)) for kind in own]
    if not kinds:
        return None
    owner = np.repeat(np.array(owners, dtype=np.int64), np.array(counts, dtype=np.int64))
    return AttributeTable(torch.from_numpy(owner), torch.tensor(kinds, dtype=torch.int64), list(types))


def _translated_names(path: Path, num_entities: int) -> dict[int, list[str]] | None:
    if not path.is_file():
        return None
    try:
        entries = json.loads(read_bytes(path, "[[id, [word, ...]], ...]"))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is no valid JSON ({error}); it should be [[id, [word, ...]], ...]") from None
    if not isinstance(entries, list):
        raise DataError(
            f"{path} holds a JSON {type(entries).__name__}; it should be [[id, [word, ...]], ...]"
        )
    words: dict[int, list[str]] = {}
    for position, entry in enumerate(entries, start=1):
        match entry:
            case [int(entity), [*own]] if 0 <= entity < num_entities and all(
                isinstance(word, str) for word in own
            ):
                words[entity] = own
            case _:
                raise DataError(
                    f"{path}, entry {position}: {shorten(str(entry))} is no [id, [word, ...]] "
                    f"with an id below {num_entities:,}; correct the entry"
                )
    return words


def _has_image(directory: Path, side: np.ndarray) -> torch.Tensor | None:
    paths = [directory / f"has_image_{graph}" for graph in (1, 2)]
    if not any(path.is_file() for path in paths):
        return None
    mask = np.zeros(len(side), dtype=bool)
    for graph, path in enumerate(paths, start=1):
        if path.is_file():
            ids = read_integers(path, 1, "entity id")[:, 0]
            check_membership(path, ids, side, graph, f"ent_ids_{graph}")
            mask[ids] = True
    return torch.from_numpy(mask)


def write_dbp15k(pair: AlignmentPair, directory: Path) -> list[str]:
    """Writes a pair in this layout; features are written elsewhere.

    Args:
        pair: what to write.
        directory: an existing directory.

    Returns:
        What this layout cannot hold: nothing.

    Raises:
        DataError: a uri or attribute type holds a tab or a line feed.
    """
    for name in {
        *pair.uris,
        *(pair.attributes.types if pair.attributes else ()),
        *(pair.relation_names or ()),
    }:
        if "\t" in name or "\n" in name or "\r" in name:
            raise DataError(f"{shorten(name)} holds a tab or line break, which this layout cannot; rename it")
    triples = (pair.triples[: pair.num_left_triples], pair.triples[pair.num_left_triples :])
    for graph, entities in enumerate((pair.left_entities, pair.right_entities), start=1):
        write_lines(
            directory / f"ent_ids_{graph}", (f"{entity}\t{pair.uris[entity]}" for entity in entities.tolist())
        )
        _write_table(directory / f"triples_{graph}", triples[graph - 1])
        if pair.relation_names is not None and len(triples[graph - 1]):
            used = triples[graph - 1][:, 1].unique().tolist()
            write_lines(directory / f"rel_ids_{graph}", (f"{r}\t{pair.relation_names[r]}" for r in used))
        if pair.attributes is not None and (lines := _attribute_lines(pair, pair.attributes, entities)):
            write_lines(directory / f"training_attrs_{graph}", lines)
        if pair.has_image is not None:
            own = entities[pair.has_image[entities]]
            if len(own):
                _write_table(directory / f"has_image_{graph}", own[:, None])
    _write_table(directory / "ill_ent_ids", pair.links)
    if pair.official_split is not None:
        split = pair.official_split
        for name, part in zip(_SPLIT_FILES, (split.train, split.valid, split.test), strict=True):
            if len(part):
                _write_table(directory / name, part)
    if pair.words is not None:
        text = json.dumps([[entity, own] for entity, own in pair.words.items()])
        (directory / "translated_names.json").write_text(text, encoding="utf-8")
    return []


def _attribute_lines(pair: AlignmentPair, attributes: AttributeTable, entities: torch.Tensor) -> list[str]:
    """A line an entity, in the order of the table: the order decides ties between types in the attribute bag."""
    keep = torch.isin(attributes.entity, entities)
    own: dict[int, list[str]] = {}
    for entity, kind in zip(attributes.entity[keep].tolist(), attributes.kind[keep].tolist(), strict=True):
        own.setdefault(entity, []).append(attributes.types[kind])
    return ["\t".join([pair.uris[entity], *kinds]) for entity, kinds in own.items()]


def _write_table(path: Path, rows: torch.Tensor) -> None:
    write_lines(path, ("\t".join(map(str, row)) for row in rows.tolist()))


register_format(
    Format(
        "dbp15k",
        ("ent_ids_1", "ent_ids_2", "triples_1", "triples_2", "ill_ent_ids"),
        read_dbp15k,
        write_dbp15k,
    )
)
