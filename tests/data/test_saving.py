import dataclasses
import errno
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import loginmea_fast.data as data
from loginmea_fast.data.identifiers import plain_spelling
from loginmea_fast.data.names import display_name
from loginmea_fast.errors import DataError


def assert_same(actual, expected):
    assert actual.uris == expected.uris
    assert actual.names == expected.names
    for name in ("left_entities", "right_entities", "triples", "links"):
        assert torch.equal(getattr(actual, name), getattr(expected, name)), name
    assert actual.num_left_triples == expected.num_left_triples
    assert actual.num_relations == expected.num_relations
    assert actual.relation_names == expected.relation_names
    assert actual.words == expected.words
    for name in ("official_split", "attributes"):
        one, other = getattr(actual, name), getattr(expected, name)
        assert (one is None) == (other is None), name
        if one is not None:
            for field in dataclasses.fields(one):
                mine, theirs = getattr(one, field.name), getattr(other, field.name)
                assert torch.equal(mine, theirs) if isinstance(mine, torch.Tensor) else mine == theirs
    assert (actual.has_image is None) == (expected.has_image is None)
    assert actual.has_image is None or torch.equal(actual.has_image, expected.has_image)


def assert_same_features(actual, expected, order=slice(None)):
    assert actual.keys() == expected.keys()
    for name, feature in expected.items():
        assert actual[name].is_sparse == feature.is_sparse
        assert actual[name].values.dtype == feature.values.dtype
        assert torch.equal(actual[name].values.to_dense(), feature.values.to_dense()[order]), name
        assert torch.equal(actual[name].present, feature.present[order]), name


def with_vectors(pair):
    generator = torch.Generator().manual_seed(0)
    dense = torch.randn(pair.num_entities, 5, generator=generator).to(torch.bfloat16)
    present = torch.arange(pair.num_entities) % 2 == 0
    bag = next(iter(pair.features.values()))
    return pair.with_features(
        {
            "image": data.Feature(dense, present, "made up"),
            "tags": data.Feature(bag.values.clone(), bag.present, "sparse"),
            **pair.features,
        }
    )


def test_dbp15k_keeps_everything(tiny, tmp_path):
    pair = data.load(
        tiny(
            sup_ent_ids="0\t2\n",
            dev_ent_ids="1\t3\n",
            ref_ent_ids="4\t5\n6\t7\n",
            has_image_1="0\n",
            rel_ids_1="0\tknows\n1\tlikes\n",
        )
    )
    pair = with_vectors(dataclasses.replace(pair, relation_names=["knows", "likes", "sees", "hears"]))
    assert data.save(pair, tmp_path / "out") == []
    again = data.load(tmp_path / "out")
    assert_same(again, pair)
    assert_same_features(again.features, pair.features)
    assert again.features["image"].description == "made up"
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_openea_keeps_everything_it_has(tiny_openea, tmp_path):
    pair = with_vectors(data.load(tiny_openea()))
    assert data.save(pair, tmp_path / "out", format="openea") == []
    again = data.load(tmp_path / "out")
    assert_same(again, pair)
    assert_same_features(again.features, pair.features)


def test_openea_numbers_anew_and_features_follow(tiny, tmp_path):
    pair = data.load(
        tiny(ill_ent_ids="0\t2\n1\t3\n", triples_1="4\t0\t6\n1\t1\t0\n"), modalities=["relation"]
    )
    pair = with_vectors(pair)
    lost = data.save(pair, tmp_path / "out", format="openea")
    assert lost == []
    rejected = dataclasses.replace(pair, rejected=pair.links[:1])
    assert data.save(rejected, tmp_path / "other") == [
        "which 1 pairs are rejected: no layout has a place for that"
    ]
    again = data.load(tmp_path / "out", modalities=["image", "tags"])
    order = [pair.uris.index(uri) for uri in again.uris]
    assert order[:4] == [4, 6, 1, 0]
    kept = {name: pair.features[name] for name in ("image", "tags")}
    assert_same_features(again.features, kept, order)
    links = [[again.uris[a], again.uris[b]] for a, b in again.links.tolist()]
    assert links == [[pair.uris[a], pair.uris[b]] for a, b in pair.links.tolist()]


def test_openea_cannot_hold_an_entity_without_facts(tiny, tmp_path):
    pair = data.load(tiny())
    with pytest.raises(DataError, match=r"the first is 6 .*write format='dbp15k'"):
        data.save(pair, tmp_path / "out", format="openea")
    assert not (tmp_path / "out").exists()


names = st.text(st.characters(codec="utf-8", exclude_characters="\0\t\r\n\ufeff"), min_size=1, max_size=8)


@st.composite
def pairs(draw):
    """Pairs of every shape that DBP15K's layout can hold: interleaved ids, isolated entities, odd names."""
    sizes = draw(st.tuples(st.integers(1, 6), st.integers(1, 6)))
    total = sum(sizes)
    ids = draw(st.permutations(range(total)))
    sides = ids[: sizes[0]], ids[sizes[0] :]
    own = [
        draw(st.lists(st.tuples(st.sampled_from(side), st.integers(0, 4), st.sampled_from(side)), min_size=1))
        for side in sides
    ]
    num_links = draw(st.integers(1, min(sizes)))
    uris = draw(st.lists(names, min_size=total, max_size=total, unique_by=plain_spelling))
    types = draw(st.lists(names, min_size=1, max_size=5, unique_by=plain_spelling))
    return data.AlignmentPair(
        name="drawn",
        uris=uris,
        names=[display_name(uri) for uri in uris],
        left_entities=torch.tensor(sides[0]),
        right_entities=torch.tensor(sides[1]),
        triples=torch.tensor(own[0] + own[1]),
        num_left_triples=len(own[0]),
        num_relations=1 + max(r for _, r, _ in own[0] + own[1]),
        links=torch.tensor(list(zip(sides[0][:num_links], sides[1][:num_links], strict=True))),
        # A line an entity, graph 1 before graph 2: the order that files of this layout can hold.
        attributes=data.AttributeTable(
            torch.tensor(sides[0] + sides[1]).repeat_interleave(len(types)),
            torch.arange(len(types)).repeat(total),
            types,
        ),
        words={entity: [uris[entity]] for entity in draw(st.sets(st.sampled_from(ids), min_size=1))},
    )


