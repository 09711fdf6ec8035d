"""Adaptive low-rank fusion of modalities (LoginMEA, section 4.2) as a module."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from loginmea_fast.errors import InputError
from loginmea_fast.ops.low_rank_fusion import adaptive_low_rank_fusion

__all__ = ["LowRankFusion"]


class LowRankFusion(nn.Module):
    """Fuse M modalities of each entity into one vector (docs/model.md, Local fusion).

        a_m = softmax_m(q . tanh(x_m)) ,   t_m = a_m x_m / |x_m|
        y = sum_k o_k prod_m ( [1 | t_m] W_m^(k) ) + b

    Parameters bear the names of the authors' code: `ent_attn.weight` q [1, d_in], `factor_list.{m}` W_m
    [K, d_m + 1, d], `fusion_weights` o [1, K], `fusion_bias` b [1, d].

    Args:
        input_dims: width d_m of each modality; all the same if `adaptive`.
        output_dim: width d of the result.
        rank: K.
        adaptive: weigh modalities entity by entity; otherwise a_m = 1 and there is no `ent_attn`.
        precision: as in `loginmea_fast.ops.low_rank_fusion`.
        keep_products: as there: more memory for a faster backward.
        backend: as there.

    Raises:
        InputError: no modality, a size that is not positive, or `adaptive` with widths that differ.
    """

    def __init__(
        self,
        input_dims: Sequence[int],
        output_dim: int,
        rank: int = 8,
        *,
        adaptive: bool = True,
        precision: str | None = None,
        keep_products: bool = False,
        backend: str = "auto",
    ) -> None:
        super().__init__()
        if not input_dims or min(*input_dims, output_dim, rank) < 1:
            raise InputError(
                f"LowRankFusion needs positive sizes; got input_dims {list(input_dims)}, "
                f"output_dim {output_dim}, rank {rank}"
            )
        if adaptive and len(set(input_dims)) > 1:
            raise InputError(
                f"adaptive weights compare modalities of one width; got input_dims {list(input_dims)}"
            )
        self.input_dims = tuple(input_dims)
        self.output_dim = output_dim
        self.rank = rank
        self.precision = precision
        self.keep_products = keep_products
        self.backend = backend
        self.ent_attn = nn.Linear(input_dims[0], 1, bias=False) if adaptive else None
        self.factor_list = nn.ParameterList(torch.empty(rank, width + 1, output_dim) for width in input_dims)
        self.fusion_weights = nn.Parameter(torch.empty(1, rank))
        self.fusion_bias = nn.Parameter(torch.empty(1, output_dim))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the parameters as the authors' code does: Xavier normal factors and rank weights, zero bias."""
        if self.ent_attn is not None:
            self.ent_attn.reset_parameters()
        for factor in self.factor_list:
            nn.init.xavier_normal_(factor)
        nn.init.xavier_normal_(self.fusion_weights)
        nn.init.zeros_(self.fusion_bias)

    def forward(self, inputs: Sequence[Tensor], present: Tensor | None = None) -> Tensor:
        """Fuse.

        Args:
            inputs: M tensors x_m [B, d_m], of one dtype, which the fusion computes in; parameters keep theirs.
            present: bool [B, M], which modalities a row has; an absent one has a_m = 0, and the others share the
                softmax. None for all.

        Returns:
            [B, output_dim].

        Raises:
            InputError: another number of modalities, or a tensor that does not fit; the message names the modality.
        """
        if len(inputs) != len(self.input_dims):
            raise InputError(
                f"LowRankFusion was built for {len(self.input_dims)} modalities; got {len(inputs)} inputs"
            )
        # The operator widens what autocast left in float16; parameters need no detour through it.
        dtype = torch.float32 if inputs[0].dtype == torch.float16 else inputs[0].dtype
        query = None if self.ent_attn is None else self.ent_attn.weight.to(dtype)
        return adaptive_low_rank_fusion(
            inputs,
            query,
            [factor.to(dtype) for factor in self.factor_list],
            self.fusion_weights.to(dtype),
            self.fusion_bias.to(dtype),
            self.backend,
            present=present,
            precision=self.precision,
            keep_products=self.keep_products,
        )

    def extra_repr(self) -> str:
        """Sizes, for print(module)."""
        return f"input_dims={self.input_dims}, output_dim={self.output_dim}, rank={self.rank}"
