"""What a file of vectors holds, whatever wrote it: numpy, scipy, torch, pickle, safetensors or HDF5.

A file is read as what its first bytes say it is, not as what its name says; a compressed one is unpacked first. What
a program passes instead of a file is taken for what a file of it would hold.
"""

from __future__ import annotations

import json
import math
import re
import shutil
import tempfile
import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

from loginmea_fast.data.bags import csr_matrix
from loginmea_fast.data.filekind import COMPRESSED_SUFFIXES, compression_of, open_file, refuse_foreign
from loginmea_fast.data.images import image_files, read_images
from loginmea_fast.data.restricted_pickle import (
    load_restricted_pickle,
    load_restricted_torch,
    restricted_unpickle,
)
from loginmea_fast.data.textfile import shorten, some_of
from loginmea_fast.data.vector_tables import parquet_arrays
from loginmea_fast.errors import DataError
from loginmea_fast.machine import free_memory
from loginmea_fast.mapped import MappedMatrix

__all__ = ["SUFFIXES", "TABLES", "StoredVectors", "as_rows", "check_vectors", "read_vectors", "take_vectors"]

SUFFIXES = (".safetensors", ".npz", ".npy", ".h5", ".hdf5", ".pkl", ".pickle", ".pt", ".pth")
TABLES = (".parquet",)  # vectors by name or with the prefix alone: a file of that kind may be anything
_KEYS = ("ids", "uris", "names", "keys", "entities")  # arrays that say whose the rows of 'features' are
# Words in other names of the two, such as img_embeddings and entity_ids; believed only where shapes agree.
_FEATURE_WORDS = {
    *("feature", "features", "feat", "feats", "embedding", "embeddings", "emb", "embs"),
    *("vector", "vectors", "vec", "vecs"),
}
_KEY_WORDS = {
    *("id", "ids", "uri", "uris", "iri", "iris", "url", "urls", "name", "names", "key", "keys"),
    *("entity", "entities", "ent", "ents"),
}
_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")
_FEW = 8  # a file with more arrays than this is one with an array an entity, unless one is called 'features'
_CSR = {"indptr", "indices", "data", "shape"}
_SPARSE = {
    "csr": _CSR,
    "csc": _CSR,
    "bsr": _CSR,
    "coo": {"row", "col", "data", "shape"},
    "dia": {"offsets", "data", "shape"},
}
_STRANGERS = (  # what begins so is no vectors for this package: what it is, and the way from there
    (b"MATLAB", "a MATLAB file; read it with scipy.io.loadmat and store it with numpy.savez"),
    (b"ARROW1", "an Arrow file; read it with pandas and store ids and features with numpy.savez"),
    (b"\x89PNG", "an image; vectors are what an image encoder makes of images"),
    (b"\xff\xd8\xff", "an image; vectors are what an image encoder makes of images"),
)
_LEGACY_TORCH = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."
_DEPTH = 3  # an entity's images may lie in lists of lists, no deeper
_SHOWN = 5
MAPPED = 1 << 28  # bytes from which rows stay in their file and are read when they are needed
_MAPPABLE = {"F16": torch.float16, "F32": torch.float32, "BF16": torch.bfloat16}
_AGAIN = 1000  # times that a file may name the same group: links can multiply beyond all measure


@dataclass
class StoredVectors:
    """What a file holds.

    Attributes:
        values: rows of numbers, [N, d] or [n, d], dense, sparse CSR, or still in the file where that is large; None
            where ``entries`` has them.
        keys: [n] whose rows they are, integers or strings; None: a row an entity.
        entries: key -> an array, or a list of them, where each entity has its own.
        present: [N] bool where the rows are complete.
        description: what the file says of itself.
        written_for: :func:`entities_digest` of the pair that the rows are of, where the file says so.
        unread: names of arrays whose meaning is not known.
    """

    values: Tensor | MappedMatrix | None = None
    keys: Tensor | list[Any] | None = None
    entries: Mapping[Any, Any] | None = None
    present: Tensor | None = None
    description: str = ""
    written_for: str = ""
    unread: tuple[str, ...] = ()


