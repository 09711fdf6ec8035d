"""The operators: one file each, with the public docstring, the checks, autograd and the choice of backend."""

from loginmea_fast.ops.contrastive_loss import contrastive_loss
from loginmea_fast.ops.graph_mean import neighbor_mean, relation_reflectors

__all__ = ["contrastive_loss", "neighbor_mean", "relation_reflectors"]
