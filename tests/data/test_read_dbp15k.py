import numpy as np
import pytest
import torch

import loginmea_fast.data as data
from loginmea_fast.errors import DataError
from tests.data.conftest import TINY


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
    pair = data.load(tiny(ent_ids_1="0\ta\u2028b\n1\tb\x85c\n4\tc\x0cd\n6\te\n", training_attrs_1=None))
    assert pair.uris[0] == "a\u2028b"
    assert pair.names[1] == "b\x85c"


def test_attributes_of_unknown_entities_are_left_out_and_counted(tiny):
    text = "http://elsewhere/Omega\tweight\nhttp://b/resource/Alpha\tage\nhttp://elsewhere/Psi\tage\n"
    pair = data.load(tiny(training_attrs_2=text))
    assert pair.attributes.types == ["size", "age"]
    assert pair.attributes.entity.tolist() == [0, 0, 1, 1, 2]
    assert pair.notes == (
        "training_attrs_2: 2 of 3 entities are not in ent_ids_2 and were left out (first: 'http://elsewhere/Omega')",
    )


@pytest.mark.parametrize("graph", [1, 2])
def test_attributes_that_are_nobodys_are_an_error(tiny, graph):
    with pytest.raises(
        DataError, match=rf"training_attrs_{graph}: none of its 2 entities is in ent_ids_{graph}"
    ):
        data.load(tiny(**{f"training_attrs_{graph}": "http://c/Alpha\tage\nhttp://c/Beta\tage\n"}))


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


@pytest.mark.parametrize(("name", "part"), [("sup_ent_ids", "train"), ("ref_ent_ids", "test")])
def test_half_an_official_split_gets_the_other_half_and_that_is_said(tiny, name, part):
    pair = data.load(tiny(**{name: "0\t2\n", "dev_ent_ids": "4\t5\n"}))
    rest = vars(pair.official_split)
    assert rest.pop(part).tolist() == [[0, 2]]
    assert rest.pop("valid").tolist() == [[4, 5]]
    assert next(iter(rest.values())).tolist() == [[1, 3], [6, 7]]
    (note,) = pair.notes
    assert "they are the 2 links outside of" in note


def test_validation_links_alone_are_no_split_and_that_is_said(tiny):
    pair = data.load(tiny(dev_ent_ids="0\t2\n"))
    assert pair.official_split is None
    assert "dev_ent_ids alone is no official split, which needs training links" in pair.notes


def test_a_few_repeated_links_are_kept_with_a_note(tiny):
    pair = data.load(tiny(ill_ent_ids="0\t2\n1\t3\n4\t2\n"), max_repeated_links=0.5)
    assert len(pair.links) == 3
    (note,) = pair.notes
    assert "ill_ent_ids, line 3: entity 2 ('http://b/resource/Alpha') is linked already on line 1" in note
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
    assert pair.notes == ("ill_ent_ids: 1 of 3 links repeat an earlier one and were dropped (first: line 3)",)


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
    "two names of a relation": (
        {"rel_ids_1": "0\tknows\n0\tlikes\n"},
        ["rel_ids_1, line 2", "relation 0 is 'knows' on an earlier line"],
    ),
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
    "triple of an unlisted entity": (
        {"ent_ids_2": "2\ta\n3\tb\n5\tc\n8\td\n", "training_attrs_2": None},
        ["triples_2, line 3", "entity 7 stands in neither of the lists of the 8 entities", "ent_ids_2"],
    ),
    "huge in a list": ({"ent_ids_1": f"{LONG}\ta\n"}, ["ent_ids_1, line 1", "no id"]),
    "duplicate id": (
        {"ent_ids_1": "0\ta\n1\tb\n0\tc\n4\td\n6\te\n"},
        ["ent_ids_1, line 3", "id 0", "line 1"],
    ),
    "triple beyond": ({"triples_1": "0\t0\t1\n0\t0\t8\n"}, ["triples_1, line 2", "entity 8", "8 entities"]),
    "triple of the other graph": ({"triples_1": "0\t0\t2\n"}, ["triples_1, line 1", "entity 2", "graph 2"]),
    "link to unknown": ({"ill_ent_ids": "0\t2\n1\t99\n"}, ["ill_ent_ids, line 2", "entity 99 is beyond"]),
    "link reversed": ({"ill_ent_ids": "2\t0\n"}, ["ill_ent_ids, line 1", "entity 2 belongs to graph 2"]),
    "not UTF-8": ({}, ["ent_ids_2, line 2", "UTF-8"]),
    "broken names": ({"translated_names_json": "[[0, ["}, ["translated_names.json", "no valid JSON"]),
    "deep names": ({"translated_names_json": "[" * 100_000}, ["translated_names.json", "no valid JSON"]),
    "other names": ({"translated_names_json": '"0"'}, ["translated_names.json", "str"]),
    "unknown name": (
        {"translated_names_json": '[[9, ["a"]]]'},
        ["translated_names.json, entry 1", "'9' is no id of the 8 entities, which are below 8"],
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
        DataError, match=r"rel_triples_1 is missing; the layout openea needs rel_triples_1 or .*ent_links"
    ):
        data.load(tiny(), format="openea")
    with pytest.raises(DataError, match=r"no-such does not exist; give the directory .*dbp15k: ent_ids_1"):
        data.load(tiny() / "no-such", format="openea")
    with pytest.raises(DataError, match=r"unknown data format 'rdf'; known are dbp15k, .*openea"):
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
    with pytest.raises(DataError, match="bag_size must be at least 1"):
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


