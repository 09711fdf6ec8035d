"""What a `Trainer` is handed: a problem, and where to write. `runs` has the one of each that the package uses."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Protocol

import torch

from loginmea_fast.data import AlignmentPair, Split
from loginmea_fast.graph import AlignmentGraph
from loginmea_fast.nn import EntityModel, Features
from loginmea_fast.parallel import Shards
from loginmea_fast.training.checkpoint import Checkpoint

__all__ = ["Problem", "Store"]


class Problem(Protocol):
    """What a model is trained on; see `runs.Problem`."""

    @property
    def pair(self) -> AlignmentPair:
        """Entities, links and presence, on the CPU."""

    @property
    def graph(self) -> AlignmentGraph:
        """Both graphs, on `device`."""

    @property
    def features(self) -> Features:
        """Modality -> [N, d_m], and which entities have it, on `device`."""

    @property
    def split(self) -> Split:
        """Training, validation and test links, on the CPU."""

    @property
    def device(self) -> torch.device:
        """Where it is trained."""

    def fingerprint(self, model: EntityModel) -> dict[str, Any]:
        """What a checkpoint of `model` on this data must agree with."""


class Store(Protocol):
    """Where records and checkpoints go; see `runs.RunDirectory`."""

    @property
    def path(self) -> Path:
        """What a user names to go on."""

    @property
    def last_file(self) -> Path:
        """Everything that resuming needs."""

    @property
    def best_file(self) -> Path:
        """The parameters that validation chose."""

    def load(
        self, which: Literal["best", "last"] | None = None, shards: Shards | None = None
    ) -> tuple[Checkpoint, Path]:
        """A checkpoint, the best unless another is named, and the file it is from; of `shards` the own rows."""

    def append_metrics(self, record: dict[str, Any]) -> None:
        """Add one record."""

    def rewind_metrics(self, epoch: int, settled: bool) -> None:
        """Drop the records of epochs after `epoch`, and of what followed it where that is not `settled`."""

    def metrics(self) -> list[dict[str, Any]]:
        """The records."""
