"""The layout of DBP15K, which MMKB and ContEA also come in: numbered entities, one file a kind of fact.

``ent_ids_1/2``: id TAB uri; ``triples_1/2``: head TAB relation TAB tail; ``ill_ent_ids``: left TAB right, all links.
Optional: ``training_attrs_1/2``: uri TAB attribute type...; ``attr_triples_1/2``: uri TAB attribute TAB value;
``rel_ids_1/2``: id TAB name; ``translated_names.json``: [[id, [word, ...]], ...]; ``has_image_1/2``: ids;
``sup/dev/ref_ent_ids``: an official split, which may stand for ``ill_ent_ids``.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from loginmea_fast.data.attribute_rows import value_lines
from loginmea_fast.data.attributes import Attributes
from loginmea_fast.data.directory import DataDirectory
from loginmea_fast.data.formats import Format, ReadOptions, register_format
from loginmea_fast.data.identifiers import Listed, Respelled, by_identifier, plain_spelling
from loginmea_fast.data.linkfiles import PART_FILES, part_files, read_identifier_pairs, read_links
from loginmea_fast.data.namefiles import NAMES_FILE, read_translated_names
from loginmea_fast.data.names import display_name
from loginmea_fast.data.pair import AlignmentPair
from loginmea_fast.data.tables import AttributeTable
from loginmea_fast.data.textfile import (
    UNWRITABLE,
    read_field_blocks,
    read_fields,
    read_integers,
    shorten,
    write_lines,
)
from loginmea_fast.errors import DataError

__all__ = ["read_dbp15k", "write_dbp15k"]

_LINKS = "ill_ent_ids"
_SPLIT_FILES = ("sup_ent_ids", "dev_ent_ids", "ref_ent_ids")


def read_dbp15k(directory: Path, options: ReadOptions) -> AlignmentPair:
    """Reads a directory of this layout; features are built elsewhere.

    Args:
        directory: where the files are.
        options: how much repetition among the links is tolerated, which attributes are names.

    Returns:
        The pair, without features.

    Raises:
        DataError: names the file, the line and the remedy.
    """
    files = DataDirectory(directory)
    notes = files.notes
    lists = [_EntityList.read(files.need(f"ent_ids_{graph}"), graph) for graph in (1, 2)]
    numbering = _number(lists, notes)
    num_entities = len(lists[0].file_ids) + len(lists[1].file_ids)
    uris = [""] * num_entities
    respelled = Respelled()
    listed = []
    for own in lists:
        for uri, entity in zip(own.uris, own.ids.tolist(), strict=True):
            uris[entity] = uri
        listed.append(Listed(by_identifier(own.uris, own.ids.tolist()), own.path.name, respelled))
        listed[-1].note_twins()
    names = [display_name(uri) for uri in uris]
    triples = _triples(files, lists)
    relation_names, num_relations = _relations(files, lists, triples, notes)
    parts = {part: files.need(name) for part, name in part_files(files).items()}
    whole = files.find(_LINKS)
    links, split = read_links(
        files.need(_LINKS) if whole is None and not parts else whole,
        parts,
        lambda path: _read_pairs(path, lists, listed),
        tolerated=options.max_repeated_links,
        show=uris,
        missing=_LINKS,
        notes=notes,
    )
    attributes = _attributes(files, lists, listed, options)
    words = None
    if path := files.find(NAMES_FILE):
        words = read_translated_names(path, _by_file_id(lists), listed, notes)
    if attributes.names:
        words = (words or {}) | {entity: name.split() for entity, name in attributes.names.items()}
        for entity, name in attributes.names.items():
            names[entity] = name
    has_image = _has_image(files, lists, num_entities)
    file_ids = np.empty(num_entities, dtype=np.int64)
    for own in lists:
        file_ids[own.ids] = own.file_ids
    return AlignmentPair(
        name="/".join(directory.resolve().parts[-2:]),
        uris=uris,
        names=names,
        left_entities=torch.from_numpy(lists[0].ids),
        right_entities=torch.from_numpy(lists[1].ids),
        triples=torch.from_numpy(np.concatenate(triples)),
        num_left_triples=len(triples[0]),
        num_relations=num_relations,
        links=torch.from_numpy(links),
        official_split=split,
        relation_names=relation_names,
        attributes=attributes.table(),
        words=words,
        has_image=has_image,
        file_ids=None if np.array_equal(file_ids, np.arange(num_entities)) else torch.from_numpy(file_ids),
        numbering=numbering,
        notes=(*notes, *respelled.notes(), *files.unread()),
    )


@dataclass
class _EntityList:
    """The entities of one graph as its list gives them, in file order.

    Attributes:
        path: the list.
        graph: 1 or 2.
        file_ids: int64, what the files call them; distinct.
        uris: their identifiers.
        ids: int64, what we call them.
        order: int64, positions in the order of the file ids.
    """

    path: Path
    graph: int
    file_ids: np.ndarray
    uris: list[str]
    ids: np.ndarray
    order: np.ndarray

    @classmethod
    def read(cls, path: Path, graph: int) -> _EntityList:
        file_ids: list[int] = []
        uris: list[str] = []
        for block in read_field_blocks(path, 2, 2, "id, uri"):
            tokens = [token.strip() for token in block.strings(block.first)]
            for number, token in enumerate(tokens, start=block.line):
                if not (token.isascii() and token.isdigit() and len(token) <= 18):
                    kind = "a negative id" if token.startswith("-") and token[1:].isdigit() else "no id"
                    raise DataError(
                        f"{path}, line {number}: {shorten(token)} is {kind}; ids are integers from 0"
                    )
            file_ids += map(int, tokens)
            uris += block.strings(block.first + 1)
        ids = np.array(file_ids, dtype=np.int64)
        order = ids.argsort(kind="stable")
        again = np.flatnonzero(np.diff(ids[order]) == 0)
        if len(again):
            line = int(order[again + 1].min())
            earlier = file_ids.index(file_ids[line])
            raise DataError(
                f"{path}, line {line + 1}: entity id {file_ids[line]} stands already on line {earlier + 1}; "
                "give every entity an id of its own"
            )
        if len(set(uris)) < len(uris):
            first: dict[str, int] = {}
            for line, uri in enumerate(uris, start=1):
                if (earlier := first.setdefault(uri, line)) != line:
                    raise DataError(
                        f"{path}, line {line}: entity {shorten(uri)} stands already on line {earlier}, there with the "
                        f"id {file_ids[earlier - 1]}, here with {file_ids[line - 1]}; what says something of it by "
                        "its identifier could mean either: keep one of the two lines, and its id in all other files"
                    )
        return cls(path, graph, ids, uris, ids, order)

    def find(self, column: np.ndarray) -> np.ndarray:
        """Our ids of the files' ids, -1 for those that this graph does not have."""
        known = self.file_ids[self.order]
        if known[-1] < 4 * len(known) + 1000:
            table = np.full(known[-1] + 2, -1, dtype=np.int64)
            table[self.file_ids] = self.ids
            return table[np.minimum(column, known[-1] + 1)]
        place = np.searchsorted(known, column)
        place[place == len(known)] = 0
        return np.where(known[place] == column, self.ids[self.order][place], -1)


