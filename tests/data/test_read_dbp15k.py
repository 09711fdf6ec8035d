import pytest
import torch

import loginmea_fast.data as data
from loginmea_fast.errors import DataError


def test_ids_names_and_tables_are_those_of_the_files(tiny):
    pair = data.load(tiny())
    assert pair.num_entities == 8
    assert pair.left_entities.tolist() == [0, 1, 4, 6]
    assert pair.right_entities.tolist() == [2, 3, 5, 7]
    assert pair.uris[4] == "http://a/resource/Gamma_Ray"
    assert pair.names[4] == "Gamma Ray"
    assert pair.names[6] == "Délta"
    assert pair.triples.tolist()[:2] == [[0, 0, 1], [1, 0, 4]]
    assert (pair.num_left_triples, len(pair.triples), pair.num_relations) == (4, 7, 4)
    assert pair.links.tolist() == [[0, 2], [1, 3], [4, 5], [6, 7]]
    assert pair.words == {0: ["alpha"], 2: ["Al", "pha"]}
    assert pair.official_split is None
    assert list(pair.features) == ["relation", "attribute"]


def test_graph_covers_both_sides(tiny):
    graph = data.load(tiny()).graph()
    assert (graph.num_entities, graph.num_relations) == (8, 4)


def test_windows_line_ends_byte_order_mark_and_spaces_between_integers(tiny):
    pair = data.load(
        tiny(
            ent_ids_1="\ufeff0\ta\r\n1\tb\r\n4\tc\r\n6\td\r\n",
            triples_1="0 0 1\r\n1 0 4\r\n\r\n",
            training_attrs_1=None,
        )
    )
    assert pair.uris[0] == "a"
    assert pair.uris[6] == "d"
    assert pair.num_left_triples == 2


def test_only_a_line_feed_ends_a_line(tiny):
    pair = data.load(tiny(ent_ids_1="0\ta\u2028b\n1\tb\x85c\n4\tc\x0cd\n6\te\n"))
    assert pair.uris[0] == "a\u2028b"
    assert pair.names[1] == "b\x85c"


def test_attributes_of_unknown_entities_are_passed_over(tiny):
    pair = data.load(tiny())
    assert pair.attributes.types == ["size", "age"]
    assert pair.attributes.entity.tolist() == [0, 0, 1, 1, 2]


def test_a_graph_may_lack_attributes(tiny):
    pair = data.load(tiny(training_attrs_2=None))
    assert pair.features["attribute"].present.nonzero()[:, 0].tolist() == [0, 1]


def test_official_split(tiny):
    pair = data.load(tiny(sup_ent_ids="0\t2\n", dev_ent_ids="1\t3\n", ref_ent_ids="4\t5\n"))
    split = pair.official_split
    assert [part.tolist() for part in (split.train, split.valid, split.test)] == [
        [[0, 2]],
        [[1, 3]],
        [[4, 5]],
    ]
    assert pair.notes == ("the official split leaves out 1 of 4 links",)
    assert "official split: 1 training, 1 validation, 1 test links" in pair.describe()


def test_official_split_without_validation_links(tiny):
    pair = data.load(tiny(sup_ent_ids="0\t2\n1\t3\n", ref_ent_ids="4\t5\n6\t7\n"))
    assert len(pair.official_split.valid) == 0
    split = pair.split()
    assert sorted(torch.cat([split.train, split.valid]).tolist()) == [[0, 2], [1, 3]]
    assert len(split.valid) == 1
    assert split.test.tolist() == [[4, 5], [6, 7]]


def test_half_an_official_split_is_none_and_that_is_said(tiny):
    pair = data.load(tiny(sup_ent_ids="0\t2\n"))
    assert pair.official_split is None
    assert pair.notes == ("sup_ent_ids alone is no official split, which needs sup_ent_ids and ref_ent_ids",)


def test_a_few_repeated_links_are_kept_with_a_note(tiny):
    pair = data.load(tiny(ill_ent_ids="0\t2\n1\t3\n4\t2\n"), max_repeated_links=0.5)
    assert len(pair.links) == 3
    (note,) = pair.notes
    assert "ill_ent_ids, line 3: entity 2 (http://b/resource/Alpha) is linked already on line 1" in note
    assert "1 of 3 links" in note


def test_links_of_one_entity_are_refused_only_where_that_is_asked_for(tiny):
    directory = tiny(ill_ent_ids="0\t2\n1\t3\n0\t5\n")
    with pytest.raises(DataError, match=r"ill_ent_ids, line 3: entity 0 .* is linked already on line 1"):
        data.load(directory, max_repeated_links=0)
    assert len(data.load(directory).links) == 3


