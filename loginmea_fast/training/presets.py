"""Presets: values that a configuration takes where a key is not given."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["PRESETS"]

PRESETS: Mapping[str | None, Mapping[str, Any]] = {
    # The values in the authors' `run_mmkb.sh` that differ from the defaults here; `compat="authors"` takes them.
    "authors": {
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
