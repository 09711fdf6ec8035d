"""ModalityChannels: each modality through layers of relation-reflection attention of its own (docs/model.md)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from loginmea_fast.graph import AlignmentGraph, View
from loginmea_fast.nn.graph_encoder import ReflectionLayers
from loginmea_fast.nn.names import module_key

__all__ = ["ModalityChannels"]


class ModalityChannels(nn.Module):
    """z_0 = tanh(x_m), then `ReflectionLayers`, for each modality m: what `GraphEncoder` does for structure.

    Dual-AMN (Mao et al., WWW 2021) has such a channel for the relations of an entity beside that of its neighbours.

    Args:
        modalities: their names.
        width: d, of each modality and of the layers.
        depth: L.
        attention: see `ReflectionLayers`.
        backend: of the operator.
    """

    def __init__(
        self,
        modalities: Sequence[str],
        width: int,
        depth: int,
        attention: str = "relation",
        backend: str = "auto",
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleDict(
            {module_key(name): ReflectionLayers(width, depth, attention, backend) for name in modalities}
        )
        self.output_width = len(modalities) * (depth + 1) * width
        """Columns of all channels side by side."""

    def forward(self, modality: str, x: Tensor, reflectors: Tensor, graph: AlignmentGraph | View) -> Tensor:
        """One channel.

        Args:
            modality: whose layers are meant.
            x: [N, d], its projected features; [n_0, d] for a view.
            reflectors: [U, d], unit rows of `lf.ops.relation_reflectors`.
            graph: the edges, or a view of L layers.

        Returns:
            [N, (L + 1) d], [z_0 | z_1 | ... | z_L]; [B, (L + 1) d] for a view.
        """
        result: Tensor = self.layers[module_key(modality)](x, reflectors, graph)
        return result
