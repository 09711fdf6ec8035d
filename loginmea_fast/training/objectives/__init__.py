"""Objectives, one file each, and their weighted sum."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from loginmea_fast.errors import ConfigError
from loginmea_fast.nn import LoginMEAOutput
from loginmea_fast.training.config import Config
from loginmea_fast.training.objectives.base import Batch, Objective
from loginmea_fast.training.objectives.contrastive import Contrastive
from loginmea_fast.training.objectives.hard_sample import HardSample
from loginmea_fast.training.objectives.modality_contrastive import ModalityContrastive

__all__ = [
    "OBJECTIVES",
    "Batch",
    "Objective",
    "WeightedObjectives",
    "further_entities",
    "objective_weights",
]

OBJECTIVES: Mapping[str, Callable[[Config], Objective]] = {
    "contrastive": Contrastive,
    "hard_sample": HardSample,
    "modality_contrastive": ModalityContrastive,
}
"""Name, as the key `objectives` has it, to class."""


def objective_weights(config: Config) -> dict[str, float]:
    """What `objectives` says: name to weight, without those of weight 0.

    Raises:
        ConfigError: a name that is not there or is there twice, a weight that is no number of at least 0, weights that
            are all zero, or other objectives than the authors' under `compat="authors"`.
    """
    weights: dict[str, float] = {}
    for entry in config.objectives or ("hard_sample",):
        name, colon, text = entry.partition(":")
        if name not in OBJECTIVES:
            raise ConfigError(
                f"objectives must name some of {', '.join(OBJECTIVES)}; got {name!r}", "objectives"
            )
        if name in weights:
            raise ConfigError(f"objectives names {name} twice; name each once", "objectives")
        try:
            weights[name] = float(text) if colon else 1.0
        except ValueError:
            weights[name] = float("nan")
        if not 0 <= weights[name] < float("inf"):
            raise ConfigError(
                f"objectives gives {name} the weight {text!r}; write a number of at least 0, as in {name}:0.5",
                "objectives",
            )
    if not any(weights.values()):
        raise ConfigError("objectives gives every loss the weight 0; leave one above 0", "objectives")
    if config.compat == "authors" and weights != {"contrastive": 1.0}:
        raise ConfigError(
            "compat='authors' trains with the contrastive loss alone; leave objectives out", "objectives"
        )
    return {name: weight for name, weight in weights.items() if weight}


def further_entities(config: Config) -> int:
    """Entities of each graph, without a training link, that the objectives want embedded beside the links'."""
    return max(OBJECTIVES[name](config).further for name in objective_weights(config))


class WeightedObjectives(nn.Module):
    """The objectives that a configuration names, summed.

    With `learned_weights` a term L enters as exp(-v) L + v, where v is a parameter of its own: the weights of Kendall,
    Gal and Cipolla (CVPR 2018), as MCLEA takes them.

    Args:
        config: names them.
        modalities: of the model.
        has_graph: whether the model embeds structure.

    Raises:
        ConfigError: as `objective_weights`, or nothing is left to compute.
    """

    def __init__(self, config: Config, modalities: Sequence[str], has_graph: bool) -> None:
        super().__init__()
        self.weights = objective_weights(config)
        self.objectives = {name: OBJECTIVES[name](config) for name in self.weights}
        self.terms = [term for o in self.objectives.values() for term in o.terms(modalities, has_graph)]
        self.further = further_entities(config)
        self.log_variances = nn.Parameter(torch.zeros(len(self.terms))) if config.learned_weights else None

    def renew(self) -> None:
        """Forget what was learned."""
        if self.log_variances is not None:
            nn.init.zeros_(self.log_variances)

    def kept(self, output: LoginMEAOutput) -> LoginMEAOutput:
        """The output without what no objective reads, so that it does not live until backward has ended."""
        read = {field for objective in self.objectives.values() for field in objective.reads}
        return LoginMEAOutput(
            output.joint,
            output.graph if "graph" in read else None,
            output.modalities if "modalities" in read else {},
            output.unnormalized if "unnormalized" in read else None,
        )

    def forward(self, output: LoginMEAOutput, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The weighted sum, to be differentiated, and its terms before weighting."""
        terms: dict[str, Tensor] = {}
        weighted: list[Tensor] = []
        for name, objective in self.objectives.items():
            found = objective(output, batch)
            terms |= found
            weight = self.weights[name]
            weighted += [term if weight == 1.0 else weight * term for term in found.values()]
        if self.log_variances is not None:
            log_variances = self.log_variances.unbind()
            weighted = [torch.exp(-v) * term + v for term, v in zip(weighted, log_variances, strict=True)]
        total = weighted[0] if len(weighted) == 1 else torch.stack([t.float() for t in weighted]).sum()
        return total, {name: term.detach() for name, term in terms.items()}
