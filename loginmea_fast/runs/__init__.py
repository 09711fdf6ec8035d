"""Runs: data, graph and links of a configuration, the run directory, training in it, reading it back, aligning."""

from loginmea_fast.runs.aligning import Alignment, align
from loginmea_fast.runs.checking import check_configuration
from loginmea_fast.runs.device import choose_device, prepare_kernels
from loginmea_fast.runs.directory import RunDirectory
from loginmea_fast.runs.fitting import FitResult, fit, plan
from loginmea_fast.runs.loading import LoadedRun, load_run
from loginmea_fast.runs.measuring import evaluate
from loginmea_fast.runs.problem import Problem, assemble, build_model, load_pair

__all__ = [
    "Alignment",
    "FitResult",
    "LoadedRun",
    "Problem",
    "RunDirectory",
    "align",
    "assemble",
    "build_model",
    "check_configuration",
    "choose_device",
    "evaluate",
    "fit",
    "load_pair",
    "load_run",
    "plan",
    "prepare_kernels",
]
