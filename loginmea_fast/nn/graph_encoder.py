"""GraphEncoder: entity embeddings, neighbour mean, then layers of relation-reflection attention (docs/model.md)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from loginmea_fast.errors import ConfigError, InputError
from loginmea_fast.graph import AlignmentGraph, View
from loginmea_fast.ops import neighbor_mean, relation_reflection_attention, relation_reflection_layers
from loginmea_fast.parallel import ShardView

__all__ = ["GraphEncoder", "ReflectionLayers"]

ATTENTIONS = ("relation", "triple")


class ReflectionLayers(nn.Module):
    """Layers of relation-reflection attention with their own vectors (docs/model.md, Layers).

    Args:
        width: d.
        depth: L, number of layers.
        attention: `"relation"`, logits v . u_s (LoginMEA, Dual-AMN), or `"triple"`, with w . m_e added (RREA).
        backend: of the operator.
    """

    def __init__(self, width: int, depth: int, attention: str = "relation", backend: str = "auto") -> None:
        super().__init__()
        if attention not in ATTENTIONS:
            raise ConfigError(f"attention must be one of {', '.join(ATTENTIONS)}; got {attention!r}")
        self.backend = backend
        self.relation_vectors = nn.Parameter(torch.empty(depth, width))
        self.neighbor_vectors = nn.Parameter(torch.empty(depth, width)) if attention == "triple" else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw each layer's vector as the authors do: Xavier-uniform of a [d, 1] matrix."""
        for vectors in (self.relation_vectors, self.neighbor_vectors):
            for vector in [] if vectors is None else vectors:
                nn.init.xavier_uniform_(vector.detach()[:, None])

    def forward(self, x: Tensor, reflectors: Tensor, graph: AlignmentGraph | View) -> Tensor:
        """Run all layers on z_0 = tanh(x).

        Args:
            x: [N, d]; [n_0, d] for a view.
            reflectors: [U, d], unit rows of `lf.ops.relation_reflectors`.
            graph: the edges, or a view of L layers.

        Returns:
            [N, (L + 1) d], [z_0 | z_1 | ... | z_L], one buffer; [B, (L + 1) d] for a view.
        """
        if isinstance(graph, ShardView):
            return self._across(x, reflectors, graph)
        return relation_reflection_layers(
            x,
            reflectors,
            None,
            graph,
            neighbor_vectors=self.neighbor_vectors,
            activation="tanh",
            backend=self.backend,
            relation_vectors=self.relation_vectors,
            activate_input=True,
        )

    def _across(self, x: Tensor, reflectors: Tensor, view: ShardView) -> Tensor:
        """The same in several processes, [b, (L + 1) d] of own rows x [n, d]: each layer fetches what it reads."""
        if view.depth != len(self.relation_vectors):
            raise InputError(
                f"the view is of {view.depth} layers, the model has {len(self.relation_vectors)}; make it by "
                f"graph.view(rows, depth={len(self.relation_vectors)})"
            )
        z, y, asked = [], x, view.layers[-1].edges
        for number, layer in enumerate(view.layers):
            read = layer.fetch(y, activates=not number)
            z.append(asked.first(y if number else read))  # they come first in all layers
            y = relation_reflection_attention(
                read,
                reflectors,
                None,
                layer.edges,
                neighbor_vector=None if self.neighbor_vectors is None else self.neighbor_vectors[number],
                activation="tanh",
                backend=self.backend,
                relation_vector=self.relation_vectors[number],
            )
        return torch.cat([*z, y], 1)


class GraphEncoder(nn.Module):
    """z_0 = tanh(mean of an entity's and its neighbours' embeddings), then `ReflectionLayers` (docs/model.md).

    Args:
        width: d.
        depth: L.
        attention: see `ReflectionLayers`.
        backend: of the operator.
    """

    def __init__(self, width: int, depth: int, attention: str = "relation", backend: str = "auto") -> None:
        super().__init__()
        self.layers = ReflectionLayers(width, depth, attention, backend)

    def forward(self, entity_embedding: Tensor, reflectors: Tensor, graph: AlignmentGraph | View) -> Tensor:
        """Encode all entities, or those that a view asks for.

        Args:
            entity_embedding: [N, d].
            reflectors: [U, d], whose dtype the encoder computes in.
            graph: the edges, or a view of L layers.

        Returns:
            [N, (L + 1) d], [z_0 | z_1 | ... | z_L]; [B, (L + 1) d] for a view.
        """
        if isinstance(graph, ShardView):
            mean = neighbor_mean(graph.shards.fetch(entity_embedding), graph.graph)[: graph.num_entities]
        else:
            mean = neighbor_mean(entity_embedding, graph)
        return self.layers(mean.to(reflectors.dtype), reflectors, graph)