def _number(lists: list[_EntityList], notes: list[str]) -> str | None:
    """Gives the entities of both graphs ids from 0 to N - 1: those of the files, or how else they are counted."""
    left, right = lists
    both = np.concatenate([left.file_ids, right.file_ids])
    count = len(both)
    shared = len(np.intersect1d(left.file_ids, right.file_ids, assume_unique=True))
    if shared:
        for own, offset in ((left, 0), (right, len(left.ids))):
            own.ids = np.empty(len(own.file_ids), dtype=np.int64)
            own.ids[own.order] = np.arange(offset, offset + len(own.file_ids))
        notes.append(
            f"{shared:,} ids stand in {left.path.name} and in {right.path.name}; each graph has ids of its own, "
            f"renumbered 0 to {count - 1:,}, graph 2 after graph 1"
        )
        return (
            "both graphs count from the same ids, so they stand in the order of these, graph 2 after graph 1"
        )
    if both.max() != count - 1:
        ids = np.empty(count, dtype=np.int64)
        ids[both.argsort()] = np.arange(count)
        left.ids, right.ids = np.split(ids, [len(left.file_ids)])
        notes.append(
            f"entity ids run from {both.min()} to {both.max()} for {count:,} entities; renumbered 0 to {count - 1:,} "
            "in their order"
        )
        return "the ids of the files are not 0 to N - 1, so entities stand in the order of these"
    return None


def _own_ids(path: Path, column: np.ndarray, lists: list[_EntityList], graph: int) -> np.ndarray:
    """Our ids of a column of file ids, line n = position n - 1; all must be entities of that graph."""
    own, other = lists[graph - 1], lists[2 - graph]
    ids = own.find(column)
    if (ids >= 0).all():
        return ids
    wrong = ids < 0
    position = int(wrong.argmax())
    entity = int(column[position])
    elsewhere = other.find(column[wrong]) >= 0
    count = len(own.file_ids) + len(other.file_ids)
    if elsewhere[0]:
        why = f"belongs to graph {other.graph}, not to graph {graph}"
    elif entity > max(own.file_ids.max(), other.file_ids.max()):
        why = f"is beyond the entity list, which has {count:,} entities"
    else:
        why = f"stands in neither of the lists of the {count:,} entities"
    remedy = f"add it to {own.path.name} or correct the line"
    if wrong.all() and elsewhere.all():
        remedy = f"all of its {len(column):,} lines are such: the graphs or columns may be swapped"
    raise DataError(f"{path}, line {position + 1}: entity {entity} {why}; {remedy}")


