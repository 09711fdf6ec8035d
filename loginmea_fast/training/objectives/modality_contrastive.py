"""InfoNCE within each modality (MCLEA's intra-modal loss; Lin et al., COLING 2022)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from loginmea_fast.nn import LoginMEAOutput
from loginmea_fast.nn.names import part_of_modality
from loginmea_fast.training.config import Config
from loginmea_fast.training.objectives.base import Batch
from loginmea_fast.training.objectives.contrastive import info_nce

__all__ = ["ModalityContrastive"]


class ModalityContrastive:
    """A term for each modality's projected features, and one for the structure embedding."""

    further = 0
    reads: tuple[str, ...] = ("graph", "modalities")

    def __init__(self, config: Config) -> None:
        self.temperature, self.bidirectional = config.temperature, config.bidirectional
        self.backend = config.loss_backend

    def terms(self, modalities: Sequence[str], has_graph: bool) -> tuple[str, ...]:
        """`modality_contrastive.<name>` for each, `.graph` last."""
        names = [*map(part_of_modality, modalities), *(["graph"] if has_graph else [])]
        return tuple(f"modality_contrastive.{name}" for name in names)

    def __call__(self, output: LoginMEAOutput, batch: Batch) -> dict[str, Tensor]:
        """The loss of the batch in each modality by itself."""
        parts = {part_of_modality(name): part for name, part in output.modalities.items()}
        if output.graph is not None:
            parts["graph"] = output.graph
        return {
            f"modality_contrastive.{name}": info_nce(
                part, batch, self.temperature, self.bidirectional, self.backend
            )
            for name, part in parts.items()
        }
