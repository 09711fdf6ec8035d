"""Vectors as people have them: sparse in every format, an array an entity, several images, from every tool."""

import bz2
import collections
import gzip
import lzma
import pickle

import h5py
import numpy as np
import pyarrow as pa
import pytest
import torch
from safetensors.torch import save_file

import loginmea_fast.data as data
from loginmea_fast.errors import DataError
from tests.data.conftest import TINY

URIS = [
    "http://a/resource/Alpha",
    "http://a/resource/Beta",
    "http://b/resource/Alpha",
    "http://b/resource/Gamma",
]
IDS = [0, 1, 2, 5]
ROWS = np.array([[3, 4, 0], [0, 0, 2], [1, 0, 0], [0, 1, 0]], dtype=np.float32)


def load(tiny, path):
    return data.load(tiny(), modalities=["image"], vectors={"image": path})


def unit(rows):
    return torch.nn.functional.normalize(torch.from_numpy(np.asarray(rows, dtype=np.float32)))


def check(pair, ids=IDS, rows=ROWS):
    """The feature has these rows for these entities, and for no other."""
    feature = pair.features["image"]
    assert feature.present.nonzero()[:, 0].tolist() == sorted(ids)
    torch.testing.assert_close(feature.values[ids].float(), unit(rows), atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("shape", [(8, 8), (8, 4), (8, 6)])
@pytest.mark.parametrize("kind", ["csr", "csc", "coo", "bsr", "dia"])
@pytest.mark.parametrize("array", [False, True], ids=["matrix", "array"])
def test_sparse_in_every_format_of_scipy(tiny, tmp_path, kind, shape, array):
    sparse = pytest.importorskip("scipy.sparse")
    dense = np.random.default_rng(0).normal(size=shape) * (np.random.default_rng(1).random(shape) < 0.3)
    dense[2:4, :2] = [[1, 2], [3, 4]]
    matrix = (sparse.coo_array if array else sparse.coo_matrix)(dense.astype(np.float32)).asformat(kind)
    sparse.save_npz(tmp_path / "vectors.npz", matrix)
    feature = load(tiny, tmp_path / "vectors.npz").features["image"]
    assert feature.is_sparse
    assert np.array_equal(feature.values.to_dense().numpy(), dense.astype(np.float32))


@pytest.mark.parametrize("kind", ["csr", "bsr", "dia"])
def test_zeros_that_a_sparse_file_stores_are_none_of_an_entitys(tiny, tmp_path, kind):
    sparse = pytest.importorskip("scipy.sparse")
    dense = np.diag(np.arange(1.0, 9.0)).astype(np.float32)
    matrix = sparse.csr_matrix(dense)
    matrix.data[5] = 0
    sparse.save_npz(tmp_path / "vectors.npz", matrix.asformat(kind))
    present = load(tiny, tmp_path / "vectors.npz").features["image"].present
    assert present.tolist() == [row != 5 for row in range(8)]


def test_sparse_entries_at_the_same_place_are_added_up(tiny, tmp_path):
    path = tmp_path / "vectors.npz"
    np.savez(path, indptr=[0, 3, 3, 3, 3, 3, 3, 3, 3], indices=[2, 0, 2], data=[1.0, 5.0, 2.0], shape=[8, 3])
    assert load(tiny, path).features["image"].values.to_dense()[0].tolist() == [5, 0, 3]


@pytest.mark.parametrize(
    ("arrays", "told"),
    [
        (dict(format=b"lil", data=[1.0], rows=[0]), "format 'lil'"),
        (dict(indptr=[0, 1, 1, 1], indices=[7], data=[1.0], shape=[8, 3]), "CSC"),
        (dict(format=b"coo", row=[8], col=[0], data=[1.0], shape=[8, 3]), "8 rows and an entry in row 8"),
        (dict(format=b"coo", row=[0, 1], col=[0], data=[1.0], shape=[8, 3]), "2 rows, 1 columns"),
        (
            dict(format=b"csc", indptr=[0, 1, 1], indices=[7], data=[1.0], shape=[8, 3]),
            "CSC matrix of shape [8, 3]",
        ),
    ],
)
def test_what_is_no_sparse_matrix_is_named(tiny, tmp_path, arrays, told):
    np.savez(tmp_path / "vectors.npz", **arrays)
    with pytest.raises(DataError) as error:
        load(tiny, tmp_path / "vectors.npz")
    assert told in str(error.value)
    assert ".tocsr()" in str(error.value) or "store it again" in str(error.value)


@pytest.mark.parametrize("dtype", [">f4", ">f8", "<f2", ">f2", ">i4"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_byte_order_and_layout_are_the_files_own(tiny, tmp_path, dtype, order):
    full = np.zeros((8, 3), dtype=dtype, order=order)
    full[IDS] = ROWS
    np.save(tmp_path / "vectors.npy", full)
    check(load(tiny, tmp_path / "vectors.npy"))
    np.savez(
        tmp_path / "vectors.npz", ids=np.array(IDS, dtype=">i8"), features=np.asarray(ROWS, dtype, order)
    )
    check(load(tiny, tmp_path / "vectors.npz"))
    with h5py.File(tmp_path / "vectors.h5", "w") as file:
        file["ids"], file["features"] = np.array(IDS, dtype=">i8"), np.asarray(ROWS, dtype, order)
    check(load(tiny, tmp_path / "vectors.h5"))


def by_key(path, keys, rows=ROWS):
    """An array an entity, in whatever kind of file the suffix asks for."""
    arrays = dict(zip(keys, rows, strict=True))
    if path.suffix == ".npz":
        np.savez(path, **arrays)
    elif path.suffix == ".safetensors":
        save_file({key: torch.from_numpy(np.array(row)) for key, row in arrays.items()}, path)
    elif path.suffix == ".h5":
        with h5py.File(path, "w") as file:
            for key, row in arrays.items():
                file[key] = row
    elif path.suffix == ".pt":
        torch.save(arrays, path)
    elif path.suffix == ".npy":
        np.save(path, arrays)
    else:
        path.write_bytes(pickle.dumps(arrays))
    return path


KINDS = [".npz", ".safetensors", ".h5", ".pt", ".npy", ".pkl"]


@pytest.mark.parametrize("suffix", KINDS)
@pytest.mark.parametrize(
    ("keys", "told"),
    [
        (URIS, "by uris"),
        ([f"<{uri}>" for uri in URIS], "by uris"),
        ([str(entity) for entity in IDS], "vectors.{suffix};"),
        ([f"images/{uri}" for uri in URIS], "by uris"),
    ],
    ids=["uris", "brackets", "ids", "group"],
)
def test_an_array_an_entity(tiny, tmp_path, suffix, keys, told):
    pair = load(tiny, by_key(tmp_path / f"vectors{suffix}", keys))
    check(pair)
    assert told.format(suffix=suffix[1:]) in pair.features["image"].description
    assert not pair.notes


@pytest.mark.parametrize("suffix", KINDS)
def test_names_that_are_one_entitys(tiny, tmp_path, suffix):
    keys = ["Gamma Ray", "Gamma", "Delta", "Alpha", "Omega"]
    pair = load(tiny, by_key(tmp_path / f"vectors{suffix}", keys, [*ROWS, ROWS[0]]))
    check(pair, [4, 5, 7], ROWS[:3])
    assert "by names" in pair.features["image"].description
    assert pair.notes == (
        f"vectors{suffix}: 1 of 5 keys are no entity's and are left out (first: 'Omega'); the keys are taken for names",
        f"vectors{suffix}: 1 of 5 keys mean several entities and are left out (first: 'Alpha'); the keys are taken for "
        "names",
    )


SEVERAL = {
    "suffixes": [f"{URIS[0]}_0", f"{URIS[0]}_1", f"{URIS[1]}_0", f"{URIS[2]}_0"],
    "files": [f"{URIS[0]}/google_1.jpg", f"{URIS[0]}/bing_12.jpg", f"{URIS[1]}/a.jpg", f"{URIS[2]}/b.png"],
    "groups": [f"{URIS[0]}/first", f"{URIS[0]}/other", f"{URIS[1]}/first", f"{URIS[2]}/first"],
    "groups in a group": [f"all/{URIS[0]}/x", f"all/{URIS[0]}/y", f"all/{URIS[1]}/x", f"all/{URIS[2]}/x"],
    "ids": ["0_0", "0_1", "1_0", "2_0"],
}


@pytest.mark.parametrize("suffix", KINDS)
@pytest.mark.parametrize("way", SEVERAL)
def test_several_images_under_keys_of_their_own_are_averaged(tiny, tmp_path, suffix, way):
    pair = load(tiny, by_key(tmp_path / f"vectors{suffix}", SEVERAL[way]))
    check(pair, [0, 1, 2], [(ROWS[0] + ROWS[1]) / 2, ROWS[2], ROWS[3]])
    assert pair.notes == (
        f"vectors{suffix}: 1 entities have several vectors, 2 at most, which are averaged (first: entity 0)",
    )


@pytest.mark.parametrize(
    "content",
    [
        {0: ROWS[:2], 1: ROWS[2], 2: ROWS[3]},
        {0: [ROWS[0], ROWS[1]], 1: [ROWS[2]], 2: [ROWS[3]]},
        {0: {"a": ROWS[0], "b": ROWS[1]}, 1: {"a": ROWS[2]}, 2: {"a": ROWS[3]}},
        {0: ROWS[:2].tolist(), 1: tuple(ROWS[2].tolist()), 2: ROWS[3], 3: None, 4: [], 6: np.zeros((0, 3))},
        {0: torch.from_numpy(ROWS[:2]).half(), 1: torch.from_numpy(ROWS[2]), 2: torch.from_numpy(ROWS[3:])},
        collections.OrderedDict({0: ROWS[:2], 1: ROWS[2], 2: ROWS[3]}),
        collections.defaultdict(list, {0: [ROWS[0], ROWS[1]], 1: [ROWS[2]], 2: [ROWS[3]]}),
        {URIS[0].encode(): ROWS[:2], URIS[1].encode(): ROWS[2], URIS[2].encode(): ROWS[3]},
        {"uris": [URIS[0], *URIS[:3]], "features": ROWS},
        {"ids": np.array([0, 0, 1, 2]), "features": torch.from_numpy(ROWS)},
    ],
    ids=["matrix", "list", "group", "empty", "tensors", "ordered", "default", "bytes", "uris", "ids"],
)
@pytest.mark.parametrize("suffix", [".pkl", ".pt", ".npy"])
def test_several_images_inside_a_dictionary_are_averaged(tiny, tmp_path, content, suffix):
    path = tmp_path / f"vectors{suffix}"
    if suffix == ".pkl":
        path.write_bytes(pickle.dumps(content))
    elif suffix == ".pt":
        torch.save(content, path)
    else:
        np.save(path, content)
    pair = load(tiny, path)
    check(pair, [0, 1, 2], [(ROWS[0] + ROWS[1]) / 2, ROWS[2], ROWS[3]])
    assert "averaged" in pair.notes[-1]
    empty = any(value is None for value in content.values())
    assert empty == any("3 keys hold no vector (first: '3')" in note for note in pair.notes)


@pytest.mark.parametrize("text", [np.array(URIS), np.array(URIS, dtype="S"), np.array(URIS, dtype=object)])
def test_rows_whose_owners_are_strings(tiny, tmp_path, text):
    np.savez(tmp_path / "vectors.npz", uris=text, features=ROWS)
    check(load(tiny, tmp_path / "vectors.npz"))
    with h5py.File(tmp_path / "vectors.h5", "w") as file:
        file["uris"], file["features"] = text.astype("S"), ROWS
    check(load(tiny, tmp_path / "vectors.h5"))


def test_mmkb_names_its_images_by_an_index(tiny, tmp_path):
    uris = [f"<{uri}>" for uri in URIS]
    index = "".join(f"{uri}\tIMG0000{number}\n" for number, uri in enumerate(uris))
    (tmp_path / "DB15K_ImageIndex.txt").write_text(index + "<http://elsewhere/Omega>\tIMG00009\n")
    path = tmp_path / "DB15K_ImageData.h5"
    with h5py.File(path, "w") as file:
        for number, row in enumerate([*ROWS, ROWS[0]]):
            file[f"IMG0000{number if number < 4 else 9}"] = row[None]
    pair = load(tiny, path)
    check(pair)
    assert "images of an index" in pair.features["image"].description
    assert "1 of 5 keys are no entity's and are left out (first: 'IMG00009')" in pair.notes[0]


def test_a_list_of_vectors_keeps_its_gaps(tiny, tmp_path):
    rows = [ROWS[0], None, ROWS[1], None, None, ROWS[2], [], None]
    array = np.empty(8, dtype=object)
    array[:] = rows
    np.save(tmp_path / "vectors.npy", array)
    check(load(tiny, tmp_path / "vectors.npy"), [0, 2, 5], ROWS[:3])
    (tmp_path / "vectors.pkl").write_bytes(pickle.dumps(rows))
    check(load(tiny, tmp_path / "vectors.pkl"), [0, 2, 5], ROWS[:3])


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_tensors_that_torch_saved(tiny, tmp_path, zipped, dtype):
    path = tmp_path / "vectors.pt"
    full = torch.zeros(8, 3, dtype=dtype)
    full[IDS] = torch.from_numpy(ROWS).to(dtype)
    for content in (
        full,
        full.T.contiguous().T,
        {"weight": full},
        {"ids": torch.tensor(IDS), "features": full[IDS]},
    ):
        torch.save(content, path, _use_new_zipfile_serialization=zipped)
        pair = load(tiny, path)
        check(pair)
        assert pair.features["image"].values.dtype == dtype


def test_a_file_is_what_its_content_says(tiny, tmp_path):
    np.savez(tmp_path / "vectors.pkl", ids=IDS, features=ROWS)
    (tmp_path / "vectors.pkl.npz").rename(tmp_path / "vectors.pkl")
    check(load(tiny, tmp_path / "vectors.pkl"))
    (tmp_path / "vectors.h5").write_bytes(pickle.dumps(dict(zip(IDS, ROWS, strict=True))))
    check(load(tiny, tmp_path / "vectors.h5"))


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_tiny_and_huge_rows_end_at_length_one(tiny, tmp_path, scale):
    np.savez(tmp_path / "vectors.npz", ids=IDS, features=ROWS * np.float32(scale))
    check(load(tiny, tmp_path / "vectors.npz"))


def test_errors_stay_short_however_many_arrays_there_are(tiny, tmp_path):
    path = by_key(
        tmp_path / "vectors.npz", [f"stranger-{number}" for number in range(5000)], np.ones((5000, 2))
    )
    with pytest.raises(DataError) as error:
        load(tiny, path)
    assert "none of 5,000 keys" in str(error.value)
    assert len(str(error.value)) < 600


PACK = {
    ".gz": gzip.compress,
    ".zst": lambda content: pa.compress(content, codec="zstd", asbytes=True),
    ".bz2": bz2.compress,
}


@pytest.mark.parametrize("suffix", KINDS)
@pytest.mark.parametrize("packed", PACK)
def test_compressed_files_are_read(tiny, tmp_path, suffix, packed):
    path = by_key(tmp_path / f"vectors{suffix}", URIS)
    content = PACK[packed](path.read_bytes())
    path.write_bytes(content)  # under its plain name
    check(load(tiny, path))
    directory = tiny()
    (directory / f"features_image{suffix}{packed}").write_bytes(content)
    check(data.load(directory, modalities=["image"]))


STRANGERS = {
    "pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "git lfs pull"),
    "page": (b"<!DOCTYPE html>\n<html><body>404</body></html>", "is a web page"),
    "packed page": (gzip.compress(b"<html>404</html>"), "is a web page"),
    "xz": (lzma.compress(b"x"), "is xz data; unpack it first"),
    "tar": (b"a".ljust(257, b"\0") + b"ustar\0" + bytes(300), "is a tar archive; unpack it first"),
    "MATLAB": (b"MATLAB 5.0 MAT-file".ljust(128), "scipy.io.loadmat"),
    "Parquet, cut short": (b"PAR1" + bytes(20), "cannot be read"),
    "image": (b"\x89PNG\r\n\x1a\n" + bytes(20), "is an image"),
    "cut short": (gzip.compress(bytes(range(256)) * 99)[:-30], "cut short or damaged"),
    "nothing inside": (gzip.compress(b""), "is no file of vectors"),
}


@pytest.mark.parametrize("suffix", [".npy", ".h5", ".pt", ".safetensors"])
@pytest.mark.parametrize("kind", STRANGERS)
def test_what_is_no_file_of_vectors_is_named(tiny, tmp_path, kind, suffix):
    content, told = STRANGERS[kind]
    path = tmp_path / f"vectors{suffix}"
    path.write_bytes(content)
    with pytest.raises(DataError) as error:
        load(tiny, path)
    assert told in str(error.value)
    assert str(error.value).startswith(str(path))
    assert "\n" not in str(error.value)


def test_ids_are_those_of_the_files(tiny, tmp_path):
    ids_in = {
        "ent_ids_1": [0],
        "ent_ids_2": [0],
        "ill_ent_ids": [0, 1],
        "triples_1": [0, 2],
        "triples_2": [0, 2],
    }
    from_one = {}
    for name, columns in ids_in.items():
        rows = [line.split("\t") for line in TINY[name].splitlines()]
        moved = [[str(int(cell) + 1) if k in columns else cell for k, cell in enumerate(row)] for row in rows]
        from_one[name] = "".join("\t".join(row) + "\n" for row in moved)
    directory = tiny(**from_one, translated_names_json=None)
    for name, content in (
        ("integers", {entity + 1: row for entity, row in zip(IDS, ROWS, strict=True)}),
        ("strings", {str(entity + 1): row for entity, row in zip(IDS, ROWS, strict=True)}),
    ):
        path = tmp_path / f"{name}.pkl"
        path.write_bytes(pickle.dumps(content))
        pair = data.load(directory, modalities=["image"], vectors={"image": path})
        uris = [pair.uris[entity] for entity in pair.features["image"].present.nonzero()[:, 0].tolist()]
        assert sorted(uris) == sorted(URIS)


@pytest.mark.parametrize("suffix", [".npz", ".h5"])
def test_keys_are_spelt_by_the_rule_of_every_file(tiny, tmp_path, suffix):
    """https for http and characters in parts were nobody's, and of two listed ones that are alike neither was meant."""
    # HDF5 alters every uri, so that there no key is one of two that are alike to the letter.
    twin = "<http://a/resource/Beta>" if suffix == ".npz" else "http://a/resource/Gamma"
    uris = ["http://a/resource/Caf\u00e9", "http://a/resource/Beta", twin, "http://a/resource/D"]
    lists = "".join(f"{entity}\t{uri}\n" for entity, uri in zip((0, 1, 4, 6), uris, strict=True))
    directory = tiny(ent_ids_1=lists, training_attrs_1=None)
    said = ["https://a/resource/Cafe\u0301", *uris[1:3], f" <{uris[3]}>"]
    path = tmp_path / f"vectors{suffix}"
    rows = np.eye(4, dtype=np.float32)
    if suffix == ".npz":
        np.savez(path, features=rows, uris=np.array(said))
    else:
        with h5py.File(path, "w") as file:
            for key, row in zip(said, rows, strict=True):
                file[key] = row
    pair = data.load(directory, modalities=["image"], vectors={"image": path})
    assert pair.features["image"].values[[0, 1, 4, 6]].tolist() == rows.tolist()
    assert not any("keys" in note for note in pair.notes)


def test_owners_beside_a_mask_are_refused(tiny, tmp_path):
    """The owners were not looked at, and rows went to other entities."""
    path = tmp_path / "vectors.npz"
    np.savez(path, features=np.eye(8), ids=np.arange(8)[::-1], present=np.ones(8, dtype=bool))
    with pytest.raises(DataError, match=r"vectors\.npz: holds ids, .* and 'present', .*; keep one of them"):
        data.load(tiny(), modalities=["image"], vectors={"image": path})


def test_a_mask_is_no_row_of_ids(tiny, tmp_path):
    path = tmp_path / "vectors.npz"
    np.savez(path, features=np.eye(8), ids=np.ones(8, dtype=bool))
    with pytest.raises(DataError, match=r"ids of torch\.bool; ids must be integers"):
        data.load(tiny(), modalities=["image"], vectors={"image": path})


def test_keys_that_both_graphs_have_are_not_told_to_be_uris(tiny, tmp_path):
    """The remedy was to name the arrays by uris, which they were."""
    directory = tiny(ent_ids_2=TINY["ent_ids_2"].replace("http://b", "http://a"), training_attrs_2=None)
    path = tmp_path / "vectors.npz"
    np.savez(path, features=np.eye(2), uris=np.array(["nobody", "http://a/resource/Beta"]))
    told = r"1 of 2 keys, taken for uris, .* the first being 'http://a/resource/Beta'.*; store 'ids' and 'features'"
    with pytest.raises(DataError, match=told):
        data.load(directory, modalities=["image"], vectors={"image": path})


def packed(path, content):
    """A file of whatever kind the suffix asks for that holds a content as it is."""
    if path.suffix == ".pkl":
        path.write_bytes(pickle.dumps(content))
    elif path.suffix in (".pt", ".old"):
        torch.save(content, path, _use_new_zipfile_serialization=path.suffix == ".pt")
    elif path.suffix == ".npy":
        array = np.empty((), dtype=object)
        array[()] = content
        np.save(path, array)
    elif path.suffix == ".npz":
        np.savez(path, **content)
    else:
        with h5py.File(path, "w") as file:
            for name, value in content.items():
                array = np.asarray(value)
                file[name] = array.astype("S") if array.dtype.kind == "U" else array
    return path


ENTRANCES = [".pkl", ".pt", ".old", ".npy", "passed"]


def enter(tiny, tmp_path, content, entrance):
    source = content if entrance == "passed" else packed(tmp_path / f"vectors{entrance}", content)
    return load(tiny, source)


@pytest.mark.parametrize("entrance", ENTRANCES)
@pytest.mark.parametrize(
    "content",
    [
        list(zip(IDS, ROWS, strict=True)),
        list(zip(URIS, ROWS.tolist(), strict=True)),
        [[uri, torch.from_numpy(row)] for uri, row in zip(URIS, ROWS, strict=True)],
        [(URIS[0], 2 * ROWS[0]), (URIS[0], np.zeros(3)), *zip(URIS[1:], ROWS[1:], strict=True)],
        (np.array(IDS), ROWS),
        (ROWS, URIS),
        dict(zip(map(np.int64, IDS), ROWS, strict=True)),
    ],
    ids=[
        "pairs of ids",
        "pairs of uris",
        "pairs of tensors",
        "repeated",
        "two",
        "two turned",
        "numpy's integers",
    ],
)
def test_pairs_are_read(tiny, tmp_path, content, entrance):
    check(enter(tiny, tmp_path, content, entrance))


@pytest.mark.parametrize("entrance", [*ENTRANCES, ".npz", ".h5"])
@pytest.mark.parametrize(
    "content",
    [
        {"embeddings": ROWS, "entity": np.array(IDS)},
        {"embeddings": ROWS, "entity": URIS},
        {"entityIds": np.array(IDS), "img_feats": ROWS},
        {"features": ROWS, "entity_ids": np.array(IDS)},
        {"a": ROWS, "b": np.array(URIS)},
    ],
    ids=["ids", "uris", "camel case", "features", "strings"],
)
def test_two_arrays_by_other_names_are_read(tiny, tmp_path, content, entrance):
    """The owners of 'features' by a name that was not known were passed over, and a row was an entity."""
    pair = enter(tiny, tmp_path, content, entrance)
    check(pair)
    assert not pair.notes


def test_arrays_that_are_not_read_are_named(tiny, tmp_path):
    full = np.zeros((8, 3), dtype=np.float32)
    full[IDS] = ROWS
    np.savez(tmp_path / "vectors.npz", features=full, labels=np.arange(8), model=np.array("vgg"))
    pair = load(tiny, tmp_path / "vectors.npz")
    check(pair)
    assert pair.notes == ("vectors.npz: 'labels', 'model' not read",)


@pytest.mark.parametrize("kind", [np.asarray, torch.from_numpy, lambda rows: np.ma.masked_array(rows)])
def test_an_array_that_is_passed(tiny, kind):
    full = np.zeros((8, 3), dtype=np.float32)
    full[IDS] = ROWS
    given = kind(full)
    pair = load(tiny, given)
    check(pair)
    assert "vectors from vectors['image']" in pair.features["image"].description
    assert np.array_equal(np.asarray(given), full), "it is not altered"


@pytest.mark.parametrize("dense", [False, True])
def test_a_sparse_matrix_that_is_passed(tiny, dense):
    sparse = pytest.importorskip("scipy.sparse")
    full = np.diag(np.arange(8.0)).astype(np.float32)
    matrix = torch.from_numpy(full).to_sparse_csr() if dense else sparse.csc_array(full)
    feature = load(tiny, matrix).features["image"]
    assert feature.is_sparse
    assert torch.equal(feature.values.to_dense(), torch.from_numpy(full))
    assert feature.present.tolist() == [False] + 7 * [True]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (5, "holds a int; expected a dictionary"),
        ({}, "holds a dict"),
        ([], "holds a list"),
        (np.ones((7, 3)), "features of shape [7, 3] for 8 entities"),
        ({"nobody": [1.0]}, "none of 1 keys"),
        (
            np.ma.masked_array(np.ones((8, 3)), mask=np.eye(8, 3)),
            "entity 0 ('http://a/resource/Alpha') holds NaN",
        ),
    ],
)
def test_what_is_passed_and_no_vectors_is_one_sentence(tiny, content, told):
    with pytest.raises(DataError) as error:
        load(tiny, content)
    assert str(error.value).startswith("vectors['image']: ")
    assert told in str(error.value)


@pytest.mark.parametrize("entrance", ENTRANCES)
@pytest.mark.parametrize("as_text", [False, True])
def test_keys_that_are_nobodys_are_a_counted_note_whatever_they_are(tiny, tmp_path, entrance, as_text):
    """Those that were integers were an error, and strings a note."""
    keys = [*IDS, 99]
    content = {str(key) if as_text else key: row for key, row in zip(keys, [*ROWS, ROWS[0]], strict=True)}
    pair = enter(tiny, tmp_path, content, entrance)
    check(pair)
    (note,) = pair.notes
    assert note.endswith(
        ": 1 of 5 keys are no entity's and are left out (first: '99'); the keys are taken for ids"
    )


def test_ids_that_count_from_one_are_suspected(tiny, tmp_path):
    pair = load(tiny, {entity + 1: np.eye(8)[entity] for entity in range(8)})
    assert any("ids seem to count from 1, those of the entities from 0" in note for note in pair.notes)
    pair = load(tiny, {entity: np.eye(9)[entity] for entity in range(9)})
    assert not any("seem to count" in note for note in pair.notes)


ROW_NOTE = (
    "the files give entities no ids, so they count as they first appear in the files of triples; {what} 0 is that of "
    "'http://a/x', the first of graph 1, {what} 3 that of 'http://b/x', the first of graph 2: where that is not so, "
    "name the vectors by uris"
)


@pytest.mark.parametrize("entrance", ENTRANCES)
@pytest.mark.parametrize(
    ("content", "what"),
    [
        (np.eye(6), "row"),
        (list(np.eye(6)), "row"),
        ({"features": np.eye(6)}, "row"),
        ({"features": np.eye(6), "present": np.ones(6, dtype=bool)}, "row"),
        (dict(enumerate(np.eye(6))), "id"),
        ({str(entity): row for entity, row in enumerate(np.eye(6))}, "id"),
        ({"features": np.eye(6), "ids": np.arange(6)}, "id"),
    ],
    ids=["array", "list", "features", "complete", "ids", "ids as strings", "array of ids"],
)
def test_rows_and_ids_that_no_file_gives_are_said(tiny_openea, tmp_path, content, what, entrance):
    """An array for a directory whose ids the reader makes was taken without a word on what its order means."""
    source = content if entrance == "passed" else packed(tmp_path / f"vectors{entrance}", content)
    pair = data.load(tiny_openea(), modalities=["image"], vectors={"image": source})
    assert torch.equal(pair.features["image"].values.float(), torch.eye(6))
    assert pair.notes[-1].split(": ", 1)[1] == ROW_NOTE.format(what=what)


def test_rows_go_by_the_ids_of_the_files_where_these_are_others(tiny):
    """Ids with gaps, and ids of both graphs: what a row is, is said; keys go by the files and need no word."""
    gaps = {name: TINY[name].replace("6\t", "66\t") for name in ("ent_ids_1", "ill_ent_ids")}
    pair = data.load(tiny(**gaps), modalities=["image"], vectors={"image": np.eye(8)})
    assert (
        "entities stand in the order of these; row 0 is that of 'http://a/resource/Alpha'" in pair.notes[-1]
    )
    pair = data.load(tiny(**gaps), modalities=["image"], vectors={"image": {66: [1.0], 0: [2.0]}})
    assert not any("row" in note or "id 0" in note for note in pair.notes)
    pair = load(tiny, np.eye(8))
    assert not pair.notes, "the files give the ids 0 to 7"


def test_rows_by_uris_need_no_word(tiny_openea):
    vectors = {"image": {"http://a/x": [1.0], "http://b/y": [2.0]}}
    pair = data.load(tiny_openea(), modalities=["image"], vectors=vectors)
    assert not any("row" in note for note in pair.notes)


@pytest.mark.hostile("archives and arrays")
@pytest.mark.parametrize(
    ("target", "told"),
    [
        (h5py.ExternalLink("elsewhere.h5", "/a"), "'2' is a link to another file, which is not followed"),
        (h5py.SoftLink("/nowhere"), "'2' is a link to nothing"),
        (
            np.zeros(2, dtype=[("id", "i8"), ("v", "f4", 3)]),
            "'2' is a table with the columns id, v; store its keys as 'ids'",
        ),
    ],
)
def test_what_hdf5_has_in_place_of_an_array_is_told(tiny, tmp_path, target, told):
    """Links were passed over, and with them the entities that they stand for."""
    with h5py.File(by_key(tmp_path / "vectors.h5", ["0", "1"], ROWS[:2]), "a") as file:
        file["again"] = h5py.SoftLink("/")
        file["2"] = target
    with pytest.raises(DataError) as error:
        load(tiny, tmp_path / "vectors.h5")
    assert told in str(error.value)


def test_links_inside_an_hdf5_file_are_followed(tiny, tmp_path):
    with h5py.File(by_key(tmp_path / "vectors.h5", ["store/a"], ROWS[:1]), "a") as file:
        file["0"] = h5py.SoftLink("/store/a")
    pair = load(tiny, tmp_path / "vectors.h5")
    check(pair, [0], ROWS[:1])


def test_a_list_of_images_of_one_graph_is_said(tiny):
    """Rows of the other graph were gaps without a word."""
    pair = data.load(tiny(has_image_1="0\n"), modalities=["image"], vectors={"image": np.ones((8, 3))})
    assert pair.features["image"].present.sum() == 1
    assert (
        "has_image_2 is not there: no entity of graph 2 counts as one with an image of its own" in pair.notes
    )
