"""Checkpoints: one safetensors file with the tensors and JSON beside them, no pickle, written whole or not at all."""

from __future__ import annotations

import errno
import json
import shutil
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from loginmea_fast.errors import CheckpointError
from loginmea_fast.files import whole_file
from loginmea_fast.nn.pretrained import digest, tensor_bytes
from loginmea_fast.parallel import Shards
from loginmea_fast.parallel.tables import read_tables, write_tables

__all__ = [
    "VERSION",
    "Checkpoint",
    "atomic_write",
    "fingerprint",
    "is_table",
    "load_checkpoint",
    "load_tensors",
    "read_metadata",
    "save_tensors",
]

VERSION = 2  # since 2 a checkpoint knows its split, and whether what follows its epoch is still to come
_FORMAT = "loginmea_fast"
_REMEDY = "train anew"
_ORDER = "rows.order"  # the entity of each row of divided tables
_DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


@dataclass(frozen=True)
class Checkpoint:
    """What one file holds.

    Attributes:
        tensors: by dotted name, `model.*` the parameters, `optimizer.*` and `links.*` what only a resumed run needs.
        state: JSON-ready scalars (epoch, best score, ...).
        fingerprint: of the model and its data; see the function of this name.
        model: the configuration keys that the shape of the model follows from, which can be compared before any data
            is read.
    """

    tensors: dict[str, Tensor]
    state: dict[str, Any]
    fingerprint: dict[str, Any]
    model: dict[str, Any] = field(default_factory=dict)

    def save(self, path: Path, shards: Shards | None = None) -> None:
        """Write atomically; a failure leaves an earlier file at `path` as it was.

        Args:
            path: the file.
            shards: in several processes, of which each has its rows of the tables of entities, who has which; then a
                collective. The tables stand in a directory beside `path`, which names it, so that one file decides
                which checkpoint holds.

        Raises:
            CheckpointError: the file cannot be written, for example because the disk is full.
        """
        if shards is None:
            self._commit(path, self.tensors)
            return
        tables = {name: t for name, t in self.tensors.items() if is_table(name, t)}
        rest = {name: t for name, t in self.tensors.items() if name not in tables} | {_ORDER: shards.order}
        directory = shards.world.first(lambda: _room_beside(path))
        divided = {"directory": directory.name, **write_tables(directory, tables, shards)}
        shards.world.first(lambda: self._commit(path, rest, divided=divided))

    def _commit(self, path: Path, tensors: Mapping[str, Tensor], **told: Any) -> None:
        """Write the file that decides, and remove tables that it does not name."""
        save_tensors(path, tensors, state=self.state, fingerprint=self.fingerprint, model=self.model, **told)
        for directory in _beside(path):
            if directory.name != told.get("divided", {}).get("directory"):
                shutil.rmtree(directory, ignore_errors=True)

    def part(self, prefix: str) -> dict[str, Tensor]:
        """The tensors below `prefix.`, by the rest of their names."""
        return {
            name[len(prefix) + 1 :]: t for name, t in self.tensors.items() if name.startswith(prefix + ".")
        }

    def check_model(self, expected: Mapping[str, Any], path: Path) -> None:
        """Raise `CheckpointError` naming the first parameter, or the data, in which the models differ."""
        if self.fingerprint == expected:
            return
        mine, theirs = dict(expected), dict(self.fingerprint)
        if "split" not in theirs:  # version 1
            mine.pop("split", None)
        for key in [*theirs, *mine]:
            if mine.get(key) != theirs.get(key):
                raise CheckpointError(
                    f"{path} is of another model: {key} is {theirs.get(key, 'absent')} there and "
                    f"{mine.get(key, 'absent')} here; use the configuration and the data it was trained with"
                )


def fingerprint(model: torch.nn.Module, **data: Iterable[Tensor]) -> dict[str, Any]:
    """What must agree before a checkpoint is loaded: name and shape of every parameter, and the data behind the model.

    Args:
        model: its parameters are named in the result.
        data: name -> tensors, each of which becomes 16 hexadecimal digits.
    """
    shapes = {name: list(t.shape) for name, t in model.state_dict().items()}
    return {**shapes, **{name: digest(tensors) for name, tensors in data.items()}}


def is_table(name: str, tensor: Tensor) -> bool:
    """Whether a tensor of a checkpoint has a row an entity: an entity embedding, or what an optimiser keeps of one."""
    return "entity_embedding" in name.split(".") and tensor.dim() == 2


