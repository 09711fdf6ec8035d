"""A run read back from its directory: model, data and links."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from loginmea_fast.data import AlignmentPair
from loginmea_fast.evaluation.embedding import Embedding, JointEmbedding
from loginmea_fast.nn import EntityModel
from loginmea_fast.runs.device import choose_device
from loginmea_fast.runs.directory import RunDirectory, Which
from loginmea_fast.runs.problem import Problem, assemble, build_model, load_pair
from loginmea_fast.training.config import Config
from loginmea_fast.training.late import embedding_of

__all__ = ["LoadedRun", "load_run"]


@dataclass(frozen=True)
class LoadedRun:
    """A run read back.

    Attributes:
        run: the directory.
        config: as trained, with what the caller changed.
        problem: graph, features and links.
        model: with the parameters of the checkpoint.
        epoch: the epoch, counted from 1, that they are from.
        best_epoch: the epoch that validation had chosen by then; None where nothing was validated.
        embedding: of the entities, what evaluation and decoding take: the model's, and propagated labels beside it
            where `propagation` asks for them.
    """

    run: RunDirectory
    config: Config
    problem: Problem
    model: EntityModel
    epoch: int
    best_epoch: int | None
    embedding: Embedding


def load_run(
    path: str | os.PathLike[str],
    /,
    pair: AlignmentPair | None = None,
    checkpoint: Which | None = None,
    **overrides: Any,
) -> LoadedRun:
    """The best model of a run directory, with its data and links.

    Args:
        path: the run directory.
        pair: the data it was trained on; read from where its configuration says unless given.
        checkpoint: "best" or "last"; by default the best, or the last where no epoch was validated yet.
        overrides: configuration that does not change the model: device, backend, csls_k, candidates, decoder,
            decoder_k, what stands beside it (propagation, propagation_width, late_names, late_pairs), and `path` and
            `vectors` where the data has moved.

    Raises:
        ConfigError: no run directory, or an unknown key.
        CheckpointError: no checkpoint, a damaged one, or one of another model, other data or a newer version.
        DataError: the data is missing or malformed.
    """
    run = RunDirectory.open(path)
    config = run.config.override(**run.moved(overrides))
    choose_device(config.device, config.backend)
    loaded, file = run.load(checkpoint)
    if pair is None:
        run.check_data(config)
        pair = load_pair(config)
    problem = assemble(pair, config, run.load_split(pair.num_entities))
    model = build_model(problem, config)
    loaded.check_model(problem.fingerprint(model), file)
    model.load_state_dict(loaded.part("model"))
    joint = JointEmbedding(model, problem.features, problem.graph)
    # Only the best checkpoint of a run at its end has the weights; of another they are chosen as they would be then.
    beside = ("propagation", "propagation_width", "late_names", "late_pairs")
    same = all(getattr(config, key) == getattr(run.config, key) for key in beside)
    weights = loaded.state.get("late_weights") if same else None
    joined = loaded.part("links").get("joined", problem.split.train[:0])
    embedding = embedding_of(joint, problem, config, joined, weights)
    chosen = None if loaded.state["best_score"] is None else loaded.state["best_epoch"]
    return LoadedRun(run, config, problem, model, loaded.state["epoch"], chosen, embedding)
