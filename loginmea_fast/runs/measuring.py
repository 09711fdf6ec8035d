"""Evaluation of a run directory: a checkpoint, the best unless another is named, on the links that were held out."""

from __future__ import annotations

import os
from typing import Any

from loginmea_fast.data import AlignmentPair
from loginmea_fast.evaluation.links import evaluate_links
from loginmea_fast.runs.directory import Which
from loginmea_fast.runs.loading import load_run
from loginmea_fast.training.late import LateEmbedding

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
        As `evaluate_links`, with `epoch` and `modalities`, and with `propagation` where labels stand beside the model;
        the first two alone where every known link is a seed, so that
        there is none to test.

    Raises:
        ConfigError: see `load_run`.
        CheckpointError: see `load_run`.
        DataError: see `load_run`.
    """
    loaded = load_run(path, pair, checkpoint, **overrides)
    config, problem = loaded.config, loaded.problem
    found = {"epoch": loaded.epoch, "modalities": list(problem.features)}
    if not len(problem.split.test):
        return found
    metrics = evaluate_links(
        loaded.embedding,
        problem.pair,
        problem.split.test,
        csls_k=config.csls_k,
        candidates=config.candidates,
        backend=config.backend,
        decoder=config.decoder,
        decoder_k=config.decoder_k,
    )
    if isinstance(loaded.embedding, LateEmbedding):
        metrics["propagation"] = loaded.embedding.summary()
    return found | metrics
