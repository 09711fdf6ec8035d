"""Curves of a training for TensorBoard, through callbacks."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Any

from loginmea_fast.errors import ConfigError
from loginmea_fast.training.callbacks import Callback, Training

__all__ = ["TensorBoard", "check_installed"]

_OF_AN_EPOCH = ("loss", "lr", "gradient_norm", "links", "seconds")


def check_installed() -> None:
    """Raise `ConfigError` where the package tensorboard is not installed."""
    if importlib.util.find_spec("tensorboard") is None:
        raise ConfigError(
            "tensorboard is not installed; pip install 'loginmea-fast[tensorboard]', or leave it off",
            "tensorboard",
        )


class TensorBoard(Callback):
    """Writes what metrics.jsonl records as scalars over epochs; a resumed run goes on with the same curves.

    Args:
        directory: where TensorBoard is to look.

    Raises:
        ConfigError: the package tensorboard is not installed.
    """

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        check_installed()
        self.directory = Path(directory)
        self._writer: Any = None

    def on_start(self, trainer: Training) -> None:
        """Open the file; what a killed run wrote of epochs that come again is hidden."""
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(self.directory), purge_step=trainer.standing.epoch + 1)

    def on_epoch(self, trainer: Training, record: dict[str, Any]) -> None:
        """Loss and its terms, learning rate, gradient norm, links, seconds."""
        self._write("epoch", {name: record[name] for name in _OF_AN_EPOCH}, record["epoch"])
        self._write("term", record.get("terms", {}), record["epoch"])

    def on_validation(self, trainer: Training, record: dict[str, Any]) -> None:
        """Hits@k, mean rank and MRR of the validation links."""
        scores = {name: value for name, value in record.items() if name.startswith(("hits@", "mr"))}
        self._write("validation", scores, record["epoch"])

    def on_checkpoint(self, trainer: Training, path: Path) -> None:
        """A kill takes no more curves than epochs."""
        self._writer.flush()

    def on_end(self, trainer: Training, metrics: dict[str, Any] | None) -> None:
        """Scores of the test links, at the epoch that they are of."""
        for name in ("cosine", "csls"):
            for direction, scores in (metrics or {}).get(name, {}).items():
                shown = {key: scores[key] for key in ("hits@1", "hits@10", "mrr")}
                self._write(f"test/{name}/{direction}", shown, trainer.standing.best_epoch)
        if self._writer is not None:
            self._writer.close()

    def _write(self, group: str, values: dict[str, float], epoch: int) -> None:
        for name, value in values.items():
            self._writer.add_scalar(f"{group}/{name}", value, epoch)