def _by_file_id(lists: list[_EntityList]) -> Callable[[int], int]:
    """What gives our id of an id of the files, of whichever graph."""
    left: dict[int, int]
    right: dict[int, int]
    left, right = (dict(zip(part.file_ids.tolist(), part.ids.tolist(), strict=True)) for part in lists)

    def entity_of(file_id: int) -> int:
        if file_id in left and file_id in right:
            raise ValueError("is an id of both graphs; name the entity by its identifier")
        found = left.get(file_id, right.get(file_id, -1))
        if found < 0:
            last = max(int(part.file_ids.max()) for part in lists)
            raise ValueError(
                f"is no id of the {len(left) + len(right):,} entities, which are below {last + 1:,}"
            )
        return found

    return entity_of


def _triples(files: DataDirectory, lists: list[_EntityList]) -> list[np.ndarray]:
    paths = [files.find(f"triples_{graph}") for graph in (1, 2)]
    if paths == [None, None]:
        files.notes.append("triples_1 and triples_2 are not there: the graphs have attributes alone")
        return [np.empty((0, 3), dtype=np.int64)] * 2
    tables = []
    for graph, path in enumerate(paths, start=1):
        if path is None:
            raise DataError(
                f"{files.path / f'triples_{graph}'} is missing, it should hold lines of head, relation, tail; put it "
                f"there, or take triples_{3 - graph} away too to align by attributes alone"
            )
        table = read_integers(path, 3, "head, relation, tail")
        for column in (0, 2):
            table[:, column] = _own_ids(path, table[:, column], lists, graph)
        tables.append(table)
    return tables


def _relations(
    files: DataDirectory, lists: list[_EntityList], triples: list[np.ndarray], notes: list[str]
) -> tuple[list[str] | None, int]:
    """Names of relations and how many there are; triples are renumbered in place where ids clash or run far up."""
    left, right = (_relation_names(files.find(f"rel_ids_{graph}")) for graph in (1, 2))
    total = sum(len(part) for part in triples)
    end = 1 + max([int(triples[0][:, 1].max(initial=-1)), *left])
    if why := _counted_apart(lists, triples, left, right):
        triples[1][:, 1] += end
        right = {relation + end: name for relation, name in right.items()}
        notes.append(f"{why}; those of graph 2 are renumbered after graph 1's, from {end:,}")
    count = 1 + max(int(part[:, 1].max(initial=-1)) for part in triples)
    file_ids = np.arange(min(count, 10 * total + 1000))
    if count > len(file_ids):  # a table of that height would be mostly rows that no triple has
        file_ids = np.unique(np.concatenate([part[:, 1] for part in triples]))
        for part in triples:
            part[:, 1] = np.searchsorted(file_ids, part[:, 1])
        notes.append(
            f"relation ids run up to {count - 1}; renumbered 0 to {len(file_ids) - 1:,} in their order"
        )
    named = left | right
    return (
        [named.get(relation, f"relation {relation}") for relation in file_ids.tolist()] if named else None
    ), len(file_ids)


def _counted_apart(
    lists: list[_EntityList], triples: list[np.ndarray], left: dict[int, str], right: dict[int, str]
) -> str | None:
    """Why a relation id of one graph is not that of the other, or None."""
    for relation in sorted(left.keys() & right.keys()):
        names = left[relation], right[relation]
        if plain_spelling(names[0]) != plain_spelling(names[1]):
            return (
                f"relation {relation} is {shorten(names[0])} in rel_ids_1 and {shorten(names[1])} in rel_ids_2, so "
                "each graph has relation ids of its own"
            )
    shared = np.intersect1d(triples[0][:, 1], triples[1][:, 1])
    entities_too = np.isin(lists[0].file_ids, lists[1].file_ids).any()
    if entities_too and len(shared) and not (left.keys() & right.keys()).issuperset(shared.tolist()):
        return (
            f"{len(shared):,} relation ids stand in triples_1 and in triples_2, and as the graphs count their entities "
            "apart so do they their relations"
        )
    return None


def _relation_names(path: Path | None) -> dict[int, str]:
    named: dict[int, str] = {}
    if path is None:
        return named
    for number, (token, name) in read_fields(path, 2, 2, "id, relation"):
        if not (token.isascii() and token.isdigit() and len(token) <= 18):
            raise DataError(f"{path}, line {number}: {shorten(token)} is no id; ids are integers from 0")
        if named.setdefault(int(token), name) != name:
            raise DataError(
                f"{path}, line {number}: relation {token} is {shorten(named[int(token)])} on an earlier line; "
                "give every relation an id of its own"
            )
    return named


