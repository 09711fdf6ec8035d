"""Whatever lies in a directory is read, or named with the reason; what no one means is passed over."""

import shutil

import pytest
import torch

import loginmea_fast.data as data
from loginmea_fast.data.directory import plain_name
from loginmea_fast.data.filekind import is_clutter
from loginmea_fast.errors import DataError
from loginmea_fast.runs import load_pair
from loginmea_fast.training.config import Config
from tests.data.conftest import OPENEA, TINY, write_files

CLUTTER = [
    "._{}", ".DS_Store", "Thumbs.db", "desktop.ini", "{}~", ".{}.swp", "#{}#", "~${}", "{}.bak", "{}.orig", "{}.tmp",
    "{}.part", "{}.swp", "__MACOSX",
]  # fmt: skip


@pytest.mark.parametrize("pattern", CLUTTER)
def test_files_that_no_one_means_are_passed_over(tiny, tiny_openea, pattern):
    for directory, names in ((tiny(), TINY), (tiny_openea(), OPENEA)):
        before = data.load(directory)
        (directory / "features_image.npy.bak").write_bytes(b"\x00")
        for name in [*names, "features_image.npy", "A_id_img_feature_dict.pkl", "sup_ent_ids"]:
            path = directory / name
            (path.parent / pattern.format(path.name)).write_bytes(b"\x00\x05\x16\x07\x00\x02")
        after = data.load(directory)
        assert after.notes == before.notes
        assert after.uris == before.uris
        assert list(after.features) == list(before.features)


def test_clutter_is_told_by_name():
    assert all(is_clutter(pattern.format("name.pkl")) for pattern in CLUTTER)
    assert not any(map(is_clutter, [*TINY, "features_image.pkl", "721_5fold", "README.md", "a.tmp.npy"]))


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        ("ent_ids_1.txt.gz", "ent_ids_1"),
        ("ent_ids_1.tsv", "ent_ids_1"),
        ("a.json.zst", "a.json"),
        (".gz", ".gz"),
    ],
)
def test_plain_names(name, plain):
    assert plain_name(name) == plain


def test_two_files_of_one_meaning_are_an_error(tiny):
    directory = write_files(tiny(), {"ent_ids_1.txt": TINY["ent_ids_1"]})
    with pytest.raises(
        DataError, match=r"ent_ids_1, ent_ids_1.txt, which are all 'ent_ids_1'; remove all but one"
    ):
        data.load(directory)


WORDS = {
    "train": ["sup", "train", "training", "seed"],
    "valid": ["dev", "val", "valid", "validation"],
    "test": ["ref", "test"],
}


@pytest.mark.parametrize(
    ("part", "word", "ending"),
    [
        (part, word, ending)
        for part, words in WORDS.items()
        for word in words
        for ending in ("ent_ids", "links", "pairs")
    ],
)
def test_parts_of_a_split_under_every_name(tiny, part, word, ending):
    """Ids, or identifiers as files of links have them; with and without the file of all links."""
    own = {"train": "0\t2\n", "valid": "1\t3\n", "test": "4\t5\n6\t7\n"}
    names = {"train": "sup_ent_ids", "valid": "dev_ent_ids", "test": "ref_ent_ids"} | {
        part: f"{word}_{ending}"
    }
    files = {names[key]: text for key, text in own.items()}
    uris = dict(line.split("\t") for side in (1, 2) for line in TINY[f"ent_ids_{side}"].splitlines())
    spelt = "".join(
        "\t".join(uris[token] for token in line.split("\t")) + "\n"
        for line in files[names[part]].splitlines()
    )
    for text in (files[names[part]], spelt):
        for whole in (TINY["ill_ent_ids"], None):
            pair = data.load(tiny(ill_ent_ids=whole, **(files | {names[part]: text})))
            split = pair.official_split
            assert [part.tolist() for part in (split.train, split.valid, split.test)] == [
                [[0, 2]],
                [[1, 3]],
                [[4, 5], [6, 7]],
            ]
            assert sorted(pair.links.tolist()) == [[0, 2], [1, 3], [4, 5], [6, 7]]
            assert [note.split(",")[0] for note in pair.notes] == (
                [] if whole else ["ill_ent_ids is not there"]
            )
            shutil.rmtree(tiny())


def test_two_files_of_one_part_are_an_error_or_named(tiny):
    with pytest.raises(DataError, match="sup_ent_ids and train_ent_ids both hold the train links"):
        data.load(tiny(sup_ent_ids="0\t2\n", train_ent_ids="0\t2\n", ref_ent_ids="1\t3\n"))


