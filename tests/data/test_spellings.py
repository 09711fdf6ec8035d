"""Identifiers that the files of one graph spell in different ways: one entity, said once; never two that are listed."""

import unicodedata
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

import loginmea_fast.data as data
from loginmea_fast.data.identifiers import plain_spelling
from loginmea_fast.errors import DataError
from tests.data.conftest import OPENEA, TINY, write_files

URI = "http://a/resource/Dé lta"
SPELLINGS = {
    "trailing blank": f"{URI} ",
    "leading blank": f"\u00a0{URI}",
    "brackets": f"<{URI}>",
    "brackets and blank": f" <{URI}> ",
    "percent escapes": quote(URI, safe=":/"),
    "small percent escapes": quote(URI, safe=":/").lower().replace("http", "http").replace("/d%", "/D%"),
    "decomposed": unicodedata.normalize("NFD", URI),
    "escapes of N-Triples": URI.replace("é", "\\u00e9").replace(" ", "\\U00000020"),
    "https": URI.replace("http:", "https:"),
    "all at once": f"<{quote(unicodedata.normalize('NFD', URI), safe=':/').replace('http:', 'https:')}> ",
}


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("graph", [1, 2])
def test_openea_attributes(tmp_path, spelling, graph):
    """The same with graphs swapped: 2 + 2 entities, not 4 + 2."""
    other = 3 - graph
    directory = write_files(
        tmp_path,
        {
            f"rel_triples_{graph}": f"{URI}\tr\ty\n",
            f"attr_triples_{graph}": f"{SPELLINGS[spelling]}\tage\t1\ny\tage\t2\n",
            f"rel_triples_{other}": "p\tr\tq\n",
            "ent_links": f"{URI}\tp\ny\tq\n" if graph == 1 else f"p\t{URI}\nq\ty\n",
        },
    )
    pair = data.load(directory)
    assert pair.summary()["entities"] == [2, 2]
    assert pair.uris[pair.attributes.entity[0]] == URI
    (note,) = pair.notes
    assert note.startswith("1 identifiers are spelt otherwise than in the list")
    assert repr(SPELLINGS[spelling])[:40] in note
    assert f"attr_triples_{graph}" in note


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_openea_links_and_folds(tmp_path, spelling):
    other = SPELLINGS[spelling]
    directory = write_files(
        tmp_path,
        {
            "rel_triples_1": f"{URI}\tr\ty\n",
            "rel_triples_2": "p\tr\tq\n",
            "ent_links": f"{other}\tp\ny\tq\n",
            "721_5fold/1/train_links": f"{other}\tp\n",
            "721_5fold/1/test_links": "y\tq\n",
        },
    )
    pair = data.load(directory)
    assert pair.links.tolist() == [[0, 2], [1, 3]]
    assert pair.official_split.train.tolist() == [[0, 2]]
    (note,) = pair.notes
    assert note.startswith("2 identifiers are spelt otherwise")


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("name", ["training_attrs_1", "attr_triples_1"])
def test_dbp15k_attributes(tiny, tmp_path, spelling, name):
    directory = tiny(ent_ids_1=f"0\t{URI}\n1\tb\n4\tc\n6\td\n", training_attrs_1=None, training_attrs_2=None)
    write_files(directory, {name: f"{SPELLINGS[spelling]}\tage\t1\nb\tage\t2\n"})
    pair = data.load(directory)
    assert 0 in pair.attributes.entity.tolist()
    assert any(name in note and note.startswith("1 identifiers") for note in pair.notes)


def test_names_by_identifier(tiny_openea):
    names = '[["<http://a/x> ", ["one"]], ["http://b/y", "two words"], ["http://c/q", ["three"]]]'
    pair = data.load(tiny_openea({"translated_names.json": names}), modalities=["name"])
    assert pair.words == {0: ["one"], 4: ["two", "words"]}
    assert "translated_names.json: 1 of 3 entities are in neither graph" in " ".join(pair.notes)
    assert "1 identifiers are spelt otherwise" in " ".join(pair.notes)
    with pytest.raises(
        DataError, match=r"entry 1: '0' is an id, but this layout tells entities by identifier"
    ):
        data.load(tiny_openea({"translated_names.json": '[[0, ["one"]]]'}))
    with pytest.raises(DataError, match=r"none of its 1 entities is in either graph"):
        data.load(tiny_openea({"translated_names.json": '[["http://c/q", ["one"]]]'}))


def test_entities_that_are_both_listed_are_never_merged(tiny, tiny_openea):
    twins = "a\tr\ta \na \tr\tb\n"
    pair = data.load(
        tiny_openea(
            {"rel_triples_1": twins, "attr_triples_1": "<a>\tage\t1\nb\tage\t1\n"}
            | {"ent_links": "a\thttp://b/x\na \thttp://b/y\n"}
            | {name: None for name in OPENEA if "fold" in name}
        )
    )
    assert pair.uris[:3] == ["a", "a ", "b"]
    assert pair.attributes.entity.tolist()[0] == 2, "'<a>' could be either, so it is neither"
    assert any("1 entities differ from another" in note and "kept apart" in note for note in pair.notes)
    assert any("1 of 2 entities are spelt like several" in note and "'<a>'" in note for note in pair.notes)
    pair = data.load(
        tiny(ent_ids_1="0\ta\n1\t<a>\n4\tc\n6\td\n", training_attrs_1="a\tage\nc\tage\n<a> \tage\n<d>\tage\n")
    )
    assert pair.attributes.entity.tolist() == [0, 4, 6, 2]
    assert any("1 of 4 entities are spelt like several in ent_ids_1" in note for note in pair.notes)


