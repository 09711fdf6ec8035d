"""The device of a run, and its native kernels before a clock starts."""

from __future__ import annotations

import os

import torch

from loginmea_fast.errors import ConfigError
from loginmea_fast.ops._dispatch import check_backend_name, missing_backend, native_reason
from loginmea_fast.training.config import Config

__all__ = ["choose_device", "prepare_kernels"]


def choose_device(name: str, backend: str = "auto") -> torch.device:
    """The device called `name`; 'auto' takes CUDA where there is one.

    Args:
        name: "auto", "cpu", "cuda" or "cuda:1", ...
        backend: what operators will be asked for; refused here, before any data is read, where it is another device's
            or has no compiler.

    Raises:
        ConfigError: no such device on this machine, or the backend does not serve it.
        InputError: LOGINMEA_BACKEND, which decides under "auto", names no backend.
    """
    device = _device(name)
    backend = _named(backend)
    check_backend_name(backend)
    serves = {"cpu": "cpu", "cuda": "cuda", "triton": "cuda"}.get(backend, device.type)
    interpreted = backend == "triton" and os.environ.get("TRITON_INTERPRET") == "1"
    if device.type != serves and not interpreted:
        raise ConfigError(
            f"backend {backend!r} serves the device {serves!r}, and this run is on {str(device)!r}; leave it at 'auto'",
            key="backend",
        )
    if (reason := missing_backend(backend)) is not None:
        raise ConfigError(
            f"backend {backend!r} cannot be had: {reason}; or leave it at 'auto'", key="backend"
        )
    return device


def _named(backend: str) -> str:
    return os.environ.get("LOGINMEA_BACKEND", "auto") if backend == "auto" else backend


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigError(
            f"configuration key 'device' must be 'auto', 'cpu' or 'cuda'; got {name!r}"
        ) from None
    if device.type not in ("cpu", "cuda"):
        raise ConfigError(f"configuration key 'device' must be 'auto', 'cpu' or 'cuda'; got {name!r}")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(
            f"device {name!r} is not there: torch sees {torch.cuda.device_count()} CUDA devices; use 'cpu'"
        )
    return device


def prepare_kernels(config: Config) -> None:
    """Load the native kernels that operators would load at their first call, building them where they are not yet.

    Before a clock starts, so that seconds of compiling are not taken for training. What cannot be built is left to the
    operators, which say so and take the formula.
    """
    device = choose_device(config.device, config.backend)
    if _named(config.backend) in ("auto", device.type):
        native_reason(torch.empty(0, device=device), device.type)
