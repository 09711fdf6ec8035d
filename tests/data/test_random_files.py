"""Whatever a file holds, loading gives a pair or one DataError sentence, never another exception."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import loginmea_fast.data as data
from loginmea_fast.errors import DataError
from tests.data.conftest import OPENEA, TINY, write_files

DBP15K_FILES = [*TINY, "rel_ids_1", "has_image_1", "sup_ent_ids", "dev_ent_ids", "ref_ent_ids"]

token = st.one_of(
    st.integers(-2, 9).map(str),
    st.sampled_from(["", "0", "99999999999999999999", "1e3", "٣", "x", "http://a/x", "\x00", "²", "\ufeff"]),
    st.text(max_size=4),
)
separator = st.sampled_from(["\t", "\t", "\t", " ", "\n", "\r\n", "\n\n"])
lines = (
    st.lists(st.tuples(token, separator).map("".join), max_size=20)
    .map("".join)
    .map(lambda text: text.encode("utf-8", "surrogatepass"))
)
content = st.one_of(st.binary(max_size=60), lines)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner, max_size=2),
    max_leaves=8,
)


def load_or_one_sentence(directory, **options):
    """Loads, and where that fails checks what was said; an error of any other type passes through."""
    pair, said = None, ""
    try:
        pair = data.load(directory, **options)
    except DataError as error:
        said = str(error)
    assert "\n" not in said
    if pair is not None:
        pair.describe()
        pair.graph()


@settings(max_examples=300)
@given(st.sampled_from(DBP15K_FILES), content)
def test_dbp15k(tmp_path_factory, name, content):
    directory = write_files(tmp_path_factory.getbasetemp() / "random", TINY)
    for extra in DBP15K_FILES[len(TINY) :]:
        (directory / extra).unlink(missing_ok=True)
    if name == "sup_ent_ids":
        write_files(directory, {"ref_ent_ids": TINY["ill_ent_ids"]})
    (directory / name).write_bytes(content)
    load_or_one_sentence(directory, modalities=["relation", "name", "word"], max_repeated_links=1)


@settings(max_examples=200)
@given(st.sampled_from(list(OPENEA)), content)
def test_openea(tmp_path_factory, name, content):
    directory = write_files(tmp_path_factory.getbasetemp() / "random_openea", OPENEA)
    (directory / name).write_bytes(content)
    load_or_one_sentence(directory, modalities=["relation", "name"], max_repeated_links=1)


@given(values)
def test_translated_names(tmp_path_factory, value):
    directory = write_files(tmp_path_factory.getbasetemp() / "random_names", TINY)
    (directory / "translated_names.json").write_text(json.dumps(value), encoding="utf-8")
    load_or_one_sentence(directory, modalities=["name"])


@settings(max_examples=100)
@pytest.mark.parametrize("suffix", [".npy", ".npz", ".safetensors", ".h5", ".pkl"])
@given(st.binary(min_size=1, max_size=80), st.booleans())
def test_vectors(tmp_path_factory, suffix, tail, with_magic):
    magic = {
        ".npy": b"\x93NUMPY\x01\x00",
        ".npz": b"PK\x03\x04",
        ".safetensors": b"\x10\x00\x00\x00\x00\x00\x00\x00",
        ".h5": b"\x89HDF\r\n\x1a\n",
        ".pkl": b"\x80\x04",
    }
    directory = write_files(tmp_path_factory.getbasetemp() / "random_vectors", TINY)
    path = directory.parent / f"vectors{suffix}"
    path.write_bytes(magic[suffix] * with_magic + tail)
    load_or_one_sentence(directory, modalities=["image"], vectors={"image": path})
