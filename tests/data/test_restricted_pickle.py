import collections
import datetime
import os
import pickle
import re
import zipfile

import numpy as np
import pytest
import scipy.sparse
import torch
from hypothesis import given
from hypothesis import strategies as st

from loginmea_fast.data.restricted_pickle import load_restricted_pickle, load_restricted_torch
from loginmea_fast.errors import DataError

# The names under which numpy 1 pickles arrays; numpy 2 writes numpy._core. The bytes differ in nothing else.
CORES = ["numpy.core", "numpy._core"]


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("dtype", ["<f4", ">f8", "<f2", "|u1", "<i8", "?"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_arrays_of_every_protocol(tmp_path, protocol, dtype, order):
    array = np.asarray(np.arange(6).reshape(2, 3) % 2, dtype=dtype, order=order)
    path = tmp_path / "array.pkl"
    path.write_bytes(pickle.dumps(array, protocol))
    loaded = np.asarray(load_restricted_pickle(path))
    # Some protocols turn the byte order of other machines into this one's, some leave it.
    assert loaded.dtype.newbyteorder("=") == array.dtype.newbyteorder("=")
    assert np.array_equal(loaded, array)


@pytest.mark.parametrize("core", CORES)
@pytest.mark.parametrize("protocol", [0, 2, 3])
def test_arrays_of_numpy_1_and_2(tmp_path, core, protocol):
    content = pickle.dumps({np.int64(7): np.arange(3.0), 8: np.float32(0.5)}, protocol)
    for own in CORES:
        content = content.replace(f"{own}.multiarray".encode(), b"CORE.multiarray")
    path = tmp_path / "array.pkl"
    path.write_bytes(content.replace(b"CORE", core.encode()))
    loaded = load_restricted_pickle(path)
    assert loaded[7].tolist() == [0, 1, 2]
    assert loaded[8] == 0.5


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_containers(tmp_path, protocol):
    content = {
        "a": [1, (2.5, None, True)],
        3: {4, 5},
        (6,): frozenset({b"7"}),
        "d": {"e": "é"},
        "f": bytearray(b"8"),
    }
    path = tmp_path / "containers.pkl"
    path.write_bytes(pickle.dumps(content, protocol))
    assert load_restricted_pickle(path) == content


class Evil:
    """Runs what it is told when it is unpickled by an ordinary unpickler."""

    def __init__(self, *call):
        self.call = call

    def __reduce__(self):
        return self.call[0], self.call[1:]


@pytest.mark.hostile("pickles")
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize(
    ("content", "named"),
    [
        (Evil(os.system, "touch TARGET"), "system"),
        (Evil(eval, "open('TARGET', 'w')"), "eval"),
        (Evil(getattr, {}, "clear"), "getattr"),
        (Evil(np.fromfile, "x"), "fromfile"),
        (datetime.date(2020, 1, 1), "date"),
        (collections.deque([1]), "deque"),
        (np.array([object()]), "object"),
        (np.array([Evil(os.system, "touch TARGET")]), "system"),
        (collections.OrderedDict(a=Evil(os.system, "touch TARGET")), "system"),
        (np.array(["2020-01-01"], dtype="M8[D]"), "'M8'"),
        (torch.eye(2).to_sparse(), "_rebuild_sparse_tensor"),
        (scipy.sparse.eye_array(2, format="csr"), "csr"),
        (np.zeros(2, dtype=[("a", int)]), "'V8'"),
    ],
)
def test_anything_else_is_refused_by_name_and_not_run(tmp_path, monkeypatch, content, named, protocol):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "features.pkl"
    path.write_bytes(pickle.dumps({0: content}, protocol))
    with pytest.raises(DataError, match="only numpy arrays, torch tensors and builtin containers") as error:
        load_restricted_pickle(path)
    assert named in str(error.value)
    assert not (tmp_path / "TARGET").exists()


@pytest.mark.hostile("pickles")
def test_a_number_type_may_not_be_changed_into_one_of_pointers(tmp_path):
    # The eighth item of a dtype's state are its flags; 63 says "objects live here", and numpy would believe it.
    state = b"J\xff\xff\xff\xff" * 2 + b"K%ct"
    content = pickle.dumps(np.arange(3), 2)
    path = tmp_path / "flags.pkl"
    path.write_bytes(content.replace(state % 0, state % 63))
    assert path.read_bytes() != content
    with pytest.raises(DataError, match="compound type"):
        load_restricted_pickle(path)


def test_codecs_other_than_latin1(tmp_path):
    path = tmp_path / "codec.pkl"
    path.write_bytes(pickle.dumps(b"\xff", 2).replace(b"latin1", b"rot_13"))
    with pytest.raises(DataError, match="codec 'rot_13'"):
        load_restricted_pickle(path)


def test_missing_and_cut_short(tmp_path):
    with pytest.raises(DataError, match="is missing"):
        load_restricted_pickle(tmp_path / "none.pkl")
    content = pickle.dumps({0: np.arange(100.0)})
    path = tmp_path / "cut.pkl"
    for length in range(0, len(content) - 1, 7):
        path.write_bytes(content[:length])
        with pytest.raises(DataError, match="no valid pickle"):
            load_restricted_pickle(path)


VALID = pickle.dumps({0: np.arange(3.0), 1: [np.float32(1), {2}]}, 2)


@pytest.mark.hostile("pickles")
@given(st.data())
def test_damaged_pickles_raise_nothing_else(tmp_path_factory, data):
    content = bytearray(VALID)
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "damaged.pkl"
    path.write_bytes(content)
    said = ""
    try:
        load_restricted_pickle(path)
    except DataError as error:
        said = str(error)
    assert "\n" not in said


def test_an_array_is_filled_once(tmp_path):
    def integers(*values):
        return b"".join(b"J" + value.to_bytes(4, "little") for value in values)

    def state(rows, columns):
        data = bytes(8 * rows * columns)
        dtype = b"cnumpy\ndtype\nX\x02\x00\x00\x00f8\x89\x88\x87R"
        block = b"B" + len(data).to_bytes(4, "little") + data
        return b"(" + integers(1) + b"(" + integers(rows, columns) + b"t" + dtype + b"\x89" + block + b"tb"

    shell = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\n" + integers(0) + b"\x85C\x01b\x87R"
    once = b"\x80\x03" + shell + state(4, 1 << 15) + b"q\x01"
    rows = b"0cbuiltins\nlist\nh\x01\x85R"  # views of the memory that a second state would free
    path = tmp_path / "array.pkl"
    path.write_bytes(once + b".")
    assert load_restricted_pickle(path).shape == (4, 1 << 15)
    path.write_bytes(once + rows + b"h\x01" + state(1, 1) + b"\x86.")
    with pytest.raises(DataError, match="fills an array twice"):
        load_restricted_pickle(path)


def test_a_block_of_numbers_is_bytes(tmp_path):
    array = pickle.dumps(np.arange(3.0), 2)[2:-1]
    path = tmp_path / "array.pkl"
    dtype = b"cnumpy\ndtype\nX\x02\x00\x00\x00f8\x89\x88\x87R"
    path.write_bytes(
        b"\x80\x03cnumpy.core.numeric\n_frombuffer\n("
        + array
        + dtype
        + b"J\x03\x00\x00\x00\x85X\x01\x00\x00\x00CtR."
    )
    with pytest.raises(DataError, match="no plain block of numbers"):
        load_restricted_pickle(path)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize(
    "content",
    [
        np.array([None, 1.5, [2]], dtype=object),
        np.array(["é", "text"]),
        np.zeros((0, 3)),
        np.array([b"ab", b"c"]),
        collections.OrderedDict({1: 2}),
        collections.defaultdict(list, {1: [2]}),
        collections.defaultdict(None, {1: 2}),
    ],
    ids=["objects", "strings", "empty", "bytes", "ordered", "default", "no default"],
)
def test_what_else_pickled_vectors_are_made_of(tmp_path, content, protocol):
    path = tmp_path / "content.pkl"
    path.write_bytes(pickle.dumps(content, protocol))
    loaded = load_restricted_pickle(path)
    same = np.array_equal(loaded, content) if isinstance(content, np.ndarray) else loaded == content
    assert same


@pytest.mark.parametrize("protocol", [2, pickle.HIGHEST_PROTOCOL])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.int64, torch.bool])
def test_tensors(tmp_path, protocol, dtype):
    tensor = torch.arange(6).reshape(2, 3).to(dtype).T
    path = tmp_path / "tensor.pkl"
    path.write_bytes(pickle.dumps({"a": tensor, "b": torch.nn.Embedding(2, 3).state_dict()}, protocol))
    loaded = load_restricted_pickle(path)
    assert loaded["a"].dtype == dtype
    assert torch.equal(loaded["a"], tensor)
    assert loaded["b"]["weight"].shape == (2, 3)
    torch.save({"a": tensor, 3: np.arange(3.0)}, path)
    loaded = load_restricted_torch(path)
    assert torch.equal(loaded["a"], tensor)
    assert loaded[3].tolist() == [0, 1, 2]


