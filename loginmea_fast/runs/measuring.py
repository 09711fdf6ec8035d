"""Evaluation of a run directory: a checkpoint, the best unless another is named, on the links that were held out."""

from __future__ import annotations

import os
from typing import Any

from loginmea_fast.data import AlignmentPair
from loginmea_fast.runs.directory import Which
from loginmea_fast.runs.loading import load_run
from loginmea_fast.training.measuring import measure_test_links

__all__ = ["evaluate"]


def evaluate(
    path: str | os.PathLike[str],
    /,
    pair: AlignmentPair | None = None,
    checkpoint: Which | None = None,
    **overrides: Any,
) -> dict[str, Any]:
    """Metrics of a run's checkpoint on its test links; JSON-ready, the same whenever it is called.

    Args:
        path: the run directory.
        pair: see `load_run`.
        checkpoint: see `load_run`.
        overrides: see `load_run`.

    Returns:
        As `evaluate_links`, with `epoch`, `best_epoch` (what validation chose until then, None where nothing was
        validated) and `modalities`, and with `propagation` where labels stand beside the model; the first three alone
        where every known link is a seed, so that there is none to test.

    Raises:
        ConfigError: see `load_run`.
        CheckpointError: see `load_run`.
        DataError: see `load_run`.
    """
    loaded = load_run(path, pair, checkpoint, **overrides)
    found = {
        "epoch": loaded.epoch,
        "best_epoch": loaded.best_epoch,
        "modalities": list(loaded.problem.features),
    }
    return found | measure_test_links(loaded.embedding, loaded.problem, loaded.config)
