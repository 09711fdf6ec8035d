"""What the numbers of a run depend on besides its configuration, and whether that has changed since it began."""

from __future__ import annotations

import os
import platform
from typing import Any

import torch

from loginmea_fast.parallel import World
from loginmea_fast.training.config import Config
from loginmea_fast.version import __version__

__all__ = ["circumstances", "differences"]


def circumstances(config: Config, device: torch.device, world: World) -> dict[str, Any]:
    """What rounding depends on, besides the configuration that a resumed run keeps."""
    cuda = device.type == "cuda"
    capability = torch.backends.cpu.get_cpu_capability
    backend = config.backend
    return {
        "version": __version__,
        "torch": torch.__version__,
        "machine": platform.machine(),
        "device": str(device),
        "processor": torch.cuda.get_device_name(device) if cuda else capability(),
        "processes": world.size,
        "threads": torch.get_num_threads(),
        "dtype": config.dtype,
        "backend": os.environ.get("LOGINMEA_BACKEND", "auto") if backend == "auto" else backend,
    }


def differences(history: list[dict[str, Any]], now: dict[str, Any]) -> str:
    """What `now` differs in from the last start or resumption; records of earlier versions hold less."""
    before: dict[str, Any] = next((r for r in reversed(history) if r["event"] in ("start", "resume")), {})
    return ", ".join(
        f"{key} was {before[key]} and is {value}"
        for key, value in now.items()
        if before.get(key, value) != value
    )