def _read_pairs(path: Path, lists: list[_EntityList], listed: list[Listed]) -> np.ndarray:
    """Links by id or, as some files of splits have them, by identifier: int64 [lines, 2] of our ids."""
    meaning = "left entity, right entity"
    try:
        _, first = next(read_fields(path, 1, None, meaning))
        by_identifier = len(first) == 2 and not "".join(first).replace(" ", "").isdigit()
    except DataError:
        by_identifier = False
    if by_identifier:
        return read_identifier_pairs(path, listed)
    table = read_integers(path, 2, meaning)
    return np.stack([_own_ids(path, table[:, graph - 1], lists, graph) for graph in (1, 2)], axis=1)


def _attributes(
    files: DataDirectory, lists: list[_EntityList], listed: list[Listed], options: ReadOptions
) -> Attributes:
    attributes = Attributes(options.name_attributes, files.notes)
    values = [f"attr_triples_{graph}" for graph in (1, 2)]
    types = [files.find(f"training_attrs_{graph}") for graph in (1, 2)]
    for own, path, name in zip(listed, types, values, strict=True):

        def match(
            said: list[str], own: Listed = own, file: str = (path.name if path else name)
        ) -> np.ndarray:
            return own.match(said, file)

        if path is not None:
            attributes.read_types(path, match, own.where)
        source = files.find(name)  # its values are a modality, which is made elsewhere
        if source is not None and (path is None or options.name_attributes):
            attributes.read_triples(source, match, own.where, types=path is None)
    attributes.check_names([own.ids for own in lists])
    return attributes


def _has_image(files: DataDirectory, lists: list[_EntityList], num_entities: int) -> torch.Tensor | None:
    paths = [files.find(f"has_image_{graph}") for graph in (1, 2)]
    if paths == [None, None]:
        return None
    mask = np.zeros(num_entities, dtype=bool)
    for graph, path in enumerate(paths, start=1):
        if path is None:
            files.notes.append(
                f"has_image_{graph} is not there: no entity of graph {graph} counts as one with an image of its own"
            )
        else:
            mask[_own_ids(path, read_integers(path, 1, "entity id")[:, 0], lists, graph)] = True
    return torch.from_numpy(mask)


def write_dbp15k(pair: AlignmentPair, directory: Path) -> list[str]:
    """Writes a pair in this layout; features are written elsewhere.

    Args:
        pair: what to write.
        directory: an existing directory.

    Returns:
        What this layout cannot hold: nothing.

    Raises:
        DataError: a uri or attribute type holds a tab, a line feed or a zero.
    """
    for name in {
        *pair.uris,
        *(pair.attributes.types if pair.attributes else ()),
        *(pair.relation_names or ()),
    }:
        if not name or UNWRITABLE.search(name):
            raise DataError(
                f"{shorten(name)} is empty or holds a tab, line break or zero, which this layout cannot; rename it"
            )
    triples = (pair.triples[: pair.num_left_triples], pair.triples[pair.num_left_triples :])
    for graph, (own, other) in enumerate((triples, triples[::-1]), start=1):
        if len(other) and not len(own):
            raise DataError(
                f"graph {graph} has no triples and the other has, which this layout cannot hold; "
                "add triples, or leave those of both out"
            )
    for graph, entities in enumerate((pair.left_entities, pair.right_entities), start=1):
        write_lines(
            directory / f"ent_ids_{graph}", (f"{entity}\t{pair.uris[entity]}" for entity in entities.tolist())
        )
        if len(triples[graph - 1]):
            _write_table(directory / f"triples_{graph}", triples[graph - 1])
        if pair.relation_names is not None and len(triples[graph - 1]):
            used = triples[graph - 1][:, 1].unique().tolist()
            write_lines(directory / f"rel_ids_{graph}", (f"{r}\t{pair.relation_names[r]}" for r in used))
        if pair.attributes is not None and (lines := _attribute_lines(pair, pair.attributes, entities)):
            write_lines(directory / f"training_attrs_{graph}", lines)
        if pair.values is not None and (lines := value_lines(pair.values, entities, pair.uris)):
            write_lines(directory / f"attr_triples_{graph}", lines)
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
        (
            "ent_ids_1",
            "ent_ids_2",
            ("triples_1", "training_attrs_1", "attr_triples_1"),
            ("triples_2", "training_attrs_2", "attr_triples_2"),
            (_LINKS, *PART_FILES),
        ),
        read_dbp15k,
        write_dbp15k,
    )
)
