import pytest
import torch

import loginmea_fast.data as data
from loginmea_fast.data import openea, textfile
from loginmea_fast.errors import DataError
from tests.data.conftest import OPENEA


def test_ids_follow_first_appearance(tiny_openea):
    pair = data.load(tiny_openea())
    assert pair.uris == [f"http://{side}/{name}" for side in "ab" for name in "xyz"]
    assert pair.left_entities.tolist() == [0, 1, 2]
    assert pair.right_entities.tolist() == [3, 4, 5]
    assert pair.triples.tolist() == [[0, 0, 1], [1, 1, 0], [3, 2, 4]]
    assert pair.relation_names == ["http://a/r", "http://a/s", "http://a/r"], "a relation is its graph's own"
    assert pair.attributes.types == ["age", "size"]
    assert pair.attributes.entity.tolist() == [0, 2, 3, 5]
    assert pair.links.tolist() == [[0, 3], [1, 4], [2, 5]]
    split = pair.official_split
    assert [part.tolist() for part in (split.train, split.valid, split.test)] == [
        [[0, 3]],
        [[1, 4]],
        [[2, 5]],
    ]


def test_attributes_and_folds_are_optional(tiny_openea):
    names = [f"attr_triples_{graph}" for graph in (1, 2)] + [
        f"721_5fold/1/{part}_links" for part in ("train", "valid", "test")
    ]
    links = "http://a/x\thttp://b/x\n"
    pair = data.load(tiny_openea(dict.fromkeys(names) | {"ent_links": links}))
    assert pair.attributes is None
    assert pair.official_split is None
    assert list(pair.features) == ["relation"]


BAD = {
    "empty": ({"rel_triples_1": ""}, ["rel_triples_1 is empty"]),
    "columns": ({"rel_triples_2": "a\tb\tc\na\tb\n"}, ["rel_triples_2, line 2", "3 tab-separated fields"]),
    "attribute columns": ({"attr_triples_1": "http://a/x\n"}, ["attr_triples_1, line 1", "at least 2"]),
    "unknown entity": (
        {"ent_links": "http://a/x\thttp://b/q\n"},
        ["ent_links, line 1", "http://b/q", "graph 2"],
    ),
    "fold with a foreign link": (
        {"721_5fold/1/test_links": "http://a/x\thttp://b/y\n"},
        ["test_links, line 1", "not among all links"],
    ),
    "fold that overlaps": (
        {"721_5fold/1/test_links": "http://a/x\thttp://b/x\n"},
        ["test_links, line 1", "another part"],
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_sentence_with_file_and_line(tiny_openea, case):
    replaced, expected = BAD[case]
    with pytest.raises(DataError) as error:
        data.load(tiny_openea(replaced))
    message = str(error.value)
    assert "\n" not in message
    assert all(part in message for part in expected), message


def test_links_of_one_entity_are_refused_only_where_that_is_asked_for(tiny_openea):
    directory = tiny_openea({"ent_links": "http://a/x\thttp://b/x\nhttp://a/y\thttp://b/x\n"})
    with pytest.raises(DataError, match=r"ent_links, line 2: .* is linked already on line 1"):
        data.load(directory, max_repeated_links=0)


def test_unknown_fold(tiny_openea):
    with pytest.raises(DataError, match=r"no fold 3; choose one of: 1"):
        data.load(tiny_openea(), fold=3)


def test_a_fold_of_no_folds_is_refused(tiny_openea):
    """It was passed over: every fold was the same split."""
    without = {name: None for name in OPENEA if name.startswith("721")}
    flat = {"split/train_links": "http://a/x\thttp://b/x\n", "split/test_links": "http://a/y\thttp://b/y\n"}
    for files in (without, without | flat):
        directory = tiny_openea(files)
        data.load(directory)
        with pytest.raises(DataError, match=r"fold=2, but .* has no folds to choose from; leave fold out"):
            data.load(directory, fold=2)


@pytest.mark.parametrize("together", [1, 2, 3, 100])
def test_entities_are_numbered_alike_however_many_blocks_are_taken_together(
    tiny_openea, monkeypatch, together
):
    """Blocks of a line or two, of which `together` share one look at their entities; errors still name the line."""
    triples = "".join(f"e{i * i % 11}\tr{i % 3}\te{i % 7}\n" for i in range(20))
    links = "".join(f"e{i}\te{i}\n" for i in range(7))
    files = {"rel_triples_1": triples, "rel_triples_2": triples, "ent_links": links}
    directory = tiny_openea({**files, **{name: None for name in OPENEA if name not in files}})
    whole = data.load(directory)
    monkeypatch.setattr(openea, "_TOGETHER", together)
    monkeypatch.setattr(textfile, "_BLOCK", 20)
    again = data.load(directory)
    assert again.uris == whole.uris
    assert again.relation_names == whole.relation_names
    assert torch.equal(again.triples, whole.triples)
    (directory / "rel_triples_2").write_text(triples + "e1\tr1\n" + triples)
    with pytest.raises(DataError, match="rel_triples_2, line 21: expected 3"):
        data.load(directory)
