"""The normalised hard-sample loss, after Dual-AMN (Mao et al., WWW 2021).

Keys are the rows of the batch and those of further entities of both graphs, not normalised. Of query b with its
counterpart p, s_c = -|x_b - x_c|^2 over the keys c, and sigma_b is their standard deviation, held constant:

    loss_b = log sum_{c != b, p} exp( scale (s_c - s_p) / sigma_b )

for the left rows and the right rows of the batch. Dual-AMN standardises in the same way, with a margin in place of s_p;
sigma is taken over at most `SAMPLE` keys, evenly spread, where the closed form by the keys' covariance costs C D^2
operations.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from loginmea_fast import ops
from loginmea_fast.errors import ConfigError
from loginmea_fast.nn import LoginMEAOutput
from loginmea_fast.training.config import Config
from loginmea_fast.training.objectives.base import Batch

__all__ = ["SAMPLE", "HardSample", "score_deviation"]

SAMPLE = 512


class HardSample:
    """Squared distances over their standard deviation a row; `hard_scale`, `hard_samples` further keys a side."""

    reads: tuple[str, ...] = ("unnormalized",)

    def __init__(self, config: Config) -> None:
        self.scale, self.further = config.hard_scale, config.hard_samples
        self.backend = config.loss_backend

    def terms(self, modalities: Sequence[str], has_graph: bool) -> tuple[str, ...]:
        """One."""
        return ("hard_sample",)

    def __call__(self, output: LoginMEAOutput, batch: Batch) -> dict[str, Tensor]:
        """The loss of the batch, both sides together.

        Raises:
            ConfigError: there are no keys but a link's own two rows.
        """
        size = batch.size
        assert output.unnormalized is not None, "gradients are recorded in training"
        rows = batch.rows_of(output.unnormalized)
        own = torch.arange(2 * size, device=rows.device)
        if len(rows) < 3:
            raise ConfigError(
                "hard_sample needs negatives: more than one link a batch, or hard_samples above 0"
            )
        queries, keys, bias = _Keys.apply(rows, 2 * size)
        positives = own.roll(size)
        pairs = torch.cat([torch.stack([own, own], 1), *_of_both_sides(batch.same, size)])
        if batch.part is not None:
            chosen = torch.cat([own[:size][batch.part], own[size:][batch.part]])
            queries, positives = queries[chosen], positives[chosen]
            place = torch.full_like(own, -1)
            place[chosen] = own[: len(chosen)]
            pairs = torch.stack([place[pairs[:, 0]], pairs[:, 1]], 1)[place[pairs[:, 0]] >= 0]
        deviation = score_deviation(queries, keys, bias)
        loss = ops.contrastive_loss_to_keys(
            queries,
            keys,
            positives,
            (deviation / self.scale).clamp_min(1e-6),
            self.backend,
            key_bias=bias,
            excluded=pairs,
            normalize=False,
            positive_in_denominator=False,
        )
        return {"hard_sample": loss if batch.part is None else loss * (len(queries) / (2 * size))}


class _Keys(torch.autograd.Function):
    """The first rows as queries, all of them as keys, and the bias -|k|^2 / 2 of each key.

    In |x - k|^2 = |x|^2 - 2 (x . k - |k|^2 / 2) the first term is a query's own, and drops out of its loss. One node,
    because gradients that autograd adds up by itself are five tensors of the rows' size.
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
        ctx.save_for_backward(rows)
        ctx.count = count
        return rows[:count], rows.view_as(rows), rows.float().square().sum(1) / -2

    @staticmethod
    def backward(ctx: Any, queries: Tensor, keys: Tensor, bias: Tensor) -> tuple[Tensor, None]:
        (rows,) = ctx.saved_tensors
        gradient = torch.addcmul(keys, rows, bias[:, None].to(rows.dtype), value=-1)
        gradient[: ctx.count] += queries
        return gradient, None


def _of_both_sides(same: Tensor, size: int) -> list[Tensor]:
    """Pairs of links (i, j) as pairs of rows, [i or i + size, j or j + size]."""
    return [same + same.new_tensor([left, right]) for left in (0, size) for right in (0, size)]


@torch.no_grad()
def score_deviation(queries: Tensor, keys: Tensor, bias: Tensor) -> Tensor:
    """Half of sigma_b: the standard deviation of x_b . k_j + bias_j over up to `SAMPLE` keys.

    Args:
        queries: [B, D].
        keys: [C, D].
        bias: [C].

    Returns:
        [B] in the dtype of `bias`.
    """
    some = torch.arange(0, len(keys), max(1, len(keys) // SAMPLE), device=keys.device)
    scores = (queries @ keys[some].T).to(bias.dtype)  # [B, about SAMPLE]
    scores += bias[some]
    scores -= scores.mean(1, keepdim=True)
    return torch.linalg.vector_norm(scores, dim=1) / len(some) ** 0.5
