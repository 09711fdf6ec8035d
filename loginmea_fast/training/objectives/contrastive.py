"""InfoNCE over the joint embedding: the loss of LoginMEA (Su et al., ECAI 2024)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from loginmea_fast import ops
from loginmea_fast.nn import LoginMEAOutput
from loginmea_fast.training.config import Config
from loginmea_fast.training.objectives.base import Batch

__all__ = ["Contrastive", "info_nce"]


class Contrastive:
    """Cross entropy of a link's cosine similarities within the batch, over `temperature`."""

    further = 0
    reads: tuple[str, ...] = ("unnormalized",)  # the operator divides rows by their lengths by itself

    def __init__(self, config: Config) -> None:
        self.temperature, self.bidirectional = config.temperature, config.bidirectional
        self.backend = config.loss_backend

    def terms(self, modalities: Sequence[str], has_graph: bool) -> tuple[str, ...]:
        """One."""
        return ("contrastive",)

    def __call__(self, output: LoginMEAOutput, batch: Batch) -> dict[str, Tensor]:
        """The loss of the batch."""
        assert output.unnormalized is not None, "gradients are recorded in training"
        return {
            "contrastive": info_nce(
                output.unnormalized, batch, self.temperature, self.bidirectional, self.backend
            )
        }


def info_nce(rows: Tensor, batch: Batch, temperature: float, bidirectional: bool, backend: str) -> Tensor:
    """Cross entropy of the batch's links by the cosines of their rows of `rows`, see `ops.contrastive_loss`."""
    left, right = batch.sides(rows)
    excluded = batch.same if len(batch.same) else None
    if batch.part is None:
        return ops.contrastive_loss(
            left, right, temperature, bidirectional=bidirectional, backend=backend, excluded=excluded
        )
    order, count = batch.own().to(rows.device), batch.part.stop - batch.part.start
    if excluded is not None:
        excluded = order.argsort()[excluded]
    left, right = left[order], right[order]
    share = ops.contrastive_loss(
        left[:count],
        right[:count],
        temperature,
        bidirectional=bidirectional,
        backend=backend,
        left_keys=left[count:] if bidirectional else None,
        right_keys=right[count:],
        excluded=excluded if bidirectional or excluded is None else excluded[excluded[:, 0] < count],
    )
    return share * (count / len(order))
