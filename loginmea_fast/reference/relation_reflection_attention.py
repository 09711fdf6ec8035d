"""Relation-reflection attention (Dual-AMN, Mao et al., WWW 2021; LoginMEA, section 4.1), in plain PyTorch.

Symbols: N entities, E edges e = (i <- j) with relation set s(e), U relation sets, d width, L layers.

    x  [N, d]   features          c  [U]   set logits, c_s = v . u_s
    u  [U, d]   reflectors        w  [d]   neighbour vector, absent in relation mode

Forward:

    m_e = x_j - 2 (x_j . u_s) u_s                 Householder reflection
    l_e = c_s            relation mode
        = c_s + w . m_e  triple mode (RREA, Mao et al., CIKM 2020)
    a_e = exp(l_e - lse_i),  lse_i = log sum over the edges of i of exp(l_e)
    y_i = sum over the edges of i of a_e m_e ;   a row without edges is 0
    z_i = tanh(y_i) or y_i

Gradient, with g = dL/dz, h = g (1 - z^2) or g, and D_i = h_i . y_i:

    dl_e = a_e (h_i . m_e - D_i) ;   dm_e = a_e h_i  (+ dl_e w)
    dx_j = sum over the edges out of j of  dm_e - 2 (dm_e . u) u
    du_s = sum over the edges of set s of  -2 [ (dm_e . u) x_j + (x_j . u) dm_e ]
    dc_s = sum over the edges of set s of  dl_e ;   dw = sum over all edges of  dl_e m_e

y is not kept: under tanh, (1 - z^2) y = (1 - z^2) atanh(z), whose error is one rounding of z, and whose limit
at z = +-1 is 0.

Layers: z_0 = x, z_k = layer k of z_(k-1), output [z_0 | z_1 | ... | z_L].
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from loginmea_fast.graph import AlignmentGraph, View

__all__ = [
    "Edges",
    "relation_reflection_attention",
    "relation_reflection_backward",
    "relation_reflection_forward",
    "relation_reflection_layers",
]


class Edges(NamedTuple):
    """The edges as three columns, int64 [E] each, and the number of destinations: of a view fewer than sources."""

    source: Tensor
    destination: Tensor
    set: Tensor
    num_destinations: int

    @classmethod
    def of(cls, graph: AlignmentGraph) -> Edges:
        """The edges of a graph, in destination order."""
        return cls.from_pointers(graph.dst_ptr, graph.dst_source, graph.dst_set)

    @classmethod
    def of_layers(cls, graph: AlignmentGraph | View, layers: int) -> list[Edges]:
        """Those of each layer: of a graph the same for all."""
        if isinstance(graph, View) and graph.blocks:
            return [cls.from_pointers(*block[:3]) for block in graph.blocks]
        return [cls.of(graph.graph if isinstance(graph, View) else graph)] * layers

    @classmethod
    def from_pointers(cls, dst_ptr: Tensor, dst_source: Tensor, dst_set: Tensor) -> Edges:
        """The same from the graph's tensors."""
        entities = torch.arange(dst_ptr.numel() - 1, device=dst_ptr.device)
        destination = torch.repeat_interleave(entities, dst_ptr.diff(), output_size=dst_source.numel())
        return cls(dst_source.long(), destination, dst_set.long(), len(entities))


def relation_reflection_attention(
    x: Tensor,
    reflectors: Tensor,
    set_logits: Tensor,
    graph: AlignmentGraph,
    neighbor_vector: Tensor | None = None,
    activation: str | None = None,
) -> Tensor:
    """The formula, for autograd to differentiate.

    Args:
        x: [N, d].
        reflectors: [U, d].
        set_logits: [U].
        graph: the edges.
        neighbor_vector: [d], or None for relation mode.
        activation: "tanh" or None.

    Returns:
        [N, d].
    """
    z, _ = relation_reflection_forward(
        x, reflectors, set_logits, Edges.of(graph), neighbor_vector, activation
    )
    return z


def relation_reflection_layers(
    x: Tensor,
    reflectors: Tensor,
    set_logits: Tensor,
    graph: AlignmentGraph | View,
    neighbor_vectors: Tensor | None = None,
    activation: str | None = "tanh",
) -> Tensor:
    """Layers on top of each other, for autograd to differentiate.

    Args:
        x: [N, d], z_0.
        reflectors: [U, d], shared by all layers.
        set_logits: [L, U].
        graph: the edges; or a view, and then `x` has its n_0 rows.
        neighbor_vectors: [L, d], or None.
        activation: "tanh" or None, after each layer.

    Returns:
        [N, (L + 1) d]; [B, (L + 1) d] of a view.
    """
    edges = Edges.of_layers(graph, len(set_logits))
    z = [x]
    for layer, logits in enumerate(set_logits):
        w = None if neighbor_vectors is None else neighbor_vectors[layer]
        z.append(relation_reflection_forward(z[-1], reflectors, logits, edges[layer], w, activation)[0])
    out = torch.cat([output[: len(z[-1])] for output in z], dim=1)
    return graph.first(out) if isinstance(graph, View) else out


