"""What a task of bench/gpu works with: its device, its rows, and how things are timed there.

A task is a process of its own, because a kernel that reads where it may not takes the whole CUDA context with it. Its
rows are lines of JSON, written as soon as they are known: a task that is killed leaves what it had found.
"""

from __future__ import annotations

import gc
import itertools
import json
import math
import os
import statistics
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TextIO

import torch

from loginmea_fast import native
from loginmea_fast.errors import BackendError, OutOfMemoryError

__all__ = ["DeviceLost", "Run", "environment"]

WARM_UP = 3
LONGEST_SECONDS = 0.6  # that one measurement repeats itself
MOST_REPEATS = 100
CACHE_BYTES = 256 << 20  # written between repeats, so that none finds its inputs in L2
NO_CUDA = "no CUDA device"


class DeviceLost(RuntimeError):
    """The CUDA context does not answer any more; the task cannot go on."""


class Run:
    """One task.

    Args:
        task: its name.
        scale: "full", "quick" or "rehearse"; a rehearsal is on the CPU, is tiny and times nothing.
        rows: where its rows go.
    """

    def __init__(self, task: str, scale: str, rows: TextIO) -> None:
        self.task = task
        self.scale = scale
        self._rows = rows
        self.rehearsal = scale == "rehearse"
        self.device = torch.device("cpu" if self.rehearsal else "cuda")
        self._flush: torch.Tensor | None = None
        torch.manual_seed(0)

    @property
    def hopper(self) -> bool:
        """Whether this card and this library have all that LOGINMEA_HOPPER asks for."""
        if self.device.type != "cuda" or torch.cuda.get_device_capability(self.device) != (9, 0):
            return False
        try:
            return hasattr(native.load("cuda"), "fusion_group_forward")
        except BackendError:
            return False

    def pick(self, full: Any, quick: Any, rehearse: Any) -> Any:
        """The value for this scale."""
        return {"full": full, "quick": quick, "rehearse": rehearse}[self.scale]

    def compiled(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """torch.compile of it; a rehearsal traces and compiles nothing."""
        torch._dynamo.reset()
        return torch.compile(function, dynamic=False, backend="eager" if self.rehearsal else "inductor")

    def write(self, **row: Any) -> None:
        """One row of the record, at once."""
        self._rows.write(json.dumps(_plain({"task": self.task, **row})) + "\n")
        self._rows.flush()

    def possible(self, **what: Any) -> bool:
        """Whether a row is worth an attempt; a rehearsal writes of CUDA kernels that they were not run."""
        asked = (str(what.get(key)).partition(",")[0] for key in ("provider", "backend"))
        if self.rehearsal and "cuda" in asked:
            self.write(**what, status="not run", reason=NO_CUDA)
            return False
        return True

    @contextmanager
    def attempt(self, **what: Any) -> Iterator[dict[str, Any]]:
        """A row that is written however its block ends: `status` is "ok" or says why not.

        The environment has the variables of `variables` meanwhile.

        Raises:
            DeviceLost: the block failed and the device with it.
        """
        row: dict[str, Any] = {**what, "status": "ok"}
        started = time.monotonic()
        try:
            with environment(what.get("variables", {})):
                yield row
        except (torch.OutOfMemoryError, OutOfMemoryError) as error:
            row |= {"status": "out of memory", "reason": _first_line(error)}
        except BackendError as error:
            row |= {"status": "refused", "reason": str(error)}
        except AssertionError as error:
            row |= {"status": "wrong", "reason": _first_line(error)}
        except (Exception, SystemExit) as error:
            row |= {"status": "failed", "reason": f"{type(error).__name__}: {_first_line(error)}"}
            traceback.print_exc()
        row["seconds"] = round(time.monotonic() - started, 2)
        self.write(**row)
        self._clean_up(row)

    def _clean_up(self, row: dict[str, Any]) -> None:
        gc.collect()
        if self.device.type == "cuda":
            try:
                torch.cuda.synchronize()
                torch.cuda.empty_cache()
            except RuntimeError as error:
                raise DeviceLost(f"after {row}: {error}") from error

    def measure(self, *parts: Callable[[Any], Any], seconds: float = LONGEST_SECONDS) -> dict[str, Any]:
        """Time `parts`, each called with what the one before returned.

        Device events stand before, between and after the parts; the median of the repeats counts. The peak is of what
        the parts allocate, their results included, above what was there before.

        Args:
            parts: for example a forward and a backward pass.
            seconds: how long to repeat, five times at least unless one takes longer than that.

        Returns:
            "ms": a median a part; "low_ms", "high_ms": the tenth and the ninetieth percentile of the sum; "repeats";
            "peak_mb"; "first_call_s", compiling included. A rehearsal calls the parts once and returns nothing.
        """
        if self.rehearsal:
            _chain(parts)
            return {}
        start = time.monotonic()
        _chain(parts)  # compiles, tunes, makes the workspaces of libraries
        torch.cuda.synchronize()
        compiling = time.monotonic() - start
        self._settle()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        start = time.monotonic()
        _chain(parts)
        torch.cuda.synchronize()
        first = time.monotonic() - start
        peak = torch.cuda.max_memory_allocated() - before
        for _ in range(WARM_UP if first < seconds else 0):
            _chain(parts)
        times = []
        start = time.monotonic()
        while len(times) < MOST_REPEATS:
            times.append(self._time_once(parts))
            spent = time.monotonic() - start
            if spent > seconds and (len(times) >= 5 or first > seconds):
                break
        totals = sorted(map(sum, times))
        tenth = len(totals) // 10
        return {
            "ms": [round(statistics.median(part), 4) for part in zip(*times, strict=True)],
            "low_ms": round(totals[tenth], 4),
            "high_ms": round(totals[-1 - tenth], 4),
            "repeats": len(times),
            "peak_mb": round(peak / 1e6, 1),
            "first_call_s": round(compiling, 2),
        }

    def _time_once(self, parts: Sequence[Callable[[Any], Any]]) -> list[float]:
        if self._flush is None:
            self._flush = torch.empty(CACHE_BYTES, dtype=torch.uint8, device=self.device)
        self._flush.zero_()
        events = [torch.cuda.Event(enable_timing=True) for _ in range(len(parts) + 1)]
        events[0].record()
        value = None
        for part, event in zip(parts, events[1:], strict=True):
            value = part(value)
            event.record()
        torch.cuda.synchronize()
        return [a.elapsed_time(b) for a, b in itertools.pairwise(events)]

    def _settle(self) -> None:
        gc.collect()
        torch.cuda.synchronize()
        torch.cuda.empty_cache()


@contextmanager
def environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Variables of the process while a block runs."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _chain(parts: Sequence[Callable[[Any], Any]]) -> Any:
    value = None
    for part in parts:
        value = part(value)
    return value


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:400]


def _plain(value: Any) -> Any:
    """Numbers that JSON does not have as words."""
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
