"""The learning rate as a function of the epoch and its share that is done, so that resuming needs no state of it."""

from __future__ import annotations

import math

from loginmea_fast.training.config import Config

__all__ = ["learning_rate"]


def learning_rate(config: Config, epoch: float) -> float:
    """Learning rate after `epoch` epochs; a fraction is the share of the next that is done.

    Linear warm-up over `warmup_epochs`, then half a cosine down to a hundredth of `lr` (schedule "cosine") or `lr`
    throughout ("constant").
    """
    warmup = min(config.warmup_epochs, config.epochs)
    if epoch < warmup:
        return config.lr * min((epoch + 1) / warmup, 1.0)
    if config.schedule == "constant":
        return config.lr
    progress = (epoch - warmup) / max(config.epochs - warmup, 1)
    return config.lr * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress)))
