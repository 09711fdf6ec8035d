"""Contrastive alignment loss, in plain PyTorch.

Symbols: B queries x_b, C keys k_j, D width, p(b) the key that belongs to query b, tau temperature (one, or one a
query), beta a bias a key (0 unless given), c a coefficient a query (1/B for the mean), N_b the keys in the denominator
of query b: all of them, less those that are excluded and, by option, p(b).

Forward, with every row divided by its length first (a^ = a / |a|) unless rows are taken as they are:

    s_bj = (x^_b . k^_j + beta_j) / tau_b                          [B, C]
    loss_b = log sum_{j in N_b} exp s_bj - s_bp(b)                 0 where N_b is empty
    loss = sum_b c_b loss_b

Both ways, where p(b) = b: back_j = log sum_a exp s_aj - s_jj over the B x B square alone, and loss_b is the mean of the
two.

Gradient, with q_bj = [j in N_b] exp(s_bj - lse_b) the softmax and g = dL/dloss:

    w_bj = g c_b ( q_bj - [j = p(b)] )
         = g / 2 ( c_b q_bj + [j < B] c_j q'_bj - 2 c_b [j = b] )  both ways, q' the softmax of columns
    dx^ = (w / tau) k^ ;   dk^ = (w / tau)^T x^ ;   dbeta_j = sum_b w_bj / tau_b
    dtau_b = - sum_j w_bj s_bj / tau_b ;   dc_b = g loss_b
    da_b = ( da^_b - (da^_b . a^_b) a^_b ) / |a_b|                 through the division by the length

A row no longer than 1e-12 has no direction: it counts as the zero vector, similar to nothing (a product of 0), and its
gradient is 0. With beta_j = -|k_j|^2 / 2 on rows as they are, s_bj - s_bp is the difference of minus half the squared
distances, over tau_b.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = [
    "Gradients",
    "contrastive_loss",
    "contrastive_loss_gradient",
    "contrastive_loss_to_keys",
    "row_losses",
    "unit_rows",
]

SHORTEST_ROW = 1e-12


class Gradients(NamedTuple):
    """The loss, that of each query, and the gradients of the former; `temperature` holds one value a query."""

    loss: Tensor
    rows: Tensor
    queries: Tensor
    keys: Tensor
    key_bias: Tensor
    temperature: Tensor


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype of logits and loss: float64 for float64 rows, float32 for everything else."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def unit_rows(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Divide rows by their lengths.

    Args:
        rows: [B, D], in the dtype that the sums are to be taken in.

    Returns:
        The unit rows [B, D] and the reciprocal lengths [B, 1], both zero where the length is 1e-12 or less.
    """
    length = rows.norm(dim=1, keepdim=True)
    # Written so that NaN stays NaN: only a row that is surely short is struck out.
    short = length <= SHORTEST_ROW
    reciprocal = torch.where(short, 0.0, 1.0 / torch.where(short, 1.0, length))
    return rows * reciprocal, reciprocal


def _logits(
    queries: Tensor, keys: Tensor, temperature: float | Tensor, key_bias: Tensor | None
) -> tuple[Tensor, Tensor | float]:
    """Logits s [B, C], and the temperatures as a column or a number."""
    tau = temperature.to(queries.dtype).reshape(-1, 1) if isinstance(temperature, Tensor) else temperature
    products = queries @ keys.T
    return (products if key_bias is None else products + key_bias.to(queries.dtype)) / tau, tau


def _denominator(
    scores: Tensor, positives: Tensor, excluded: Tensor | None, positive_in_denominator: bool
) -> Tensor:
    """Scores with minus infinity where a key is not in the query's denominator."""
    out = torch.zeros_like(scores, dtype=torch.bool)
    if excluded is not None:
        out[excluded[:, 0], excluded[:, 1]] = True
    if not positive_in_denominator:
        out.scatter_(1, positives[:, None], True)
    return scores.masked_fill(out, float("-inf"))


def row_losses(
    queries: Tensor,
    keys: Tensor,
    positives: Tensor,
    temperature: float | Tensor,
    key_bias: Tensor | None = None,
    excluded: Tensor | None = None,
    normalize: bool = True,
    positive_in_denominator: bool = True,
) -> Tensor:
    """loss_b [B], for autograd; arguments as `contrastive_loss_to_keys` has them."""
    dtype = accumulation_dtype(queries.dtype)
    queries, keys = queries.to(dtype), keys.to(dtype)
    if normalize:
        queries, keys = unit_rows(queries)[0], unit_rows(keys)[0]
    scores, _ = _logits(queries, keys, temperature, key_bias)
    positive = scores.gather(1, positives[:, None])[:, 0]
    counted = _denominator(scores, positives, excluded, positive_in_denominator)
    # The gradient of an empty row's logsumexp would be NaN, and NaN times the zero that it gets.
    empty = (counted == float("-inf")).all(1)
    lse = torch.where(empty[:, None], 0.0, counted).logsumexp(dim=1)
    return torch.where(empty, 0.0, lse - positive)


