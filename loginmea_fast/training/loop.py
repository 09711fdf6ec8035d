"""`Trainer`: one step an epoch over all training links, bootstrapping, validation, checkpoints, going on after a stop.

Nothing here keeps a random state: the order of links is a function of (seed, epoch), the learning rate of the epoch.
A resumed run therefore needs the parameters, the optimiser's moments and the links that joined, and continues bit for
bit.
"""

from __future__ import annotations

import shlex
import signal
import time
import warnings
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from loginmea_fast.errors import CheckpointError, LoginMEAError
from loginmea_fast.evaluation.embedding import Embedding, JointEmbedding, shares_of
from loginmea_fast.evaluation.links import rank_links
from loginmea_fast.evaluation.metrics import rank_metrics
from loginmea_fast.nn import EntityModel
from loginmea_fast.parallel import shards_of, world_of
from loginmea_fast.parallel.search import of_all_rows
from loginmea_fast.training.bootstrapping import Bootstrapping, without
from loginmea_fast.training.callbacks import Callback
from loginmea_fast.training.checkpoint import Checkpoint
from loginmea_fast.training.circumstances import circumstances, differences
from loginmea_fast.training.config import Config
from loginmea_fast.training.effect import without_effect
from loginmea_fast.training.interrupt import StopOnSignal, TrainingInterrupted
from loginmea_fast.training.late import (
    LateEmbedding,
    beside_model,
    embedding_of,
    joined_width,
    model_embedding,
    validation_metrics,
)
from loginmea_fast.training.measuring import measure_test_links
from loginmea_fast.training.memory import measure_peak_memory
from loginmea_fast.training.progress import Progress
from loginmea_fast.training.protocols import Problem, Store
from loginmea_fast.training.rounds import propose
from loginmea_fast.training.standing import Standing
from loginmea_fast.training.subsample import mutual_pairs, sample_queries
from loginmea_fast.training.updates import Step, Updates

# What a kill may cost, besides the epoch it strikes: where validations are further apart, a checkpoint comes between.
_UNSAVED_SECONDS = 60
_WEIGHED = 2048  # links whose rows say what weight each part has

__all__ = ["Trainer"]


