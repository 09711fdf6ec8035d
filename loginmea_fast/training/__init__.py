"""Training: configuration, the loop with bootstrapping, run directories and checkpoints."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from loginmea_fast.training.config import Config
from loginmea_fast.training.interrupt import TrainingInterrupted

if TYPE_CHECKING:
    from loginmea_fast.training.assembly import choose_device, load_pair, prepare_kernels
    from loginmea_fast.training.loop import FitResult, fit
    from loginmea_fast.training.run_directory import RunDirectory

# What needs torch is imported when it is first used: the command line shows its help from the configuration alone.
_LAZY = {
    "FitResult": "loop",
    "RunDirectory": "run_directory",
    "choose_device": "assembly",
    "fit": "loop",
    "load_pair": "assembly",
    "prepare_kernels": "assembly",
}

__all__ = [
    "Config",
    "FitResult",
    "RunDirectory",
    "TrainingInterrupted",
    "choose_device",
    "fit",
    "load_pair",
    "prepare_kernels",
]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(f"{__name__}.{_LAZY[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
