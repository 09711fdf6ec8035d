"""The operators: one file each, with the public docstring, the checks, autograd and the choice of backend."""

from loginmea_fast.ops.alignment_search import (
    alignment_ranks,
    alignment_topk,
    alignment_topk_both,
    mutual_nearest,
)
from loginmea_fast.ops.contrastive_loss import contrastive_loss, contrastive_loss_to_keys
from loginmea_fast.ops.graph_mean import neighbor_mean, relation_reflectors
from loginmea_fast.ops.low_rank_fusion import low_rank_fusion
from loginmea_fast.ops.propagation import propagate
from loginmea_fast.ops.relation_reflection_attention import (
    relation_reflection_attention,
    relation_reflection_layers,
)

__all__ = [
    "alignment_ranks",
    "alignment_topk",
    "alignment_topk_both",
    "contrastive_loss",
    "contrastive_loss_to_keys",
    "low_rank_fusion",
    "mutual_nearest",
    "neighbor_mean",
    "propagate",
    "relation_reflection_attention",
    "relation_reflection_layers",
    "relation_reflectors",
]