def check_vectors(path: Path) -> None:
    """Raises `DataError` where there is no file of vectors or folder of pictures, or an empty one; opens nothing."""
    if path.is_dir():
        if image_files(path):
            return
        inside = [entry.name for entry in sorted(path.iterdir()) if entry.suffix.lower() in SUFFIXES]
        raise DataError(
            f"{path} is a directory; name a file of vectors"
            + (f" in it, such as {some_of(inside, 3)}" if inside else "")
        )
    if not path.is_file():
        raise DataError(f"{path} is missing; put it there or leave its modality out")
    if path.stat().st_size == 0:
        raise DataError(f"{path} is empty; fetch the file again")


def read_vectors(path: Path) -> StoredVectors:
    """Reads a file of vectors.

    Args:
        path: see :func:`loginmea_fast.data.vectors.vector_feature` for what it may hold.

    Raises:
        DataError: missing, empty or damaged file, or something in it that is no vectors; names it and the remedy.
    """
    check_vectors(path)
    with _explained(path, "fetch the file again"):
        if path.is_dir():
            entries, damaged = read_images(path)
            return StoredVectors(entries=entries, unread=damaged)
        return _read(path)


def take_vectors(content: Any, name: Path) -> StoredVectors:
    """What a program passes instead of a file: an array, tensor or sparse matrix, a dictionary, or pairs.

    Args:
        content: see :func:`loginmea_fast.data.vectors.vector_feature`.
        name: what to call it.

    Raises:
        DataError: something else.
    """
    with _explained(name, "give an array, or a dictionary key -> vector"):
        return _from_object(content)


@contextmanager
def _explained(path: Path, remedy: str) -> Iterator[None]:
    """Whatever reading may raise, as one sentence that begins with the file."""
    try:
        yield
    except DataError as error:
        message = str(error)
        raise DataError(message if message.startswith(str(path)) else f"{path}: {message}") from None
    except MemoryError:
        raise DataError(f"{path} asks for more memory than there is; store float16, or fewer rows") from None
    except Exception as error:  # each library has its own way of saying that a file is damaged
        raise DataError(f"{path} cannot be read ({shorten(str(error))}); {remedy}") from None


def _read(path: Path) -> StoredVectors:
    with path.open("rb") as file:
        head = file.read(512)
        file.seek(0)
        if head.startswith(b"\x93NUMPY"):
            return _from_object(_read_npy(path, file))
    if head.startswith(b"PK"):
        return _from_zip(path)
    refuse_foreign(path, head)
    if (compression := compression_of(head)) is not None:
        return _from_compressed(path, compression)
    if (stranger := next((told for magic, told in _STRANGERS if head.startswith(magic)), None)) is not None:
        raise DataError(f"is {stranger}")
    if head.startswith(b"\x89HDF\r\n\x1a\n"):
        return _from_hdf5(path)
    if head.startswith(b"PAR1"):
        return _from_arrays(parquet_arrays(path))
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < path.stat().st_size:
        return _from_safetensors(path)
    if head.startswith(_LEGACY_TORCH):
        return _from_object(load_restricted_torch(path))
    if head[:1] == b"\x80" or path.suffix.lower() in (".pkl", ".pickle"):
        return _from_object(load_restricted_pickle(path))
    raise DataError(
        f"begins with {shorten(repr(head[:12])[2:-1])} and is no file of vectors; use one of "
        f"{', '.join((*SUFFIXES, *TABLES))}"
    )


def _from_compressed(path: Path, compression: str) -> StoredVectors:
    name = next(
        (path.stem for suffix in COMPRESSED_SUFFIXES if path.name.lower().endswith(suffix)), path.name
    )
    with tempfile.TemporaryDirectory() as folder:
        plain = Path(folder) / name
        most = shutil.disk_usage(folder).free // 2
        with open_file(path, compression) as source, plain.open("wb") as target:
            while chunk := source.read(1 << 20):
                if target.tell() + len(chunk) > most:
                    raise DataError(
                        f"unpacks to more than {most >> 20:,} MiB, half of what is free in {folder}; unpack it where "
                        "there is room (TMPDIR)"
                    )
                target.write(chunk)
        try:
            return _read(plain)
        except DataError as error:
            raise DataError(str(error).replace(str(plain), str(path))) from None


