"""Dense features from files, one vector an entity, and what entities get that have none."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from loginmea_fast.data.bags import csr_matrix, sparse_csr
from loginmea_fast.data.pair import AlignmentPair, Feature, first_nonfinite_row
from loginmea_fast.data.restricted_pickle import load_restricted_pickle
from loginmea_fast.data.textfile import shorten
from loginmea_fast.errors import DataError

__all__ = ["SUFFIXES", "vector_feature"]

SUFFIXES = (".safetensors", ".npz", ".npy", ".h5", ".hdf5", ".pkl", ".pickle")
_FLOATS = (torch.float32, torch.float16, torch.bfloat16)
_BLOCK = 1 << 22  # numbers handled at once where half precision is computed in float32


@dataclass
class _Vectors:
    """What a file holds: rows for the entities in ``ids`` (None: for all), or a feature that is complete already."""

    values: Tensor
    ids: Tensor | None = None
    present: Tensor | None = None
    description: str = ""


def vector_feature(
    path: Path,
    pair: AlignmentPair,
    *,
    has_vector: Tensor | None = None,
    compat: Literal["authors"] | None = None,
    seed: int = 0,
) -> Feature:
    """One vector an entity from a file, gaps filled, rows scaled to length one.

    An entity without a vector (not among the ids, not in ``has_vector``, or a row of zeros) gets the mean of its
    neighbours' vectors, a neighbour counting once a triple; if no neighbour has one, the mean of all vectors. With
    ``compat="authors"`` the latter is one random vector for all such entities, drawn from a normal distribution
    with the mean and standard deviation of every column, as in the authors' ``load_img_new``. float16 and
    bfloat16 stay what they are; float64 and integers become float32.

    Args:
        path: ``.npy``: [N, d]. ``.npz``, ``.safetensors``, HDF5: ``features`` [n, d] and ``ids`` [n], or ``features``
            [N, d] alone; with ``present`` [N] bool the rows are complete and taken as they are. ``indptr``,
            ``indices``, ``data``, ``shape`` are a sparse CSR matrix [N, d]. ``.pkl``: a dictionary id -> vector,
            or an array.
        pair: whose entities these are.
        has_vector: [N] bool, which rows of an array without ids are to be believed; None: all that are not zero.
        compat: "authors" for their way with entities that have no vector near.
        seed: of that random vector.

    Returns:
        The feature; its mask says which entities had a vector in the file.

    Raises:
        DataError: unreadable file, wrong number of rows, unknown or repeated id, NaN or infinity, no vector at all.
    """
    vectors = _read(path)
    count = pair.num_entities
    values = vectors.values if vectors.values.dtype in _FLOATS else vectors.values.to(torch.float32)
    if values.layout == torch.sparse_csr or vectors.present is not None:
        _check_rows(path, values, count)
        present = values.crow_indices().diff() > 0 if vectors.present is None else vectors.present
        if present.shape != (count,):
            raise DataError(
                f"{path}: 'present' has {present.numel()} flags for {count} entities; one each is needed"
            )
        _check_finite(path, values, torch.arange(count), pair)
        return Feature(values, present, vectors.description or f"as stored in {path.name}")
    if vectors.ids is None:
        _check_rows(path, values, count)
        ids = torch.arange(count)
        if has_vector is not None:
            ids = has_vector.nonzero()[:, 0]
            values = values[ids]
    else:
        ids = _check_ids(path, vectors.ids, values, count)
    _check_finite(path, values, ids, pair)
    some = (values != 0).any(dim=1)
    present = torch.zeros(count, dtype=torch.bool)
    present[ids[some]] = True
    if not bool(present.any()):
        raise DataError(f"{path} holds no vector that is not zero; check the file or leave its modality out")
    rows = torch.zeros(count, values.shape[1], dtype=values.dtype)
    rows[ids[some]] = values[some]
    by_neighbours, by_all = _fill(rows, present, pair.triples, compat, seed)
    _normalise(rows)
    last = "a shared random vector" if compat == "authors" else "the mean of all"
    return Feature(
        rows,
        present,
        f"vectors from {path.name}; {by_neighbours:,} gaps got their neighbours' mean, {by_all:,} {last}",
    )


def _fill(
    rows: Tensor, present: Tensor, triples: Tensor, compat: Literal["authors"] | None, seed: int
) -> tuple[int, int]:
    """Fills absent rows in place; returns how many by the mean of neighbours and how many otherwise."""
    missing = (~present).nonzero()[:, 0]
    if not len(missing):
        return 0, 0
    position = torch.full((len(present),), -1, dtype=torch.int64)
    position[missing] = torch.arange(len(missing))
    ends = torch.cat([triples[:, [0, 2]], triples[:, [2, 0]]])
    ends = ends[~present[ends[:, 0]] & present[ends[:, 1]]]
    received = torch.bincount(position[ends[:, 0]], minlength=len(missing))
    weights = (1.0 / received[position[ends[:, 0]]]).numpy()
    near = csr_matrix(position[ends[:, 0]].numpy(), ends[:, 1].numpy(), weights, (len(missing), len(rows)))
    alone = missing[received == 0]
    generator = torch.Generator().manual_seed(seed)
    step = max(1, _BLOCK // len(rows))
    for start in range(0, rows.shape[1], step):
        block = rows[:, start : start + step].float()
        means = near @ block
        own = block[present]
        fallback = own.mean(dim=0)
        if compat == "authors":
            fallback = torch.normal(fallback, own.std(dim=0, correction=0), generator=generator)
        rows[missing, start : start + step] = means.to(rows.dtype)
        rows[alone, start : start + step] = fallback.to(rows.dtype)
    return len(missing) - len(alone), len(alone)


def _normalise(rows: Tensor) -> None:
    step = max(1, _BLOCK // rows.shape[1])
    for start in range(0, len(rows), step):
        block = rows[start : start + step]
        wide = block.float()
        # Squares of 1e-30 vanish in float32 and those of 1e30 overflow: such rows are brought near 1 first.
        largest = wide.abs().amax(1, keepdim=True)
        extreme = (largest >= torch.finfo(torch.float32).tiny) & ((largest < 1e-12) | (largest > 1e15))
        wide /= torch.where(extreme, largest, 1.0)
        block.copy_(torch.nn.functional.normalize(wide))


def _check_rows(path: Path, values: Tensor, count: int) -> None:
    if values.ndim != 2 or values.shape[0] != count:
        raise DataError(
            f"{path}: features of shape {list(values.shape)} for {count} entities; "
            "give one row an entity, or an array 'ids' that says whose the rows are"
        )


def _check_ids(path: Path, ids: Tensor, values: Tensor, count: int) -> Tensor:
    if ids.ndim != 1 or ids.is_floating_point() or values.ndim != 2 or len(ids) != len(values):
        raise DataError(
            f"{path}: ids of shape {list(ids.shape)} and features of shape {list(values.shape)} do not go together; "
            "ids must be integers [n], features [n, d]"
        )
    ids = ids.to(torch.int64)
    outside = (ids < 0) | (ids >= count)
    if bool(outside.any()):
        raise DataError(f"{path}: id {int(ids[outside][0])} is none of the {count} entities; delete its row")
    distinct, times = ids.unique(return_counts=True)
    if len(distinct) != len(ids):
        raise DataError(f"{path}: entity {int(distinct[times > 1][0])} has two rows; keep one")
    return ids


def _check_finite(path: Path, values: Tensor, ids: Tensor, pair: AlignmentPair) -> None:
    row = first_nonfinite_row(values)
    if row is not None:
        entity = int(ids[row])
        raise DataError(
            f"{path}: the vector of entity {entity} ({shorten(pair.uris[entity])}) holds NaN or infinity; "
            "repair it or leave the entity out"
        )


def _read(path: Path) -> _Vectors:
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise DataError(
            f"{path}: features in a {suffix or 'nameless'} file; use one of {', '.join(SUFFIXES)}"
        )
    if not path.is_file():
        raise DataError(f"{path} is missing; put it there or leave its modality out")
    if path.stat().st_size == 0:
        raise DataError(f"{path} is empty; fetch the file again")
    if suffix in (".pkl", ".pickle"):
        return _from_pickle(path, load_restricted_pickle(path))
    try:
        if suffix == ".npy":
            return _Vectors(_tensor(np.load(path, allow_pickle=False)))
        if suffix == ".npz":
            with np.load(path, allow_pickle=False) as archive:
                return _from_arrays(
                    {name: _tensor(archive[name]) for name in archive.files if name != "format"}
                )
        if suffix == ".safetensors":
            return _from_safetensors(path)
        return _from_hdf5(path)
    except DataError as error:
        raise DataError(f"{path}: {error}") from None
    except Exception as error:  # each library has its own way of saying that a file is damaged
        raise DataError(f"{path} cannot be read ({shorten(str(error))}); fetch the file again") from None


def _tensor(array: Any) -> Tensor:
    array = np.asarray(array)
    if array.dtype.kind not in "biuf" or array.dtype.itemsize > 8:
        raise DataError(f"arrays of type {array.dtype} are no features; store float32 or float16")
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    if array.dtype.kind == "u":
        array = array.astype(np.int64)
    return torch.from_numpy(np.ascontiguousarray(array) if array.flags.writeable else array.copy())


def _from_arrays(arrays: dict[str, Tensor], description: str = "") -> _Vectors:
    if {"indptr", "indices", "data", "shape"} <= arrays.keys():
        rows, columns = arrays["shape"].tolist()
        data = arrays["data"]
        data = data if data.dtype in _FLOATS else data.to(torch.float32)
        values = sparse_csr(
            arrays["indptr"].to(torch.int64), arrays["indices"].to(torch.int64), data, (rows, columns)
        )
        return _Vectors(values, description=description)
    if "features" not in arrays and len(arrays) == 1:
        arrays = {"features": next(iter(arrays.values()))}
    if "features" not in arrays:
        raise DataError(
            f"no array named 'features' among {', '.join(sorted(arrays)) or 'nothing'}; rename it"
        )
    values = arrays["features"]
    present = arrays.get("present")
    return _Vectors(
        values,
        arrays.get("ids"),
        None if present is None else present.to(torch.bool),
        description,
    )


def _from_safetensors(path: Path) -> _Vectors:
    from safetensors import safe_open

    with safe_open(path, framework="pt") as archive:
        description = (archive.metadata() or {}).get("description", "")
        return _from_arrays({name: archive.get_tensor(name) for name in archive.keys()}, description)  # noqa: SIM118


def _from_hdf5(path: Path) -> _Vectors:
    try:
        import h5py
    except ImportError:
        raise DataError("HDF5 needs h5py; pip install h5py") from None
    with h5py.File(path, "r") as archive:
        return _from_arrays({name: _tensor(archive[name][()]) for name in archive})


def _from_pickle(path: Path, content: Any) -> _Vectors:
    if isinstance(content, np.ndarray):
        return _Vectors(_tensor(content))
    if not isinstance(content, dict) or not content:
        raise DataError(
            f"{path} holds a {type(content).__name__}; expected a dictionary id -> vector, or an array"
        )
    rows = []
    width = None
    for key, value in content.items():
        if isinstance(key, bool) or not isinstance(key, int | np.integer):
            raise DataError(f"{path}: key {shorten(str(key))} is no entity id; keys must be integers")
        try:
            row = np.asarray(value).reshape(-1)
            kind = row.dtype.kind
        except ValueError:
            kind = "O"
        if kind not in "biuf":
            raise DataError(f"{path}: the value of entity {key} is no vector of numbers; correct it")
        width = len(row) if width is None else width
        if len(row) != width or width == 0:
            raise DataError(
                f"{path}: entity {key} has {len(row)} numbers, others have {width}; all need as many"
            )
        rows.append(row)
    return _Vectors(_tensor(np.stack(rows)), torch.tensor([int(key) for key in content], dtype=torch.int64))
