"""Trainings that outlive the process: an alignment that is stopped goes on where it was."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from loginmea_fast.data import AlignmentPair
from loginmea_fast.errors import ConfigError, DataError
from loginmea_fast.files import write_whole
from loginmea_fast.training.config import Config
from loginmea_fast.version import __version__

__all__ = ["Kept"]

_FREE = {"path", "vectors", "tensorboard"}  # where data is may change, what it is may not


class Kept:
    """A directory of run directories, one a training, and inputs.json, which says what they are trainings of.

    Args:
        directory: made if need be.
        replace: trainings of other inputs are removed, not refused.

    Attributes:
        directory: the same.
        seconds: what was spent on the trainings in earlier calls.
    """

    def __init__(self, directory: str | os.PathLike[str], replace: bool = False) -> None:
        self.directory = Path(directory)
        self.seconds = 0.0
        self._replace = replace
        self._count = 0

    def open(self, pair: AlignmentPair, links: Sequence[Tensor], config: Config, folds: int | None) -> None:
        """Claim the directory for trainings of these inputs; `links` by what is made of them.

        Raises:
            ConfigError: it holds trainings of others.
            DataError: it cannot be written.
        """
        inputs = _described(pair, links, config, folds)
        file = self.directory / "inputs.json"
        doomed = self.directory.with_name(f".{self.directory.name}.old")
        shutil.rmtree(doomed, ignore_errors=True)
        try:
            there = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None
        except ValueError:
            there = {}
        try:
            if there is not None and there != inputs:
                if not self._replace:
                    raise ConfigError(
                        f"{self.directory} holds what was trained with {_difference(there, inputs)}; give the inputs "
                        "of then to go on, choose another directory, or begin anew with --overwrite (overwrite=True)"
                    )
                self.directory.rename(doomed)  # at once: a kill leaves no part of them in the way
                shutil.rmtree(doomed)
            self.directory.mkdir(parents=True, exist_ok=True)
            write_whole(file, f"{json.dumps(inputs, indent=1)}\n".encode())
        except OSError as error:
            raise DataError(f"{self.directory} cannot be written ({error.strerror or error})") from None

    def count(self, history: Iterable[Mapping[str, Any]], seconds: float) -> None:
        """Count what a training took beyond the `seconds` of this call, by the records of its run."""
        spent = sum(float(record.get("seconds", 0)) for record in history)
        self.seconds += max(spent - seconds, 0.0)

    def next(self) -> tuple[Path, bool]:
        """The directory of the next training, and whether it has begun already."""
        self._count += 1
        path = self.directory / str(self._count)
        return path, (path / "config.toml").is_file()


def _described(
    pair: AlignmentPair, links: Sequence[Tensor], config: Config, folds: int | None
) -> dict[str, Any]:
    features = ((name, feature) for name, feature in sorted(pair.features.items()))
    return {
        "version": __version__,
        "graphs": _digest([json.dumps(pair.uris), pair.left_entities, pair.triples]),
        "features": {name: _digest([*_parts(one.values), one.present]) for name, one in features},
        "links": _digest(links),
        "folds": folds,
        "configuration": {
            key: value for key, value in json.loads(json.dumps(config.as_dict())).items() if key not in _FREE
        },
    }


def _parts(values: Tensor) -> list[Tensor]:
    if values.layout == torch.sparse_csr:
        return [values.crow_indices(), values.col_indices(), values.values()]
    return [values]


def _digest(parts: Iterable[str | Tensor]) -> str:
    found = hashlib.blake2b(digest_size=16)
    for part in parts:
        if isinstance(part, str):
            found.update(part.encode("utf-8", "surrogatepass"))
        else:
            found.update(f"{part.dtype} {list(part.shape)}".encode())
            found.update(part.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def _difference(there: dict[str, Any], now: dict[str, Any]) -> str:
    """What is other than it was, in words."""
    words = {
        "version": "another version of this package",
        "graphs": "other graphs",
        "features": "other modalities",
        "links": "other known pairs or decisions",
        "folds": "another number of folds",
    }
    found = [word for key, word in words.items() if there.get(key) != now[key]]
    before = there.get("configuration", {})
    for key, value in now["configuration"].items():
        if key in before and before[key] != value:
            found.append(f"{key} = {json.dumps(before[key])}")
    return ", ".join(found) or "an older layout of its configuration"
