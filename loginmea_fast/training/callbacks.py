"""Callbacks: what a caller does at the few moments of a training that have a name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from loginmea_fast.errors import ConfigError
from loginmea_fast.nn import EntityModel
from loginmea_fast.training.config import Config
from loginmea_fast.training.protocols import Store
from loginmea_fast.training.standing import Standing

__all__ = ["Callback", "Training", "check_callbacks"]


class Training(Protocol):
    """What a callback sees of the `Trainer`.

    Attributes:
        model: being trained.
        config: how.
        standing: how far it is.
        history: the records so far.
        run: where records and checkpoints go.
    """

    model: EntityModel
    config: Config
    standing: Standing
    history: list[dict[str, Any]]
    run: Store | None


class Callback:
    """Does nothing; a subclass overrides the moments that it wants.

    What the trainer shows is to be looked at and left as it is. An exception ends the training like any
    other: at the last checkpoint.
    """

    def on_start(self, trainer: Training) -> None:
        """Before the first epoch, of a new run or of what is left of a resumed one."""

    def on_epoch(self, trainer: Training, record: dict[str, Any]) -> None:
        """After an epoch; its `record` is the line of metrics.jsonl: loss, lr, gradient_norm, links, seconds, ..."""

    def on_validation(self, trainer: Training, record: dict[str, Any]) -> None:
        """After the validation links were ranked: hits@k, mrr, best_epoch, ..."""

    def on_checkpoint(self, trainer: Training, path: Path) -> None:
        """After last.safetensors or best.safetensors was written to `path`."""

    def on_end(self, trainer: Training, metrics: dict[str, Any] | None) -> None:
        """However it ends, once; `metrics` of the test links, None where it was stopped or failed."""


def check_callbacks(callbacks: Sequence[object]) -> None:
    """Raise `ConfigError` unless all are objects of `Callback`: another would fail when training has ended."""
    if not isinstance(callbacks, (list, tuple)):
        raise ConfigError(f"callbacks must be a list of them; got {type(callbacks).__name__}")
    for callback in callbacks:
        if isinstance(callback, Callback):
            continue
        if isinstance(callback, type) and issubclass(callback, Callback):
            raise ConfigError(
                f"callbacks holds the class {callback.__name__}; give an object, {callback.__name__}()"
            )
        raise ConfigError(
            f"callbacks must be objects of loginmea_fast.training.Callback; got {type(callback).__name__}"
        )
