from __future__ import annotations

import json
import resource
import struct

import pytest
import torch
from safetensors import safe_open
from torch import nn

from loginmea_fast.errors import CheckpointError
from loginmea_fast.training.checkpoint import (
    VERSION,
    Checkpoint,
    atomic_write,
    fingerprint,
    load_checkpoint,
    load_tensors,
    read_metadata,
    save_tensors,
)

TENSORS = {
    "model.weight": torch.arange(12.0).reshape(3, 4),
    "model.empty": torch.empty(0, 5),
    "model.transposed": torch.arange(6.0).reshape(2, 3).t(),
    "optimizer.weight.step": torch.tensor(3.0),
    "optimizer.double": torch.tensor([1e-300], dtype=torch.float64),
    "half": torch.tensor([1.5, -2.0, 3.0], dtype=torch.bfloat16),
    "links.joined": torch.tensor([[1, 2**40]]),
    "flags": torch.tensor([True, False, True]),
}


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "last.safetensors"
    Checkpoint(TENSORS, {"epoch": 7, "best_score": 0.1 + 0.2}, {"weight": [3, 4]}).save(path)
    return path


def test_round_trip_is_exact(saved):
    back = load_checkpoint(saved)
    assert back.state == {"epoch": 7, "best_score": 0.1 + 0.2}
    assert back.fingerprint == {"weight": [3, 4]}
    assert back.tensors.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert torch.equal(back.tensors[name], tensor)
        assert back.tensors[name].dtype == tensor.dtype
    assert back.part("model").keys() == {"weight", "empty", "transposed"}


def test_any_reader_of_safetensors_reads_it(saved):
    with safe_open(saved, framework="np") as file:
        assert file.get_tensor("model.weight").tolist() == TENSORS["model.weight"].tolist()


def test_every_tensor_starts_at_a_multiple_of_its_element_size(saved):
    raw = saved.read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    assert length % 8 == 0
    header = json.loads(raw[8 : 8 + length])
    sizes = {"F64": 8, "F32": 4, "BF16": 2, "I64": 8, "BOOL": 1}
    for name, entry in header.items():
        if name != "__metadata__":
            assert entry["data_offsets"][0] % sizes[entry["dtype"]] == 0, name


@pytest.mark.parametrize("keep", [0, 5, 8, 60, -1])
def test_a_file_cut_short(saved, keep):
    saved.write_bytes(saved.read_bytes()[:keep])
    with pytest.raises(CheckpointError, match=r"last\.safetensors is cut short or damaged.*train anew"):
        load_checkpoint(saved)


def test_the_metadata_alone_is_as_careful(saved):
    assert read_metadata(saved)["state"]["epoch"] == 7
    saved.write_bytes(saved.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match=r"cut short or damaged .*; call for help"):
        read_metadata(saved, "call for help")


def test_a_missing_file(tmp_path):
    with pytest.raises(CheckpointError, match="no such file"):
        load_checkpoint(tmp_path / "last.safetensors")


def rewrite_metadata(path, **changes):
    raw = path.read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    header = json.loads(raw[8 : 8 + length])
    header["__metadata__"] |= changes
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + raw[8 + length :])


def test_a_newer_version(saved):
    rewrite_metadata(saved, version=str(VERSION + 1))
    with pytest.raises(
        CheckpointError, match=rf"version {VERSION + 1}, this loginmea_fast reads up to {VERSION}; upgrade"
    ):
        load_checkpoint(saved)


@pytest.mark.parametrize("changes", [{"format": "pt"}, {"version": "one"}])
def test_a_file_of_another_program(saved, changes):
    rewrite_metadata(saved, **changes)
    with pytest.raises(CheckpointError, match="was not written by loginmea_fast"):
        load_checkpoint(saved)


def test_fingerprints_name_what_differs(saved):
    model = nn.Linear(4, 3, bias=False)
    mine = fingerprint(model, graph=[torch.arange(3)])
    assert mine == fingerprint(nn.Linear(4, 3, bias=False), graph=[torch.arange(3)])
    assert fingerprint(model, graph=[torch.empty(0, dtype=torch.int32)]) != mine, (
        "a graph without edges has one too"
    )
    checkpoint = Checkpoint({}, {}, mine)
    checkpoint.check_model(mine, saved)
    with pytest.raises(
        CheckpointError, match=r"of another model: weight is \[3, 4\] there and \[3, 5\] here"
    ):
        checkpoint.check_model(fingerprint(nn.Linear(5, 3, bias=False), graph=[torch.arange(3)]), saved)
    with pytest.raises(CheckpointError, match=r"bias is absent there and \[3\] here"):
        checkpoint.check_model(fingerprint(nn.Linear(4, 3), graph=[torch.arange(3)]), saved)
    with pytest.raises(CheckpointError, match=r"graph is \w{16} there and \w{16} here"):
        checkpoint.check_model(fingerprint(model, graph=[torch.arange(4)]), saved)


def test_a_full_disk_leaves_the_earlier_file(saved):
    """A file size limit is the one way to make a real write fail without a file system of one's own."""
    before = saved.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, limits[1]))
    try:
        with pytest.raises(
            CheckpointError, match=r"cannot write .*; the earlier file is intact; free 5 MiB there"
        ):
            save_tensors(saved, {"big": torch.zeros(1 << 20)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert saved.read_bytes() == before
    assert [p.name for p in saved.parent.iterdir()] == [saved.name]


def test_a_directory_that_is_gone(tmp_path):
    with pytest.raises(CheckpointError, match="check the directory"):
        save_tensors(tmp_path / "gone" / "last.safetensors", TENSORS)


def test_an_interrupted_write_leaves_the_earlier_file(saved):
    before = saved.read_bytes()

    def write(file):
        file.write(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        atomic_write(saved, write, 8)
    assert saved.read_bytes() == before
    assert load_tensors(saved)[0].keys() == TENSORS.keys()
    save_tensors(saved, {})
    assert load_tensors(saved) == ({}, {})
