"""Work in a process of its own that is stopped at moments which a seed draws, and begun again until it is done.

A process sends itself the signal at the n-th call or return that some part of the package makes since the work has
begun, so that a seed decides where: within a step, between two lines of a file, between a write and its rename. Or the
signal comes from outside, after some time. `LOGINMEA_KILL_SEEDS` asks for more than one drawing of such.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

SEEDS = int(os.environ.get("LOGINMEA_KILL_SEEDS", "1"))
OUTSIDE = "outside"
ENDED = {signal.SIGKILL: {-signal.SIGKILL}, signal.SIGTERM: {-signal.SIGTERM, 128 + signal.SIGTERM}}
_ROOT = Path(__file__).parents[2]
_HEAD = """
import json, os, sys, time

path, number, left, place, begin, *places = sys.argv[1:]
counts, begun = dict.fromkeys(places, 0), False

def strike(frame, event, argument):
    global begun
    file = frame.f_code.co_filename
    begun = begun or file.endswith(begin)
    for part in counts if begun else ():
        if part in file:
            counts[part] += 1
            if part == place and counts[part] == int(left):
                sys.setprofile(None)
                os.kill(os.getpid(), int(number))

def watch():
    print("ready", flush=True)
    sys.setprofile(strike)
    return time.monotonic()
"""
_TAIL = """
sys.setprofile(None)
print(json.dumps(counts | {"outside": time.monotonic() - started}))
"""


@dataclass(frozen=True)
class Work:
    """What is done and stopped.

    Attributes:
        code: of the process; its directory is `path`, and `started = watch()` stands where signals may come from.
        begins: end of the name of the source file with which moments begin to count.
        places: parts of names of source files, of whose calls and returns one is the moment.
        last: the file that it writes last, if a second call of what is done is refused.
    """

    code: str
    begins: str
    places: tuple[str, ...]
    last: str = ""

    def run(self, path: Path, number: int = 0, moment: float = 0, place: str = "") -> tuple[int, str, str]:
        """Exit code, stdout and stderr of a process that begins the work in `path`, or goes on with it."""
        inside = int(moment) if place in self.places else 0
        words = [_HEAD + self.code + _TAIL, path, number, inside, place, self.begins, *self.places]
        process = subprocess.Popen(
            [sys.executable, "-c", *map(str, words)],
            cwd=_ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        if place == OUTSIDE and process.stdout.readline():
            time.sleep(moment)
            process.send_signal(number)
        out, err = process.communicate(timeout=200)
        return process.returncode, out, err

    def whole(self, path: Path) -> dict[str, float]:
        """Do it without a stop: how many moments it has in each place, and seconds as seen from outside."""
        code, out, err = self.run(path)
        assert code == 0, err
        return dict(json.loads(out.splitlines()[-1]))

    def stop_again_and_again(
        self,
        folder: Path,
        moments: dict[str, float],
        numbers: Sequence[signal.Signals],
        seed: int,
        stopped: Callable[[Path, signal.Signals, str], None],
        done: Callable[[Path], None],
    ) -> None:
        """Stop the work once by each of `numbers`, go on each time, and let it end.

        Args:
            folder: for the work's directories: what was done before all signals came is begun anew in another.
            moments: what `whole` returned.
            numbers: signals, in an order that the seed draws.
            seed: of moments and places.
            stopped: called after each stop with the directory, the signal and the place.
            done: called with each directory in which the work has ended.
        """
        rng = random.Random(seed)
        left, count, strikes = rng.sample(list(numbers), len(numbers)), 0, []
        path = folder / "0"
        while left:
            place = rng.choice([*moments])
            moment = (
                rng.uniform(1, moments[place] / 2) if place in self.places else rng.uniform(0, moments[place])
            )
            code, _, err = self.run(path, left[0], moment, place)
            strikes.append((left[0].name, place, moment, code))
            assert code in {0, *ENDED[left[0]]}, (strikes, err)
            if code:
                stopped(path, left.pop(0), place)
            if code == 0 or (self.last and (path / self.last).is_file()):
                done(path)
                count += 1
                path = folder / str(count)
        code, _, err = self.run(path)
        assert code == 0, (strikes, err)
        done(path)


Whole = tuple[Path, dict[str, float]]
"""Where work was done without a stop, and its moments."""


def without_a_stop(work: Work) -> Any:
    """A fixture, `Whole`, of work that nobody stops; to be called `whole` in the module of the test."""

    @pytest.fixture(scope="module")
    def whole(tmp_path_factory: pytest.TempPathFactory) -> Whole:
        path = tmp_path_factory.mktemp("whole") / "work"
        return path, work.whole(path)

    return whole


def killed(test: Callable[..., None]) -> Callable[..., None]:
    """A test that stops work at moments drawn by its `seed`."""
    marks = pytest.mark.slow, pytest.mark.killed, pytest.mark.timeout(900)
    for mark in (pytest.mark.parametrize("seed", range(SEEDS)), *marks):
        test = mark(test)
    return test


def assert_same_files(path: Path, expected: Path, alike: Iterable[str]) -> None:
    """That both directories have files of the same names, and that those named are `alike` byte for byte."""
    assert {file.name for file in path.iterdir()} == {file.name for file in expected.iterdir()}
    for name in alike:
        assert (path / name).read_bytes() == (expected / name).read_bytes(), name
