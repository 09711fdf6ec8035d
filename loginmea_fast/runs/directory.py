"""A run directory: config.toml, split.safetensors, metrics.jsonl, last.safetensors and best.safetensors."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Literal

from loginmea_fast.data import Split
from loginmea_fast.errors import CheckpointError, ConfigError, DataError
from loginmea_fast.files import left_behind
from loginmea_fast.locks import Taken, locked
from loginmea_fast.parallel import Shards
from loginmea_fast.training.checkpoint import (
    Checkpoint,
    atomic_write,
    load_checkpoint,
    load_tensors,
    read_metadata,
    save_tensors,
)
from loginmea_fast.training.config import Config

__all__ = ["RunDirectory", "Which"]

Which = Literal["best", "last"]

# What runs did before there was a key, where it is not what they do by default since: a run writes every key, so one
# that it does not name came later.
_BEFORE = {"late_pairs": False}


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
        """Raise `ConfigError` where `create` would; asked before data is read, so that nobody waits to be told."""
        directory = Path(path)
        if directory.exists() and (
            not directory.is_dir() or set(directory.iterdir()) - set(left_behind(directory))
        ):
            remedy = "choose another directory"
            if (directory / "config.toml").is_file():
                remedy = f"go on with the run in it by --resume {shlex.quote(str(directory))}, or {remedy}"
            raise ConfigError(f"{directory} exists already; {remedy}")
        there = next(place for place in (directory, *directory.absolute().parents) if place.exists())
        if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
            why = "may not be written to" if there.is_dir() else "is no directory"
            raise ConfigError(f"cannot make the run directory {directory}: {there} {why}; choose another")

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
        run.keep(config)
        return run

    def keep(self, config: Config) -> None:
        """Write config.toml: `config` is that of the run from here on.

        Raises:
            CheckpointError: it cannot be written; the earlier one is intact.
        """
        text = config.to_toml().encode()
        atomic_write(self.config_file, lambda file: file.write(text), len(text))
        self.config = config

    @classmethod
    def open(cls, path: str | os.PathLike[str], leads: bool = True) -> RunDirectory:
        """Open a directory that holds a run.

        Args:
            path: the directory.
            leads: whether this process is the one that writes into it.

        Raises:
            ConfigError: there is none, or its config.toml is wrong.
        """
        directory = Path(path)
        if not (directory / "config.toml").is_file():
            raise ConfigError(
                f"{directory} is not a run directory: it has no config.toml; name one that train made"
            )
        kind = cls if leads else _FollowedRun
        config = Config.load(directory / "config.toml")
        before = {name: value for name, value in _BEFORE.items() if name not in config.model_fields_set}
        return kind(directory, config.override(**before))

    def moved(self, changes: Mapping[str, Any]) -> dict[str, Any]:
        """`changes` of the configuration, files of vectors beside those of the run that they do not name."""
        changes = dict(changes)
        if changes.get("vectors") is not None:
            changes["vectors"] = {**(self.config.vectors or {}), **changes["vectors"]}
        return changes

    def check_data(self, config: Config) -> None:
        """Check that the data and the vectors of the run are where `config` says: people move them.

        Raises:
            DataError: one is gone; names the flag that says where it is now.
        """
        if config.path not in (None, "embedded") and not os.path.isdir(config.path):
            raise DataError(
                f"{config.path} does not exist or is no directory; say where the data of {self.path} is now with "
                "--data DIR (path=...)"
            )
        for modality, named in (config.vectors or {}).items():
            for file in (named,) if isinstance(named, str) else named:
                if not os.path.exists(file):
                    raise DataError(
                        f"{file} is missing; say where the vectors of {self.path} are now with --vectors "
                        f"{modality}=FILE (vectors={{...}})"
                    )

    def check_resumable(self, wanted: Config) -> None:
        """Check all of going on with the run that can be checked without its data.

        Args:
            wanted: the configuration that the caller asks for; it must be that of the run, but for where the data is
                and how many epochs there are.

        Raises:
            ConfigError: the configuration would change, the run has finished as many epochs, or another process is
                training here.
            CheckpointError: the last checkpoint is cut short, of a newer version, or of another model.
        """
        stored = self.config.as_dict()
        free = {
            "path",
            "vectors",
            "epochs",
            "tensorboard",
        }  # that the data is the same, the checkpoint can tell
        changed = [key for key, value in wanted.as_dict().items() if stored[key] != value and key not in free]
        if changed:
            raise ConfigError(
                f"a resumed run keeps its configuration, but {', '.join(changed)} would change; "
                "leave the change out, or train into a new directory"
            )
        if self.config.rounds and wanted.epochs != self.config.epochs:
            raise ConfigError(
                f"the run has rounds of {self.config.epochs} epochs, which cannot become {wanted.epochs}; leave epochs "
                "out, or train into a new directory",
                "epochs",
            )
        with self.hold():
            if self.last_file.is_file():
                metadata = read_metadata(self.last_file, self._remedy("last"))
                self._check_model(metadata.get("model", {}), self.last_file)
                done = metadata.get("state", {}).get("epoch", 0)
                if wanted.epochs <= done and wanted.epochs != self.config.epochs:
                    raise ConfigError(
                        f"the run has finished {done} epochs and cannot end after {wanted.epochs}; give more",
                        "epochs",
                    )

    @property
    def _quoted(self) -> str:
        """The path, as a shell reads it."""
        return shlex.quote(str(self.path))

    @property
    def curves(self) -> Path:
        """Where TensorBoard is to look, under `tensorboard = true`."""
        return self.path / "tensorboard"

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
        tensors, _ = load_tensors(
            self.split_file,
            f"delete it and go on with train --resume {self._quoted}, which draws the same links again",
        )
        # Runs of versions that divided links without their entities hold splits that overlap.
        split, _ = Split.apart(tensors["train"], tensors["valid"], tensors["test"])
        highest = max(int(part.max()) for part in (split.train, split.valid, split.test) if len(part))
        if highest >= num_entities:
            raise CheckpointError(
                f"{self.split_file} links entity {highest}, the data ends at {num_entities - 1}; "
                "use the data that the run was trained with"
            )
        return split

    def load(self, which: Which | None = None, shards: Shards | None = None) -> tuple[Checkpoint, Path]:
        """A checkpoint and the file it is from.

        Args:
            which: "best" or "last"; None takes the best, or the last where no epoch was validated yet.
            shards: which rows of the tables of entities this process reads; None for all.

        Raises:
            ConfigError: `which` is neither.
            CheckpointError: the run saved none yet, or the file is damaged, of a newer version, or of another model
                than config.toml describes.
        """
        files = {"best": self.best_file, "last": self.last_file}
        if which is not None and which not in files:
            raise ConfigError(f"checkpoint must be 'best' or 'last'; got {which!r}")
        there = [name for name, file in files.items() if file.is_file()]
        if not there:
            raise CheckpointError(
                f"{self.path} holds no checkpoint yet; let the run reach its first one, or go on with train "
                f"--resume {self._quoted}"
            )
        chosen: Any = which or there[0]
        if chosen not in there:
            raise CheckpointError(
                f"{self.path} holds no {chosen} checkpoint; take the other with --checkpoint {there[0]}"
            )
        checkpoint = load_checkpoint(files[chosen], self._remedy(chosen), shards)
        self._check_model(checkpoint.model, files[chosen])
        return checkpoint, files[chosen]

    def _remedy(self, damaged: Which) -> str:
        """What a user can do about a damaged checkpoint: the other one measures, only the last one resumes."""
        other: Which = "best" if damaged == "last" else "last"
        file = self.best_file if other == "best" else self.last_file
        anew = f"train anew with train --config {self.config_file} --out RUN"
        if not file.is_file():
            return anew
        measure = f"{file.name} is there: evaluate {self._quoted} --checkpoint {other} measures it"
        return f"{measure}, and to go on {anew}" if damaged == "last" else f"{measure}, or {anew}"

    def _check_model(self, theirs: Mapping[str, Any], file: Path) -> None:
        ours = self.config.shape()
        for key, value in theirs.items():
            if ours.get(key) != value:
                raise CheckpointError(
                    f"{file} is of another model: {key} is {value} there and {ours.get(key)} in {self.config_file}; "
                    "put the checkpoint of this run back, or correct config.toml"
                )

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Keep other processes from training here; the operating system lets go when this one ends, however it ends.

        What a process that was killed left half written is removed.

        Raises:
            ConfigError: another process is training here.
        """
        with ExitStack() as stack:
            try:
                stack.enter_context(locked(self.path / ".lock"))
            except Taken:
                raise ConfigError(
                    f"another process is training in {self.path}; wait for it or stop it"
                ) from None
            except OSError:
                pass  # a network file system without locks: go on as careful as the user is
            else:
                for file in left_behind(self.path):
                    file.unlink(missing_ok=True)
            yield

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

    def rewind_metrics(self, epoch: int, settled: bool = True) -> None:
        """Drop what will be written again, and a line that was cut short.

        Args:
            epoch: lines of later ones are dropped, as is what a finished run wrote at its end.
            settled: False drops what followed `epoch` too: bootstrapping, validation and proposals.
        """
        again = set() if settled else {"bootstrap", "validation", "round"}
        kept = [
            record
            for record in self.metrics()
            if record["event"] != "final"
            and (record["epoch"] < epoch or (record["epoch"] == epoch and record["event"] not in again))
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


class _FollowedRun(RunDirectory):
    """A run that process 0 writes and locks; another reads it and leaves undone what would be done twice."""

    @contextmanager
    def hold(self) -> Iterator[None]:
        yield

    def keep(self, config: Config) -> None:
        self.config = config

    def save_split(self, split: Split) -> None:
        pass

    def append_metrics(self, record: dict[str, Any]) -> None:
        pass

    def rewind_metrics(self, epoch: int, settled: bool = True) -> None:
        pass