@given(pairs())
def test_any_pair_comes_back(tmp_path_factory, pair):
    directory = tmp_path_factory.mktemp("drawn")
    data.save(pair, directory / "out")
    assert_same(data.load(directory / "out"), pair)


@given(pairs())
def test_any_pair_comes_back_from_openea_under_other_ids(tmp_path_factory, pair):
    directory = tmp_path_factory.mktemp("drawn")
    data.save(pair, directory / "out", format="openea")
    again = data.load(directory / "out")

    def facts(pair):
        def named(rows):
            return [[pair.uris[i] for i in row] for row in rows.tolist()]

        relations = pair.relation_names or [f"relation_{r}" for r in range(pair.num_relations)]
        return (
            {pair.uris[i] for i in pair.left_entities.tolist()},
            named(pair.links),
            [(pair.uris[h], relations[r], pair.uris[t]) for h, r, t in pair.triples.tolist()],
            sorted(named(pair.attributes.entity[:, None])),
        )

    assert facts(again) == facts(pair)


def test_what_a_layout_cannot_spell_is_refused(tiny, tmp_path):
    pair = data.load(tiny())
    for format in ("dbp15k", "openea"):
        for uris in (["a\tb"], ["a\nb"], ["a\rb"], ["a\0b"], [""]):
            broken = dataclasses.replace(pair, uris=uris + pair.uris[1:])
            with pytest.raises(DataError, match="tab, line break or zero"):
                data.save(broken, tmp_path / "out", format=format)
    assert not (tmp_path / "out").exists()


def test_what_was_there_stays(tiny, tmp_path):
    directory = tiny()
    pair = data.load(directory)
    before = {path.name: path.read_bytes() for path in directory.iterdir()}
    with pytest.raises(DataError, match="exists already"):
        data.save(pair, directory)
    assert {path.name: path.read_bytes() for path in directory.iterdir()} == before
    with pytest.raises(DataError, match="exists already"):
        data.save(pair, directory / "ent_ids_1")
    (tmp_path / "empty").mkdir()
    data.save(pair, tmp_path / "empty")
    assert (tmp_path / "empty" / "triples_1").is_file()


def test_a_full_disk_leaves_nothing_behind(tiny, tmp_path, monkeypatch):
    pair = data.load(tiny())
    written = []

    def refuse(self, text, **options):
        written.append(self)
        if len(written) > 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        return len(text)

    monkeypatch.setattr(Path, "write_text", refuse)
    with pytest.raises(DataError, match="No space left on device"):
        data.save(pair, tmp_path / "full" / "out")
    assert list((tmp_path / "full").iterdir()) == []


def test_half_precision_survives(tiny, tmp_path):
    np.savez(tmp_path / "vectors.npz", ids=[0, 2], features=np.eye(2, 3, dtype=np.float16))
    pair = data.load(tiny(), vectors={"image": tmp_path / "vectors.npz"})
    data.save(pair, tmp_path / "out")
    again = data.load(tmp_path / "out")
    assert_same_features(again.features, pair.features)
    assert again.features["image"].values.dtype == torch.float16


@pytest.mark.parametrize("format", ["dbp15k", "openea"])
def test_parts_that_are_empty(tmp_path, format):
    """An official split without validation links, attributes in one graph alone."""
    pair = data.load_embedded("relation")
    split = pair.split(0.3, 0.0, 0)
    left = torch.zeros(pair.num_entities, dtype=torch.bool)
    left[pair.left_entities] = True
    keep = left[pair.attributes.entity]
    table = data.AttributeTable(
        pair.attributes.entity[keep], pair.attributes.kind[keep], pair.attributes.types
    )
    mentioned = dataclasses.replace(pair, official_split=split, attributes=table, words=None)
    data.save(mentioned, tmp_path / "out", format)
    again = data.load(tmp_path / "out", modalities="relation")
    assert [len(part) for part in vars(again.official_split).values()] == [
        len(split.train),
        0,
        len(split.test),
    ]
    assert len(again.attributes.entity) == int(keep.sum())


@pytest.mark.parametrize("format", ["dbp15k", "openea"])
def test_written_rows_are_those_of_the_entities_they_were_written_for(tiny_openea, tmp_path, format):
    """Rows stand for entities by their order: a file that came from elsewhere, or a list that changed, is refused."""
    pair = data.load(tiny_openea(), modalities=["image"], vectors={"image": np.eye(6, dtype=np.float32)})
    data.save(pair, tmp_path / "saved", format=format)
    again = data.load(tmp_path / "saved", modalities=["image"])
    assert torch.equal(again.features["image"].values, pair.features["image"].values)
    assert not any("row" in note for note in again.notes), "it knows whose its rows are"
    path = tmp_path / "saved" / ("ent_ids_1" if format == "dbp15k" else "rel_triples_1")
    first, second, *rest = path.read_text().splitlines()
    if format == "dbp15k":  # the same ids for other uris
        first, second = first[0] + second[1:], second[0] + first[1:]
    path.write_text("\n".join([second, first, *rest]) + "\n")
    with pytest.raises(DataError, match=r"features_image\.safetensors was written for other entities"):
        data.load(tmp_path / "saved", modalities=["image"])
