"""Joint embeddings for looking, not for learning."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from loginmea_fast.nn import LoginMEA

__all__ = ["joint_embedding"]


def joint_embedding(model: LoginMEA, features: Mapping[str, Tensor], rows: Tensor) -> Tensor:
    """Unit rows of the joint embedding, [B, D], in the model's dtype, without a gradient.

    Args:
        model: on one device with `features`; its training mode is kept.
        features: modality -> [N, d_m].
        rows: int64 [B], entities, on any device.
    """
    training = model.training
    model.eval()
    try:
        return model.joint_rows(features, rows.to(model.graph.device))
    finally:
        model.train(training)
