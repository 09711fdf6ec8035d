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
        size = batch.left.stop - batch.left.start
        assert output.unnormalized is not None, "gradients are recorded in training"
        rows = output.unnormalized.index_select(0, batch.positions().to(output.unnormalized.device))
        own = torch.arange(2 * size, device=rows.device)
        if len(rows) < 3:
            raise ConfigError(
                "hard_sample needs negatives: more than one link a batch, or hard_samples above 0"
            )
        # In |x - k|^2 = |x|^2 - 2 (x . k - |k|^2 / 2) the first term is a query's own, and drops out of its loss.
        bias = -rows.float().square().sum(1) / 2
        deviation = score_deviation(rows[own].detach(), rows.detach(), bias.detach())
        loss = ops.contrastive_loss_to_keys(
            rows[: 2 * size],
            rows,
            own.roll(size),
            (deviation / self.scale).clamp_min(1e-6),
            self.backend,
            key_bias=bias,
            excluded=torch.cat([torch.stack([own, own], 1), *_of_both_sides(batch.same, size)]),
            normalize=False,
            positive_in_denominator=False,
        )
        return {"hard_sample": loss}


def _of_both_sides(same: Tensor, size: int) -> list[Tensor]:
    """Pairs of links (i, j) as pairs of rows, [i or i + size, j or j + size]."""
    return [same + same.new_tensor([left, right]) for left in (0, size) for right in (0, size)]


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
    scores = (queries @ keys[some].T).to(bias.dtype) + bias[some]  # [B, about SAMPLE]
    return scores.std(1, correction=0)
