"""Pickles of numpy arrays, torch tensors and builtin containers, and of nothing else.

The field ships image features as pickled dictionaries. A pickle is a program: the ordinary unpickler would run
whatever a file asks for. This one resolves only the few names by which numpy 1 and 2 rebuild arrays, number types and
scalars, torch its dense tensors and the standard library its dictionaries, each to a stand-in of its own that checks
what it is given, and refuses every other name. ``torch.save`` and ``numpy.save`` of a dictionary write pickles too.
"""

from __future__ import annotations

import io
import pickle
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
import torch
from torch import Tensor

from loginmea_fast.data.textfile import shorten
from loginmea_fast.errors import DataError

__all__ = ["load_restricted_pickle", "load_restricted_torch", "restricted_unpickle"]

_DTYPE_KINDS = "biufSUO"
_NDARRAY = object()  # stands for numpy.ndarray, which files name but may not call
_FACTORY = object()  # stands for what a defaultdict would make; a dictionary without defaults comes of it
_PLAIN_STATE = (None, None, None)  # no subarray, no names, no fields
_CONTAINERS = (list, tuple, dict, set, frozenset)
_MOST_PARTS = 10**8  # of lists in lists, each counted as often as it stands there
_REPEATS = 100
_REMEDIES = (  # by the module of the name that a file asks for
    ("scipy.sparse", "save the matrix with scipy.sparse.save_npz"),
    ("torch", "save dense tensors, as safetensors or torch.save({key: tensor.cpu()}, ...)"),
    ("pandas", "save its numbers with numpy.savez(..., ids=..., features=...)"),
    ("PIL", "these are images; vectors are what an image encoder makes of them"),
)


class _Refused(Exception):
    """A pickle that wants more than arrays and containers; the message says what."""

    def __init__(self, what: str, remedy: str | None = None) -> None:
        super().__init__(what)
        self.remedy = remedy or "convert it to .npz with arrays 'ids' and 'features'"


def load_restricted_pickle(path: Path) -> Any:
    """Reads a pickle that holds arrays, tensors, numbers, strings, tuples, lists, dicts and sets.

    Python 2's pickles are read too: their strings come as Latin-1, byte by byte.

    Args:
        path: the file.

    Returns:
        What was pickled; an OrderedDict or defaultdict as a dict.

    Raises:
        DataError: missing or unreadable file, one that is cut short or no pickle, or one that names anything else.
    """
    with _explained(path), path.open("rb") as file:
        return _unrepeated(_Unpickler(file, encoding="latin1").load())


def restricted_unpickle(path: Path, file: IO[bytes]) -> Any:
    """As :func:`load_restricted_pickle`, from where an open file stands."""
    with _explained(path):
        return _unrepeated(_Unpickler(file, encoding="latin1").load())


def load_restricted_torch(path: Path) -> Any:
    """Reads a file of ``torch.save``: a zip archive of a pickle and numbers, or before torch 1.6 a row of pickles.

    Args:
        path: the file.

    Returns:
        What was saved, tensors on the CPU.

    Raises:
        DataError: as :func:`load_restricted_pickle`.
    """
    with _explained(path):
        if not zipfile.is_zipfile(path):
            with path.open("rb") as file:
                return _unrepeated(_load_row(file, path.stat().st_size))
        with zipfile.ZipFile(path) as archive:
            return _unrepeated(_load_archive(archive))


def _unrepeated(content: Any) -> Any:
    """The content, unless lists that hold the same lists over and over make more of it than could be meant."""
    sizes: dict[int, int] = {}
    entered: set[int] = set()
    stack = [content]
    while stack:
        item = stack[-1]
        if id(item) in sizes:
            stack.pop()
            continue
        inside = _containers_in(item)
        fresh = [part for part in inside if id(part) not in sizes]
        if fresh and id(item) not in entered:
            entered.add(id(item))
            stack += fresh
            continue
        stack.pop()
        own = len(item) if isinstance(item, _CONTAINERS) else 1
        sizes[id(item)] = own + sum(sizes.get(id(part), 1) for part in inside)
    if sizes[id(content)] > _MOST_PARTS and sizes[id(content)] > _REPEATS * len(sizes):
        raise _Refused("holds the same lists inside each other over and over", "store each vector once")
    return content


def _containers_in(item: Any) -> list[Any]:
    if isinstance(item, np.ndarray) and item.dtype.hasobject:
        item = item.reshape(-1).tolist()
    if not isinstance(item, _CONTAINERS):
        return []
    parts = item.values() if isinstance(item, dict) else item
    return [part for part in parts if isinstance(part, (*_CONTAINERS, np.ndarray))]


