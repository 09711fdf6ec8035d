"""Memory of the process, as the operating system or the device counts it: what it holds, held at most, and may take."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from loginmea_fast.machine import free_memory

__all__ = ["PeakMemory", "available_memory", "measure_peak_memory", "resident_memory"]


@dataclass
class PeakMemory:
    """Bytes in use at the highest moment of a block, and before it."""

    before: int = 0
    peak: int = 0


@contextmanager
def measure_peak_memory(device: torch.device) -> Iterator[PeakMemory]:
    """Measure the block: allocated device memory on CUDA, resident memory of the process elsewhere.

    Linux can reset a process's high-water mark; where that is not allowed the mark is that of the whole process.
    """
    result = PeakMemory()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        result.before = torch.cuda.memory_allocated(device)
        yield result
        result.peak = torch.cuda.max_memory_allocated(device)
        return
    _reset_high_water()
    result.before = _status("VmRSS") or _process_peak()
    yield result
    result.peak = _status("VmHWM") or _process_peak()


def resident_memory(device: torch.device) -> int:
    """Bytes in use now: allocated on a CUDA device, resident of the process elsewhere."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    return _status("VmRSS") or _process_peak()


def available_memory(device: torch.device) -> int | None:
    """Bytes that may still be taken: free on a CUDA device, of the machine or the process's limit elsewhere.

    None where the system does not say.
    """
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return free_memory()


def _reset_high_water() -> None:
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


def _status(key: str) -> int | None:
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(key + ":")), None)


def _process_peak() -> int:
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