def _read_npy(path: Path, file: IO[bytes]) -> Any:
    """An array as numpy stores it; one of objects is a pickle, and read as such."""
    version = np.lib.format.read_magic(file)
    if version == (1, 0):
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
    elif version == (2, 0):
        shape, fortran, dtype = np.lib.format.read_array_header_2_0(file)
    else:
        raise DataError("arrays of a compound type are no features; store float32 or float16")
    if dtype.hasobject:
        return restricted_unpickle(path, file)
    if path.is_file() and not fortran and len(shape) == 2 and dtype in (np.float16, np.float32):
        size = shape[0] * shape[1] * dtype.itemsize
        if size >= MAPPED and file.seekable() and file.name == str(path):
            kind = torch.float16 if dtype == np.float16 else torch.float32
            return MappedMatrix(path, kind, shape, file.tell())
    _check_room(math.prod(shape) * dtype.itemsize)
    file.seek(0)
    return np.lib.format.read_array(file, allow_pickle=False)


def _check_room(size: int) -> None:
    """Raise `MemoryError` before so many bytes are asked for: packed, a file of a few pages may declare any number."""
    free = free_memory()
    if free is not None and size > free:
        raise MemoryError


def _from_zip(path: Path) -> StoredVectors:
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        if any(name == "data.pkl" or name.endswith("/data.pkl") for name in names):
            return _from_object(load_restricted_torch(path))
        if not names or not all(name.endswith(".npy") for name in names):
            raise DataError(f"is a zip archive of {_some(names)}; unpack it and name the file of vectors")
        arrays = {}
        for name in names:
            with archive.open(name) as member:
                arrays[name.removesuffix(".npy")] = _read_npy(path, member)
    return _from_arrays(arrays)


def _from_safetensors(path: Path) -> StoredVectors:
    from safetensors import safe_open

    with safe_open(path, framework="pt") as archive:
        large = _large_matrices(path)
        told = archive.metadata() or {}
        names = archive.keys()
        stored = _from_arrays({n: large[n] if n in large else archive.get_tensor(n) for n in names})
    return replace(stored, description=told.get("description", ""), written_for=told.get("entities", ""))


def _large_matrices(path: Path) -> dict[str, MappedMatrix]:
    """The matrices of a safetensors file that stay there."""
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
    return {
        name: MappedMatrix(path, _MAPPABLE[item["dtype"]], item["shape"], 8 + size + item["data_offsets"][0])
        for name, item in header.items()
        if name != "__metadata__"
        and item["dtype"] in _MAPPABLE
        and len(item["shape"]) == 2
        and item["data_offsets"][1] - item["data_offsets"][0] >= MAPPED
    }


def _from_hdf5(path: Path) -> StoredVectors:
    try:
        import h5py
    except ImportError:
        raise DataError("HDF5 needs h5py; pip install h5py") from None
    arrays: dict[str, Any] = {}
    again: Counter[Any] = Counter()

    def visit(group: Any, prefix: str, above: tuple[Any, ...]) -> None:
        again[group] += 1
        if again[group] > _AGAIN:
            raise DataError(
                f"names the group {shorten(group.name)} more than {_AGAIN:,} times, by way of others; keep one of them"
            )
        for name in group:
            called = prefix + name
            if isinstance(group.get(name, getlink=True), h5py.ExternalLink):
                raise DataError(
                    f"{shorten(called)} is a link to another file, which is not followed; copy it into this one"
                )
            item = group.get(name)
            if item is None:
                raise DataError(f"{shorten(called)} is a link to nothing; write the file again")
            if isinstance(item, h5py.Group) and item not in above:
                visit(item, f"{called}/", (*above, item))
            elif isinstance(item, h5py.Dataset):
                if item.dtype.names:
                    raise DataError(
                        f"{shorten(called)} is a table with the columns {some_of(item.dtype.names)}; store its keys "
                        "as 'ids' or 'uris' and its numbers as 'features' [n, d]"
                    )
                if item.external or item.is_virtual:
                    raise DataError(
                        f"{shorten(called)} has its numbers in another file, which is not opened; copy them here"
                    )
                _check_room(item.size * item.dtype.itemsize if item.shape is not None else 0)
                text = h5py.check_string_dtype(item.dtype) is not None
                arrays[called] = np.asarray(item.asstr()[()] if text else item[()])

    with h5py.File(path, "r") as archive:
        visit(archive, "", (archive["/"],))
    return _from_arrays(arrays)


