"""A build that is killed at random moments leaves no library that is not whole, and the next one builds."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from loginmea_fast.native import cache
from tests.helpers.killing import Work, killed

from .conftest import open_workshop

MODULE = "loginmea_cpu"
BUILDING = Work(
    """
import pathlib

os.makedirs(path, exist_ok=True)
os.setsid()  # so that compilers which outlive the kill end with the test
pathlib.Path(path, f"group-{os.getpid()}").touch()
os.environ["LOGINMEA_CACHE"] = path + "/cache"
from loginmea_fast.native import loader

loader.find_root = lambda: pathlib.Path(path).parent / "csrc"
started = watch()
assert loader.load("cpu").answer() == 42
""",
    begins="loader.py",
    places=("loginmea_fast/native", "cache.py", "build.py"),
)


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    open_workshop(tmp_path)
    yield tmp_path
    for mark in tmp_path.rglob("group-*"):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(int(mark.name.removeprefix("group-")), signal.SIGKILL)


@killed
def test_the_next_use_builds(folder: Path, seed: int, record_property: Callable[[str, object], None]) -> None:
    moments = BUILDING.whole(folder / "whole")

    def stopped(path: Path, number: signal.Signals, place: str) -> None:
        record_property("killed", "native build")
        for entry in (path / "cache").glob("cpu-*"):
            if entry.is_dir():
                assert cache.find(entry, MODULE), "published wholly or not at all"

    def done(path: Path) -> None:
        (entry,) = (entry for entry in (path / "cache").glob("cpu-*") if entry.is_dir())
        assert cache.find(entry, MODULE)
        assert not list((path / "cache").glob(".*")), "nothing that a killed build staged is left"

    BUILDING.stop_again_and_again(folder, moments, [signal.SIGKILL] * 3, seed, stopped, done)
