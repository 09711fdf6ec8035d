"""A chain of layers of relation-reflection attention, as every backend takes it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

__all__ = ["INDEX", "Chain", "Gradients", "graphs_in"]

# The graph tensors that the kernels read, in the order in which the custom operators take them: once for all layers, or
# once for each layer of a view, whose blocks have no visit_order.
INDEX = (
    "dst_ptr",
    "dst_source",
    "dst_set",
    "src_ptr",
    "src_destination",
    "src_set",
    "src_edge",
    "visit_order",
)

# dx [n_0, d], du [U, d], dc [L, U], dv and dw [L, d] or, without v or w, [0, d].
Gradients = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]


def graphs_in(index: Sequence[Tensor]) -> list[Sequence[Tensor]]:
    """The tensors of each graph, of all graphs one after the other."""
    return [index[k : k + len(INDEX)] for k in range(0, len(index), len(INDEX))]


@dataclass(frozen=True)
class Chain:
    """What the kernels of every backend take: rows of `z` and of gradients may lie apart, all else is contiguous."""

    z: Sequence[Tensor]  # z_0 ... z_L, [n_k, d]; forward writes all but the first
    lse: Sequence[Tensor]  # [n_k] of the layers k = 1 ... L, one buffer; written by forward
    logits: Tensor  # [L, U], c + v . u; written by forward
    reflectors: Tensor  # [U, d]
    relation_vectors: Tensor | None  # v, [L, d]
    neighbor_vectors: Tensor | None  # w, [L, d]
    graphs: Sequence[Sequence[Tensor]]  # of each layer, or one for all
    activation: str

    def sizes(self) -> list[int]:
        """Sources, destinations and edges of each graph."""
        return [n for g in self.graphs for n in (g[3].numel() - 1, g[0].numel() - 1, g[1].numel())]

    def of_layers(self) -> list[Sequence[Tensor]]:
        """The graph of every layer."""
        layers = len(self.logits)
        return [*self.graphs] if len(self.graphs) == layers else [*self.graphs] * layers