def _from_object(content: Any) -> StoredVectors:
    """What a pickle holds, or numpy's or torch's file that is one, or what a program passes."""
    if hasattr(content, "tocoo"):  # scipy's sparse matrices and arrays
        matrix = content.tocoo()
        arrays = {"row": matrix.row, "col": matrix.col, "data": matrix.data, "shape": matrix.shape}
        return StoredVectors(_sparse("coo", arrays))
    if isinstance(content, Tensor) and content.layout != torch.strided:
        content = content.detach().cpu().to_sparse_coo().coalesce()
        row, column = content.indices()
        return StoredVectors(
            _sparse("coo", {"row": row, "col": column, "data": content.values(), "shape": content.shape})
        )
    if isinstance(content, np.ndarray) and content.dtype.hasobject:
        if content.size == 1 and isinstance(content.item(), dict):
            return _from_object(content.item())
        content = list(content) if content.ndim else content.item()
    if isinstance(content, list | tuple) and content:
        content = [
            list(item) if isinstance(item, np.ndarray) and item.dtype.hasobject else item for item in content
        ]
        return _from_pairs(content) or _from_two(content) or StoredVectors(_stack(content))
    if isinstance(content, MappedMatrix):
        return StoredVectors(content)
    if isinstance(content, np.ndarray | Tensor):
        return StoredVectors(_tensor(content))
    if not isinstance(content, Mapping) or not content:
        raise DataError(
            f"holds a {type(content).__name__}; expected a dictionary key -> vector, or an array a row an entity"
        )
    first = next(iter(content.values()))
    named = len(content) <= _FEW and all(isinstance(name, str) for name in content)
    matrix = (
        len(content) == 1 and isinstance(first, np.ndarray | Tensor) and first.ndim == 2 and len(first) > 1
    )
    if "features" in content or matrix or (named and _roles(content)):
        return _from_arrays(content)
    return StoredVectors(entries=content)


def _from_pairs(items: Sequence[Any]) -> StoredVectors | None:
    """A list of (key, vector), in which a key may stand again; None if it is something else."""
    entries: dict[Any, list[Any]] = {}
    for item in items:
        match item:
            case [str() | bytes() | int() | float() | np.number() as key, vector] if _dimensions(vector) > 0:
                entries.setdefault(key, []).append(vector)
            case _:
                return None
    return StoredVectors(entries=entries)


def _from_two(items: Sequence[Any]) -> StoredVectors | None:
    """(ids [n], features [n, d]) in either order; None if it is something else."""
    if len(items) != 2:
        return None
    keys, features = sorted(items, key=_dimensions)
    if _dimensions(features) != 2 or not _says_whose(keys, len(features)):
        return None
    return _from_arrays({"ids": keys, "features": features})


def _stack(items: Sequence[Any]) -> Tensor:
    """Vectors that stand in a list, a row an entity; what is None or empty is a row of zeros."""
    parts = [as_rows(item) for item in items]
    width = max(part.shape[1] for part in parts)
    for entity, part in enumerate(parts):
        if len(part) > 1 or (len(part) and part.shape[1] != width):
            raise DataError(
                f"item {entity} of its list has shape {list(part.shape)}; expected one vector an entity, of {width} "
                "numbers as others have; store a dictionary id -> vectors"
            )
    return torch.cat([part if len(part) else torch.zeros(1, width, dtype=part.dtype) for part in parts])


def _from_arrays(arrays: Mapping[str, Any]) -> StoredVectors:
    """Arrays that have names."""
    kind = _text(arrays["format"]) if "format" in arrays else "csr"
    if "format" in arrays and kind not in _SPARSE:
        raise DataError(
            f"is a sparse matrix in the format {kind!r}; save its .tocsr() with scipy.sparse.save_npz"
        )
    if arrays.keys() >= _SPARSE[kind]:
        return StoredVectors(_sparse(kind, arrays))
    features, named = "features", [name for name in _KEYS if name in arrays]
    if (roles := _roles(arrays) if len(arrays) <= _FEW or "features" in arrays else None) is not None:
        features, found = roles
        named = named or found
    elif "features" not in arrays:
        if not arrays:
            raise DataError("holds no array; expected 'features', or an array an entity")
        features = next(iter(arrays))
        if len(arrays) > 1 or _dimensions(arrays[features]) != 2:
            return StoredVectors(entries=arrays)
    found = arrays[features]
    values = found if isinstance(found, MappedMatrix) else _tensor(found)
    present = arrays.get("present")
    if len(named) > 1:
        raise DataError(f"holds {some_of(named)}, which all say whose the rows are; keep one")
    if named and present is not None:
        raise DataError(
            f"holds {named[0]}, for rows of some entities, and 'present', for a row an entity; keep one of them"
        )
    keys: Tensor | list[Any] | None = None
    if named:
        array = arrays[named[0]]
        text = not isinstance(array, Tensor) and np.asarray(array).dtype.kind in "OSU"
        keys = list(np.asarray(array).reshape(-1)) if text else _tensor(array)
        count = len(keys) if _dimensions(array) == 1 else -1
        if count < 0 or values.ndim != 2 or count != len(values):
            raise DataError(
                f"{named[0]} of shape {list(np.shape(array))} and {features} of shape {list(values.shape)} do not go "
                f"together; {named[0]} must be [n], {features} [n, d]"
                + (
                    f", so store the transpose of the {features}"
                    if values.ndim == 2 and count == values.shape[1]
                    else ""
                )
            )
    return StoredVectors(
        values,
        keys,
        present=None if present is None else _tensor(present).to(torch.bool),
        unread=tuple(name for name in arrays if name not in (features, *named, "present", "format")),
    )


