"""Pickles of numpy arrays and builtin containers, and of nothing else.

The field ships image features as pickled dictionaries. A pickle is a program: the ordinary unpickler would run
whatever a file asks for. This one resolves only the few names by which numpy 1 and 2 rebuild arrays, number types and
scalars, each to a stand-in of its own that checks what it is given, and refuses every other name.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any, Literal

import numpy as np

from loginmea_fast.data.textfile import shorten
from loginmea_fast.errors import DataError

__all__ = ["load_restricted_pickle"]

_DTYPE_KINDS = "biuf"
_NDARRAY = object()  # stands for numpy.ndarray, which files name but may not call


class _Refused(Exception):
    """A pickle that wants more than arrays and containers; the message says what."""


def load_restricted_pickle(path: Path) -> Any:
    """Reads a pickle that holds numpy arrays, numbers, strings, tuples, lists, dicts and sets.

    Args:
        path: the file.

    Returns:
        What was pickled.

    Raises:
        DataError: missing or unreadable file, one that is cut short or no pickle, or one that names anything else.
    """
    try:
        with path.open("rb") as file:
            return _Unpickler(file).load()
    except FileNotFoundError:
        raise DataError(f"{path} is missing; put it there or leave its modality out") from None
    except _Refused as error:
        raise DataError(
            f"{path} {error}, and only numpy arrays and builtin containers are read from a pickle; "
            "if you trust the file, convert it to .npz with arrays 'ids' and 'features'"
        ) from None
    except MemoryError:
        raise DataError(f"{path} asks for more memory than there is; convert it to .npz in parts") from None
    except Exception as error:  # a damaged pickle can raise nearly anything
        raise DataError(f"{path} is no valid pickle ({shorten(str(error))}); fetch the file again") from None


class _Dtype:
    """A number type on its way out of a pickle. numpy's own takes flags from the file that make it follow pointers."""

    def __init__(self, spec: Any, *_flags: Any) -> None:
        self.dtype = np.dtype(spec) if isinstance(spec, str) else np.dtype(object)
        if self.dtype.kind not in _DTYPE_KINDS:
            raise _Refused(f"holds an array of type {shorten(str(spec))}, which is no number")

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _version, order, *rest = state
        if tuple(rest[:6]) != (None, None, None, -1, -1, 0) or order not in ("<", ">", "|", "="):
            raise _Refused("holds an array of a compound type")
        self.dtype = self.dtype.newbyteorder(order)


class _Array(np.ndarray):
    """An array on its way out of a pickle: its state must be a shape, a checked dtype and bytes."""

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        # A second state would free memory that views of the first, such as list(array), still read.
        if self.size:
            raise _Refused("fills an array twice")
        version, shape, dtype, fortran, data = state
        if not isinstance(dtype, _Dtype) or not isinstance(data, bytes):
            raise _Refused("holds an array that is no plain block of numbers")
        plain: Any = (version, shape, dtype.dtype, bool(fortran), data)
        super().__setstate__(plain)


def _reconstruct(kind: Any, shape: tuple[int, ...], _typecode: bytes) -> np.ndarray:
    """What numpy writes for an array: an empty shell, its state follows."""
    if kind is not _NDARRAY or shape != (0,):
        raise _Refused("builds an array in an unusual way")
    return np.empty(0, dtype=np.int8).view(_Array)


def _frombuffer(data: Any, dtype: _Dtype, shape: tuple[int, ...], order: Literal["C", "F"]) -> np.ndarray:
    """What numpy writes for an array since pickle protocol 5."""
    if not isinstance(data, bytes | bytearray):
        raise _Refused("holds an array that is no plain block of numbers")
    return np.frombuffer(data, dtype=dtype.dtype).reshape(shape, order=order)


def _scalar(dtype: _Dtype, data: bytes) -> Any:
    return np.frombuffer(data, dtype=dtype.dtype, count=1)[0]


def _encode(text: str, encoding: str = "latin1") -> bytes:
    """How protocol 2 spells bytes."""
    if encoding != "latin1":
        raise _Refused(f"asks for the codec {shorten(encoding)}")
    return text.encode("latin1")


_ALLOWED: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): _NDARRAY,
    ("numpy", "dtype"): _Dtype,
    ("_codecs", "encode"): _encode,
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
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        try:
            return _ALLOWED[module, name]
        except KeyError:
            raise _Refused(f"names {shorten(f'{module}.{name}')}") from None

    def persistent_load(self, pid: Any) -> Any:
        raise _Refused("refers to something outside the file")
