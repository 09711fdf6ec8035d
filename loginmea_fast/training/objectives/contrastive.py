"""InfoNCE over the joint embedding: the loss of LoginMEA (Su et al., ECAI 2024)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from loginmea_fast import ops
from loginmea_fast.nn import LoginMEAOutput
from loginmea_fast.training.config import Config
from loginmea_fast.training.objectives.base import Batch

__all__ = ["Contrastive"]


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
            "contrastive": ops.contrastive_loss(
                *batch.sides(output.unnormalized),
                self.temperature,
                bidirectional=self.bidirectional,
                backend=self.backend,
                excluded=batch.same if len(batch.same) else None,
            )
        }