def _roles(arrays: Mapping[str, Any]) -> tuple[str, list[str]] | None:
    """Which array holds the rows, and which say whose they are, where names and shapes leave no doubt."""
    matrices = [name for name, array in arrays.items() if _dimensions(array) == 2]
    called = [name for name in matrices if _FEATURE_WORDS.intersection(_words(name))]
    if "features" in arrays:
        called = ["features"]
    features = (called or matrices)[0] if len(called) == 1 or len(matrices) == 1 else ""
    candidates = [features] if features else called
    owners = [
        name
        for name in arrays
        if any(name != other and _says_whose(arrays[name], _length(arrays[other])) for other in candidates)
    ]
    named = [name for name in owners if _KEY_WORDS.intersection(_words(name))]
    owners = named or [name for name in owners if _is_text(arrays[name])]
    if owners and not features:
        raise DataError(f"holds {some_of(called)}, each a row for every one of {owners[0]}; keep one of them")
    return (features, owners) if owners or "features" in arrays else None


def _length(value: Any) -> int:
    return len(value) if _dimensions(value) else -1


def _words(name: str) -> list[str]:
    return [word.lower() for word in _WORD.findall(name)]


def _dimensions(value: Any) -> int:
    """How deep an array or list is; -1 where its parts are not all as deep."""
    if isinstance(value, Tensor):
        return value.ndim
    try:
        return np.ndim(value)
    except (ValueError, TypeError, RuntimeError):
        return -1


def _is_text(value: Any) -> bool:
    return not isinstance(value, Tensor) and all(isinstance(item, str | bytes) for item in list(value))


def _says_whose(value: Any, count: int) -> bool:
    """Whether a value is as many integers or strings."""
    if _dimensions(value) != 1 or len(value) != count:
        return False
    if isinstance(value, Tensor):
        return not value.is_floating_point() and value.dtype != torch.bool
    return np.asarray(value).dtype.kind in "iu" or _is_text(value)


