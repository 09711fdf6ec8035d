"""`fit`: train a model on a pair, in memory or in a run directory, and measure it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from loginmea_fast.data import AlignmentPair, Split
from loginmea_fast.errors import ConfigError, LostOthersError
from loginmea_fast.evaluation.embedding import Embedding
from loginmea_fast.machine import give_back
from loginmea_fast.nn import EntityModel
from loginmea_fast.parallel import World, world
from loginmea_fast.propagation import cautions
from loginmea_fast.runs.checking import check_configuration
from loginmea_fast.runs.device import prepare_kernels
from loginmea_fast.runs.directory import RunDirectory
from loginmea_fast.runs.dividing import check_divisible, divide
from loginmea_fast.runs.problem import Problem, assemble, build_model, sketch_model
from loginmea_fast.runs.warm_start import warm_start
from loginmea_fast.training.callbacks import Callback, check_callbacks
from loginmea_fast.training.config import Config
from loginmea_fast.training.interrupt import StopOnSignal, TrainingInterrupted
from loginmea_fast.training.loop import Trainer
from loginmea_fast.training.objectives import further_entities
from loginmea_fast.training.plan import Plan, check_plan, plan_with_advice
from loginmea_fast.training.sampling import check_negatives
from loginmea_fast.training.tensorboard import TensorBoard

__all__ = ["FitResult", "fit", "plan"]


@dataclass(frozen=True)
class FitResult:
    """What `fit` returns.

    Attributes:
        metrics: of the test links, by `embedding`; see `evaluation.evaluate_links`. Empty where every known
            link is a seed, so that there is none to test.
        model: with the best parameters.
        problem: graph, features and links that the model was trained on.
        config: as trained.
        history: the records of metrics.jsonl, in memory.
        epoch: the epoch, counted from 1, whose parameters the model has.
        best_epoch: the same where validation chose it; None where nothing was validated and the last one is kept.
        embedding: of the entities, what evaluation and decoding take: the model's, and propagated labels beside it
            where `propagation` asks for them.
        plan: what it was expected to need of memory.
        run: the run directory; None where none was asked for.
    """

    metrics: dict[str, Any]
    model: EntityModel
    problem: Problem
    config: Config
    history: list[dict[str, Any]]
    epoch: int
    best_epoch: int | None
    embedding: Embedding
    plan: Plan
    run: RunDirectory | None = None


def fit(
    pair: AlignmentPair,
    config: Config | None = None,
    out: str | os.PathLike[str] | None = None,
    *,
    resume: bool = False,
    progress: bool | None = None,
    callbacks: Sequence[Callback] = (),
    **overrides: Any,
) -> FitResult:
    """Train LoginMEA on `pair` (docs/model.md) and measure it on the test links.

    Where torchrun has started several processes, all call it alike and share the work (docs/scale.md); callbacks are
    told in process 0, and the result holds the rows of tables that the process owns.

    Args:
        pair: two knowledge graphs with links and features.
        config: how; `Config()` by default. With `resume`, the run's own is taken and none is given.
        out: a new directory for configuration, links, metrics and checkpoints; None keeps everything in memory.
        resume: continue the run in `out` from its last checkpoint, bit for bit as if it had not stopped. `epochs` may
            be another number: learning rates are those of the new length from there on, and patience begins anew.
        progress: False is silent; otherwise a bar on a terminal, lines elsewhere, on stderr.
        callbacks: told of each moment of the training, in their order; see `training.Callback`.
        overrides: configuration by keyword, for example `epochs=100`.

    Raises:
        ConfigError: a wrong key or value, a modality or device that is not there, a directory that exists, more memory
            needed than there is, or, with `resume`, a configuration other than the run's in more than `epochs` and
            where the data is.
        DataError: no training links are left, or nothing that they could be told apart from.
        CheckpointError: the checkpoint to resume from is damaged or of another model, or the disk is full.
        TrainingInterrupted: SIGINT or SIGTERM came; the state is saved in `out`.
        LoginMEAError: the loss is no longer finite.
    """
    if not isinstance(pair, AlignmentPair):
        raise ConfigError(
            f"fit takes an AlignmentPair, as lf.data.load(directory) gives it; got {type(pair).__name__}"
        )
    check_callbacks(callbacks)
    there = world()
    run = None
    if resume:
        if out is None:
            raise ConfigError("resume needs the run directory; give it as out")
        run = RunDirectory.open(out, there.leads)
    config = _with_absolute_paths(Config.of(config or (run and run.config), overrides))
    split = there.together(partial(_check, pair, config, out, run, there))
    if config.tensorboard and out is not None:
        callbacks = [*callbacks, TensorBoard(RunDirectory(Path(out), config).curves)]
    if not there.leads:
        progress, callbacks = False, []
    with _threads(config.threads):
        problem, planned = there.together(partial(_prepare, pair, config, split))
        goes_on = run is not None and run.last_file.is_file()
        model, begun = there.together(partial(_begin, problem, config, goes_on))
        if there.size > 1:
            problem = divide(problem, model, config, there)
            del pair  # which nobody else may hold: of the data a process keeps its part
            give_back()
        if out is None:
            return _train(problem, model, begun, config, planned, None, resume, progress, callbacks)
        if run is None:
            there.first(partial(RunDirectory.create, out, config))
            run = RunDirectory.open(out, there.leads)
        with run.hold():
            if split is None:
                run.save_split(problem.split)
            return _train(problem, model, begun, config, planned, run, resume, progress, callbacks)


def _check(
    pair: AlignmentPair,
    config: Config,
    out: str | os.PathLike[str] | None,
    run: RunDirectory | None,
    there: World,
) -> Split | None:
    """All that can be refused before anybody waits; the split of a run that goes on."""
    split = None
    if run is not None:
        run.check_resumable(config)
        split = run.load_split(pair.num_entities) if run.split_file.is_file() else None
    check_configuration(config, out, run is not None)
    check_divisible(config, there)
    if config.tensorboard and out is None:
        raise ConfigError("tensorboard writes into the run directory; give one as out", "tensorboard")
    return split


def _prepare(pair: AlignmentPair, config: Config, split: Split | None) -> tuple[Problem, Plan]:
    problem = assemble(pair, config, split)
    check_negatives(pair, problem.split.train, further_entities(config))
    prepare_kernels(config)
    return problem, check_plan(problem, config, partial(sketch_model, problem))


def _begin(problem: Problem, config: Config, goes_on: bool) -> tuple[EntityModel, list[str]]:
    """A new model, and what is to be said of its beginning."""
    model, notes = build_model(problem, config), []
    if not goes_on and config.init_from is not None:
        notes.append(warm_start(model, problem.graph, config.init_from))
    if not goes_on and config.propagation == "late":
        notes += cautions(problem.pair, problem.split.train)
    return model, notes


def plan(pair: AlignmentPair, config: Config | None = None, **overrides: Any) -> Plan:
    """What memory `fit` would need, before anything is trained.

    Args:
        pair: as for `fit`.
        config: as for `fit`.
        overrides: configuration by keyword.

    Raises:
        ConfigError: as `fit`.
        DataError: as `fit`.
    """
    config = Config.of(config, overrides)
    check_configuration(config)
    problem = assemble(pair, config)
    check_negatives(pair, problem.split.train, further_entities(config))
    return plan_with_advice(problem, config, partial(sketch_model, problem))


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    """Set the threads of torch for the block: they are the whole process's, so what was set before is put back."""
    before = torch.get_num_threads()
    if count is not None:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        if count is not None:
            torch.set_num_threads(before)


