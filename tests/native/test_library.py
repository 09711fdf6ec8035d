"""The real CPU library: calls from Python arrive, errors come back, the interpreter is free meanwhile."""

from __future__ import annotations

import threading

import pytest
import torch

from loginmea_fast.errors import BackendError, BuildError
from loginmea_fast.native import dtype_code, load, status, unavailable

if (_reason := unavailable("cpu")) is not None:
    pytest.skip(_reason, allow_module_level=True)


def test_loading_twice_gives_the_same_library() -> None:
    assert load("cpu") is load("cpu")
    assert status()["cpu"]["state"] == "loaded"


def test_an_unknown_device_is_an_error() -> None:
    with pytest.raises(BuildError, match="cpu and cuda, not for 'tpu'"):
        load("tpu")


def test_dtype_codes() -> None:
    assert [dtype_code(t) for t in (torch.float32, torch.float64, torch.bfloat16, torch.float16)] == [
        0,
        1,
        2,
        3,
    ]
    with pytest.raises(BackendError, match="int64"):
        dtype_code(torch.int64)


def test_measured_ceilings_are_those_of_a_computer() -> None:
    library = load("cpu")
    assert 1e8 < library.measure_copy(1 << 22, 3, 1) < 1e13
    assert 1e8 < library.measure_fma(0.02, 1) < 1e13
    assert 1e7 < library.measure_gather(1000, 63, 10000, 3, 1) < 1e14


def test_a_wrong_argument_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="expected seconds and threads > 0"):
        load("cpu").measure_fma(0.1, 0)


def test_other_threads_run_meanwhile() -> None:
    ticks = 0
    done = threading.Event()

    def tick() -> None:
        nonlocal ticks
        while not done.wait(0.005):
            ticks += 1

    thread = threading.Thread(target=tick)
    thread.start()
    load("cpu").measure_fma(0.5, 1)
    done.set()
    thread.join()
    assert ticks >= 10