def test_python_2(tmp_path):
    # {1: numpy.arange(2, dtype="f4"), u"\xe9": numpy.float64(1.5), "\xc3\xa9": 2} as Python 2.7 writes it
    content = (
        b"\x80\x02}q\x01(K\x01cnumpy.core.multiarray\n_reconstruct\nq\x02cnumpy\nndarray\nq\x03K\x00\x85U\x01b\x87Rq\x04"
        b"(K\x01K\x02\x85cnumpy\ndtype\nq\x05U\x02f4K\x00K\x01\x87Rq\x06(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xff"
        b"K\x00tb\x89U\x08\x00\x00\x00\x00\x00\x00\x80?tbX\x02\x00\x00\x00\xc3\xa9cnumpy.core.multiarray\nscalar\nq\x07"
        b"h\x05U\x02f8K\x00K\x01\x87Rq\x08(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tbU\x08"
        b"\x00\x00\x00\x00\x00\x00\xf8?\x86Rq\x09U\x02\xc3\xa9K\x02u."
    )
    path = tmp_path / "python2.pkl"
    path.write_bytes(content)
    loaded = load_restricted_pickle(path)
    assert loaded[1].tolist() == [0, 1]
    assert loaded["é"] == 1.5
    assert loaded["Ã©"] == 2  # Python 2's bytes, as Latin-1