def load_checkpoint(path: Path, remedy: str = _REMEDY, shards: Shards | None = None) -> Checkpoint:
    """Read a checkpoint back, on the CPU.

    Args:
        path: the file.
        remedy: what to do if it is damaged, for the error.
        shards: which rows of the tables of entities this process reads, in a collective of all; None for all rows.

    Raises:
        CheckpointError: the file is missing, cut short, no checkpoint of this package, or of a newer version.
    """
    tensors, metadata = load_tensors(path, remedy)
    if not {"state", "fingerprint"} <= metadata.keys():
        raise CheckpointError(f"{path} holds no model; {remedy}")
    if (divided := metadata.get("divided")) is not None:
        directory = path.with_name(Path(divided["directory"]).name)
        tensors |= read_tables(directory, divided, tensors.pop(_ORDER), shards, remedy)
    elif shards is not None:
        tensors = {name: shards.take(t) if is_table(name, t) else t for name, t in tensors.items()}
    return Checkpoint(tensors, metadata["state"], metadata["fingerprint"], metadata.get("model", {}))


def save_tensors(path: Path, tensors: Mapping[str, Tensor], **metadata: Any) -> None:
    """Stream `tensors` and JSON `metadata` into one safetensors file, atomically.

    The format is written here, not through `safetensors.torch.save_file`, because that holds a second copy of every
    tensor in memory and does not reach the disk before it returns.
    """
    header: dict[str, Any] = {
        "__metadata__": {
            "format": _FORMAT,
            "version": str(VERSION),
            **{key: json.dumps(value) for key, value in metadata.items()},
        }
    }
    # Widest elements first: every tensor then starts at a multiple of its element size.
    ordered = sorted(tensors.items(), key=lambda item: (-item[1].element_size(), item[0]))
    offset = 0
    for name, tensor in ordered:
        end = offset + tensor.numel() * tensor.element_size()
        header[name] = {
            "dtype": _DTYPES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [offset, end],
        }
        offset = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)

    def write(file: BinaryIO) -> None:
        file.write(struct.pack("<Q", len(text)) + text)
        for _, tensor in ordered:
            file.write(tensor_bytes(tensor))

    atomic_write(path, write, 8 + len(text) + offset)


def atomic_write(path: Path, write: Callable[[BinaryIO], object], size: int) -> None:
    """Call `write(file)` on a file of about `size` bytes that is then at `path`, whole or not at all.

    Raises:
        CheckpointError: it cannot be written; what was at `path` is untouched.
    """
    try:
        with whole_file(path) as file:
            write(file)
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        remedy = f"free {-(-size >> 20)} MiB there" if full else "check the directory and its permissions"
        kept = "; the earlier file is intact" if path.exists() else ""
        raise CheckpointError(
            f"cannot write {path}: {error.strerror}{kept}; {remedy} and go on with --resume"
        ) from error


def _beside(path: Path) -> list[Path]:
    """The directories of tables that belong to a checkpoint, or to one that was never finished."""
    return [path.with_name(f"{path.stem}.tables-{letter}") for letter in "ab"]


def _room_beside(path: Path) -> Path:
    """An empty directory for tables, not the one of the checkpoint that is at `path`."""
    used = None
    if path.is_file():
        with _opened(path, _REMEDY) as (_, metadata):
            used = metadata.get("divided", {}).get("directory")
    free = next(directory for directory in _beside(path) if directory.name != used)
    try:
        shutil.rmtree(free, ignore_errors=True)
        free.mkdir()
    except OSError as error:
        raise CheckpointError(
            f"cannot write {free}: {error.strerror}; check the directory and its permissions"
        ) from error
    return free


def load_tensors(path: Path, remedy: str = _REMEDY) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors, on the CPU, and metadata of a file that `save_tensors` wrote.

    Args:
        path: the file.
        remedy: what to do if it is damaged, for the error.

    Raises:
        CheckpointError: the file is missing, cut short, not of this package, or of a newer version.
    """
    with _opened(path, remedy) as (file, metadata):
        # Cloned: the mapped file may be replaced, and its tensors need not be aligned for vector loads.
        return {name: file.get_tensor(name).clone() for name in file.keys()}, metadata  # noqa: SIM118


def read_metadata(path: Path, remedy: str = _REMEDY) -> dict[str, Any]:
    """The metadata alone, at once whatever the size; all that `load_tensors` refuses is refused here."""
    with _opened(path, remedy) as (_, metadata):
        return metadata


@contextmanager
def _opened(path: Path, remedy: str) -> Iterator[tuple[Any, dict[str, Any]]]:
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file; the run saved none yet, or the path is wrong")
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            metadata = file.metadata() or {}
            _check_version(path, metadata)
            yield (
                file,
                {key: json.loads(text) for key, text in metadata.items() if key not in ("format", "version")},
            )
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{path} is cut short or damaged ({error}); {remedy}") from None


def _check_version(path: Path, metadata: Mapping[str, str]) -> None:
    if metadata.get("format") != _FORMAT or not metadata.get("version", "").isdigit():
        raise CheckpointError(
            f"{path} was not written by loginmea_fast; name a checkpoint of a run directory"
        )
    version = int(metadata["version"])
    if version > VERSION:
        raise CheckpointError(
            f"{path} has checkpoint version {version}, this loginmea_fast reads up to {VERSION}; "
            "upgrade with pip install -U loginmea-fast"
        )