def test_files_that_say_the_same_part_are_named(tiny):
    pair = data.load(tiny(sup_ent_ids="0\t2\n", ref_ent_ids="1\t3\n4\t5\n6\t7\n", ref_pairs="x\ty\n"))
    assert pair.notes == ("not read in tiny: ref_pairs (ref_ent_ids holds the same links)",)


@pytest.mark.parametrize(
    "name", ["triples_3", "unsup_ent_ids", "extra_links", "attr_range_type", "notes.json"]
)
def test_what_nobody_reads_is_named(tiny, tiny_openea, name):
    for directory in (tiny(), tiny_openea()):
        (directory / name).write_text("0\t2\n")
        (note,) = [note for note in data.load(directory).notes if "not read" in note]
        assert f"{name} (no file of this layout)" in note


def test_attribute_values_are_named(tiny):
    directory = tiny(attr_triples_1="http://a/resource/Alpha\tage\t3\n")
    assert list(data.load(directory).features) == ["relation", "attribute", "value"]
    pair = data.load(directory, modalities="relation,attribute")
    assert pair.attributes.types == ["size", "age"]
    note = "values in attr_triples_1 are not read; the modality 'value' is made of them"
    assert pair.notes == (note,)
    assert note not in data.load(directory, modalities="relation,value").notes


def test_documents_are_no_data(tiny):
    directory = write_files(
        tiny(), dict.fromkeys(["README", "README.md", "LICENSE.txt", "run.py", "a.pdf"], "x")
    )
    assert data.load(directory).notes == ()


def test_vectors_that_are_no_modality_are_named(tiny):
    directory = tiny()
    for name in ("features_image.mat", "pictures.npy"):
        (directory / name).write_bytes(b"")
    (note,) = data.load(directory).notes
    assert "features_image.mat (.mat is no known suffix)" in note
    assert "pictures.npy" in note


def test_openea_folds_of_other_names_and_beside(tiny_openea):
    folds = {name: None for name in OPENEA if "fold" in name}
    parts = {name.rsplit("/")[-1]: text for name, text in OPENEA.items() if "fold" in name}
    for folder in ("", "631/", "my_folds/1/", "721_5fold/"):
        pair = data.load(tiny_openea(folds | {folder + name: text for name, text in parts.items()}))
        assert pair.official_split.train.tolist() == [[0, 3]]
        assert not any("not read" in note for note in pair.notes)
        shutil.rmtree(tiny_openea(folds))


def test_openea_without_a_file_of_all_links(tiny_openea):
    pair = data.load(tiny_openea({"ent_links": None}))
    assert pair.links.tolist() == [[0, 3], [1, 4], [2, 5]]
    assert "ent_links is not there, the links are those of train_links, valid_links, test_links" in pair.notes


def test_openea_names_the_splits_that_it_does_not_take(tiny_openea):
    pair = data.load(
        tiny_openea({"train_links": OPENEA["721_5fold/1/train_links"], "631/train_links": "x\ty\n"})
    )
    (note,) = [note for note in pair.notes if "not read" in note]
    assert "631 (the official split is 721_5fold's)" in note
    assert "train_links (the official split is 721_5fold's)" in note


def test_a_fold_without_test_links_gets_the_rest(tiny_openea):
    pair = data.load(tiny_openea({"721_5fold/1/test_links": None}))
    assert pair.official_split.test.tolist() == [[2, 5]]
    assert any("they are the 1 links outside of train_links, valid_links" in note for note in pair.notes)


def test_every_link_as_a_seed(tiny):
    pair = data.load(tiny(ill_ent_ids=None, sup_ent_ids=TINY["ill_ent_ids"]))
    assert len(pair.official_split.train) == 4
    assert len(pair.official_split.test) == 0
    assert len(pair.split(1.0, 0.0).test) == 0
    assert torch.equal(data.load(tiny(sup_ent_ids=TINY["ill_ent_ids"])).links, pair.links)


def test_names_from_an_attribute_by_configuration(tiny):
    directory = tiny(
        attr_triples_1="http://a/resource/Alpha\tlabel\tOne\n",
        attr_triples_2="http://b/resource/Alpha\tname\tTwo\n",
    )
    config = Config.build(path=str(directory), name_attributes=["label", "name"], modalities=["name"])
    assert load_pair(config).words == {0: ["One"], 2: ["Two"]}