def _reduce(rows: Tensor, row_weights: Tensor | None, reduction: str) -> Tensor:
    if reduction == "mean" and row_weights is not None:
        return (rows * row_weights.to(rows.dtype)).sum() / row_weights.to(rows.dtype).sum()
    rows = rows if row_weights is None else rows * row_weights.to(rows.dtype)
    return rows if reduction == "none" else rows.sum() if reduction == "sum" else rows.mean()


def contrastive_loss_to_keys(
    queries: Tensor,
    keys: Tensor,
    positives: Tensor,
    temperature: float | Tensor,
    *,
    key_bias: Tensor | None = None,
    excluded: Tensor | None = None,
    row_weights: Tensor | None = None,
    reduction: str = "mean",
    normalize: bool = True,
    positive_in_denominator: bool = True,
) -> Tensor:
    """Cross entropy of each query's similarities to keys against its own key; see the operator of this name."""
    rows = row_losses(
        queries, keys, positives, temperature, key_bias, excluded, normalize, positive_in_denominator
    )
    return _reduce(rows, row_weights, reduction)


def contrastive_loss(
    left: Tensor,
    right: Tensor,
    temperature: float | Tensor,
    bidirectional: bool = False,
    *,
    left_keys: Tensor | None = None,
    right_keys: Tensor | None = None,
    excluded: Tensor | None = None,
    row_weights: Tensor | None = None,
    reduction: str = "mean",
) -> Tensor:
    """Cross entropy of each left row's similarities to right rows against its own; see the operator of this name."""
    batch = len(left)
    positives = torch.arange(batch, device=left.device)
    rows = row_losses(
        left,
        right if right_keys is None else torch.cat([right, right_keys]),
        positives,
        temperature,
        excluded=None if excluded is None else excluded[excluded[:, 0] < batch],
    )
    if bidirectional:
        back = row_losses(
            right,
            left if left_keys is None else torch.cat([left, left_keys]),
            positives,
            temperature,
            excluded=None if excluded is None else excluded.flip(1)[excluded[:, 1] < batch],
        )
        rows = (rows + back) / 2
    return _reduce(rows, row_weights, reduction)


def contrastive_loss_gradient(
    queries: Tensor,
    keys: Tensor,
    positives: Tensor,
    temperature: float | Tensor,
    key_bias: Tensor | None = None,
    excluded: Tensor | None = None,
    coefficients: Tensor | None = None,
    normalize: bool = True,
    positive_in_denominator: bool = True,
    both_ways: bool = False,
) -> Gradients:
    """The same loss and, derived by hand, its gradients: what the kernels compute, spelled out.

    Args:
        queries: [B, D].
        keys: [C, D].
        positives: [B] int64, each query's own key.
        temperature: a number, or [B] or [] of them.
        key_bias: [C] or None.
        excluded: [P, 2] int64, pairs (query, key) that are left out of the query's denominator, or None.
        coefficients: [B] c; None for 1 / B.
        normalize: divide rows by their lengths.
        positive_in_denominator: count the query's own key in.
        both_ways: take the mean with the way back; `positives` are 0 ... B - 1, and nothing is excluded.
    """
    stored, dtype, batch = queries.dtype, accumulation_dtype(queries.dtype), len(queries)
    queries, keys = queries.to(dtype), keys.to(dtype)
    if normalize:
        queries, query_reciprocal = unit_rows(queries)
        keys, key_reciprocal = unit_rows(keys)
    scores, tau = _logits(queries, keys, temperature, key_bias)
    positive = scores.gather(1, positives[:, None])
    counted = _denominator(scores, positives, excluded, positive_in_denominator)
    lse = counted.logsumexp(dim=1, keepdim=True)
    empty = lse == float("-inf")
    rows = torch.where(empty, 0.0, lse - positive)[:, 0]
    weight = torch.where(empty, 0.0, (counted - lse).exp())
    weight.scatter_add_(1, positives[:, None], empty.to(dtype) - 1.0)
    scale = (
        scores.new_full((batch, 1), 1.0 / batch) if coefficients is None else coefficients[:, None].to(dtype)
    )
    weight *= scale
    if both_ways:
        square = scores[:, :batch]
        column_lse = square.logsumexp(dim=0, keepdim=True)
        rows = (rows + column_lse[0] - positive[:, 0]) / 2
        weight[:, :batch] += (square - column_lse).exp() * scale.T
        weight.diagonal().sub_(scale[:, 0])
        weight /= 2
    loss = (scale[:, 0] * rows).sum()
    temperature_gradient = -((weight * scores).sum(1, keepdim=True) / tau)[:, 0]
    weight /= tau

    def through_length(gradient: Tensor, unit: Tensor, reciprocal: Tensor) -> Tensor:
        along = (gradient * unit).sum(dim=1, keepdim=True)
        return (gradient - along * unit) * reciprocal

    query_gradient, key_gradient = weight @ keys, weight.T @ queries
    if normalize:
        query_gradient = through_length(query_gradient, queries, query_reciprocal)
        key_gradient = through_length(key_gradient, keys, key_reciprocal)
    return Gradients(
        loss, rows, query_gradient.to(stored), key_gradient.to(stored), weight.sum(0), temperature_gradient
    )
