"""`Trainer`: one step an epoch over all training links, bootstrapping, validation, checkpoints, going on after a stop.

Nothing here keeps a random state: the order of links is a function of (seed, epoch), the learning rate of the epoch.
A resumed run therefore needs the parameters, the optimiser's moments and the links that joined, and continues bit for
bit.
"""

from __future__ import annotations

import operator
import os
import platform
import shlex
import signal
import statistics
import time
import warnings
from collections.abc import Sequence
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from loginmea_fast.errors import LoginMEAError
from loginmea_fast.evaluation.embedding import Embedding, JointEmbedding, shares_of
from loginmea_fast.evaluation.links import rank_links
from loginmea_fast.evaluation.metrics import rank_metrics
from loginmea_fast.nn import EntityModel, LoginMEAOutput, members_of
from loginmea_fast.parallel import shards_of, world_of
from loginmea_fast.parallel.search import of_all_rows
from loginmea_fast.parallel.shards import SharedRows as DividedSharedRows
from loginmea_fast.training.bootstrapping import Bootstrapping, without
from loginmea_fast.training.callbacks import Callback
from loginmea_fast.training.checkpoint import Checkpoint, is_table
from loginmea_fast.training.config import Config
from loginmea_fast.training.effect import without_effect
from loginmea_fast.training.gradients import gradient_norm, summed
from loginmea_fast.training.interrupt import StopOnSignal, TrainingInterrupted
from loginmea_fast.training.late import LateEmbedding, beside_model, embedding_of, model_embedding
from loginmea_fast.training.measuring import measure_test_links
from loginmea_fast.training.memory import measure_peak_memory
from loginmea_fast.training.objectives import Batch, WeightedObjectives
from loginmea_fast.training.progress import Progress
from loginmea_fast.training.protocols import Problem, Store
from loginmea_fast.training.rounds import propose
from loginmea_fast.training.sampling import Sampler, batches
from loginmea_fast.training.schedule import learning_rate
from loginmea_fast.training.sharing import SharedRows, followers_of
from loginmea_fast.training.standing import Standing
from loginmea_fast.training.subsample import mutual_pairs, sample_queries
from loginmea_fast.version import __version__

# What a kill may cost, besides the epoch it strikes: where validations are further apart, a checkpoint comes between.
_UNSAVED_SECONDS = 60
_WEIGHED = 2048  # links whose rows say what weight each part has

__all__ = ["Trainer"]


