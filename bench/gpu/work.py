"""What an operator cannot do without: floating-point operations and bytes, as formulas; and the goals they make.

Symbols as in docs/model.md: N entities, E edges, U relation sets, d width, L layers, B rows, M modalities, K rank.
Nothing here needs torch or a GPU; docs/gpu.md shows the figures, and a test holds the page to these functions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

__all__ = [
    "ZH_EN",
    "GraphSize",
    "Work",
    "attention_backward",
    "attention_forward",
    "fusion_backward",
    "fusion_forward",
    "loss",
    "ranks",
    "step",
]


class Work(NamedTuple):
    """Attributes say what is counted.

    Attributes:
        flop: multiplications and additions that the formula needs, without recomputation.
        bytes: every input read once, every output written once.
        gathered: the same, but each edge reads its neighbour's row from memory, as on a graph far larger than the
            cache whose neighbours lie anywhere; equal to `bytes` where nothing is gathered.
    """

    flop: float
    bytes: float
    gathered: float

    def __add__(self, other: Work) -> Work:  # type: ignore[override]
        return Work(*(a + b for a, b in zip(self, other, strict=True)))


class GraphSize(NamedTuple):
    """N, E and U."""

    entities: int
    edges: int
    sets: int


ZH_EN = GraphSize(38_960, 259_545, 14_096)


def attention_forward(graph: GraphSize, width: int, layers: int, itemsize: int) -> Work:
    """A layer reads z and u and the index, writes z and one log-sum-exp an entity; an edge costs 6 d operations."""
    n, e, u = graph
    row = width * itemsize
    # Source and set of an edge, int32; the pointers, int64; a logit and a log-sum-exp, float32.
    index = 8 * e + 8 * n + 4 * u + 4 * n
    return Work(
        6 * e * width * layers, layers * ((2 * n + u) * row + index), layers * ((e + n + u) * row + index)
    )


def attention_backward(graph: GraphSize, width: int, layers: int, itemsize: int) -> Work:
    """A layer reads the gradient, z_k, z_(k-1) and u, and writes dx and du; an edge costs 10 d operations.

    The gradient of z_0 itself, which the layers' buffer holds too, is read once more. Gathered: in source order one
    row of h = g (1 - z^2) an edge.
    """
    n, e, u = graph
    row = width * itemsize
    index = 12 * e + 8 * n + 8 * u + 4 * n
    once = layers * ((4 * n + 2 * u) * row + index) + n * row
    return Work(10 * e * width * layers, once, once + layers * max(e - n, 0) * row)


def fusion_forward(rows: int, widths: Sequence[int], rank: int, out: int, itemsize: int) -> Work:
    """K products [B, d_m + 1] x [d_m + 1, d] a modality."""
    flop = 2 * rows * rank * out * sum(w + 1 for w in widths)
    read = rows * sum(widths) + rank * out * sum(w + 1 for w in widths)
    total = (read + rows * out) * itemsize
    return Work(flop, total, total)


def fusion_backward(rows: int, widths: Sequence[int], rank: int, out: int, itemsize: int) -> Work:
    """Two products for each of the forward's: to the inputs and to the factors. Recomputing the forward is not work."""
    forward = fusion_forward(rows, widths, rank, out, itemsize)
    total = 2 * forward.bytes
    return Work(2 * forward.flop, total, total)


def scale(rows: int, widths: Sequence[int], itemsize: int) -> list[Work]:
    """Forward and backward of the row scale: inputs are read, and backward as much is written; products are few."""
    read = rows * sum(widths) * itemsize
    return [Work(4 * rows * sum(widths), total, total) for total in (read, 2 * read)]


def loss(batch: int, extra: int, width: int, itemsize: int) -> Work:
    """Loss and gradient: the similarities, and the products of their weights with either side."""
    total = 2 * (2 * batch + extra) * width * itemsize
    return Work(3 * 2 * batch * (batch + extra) * width, total, total)


def ranks(left: int, right: int, width: int, csls: bool, itemsize: int = 4) -> Work:
    """One product of all rows with all candidates, two with CSLS."""
    total = (left + right) * width * itemsize
    return Work((2 if csls else 1) * 2 * left * right * width, total, total)


def step(
    graph: GraphSize,
    feature_dims: Sequence[int],
    batches: Sequence[int],
    width: int = 300,
    rank: int = 8,
    layers: int = 2,
    itemsize: int = 4,
    nonzeros: int = 0,
) -> Work:
    """A whole training step: projections, fusion, two encoders' attention and the loss, forward and backward.

    `feature_dims` are those of dense features; `nonzeros` is the number of entries of all sparse ones, each of which
    costs a row of the weight. The optimiser reads and writes four float32 numbers a parameter, the embeddings mostly.
    """
    n = graph.entities
    modalities = 3
    widths = [width] * modalities
    joint = (layers + 1) * width + modalities * width + layers * width
    projections = Work(
        2 * 2 * (n * sum(feature_dims) + nonzeros) * width, 2.0 * n * sum(feature_dims) * itemsize, 0
    )
    projections = projections._replace(gathered=projections.bytes)
    parts = [projections, fusion_forward(n, widths, rank, width, itemsize)]
    parts.append(fusion_backward(n, widths, rank, width, itemsize))
    for encoder in (attention_forward, attention_backward):
        parts += [encoder(graph, width, layers, itemsize)] * 2
    parts += [loss(b, 0, joint, itemsize) for b in batches]
    optimiser = 8.0 * 4 * n * width
    total = Work(0, optimiser, optimiser)
    for part in parts:
        total = total + part
    return total
