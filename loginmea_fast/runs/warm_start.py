"""A warm start: a new model begins with the parameters of another run or of a model that `save_pretrained` wrote."""

from __future__ import annotations

import re
from pathlib import Path

import torch
from torch import Tensor

from loginmea_fast.errors import ConfigError
from loginmea_fast.graph import AlignmentGraph
from loginmea_fast.nn import EntityModel
from loginmea_fast.nn.pretrained import DESCRIPTION, Pretrained, digest
from loginmea_fast.runs.directory import RunDirectory

__all__ = ["check_source", "warm_start"]

# Their rows are the entities and relations of one graph: in another, the same row is something else.
_OF_ONE_GRAPH = ("entity_embedding", "relation_embedding")
_NAMED = 6


def check_source(source: str) -> None:
    """Raise `ConfigError` where `source` is neither a run nor a pretrained model; asked before data is read."""
    place = Path(source)
    if (place / DESCRIPTION).is_file():
        return
    if not (place / "config.toml").is_file():
        raise ConfigError(
            f"init_from names {source}, which is neither a run directory nor one that save_pretrained wrote",
            "init_from",
        )
    run = RunDirectory.open(place)
    if not (run.best_file.is_file() or run.last_file.is_file()):
        raise ConfigError(
            f"init_from names {source}, a run without a checkpoint; let it reach its first one", "init_from"
        )


def warm_start(model: EntityModel, graph: AlignmentGraph, source: str) -> str:
    """Give `model` the parameters in `source` that have its names and shapes; a note of what was taken and what not.

    Args:
        model: changed in place.
        graph: what it will be trained on.
        source: a run directory, whose best checkpoint is read, or a directory that `save_pretrained` wrote.

    Raises:
        ConfigError: `source` is neither, or nothing in it fits.
        CheckpointError: it is damaged, or of a newer version.
    """
    check_source(source)
    parameters, trained_on = _read(source)
    own, same_graph = model.state_dict(), trained_on == digest(graph.index)
    taken: dict[str, Tensor] = {}
    left = []
    for name, value in own.items():
        theirs = parameters.get(name, parameters.get(_of_member(name)))
        if theirs is None:
            left.append(f"{name} (absent there)")
        elif theirs.shape != value.shape:
            left.append(f"{name} ({list(theirs.shape)} there, {list(value.shape)} here)")
        elif _of_member(name) in _OF_ONE_GRAPH and not same_graph:
            left.append(f"{name} (of another graph)")
        else:
            taken[name] = theirs
    known = {*own, *map(_of_member, own)}
    left += [f"{name} (not in this model)" for name in parameters if name not in known]
    if not taken:
        raise ConfigError(
            f"nothing in {source} fits this model: {_listed(left)}; choose another, or leave init_from out",
            "init_from",
        )
    with torch.no_grad():
        for name, value in taken.items():
            own[name].copy_(value)
    begun = f"{len(taken)} of {len(own)} parameters begin as in {source}"
    return f"{begun}; not taken: {_listed(left)}" if left else begun


def _read(source: str) -> tuple[dict[str, Tensor], str]:
    """Parameters, and the digest of the graph they were trained on."""
    if (Path(source) / DESCRIPTION).is_file():
        found = Pretrained.read(source)
        return found.parameters, found.graph["digest"]
    checkpoint, _ = RunDirectory.open(source).load()
    return checkpoint.part("model"), checkpoint.fingerprint["graph"]


def _of_member(name: str) -> str:
    """The name that a parameter of an ensemble has in its member."""
    return re.sub(r"^members\.\d+\.", "", name)


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