class Step(NamedTuple):
    """What one step says of itself: the loss, the gradient's norm before clipping, the rate, each term of the loss."""

    loss: Tensor
    norm: Tensor
    rate: float
    terms: dict[str, float]


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
        self.members = members_of(model)
        self.forwards: list[Any] = [
            torch.compile(member, dynamic=True) if config.compile else member for member in self.members
        ]
        has_graph = self.members[0].graph_encoder is not None
        self.objectives = WeightedObjectives(config, model.modalities, has_graph).to(problem.device)
        self.optimizer = self._new_optimizer()
        self.sampler: Sampler | None = None
        self.shared: SharedRows | DividedSharedRows | None = None
        pair = problem.pair
        self.bootstrapping = Bootstrapping(
            config, pair.left_entities, pair.right_entities, problem.split.train
        )
        self.fingerprint = problem.fingerprint(self.model)
        self.best: Checkpoint | None = None
        self.notes: list[str] = []
        self.saved_at = time.monotonic()

    def _parameters(self) -> list[tuple[str, nn.Parameter]]:
        """Of the model, and those that objectives learn."""
        learned = [(f"objectives.{name}", p) for name, p in self.objectives.named_parameters()]
        return [*self.model.named_parameters(), *learned]

    def _new_optimizer(self) -> torch.optim.Optimizer:
        parameters = [parameter for _, parameter in self._parameters()]
        config = self.config
        if config.optimizer == "rmsprop":  # with the constants of Dual-AMN's code
            return torch.optim.RMSprop(parameters, lr=config.lr, alpha=0.9, eps=1e-7)
        return torch.optim.AdamW(parameters, lr=config.lr, weight_decay=config.weight_decay, fused=True)

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
        circumstances = self._circumstances()
        if self.standing.epoch and (changed := _differences(self.history, circumstances)):
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
        self._record(
            "resume" if resume else "start",
            **circumstances,
            notes=list(self.notes),
            parameters=self._count_parameters(),
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

    def _count_parameters(self) -> int:
        tables = self._tables()
        held = sum(table.numel() for table in tables)
        whole = sum(self.problem.pair.num_entities * table.shape[1] for table in tables)
        return sum(p.numel() for p in self.model.parameters()) - held + whole

    def _circumstances(self) -> dict[str, Any]:
        """What rounding depends on, besides the configuration that a resumed run keeps."""
        device = self.problem.device
        cuda = device.type == "cuda"
        capability = torch.backends.cpu.get_cpu_capability
        backend = self.config.backend
        return {
            "version": __version__,
            "torch": torch.__version__,
            "machine": platform.machine(),
            "device": str(device),
            "processor": torch.cuda.get_device_name(device) if cuda else capability(),
            "processes": self.world.size,
            "threads": torch.get_num_threads(),
            "dtype": self.config.dtype,
            "backend": os.environ.get("LOGINMEA_BACKEND", "auto") if backend == "auto" else backend,
        }

    def _checkpoint(self) -> Checkpoint:
        tensors = {f"model.{name}": t for name, t in self.model.state_dict().items()}
        tensors |= {f"objectives.{name}": t for name, t in self.objectives.state_dict().items()}
        for name, parameter in self._parameters():
            for key, value in self.optimizer.state.get(parameter, {}).items():
                tensors[f"optimizer.{name}.{key}"] = value
        tensors["links.joined"] = self.bootstrapping.joined
        tensors["links.candidates"] = self.bootstrapping.candidates
        return Checkpoint(tensors, dict(vars(self.standing)), self.fingerprint, self.config.shape())

    def _restore(self, checkpoint: Checkpoint, file: Path) -> None:
        checkpoint.check_model(self.fingerprint, file)
        self.model.load_state_dict(checkpoint.part("model"))
        self.objectives.load_state_dict(checkpoint.part("objectives"))
        moments = checkpoint.part("optimizer")
        for name, parameter in self._parameters():
            state = {
                key.removeprefix(f"{name}."): value.to(parameter.device)
                for key, value in moments.items()
                if key.rpartition(".")[0] == name
            }
            if state:
                self.optimizer.state[parameter] = state
        links = checkpoint.part("links")
        self.bootstrapping.joined, self.bootstrapping.candidates = links["joined"], links["candidates"]
        known = {field.name for field in fields(Standing)}  # an earlier version may have saved more
        self.standing = Standing(**{name: value for name, value in checkpoint.state.items() if name in known})

    def _save(self) -> None:
        if self.run is not None:
            self._write(self._checkpoint(), self.run.last_file)
            self.saved_at = time.monotonic()
            for callback in self.callbacks:
                callback.on_checkpoint(self, self.run.last_file)

    def _write(self, checkpoint: Checkpoint, file: Path) -> None:
        if self.shards is None:
            checkpoint.save(file)
        else:
            checkpoint.save_divided(file, self.shards)

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
        path = self.run.path if self.run else None
        return f"all is saved in {path}; go on with loginmea-fast train --resume {shlex.quote(str(path))}"

    def _epoch(self, bar: Progress, stop: StopOnSignal) -> None:
        """The updates that are left of an epoch; a stop between two of them is saved as it stands."""
        standing, sampler = self.standing, self._sampler()
        total = len(sampler.spans)
        step, seconds, peak, before = None, 0.0, 0, 0
        for update in range(standing.update, total):
            first, end = sampler.spans[update]
            started = time.perf_counter()
            with measure_peak_memory(self.problem.device) as memory:
                step = self._step(standing.epoch, update)
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

    def _step(self, epoch: int, update: int = 0) -> Step:
        """Of each member one encoding, one loss a batch, one backward pass (their sum's); one step of the optimiser."""
        config, sampler = self.config, self._sampler()
        positions = sampler.positions(epoch, update)
        rate = learning_rate(config, epoch % config.epochs + update / len(sampler.spans))
        restarts = config.compat == "authors" and config.bootstrap
        if restarts and epoch % config.epochs >= config.bootstrap_start:
            self.optimizer = self._new_optimizer()
            rate /= 5
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        links = sampler.links[positions]
        further = sampler.further(positions, self.objectives.further, epoch, update)
        rows = torch.cat([links.t().reshape(-1), further]).to(self.problem.device)
        hidden = None if self.shared is None else sampler.entities(positions).to(self.problem.device)
        view = sampler.graph.view(rows, self.model.depth)
        self.model.train()
        self.optimizer.zero_grad(set_to_none=True)
        losses, terms = [], dict.fromkeys(self.objectives.terms, 0.0)
        for number, (member, forward) in enumerate(zip(self.members, self.forwards, strict=True)):
            step = config.seed * 1_000_003 + epoch * len(sampler.spans) + update
            member.dropout.set_step(step + 500_000_003 * number)
            output = self.objectives.kept(forward(self.problem.features, view, hidden=hidden))
            loss, found = self._descend(output, positions, slice(2 * len(links), len(rows)))
            losses.append(loss)
            for name, term in found.items():
                terms[name] += term / len(self.members)
        if self.shared is not None:
            for table in self._tables():
                if table.grad is not None:
                    self.shared.collect(table.grad)
        parameters = [parameter for _, parameter in self._parameters()]
        norm = gradient_norm(parameters, self._tables(), self.world)
        if config.grad_clip:
            nn.utils.clip_grads_with_norm_(parameters, config.grad_clip, norm)
        if torch.isfinite(norm):
            self.optimizer.step()
            if self.shared is not None:
                for table in self._tables():
                    self.shared.spread(table)
        self.optimizer.zero_grad(set_to_none=True)
        loss = torch.stack(losses).mean()
        self.world.sum_([loss])
        return Step(loss, norm, rate, summed(terms, self.world))

    def _descend(
        self, output: LoginMEAOutput, positions: Tensor, further: slice
    ) -> tuple[Tensor, dict[str, float]]:
        """The loss of a member's output, its gradient added to the parameters', and its terms where there are several.

        Args:
            output: rows of the left entities, of their counterparts, and further ones.
            positions: of the links in the sampler's.
            further: rows of the further entities.
        """
        config, links = self.config, len(positions)
        authors = config.compat == "authors"
        losses, terms = [], dict.fromkeys(self.objectives.terms, 0.0)
        spans = [(0, links)]
        if not config.updates:
            spans = batches(links, config.batch_size, equal=not authors)
        for first, end in spans:
            batch = Batch(
                slice(first, end),
                slice(links + first, links + end),
                further,
                self._sampler().same(positions[first:end]).to(self.problem.device),
                None if self.shards is None else self.world.part(end - first),
            )
            loss, found = self.objectives(output, batch)
            for name, term in found.items() if len(terms) > 1 else ():
                terms[name] += term.item() * (end - first) / links
            if authors:
                # Their loop: the whole graph is walked back once a batch, and batches count alike whatever their size.
                loss.backward(retain_graph=end < links)
            else:
                loss = loss * ((end - first) / links)
            losses.append(loss)
        total = torch.stack(losses).sum()
        if not authors:
            total.backward()
        return total.detach(), terms

    def _tables(self) -> list[nn.Parameter]:
        """The members' entity embeddings."""
        return [m.entity_embedding for m in self.members if m.entity_embedding is not None]

    def _sampler(self) -> Sampler:
        """Of the links as they are now, whose entities share a row from here on."""
        links = self.bootstrapping.links
        if self.sampler is None or not torch.equal(self.sampler.links, links):
            self.sampler = Sampler(self.config, self.problem.pair, links, self.problem.graph)
            self.shared = None
            if self.config.share_seeds and len(self.sampler.spans) > 1:
                follow = followers_of(self.sampler.group_of)
                if self.shards is None:
                    self.shared = SharedRows(*follow, self.problem.device)
                else:
                    self.shared = self.shards.shared_rows(*follow)
                for table in self._tables():
                    self.shared.spread(table)
        return self.sampler

    def _settle(self, bar: Progress, stop: StopOnSignal) -> None:
        """What follows an epoch: a checkpoint, then bootstrapping and validation, which a kill may now cut off."""
        standing, epoch = self.standing, self.standing.epoch
        of_round = (epoch - 1) % self.config.epochs
        bootstraps = self.bootstrapping.due(of_round)
        ends_round = epoch % self.config.epochs == 0 or epoch == self.config.total_epochs
        every = self.config.eval_every
        validates = ends_round or (every > 0 and epoch % every == 0)
        if bootstraps or validates or self.world.any(self._unsaved())[0]:
            self._save()
            if self.run is not None:
                stop.interrupt_with(self._stopped())
        if bootstraps:
            sampled: dict[str, int] = {}
            joined = self.bootstrapping.round(of_round, partial(self._mutual_nearest, of_round, sampled))
            self._record("bootstrap", joined=joined, candidates=len(self.bootstrapping.candidates), **sampled)
            if joined:
                bar.say(f"{joined} links joined by bootstrapping")
        if validates:
            self._validate(bar)
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
        self.embedding = embedding_of(self.joint, self.problem, self.config, before)
        proposed = propose(
            self.embedding,
            *self._without_training_link(),
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
        self._renew()

    def _without_training_link(self) -> tuple[Tensor, Tensor]:
        """Entities of both graphs; which of them are held out is not looked at."""
        pair, train = self.problem.pair, self.problem.split.train
        return without(pair.left_entities, train[:, 0]), without(pair.right_entities, train[:, 1])

    def _renew(self) -> None:
        """New parameters and a new optimiser, drawn by the seed and the round."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.config.seed + 1_000_003 * (self.standing.epoch // self.config.epochs))
            state = self.model.renewed().state_dict()
            if self.shards is not None:
                state = {name: self.shards.take(t) if is_table(name, t) else t for name, t in state.items()}
            self.model.load_state_dict(state)
            self.objectives.renew()
        self.optimizer = self._new_optimizer()
        self.sampler = None

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
        standing = self.standing
        metrics, score, ranks = self._score()
        if score is None or standing.best_score is None:
            better = True
        elif self.config.compat == "authors":
            better = score > standing.best_score
        else:
            # A tie goes to the later epoch: few validation links tie often, and longer training seldom hurts. It is no
            # progress though: patience goes on counting.
            better = score >= standing.best_score - self._chance(ranks)
        progress = score is None or standing.round_score is None or score > standing.round_score
        standing.stale = 0 if progress else standing.stale + 1
        if score is not None:
            standing.round_score = max(score, standing.round_score or 0.0)
        if better:
            standing.best_score, standing.best_epoch, standing.best_ranks = score, standing.epoch, ranks
            self._keep_best()
        if metrics:
            self._record("validation", best_epoch=standing.best_epoch, **metrics)
            among = f" of {metrics['sampled_links']:,} links" if "sampled_links" in metrics else ""
            bar.say(f"validation Hits@1 {metrics['hits@1']:.3f}, MRR {metrics['mrr']:.3f}{among}")

    def _chance(self, ranks: list[float]) -> float:
        """How much worse than the best an epoch may be and still be kept.

        Nothing within a round. A round has learned from more links than those before it, and a few hundred validation
        links say little of what that is worth: it has to be worse by more than one standard error of the difference
        (the rule of Breiman et al. for trees).
        """
        standing = self.standing
        first = standing.epoch - 1 - (standing.epoch - 1) % self.config.epochs  # epochs before this round
        if standing.best_epoch > first or len(ranks) != len(standing.best_ranks) or len(ranks) < 2:
            return 0.0
        return statistics.stdev(map(operator.sub, ranks, standing.best_ranks)) / len(ranks) ** 0.5

    def _score(self) -> tuple[dict[str, float], float | None, list[float]]:
        """Metrics to choose the epoch by, the one that decides, and `Standing.best_ranks` of it.

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
        tensors = {f"model.{name}": t for name, t in self.model.state_dict().items()}
        tensors["links.joined"] = self.bootstrapping.joined
        if self.run is None:
            tensors = {name: t.detach().clone() for name, t in tensors.items()}
        best = Checkpoint(tensors, dict(vars(self.standing)), self.fingerprint, self.config.shape())
        if self.run is None:
            self.best = best
        else:
            self._write(best, self.run.best_file)
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
        alone = model_embedding(self.joint, self.problem, self.config)
        metrics = measure_test_links(alone, self.problem, self.config)
        record: dict[str, Any] = {}
        started = time.perf_counter()
        joined = best.part("links").get("joined", self.problem.split.train[:0])
        self.embedding = late = beside_model(alone, self.problem, self.config, joined)
        if isinstance(late, LateEmbedding):
            record = {"alone": metrics, "beside_seconds": round(time.perf_counter() - started, 4)}
            if self.run is not None:
                state = {**best.state, "late_weights": late.weights}
                self._write(replace(best, state=state), self.run.best_file)
            metrics = measure_test_links(late, self.problem, self.config)
        self._record(
            "final", best_epoch=self.standing.chosen_epoch, metrics=metrics, weights=self._weights(), **record
        )
        return metrics

    def _weights(self) -> dict[str, float]:
        """Mean share that each part has in the square of a row's length, of entities with a training link."""
        some = self.problem.split.train[:_WEIGHED].reshape(-1)
        shares = shares_of(self.embedding, some, some)
        return {name: round(share.mean().item(), 4) for name, share in shares.items()}

    def end(self, metrics: dict[str, Any] | None) -> None:
        """Tell the callbacks that it has ended: with the metrics of `finish`, or None where it never came to them."""
        for callback in self.callbacks:
            callback.on_end(self, metrics)


def _differences(history: list[dict[str, Any]], now: dict[str, Any]) -> str:
    """What `now` differs in from the last start or resumption; records of earlier versions hold less."""
    before: dict[str, Any] = next((r for r in reversed(history) if r["event"] in ("start", "resume")), {})
    return ", ".join(
        f"{key} was {before[key]} and is {value}"
        for key, value in now.items()
        if before.get(key, value) != value
    )