NUMBERINGS = {
    "from 1": {entity: entity + 1 for entity in range(8)},
    "gaps": {entity: 10 * entity**2 + 3 for entity in range(8)},
    "huge": {entity: 10**17 + 10**12 * entity for entity in range(8)},
    "shared": {0: 0, 1: 1, 4: 2, 6: 3, 2: 0, 3: 1, 5: 2, 7: 3},
    "shared from 1": {0: 1, 1: 2, 4: 3, 6: 4, 2: 1, 3: 2, 5: 3, 7: 4},
    "shared in part": {0: 5, 1: 6, 4: 7, 6: 90, 2: 90, 3: 91, 5: 92, 7: 93},
}


@pytest.mark.parametrize("numbering", NUMBERINGS)
def test_ids_of_every_numbering_are_renumbered_and_that_is_said(tiny, tmp_path, numbering):
    new = NUMBERINGS[numbering]

    def renumbered(text, *columns):
        rows = [line.split("\t") for line in text.splitlines()]
        return "".join(
            "\t".join(
                str(new[int(token)]) if column in columns else token for column, token in enumerate(row)
            )
            + "\n"
            for row in rows
        )

    files = {
        name: renumbered(text, *columns)
        for name, text, columns in [
            *((f"ent_ids_{graph}", TINY[f"ent_ids_{graph}"], (0,)) for graph in (1, 2)),
            *((f"triples_{graph}", TINY[f"triples_{graph}"], (0, 2)) for graph in (1, 2)),
            ("ill_ent_ids", TINY["ill_ent_ids"], (0, 1)),
            ("sup_ent_ids", "0\t2\n1\t3\n", (0, 1)),
            ("ref_ent_ids", "4\t5\n6\t7\n", (0, 1)),
            ("has_image_1", "4\n", (0,)),
            ("has_image_2", "5\n7\n", (0,)),
        ]
    }
    shared = numbering.startswith("shared")
    names = None if shared else f'[[{new[0]}, ["alpha"]], [{new[2]}, ["Al", "pha"]]]'
    pair = data.load(tiny(translated_names_json=names, **files))
    ids = list(new.values())[:3]
    np.savez(tmp_path / "vectors.npz", ids=ids, features=np.eye(3))
    vectors = {"image": tmp_path / "vectors.npz"}
    if shared and numbering != "shared in part":
        with pytest.raises(DataError, match=r"those of several entities each, .*; say by 'uris'"):
            data.load(tmp_path / "tiny", modalities=["image"], vectors=vectors)
    usual = data.load(
        tiny(sup_ent_ids="0\t2\n1\t3\n", ref_ent_ids="4\t5\n6\t7\n", has_image_1="4\n", has_image_2="5\n7\n")
    )

    def by_uri(pair):
        def named(rows):
            return [[pair.uris[entity] for entity in row] for row in rows.tolist()]

        table = pair.attributes
        return (
            [named(pair.left_entities[:, None]), named(pair.right_entities[:, None])],
            [(pair.uris[h], r, pair.uris[t]) for h, r, t in pair.triples.tolist()],
            named(pair.links),
            [named(part) for part in vars(pair.official_split).values()],
            [
                (pair.uris[e], table.types[k])
                for e, k in zip(table.entity.tolist(), table.kind.tolist(), strict=True)
            ],
            sorted(pair.uris[entity] for entity in pair.has_image.nonzero()[:, 0].tolist()),
            None if shared else {pair.uris[entity]: words for entity, words in pair.words.items()},
        )

    assert by_uri(pair) == by_uri(usual)
    (note,) = pair.notes
    assert "renumbered 0 to 7" in note
    assert pair.file_ids.tolist() == [new[usual.uris.index(uri)] for uri in pair.uris]
    data.save(pair, tmp_path / "out")
    assert by_uri(data.load(tmp_path / "out")) == by_uri(pair)


