"""A problem and its model, divided among processes: each keeps its rows of features, tables and graph."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from loginmea_fast.data import AlignmentPair, Feature
from loginmea_fast.data.subset import feature_rows
from loginmea_fast.errors import ConfigError
from loginmea_fast.nn import EntityModel, Features, members_of
from loginmea_fast.parallel import Shards, World
from loginmea_fast.runs.problem import Problem
from loginmea_fast.training.config import Config
from loginmea_fast.training.late import late_names
from loginmea_fast.training.sampling import batches
from loginmea_fast.version import __version__

__all__ = ["check_divisible", "divide"]


@dataclass(frozen=True)
class DividedProblem(Problem):
    """What this process holds of a problem.

    Attributes:
        whole: the fingerprint of all of it.
    """

    whole: dict[str, Any]

    def fingerprint(self, model: EntityModel) -> dict[str, Any]:
        """That of the whole, so that checkpoints are those of one process."""
        return self.whole


def check_divisible(config: Config, world: World) -> None:
    """Refuse what several processes cannot do.

    Raises:
        ConfigError: names the key.
    """
    if world.size == 1:
        return
    for key, wanted, instead in (
        ("compat", None, "compat='authors' walks the whole graph back for every batch"),
        ("compile", False, "torch.compile does not trace what processes exchange"),
        ("partitions", 0, "parts are cut out of the whole graph"),
        ("learned_weights", False, "the weights' own term would be counted once a process"),
        ("propagation", "none", "labels are propagated over the whole graph"),
    ):
        if getattr(config, key) != wanted and (key, getattr(config, key)) != (
            "partitions",
            1,
        ):  # 1 changes nothing
            raise ConfigError(
                f"{world.size} processes cannot train with {key}={getattr(config, key)}: {instead}; set "
                f"{key}={wanted}, or train in one process",
                key,
            )
    if config.decoder not in ("csls", "cosine"):
        raise ConfigError(
            f"{world.size} processes rank by cosine and CSLS alone; leave decoder={config.decoder} out and give it to "
            "evaluate afterwards",
            "decoder",
        )


def divide(problem: Problem, model: EntityModel, config: Config, world: World) -> Problem:
    """What this process keeps of a problem; `model` is left with its rows of the tables of entities.

    Raises:
        ConfigError: the processes were started on different data or keys, or are more than the entities are worth.
    """
    whole = problem.fingerprint(model)
    world.agree(_facts(config, whole))
    if names := late_names(problem, config):
        raise ConfigError(
            f"{world.size} processes cannot put {', '.join(names)} beside the model yet; set late_names=false, or "
            "train in one process",
            "late_names",
        )
    spans = batches(len(problem.split.train), config.batch_size, at_least=config.updates or 1)
    smallest = min(end - first for first, end in spans)
    if config.rounds or config.bootstrap:  # links that join may ask for more batches
        smallest = min(smallest, max(config.batch_size // 2, 1))
    if smallest < world.size:
        raise ConfigError(
            f"{world.size} processes are too many for batches of {smallest} links, of which each needs one; start "
            "fewer, or raise batch_size or lower updates"
        )
    shards = Shards(world, problem.graph)
    for member in members_of(model):
        if member.entity_embedding is not None:
            own = shards.take(member.entity_embedding.detach())
            member.entity_embedding = nn.Parameter(own)
    own = shards.own
    values: dict[str, Any] = {}
    for name, feature in problem.features.items():
        everybody = torch.ones(feature.shape[0], dtype=torch.bool)
        values[name] = feature_rows(Feature(feature, everybody), own).to(problem.device).values
    present = {name: shards.take(mask) for name, mask in problem.features.present.items()}
    return DividedProblem(
        _without_features(problem.pair),
        shards,  # type: ignore[arg-type]
        Features(values, present),
        problem.split,
        problem.device,
        whole,
    )


def _facts(config: Config, fingerprint: dict[str, Any]) -> dict[str, Any]:
    """What all processes must have been started with; data by their digests."""
    return {
        "version": __version__,
        "torch": torch.__version__,
        "python": sys.version.split()[0],
        **{f"the key {name}": value for name, value in config.as_dict().items()},
        **{f"the data ({name})": value for name, value in fingerprint.items()},
    }


def _without_features(pair: AlignmentPair) -> AlignmentPair:
    """The pair as training needs it: who is linked and has which modality, but neither numbers nor words."""
    return replace(
        pair,
        words=None,
        attributes=None,
        values=None,
        features={
            name: Feature(
                torch.zeros(1, 1).expand(len(feature.present), 1), feature.present, feature.description
            )
            for name, feature in pair.features.items()
        },
    )
