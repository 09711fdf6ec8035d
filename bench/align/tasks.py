"""Data sets as files that a user has: two graphs, a table of known pairs, and one of the pairs to find."""

from __future__ import annotations

import csv
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import torch

from loginmea_fast import data
from loginmea_fast.data import AlignmentPair

__all__ = ["TASKS", "Task"]

DATA = Path(os.environ.get("LOGINMEA_DATA") or Path(__file__).resolve().parents[3] / "shared" / "data")
_LABEL = "http://www.w3.org/2000/01/rdf-schema#label"


@dataclass(frozen=True)
class Task:
    """What is exported, and the flags of the command.

    Attributes:
        title: what is aligned, for people.
        export: writes left, right, seeds.tsv (where pairs are known) and gold.tsv into a folder, and dangling.tsv where
            it is known which entities of the left graph have no counterpart.
        suffix: of the two graphs.
        flags: beside the files.
    """

    title: str
    export: Callable[[Path], None]
    suffix: str
    flags: tuple[str, ...] = ()


def _dbp15k(folder: Path) -> None:
    """DBP15K fr_en: uris, names as rdfs:label, attribute types; 500 of the 15,000 links are known."""
    pair = data.load(DATA / "dbp15k" / "fr_en", modalities="relation")
    _ntriples(pair, folder)
    _links(pair, folder, 500)


def _twice(folder: Path) -> None:
    """The same with a right graph of half the linked entities: the counterparts of the others are taken out of it."""
    pair = data.load(DATA / "dbp15k" / "fr_en", modalities="relation")
    order = torch.randperm(len(pair.links), generator=torch.Generator().manual_seed(1))
    linked = pair.links[order[: len(order) // 2]]
    alone = pair.links[order[len(order) // 2 :]]
    lost = set(alone[:, 1].tolist())
    # What has no link may have a counterpart that nobody noted down: it is taken out of both graphs.
    unlinked = set(range(pair.num_entities)) - set(pair.links.flatten().tolist())
    _ntriples(pair, folder, lost | unlinked)
    _links(pair, folder, 500, linked)
    _table(folder / "dangling.tsv", ([_iri(pair.uris[entity])] for entity in alone[:, 0].tolist()))


def _mmkb(folder: Path) -> None:
    """FB15K-DB15K with values of attributes, as CSV; 2,500 of the 12,846 links are known."""
    directory = DATA / "mmkb" / "FB15K_DB15K"
    pair = data.load(directory, modalities="relation")
    right = set(pair.right_entities.tolist())
    for number, side in enumerate(("left", "right")):
        (folder / side).mkdir()
        rows = (row for row in pair.triples.tolist() if (row[0] in right) == bool(number))
        # FB15K and DB15K name their relations apart; a number may mean another in each.
        triples = ([pair.uris[h], f"{side}/{r}", pair.uris[t]] for h, r, t in rows)
        _csv(folder / side / "triples.csv", ["head", "relation", "tail"], triples)
        lines = (directory / f"attr_triples_{number + 1}").read_text(encoding="utf-8").splitlines()
        values = (line.split("\t", 2) for line in lines)
        _csv(folder / side / "attributes.csv", ["entity", "attribute", "value"], values)
    _links(pair, folder, 2500, spelt=str)


def _embedded(folder: Path) -> None:
    """The pair inside the package, no pair known."""
    pair = data.load_embedded()
    _ntriples(pair, folder)
    _links(pair, folder, 0)


def _embedded_known(folder: Path) -> None:
    """The same; 100 of its 1,133 links are known."""
    pair = data.load_embedded()
    _ntriples(pair, folder)
    _links(pair, folder, 100)


def _ntriples(pair: AlignmentPair, folder: Path, without: Iterable[int] = ()) -> None:
    right, gone = set(pair.right_entities.tolist()), set(without)
    names = pair.relation_names or [f"relation/{number}" for number in range(pair.num_relations)]
    relation = [name if "://" in name else f"http://example.org/{name}" for name in names]
    iri = [_iri(uri) for uri in pair.uris]
    for number, side in enumerate(("left", "right")):
        mine = [entity for entity in (pair.right_entities if number else pair.left_entities).tolist()]
        kept = {entity for entity in mine if entity not in gone}
        with (folder / f"{side}.nt").open("w", encoding="utf-8") as file:
            for h, r, t in pair.triples.tolist():
                if (h in right) == bool(number) and h in kept and t in kept:
                    file.write(f"<{iri[h]}> <{_escaped(relation[r])}> <{iri[t]}> .\n")
            for entity in kept:
                text = pair.names[entity].replace("\\", "\\\\").replace('"', '\\"')
                file.write(f'<{iri[entity]}> <{_LABEL}> "{text}" .\n')
            if pair.attributes is not None:
                table = pair.attributes
                for entity, kind in zip(table.entity.tolist(), table.kind.tolist(), strict=True):
                    if entity in kept:
                        name = table.types[kind]
                        name = name if "://" in name else f"http://example.org/{name}"
                        file.write(f'<{iri[entity]}> <{_escaped(name)}> "" .\n')


def _iri(uri: str) -> str:
    return _escaped(uri if "://" in uri else f"http://example.org/{uri}")


def _escaped(iri: str) -> str:
    return "".join(c if c > " " and c not in '<>"{}|^`\\' else f"%{ord(c):02X}" for c in iri.strip("<>"))


def _links(
    pair: AlignmentPair,
    folder: Path,
    known: int,
    links: torch.Tensor | None = None,
    spelt: Callable[[str], str] | None = None,
) -> None:
    spelt = spelt or _iri
    links = pair.links if links is None else links
    order = torch.randperm(len(links), generator=torch.Generator().manual_seed(0))
    rows = [[spelt(pair.uris[a]), spelt(pair.uris[b])] for a, b in links[order].tolist()]
    if known:
        _table(folder / "seeds.tsv", [["left", "right"], *rows[:known]])
    _table(folder / "gold.tsv", rows[known:])


def _table(path: Path, rows: Iterable[list[str]]) -> None:
    path.write_text("".join("\t".join(row) + "\n" for row in rows), encoding="utf-8")


def _csv(path: Path, header: list[str], rows: Iterable[list[str]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)


TASKS = {
    "fr_en": Task("DBP15K fr_en, N-Triples, 500 known pairs", _dbp15k, ".nt"),
    "fr_en-without-names": Task(
        "DBP15K fr_en, the same without names", _dbp15k, ".nt", ("--modalities", "relation,attribute")
    ),
    "fb15k_db15k": Task("FB15K-DB15K with values, CSV, 2,500 known pairs", _mmkb, ""),
    "embedded-no-seeds": Task("embedded pair, N-Triples, no pair known", _embedded, ".nt"),
    "embedded": Task("embedded pair, N-Triples, 100 known pairs", _embedded_known, ".nt"),
    "fr_en-twice": Task("DBP15K fr_en, the same, half of the left graph without counterpart", _twice, ".nt"),
}
