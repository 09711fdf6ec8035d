"""What can be wrong with a configuration whatever the data is: refused before anybody waits for data to be read."""

from __future__ import annotations

import os

from loginmea_fast.runs.device import choose_device
from loginmea_fast.runs.directory import RunDirectory
from loginmea_fast.runs.warm_start import check_source
from loginmea_fast.training.config import Config
from loginmea_fast.training.objectives import objective_weights
from loginmea_fast.training.partition import check_metis
from loginmea_fast.training.tensorboard import check_installed

__all__ = ["check_configuration"]


def check_configuration(
    config: Config, out: str | os.PathLike[str] | None = None, resume: bool = False
) -> None:
    """Check all of a training that can be checked without its data.

    Args:
        config: how to train.
        out: the run directory; None where it is made up, or everything stays in memory.
        resume: whether the run in `out` goes on, so that it is there and began long ago.

    Raises:
        ConfigError: an objective, device, backend or package that is not there, a run directory that exists, or nothing
            to begin with where `init_from` says.
    """
    objective_weights(config)
    choose_device(config.device, config.backend)
    if config.tensorboard:
        check_installed()
    if config.partitions > 1:
        check_metis()
    if resume:
        return
    if out is not None:
        RunDirectory.check_new(out)
    if config.init_from is not None:
        check_source(config.init_from)
