"""One step of label propagation over relation sets, in plain PyTorch.

Symbols: N entities, E edges, U relation sets, D width, G groups of D / G columns, s(e) the relation set of edge e.

    y_ic = n_i ( own_i x_ic  +  sum over the edges e = (i <- j) of w_{s(e), g(c)} x_jc ) ,   g(c) = floor(c G / D)
    n_i  = 1 / |y_i| before it, 0 where that is 1e-12 or less;  1 without normalisation

Propagated labels are no parameters and the weights are none either: there is no gradient.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["SHORTEST_ROW", "propagate"]

SHORTEST_ROW = 1e-12


def propagate(
    x: Tensor,
    set_weights: Tensor,
    own: Tensor | None,
    ptr: Tensor,
    source: Tensor,
    edge_set: Tensor,
    normalize: bool,
) -> Tensor:
    """One sparse product a group of columns, so that nothing of size edges x width exists.

    Args:
        x: [N, D].
        set_weights: [U, G], G divides D.
        own: [N], or None for zeros.
        ptr: int64 [N + 1], edges by destination.
        source: int32 [E], the source of each.
        edge_set: int32 [E], the relation set of each.
        normalize: divide each row by its length.

    Returns:
        [N, D] in the dtype of `x`; sums are kept in float64 for float64 and in float32 otherwise.
    """
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    wide, weights = x.to(dtype).contiguous(), set_weights.to(dtype)
    y = torch.zeros_like(wide) if own is None else own.to(dtype)[:, None] * wide
    columns = x.shape[1] // weights.shape[1]
    index, sets, size = source.long(), edge_set.long(), (x.shape[0], x.shape[0])
    for group, weight in enumerate(weights.t()):
        part = slice(group * columns, (group + 1) * columns)
        matrix = torch.sparse_csr_tensor(ptr, index, weight[sets], size, check_invariants=False)
        y[:, part] += matrix @ wide[:, part].contiguous()
    if normalize:
        length = y.norm(dim=1, keepdim=True)
        # Written so that NaN stays NaN: only a row that is surely short is struck out.
        short = length <= SHORTEST_ROW
        y = y * torch.where(short, 0.0, 1.0 / torch.where(short, 1.0, length))
    return y.to(x.dtype)