def _train(
    problem: Problem,
    model: EntityModel,
    begun: Sequence[str],
    config: Config,
    planned: Plan,
    run: RunDirectory | None,
    resume: bool,
    progress: bool | None,
    callbacks: Sequence[Callback],
) -> FitResult:
    trainer = Trainer(problem, model, config, run, callbacks)
    trainer.notes += begun
    with StopOnSignal(run is not None) as stop:
        trainer.start(resume, run is not None and run.config.epochs != config.epochs)
        if run is not None and run.config != config:  # the data is the run's: `start` has compared them
            run.keep(config)
        metrics = None
        try:
            trainer.train(stop, progress)
            stop.interrupt_with(f"stopped while the test links were measured; {trainer.how_to_go_on()}")
            metrics = trainer.finish()
        except LostOthersError:
            if stop.received is None:
                raise
            # It came to all: another process was where it could leave at once, this one between two exchanges.
            how = f"go on from the last checkpoint with {trainer.resume_command()}"
            raise TrainingInterrupted(f"stopped, as another process has; {how}", stop.received) from None
        finally:
            trainer.end(metrics)
    return FitResult(
        metrics,
        trainer.model,
        problem,
        config,
        trainer.history,
        trainer.standing.best_epoch,
        trainer.standing.chosen_epoch,
        trainer.embedding,
        planned,
        run,
    )


def _with_absolute_paths(config: Config) -> Config:
    """The configuration as a run directory keeps it: evaluation may be called from elsewhere."""
    values: dict[str, Any] = {}
    if config.path not in (None, "embedded") and os.path.exists(config.path):
        values["path"] = os.path.abspath(config.path)
    if config.init_from is not None:
        values["init_from"] = os.path.abspath(config.init_from)
    if config.vectors is not None:
        values["vectors"] = {
            modality: os.path.abspath(files) if isinstance(files, str) else [*map(os.path.abspath, files)]
            for modality, files in config.vectors.items()
        }
    return config.override(**values)
