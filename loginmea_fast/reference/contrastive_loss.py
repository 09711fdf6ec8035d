"""In-batch contrastive alignment loss, in plain PyTorch.

Symbols: B seed pairs, D width, X further keys (0 unless given), keys k = [right | extra], tau temperature.

Forward, with every row divided by its length first (a^ = a / |a|):

    s_bj = l^_b . k^_j / tau                                   [B, B + X]
    loss = 1/B sum_b ( log sum_j exp s_bj  -  s_bb )           left to right
    back = 1/B sum_b ( log sum_a exp s_ab  -  s_bb )           right to left, over the left rows alone
    bidirectional: (loss + back) / 2

Gradient, with p_bj = exp(s_bj - lse_b) and q_ab = exp(s_ab - lse'_b) the two softmaxes and c = dL/dloss:

    w_bj = c / (B tau) ( p_bj - [b = j] )                      one way
         = c / (2 B tau) ( p_bj + [j < B] q_bj - 2 [b = j] )   both ways
    dl^ = w k^ ;   dk^ = w^T l^
    da_b = ( da^_b - (da^_b . a^_b) a^_b ) / |a_b|             through the division by the length

A row no longer than 1e-12 has no direction: it counts as the zero vector, similar to nothing (s = 0), and its
gradient is 0.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["contrastive_loss", "contrastive_loss_gradient", "unit_rows"]

SHORTEST_ROW = 1e-12


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


def _all_keys(right: Tensor, extra_keys: Tensor | None) -> Tensor:
    return right if extra_keys is None else torch.cat([right, extra_keys])


def contrastive_loss(
    left: Tensor,
    right: Tensor,
    temperature: float,
    bidirectional: bool = False,
    extra_keys: Tensor | None = None,
) -> Tensor:
    """Cross entropy of each left row's similarities to all keys against its own right row, for autograd.

    Args:
        left: [B, D] rows of the left graph's entities.
        right: [B, D]; row b is the counterpart of row b of `left`.
        temperature: divisor of the cosine similarities.
        bidirectional: take the mean with the loss of right rows against left rows.
        extra_keys: [X, D] further rows that no left row belongs to, or None.

    Returns:
        A scalar, float64 for float64 rows and float32 otherwise.
    """
    dtype = accumulation_dtype(left.dtype)
    queries, _ = unit_rows(left.to(dtype))
    keys, _ = unit_rows(_all_keys(right, extra_keys).to(dtype))
    scores = queries @ keys.T / temperature  # [B, B + X]
    positive = scores.diagonal()
    loss = (scores.logsumexp(dim=1) - positive).mean()
    if bidirectional:
        back = (scores[:, : len(right)].logsumexp(dim=0) - positive).mean()
        loss = (loss + back) / 2
    return loss


def contrastive_loss_gradient(
    left: Tensor,
    right: Tensor,
    temperature: float,
    bidirectional: bool = False,
    extra_keys: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The same loss and, derived by hand, its gradients: what the native kernels compute, spelled out.

    Args:
        left: [B, D].
        right: [B, D].
        temperature: divisor of the cosine similarities.
        bidirectional: as above.
        extra_keys: [X, D] or None.

    Returns:
        The loss, and its gradients to `left` [B, D], `right` [B, D] and `extra_keys` [X, D] (X = 0 for none).
    """
    batch, dtype = len(left), accumulation_dtype(left.dtype)
    queries, query_reciprocal = unit_rows(left.to(dtype))
    keys, key_reciprocal = unit_rows(
        (right if extra_keys is None else torch.cat([right, extra_keys])).to(dtype)
    )
    scores = queries @ keys.T / temperature
    positive = scores.diagonal()
    row_lse = scores.logsumexp(dim=1, keepdim=True)
    loss = (row_lse[:, 0] - positive).mean()
    weight = (scores - row_lse).exp()
    weight.diagonal().sub_(1.0)
    if bidirectional:
        square = scores[:, :batch]
        column_lse = square.logsumexp(dim=0, keepdim=True)
        loss = (loss + (column_lse[0] - positive).mean()) / 2
        weight[:, :batch] += (square - column_lse).exp()
        weight.diagonal().sub_(1.0)
        weight /= 2
    weight /= batch * temperature

    def through_length(gradient: Tensor, unit: Tensor, reciprocal: Tensor) -> Tensor:
        along = (gradient * unit).sum(dim=1, keepdim=True)
        return (gradient - along * unit) * reciprocal

    left_gradient = through_length(weight @ keys, queries, query_reciprocal).to(left.dtype)
    key_gradient = through_length(weight.T @ queries, keys, key_reciprocal).to(left.dtype)
    return loss, left_gradient, key_gradient[:batch].clone(), key_gradient[batch:].clone()
