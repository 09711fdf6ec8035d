"""Vectors that stay in their file: the same rows as those of a file that is read, and errors where it changes."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from loginmea_fast import AlignmentGraph, data
from loginmea_fast.data import Feature, FeatureStore, stand_in, vector_files
from loginmea_fast.data.scaling import scale_rows
from loginmea_fast.data.subset import feature_rows
from loginmea_fast.errors import DataError
from loginmea_fast.mapped import MappedMatrix

IDS = [5, 0, 2, 1]
WIDTH = 24


def write(directory: Path, kind: str, dtype: torch.dtype) -> Path:
    """Rows of some entities of the small pair, one of them zeros."""
    rows = torch.randn(len(IDS), WIDTH, generator=torch.Generator().manual_seed(1)).to(dtype)
    rows[2] = 0
    full = torch.zeros(8, WIDTH, dtype=dtype)
    full[IDS] = rows
    path = directory / f"vectors.{'npy' if kind == 'npy' else 'safetensors'}"
    if kind == "npy":
        np.save(path, full.numpy())
    elif kind == "ids":
        save_file({"features": rows, "ids": torch.tensor(IDS)}, path)
    else:
        save_file({"features": full, "present": full.ne(0).any(1)}, path)
    return path


CASES = [
    ("npy", torch.float32),
    ("npy", torch.float16),
    ("ids", torch.float32),
    ("ids", torch.bfloat16),
    ("present", torch.float16),
]


def both(directory: Path, monkeypatch: pytest.MonkeyPatch, **options: object) -> tuple[Feature, Feature]:
    """The feature read into memory, and left in its file."""
    read = data.load(directory, modalities=["image"], **options).features["image"]
    monkeypatch.setattr(vector_files, "MAPPED", 1)
    left = data.load(directory, modalities=["image"], **options).features["image"]
    assert isinstance(left.values, FeatureStore)
    return read, left


@pytest.mark.parametrize("compat", [None, "authors"])
@pytest.mark.parametrize(("kind", "dtype"), CASES)
def test_rows_are_those_of_a_file_that_is_read(
    kind: str,
    dtype: torch.dtype,
    compat: str | None,
    tiny: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    read, left = both(tiny(), monkeypatch, vectors={"image": write(tmp_path, kind, dtype)}, compat=compat)
    assert torch.equal(left.present, read.present)
    assert left.values.dtype == read.values.dtype == dtype
    assert left.values.shape == read.values.shape
    assert torch.equal(left.values.cpu(), read.values)
    some = torch.tensor([7, 0, 5, 0])
    assert torch.equal(left.values[some], read.values[some])
    assert torch.equal(left.values[2:5], read.values[2:5])
    assert torch.equal(feature_rows(left, some).values.cpu(), read.values[some])
    assert torch.equal(scale_rows(left.values).cpu(), scale_rows(read.values))


@pytest.mark.parametrize("missing", ["mask", "learned", "neighbors"])
def test_what_stands_in_for_absent_rows(
    missing: str, tiny: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = tiny()
    read, left = both(directory, monkeypatch, vectors={"image": write(tmp_path, "npy", torch.float32)})
    graph: AlignmentGraph = data.load(directory, modalities=["relation"]).graph()
    scaled = [replace(feature, values=scale_rows(feature.values)) for feature in (read, left)]
    expected, found = (stand_in(feature, graph, missing) for feature in scaled)
    assert torch.equal(found.present, expected.present)
    assert torch.equal(found.values.cpu(), expected.values)
    assert torch.equal(found.values.float(), expected.values.float())


def test_a_saved_pair_has_the_rows(
    tiny: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, left = both(tiny(), monkeypatch, vectors={"image": write(tmp_path, "npy", torch.float16)})
    pair = data.load(tmp_path / "tiny", modalities=["relation"])
    data.save(replace(pair, features={"image": left}), tmp_path / "saved")
    again = data.load(tmp_path / "saved", modalities=["image"]).features["image"]
    assert torch.equal(again.values.cpu(), read.values)


def test_an_entity_with_several_vectors_has_their_mean(
    tiny: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "vectors.safetensors"
    save_file({"features": torch.eye(3, 4), "ids": torch.tensor([1, 1, 2])}, path)
    monkeypatch.setattr(vector_files, "MAPPED", 1)
    feature = data.load(tiny(), modalities=["image"], vectors={"image": path}).features["image"]
    assert not isinstance(feature.values, FeatureStore)
    torch.testing.assert_close(feature.values[1], torch.tensor([0.5**0.5, 0.5**0.5, 0, 0]))


def _store(
    tiny: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[Path, FeatureStore]:
    path = write(tmp_path, "npy", torch.float32)
    monkeypatch.setattr(vector_files, "MAPPED", 1)
    feature = data.load(tiny(), modalities=["image"], vectors={"image": path}).features["image"]
    assert isinstance(feature.values, FeatureStore)
    return path, feature.values


def test_a_file_that_shrank_is_told_and_kills_nobody(
    tiny: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, store = _store(tiny, tmp_path, monkeypatch)
    os.truncate(path, 200)
    with pytest.raises(DataError, match=r"vectors.npy had 896 bytes and has 200 .* put it back"):
        store[:1]


def test_a_file_that_was_written_to_is_told(
    tiny: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, store = _store(tiny, tmp_path, monkeypatch)
    store[:1]
    with path.open("r+b") as file:
        file.seek(200)
        file.write(b"other")
    os.utime(path, ns=(1, 1))
    with pytest.raises(DataError, match=r"vectors.npy was written to"):
        store[:1]


def test_a_file_that_is_cut_short(tmp_path: Path) -> None:
    path = tmp_path / "rows"
    path.write_bytes(bytes(100))
    with pytest.raises(DataError, match=r"rows has 100 bytes and its rows need 120: .* fetch it again"):
        MappedMatrix(path, torch.float32, (5, 6), 0)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_is_told(
    value: float, tiny: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = np.ones((8, 4), np.float32)
    rows[3, 2] = value
    np.save(tmp_path / "vectors.npy", rows)
    monkeypatch.setattr(vector_files, "MAPPED", 1)
    with pytest.raises(DataError, match=r"entity 3 .* holds NaN or infinity"):
        data.load(tiny(), modalities=["image"], vectors={"image": tmp_path / "vectors.npy"})