@pytest.mark.hostile("pickles")
def test_a_tensor_does_not_reach_beyond_its_numbers(tmp_path):
    path = tmp_path / "tensor.pt"
    torch.save(torch.zeros(2, 3), path)
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    name = next(name for name in parts if name.endswith("data.pkl"))
    assert parts[name].count(b"K\x02K\x03\x86") == 1
    parts[name] = parts[name].replace(b"K\x02K\x03\x86", b"K\x7fK\x03\x86")
    with zipfile.ZipFile(path, "w") as archive:
        for part, content in parts.items():
            archive.writestr(part, content)
    with pytest.raises(DataError, match="no valid pickle"):
        load_restricted_torch(path)


@pytest.mark.hostile("pickles")
@pytest.mark.parametrize("length", [1, 3])
def test_an_array_of_objects_has_as_many_as_its_shape_says(tmp_path, length):
    content = pickle.dumps(np.array([None, None], dtype=object), 2)
    short = re.sub(rb"\](q.)?\(NNe", rb"]\1(" + b"N" * length + b"e", content, flags=re.DOTALL)
    assert short != content
    path = tmp_path / "objects.pkl"
    path.write_bytes(short)
    with pytest.raises(DataError, match="shape is not that of its content"):
        load_restricted_pickle(path)