def test_an_identifier_on_two_lines_of_a_list_is_an_error(tiny):
    """It was counted among those that differ from another by spelling alone, which they did not."""
    told = (
        r"ent_ids_1, line 4: entity 'c' stands already on line 3, there with the id 4, here with 6; .*keep one of the "
        "two lines"
    )
    none = {"training_attrs_1": None, "training_attrs_2": None}
    with pytest.raises(DataError, match=told):
        data.load(tiny(ent_ids_1="0\ta\n1\t<a>\n4\tc\n6\tc\n", **none))
    both = {"ent_ids_2": TINY["ent_ids_2"].replace("http://b", "http://a")}
    assert data.load(tiny(**both, **none)).num_entities == 8, "one in either graph is two entities"


def test_an_ambiguous_link_is_an_error(tiny_openea):
    text = "http://a/x\tr\thttp://a/x \nhttp://a/y\tr\thttp://a/z\n"
    with pytest.raises(
        DataError, match=r"ent_links, line 1: entity '<http://a/x>' is spelt like several entities"
    ):
        data.load(tiny_openea({"rel_triples_1": text, "ent_links": "<http://a/x>\thttp://b/x\n"}))


def test_a_side_that_matches_nothing_is_an_error(tiny_openea):
    folds = {name: None for name in OPENEA if "fold" in name}
    links = {"ent_links": "http://a/x\thttp://b/x\n"}
    with pytest.raises(
        DataError, match=r"attr_triples_1: none of its 2 entities is linked or in rel_triples_1"
    ):
        data.load(tiny_openea(folds | links | {"attr_triples_1": "ex:x\tage\t1\nex:y\tage\t1\n"}))
    with pytest.raises(
        DataError, match=r"ent_links, line 1: .*2 of 2 links are such.*columns may be swapped"
    ):
        data.load(tiny_openea(folds | {"ent_links": "http://b/x\thttp://a/x\nhttp://b/y\thttp://a/y\n"}))


def test_entities_of_attributes_alone_are_counted(tiny_openea):
    note = data.load(tiny_openea()).notes[0]
    assert note == (
        "attr_triples_1: 1 of its 2 entities are in no relation triple and stand for themselves (first: 'http://a/z')"
    )


def test_columns_and_graphs_that_are_swapped_are_suspected(tiny):
    with pytest.raises(DataError, match=r"line 1: entity 2 belongs to graph 2.*all of its 4 lines are such"):
        data.load(tiny(ill_ent_ids="2\t0\n3\t1\n5\t4\n7\t6\n"))
    with pytest.raises(DataError, match=r"triples_1, line 1: entity 2 belongs to graph 2"):
        data.load(tiny(triples_1=TINY["triples_2"], triples_2=TINY["triples_1"]))


@given(st.text(max_size=12))
def test_a_plain_spelling_is_plain(text):
    plain = plain_spelling(text)
    assert unicodedata.normalize("NFC", plain) == plain
    if "%" not in plain and "<" not in plain:
        assert plain_spelling(plain) == plain
    if "%" not in text and plain == text.strip():
        assert plain_spelling(f" <{text}> ") in (plain, plain_spelling(plain))


def test_escapes_that_are_no_text_stay():
    assert plain_spelling("a%FFb") == "a%FFb"
    assert plain_spelling("100%") == "100%"
    assert plain_spelling("http://a/AC%2FDC") == "http://a/AC/DC"


def test_statements_of_n_triples_with_tabs(tmp_path):
    """The dot that ends a statement made another entity of its object, and escapes stood in names."""
    text = {
        "rel_triples_1": "<http://a/resource/Caf\\u00e9>\t<r>\t<b> .\n<b>\t<r>\t<c>\t.\n<c>\t<r>\t<d>\n",
        "attr_triples_1": '<b>\t<label>\t"a \\"b\\" \\u00e9"@en .\n<c>\t<label>\tCaf\\u00e9 3 .\n',
        "rel_triples_2": "p\tr\tq\n",
        "attr_triples_2": "p\tlabel\tone\n",
        "ent_links": "http://a/resource/Café\tp\nb\tq\n",
    }
    pair = data.load(write_files(tmp_path, text), name_attributes="label")
    assert pair.summary()["entities"] == [4, 2]
    assert pair.uris[:4] == ["<http://a/resource/Caf\\u00e9>", "<b>", "<c>", "<d>"]
    assert pair.links.tolist() == [[0, 4], [1, 5]]
    assert pair.names[:3] == ["Café", 'a "b" é', "Café 3 ."]


def test_halves_of_a_character_are_joined():
    assert plain_spelling("\\ud83d\\ude00") == "\U0001f600"
    assert plain_spelling("\\ud83d") == "\ufffd"
    assert plain_spelling("\\u12") == "\\u12"


def test_types_of_attributes_that_differ_by_spelling_are_one(tiny):
    """In brackets in one graph and bare in the other, no attribute was shared."""
    types = {
        "training_attrs_1": "http://a/resource/Alpha\t<http://p/age>\tsize\n",
        "training_attrs_2": "http://b/resource/Alpha\thttp://p/age\tnew\n",
    }
    pair = data.load(tiny(**types))
    assert pair.attributes.types == ["<http://p/age>", "size", "new"]
    assert pair.attributes.kind.tolist() == [0, 1, 0, 2]
    assert any("1 types of attributes differ from another by spelling" in note for note in pair.notes)


def test_a_key_that_an_object_of_names_has_twice_is_counted(tiny):
    pair = data.load(tiny(translated_names_json='{"0": "one", "0": "two", "1": "three"}'))
    assert pair.words[0] == ["two"]
    assert any(
        "1 entries name an entity that an earlier entry names otherwise" in note for note in pair.notes
    )