def relation_reflection_forward(
    x: Tensor,
    reflectors: Tensor,
    set_logits: Tensor,
    edges: Edges,
    neighbor_vector: Tensor | None = None,
    activation: str | None = None,
) -> tuple[Tensor, Tensor]:
    """One layer and its log-sum-exp.

    Args:
        x: [N, d].
        reflectors: [U, d].
        set_logits: [U].
        edges: E edges into D destinations, the first D of N entities.
        neighbor_vector: [d], or None.
        activation: "tanh" or None.

    Returns:
        z [D, d] in the dtype of `x`, and lse [D] in the dtype of the sums, 0 where there are no edges.
    """
    m, logits = _messages(_wide(x), _wide(reflectors), _wide(set_logits), edges, neighbor_vector)
    num_entities = edges.num_destinations
    # The largest logit of a row cancels in the softmax, so it needs no gradient.
    highest = logits.new_full((num_entities,), -torch.inf).scatter_reduce(
        0, edges.destination, logits.detach(), "amax"
    )
    power = (logits - highest[edges.destination]).exp()
    total = power.new_zeros(num_entities).index_add(0, edges.destination, power)
    attention = power / total[edges.destination]
    y = m.new_zeros(num_entities, x.shape[1]).index_add(0, edges.destination, attention[:, None] * m)
    z = torch.tanh(y) if activation == "tanh" else y
    has_edges = y.new_zeros(num_entities, dtype=torch.bool).index_fill(0, edges.destination, True)
    return z.to(x.dtype), torch.where(has_edges, highest + total.log(), 0.0)


def relation_reflection_backward(
    grad: Tensor,
    x: Tensor,
    z: Tensor,
    lse: Tensor,
    reflectors: Tensor,
    set_logits: Tensor,
    edges: Edges,
    neighbor_vector: Tensor | None = None,
    activation: str | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """The gradient of one layer, derived by hand: what the native kernels compute, spelled out.

    Args:
        grad: [D, d], dL/dz.
        x: [N, d], the layer's input.
        z: [D, d], its output.
        lse: [D], from the forward.
        reflectors: [U, d].
        set_logits: [U].
        edges: E edges.
        neighbor_vector: [d], or None.
        activation: "tanh" or None.

    Returns:
        dx [N, d], du [U, d], dc [U] and dw [d] or None, in the dtype of the sums.
    """
    x, z, u, g = _wide(x), _wide(z), _wide(reflectors), _wide(grad)
    m, logits = _messages(x, u, _wide(set_logits), edges, neighbor_vector)
    if activation == "tanh":
        slope = (1 - z) * (1 + z)
        h = g * slope
        # atanh(+-1) is infinite and its factor zero; the product's limit is zero. NaN stays.
        along = (g * torch.where(z.abs() == 1, 0.0, slope * torch.atanh(z))).sum(dim=1)
    else:
        h = g
        along = (g * z).sum(dim=1)

    attention = (logits - lse[edges.destination]).exp()[:, None]  # [E, 1]
    h_edge, u_edge, x_edge = h[edges.destination], u[edges.set], x[edges.source]
    dl = attention * ((h_edge * m).sum(dim=1) - along[edges.destination])[:, None]
    dm = attention * h_edge
    dw = None
    if neighbor_vector is not None:
        dm = dm + dl * _wide(neighbor_vector)
        dw = (dl * m).sum(dim=0)
    dm_along = (dm * u_edge).sum(dim=1, keepdim=True)
    x_along = (x_edge * u_edge).sum(dim=1, keepdim=True)
    dx = torch.zeros_like(x).index_add_(0, edges.source, dm - 2 * dm_along * u_edge)
    du = torch.zeros_like(u).index_add_(0, edges.set, -2 * (dm_along * x_edge + x_along * dm))
    dc = u.new_zeros(u.shape[0]).index_add_(0, edges.set, dl[:, 0])
    return dx, du, dc, dw


def relation_reflection_layers_backward(
    grads: Sequence[Tensor | None],
    z: Sequence[Tensor],
    lse: Sequence[Tensor] | Tensor,
    reflectors: Tensor,
    set_logits: Tensor,
    edges: Sequence[Edges],
    neighbor_vectors: Tensor | None,
    activation: str | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """The gradient through all layers, derived by hand.

    Args:
        grads: L + 1 gradients of z_0 ... z_L, [B, d] each for the B rows of z_L: further rows have none but the
            chain's; None for a z_0 that is no part of the output.
        z: z_0 ... z_L, [n_k, d]; rows of z_(k+1) are destinations of layer k, the first of its sources.
        lse: of each layer.
        reflectors: [U, d].
        set_logits: [L, U].
        edges: of each layer.
        neighbor_vectors: [L, d], or None.
        activation: "tanh" or None.

    Returns:
        dx [n_0, d], du [U, d], dc [L, U] and dw [L, d] or None, in the dtype of the sums.
    """
    layers = set_logits.shape[0]
    upstream = grads[layers]
    assert upstream is not None
    du = torch.zeros_like(_wide(reflectors))
    dc: list[Tensor] = []
    dw: list[Tensor] = []
    for layer in reversed(range(layers)):
        w = None if neighbor_vectors is None else neighbor_vectors[layer]
        dx, du_layer, dc_layer, dw_layer = relation_reflection_backward(
            upstream,
            z[layer],
            z[layer + 1],
            lse[layer],
            reflectors,
            set_logits[layer],
            edges[layer],
            w,
            activation,
        )
        du += du_layer
        dc.insert(0, dc_layer)
        if dw_layer is not None:
            dw.insert(0, dw_layer)
        direct = grads[layer]
        if direct is not None:
            dx[: len(direct)] += direct
        upstream = dx
    return upstream, du, torch.stack(dc), torch.stack(dw) if dw else None


def _messages(
    x: Tensor, u: Tensor, c: Tensor, edges: Edges, neighbor_vector: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Messages m [E, d] and logits l [E]."""
    neighbors, reflector = x[edges.source], u[edges.set]
    m = neighbors - 2 * (neighbors * reflector).sum(dim=1, keepdim=True) * reflector
    logits = c[edges.set]
    if neighbor_vector is not None:
        logits = logits + m @ _wide(neighbor_vector)
    return m, logits


def _wide(tensor: Tensor) -> Tensor:
    return tensor if tensor.dtype == torch.float64 else tensor.float()
