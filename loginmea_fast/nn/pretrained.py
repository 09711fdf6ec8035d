"""A model on disk: model.safetensors with its parameters, model.json with what builds it.

The graph is not in it, but what it must agree with is: entity embeddings belong to the entities of one graph.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from loginmea_fast.errors import CheckpointError
from loginmea_fast.graph import AlignmentGraph
from loginmea_fast.ops._dispatch import check_graph
from loginmea_fast.version import __version__

__all__ = ["DESCRIPTION", "Pretrained", "describe_graph", "digest", "tensor_bytes"]

DESCRIPTION = "model.json"
_PARAMETERS = "model.safetensors"
_FORMAT = "loginmea_fast.model"
_VERSION = 1

_Model = TypeVar("_Model", bound=nn.Module)


class Pretrained(NamedTuple):
    """What a directory holds.

    Attributes:
        arguments: of `LoginMEA`, without what the graph says, JSON-ready; of an ensemble also `members`, their number.
        graph: see `describe_graph`.
        parameters: by name, on the CPU.
    """

    arguments: dict[str, Any]
    graph: dict[str, Any]
    parameters: dict[str, Tensor]

    def write(self, directory: str | os.PathLike[str]) -> None:
        """Write both files, each whole or not at all; others in the directory are left alone.

        Raises:
            CheckpointError: they cannot be written.
        """
        from safetensors import SafetensorError
        from safetensors.torch import save_file

        path = Path(directory)
        description = {
            "format": _FORMAT,
            "version": _VERSION,
            "loginmea_fast": __version__,
            "arguments": self.arguments,
            "graph": self.graph,
            "parameters": digest(self.parameters[name] for name in sorted(self.parameters)),
        }
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in self.parameters.items()}
        beside = None
        try:
            path.mkdir(parents=True, exist_ok=True)
            beside = Path(tempfile.mkdtemp(prefix=".model-", dir=path))
            save_file(tensors, beside / _PARAMETERS)
            (beside / DESCRIPTION).write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")
            for name in (_PARAMETERS, DESCRIPTION):
                (beside / name).replace(path / name)
        except (OSError, SafetensorError) as error:
            raise CheckpointError(
                f"cannot write the model to {path}: {error}; name another directory, or make room"
            ) from None
        finally:
            if beside is not None:
                shutil.rmtree(beside, ignore_errors=True)

    @classmethod
    def read(cls, directory: str | os.PathLike[str]) -> Pretrained:
        """Read what `write` wrote.

        Raises:
            CheckpointError: a file is missing, damaged, of a newer version, or the two are not of one model.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        path = Path(directory)
        file = path / DESCRIPTION
        try:
            found = json.loads(file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise CheckpointError(
                f"{path} holds no model: it has no {DESCRIPTION}; name a directory that save_pretrained wrote"
            ) from None
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{file} cannot be read ({error}); save the model again") from None
        if not isinstance(found, dict) or found.get("format") != _FORMAT:
            raise CheckpointError(
                f"{file} was not written by save_pretrained; name a directory that it wrote"
            )
        if not isinstance(found.get("version"), int) or found["version"] > _VERSION:
            raise CheckpointError(
                f"{file} has version {found.get('version')}, this loginmea_fast reads up to {_VERSION}; "
                "upgrade with pip install -U loginmea-fast"
            )
        try:
            parameters = load_file(path / _PARAMETERS)
        except (OSError, SafetensorError) as error:
            raise CheckpointError(
                f"{path / _PARAMETERS} is missing or damaged ({error}); save the model again"
            ) from None
        if not {"arguments", "graph", "parameters"} <= found.keys():
            raise CheckpointError(f"{file} is incomplete; save the model again")
        if digest(parameters[name] for name in sorted(parameters)) != found["parameters"]:
            raise CheckpointError(
                f"{path / _PARAMETERS} and {file} are not of one model; save the model again"
            )
        return cls(found["arguments"], found["graph"], parameters)

    def check_graph(self, graph: AlignmentGraph, directory: str | os.PathLike[str]) -> None:
        """Raise `CheckpointError` naming what `graph` differs in from the one the model was trained on.

        Raises:
            InputError: it is none.
        """
        check_graph(graph)
        for key, value in describe_graph(graph).items():
            if self.graph.get(key) != value:
                raise CheckpointError(
                    f"the model in {directory} is of another graph: {key} is {self.graph.get(key)} there and {value} "
                    "here; give the graph it was trained on, or begin a training from it with init_from"
                )

    def build(
        self,
        directory: str | os.PathLike[str],
        graph: AlignmentGraph,
        make: Callable[[Mapping[str, Any]], _Model],
        **given: Any,
    ) -> _Model:
        """The model, with its parameters, on the device of `graph`; torch's generators are left as they are.

        Args:
            directory: what was read, for errors.
            graph: what it was trained on.
            make: from the arguments to a new model.
            given: arguments in place of those that were kept, where they are not None.

        Raises:
            CheckpointError: it is of another graph, or of arguments or parameters that this version does not have.
        """
        self.check_graph(graph, directory)
        try:
            kept = {**self.arguments, "compute_dtype": getattr(torch, self.arguments["compute_dtype"])}
            changed = {name: value for name, value in given.items() if value is not None}
            with torch.random.fork_rng(devices=[]):
                model = make({**kept, **changed})
            model.load_state_dict(self.parameters)
        except (AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
            raise CheckpointError(
                f"{directory} does not describe a model of this version: {str(error).splitlines()[0]}; "
                "save the model again"
            ) from error
        return model.to(graph.device)


def describe_graph(graph: AlignmentGraph) -> dict[str, Any]:
    """Sizes of a graph and a digest of its edges, JSON-ready."""
    return {
        "num_entities": graph.num_entities,
        "num_relations": graph.num_relations,
        "digest": digest(graph.index),
    }


def digest(tensors: Iterable[Tensor]) -> str:
    """16 hexadecimal digits that tell other values of `tensors` apart."""
    found = hashlib.sha256()
    for tensor in tensors:
        found.update(tensor_bytes(tensor))
    return found.hexdigest()[:16]


def tensor_bytes(tensor: Tensor) -> memoryview:
    """The memory of `tensor`, where it is on the CPU and contiguous without a copy."""
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    if not len(flat):  # torch gives it a stride that no view of bytes can have
        return memoryview(b"")
    return flat.view(torch.uint8).numpy().data
