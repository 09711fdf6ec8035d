"""A run directory: config.toml, split.safetensors, metrics.jsonl, last.safetensors and best.safetensors."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from loginmea_fast.data import Split
from loginmea_fast.errors import CheckpointError, ConfigError
from loginmea_fast.training.checkpoint import (
    Checkpoint,
    atomic_write,
    load_checkpoint,
    load_tensors,
    save_tensors,
)
from loginmea_fast.training.config import Config

__all__ = ["RunDirectory"]


class RunDirectory:
    """Paths of one run and what is read from and written to them.

    Attributes:
        path: the directory.
        config: what config.toml holds.
    """

    def __init__(self, path: Path, config: Config) -> None:
        """Wrap a directory that `create` or `open` has checked."""
        self.path = path
        self.config = config

    @staticmethod
    def check_new(path: str | os.PathLike[str]) -> None:
        """Raise `ConfigError` where `path` holds something already; worth asking before data is read."""
        directory = Path(path)
        if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
            raise ConfigError(
                f"{directory} exists already; go on with the run in it by --resume, or choose another directory"
            )

    @classmethod
    def create(cls, path: str | os.PathLike[str], config: Config) -> RunDirectory:
        """Make a new directory with its config.toml.

        Raises:
            ConfigError: it exists and is not empty, or cannot be made.
        """
        cls.check_new(path)
        directory = Path(path)
        try:
            directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(
                f"cannot make the run directory {directory}: {error.strerror}; choose another"
            ) from None
        run = cls(directory, config)
        text = config.to_toml().encode()
        atomic_write(run.config_file, lambda file: file.write(text), len(text))
        return run

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> RunDirectory:
        """Open a directory that holds a run.

        Raises:
            ConfigError: there is none, or its config.toml is wrong.
        """
        directory = Path(path)
        if not (directory / "config.toml").is_file():
            raise ConfigError(
                f"{directory} is not a run directory: it has no config.toml; name one that train made"
            )
        return cls(directory, Config.load(directory / "config.toml"))

    @property
    def config_file(self) -> Path:
        """The configuration, as given or taken by default."""
        return self.path / "config.toml"

    @property
    def split_file(self) -> Path:
        """The links used, so that evaluation never draws them again."""
        return self.path / "split.safetensors"

    @property
    def metrics_file(self) -> Path:
        """One JSON object a line."""
        return self.path / "metrics.jsonl"

    @property
    def last_file(self) -> Path:
        """Everything that resuming needs."""
        return self.path / "last.safetensors"

    @property
    def best_file(self) -> Path:
        """The parameters that validation chose."""
        return self.path / "best.safetensors"

    def save_split(self, split: Split) -> None:
        """Keep the links of this run."""
        save_tensors(self.split_file, {"train": split.train, "valid": split.valid, "test": split.test})

    def load_split(self, num_entities: int) -> Split:
        """The links of this run, for data of `num_entities`.

        Raises:
            CheckpointError: the file is missing or damaged, or the data has changed.
        """
        tensors, _ = load_tensors(self.split_file)
        split = Split(tensors["train"], tensors["valid"], tensors["test"])
        highest = max(int(part.max()) for part in (split.train, split.valid, split.test) if len(part))
        if highest >= num_entities:
            raise CheckpointError(
                f"{self.split_file} links entity {highest}, the data ends at {num_entities - 1}; "
                "use the data that the run was trained with"
            )
        return split

    def load_best(self) -> Checkpoint:
        """The best checkpoint so far; the last one where no epoch was validated yet.

        Raises:
            CheckpointError: the run saved none yet, or the file is damaged.
        """
        if not self.best_file.is_file() and not self.last_file.is_file():
            raise CheckpointError(
                f"{self.path} holds no checkpoint yet; let the run reach its first one, or --resume it"
            )
        return load_checkpoint(self.best_file if self.best_file.is_file() else self.last_file)

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Keep other processes from training here; the operating system lets go when this one ends, however it ends.

        Raises:
            ConfigError: another process is training here.
        """
        descriptor = os.open(self.path, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise ConfigError(f"another process is training in {self.path}; wait for it or stop it") from None
        except OSError:
            pass  # a network file system without locks: go on as careful as the user is
        try:
            yield
        finally:
            os.close(descriptor)

    def append_metrics(self, record: dict[str, Any]) -> None:
        """Add one line to metrics.jsonl.

        Raises:
            CheckpointError: the disk is full.
        """
        line = json.dumps(record) + "\n"
        try:
            with self.metrics_file.open("a", encoding="utf-8") as file:
                file.write(line)
        except OSError as error:
            raise CheckpointError(
                f"cannot write {self.metrics_file}: {error.strerror}; the last checkpoint is intact, "
                "make room and go on with --resume"
            ) from error

    def rewind_metrics(self, epoch: int) -> None:
        """Drop lines of epochs after `epoch`, a line that was cut short, and what a finished run wrote at its end."""
        kept = [
            record
            for record in self.metrics()
            if record.get("epoch", 0) <= epoch and record["event"] != "final"
        ]
        text = "".join(json.dumps(record) + "\n" for record in kept).encode()
        atomic_write(self.metrics_file, lambda file: file.write(text), len(text))

    def metrics(self) -> list[dict[str, Any]]:
        """The records of metrics.jsonl; a last line that a killed process left unfinished is left out."""
        if not self.metrics_file.is_file():
            return []
        records = []
        for line in self.metrics_file.read_bytes().splitlines():
            try:
                records.append(json.loads(line))
            except ValueError:
                break
        return records
