"""One update of the parameters, and all that it needs: model, objectives, optimiser and the links that it is about."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from loginmea_fast.nn import EntityModel, LoginMEAOutput, members_of
from loginmea_fast.parallel import division_of
from loginmea_fast.parallel.shards import SharedRows
from loginmea_fast.training.apart import ApartRows
from loginmea_fast.training.bootstrapping import Bootstrapping
from loginmea_fast.training.checkpoint import Checkpoint, is_table
from loginmea_fast.training.config import Config
from loginmea_fast.training.gradients import gradient_norm, summed
from loginmea_fast.training.objectives import Batch, WeightedObjectives
from loginmea_fast.training.protocols import Problem
from loginmea_fast.training.sampling import Sampler, batches
from loginmea_fast.training.schedule import learning_rate
from loginmea_fast.training.sharing import followers_of

__all__ = ["Step", "Updates"]


class Step(NamedTuple):
    """What one step says of itself: the loss, the gradient's norm before clipping, the rate, each term of the loss."""

    loss: Tensor
    norm: Tensor
    rate: float
    terms: dict[str, float]


class Updates:
    """Changes a model by gradients, an update at a time.

    Attributes:
        model: whose parameters are changed.
        objectives: what is minimised; it may learn parameters of its own.
        optimizer: of both.
    """

    def __init__(
        self, problem: Problem, model: EntityModel, config: Config, bootstrapping: Bootstrapping
    ) -> None:
        """Stand before the first update.

        Args:
            problem: what is trained on.
            model: of `problem`, on its device.
            config: how.
            bootstrapping: whose links an update is about.
        """
        self._problem, self._config, self._bootstrapping = problem, config, bootstrapping
        self._division = division_of(problem.graph)
        self._world = self._division.world
        self.model = model
        self._members = members_of(model)
        self._forwards: list[Any] = [
            torch.compile(member, dynamic=True) if config.compile else member for member in self._members
        ]
        has_graph = self._members[0].graph_encoder is not None
        self.objectives = WeightedObjectives(config, model.modalities, has_graph).to(problem.device)
        self.optimizer = self._new_optimizer()
        self._drawn: Sampler | None = None
        self._shared: SharedRows | None = None

    def _parameters(self) -> list[tuple[str, nn.Parameter]]:
        """Of the model, and those that objectives learn."""
        learned = [(f"objectives.{name}", p) for name, p in self.objectives.named_parameters()]
        return [*self.model.named_parameters(), *learned]

    def _new_optimizer(self) -> torch.optim.Optimizer:
        parameters = [parameter for _, parameter in self._parameters()]
        config = self._config
        if config.optimizer == "rmsprop":  # with the constants of Dual-AMN's code
            return torch.optim.RMSprop(parameters, lr=config.lr, alpha=0.9, eps=1e-7)
        return torch.optim.AdamW(parameters, lr=config.lr, weight_decay=config.weight_decay, fused=True)

    def _tables(self) -> list[nn.Parameter]:
        """The members' entity embeddings."""
        return [m.entity_embedding for m in self._members if m.entity_embedding is not None]

    def count_parameters(self) -> int:
        """Of the model, in all processes."""
        tables = self._tables()
        held = sum(table.numel() for table in tables)
        whole = sum(self._problem.pair.num_entities * table.shape[1] for table in tables)
        return sum(p.numel() for p in self.model.parameters()) - held + whole

    # What a checkpoint holds of it.

    def model_tensors(self) -> dict[str, Tensor]:
        """Those of the model, as a checkpoint calls them."""
        return {f"model.{name}": t for name, t in self.model.state_dict().items()}

    def tensors(self) -> dict[str, Tensor]:
        """All that going on needs."""
        tensors = self.model_tensors()
        tensors |= {f"objectives.{name}": t for name, t in self.objectives.state_dict().items()}
        for name, parameter in self._parameters():
            for key, value in self.optimizer.state.get(parameter, {}).items():
                tensors[f"optimizer.{name}.{key}"] = value
        return tensors

    def load(self, checkpoint: Checkpoint) -> None:
        """Take the `tensors` of a checkpoint of this model."""
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

    # An update.

    def sampler(self) -> Sampler:
        """Of the links as they are now, whose entities share a row from here on."""
        links = self._bootstrapping.links
        if self._drawn is None or not torch.equal(self._drawn.links, links):
            self._drawn = Sampler(self._config, self._problem.pair, links, self._problem.graph)
            self._shared = None
            if self._config.share_seeds and len(self._drawn.spans) > 1:
                follow = followers_of(self._drawn.group_of)
                self._shared = self._division.shared_rows(*follow)
                for table in self._tables():
                    self._shared.spread(table)
        return self._drawn

    def step(self, epoch: int, update: int = 0) -> Step:
        """Of each member one encoding, one loss a batch, one backward pass (their sum's); one step of the optimiser."""
        config, sampler = self._config, self.sampler()
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
        rows = torch.cat([links.t().reshape(-1), further]).to(self._problem.device)
        hidden = None if self._shared is None else sampler.entities(positions).to(self._problem.device)
        view = sampler.graph.view(rows, self.model.depth)
        self.model.train()
        self.optimizer.zero_grad(set_to_none=True)
        losses, terms = [], dict.fromkeys(self.objectives.terms, 0.0)
        for number, (member, forward) in enumerate(zip(self._members, self._forwards, strict=True)):
            step = config.seed * 1_000_003 + epoch * len(sampler.spans) + update
            member.dropout.set_step(step + 500_000_003 * number)
            output = self.objectives.kept(forward(self._problem.features, view, hidden=hidden))
            loss, found = self._descend(output, positions, slice(2 * len(links), len(rows)))
            losses.append(loss)
            for name, term in found.items():
                terms[name] += term / len(self._members)
        if self._shared is not None:
            for table in self._tables():
                if table.grad is not None:
                    self._shared.collect(table.grad)
        parameters = [parameter for _, parameter in self._parameters()]
        norm = gradient_norm(parameters, self._tables(), self._world)
        if config.grad_clip:
            nn.utils.clip_grads_with_norm_(parameters, config.grad_clip, norm)
        if torch.isfinite(norm):
            self.optimizer.step()
            if self._shared is not None:
                for table in self._tables():
                    self._shared.spread(table)
        self.optimizer.zero_grad(set_to_none=True)
        loss = torch.stack(losses).mean()
        self._world.sum_([loss])
        return Step(loss, norm, rate, summed(terms, self._world))

    def _descend(
        self, output: LoginMEAOutput, positions: Tensor, further: slice
    ) -> tuple[Tensor, dict[str, float]]:
        """The loss of a member's output, its gradient added to the parameters', and its terms where there are several.

        Args:
            output: rows of the left entities, of their counterparts, and further ones.
            positions: of the links in the sampler's.
            further: rows of the further entities.
        """
        config, links, sampler = self._config, len(positions), self.sampler()
        authors = config.compat == "authors"
        losses, terms = [], dict.fromkeys(self.objectives.terms, 0.0)
        spans = [(0, links)]
        if not config.updates:
            spans = batches(links, config.batch_size, equal=not authors)
        apart = ApartRows(output) if len(spans) > 1 and not authors else None
        for first, end in spans:
            places = slice(first, end), slice(links + first, links + end), further
            same = sampler.same(positions[first:end]).to(self._problem.device)
            rows = output
            if apart is not None:
                rows, places = apart.take(places)
            loss, found = self.objectives(rows, Batch(*places, same, self._division.part(end - first)))
            for name, term in found.items() if len(terms) > 1 else ():
                terms[name] += term.item() * (end - first) / links
            if authors:
                # Their loop: the whole graph is walked back once a batch, and batches count alike whatever their size.
                loss.backward(retain_graph=end < links)
            else:
                loss = loss * ((end - first) / links)
                loss.backward()
            if apart is not None:
                apart.collect()
            losses.append(loss.detach())
        if apart is not None:
            apart.backward()
        return torch.stack(losses).sum(), terms

    def renew(self, round_number: int) -> None:
        """New parameters and a new optimiser, drawn by the seed and the round."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self._config.seed + 1_000_003 * round_number)
            take, state = self._division.take, self.model.renewed().state_dict()
            self.model.load_state_dict({n: take(t) if is_table(n, t) else t for n, t in state.items()})
            self.objectives.renew()
        self.optimizer = self._new_optimizer()
        self._drawn = None