def test_vectors_follow_the_ids_of_the_files(tiny, tmp_path):
    text = {name: TINY[name].replace("6\t", "66\t") for name in ("ent_ids_1", "ill_ent_ids")}
    np.savez(tmp_path / "vectors.npz", ids=[66, 0], features=np.eye(2, dtype=np.float32))
    pair = data.load(tiny(**text), modalities=["image"], vectors={"image": tmp_path / "vectors.npz"})
    feature = pair.features["image"]
    last = pair.uris.index("http://a/resource/D%C3%A9lta")
    assert feature.present.nonzero()[:, 0].tolist() == sorted([0, last])
    assert feature.values[last].tolist() == [1, 0]
    np.savez(tmp_path / "vectors.npz", ids=[6, 0], features=np.eye(2))
    pair = data.load(tiny(**text), modalities=["image"], vectors={"image": tmp_path / "vectors.npz"})
    assert pair.features["image"].present.nonzero()[:, 0].tolist() == [0]
    assert "vectors.npz: 1 of 2 keys are no entity's and are left out (first: '6')" in pair.notes[-1]


def test_names_by_an_id_of_both_graphs_are_refused(tiny):
    own = {
        "ent_ids_2": "0\tw\n1\tx\n2\ty\n3\tz\n",
        "triples_2": "0\t2\t3\n",
        "ill_ent_ids": "0\t0\n",
        "training_attrs_2": None,
    }
    with pytest.raises(
        DataError, match="entry 1: '0' is an id of both graphs; name the entity by its identifier"
    ):
        data.load(tiny(**own))


def test_relation_ids_out_of_proportion_are_renumbered(tiny):
    pair = data.load(tiny(triples_1="0\t99999999\t1\n1\t7\t0\n", rel_ids_1="99999999\tknows\n"))
    assert pair.triples[:, 1].tolist()[:2] == [3, 2]
    assert pair.num_relations == 4
    assert pair.relation_names[3] == "knows"
    assert pair.notes == ("relation ids run up to 99999999; renumbered 0 to 3 in their order",)


def test_graphs_with_attributes_alone(tiny, tmp_path):
    directory = tiny(triples_1=None, triples_2=None)
    pair = data.load(directory)
    assert pair.triples.shape == (0, 3)
    assert pair.num_relations == 0
    assert list(pair.features) == ["attribute"]
    assert pair.notes == ("triples_1 and triples_2 are not there: the graphs have attributes alone",)
    assert pair.graph().num_edges == 0
    data.save(pair, tmp_path / "out")
    assert data.load(tmp_path / "out").attributes.types == pair.attributes.types
    with pytest.raises(DataError, match="no relation triples; leave the modality 'relation' out"):
        data.load(directory, modalities="relation,attribute")


