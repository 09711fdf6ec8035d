"""Training: configuration, the loop with bootstrapping, run directories and checkpoints."""

from loginmea_fast.training.assembly import choose_device, load_pair, prepare_kernels
from loginmea_fast.training.config import Config
from loginmea_fast.training.interrupt import TrainingInterrupted
from loginmea_fast.training.loop import FitResult, fit
from loginmea_fast.training.run_directory import RunDirectory

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
