"""RelationReflectionAttention: one layer as a module that takes a graph as PyTorch Geometric holds it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from loginmea_fast.derived import version_of
from loginmea_fast.errors import ConfigError, InputError
from loginmea_fast.graph import AlignmentGraph
from loginmea_fast.ops import relation_reflection_attention, relation_reflectors

__all__ = ["RelationReflectionAttention"]


class RelationReflectionAttention(nn.Module):
    """Relation-reflection attention with its relation embeddings (LoginMEA, section 4.1; docs/model.md, Attention).

    Drops into a PyTorch Geometric model: `layer(x, edge_index, edge_type)`. Typed edges with the same ends are one edge
    whose reflector is the mean of their relations. The index that the operator walks is made at the first call and kept
    for as long as the same tensors come, so train on the same `edge_index` object. It is made again when torch has
    changed one of them in place; a change through a NumPy view goes unseen.

    Args:
        width: d.
        num_relations: number of relation ids that `edge_type` may hold; add inverse edges with ids of their own where
            messages should run both ways.
        attention: `"relation"`, logits v . u_s, or `"triple"`, with w . m_e added.
        activation: "tanh" or None.
        backend: of the operator.

    Raises:
        ConfigError: a size below one, or another attention or activation.
    """

    def __init__(
        self,
        width: int,
        num_relations: int,
        attention: str = "relation",
        activation: str | None = None,
        backend: str = "auto",
    ) -> None:
        super().__init__()
        if min(width, num_relations) < 1:
            raise ConfigError(f"width and num_relations must be at least 1; got {width} and {num_relations}")
        if attention not in ("relation", "triple"):
            raise ConfigError(f"attention must be one of relation, triple; got {attention!r}")
        if activation not in ("tanh", None):
            raise ConfigError(f'activation must be "tanh" or None; got {activation!r}')
        self.num_relations = num_relations
        self.activation = activation
        self.backend = backend
        self.relation_embedding = nn.Parameter(torch.empty(num_relations, width))
        self.relation_vector = nn.Parameter(torch.empty(width))
        self.neighbor_vector = nn.Parameter(torch.empty(width)) if attention == "triple" else None
        self._indexed: tuple[Tensor, int | None, Tensor, int | None, AlignmentGraph] | None = None
        self.reset_parameters()

    def __getstate__(self) -> dict[str, Any]:
        """Without the index, which is many times the parameters and made again at the next call."""
        return {**self.__dict__, "_indexed": None}

    def reset_parameters(self) -> None:
        """Xavier-uniform, as the authors draw theirs."""
        nn.init.xavier_uniform_(self.relation_embedding)
        for vector in (self.relation_vector, self.neighbor_vector):
            if vector is not None:
                nn.init.xavier_uniform_(vector.detach()[:, None])

    def forward(self, x: Tensor, edge_index: Tensor, edge_type: Tensor) -> Tensor:
        """Attend.

        Args:
            x: [N, d], node features.
            edge_index: int64 [2, T], row 0 sources, row 1 destinations.
            edge_type: int64 [T], relation of each.

        Returns:
            [N, d]; a node without incoming edges has a row of zeros.

        Raises:
            InputError: shapes, dtypes or devices do not fit, or an id is out of range.
        """
        if x.dim() != 2:
            raise InputError(f"x must have shape [nodes, width]; got {list(x.shape)}")
        graph = self._graph_of(x, edge_index, edge_type)
        table: Tensor = self.relation_embedding
        if self.num_relations % 2:
            table = torch.cat([table, table.new_zeros(1, table.shape[1])])
        reflectors = relation_reflectors(table, graph).to(x.dtype)
        return relation_reflection_attention(
            x,
            reflectors,
            None,
            graph,
            neighbor_vector=self.neighbor_vector,
            activation=self.activation,
            backend=self.backend,
            relation_vector=self.relation_vector,
        )

    # Making the index reads the tensors on the CPU once; torch.compile leaves it alone.
    @torch.compiler.disable
    def _graph_of(self, x: Tensor, edge_index: Tensor, edge_type: Tensor) -> AlignmentGraph:
        for name, ids in (("edge_index", edge_index), ("edge_type", edge_type)):
            if not isinstance(ids, Tensor):
                raise InputError(
                    f"{name} must be an int64 tensor; got {type(ids).__name__}. This layer needs a relation for every "
                    "edge: layer(x, edge_index, edge_type)"
                )
        versions = version_of(edge_index), version_of(edge_type)
        if self._indexed is not None and None not in versions:
            index, index_version, types, types_version, graph = self._indexed
            same = edge_index is index and edge_type is types and versions == (index_version, types_version)
            if same and graph.num_entities == x.shape[0] and graph.device == x.device:
                return graph
        even = self.num_relations + self.num_relations % 2
        # Of another dtype than integers the graph speaks, before a NaN meets int().
        counted = not (edge_type.is_floating_point() or edge_type.is_complex()) and edge_type.numel() > 0
        if counted and int(edge_type.max()) >= self.num_relations:
            raise InputError(
                f"edge_type holds {int(edge_type.max())}; this layer has {self.num_relations} relations, "
                "numbered from 0"
            )
        graph = AlignmentGraph.from_edges(edge_index, edge_type, x.shape[0], even).to(x.device)
        self._indexed = (edge_index, versions[0], edge_type, versions[1], graph)
        return graph

    def extra_repr(self) -> str:
        """Sizes, for print(module)."""
        return f"{self.relation_vector.numel()}, num_relations={self.num_relations}"