def test_one_graph_without_relations_is_an_error_with_a_remedy(tiny):
    with pytest.raises(
        DataError, match=r"triples_2 is missing, .* take triples_1 away too to align by attributes alone"
    ):
        data.load(tiny(triples_2=None))


def test_names_from_attributes(tiny):
    values = {
        "attr_triples_1": 'http://a/resource/Alpha\tname\t"Al fa"@en\nhttp://a/resource/Beta\t<label>\tBé ta\n',
        "attr_triples_2": '<http://b/resource/Alpha>\tlabel\t"Alpha"^^<xsd:string>\n',
    }
    pair = data.load(tiny(**values), modalities="name,word", name_attributes=("label", "name"))
    assert [pair.names[entity] for entity in (0, 1, 2)] == ["Al fa", "Bé ta", "Alpha"]
    assert pair.words == {0: ["Al", "fa"], 1: ["Bé", "ta"], 2: ["Alpha"]}
    assert any("2 of 4 and 1 of 4 entities are named by 'label', 'name'" in note for note in pair.notes)
    assert pair.attributes.types == ["size", "age"]
    with pytest.raises(
        DataError, match=r"no entity of graph 2 has a value of 'name' .*near are '(label|name)'"
    ):
        data.load(tiny(**values), name_attributes="name")


def test_links_of_one_entity_to_many(tiny):
    pair = data.load(tiny(ill_ent_ids="0\t2\n0\t3\n0\t5\n6\t7\n"))
    assert pair.links.tolist() == [[0, 2], [0, 3], [0, 5], [6, 7]]
    assert "2 of 4 links are such, all are kept" in pair.notes[0]


def test_relation_ids_that_mean_another_relation_in_each_graph(tiny, tmp_path):
    """They were taken for one relation, by the name that the second graph gives it."""
    triples = {"triples_2": "2\t0\t3\n3\t0\t5\n5\t1\t7\n"}
    names = {"rel_ids_1": "0\tknows\n1\tlikes\n", "rel_ids_2": "0\tlarge\n1\tsmall\n"}
    pair = data.load(tiny(**triples, **names))
    assert pair.relation_names == ["knows", "likes", "large", "small"]
    assert pair.triples[pair.num_left_triples :, 1].tolist() == [2, 2, 3]
    (note,) = pair.notes
    assert "relation 0 is 'knows' in rel_ids_1 and 'large' in rel_ids_2" in note
    data.save(pair, tmp_path / "out")
    assert data.load(tmp_path / "out").notes == ()
    same = tiny(**triples, rel_ids_1="0\tknows\n1\tlikes\n", rel_ids_2="0\t<knows>\n1\tlikes\n")
    assert data.load(same).num_relations == 2
    assert data.load(tiny(**triples)).notes == ()


def test_graphs_that_count_their_entities_apart_count_their_relations_apart(tiny):
    own = {
        "ent_ids_2": "0\thttp://b/resource/Alpha\n1\thttp://b/resource/Beta\n4\thttp://b/resource/Gamma\n",
        "triples_2": "0\t0\t1\n1\t2\t4\n",
        "ill_ent_ids": "0\t0\n1\t1\n",
        "translated_names_json": None,
    }
    pair = data.load(tiny(**own))
    assert pair.triples[pair.num_left_triples :, 1].tolist() == [2, 4]
    assert "1 relation ids stand in triples_1 and in triples_2" in pair.notes[1]
    pair = data.load(tiny(**own, rel_ids_1="0\tknows\n1\tlikes\n", rel_ids_2="0\tknows\n2\tsees\n"))
    assert pair.relation_names == ["knows", "likes", "sees"]


def test_two_names_of_an_entity_are_counted(tiny):
    pair = data.load(tiny(translated_names_json='[[0, ["a"]], [2, ["b"]], [0, ["a"]], [0, ["c"]]]'))
    assert pair.words == {0: ["c"], 2: ["b"]}
    (note,) = pair.notes
    assert note.startswith(
        "translated_names.json: 1 entries name an entity that an earlier entry names otherwise"
    )
