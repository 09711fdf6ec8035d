"""Presets: values that a configuration takes where a key is not given."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["PRESETS", "PRESET_KEYS"]

# The model of the paper under this package's own procedure: one step an epoch, InfoNCE, no labels beside it.
_LOGINMEA: Mapping[str, Any] = {
    "bags": "counts",
    "bag_size": 1000,
    "aggregation": "fused",
    "hidden_dim": 300,
    "scale_features": False,
    "epochs": 60,
    "updates": 0,
    "batch_size": 3500,
    "optimizer": "adamw",
    "weight_decay": 0.01,
    "warmup_epochs": 5,
    "eval_every": 5,
    "grad_clip": 1.0,
    "dropout": 0.0,
    "share_seeds": False,
    "objectives": ("contrastive",),
    "rounds": 0,
    "propagation": "none",
    "late_names": False,
    "late_pairs": False,
    "whitening": 0.0,
}

PRESETS: Mapping[str, Mapping[str, Any]] = {
    "fast": {"epochs": 12, "rounds": 0},
    "default": {},
    "best": {"members": 2, "epochs": 12},
    "loginmea": _LOGINMEA,
    # The values in the authors' `run_mmkb.sh` and their procedure.
    "authors": {
        **_LOGINMEA,
        "compat": "authors",
        "valid_ratio": 0.0,
        "epochs": 1000,
        "lr": 5e-4,
        "schedule": "constant",
        "warmup_epochs": 0,
        "grad_clip": 0.0,
        "bidirectional": False,
        "bootstrap": True,
        "bootstrap_start": 50,
        "bootstrap_every": 5,
        "eval_every": 50,
        "patience": 0,
        "csls_k": 3,
    },
}

PRESET_KEYS = frozenset().union(*PRESETS.values())
"""What any of them sets."""