@pytest.mark.parametrize("tolerated", [0, 1])
def test_the_same_link_twice_is_kept_once(tiny, tolerated):
    pair = data.load(tiny(ill_ent_ids="0\t2\n1\t3\n0\t2\n"), max_repeated_links=tolerated)
    assert pair.links.tolist() == [[0, 2], [1, 3]]
    assert pair.notes == ("1 of 3 links repeat another, the first is [0, 2]; each is kept once",)


def test_an_official_split_that_shares_entities_is_parted(tiny):
    pair = data.load(
        tiny(ill_ent_ids="0\t2\n0\t3\n1\t5\n4\t7\n", sup_ent_ids="0\t2\n", ref_ent_ids="0\t3\n1\t5\n4\t7\n")
    )
    assert pair.official_split.test.tolist() == [[1, 5], [4, 7]]
    assert any(
        "1 links of the official split" in note and "[0, 3] of its test part" in note for note in pair.notes
    )


def test_relation_names(tiny):
    pair = data.load(tiny(rel_ids_1="0\tknows\n1\tlikes\n", rel_ids_2="2\tsees\n"))
    assert pair.relation_names == ["knows", "likes", "sees", "relation 3"]


LONG = "9" * 30
BAD = {
    "missing list": ({"ent_ids_2": None}, ["ent_ids_2", "missing"]),
    "missing triples": ({"triples_1": None}, ["triples_1", "missing"]),
    "missing links": ({"ill_ent_ids": None}, ["ill_ent_ids", "missing"]),
    "empty list": ({"ent_ids_1": ""}, ["ent_ids_1 is empty", "lines of id, uri", "again"]),
    "blank list": ({"ent_ids_1": "\n \n"}, ["ent_ids_1 is empty"]),
    "no triples": ({"triples_2": ""}, ["triples_2 is empty", "lines of head, relation, tail", "again"]),
    "no links": ({"ill_ent_ids": "\n"}, ["ill_ent_ids is empty"]),
    "columns of a list": ({"ent_ids_1": "0\ta\n1\n"}, ["ent_ids_1, line 2", "2 tab-separated fields", "'1'"]),
    "too many columns of a list": (
        {"ent_ids_1": "0\ta\tb\n"},
        ["ent_ids_1, line 1", "2 tab-separated fields"],
    ),
    "columns of triples": ({"triples_1": "0\t0\t1\n0\t1\n"}, ["triples_1, line 2", "3 columns", "found 2"]),
    "blank line inside": (
        {"triples_1": "0\t0\t1\n\n0\t0\t1\n"},
        ["triples_1, line 2", "3 columns", "found 0"],
    ),
    "columns compensate": ({"triples_1": "0\t0\t1\t0\n0\t1\n"}, ["triples_1, line 1", "found 4"]),
    "columns of links": ({"ill_ent_ids": "0\t2\t1\n"}, ["ill_ent_ids, line 1", "2 columns", "found 3"]),
    "word for an id": ({"triples_2": "2\t2\t3\n2\tx\t3\n"}, ["triples_2, line 2", "'x' is no integer"]),
    "float for an id": ({"triples_2": "2\t2.0\t3\n"}, ["triples_2, line 1", "'2.0' is no integer"]),
    "negative in triples": ({"triples_2": "2\t-2\t3\n"}, ["triples_2, line 1", "'-2' is a negative id"]),
    "other digits": ({"triples_2": "2\t٣\t3\n"}, ["triples_2, line 1", "is no integer"]),
    "huge in triples": ({"triples_2": f"2\t2\t{LONG}\n"}, ["triples_2, line 1", "too large"]),
    "word in a list": ({"ent_ids_1": "zero\ta\n"}, ["ent_ids_1, line 1", "'zero' is no id"]),
    "negative in a list": ({"ent_ids_1": "-1\ta\n"}, ["ent_ids_1, line 1", "'-1' is a negative id"]),
    "gap in ids": (
        {"ent_ids_2": "2\ta\n3\tb\n5\tc\n8\td\n"},
        ["ent_ids_2, line 4", "id 8 is beyond", "0 to 7"],
    ),
    "huge in a list": ({"ent_ids_1": f"{LONG}\ta\n"}, ["ent_ids_1, line 1", "no id"]),
    "duplicate id": (
        {"ent_ids_1": "0\ta\n1\tb\n0\tc\n4\td\n6\te\n"},
        ["ent_ids_1, line 3", "id 0", "line 1"],
    ),
    "id in both graphs": (
        {"ent_ids_2": "2\ta\n3\tb\n5\tc\n6\td\n"},
        ["ent_ids_2, line 4", "id 6", "ent_ids_1"],
    ),
    "triple beyond": ({"triples_1": "0\t0\t1\n0\t0\t8\n"}, ["triples_1, line 2", "entity 8", "8 entities"]),
    "triple of the other graph": ({"triples_1": "0\t0\t2\n"}, ["triples_1, line 1", "entity 2", "graph 2"]),
    "relation out of proportion": (
        {"triples_1": "0\t99999999\t1\n"},
        ["triples_1, line 1", "99999999", "relation"],
    ),
    "link to unknown": ({"ill_ent_ids": "0\t2\n1\t99\n"}, ["ill_ent_ids, line 2", "entity 99 is beyond"]),
    "link reversed": ({"ill_ent_ids": "2\t0\n"}, ["ill_ent_ids, line 1", "entity 2 belongs to graph 2"]),
    "not UTF-8": ({}, ["ent_ids_2, line 2", "UTF-8"]),
    "broken names": ({"translated_names_json": "[[0, ["}, ["translated_names.json", "no valid JSON"]),
    "deep names": ({"translated_names_json": "[" * 100_000}, ["translated_names.json", "no valid JSON"]),
    "other names": ({"translated_names_json": '{"0": "a"}'}, ["translated_names.json", "dict"]),
    "unknown name": (
        {"translated_names_json": '[[9, ["a"]]]'},
        ["translated_names.json, entry 1", "below 8"],
    ),
    "name of numbers": ({"translated_names_json": "[[0, [1]]]"}, ["translated_names.json, entry 1"]),
    "image of unknown": ({"has_image_1": "0\n2\n"}, ["has_image_1, line 2", "entity 2"]),
    "split unknown": (
        {"sup_ent_ids": "0\t3\n", "ref_ent_ids": "1\t3\n"},
        ["sup_ent_ids, line 1", "all links"],
    ),
    "split overlaps": (
        {"sup_ent_ids": "0\t2\n", "ref_ent_ids": "0\t2\n"},
        ["ref_ent_ids, line 1", "another part"],
    ),
    "relation name": ({"rel_ids_1": "x\tknows\n"}, ["rel_ids_1, line 1", "'x' is no id"]),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_sentence_with_file_and_line(tiny, case):
    replaced, expected = BAD[case]
    directory = tiny(**replaced)
    if case == "not UTF-8":
        (directory / "ent_ids_2").write_bytes(b"2\ta\n3\t\xff\xfe\n")
    with pytest.raises(DataError) as error:
        data.load(directory)
    message = str(error.value)
    assert "\n" not in message
    assert all(part in message for part in expected), message


def test_layout_that_is_asked_for_must_be_there(tiny):
    with pytest.raises(
        DataError, match=r"rel_triples_1 is missing; the layout openea needs rel_triples_1, .*ent_links"
    ):
        data.load(tiny(), format="openea")
    with pytest.raises(DataError, match=r"no-such does not exist; give the directory .*dbp15k: ent_ids_1"):
        data.load(tiny() / "no-such", format="openea")
    with pytest.raises(DataError, match="unknown data format 'rdf'; known are dbp15k, openea"):
        data.load(tiny(), format="rdf")


def test_a_directory_in_no_layout(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        data.load(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"no known layout.*dbp15k.*openea"):
        data.load(tmp_path)
    (tmp_path / "file").write_text("x")
    with pytest.raises(DataError, match="is no directory"):
        data.load(tmp_path / "file")


def test_a_directory_where_a_file_should_be(tiny):
    directory = tiny(triples_1=None)
    (directory / "triples_1").mkdir()
    with pytest.raises(DataError, match="triples_1 cannot be read"):
        data.load(directory, format="dbp15k")


def test_options_and_modalities_are_checked(tiny):
    directory = tiny(training_attrs_1=None, training_attrs_2=None)
    with pytest.raises(DataError, match=r"'smell' is none of relation, .*vectors"):
        data.load(directory, modalities=["smell"])
    with pytest.raises(DataError, match="no attributes"):
        data.load(directory, modalities="relation,attribute")
    with pytest.raises(DataError, match="bag_size at least 1"):
        data.load(directory, bag_size=0)
    assert list(data.load(directory).features) == ["relation"]
    assert list(data.load(directory, modalities="name, relation").features) == ["name", "relation"]


def test_another_layout_can_join(tiny, tmp_path, monkeypatch):
    from loginmea_fast.data import formats

    directory = tiny()
    monkeypatch.setattr(formats, "_FORMATS", dict(formats._FORMATS))
    known = formats.get_format("dbp15k")
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle" / "pointer").write_text(str(directory))
    data.register_format(
        data.Format("bundle", ("pointer",), lambda path, options: known.read(directory, options))
    )
    assert data.load(tmp_path / "bundle").num_entities == 8
    with pytest.raises(DataError, match="can be read but not written"):
        data.save(data.load(directory), tmp_path / "out", format="bundle")