def _load_archive(archive: zipfile.ZipFile) -> Any:
    names = archive.namelist()
    root = next(name for name in names if name.endswith("data.pkl")).removesuffix("data.pkl")
    if f"{root}byteorder" in names and archive.read(f"{root}byteorder") != b"little":
        raise _Refused("was saved on a big-endian machine", "convert it to safetensors there")
    storages: dict[str, Tensor] = {}

    def storage(kind: Any, key: Any, *_rest: Any) -> Tensor:
        dtype = _storage_type(kind, key)
        if key not in storages:
            data = bytearray(archive.read(f"{root}data/{key}"))
            storages[key] = torch.frombuffer(data, dtype=dtype) if data else torch.empty(0, dtype=dtype)
        return storages[key]

    with archive.open(f"{root}data.pkl") as file:
        return _Unpickler(file, encoding="latin1", storage=storage).load()


def _load_row(file: IO[bytes], size: int) -> Any:
    """A magic number, a version, the system, the content and the names of storages, whose numbers follow.

    Args:
        file: from where the first pickle begins.
        size: bytes that it has at most; no storage can hold more.
    """
    _magic, _version, system = (_Unpickler(file, encoding="latin1").load() for _ in range(3))
    if not system["little_endian"]:
        raise _Refused("was saved on a big-endian machine", "convert it to safetensors there")
    storages: dict[str, Tensor] = {}

    def storage(kind: Any, key: Any, _device: Any, count: Any, view: Any = None) -> Tensor:
        dtype = _storage_type(kind, key)
        if view is not None or type(count) is not int or not 0 <= count * dtype.itemsize <= size:
            raise _Refused("holds a tensor that is no plain block of numbers")
        return storages.setdefault(key, torch.zeros(count, dtype=dtype))

    content = _Unpickler(file, encoding="latin1", storage=storage).load()
    for key in _Unpickler(file, encoding="latin1").load():
        count = int.from_bytes(file.read(8), "little")
        own = storages.pop(key)
        data = bytearray(file.read(own.nbytes))
        if count != len(own) or len(data) != own.nbytes:
            raise EOFError("it is cut short")
        if data:
            own.copy_(torch.frombuffer(data, dtype=own.dtype))
    if storages:
        raise EOFError("it is cut short")
    return content


def _storage_type(kind: Any, key: Any) -> torch.dtype:
    if not isinstance(kind, _StorageKind) or not isinstance(key, str):
        raise _Refused("holds a tensor that is no plain block of numbers")
    return kind.dtype


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Whatever reading a pickle may raise, as one sentence."""
    try:
        yield
    except FileNotFoundError:
        raise DataError(f"{path} is missing; put it there or leave its modality out") from None
    except _Refused as error:
        raise DataError(
            f"{path} {error}, and only numpy arrays, torch tensors and builtin containers are read from a pickle; "
            f"if you trust the file, {error.remedy}"
        ) from None
    except MemoryError:
        raise DataError(f"{path} asks for more memory than there is; convert it to .npz in parts") from None
    except Exception as error:  # a damaged pickle can raise nearly anything
        raise DataError(f"{path} is no valid pickle ({shorten(str(error))}); fetch the file again") from None


class _Dtype:
    """A number type on its way out of a pickle. numpy's own takes flags from the file that make it follow pointers."""

    def __init__(self, spec: Any, *_flags: Any) -> None:
        self.dtype = np.dtype(spec if isinstance(spec, str) else "V")
        if self.dtype.kind not in _DTYPE_KINDS:
            raise _Refused(f"holds an array of type {shorten(str(spec))}, which is no number")

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _version, order, *rest = state
        # Sizes of strings were in the type's name already; 63 are the flags of pointers to objects.
        expected = (-1, -1, 63) if self.dtype.hasobject else (-1, -1, 0)
        sizes = tuple(rest[3:6])
        if (
            tuple(rest[:3]) != _PLAIN_STATE
            or (self.dtype.kind not in "SU" and sizes != expected)
            or order not in ("<", ">", "|", "=")
        ):
            raise _Refused("holds an array of a compound type")
        self.dtype = self.dtype.newbyteorder(order)


class _Array(np.ndarray):
    """An array on its way out of a pickle: its state must be a shape, a checked dtype and bytes or a list."""

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        # A second state would free memory that views of the first, such as list(array), still read.
        if self.size:
            raise _Refused("fills an array twice")
        version, shape, dtype, fortran, data = state
        if isinstance(data, str):
            data = data.encode("latin1")  # Python 2's bytes
        if not isinstance(dtype, _Dtype) or type(data) is not (list if dtype.dtype.hasobject else bytes):
            raise _Refused("holds an array that is no plain block of numbers")
        if isinstance(data, list) and len(data) != int(np.prod(shape)):
            raise _Refused("holds an array whose shape is not that of its content")
        plain: Any = (version, shape, dtype.dtype, bool(fortran), data)
        super().__setstate__(plain)


def _reconstruct(kind: Any, shape: tuple[int, ...], _typecode: bytes) -> np.ndarray:
    """What numpy writes for an array: an empty shell, its state follows."""
    if kind is not _NDARRAY or shape != (0,):
        raise _Refused("builds an array in an unusual way")
    return np.empty(0, dtype=np.int8).view(_Array)