class Trainer:
    """One run: parameters, optimiser, links and how far it is."""

    def __init__(
        self,
        problem: Problem,
        model: EntityModel,
        config: Config,
        run: Store | None = None,
        callbacks: Sequence[Callback] = (),
    ) -> None:
        """Stand at epoch 0.

        Args:
            problem: what is trained on.
            model: of `problem`, on its device.
            config: how.
            run: where records and checkpoints go; None keeps the best parameters in memory.
            callbacks: told of each moment, in their order.
        """
        self.callbacks = callbacks
        self.problem = problem
        self.shards, self.world = shards_of(problem.graph), world_of(problem.graph)
        self.config = config
        self.run = run
        self.standing = Standing()
        self.history: list[dict[str, Any]] = []
        self.model = model
        self.joint = JointEmbedding(model, problem.features, problem.graph)
        self.embedding: Embedding = self.joint
        pair = problem.pair
        self.bootstrapping = Bootstrapping(
            config, pair.left_entities, pair.right_entities, problem.split.train, pair.rejected
        )
        self.updates = Updates(problem, model, config, self.bootstrapping)
        self.fingerprint = problem.fingerprint(self.model)
        self.best: Checkpoint | None = None
        self.notes: list[str] = []
        self.saved_at = time.monotonic()

    # How far it is, and going on.

    def start(self, resume: bool, other_length: bool = False) -> None:
        """Begin, or continue from the run's last checkpoint where there is one.

        Args:
            resume: whether to continue.
            other_length: whether the run had another number of epochs until now; patience then begins anew.
        """
        if self.run is not None and resume:
            if self.run.last_file.is_file():
                self._restore(*self.world.together(self._last))
                if other_length:
                    self.standing.stale, self.standing.stopped_early = 0, False
            else:
                self.notes.append("the run has no checkpoint yet and starts over")
            self.history = self.world.first(self._rewound)
        split = self.problem.split
        now = circumstances(self.config, self.problem.device, self.world)
        if self.standing.epoch and (changed := differences(self.history, now)):
            warnings.warn(
                f"the run goes on, but no longer repeats bit for bit: {changed}", UserWarning, stacklevel=2
            )
        if not resume:
            if beside := self.config.beside_preset():
                self.notes.append(f"preset {self.config.preset}, but with {', '.join(beside)}")
            for idle in without_effect(
                self.config, len(self.problem.features), len(split.train), len(split.valid)
            ):
                warnings.warn(idle, UserWarning, stacklevel=2)
            if self.config.rounds and not len(split.valid):
                warnings.warn(
                    "no validation link tells whether a round is better than the one before: the last round is kept, "
                    "however many of the links that joined are wrong; raise valid_ratio, or set rounds=0",
                    UserWarning,
                    stacklevel=2,
                )
        self._record(
            "resume" if resume else "start",
            **now,
            notes=list(self.notes),
            parameters=self.updates.count_parameters(),
            graph=self.problem.graph.summary(),
            links={"train": len(split.train), "valid": len(split.valid), "test": len(split.test)},
        )

    def _last(self) -> tuple[Checkpoint, Path]:
        assert self.run is not None, "there is a run to go on with"
        return self.run.load("last", self.shards)

    def _rewound(self) -> list[dict[str, Any]]:
        assert self.run is not None, "there is a run to go on with"
        self.run.rewind_metrics(self.standing.epoch, self.standing.settled)
        return self.run.metrics()

    def _checkpoint(self, tensors: dict[str, Tensor]) -> Checkpoint:
        return Checkpoint(tensors, dict(vars(self.standing)), self.fingerprint, self.config.shape())

    def _restore(self, checkpoint: Checkpoint, file: Path) -> None:
        checkpoint.check_model(self.fingerprint, file)
        self.updates.load(checkpoint)
        links = checkpoint.part("links")
        rejected = self.bootstrapping.rejected
        if not torch.equal(links.get("rejected", rejected[:0]), rejected):
            raise CheckpointError(
                f"{file} was trained with other rejected pairs; go on with those, or train into a new directory"
            )
        self.bootstrapping.joined, self.bootstrapping.candidates = links["joined"], links["candidates"]
        self.standing = Standing.of(checkpoint.state)

    def _save(self) -> None:
        if self.run is not None:
            links = self.bootstrapping
            pairs = {name: getattr(links, name) for name in ("joined", "candidates", "rejected")}
            tensors = self.updates.tensors() | {f"links.{name}": own for name, own in pairs.items()}
            self._checkpoint(tensors).save(self.run.last_file, self.shards)
            self.saved_at = time.monotonic()
            for callback in self.callbacks:
                callback.on_checkpoint(self, self.run.last_file)

    def _record(self, event: str, **values: Any) -> None:
        record = {"event": event, "epoch": self.standing.epoch, **values}
        self.history.append(record)
        if self.run is not None:
            self.run.append_metrics(record)
        for callback in self.callbacks:
            if event == "epoch":
                callback.on_epoch(self, record)
            elif event == "validation":
                callback.on_validation(self, record)

    # Training.

    def train(self, stop: StopOnSignal, progress: bool | None = None) -> None:
        """Run the epochs that are left.

        Raises:
            TrainingInterrupted: `stop` has received a signal; the state is saved.
            LoginMEAError: the loss is no longer finite.
        """
        for callback in self.callbacks:
            callback.on_start(self)
        bar = Progress(self.config.total_epochs, self.standing.epoch, progress)
        try:
            for note in self.notes:
                bar.say(note)
            while True:
                if not self.standing.settled:
                    self._settle(bar, stop)
                if self.standing.epoch >= self.config.total_epochs or self.standing.stopped_early:
                    break
                self._epoch(bar, stop)
                if self.world.any(stop.received is not None)[0]:
                    self._interrupt(stop)
        finally:
            bar.close()

    def _interrupt(self, stop: StopOnSignal) -> None:
        self._save()
        raise TrainingInterrupted(self._stopped(), stop.received or signal.SIGTERM)

    def _stopped(self) -> str:
        part = f" and {self.standing.update} updates" if self.standing.update else ""
        return f"stopped after epoch {self.standing.epoch}{part} of {self.config.total_epochs}; {self.how_to_go_on()}"

    def how_to_go_on(self) -> str:
        """For the message of an interrupted run."""
        return f"all is saved in {self.run.path if self.run else None}; go on with {self.resume_command()}"

    def resume_command(self) -> str:
        """As a shell takes it."""
        return f"loginmea-fast train --resume {shlex.quote(str(self.run.path if self.run else None))}"

    def _epoch(self, bar: Progress, stop: StopOnSignal) -> None:
        """The updates that are left of an epoch; a stop between two of them is saved as it stands."""
        standing, sampler = self.standing, self.updates.sampler()
        total = len(sampler.spans)
        step, seconds, peak, before = None, 0.0, 0, 0
        for update in range(standing.update, total):
            first, end = sampler.spans[update]
            started = time.perf_counter()
            with measure_peak_memory(self.problem.device) as memory:
                step = self.updates.step(standing.epoch, update)
            self._check_finite(step)
            share = (end - first) / len(sampler.links)
            standing.update = update + 1
            standing.global_step += 1
            standing.loss += step.loss.item() * share
            for name, term in step.terms.items():
                standing.terms[name] = standing.terms.get(name, 0.0) + term * share
            seconds += time.perf_counter() - started
            peak, before = max(peak, memory.peak), before or memory.before
            if standing.update < total:
                stopped, due = self.world.any(stop.received is not None, self._unsaved())
                if stopped:
                    self._interrupt(stop)
                if due:
                    self._save()
        assert step is not None, "an epoch is never left after its last update"
        loss, terms = standing.loss, standing.terms
        peak, held = max(self.world.gather((peak, peak - before)))
        standing.epoch, standing.update, standing.loss, standing.terms = standing.epoch + 1, 0, 0.0, {}
        standing.settled = False
        self._record(
            "epoch",
            loss=loss,
            **({"terms": terms} if len(terms) > 1 else {}),
            lr=step.rate,
            gradient_norm=step.norm.item(),
            links=len(sampler.links),
            **({"cut_edges": round(sampler.cut, 4)} if sampler.cut else {}),
            updates=total,
            global_step=standing.global_step,
            seconds=round(seconds, 4),
            peak_memory=peak,
            step_memory=held,
        )
        bar.epoch(loss, standing.epoch)

    def _unsaved(self) -> bool:
        return time.monotonic() - self.saved_at > _UNSAVED_SECONDS

    def _check_finite(self, step: Step) -> None:
        if torch.isfinite(step.loss) and torch.isfinite(step.norm):
            return
        saved = self.run is not None and self.run.last_file.is_file()
        raise LoginMEAError(
            f"loss {step.loss.item()} and gradient norm {step.norm.item()} in epoch {self.standing.epoch + 1}"
            f"{'; the last checkpoint is intact' if saved else ''}; "
            "train with a lower lr, more warmup_epochs or a grad_clip"
        )

    def _settle(self, bar: Progress, stop: StopOnSignal) -> None:
        """What follows an epoch: a checkpoint, then bootstrapping and validation, which a kill may now cut off."""
        standing, epoch = self.standing, self.standing.epoch
        of_round = (epoch - 1) % self.config.epochs
        bootstraps = self.bootstrapping.due(of_round) and not standing.outgrown
        ends_round = epoch % self.config.epochs == 0 or epoch == self.config.total_epochs
        every = self.config.eval_every
        validates = ends_round or (every > 0 and epoch % every == 0)
        if bootstraps or validates or self.world.any(self._unsaved())[0]:
            self._save()
            if self.run is not None:
                stop.interrupt_with(self._stopped())
        joined = 0
        if bootstraps:
            sampled: dict[str, int] = {}
            joined = self.bootstrapping.round(of_round, partial(self._mutual_nearest, of_round, sampled))
            self._record("bootstrap", joined=joined, candidates=len(self.bootstrapping.candidates), **sampled)
            if joined:
                bar.say(f"{joined} links joined by bootstrapping")
        if validates:
            self._validate(bar)
        if joined:  # a validation at the same epoch is of parameters that have not met them
            standing.grown_epoch = epoch
        if not ends_round and 0 < self.config.patience <= standing.stale:
            bar.say(f"no progress in {standing.stale} validations; the best was epoch {standing.best_epoch}")
            end = epoch - epoch % self.config.epochs + self.config.epochs
            standing.stopped_early = end >= self.config.total_epochs
            if not standing.stopped_early:
                standing.epoch, ends_round = end, True
        if ends_round and standing.epoch < self.config.total_epochs:
            self._begin_round(bar)
        standing.settled = True
        if validates:
            self._save()
        stop.interrupt_with(None)

    def _begin_round(self, bar: Progress) -> None:
        """Propose links, and begin again with them; or end here, where there is nothing to gain by it."""
        started = time.perf_counter()
        standing = self.standing
        before = self.bootstrapping.joined
        # A vector that two entities share would make a pair of the round before propose itself. Labels of such pairs
        # are propagated, though: without, rounds propose less well (docs/training.md, Links that joined).
        config = self.config.override(late_pairs=False)
        self.embedding = self.joint  # lets go of the round before's, before as much is made again
        self.embedding = embedding_of(self.joint, self.problem, config, before)
        proposed = propose(
            self.embedding,
            *self._without_training_link(),
            self.problem.pair.rejected,
            self.config.certainty,
            self.config.backend,
        )
        why = ""
        if not len(proposed):
            why = "no pair is certain enough"
        elif len(proposed) < len(before) / 2:
            why = f"{len(proposed):,} pairs are certain, of {len(before):,} the round before"
        elif standing.best_epoch <= standing.epoch - self.config.epochs:
            why = "validation is worse than in a round before"
        standing.stopped_early = bool(why)
        self._record("round", links=len(proposed), seconds=round(time.perf_counter() - started, 4))
        if why:
            bar.say(f"no further round: {why}; the best epoch was {standing.best_epoch}")
            return
        bar.say(f"a new round with {len(proposed):,} links besides the known ones")
        self.bootstrapping.begin(proposed)
        standing.stale, standing.round_score = 0, None
        standing.round_ranks, standing.round_epoch = [], 0
        standing.grown_epoch, standing.outgrown = 0, False
        self.updates.renew(standing.epoch // self.config.epochs)

    def _without_training_link(self) -> tuple[Tensor, Tensor]:
        """Entities of both graphs; which of them are held out is not looked at."""
        pair, train = self.problem.pair, self.problem.split.train
        return without(pair.left_entities, train[:, 0]), without(pair.right_entities, train[:, 1])

    def _mutual_nearest(self, epoch: int, sampled: dict[str, int], left: Tensor, right: Tensor) -> Tensor:
        """Positions of pairs; of a sample, which stays the same in a window, where all would be too much."""
        config = self.config
        joint = model_embedding(self.joint, self.problem, config).embed(torch.cat([left, right]))
        seed = config.seed * 1_000_003 + self.standing.epoch - epoch + self.bootstrapping.window(epoch)
        found, asked = of_all_rows(
            joint,
            lambda rows: mutual_pairs(
                rows[: len(left)], rows[len(left) :], config.max_comparisons, seed, config.backend
            ),
        )
        sampled |= {} if asked is None else {"sampled_entities": asked}
        return found

    # Choosing the epoch.

    def _validate(self, bar: Progress) -> None:
        metrics, score, ranks = self._score()
        before = self.standing.outgrown
        if self.standing.judge(score, ranks, self.config):
            self._keep_best()
        if self.standing.outgrown and not before:
            self._record("bootstrap", joined=0, candidates=len(self.bootstrapping.candidates), ended=True)
            bar.say(
                "no more links join in this round: validation has fallen since the last did; the best epoch was "
                f"{self.standing.best_epoch}"
            )
        if metrics:
            self._record("validation", best_epoch=self.standing.best_epoch, **metrics)
            among = f" of {metrics['sampled_links']:,} links" if "sampled_links" in metrics else ""
            bar.say(f"validation Hits@1 {metrics['hits@1']:.3f}, MRR {metrics['mrr']:.3f}{among}")

    def _score(self) -> tuple[dict[str, float], float | None, list[float]]:
        """Metrics to choose the epoch by, the one that decides, and `Standing.highest_ranks` of it.

        None and no ranks where there is nothing to choose by; no ranks where test links choose, as the authors have it.
        """
        if self.config.compat == "authors":
            found = measure_test_links(self.joint, self.problem, self.config, breakdown=False)
            metrics = found["csls" if self.config.csls_k else "cosine"]
            return metrics["left_to_right"], metrics["left_to_right"]["hits@1"], []
        if len(self.problem.split.valid):
            chosen, ranks = self._validation_metrics()
            return chosen, chosen["mrr"], ranks
        return {}, None, []

    def _validation_metrics(self) -> tuple[dict[str, float], list[float]]:
        """Both ways together, among all entities without a training link: so few links tell epochs apart better."""
        valid, rivals = self.problem.split.valid, self._without_training_link()
        asked = sample_queries(
            len(valid), sum(map(len, rivals)), self.config.max_comparisons, self.config.seed
        )
        embedding = model_embedding(self.joint, self.problem, self.config)
        chosen = valid if asked is None else valid[asked]
        ranks = rank_links(embedding, chosen, *rivals, backend=self.config.backend)
        reciprocal = (ranks[0].double().reciprocal() + ranks[1].double().reciprocal()) / 2
        metrics = rank_metrics(torch.cat([ranks[0], ranks[1]]))
        return metrics | ({} if asked is None else {"sampled_links": len(asked)}), reciprocal.tolist()

    def _keep_best(self) -> None:
        tensors = self.updates.model_tensors() | {"links.joined": self.bootstrapping.joined}
        if self.run is None:
            self.best = self._checkpoint({name: t.detach().clone() for name, t in tensors.items()})
            return
        self._checkpoint(tensors).save(self.run.best_file, self.shards)
        for callback in self.callbacks:
            callback.on_checkpoint(self, self.run.best_file)

    def finish(self) -> dict[str, Any]:
        """Give the model the best parameters; metrics on the test links, see `evaluation.evaluate_links`.

        They are those of `embedding`: of the model, or of the model with propagated labels and names beside it. Empty
        where every known link is a seed.
        """
        best = self.run.load(None, self.shards)[0] if self.run is not None else self.best
        assert best is not None, "the last epoch is always validated"
        self.model.load_state_dict(best.part("model"))
        joined = best.part("links").get("joined", self.problem.split.train[:0])
        # Taking its place lets go of the last round's embedding, before as much is made again.
        model = self.embedding = model_embedding(self.joint, self.problem, self.config)
        started = time.perf_counter()
        self.embedding = late = beside_model(model, self.problem, self.config, joined)
        seconds = round(time.perf_counter() - started, 4)
        record: dict[str, Any] = {}
        if validation := validation_metrics(late, self.problem, self.config):
            record["validation"] = validation
        if isinstance(late, LateEmbedding):
            record["beside_seconds"] = seconds
            if self.run is not None:
                state = {**best.state, "late_weights": late.weights}
                replace(best, state=state).save(self.run.best_file, self.shards)
        # Everything is chosen: from here on test links are read.
        metrics = measure_test_links(late, self.problem, self.config)
        self._record(
            "final",
            best_epoch=self.standing.chosen_epoch,
            metrics=metrics,
            weights=self._weights(joined),
            **record,
        )
        return metrics

    def _weights(self, joined: Tensor) -> dict[str, float]:
        """Mean share that each part has in the square of a row's length, of entities of some links that taught."""
        told = (self.problem.split.train, joined if joined_width(self.config) else joined[:0])
        some = torch.cat([links[:_WEIGHED] for links in told]).reshape(-1)
        shares = shares_of(self.embedding, some, some)
        return {name: round(share.mean().item(), 4) for name, share in shares.items()}

    def end(self, metrics: dict[str, Any] | None) -> None:
        """Tell the callbacks that it has ended: with the metrics of `finish`, or None where it never came to them."""
        for callback in self.callbacks:
            callback.on_end(self, metrics)
