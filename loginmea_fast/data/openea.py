"""The layout of OpenEA's benchmarks: entities by URI, prepared splits.

``rel_triples_1/2``: head TAB relation TAB tail; ``attr_triples_1/2``: entity TAB attribute TAB value; ``ent_links``:
left TAB right; ``721_5fold/<k>/{train,valid,test}_links``: five official splits, one of which may lie beside the other
files instead; ``translated_names.json``: [[uri, [word, ...]], ...]. Ids are given in order of first appearance:
relation triples, attribute triples; graph 1 first. A relation that both graphs name is two relations, as in DBP15K.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch

from loginmea_fast.data.attribute_rows import attribute_rows, one_line
from loginmea_fast.data.attributes import Attributes
from loginmea_fast.data.directory import DataDirectory
from loginmea_fast.data.filekind import is_clutter
from loginmea_fast.data.formats import Format, ReadOptions, register_format
from loginmea_fast.data.identifiers import NONE, Listed, Respelled, plain_spelling
from loginmea_fast.data.linkfiles import PART_FILES, part_files, read_identifier_pairs, read_links
from loginmea_fast.data.namefiles import NAMES_FILE, read_translated_names
from loginmea_fast.data.names import display_name
from loginmea_fast.data.pair import AlignmentPair
from loginmea_fast.data.textfile import UNWRITABLE, Symbols, read_field_blocks, shorten, some_of, write_lines
from loginmea_fast.errors import DataError

__all__ = ["read_openea", "write_openea"]

_FOLDS = "721_5fold"
_PARTS = ("train_links", "valid_links", "test_links")
_LINKS = "ent_links"
# Blocks of triples whose entities are numbered at once: most entities stand in every block, and each is then looked up
# once for all of them.
_TOGETHER = 16


def read_openea(directory: Path, options: ReadOptions) -> AlignmentPair:
    """Reads a directory of this layout; features are built elsewhere.

    Args:
        directory: where the files are.
        options: which fold is the official split, how much repetition among the links is tolerated, which attributes
            are names.

    Returns:
        The pair, without features; attribute values are not kept.

    Raises:
        DataError: names the file, the line and the remedy.
    """
    files = DataDirectory(directory)
    respelled = Respelled()
    attributes = Attributes(options.name_attributes, files.notes)
    graphs: list[_Graph] = []
    for graph in (1, 2):
        offset = graphs[0].end if graphs else 0
        graphs.append(_Graph(files, graph, offset, attributes, respelled))
    left, right = graphs
    if left.path is None and right.path is None:
        files.notes.append("rel_triples_1 and rel_triples_2 are not there: the graphs have attributes alone")
    sides = [own.listed(respelled) for own in graphs]
    uris = [*left.entities.ids, *right.entities.ids]
    folder = _official_split(files, options.fold)
    parts = {part: folder.need(name) for part, name in part_files(folder).items()} if folder else {}
    whole = files.find(_LINKS)
    links, split = read_links(
        files.need(_LINKS) if whole is None and not parts else whole,
        parts,
        lambda path: read_identifier_pairs(path, sides),
        tolerated=options.max_repeated_links,
        show=uris,
        missing=_LINKS,
        notes=files.notes,
    )
    for column, own in enumerate(graphs):
        own.check_attributes(links[:, column])
    attributes.check_names([np.arange(own.offset, own.end) for own in graphs])
    words = None
    if path := files.find(NAMES_FILE):
        words = read_translated_names(path, None, sides, files.notes)
    names = [display_name(uri) for uri in uris]
    if attributes.names:
        words = (words or {}) | {entity: name.split() for entity, name in attributes.names.items()}
        for entity, name in attributes.names.items():
            names[entity] = name
    right.triples[:, 1] += len(left.relations)
    if folder is not None and folder is not files:
        files.notes += [*folder.notes, *folder.unread()]
    return AlignmentPair(
        name=directory.resolve().name,
        uris=uris,
        names=names,
        left_entities=torch.arange(left.end),
        right_entities=torch.arange(left.end, right.end),
        triples=torch.from_numpy(np.concatenate([left.triples, right.triples])),
        num_left_triples=len(left.triples),
        num_relations=len(left.relations) + len(right.relations),
        links=torch.from_numpy(links),
        official_split=split,
        relation_names=[*left.relations.ids, *right.relations.ids],
        attributes=attributes.table(),
        words=words,
        numbering="the files give entities no ids, so they count as they first appear in the files of triples",
        notes=(*files.notes, *respelled.notes(), *files.unread()),
    )


class _Graph:
    """One graph while it is read; its relation triples list its entities, attribute triples may add to them.

    Attributes:
        path: its relation triples, or None where it has attributes alone.
        offset: id of its first entity.
        entities: number within the graph by uri.
        relations: number within the graph by uri.
        triples: int64 [T, 3], entities by id, relations numbered within the graph.
    """

    def __init__(
        self, files: DataDirectory, graph: int, offset: int, attributes: Attributes, respelled: Respelled
    ) -> None:
        self.offset = offset
        self.entities, self.relations = Symbols(), Symbols()
        self.triples = np.empty((0, 3), dtype=np.int64)
        self.path = files.find(f"rel_triples_{graph}")
        other = files.find(f"rel_triples_{3 - graph}")
        self.source = files.find(f"attr_triples_{graph}")
        if self.path is not None or other is not None or self.source is None:
            self.path = files.need(f"rel_triples_{graph}")
            self._read_triples(self.path)
        self.num_listed = len(self.entities)
        self.num_found = 0
        if self.source is not None:
            self._listed = Listed(self._ids(), f"rel_triples_{graph}", respelled)
            attributes.read_triples(self.source, self._match, self.source.name, types=True)
            added = len(self.entities) - self.num_listed
            if self.num_listed and added:
                first = shorten(list(self.entities.ids)[self.num_listed])
                files.notes.append(
                    f"{self.source.name}: {added:,} of its {added + self.num_found:,} entities are in no relation "
                    f"triple and stand for themselves (first: {first})"
                )

    @property
    def end(self) -> int:
        """One more than the id of the last entity."""
        return self.offset + len(self.entities)

    def listed(self, respelled: Respelled) -> Listed:
        """All entities by uri."""
        listed = Listed(self._ids(), (self.path or self.source or Path()).name, respelled)
        listed.note_twins()
        return listed

    def check_attributes(self, linked: np.ndarray) -> None:
        """Attributes that meet the rest of the graph nowhere are those of another spelling, or of another graph."""
        alone = self.source is not None and self.num_listed and not self.num_found
        if alone and not (linked >= self.offset + self.num_listed).any():
            assert self.path is not None
            texts = list(self.entities.ids)
            raise DataError(
                f"{self.source}: none of its {len(texts) - self.num_listed:,} entities is linked or in "
                f"{self.path.name}, the first is {shorten(texts[self.num_listed])}, there it is "
                f"{shorten(texts[0])}; spell them alike, or take the file away"
            )

    def _ids(self) -> dict[str, int]:
        return {uri: self.offset + number for uri, number in self.entities.ids.items()}

    def _read_triples(self, path: Path) -> None:
        ends, numbers, relations = [], [], []
        for block in read_field_blocks(path, 3, 3, "head, relation, tail"):
            ends.append(block.take(block.first[:, None] + (0, 2)))
            relations.append(self.relations.number(block.take(block.first + 1)))
            if len(ends) == _TOGETHER:
                numbers.append(self.entities.number(*ends))
                ends = []
        if ends:
            numbers.append(self.entities.number(*ends))
        self.triples = np.empty((sum(map(len, relations)), 3), dtype=np.int64)
        np.concatenate(relations, out=self.triples[:, 1])
        self.triples[:, ::2] = np.concatenate(numbers).reshape(-1, 2) + self.offset

    def _match(self, said: list[str]) -> np.ndarray:
        """Ids of identifiers in the attribute triples; those that no relation triple has become entities."""
        assert self.source is not None
        ids = self._listed.match(said, self.source.name)
        self.num_found += int((ids >= 0).sum())
        for position in np.flatnonzero(ids == NONE).tolist():
            ids[position] = self.end
            self.entities.ids[said[position]] = len(self.entities)
        return ids


def _official_split(files: DataDirectory, fold: int) -> DataDirectory | None:
    """Where the official split lies: the fold asked for of a folder of folds, or beside the other files."""
    beside = [name for name in files.names() if name in PART_FILES]
    folders = [
        name for name in files.names() if any(_holds_parts(sub) for sub in _folders(files.path / name))
    ]
    if not folders:
        _refuse_fold(files.path, fold)
        return files if beside else None
    chosen = _FOLDS if _FOLDS in folders else folders[0]
    files.find(chosen)
    for name in (*folders, *beside):
        files.skip(name, f"the official split is {chosen}'s")
    path = files.path / chosen
    if not _holds_parts(path):
        there = [entry.name for entry in _folders(path)[1:]]
        if str(fold) not in there:
            raise DataError(f"{path} has no fold {fold}; choose one of: {some_of(there, 10)}")
        path /= str(fold)
    else:
        _refuse_fold(path, fold)
    return DataDirectory(path)


def _refuse_fold(path: Path, fold: int) -> None:
    if fold != 1:
        raise DataError(f"fold={fold}, but {path} has no folds to choose from; leave fold out")


def _folders(path: Path) -> list[Path]:
    """A folder and those inside it, by number and name; nothing if it is none."""
    if not path.is_dir():
        return []
    inside = [entry for entry in path.iterdir() if entry.is_dir() and not is_clutter(entry.name)]
    return [path, *sorted(inside, key=lambda entry: (len(entry.name), entry.name))]


def _holds_parts(path: Path) -> bool:
    return any(name in PART_FILES for name in DataDirectory(path).names())


def write_openea(pair: AlignmentPair, directory: Path) -> list[str]:
    """Writes a pair in this layout; features are written elsewhere.

    Args:
        pair: what to write.
        directory: an existing directory.

    Returns:
        What this layout cannot hold, one sentence each.

    Raises:
        DataError: a name holds a tab, line break or zero, or an entity has neither
            triple nor attribute nor link, so that no file would mention it.
    """
    relation_names = pair.relation_names or [f"relation_{relation}" for relation in range(pair.num_relations)]
    _check_writable(pair, relation_names)
    sides = (pair.left_entities, pair.right_entities)
    triples = (pair.triples[: pair.num_left_triples], pair.triples[pair.num_left_triples :])
    if bool(len(triples[0])) != bool(len(triples[1])):
        raise DataError(
            "one graph has no triples and the other has, which this layout cannot hold; add triples, or leave those of "
            "both out"
        )
    for graph, (entities, own) in enumerate(zip(sides, triples, strict=True), start=1):
        facts = (f"{pair.uris[h]}\t{relation_names[r]}\t{pair.uris[t]}" for h, r, t in own.tolist())
        if len(own):
            write_lines(directory / f"rel_triples_{graph}", facts)
        rows = attribute_rows(pair.attributes, pair.values, entities.tolist())
        if lines := [f"{pair.uris[entity]}\t{kind}\t{one_line(value)}" for entity, kind, value in rows]:
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
        # A uri that both graphs have would give its name to either entity.
        own_uris, other_uris = ({pair.uris[entity] for entity in side.tolist()} for side in sides)
        named = [entity for entity in pair.words if pair.uris[entity] not in own_uris & other_uris]
        text = json.dumps([[pair.uris[entity], pair.words[entity]] for entity in named])
        (directory / NAMES_FILE).write_text(text, encoding="utf-8")
        if left_out := len(pair.words) - len(named):
            lost.append(f"names of {left_out:,} entities whose uri both graphs have were left out")
    if pair.has_image is not None:
        lost.append("the list of entities with an image is not part of OpenEA's layout and was left out")
    return lost


def _link_lines(pair: AlignmentPair, links: torch.Tensor) -> Iterable[str]:
    return (f"{pair.uris[left]}\t{pair.uris[right]}" for left, right in links.tolist())


def _check_writable(pair: AlignmentPair, relation_names: list[str]) -> None:
    for name in {*pair.uris, *relation_names, *(pair.attributes.types if pair.attributes else ())}:
        if not name or UNWRITABLE.search(name):
            raise DataError(
                f"{shorten(name)} is empty or holds a tab, line break or zero, which OpenEA's layout cannot; rename it"
            )
    listed = set(pair.triples[:, ::2].reshape(-1).tolist())
    for entities in (pair.left_entities, pair.right_entities):
        # Reading takes what only attributes name for an entity of the triples that is spelt nearly the same.
        own = entities.tolist()
        spellings = {plain_spelling(pair.uris[entity]): entity for entity in own if entity in listed}
        for entity in own:
            other = spellings.get(plain_spelling(pair.uris[entity]))
            if entity not in listed and other is not None:
                raise DataError(
                    f"entities {shorten(pair.uris[entity])} and {shorten(pair.uris[other])} differ by spelling alone, "
                    "and one has no triple that would keep them apart; write format='dbp15k' instead"
                )
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


register_format(
    Format(
        "openea",
        (
            ("rel_triples_1", "attr_triples_1"),
            ("rel_triples_2", "attr_triples_2"),
            (_LINKS, _FOLDS, *PART_FILES),
        ),
        read_openea,
        write_openea,
    )
)