def _frombuffer(data: Any, dtype: _Dtype, shape: tuple[int, ...], order: Literal["C", "F"]) -> np.ndarray:
    """What numpy writes for an array since pickle protocol 5."""
    if not isinstance(data, bytes | bytearray) or dtype.dtype.hasobject:
        raise _Refused("holds an array that is no plain block of numbers")
    return np.frombuffer(data, dtype=dtype.dtype).reshape(shape, order=order)


def _scalar(dtype: _Dtype, data: bytes | str) -> Any:
    if dtype.dtype.hasobject:
        raise _Refused("holds an object where a number should be")
    data = data.encode("latin1") if isinstance(data, str) else data
    return np.frombuffer(data, dtype=dtype.dtype, count=1)[0]


def _encode(text: str, encoding: str = "latin1") -> bytes:
    """How protocol 2 spells bytes."""
    if encoding != "latin1":
        raise _Refused(f"asks for the codec {shorten(encoding)}")
    return text.encode("latin1")


def _no_bytes() -> bytes:
    """How protocol 2 spells bytes of which there are none."""
    return b""


class _Dict(dict):
    """An OrderedDict on its way out of a pickle; attributes that hang on it are let go."""

    def __setstate__(self, state: Any) -> None:
        pass


def _default_dict(_factory: Any = None, items: Any = ()) -> dict[Any, Any]:
    return _Dict(items)


def _reconstructor(*_args: Any) -> Any:
    """How protocols 0 and 1 build an object of a class; the class, which comes first, is refused by name."""
    raise _Refused("builds an object")


class _StorageKind:
    """Stands for a storage class of torch."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype


def _storage_from_bytes(data: Any) -> Tensor:
    """How a tensor that was pickled, not saved, keeps its numbers: as a file of torch inside the pickle."""
    if not isinstance(data, bytes):
        raise _Refused("holds a tensor that is no plain block of numbers")
    storage = _load_row(io.BytesIO(data), len(data))
    if not isinstance(storage, Tensor):
        raise _Refused("holds a tensor that is no plain block of numbers")
    return storage


def _rebuild_tensor(
    storage: Any, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_rest: Any
) -> Tensor:
    if not isinstance(storage, Tensor):
        raise _Refused("holds a tensor that is no plain block of numbers")
    return storage.as_strided(size, stride, offset)  # which checks the bounds


def _rebuild_parameter(data: Any, *_rest: Any) -> Tensor:
    if not isinstance(data, Tensor):
        raise _Refused("holds a parameter that is no tensor")
    return data


_ALLOWED: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): _NDARRAY,
    ("numpy", "dtype"): _Dtype,
    ("_codecs", "encode"): _encode,
    ("__builtin__", "bytes"): _no_bytes,
    ("collections", "OrderedDict"): _Dict,
    ("collections", "defaultdict"): _default_dict,
    ("copyreg", "_reconstructor"): _reconstructor,
    ("copy_reg", "_reconstructor"): _reconstructor,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
    ("torch.storage", "_load_from_bytes"): _storage_from_bytes,
    **{
        ("torch", f"{name}Storage"): _StorageKind(dtype)
        for name, dtype in (
            ("Float", torch.float32),
            ("Double", torch.float64),
            ("Half", torch.float16),
            ("BFloat16", torch.bfloat16),
            ("Long", torch.int64),
            ("Int", torch.int32),
            ("Short", torch.int16),
            ("Char", torch.int8),
            ("Byte", torch.uint8),
            ("Bool", torch.bool),
        )
    },
    **{
        (f"{core}.multiarray", name): function
        for core in ("numpy.core", "numpy._core")
        for name, function in (("_reconstruct", _reconstruct), ("scalar", _scalar))
    },
    **{(f"{core}.numeric", "_frombuffer"): _frombuffer for core in ("numpy.core", "numpy._core")},
    **{
        (module, kind.__name__): kind
        for module in ("builtins", "__builtin__")
        for kind in (set, frozenset, bytearray, list, dict, tuple)
    },
    **{
        (module, name): _FACTORY
        for module in ("builtins", "__builtin__")
        for name in ("int", "float", "str", "bool")
    },
}


class _Unpickler(pickle.Unpickler):
    def __init__(
        self,
        file: IO[bytes],
        *,
        encoding: str,
        storage: Callable[..., Tensor] | None = None,
    ) -> None:
        super().__init__(file, encoding=encoding)
        self._storage = storage

    def find_class(self, module: str, name: str) -> Any:
        try:
            return _ALLOWED[module, name]
        except KeyError:
            remedy = next((remedy for start, remedy in _REMEDIES if module.startswith(start)), None)
            raise _Refused(f"names {shorten(f'{module}.{name}')}", remedy) from None

    def persistent_load(self, pid: Any) -> Any:
        if self._storage is None or not isinstance(pid, tuple) or len(pid) < 3 or pid[0] != "storage":
            raise _Refused("refers to something outside the file")
        return self._storage(*pid[1:])
