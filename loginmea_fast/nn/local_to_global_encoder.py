"""LocalToGlobalEncoder: local low-rank fusion, then global aggregation over the graph (docs/model.md)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from loginmea_fast.errors import ConfigError
from loginmea_fast.graph import AlignmentGraph, View
from loginmea_fast.nn.graph_encoder import ReflectionLayers
from loginmea_fast.nn.low_rank_fusion import LowRankFusion
from loginmea_fast.ops._dispatch import check_view
from loginmea_fast.ops.modality_scale import masked_softmax, unit_rows

__all__ = ["LocalToGlobalEncoder", "WeightedSum"]


class WeightedSum(nn.Module):
    """The fusion without its interaction: y = sum_m a_m x_m / |x_m| (the paper's ablations).

    Args:
        width: d, of every modality.
        adaptive: learn a_m = softmax_m(q . tanh(x_m)); else 1 / M each.
    """

    def __init__(self, width: int, adaptive: bool) -> None:
        super().__init__()
        self.ent_attn = nn.Linear(width, 1, bias=False) if adaptive else None

    def forward(self, modalities: Sequence[Tensor], present: Tensor | None = None) -> Tensor:
        """Fuse M tensors [N, d] to [N, d]; weights are shared by the modalities present, bool [N, M], None for all."""
        if self.ent_attn is not None:
            query = self.ent_attn.weight[0].to(modalities[0].dtype)
            scores = torch.stack([torch.tanh(x) @ query for x in modalities], 1)
            weights = _columns(masked_softmax(scores, present))
        elif present is None:
            weights = [1 / len(modalities)] * len(modalities)
        else:
            weights = _columns(masked_softmax(modalities[0].new_zeros(present.shape), present))
        terms = [w * unit_rows(x) for w, x in zip(weights, modalities, strict=True)]
        return torch.stack(terms).sum(0)


class LocalToGlobalEncoder(nn.Module):
    """z_0 = tanh(concat_m softmax(omega)_m x_m / |x_m|); layers over tanh of the fused modalities (docs/model.md).

    Args:
        modality_dims: d_m of each modality, M >= 1.
        width: d, of the fused embedding and the layers.
        rank: K of the low-rank interaction.
        depth: L.
        attention: see `ReflectionLayers`.
        use_local_fusion: False puts the plain mean of the normalised modalities in place of the fusion.
        use_adaptive_weights: False gives every modality the weight 1 / M.
        use_low_rank: False sums the weighted modalities in place of the low-rank interaction.
        use_global_aggregation: False leaves the layers out: the output is [z_0 | tanh(y)].
        z_0: whether z_0 is part of the output. Beside channels it is left out: they have one of their own, which this
            one, of unit rows, would drown out.
        backend: of the operators.

    Raises:
        ConfigError: no modality, or an ablation that needs modalities as wide as the layers and they are not.
    """

    def __init__(
        self,
        modality_dims: Sequence[int],
        width: int,
        rank: int,
        depth: int,
        attention: str = "relation",
        use_local_fusion: bool = True,
        use_adaptive_weights: bool = True,
        use_low_rank: bool = True,
        use_global_aggregation: bool = True,
        z_0: bool = True,
        backend: str = "auto",
    ) -> None:
        super().__init__()
        if not modality_dims:
            raise ConfigError("the local-to-global encoder needs at least one modality; got none")
        self.modality_logits = nn.Parameter(torch.ones(len(modality_dims))) if z_0 else None
        self.fusion: nn.Module
        if use_local_fusion and use_low_rank:
            self.fusion = LowRankFusion(
                modality_dims, width, rank=rank, adaptive=use_adaptive_weights, backend=backend
            )
        else:
            if set(modality_dims) != {width}:
                raise ConfigError(
                    f"without low-rank interaction all modalities must be {width} wide, as the layers are; "
                    f"got {list(modality_dims)}"
                )
            self.fusion = WeightedSum(width, adaptive=use_local_fusion and use_adaptive_weights)
        self.layers = ReflectionLayers(width, depth, attention, backend) if use_global_aggregation else None
        self.width = width

    def output_width(self, modality_dims: Sequence[int]) -> int:
        """Columns of the output for modalities of these widths."""
        depth = 1 if self.layers is None else len(self.layers.relation_vectors)
        return self.z_0_width(modality_dims) + depth * self.width

    def z_0_width(self, modality_dims: Sequence[int]) -> int:
        """Columns of z_0, where it is part of the output."""
        return 0 if self.modality_logits is None else sum(modality_dims)

    def forward(
        self,
        modalities: Sequence[Tensor],
        reflectors: Tensor | None,
        graph: AlignmentGraph | View,
        present: Tensor | None = None,
    ) -> list[Tensor]:
        """Fuse and aggregate.

        Args:
            modalities: M tensors [N, d_m]; [n_0, d_m] for a view.
            reflectors: [U, d]; None only where global aggregation is left out.
            graph: the edges, or a view of L layers: the B entities that it asks for are those whose output is wanted.
            present: bool [N, M] or [n_0, M], which entity has which modality: an absent one gets no weight, in the
                fusion and in z_0, and an entity that has none is fused from zeros. None for all.

        Returns:
            The parts of the output side by side, z_0 [B, sum of d_m] first, for the caller to concatenate once.
        """
        view = check_view(graph)
        first = [view.first(x) for x in modalities]
        some = None if present is None else view.first(present)
        if self.layers is None:
            return self.of_fused(first, self.fusion(first, some), reflectors, view, some)
        return self.of_fused(first, self.fusion(modalities, present), reflectors, view, some)

    def of_fused(
        self,
        first: Sequence[Tensor],
        fused: Tensor,
        reflectors: Tensor | None,
        graph: AlignmentGraph | View,
        present: Tensor | None = None,
    ) -> list[Tensor]:
        """The same of modalities that are fused already.

        Args:
            first: M tensors [B, d_m], of the entities asked for.
            fused: [n_0, d], what `fusion` makes of all that are needed; without global aggregation [B, d].
            reflectors: as in `forward`.
            graph: as in `forward`.
            present: bool [B, M], of the entities asked for.
        """
        early = []
        if self.modality_logits is not None:
            early.append(_z_0(first, self.modality_logits, present))
        if self.layers is None:
            return [*early, torch.tanh(fused)]
        assert reflectors is not None
        return [*early, self.layers(fused, reflectors, graph)[:, self.width :]]


def _z_0(modalities: Sequence[Tensor], logits: Tensor, present: Tensor | None) -> Tensor:
    """Tanh of M unit modalities [B, d_m] side by side, by the softmax of `logits` [M] over those `present` [B, M]."""
    dtype = modalities[0].dtype
    weights: Sequence[Tensor | float]
    if present is None:
        weights = logits.softmax(0).to(dtype).unbind(0)
    else:
        weights = _columns(masked_softmax(logits.expand(present.shape), present).to(dtype))
    return torch.tanh(torch.cat([w * unit_rows(x) for w, x in zip(weights, modalities, strict=True)], 1))


def _columns(weights: Tensor) -> list[Tensor | float]:
    """Weights [B, M] as M columns [B, 1]."""
    return [*weights[:, None].unbind(2)]
