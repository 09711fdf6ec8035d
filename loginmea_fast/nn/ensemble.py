"""Ensemble: models of one graph that differ in their random parameters, their embeddings side by side."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from loginmea_fast.errors import CheckpointError, ConfigError
from loginmea_fast.graph import AlignmentGraph, View
from loginmea_fast.mapped import release
from loginmea_fast.nn.features import RawFeatures
from loginmea_fast.nn.loginmea import LoginMEA, LoginMEAOutput
from loginmea_fast.nn.pretrained import Pretrained, describe_graph

__all__ = ["Ensemble", "EntityModel", "members_of"]

_BLOCK = 4096  # rows that are divided at a time


class Ensemble(nn.Module):
    """Models side by side: the similarity of two entities is the mean of what its members say.

    Each member learns by itself, from parameters of its own; where one errs by chance the others seldom err alike.

    Args:
        members: models alike in everything but their parameters.

    Raises:
        ConfigError: none, or models of different sizes or arguments.
    """

    members: nn.ModuleList

    def __init__(self, members: Sequence[LoginMEA]) -> None:
        super().__init__()
        if not members:
            raise ConfigError("an ensemble needs at least one model; got none")
        first = members[0]
        if any(_built(member) != _built(first) for member in members):
            raise ConfigError(
                "models of an ensemble must be of one graph and the same arguments; build them alike"
            )
        self.members = nn.ModuleList(members)

    @property
    def depth(self) -> int:
        """L, of every member."""
        return self._first.depth

    @property
    def modalities(self) -> tuple[str, ...]:
        """Of every member."""
        return self._first.modalities

    @property
    def parts(self) -> list[tuple[str, int]]:
        """Those of every member, one after the other."""
        return len(self.members) * self._first.parts

    @property
    def embedding_dim(self) -> int:
        """D, columns of all joint embeddings together."""
        return len(self.members) * self._first.embedding_dim

    @property
    def _first(self) -> LoginMEA:
        return members_of(self)[0]

    def forward(
        self,
        features: Mapping[str, RawFeatures],
        view: View,
        present: Mapping[str, Tensor] | None = None,
        hidden: Tensor | None = None,
    ) -> LoginMEAOutput:
        """Embed entities by every member.

        Args:
            features: as `LoginMEA.forward`; so are the others.
            view: of whom.
            present: modality -> bool [N].
            hidden: int64.

        Returns:
            `LoginMEAOutput` with the members' columns side by side; rows of `joint` have length 1.
        """
        outputs = [member(features, view, present, hidden) for member in self.members]
        graph = [output.graph for output in outputs if output.graph is not None]
        unnormalized = [output.unnormalized for output in outputs if output.unnormalized is not None]
        return LoginMEAOutput(
            torch.cat([output.joint for output in outputs], 1) / len(outputs) ** 0.5,
            torch.cat(graph, 1) if graph else None,
            {name: torch.cat([output.modalities[name] for output in outputs], 1) for name in self.modalities},
            torch.cat(unnormalized, 1) if unnormalized else None,
        )

    @torch.no_grad()
    def joint_rows(
        self,
        features: Mapping[str, RawFeatures],
        view: View,
        present: Mapping[str, Tensor] | None = None,
        out: Tensor | None = None,
    ) -> Tensor:
        """The joint embedding alone, [B, D], without a gradient; as `LoginMEA.joint_rows`, one member at a time."""
        width = self._first.embedding_dim
        joint = out
        for number, member in enumerate(members_of(self)):
            place = slice(number * width, (number + 1) * width)
            own = member.joint_rows(features, view, present, None if joint is None else joint[:, place])
            if joint is None:
                joint = own.new_empty(len(own), self.embedding_dim)
                joint[:, place] = own
                del own
        assert joint is not None, "there is a member"
        for block in joint.split(_BLOCK) if len(joint) else ():
            block /= len(self.members) ** 0.5
            release(block)
        return joint

    def renewed(self) -> Ensemble:
        """An ensemble like this one with new parameters, on its device."""
        return type(self)([member.renewed() for member in members_of(self)])

    def save_pretrained(self, directory: str | os.PathLike[str], graph: AlignmentGraph) -> None:
        """Write all members as `LoginMEA.save_pretrained` writes one.

        Args:
            directory: made where it is not there.
            graph: what they were trained on.

        Raises:
            InputError: the graph has other numbers of entities or relations than the members.
            CheckpointError: they cannot be written.
        """
        self._first.check_graph(graph)
        arguments = {**self._first.arguments, "members": len(self.members)}
        Pretrained(arguments, describe_graph(graph), self.state_dict()).write(directory)

    @classmethod
    def from_pretrained(
        cls,
        directory: str | os.PathLike[str],
        graph: AlignmentGraph,
        backend: str = "auto",
        compute_dtype: torch.dtype | None = None,
    ) -> Ensemble:
        """The ensemble that `save_pretrained` wrote, on the device of its graph; as `LoginMEA.from_pretrained`.

        Raises:
            CheckpointError: see there, or the directory holds one model.
        """
        found = Pretrained.read(directory)
        if "members" not in found.arguments:
            raise CheckpointError(f"{directory} holds one model; read it with LoginMEA.from_pretrained")

        def make(arguments: Mapping[str, Any]) -> Ensemble:
            each = {name: value for name, value in arguments.items() if name != "members"}
            sizes = graph.num_entities, graph.num_relations
            return cls([LoginMEA(*sizes, **each) for _ in range(arguments["members"])])

        return found.build(directory, graph, make, backend=backend, compute_dtype=compute_dtype)


def _built(model: LoginMEA) -> tuple[int, int, dict[str, Any]]:
    return model.num_entities, model.num_relations, model.arguments


EntityModel: TypeAlias = LoginMEA | Ensemble
"""What is trained: one model, or several side by side."""


def members_of(model: EntityModel) -> list[LoginMEA]:
    """The models that learn by themselves: one, or those of an ensemble."""
    return [model] if isinstance(model, LoginMEA) else [m for m in model.members if isinstance(m, LoginMEA)]
