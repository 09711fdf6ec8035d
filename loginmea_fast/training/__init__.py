"""Training: configuration, the loop with bootstrapping, and checkpoints; `runs` puts data and a directory to it."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from loginmea_fast.training.config import Config
from loginmea_fast.training.interrupt import TrainingInterrupted

if TYPE_CHECKING:
    from loginmea_fast.training.callbacks import Callback
    from loginmea_fast.training.loop import Trainer
    from loginmea_fast.training.protocols import Problem, Store
    from loginmea_fast.training.tensorboard import TensorBoard

# What needs torch is imported when it is first used: the command line shows its help from the configuration alone.
_LAZY = {
    "Callback": "callbacks",
    "Problem": "protocols",
    "Store": "protocols",
    "TensorBoard": "tensorboard",
    "Trainer": "loop",
}

__all__ = ["Callback", "Config", "Problem", "Store", "TensorBoard", "Trainer", "TrainingInterrupted"]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(f"{__name__}.{_LAZY[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
