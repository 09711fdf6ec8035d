"""From a pair and a configuration to what training and evaluation work on: graph, features, links, model."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from loginmea_fast import data
from loginmea_fast.data import AlignmentPair, Feature, Split
from loginmea_fast.data.scaling import scale_rows
from loginmea_fast.data.values import made_of_values, value_feature
from loginmea_fast.errors import ConfigError
from loginmea_fast.graph import AlignmentGraph
from loginmea_fast.nn import Ensemble, EntityModel, Features, LoginMEA, RawFeatures
from loginmea_fast.propagation import one_sided
from loginmea_fast.runs.device import choose_device
from loginmea_fast.training.checkpoint import fingerprint
from loginmea_fast.training.config import Config

__all__ = ["Problem", "assemble", "build_model", "load_pair", "sketch_model"]


@dataclass(frozen=True)
class Problem:
    """What a model is trained or evaluated on, on one device.

    Attributes:
        pair: names and links; on the CPU.
        graph: both graphs.
        features: modality -> [N, d_m], dense, sparse CSR or read from a file, and which entities have it.
        split: training, validation and test links, on the CPU.
        device: where `graph` and `features` are; those that are read from a file are on the host.
    """

    pair: AlignmentPair
    graph: AlignmentGraph
    features: Features
    split: Split
    device: torch.device

    def fingerprint(self, model: EntityModel) -> dict[str, Any]:
        """What a checkpoint of `model`, trained on this graph and these features, must agree with."""
        data = {f"feature {name}": _parts(feature) for name, feature in self.features.items()}
        split = (self.split.train, self.split.valid, self.split.test)
        return fingerprint(model, graph=self.graph.index, split=split, **data)


def load_pair(config: Config) -> AlignmentPair:
    """The data set that `config` names, with the modalities it asks for.

    Raises:
        ConfigError: `path` is unset.
        DataError: a file is missing or malformed.
    """
    config = Config.of(config)
    if config.path is None:
        raise ConfigError(
            "the configuration names no data set; set path to a directory, or pass the pair itself"
        )
    options: dict[str, Any] = {
        "vectors": config.vectors,
        "compat": config.compat,
        "bags": config.bags,
        "bag_size": config.bag_size,
        "seed": config.seed,
    }
    if config.path == "embedded":
        return data.load_embedded(config.modalities, **options)
    return data.load(
        config.path,
        config.format,
        config.modalities,
        name_attributes=config.name_attributes or (),
        fold=config.fold,
        **options,
    )


def assemble(pair: AlignmentPair, config: Config, split: Split | None = None) -> Problem:
    """Graph, features and links on the device of `config`.

    Args:
        pair: the data.
        config: which modalities, split and device.
        split: links to use; by default those that `config` describes.

    Raises:
        ConfigError: a modality the pair does not have, or a device that is not there.
        DataError: no training or no test links are left.
        InputError: `propagation`, and each training link has an entity without a neighbour.
    """
    device = choose_device(config.device, config.backend)
    names = list(pair.features) if config.modalities is None else list(config.modalities)
    _check_modalities(names, pair.features)
    graph = pair.graph()
    if split is None:
        seed = config.seed if config.split_seed is None else config.split_seed
        split = pair.split(config.seed_ratio, config.valid_ratio, seed)
    chosen = {name: pair.features[name] for name in names}
    if "value" in chosen and pair.values is not None and made_of_values(chosen["value"]):
        # Training links tell which attributes of the two graphs mean the same.
        chosen["value"], _ = value_feature(pair.values, pair.num_entities, split.train)
    features = _prepare(chosen, graph, config, device)
    if config.propagation == "late":
        one_sided(graph, split.train)
    pair = replace(pair, features={name: pair.features[name] for name in names})
    return Problem(pair, graph.to(device), features, split, device)


def _prepare(
    features: dict[str, Feature], graph: AlignmentGraph, config: Config, device: torch.device
) -> Features:
    """Features on the device, with what stands in for absent rows; rows as a reader filled them are everybody's."""
    if config.scale_features:
        features = {
            name: replace(feature, values=scale_rows(feature.values)) for name, feature in features.items()
        }
    if config.missing == "filled":
        return Features({name: feature.to(device).values for name, feature in features.items()})
    given = {name: data.stand_in(feature, graph, config.missing) for name, feature in features.items()}
    return Features(
        {name: feature.to(device).values for name, feature in given.items()},
        {name: feature.present.to(device) for name, feature in given.items() if not feature.present.all()},
    )


def build_model(problem: Problem, config: Config) -> EntityModel:
    """A new model or ensemble; torch's generators are kept.

    Parameters are drawn from `config.seed` whatever the state of the generators.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        return _model(problem, config).to(problem.device)


def sketch_model(problem: Problem, config: Config) -> EntityModel:
    """The same on the meta device: names and shapes of parameters, which take no memory."""
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        return _model(problem, config)


def _model(problem: Problem, config: Config) -> EntityModel:
    members = [
        LoginMEA(
            problem.graph.num_entities,
            problem.graph.num_relations,
            {name: feature.shape[1] for name, feature in problem.features.items()},
            hidden_dim=config.hidden_dim,
            rank=config.rank,
            depth=config.depth,
            aggregation=config.aggregation,
            dropout=config.dropout,
            attention=config.attention,
            use_local_fusion=config.use_local_fusion,
            use_adaptive_weights=config.use_adaptive_weights,
            use_low_rank=config.use_low_rank,
            use_global_aggregation=config.use_global_aggregation,
            use_graph_encoder=config.use_graph_encoder,
            backend=config.backend,
            compute_dtype=getattr(torch, config.dtype),
            recompute=config.recompute,
        )
        for _ in range(config.members)
    ]
    return members[0] if len(members) == 1 else Ensemble(members)


def _parts(feature: RawFeatures) -> Iterable[Tensor]:
    if not isinstance(feature, Tensor):
        return feature.blocks()
    if feature.layout == torch.sparse_csr:
        return [feature.crow_indices(), feature.col_indices(), feature.values()]
    return [feature]


def _check_modalities(names: Iterable[str], available: Iterable[str]) -> None:
    has = list(available)
    for name in names:
        if name not in has:
            near = difflib.get_close_matches(name, has, 1, cutoff=0.5)
            hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(has) or 'none'}"
            raise ConfigError(f"the data has no modality {name!r}; {hint}")
