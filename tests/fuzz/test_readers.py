"""Readers against thousands of damaged copies of real files: a pair whose entities are counted, or one sentence.

`make fuzz` runs 20,000 cases, a fifth of them with each base and a fifth with files of vectors; the suite runs 400.
"""

from __future__ import annotations

import dataclasses
import shutil
import time
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import loginmea_fast.data as data
from loginmea_fast.data.filekind import file_kind, open_file
from loginmea_fast.data.identifiers import plain_spelling
from loginmea_fast.errors import DataError
from tests.data.conftest import OPENEA, TINY
from tests.fuzz.mutations import CASES, DAMAGED, SECONDS, STORED

BASES = ("tiny dbp15k", "tiny openea", "real dbp15k", "real openea")


def _extract(num_links: int) -> data.AlignmentPair:
    """The entities of some links of the embedded pair, with the facts among them, under ids of their own."""
    pair = data.load_embedded([])
    links = pair.links[:num_links]
    sides = links.unbind(1)
    ids = torch.cat(sides)
    new = torch.full((pair.num_entities,), -1)
    new[ids] = torch.arange(len(ids))
    ends = new[pair.triples[:, ::2]]
    kept = (ends >= 0).all(1)
    triples = torch.stack([ends[kept, 0], pair.triples[kept, 1], ends[kept, 1]], 1)
    # An entity without a triple would be none in OpenEA's layout.
    loops = torch.stack([new[ids], torch.zeros_like(ids), new[ids]], 1)
    triples = torch.cat([triples, loops])
    right = triples[:, 0] >= num_links
    table = pair.attributes
    assert table is not None
    owned = new[table.entity] >= 0
    return dataclasses.replace(
        pair,
        uris=[pair.uris[entity] for entity in ids.tolist()],
        names=[pair.names[entity] for entity in ids.tolist()],
        left_entities=torch.arange(num_links),
        right_entities=torch.arange(num_links, 2 * num_links),
        triples=torch.cat([triples[~right], triples[right]]),
        num_left_triples=int((~right).sum()),
        links=new[links],
        official_split=data.Split(new[links[:5]], new[links[5:8]], new[links[8:]]),
        attributes=data.AttributeTable(new[table.entity[owned]], table.kind[owned], table.types),
        words={entity: [pair.names[int(ids[entity])]] for entity in range(0, 2 * num_links, 3)},
    )


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, bytes]]:
    """Name -> the files of a directory, by relative path."""
    root = tmp_path_factory.mktemp("bases")
    real = _extract(30)
    found = {
        "tiny dbp15k": {name: text.encode() for name, text in TINY.items()}
        | {"sup_ent_ids": b"0\t2\n", "ref_ent_ids": b"4\t5\n6\t7\n", "has_image_1": b"0\n4\n"},
        "tiny openea": {name: text.encode() for name, text in OPENEA.items()},
    }
    for layout in ("dbp15k", "openea"):
        directory = root / layout
        data.save(real, directory, layout)
        files = [path for path in directory.rglob("*") if path.is_file()]
        found[f"real {layout}"] = {str(path.relative_to(directory)): path.read_bytes() for path in files}
    return found


def _text(path: Path) -> list[list[str]]:
    """The fields of a file by the plainest code there is."""
    kind = file_kind(path)
    with open_file(path, kind.compression) as stream:
        raw = b"".join(iter(lambda: stream.read(1 << 16), b""))
    text = raw[len(kind.mark) :].decode(kind.encoding)
    text = text.replace("\r", "\n") if kind.carriage_returns else text
    return [line.rstrip("\r").split("\t") for line in text.rstrip("\r\n").split("\n")]


def _count(directory: Path) -> int:
    """How many entities the files name: lines of the lists, or distinct identifiers, respelt ones taken together."""
    if (directory / "ent_ids_1").exists():
        return sum(len(_text(directory / f"ent_ids_{graph}")) for graph in (1, 2))
    total = 0
    for graph in (1, 2):
        path = directory / f"rel_triples_{graph}"
        listed = {fields[column] for fields in _text(path) for column in (0, 2)} if path.exists() else set()
        spelt = {plain_spelling(uri) for uri in listed}
        path = directory / f"attr_triples_{graph}"
        said = {fields[0] for fields in _text(path)} if path.exists() else set()
        total += len(listed) + sum(uri not in listed and plain_spelling(uri) not in spelt for uri in said)
    return total


def _facts(pair: data.AlignmentPair) -> object:
    table = pair.attributes
    return (
        pair.uris,
        pair.triples.tolist(),
        pair.links.tolist(),
        table and (table.entity.tolist(), table.kind.tolist(), table.types),
        pair.words,
        pair.official_split and [part.tolist() for part in vars(pair.official_split).values()],
    )


def _load(directory: Path) -> data.AlignmentPair | None:
    """The pair, or None where one short sentence said what is wrong; any other exception passes through."""
    start = time.process_time()
    pair, said = None, ""
    try:
        pair = data.load(directory, modalities=[])
    except DataError as error:
        said = str(error)
    assert time.process_time() - start < SECONDS
    assert "\n" not in said
    assert len(said.replace(str(directory), "")) < 900
    if pair is None:
        return None
    assert all("\n" not in note and len(note) < 1200 for note in pair.notes)
    pair.describe()
    return pair


@pytest.mark.parametrize("base", BASES)
@pytest.mark.timeout(0)
def test_a_damaged_file(bases, tmp_path_factory, base: str) -> None:
    files = bases[base]

    @settings(max_examples=max(1, CASES // 5), suppress_health_check=list(HealthCheck), database=None)
    @given(st.data())
    def case(draw: st.DataObject) -> None:
        directory = tmp_path_factory.getbasetemp() / f"case {base}"
        shutil.rmtree(directory, ignore_errors=True)
        number = st.integers(0, 1 << 16)
        steps = draw.draw(
            st.lists(
                st.tuples(st.sampled_from(sorted(files)), st.sampled_from(sorted(DAMAGED)), number, number),
                max_size=2,
            )
        )
        stored = draw.draw(st.sampled_from(sorted(STORED)))
        damaged = dict(files)
        for name, mutation, a, b in steps:
            damaged[name] = DAMAGED[mutation](damaged[name], a, b)
        name = steps[0][0] if steps else draw.draw(st.sampled_from(sorted(files)))
        for path, content in damaged.items():
            (directory / path).parent.mkdir(parents=True, exist_ok=True)
            (directory / path).write_bytes(content)
        plain = _load(directory)
        if plain is not None:
            assert plain.num_entities == _count(directory)
        if not steps:
            assert plain is not None
            (directory / name).write_bytes(STORED[stored](files[name], 0, 0))
            again = _load(directory)
            assert again is not None, stored
            assert _facts(again) == _facts(plain), stored

    case()