def _sparse(kind: str, arrays: Mapping[str, Any]) -> Tensor:
    """A sparse matrix of scipy's as CSR [rows, columns]; entries at the same place are added up."""
    values = _tensor(arrays["data"])
    dtype = values.dtype if values.is_floating_point() and values.dtype != torch.float64 else torch.float32
    data = values.double().numpy()
    shape = tuple(int(size) for size in np.asarray(arrays["shape"]).reshape(-1))
    if len(shape) != 2 or min(shape) < 1:
        raise DataError(f"is a sparse array of shape {list(shape)}; expected [entities, width]")
    index = {name: np.asarray(arrays[name]).astype(np.int64) for name in _SPARSE[kind] - {"data", "shape"}}
    if kind == "coo":
        rows, columns = index["row"], index["col"]
    elif kind == "dia":
        columns = np.broadcast_to(np.arange(data.shape[1]), data.shape)
        rows = columns - index["offsets"][:, None]
        inside = (rows >= 0) & (rows < shape[0]) & (columns < shape[1])
        rows, columns, data = rows[inside], columns[inside], data[inside]
    else:
        block = data.shape[1:] if kind == "bsr" else (1, 1)
        majors = shape[1] if kind == "csc" else shape[0] // block[0]
        pointers, minors = index["indptr"], index["indices"]
        steps = np.diff(pointers)
        if len(steps) != majors or (steps < 0).any() or not pointers[-1] == len(minors) == len(data):
            turned = len(steps) == shape[1] != majors
            raise DataError(
                f"is a sparse {kind.upper()} matrix of shape {list(shape)}, which its indptr [{len(pointers)}], "
                f"indices [{len(minors)}] and data [{len(data)}] do not fit; "
                + ("columns lie together (CSC), so save its .tocsr()" if turned else "store it again")
            )
        major = np.repeat(np.arange(majors), steps)
        rows, columns = (minors, major) if kind == "csc" else (major, minors)
        if kind == "bsr":
            rows = np.broadcast_to(rows[:, None, None] * block[0] + np.arange(block[0])[:, None], data.shape)
            columns = np.broadcast_to(columns[:, None, None] * block[1] + np.arange(block[1]), data.shape)
    rows, columns, data = rows.reshape(-1), columns.reshape(-1), data.reshape(-1)
    if not len(rows) == len(columns) == len(data):
        raise DataError(
            f"is a sparse matrix of {len(rows)} rows, {len(columns)} columns and {len(data)} numbers; store it again"
        )
    for name, places, size in (("row", rows, shape[0]), ("column", columns, shape[1])):
        wrong = (places < 0) | (places >= size)
        if wrong.any():
            raise DataError(
                f"is a sparse matrix with {size} {name}s and an entry in {name} {int(places[wrong][0])}; store it again"
            )
    stored = data != 0  # bsr and dia store zeros of their own: a row of zeros is a gap, however it is stored
    return csr_matrix(rows[stored], columns[stored], data[stored], shape).to(dtype)


def as_rows(value: Any, depth: int = 0) -> Tensor:
    """The vectors of one entity, [n, d]: one array, several in a list or group, or none.

    Args:
        value: an array or tensor [d], or [n, d] for several; a sequence of numbers; a list or dictionary of these.
        depth: how many lists this lies in.

    Raises:
        DataError: something else; the message goes on from the entity's name.
    """
    if value is None:
        return torch.empty(0, 0)
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, np.ndarray) and value.dtype.hasobject:
        value = list(value.reshape(-1))
    if isinstance(value, list | tuple) and any(
        not isinstance(item, int | float | np.number) for item in value
    ):
        if depth == _DEPTH:
            raise DataError("is no vector of numbers; correct it")
        parts = [part for item in value if len(part := as_rows(item, depth + 1))]
        widths = sorted({part.shape[1] for part in parts})
        if len(widths) > 1:
            raise DataError(f"has vectors of {widths[0]} and of {widths[1]} numbers; all need as many")
        return torch.cat(parts) if parts else torch.empty(0, 0)
    try:
        row = _tensor(value)
    except (DataError, ValueError, TypeError):
        raise DataError("is no vector of numbers; correct it") from None
    if row.numel() == 0:
        return torch.empty(0, 0)
    row = row.squeeze()
    if row.ndim > 2:
        raise DataError(f"has shape {list(row.shape)} and is no vector; flatten or average it first")
    return row if row.ndim == 2 else row.reshape(1, -1)


def _tensor(array: Any) -> Tensor:
    if isinstance(array, Tensor):
        if array.layout != torch.strided or array.is_complex() or array.is_quantized:
            raise DataError(
                f"tensors of {array.layout} and {array.dtype} are no features; store float32 or float16"
            )
        return array.detach().cpu()
    if isinstance(array, np.ma.MaskedArray):
        array = (
            array.filled(np.nan) if array.dtype.kind == "f" else array.data
        )  # as NaN, what is masked is told
    array = np.asarray(array)
    if array.dtype.kind not in "biuf" or array.dtype.itemsize > 8:
        raise DataError(f"arrays of type {array.dtype} are no features; store float32 or float16")
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    if array.dtype.kind == "u":
        array = array.astype(np.int64)
    return torch.from_numpy(array if array.flags.writeable and array.flags.c_contiguous else array.copy())


def _text(value: Any) -> str:
    item = np.asarray(value).reshape(-1)[0]
    return item.decode("latin1") if isinstance(item, bytes) else str(item)


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN:,} more" if len(names) > _SHOWN else ""
    return ", ".join(shorten(name) for name in names[:_SHOWN]) + more if names else "nothing"
