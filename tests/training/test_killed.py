"""Training that is stopped at random moments and goes on each time ends as if nothing had happened, bit for bit.

A process sends itself the signal at the n-th call or return that some part of the package makes since it has its
directory, so that a seed decides where: within a step, between two lines of a file, between a write and its rename. Or
the signal comes from outside, after some time. `LOGINMEA_KILL_SEEDS` asks for more than one run of such.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from loginmea_fast.runs import fit
from tests.training.synthetic import synthetic_pair
from tests.training.test_loop import quiet_fit

TRAIN = """
import json, os, sys, time
import loginmea_fast as lf
from loginmea_fast.training import TrainingInterrupted

path, number, left, place = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
pair = lf.data.load_embedded()
counts = dict.fromkeys({places}, 0)

def strike(frame, event, argument):
    file = frame.f_code.co_filename
    if not counts["directory.py"] and not file.endswith("directory.py"):
        return
    for part in counts:
        if part in file:
            counts[part] += 1
            if part == place and counts[part] == left:
                sys.setprofile(None)
                os.kill(os.getpid(), number)

keys = dict(
    epochs=8, hidden_dim=8, rank=2, eval_every=2, threads=1, batch_size=300,
    bootstrap=True, bootstrap_start=1, bootstrap_every=1, bootstrap_window=2,
)
resume = os.path.exists(os.path.join(path, "config.toml"))
print("ready", flush=True)
begun = time.monotonic()
sys.setprofile(strike)
try:
    lf.fit(pair, out=path, resume=resume, progress=False, **({} if resume else keys))
except TrainingInterrupted as interrupted:
    sys.exit(interrupted.exit_code)
sys.setprofile(None)
print(json.dumps(counts | {'outside': time.monotonic() - begun}))
"""
SEEDS = int(os.environ.get("LOGINMEA_KILL_SEEDS", "1"))
STRIKES = 6
OUTSIDE = "outside"
PLACES = ("loginmea_fast", "directory.py", "checkpoint.py")
ENDED = {signal.SIGKILL: {-signal.SIGKILL}, signal.SIGTERM: {-signal.SIGTERM, 128 + signal.SIGTERM}}
FILES = ("last.safetensors", "best.safetensors", "split.safetensors", "config.toml")
# What differs from run to run.
VARIES = {"seconds", "propagation_seconds", "peak_memory", "step_memory"}


def train(path: Path, number: int = 0, moment: float = 0, place: str = "") -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a process that begins the run in `path`, or goes on with it."""
    inside = int(moment) if place in PLACES else 0
    command = [sys.executable, "-c", TRAIN.replace("{places}", repr(PLACES)), path, number, inside, place]
    process = subprocess.Popen(
        [str(word) for word in command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    if place == OUTSIDE and process.stdout.readline():
        time.sleep(moment)
        process.send_signal(number)
    out, err = process.communicate(timeout=200)
    return process.returncode, out, err


def told(path: Path) -> list[dict[str, object]]:
    """The records of metrics.jsonl but for the beginnings, of which each process writes one."""
    records = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    return [
        {key: value for key, value in record.items() if key not in VARIES}
        for record in records
        if record["event"] not in ("start", "resume")
    ]


def assert_the_same(path: Path, expected: Path, strikes: list[Any]) -> None:
    code, _, err = train(path)
    assert code == 0, (strikes, err)
    assert told(path) == told(expected), strikes
    assert {file.name for file in path.iterdir()} == {file.name for file in expected.iterdir()}, strikes
    for name in FILES:
        assert (path / name).read_bytes() == (expected / name).read_bytes(), (name, strikes)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, float]]:
    """A run that nobody stops, and how many moments it has in each place; seconds, seen from outside."""
    path = tmp_path_factory.mktemp("whole") / "run"
    code, out, err = train(path)
    assert code == 0, err
    return path, json.loads(out.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", range(SEEDS))
def test_a_run_that_is_stopped_again_and_again_ends_as_if_it_were_not(
    whole: tuple[Path, dict[str, float]], tmp_path: Path, seed: int
) -> None:
    expected, moments = whole
    rng = random.Random(seed)
    path, strikes = tmp_path / "run", []
    while sum(code != 0 for *_, code in strikes) < STRIKES:
        number, place = rng.choice([*ENDED]), rng.choice([*moments])
        moment = rng.uniform(1, moments[place] / 3) if place in PLACES else rng.uniform(0, moments[place])
        code, _, err = train(path, number, moment, place)
        strikes.append((number.name, place, moment, code))
        assert code in {0, *ENDED[number]}, (strikes, err)
    assert_the_same(path, expected, strikes)


def test_what_killed_writes_leave_is_in_nobodys_way(tmp_path: Path) -> None:
    (tmp_path / ".config.toml.tmp").write_text("[run]\nse")
    quiet_fit(out=tmp_path, epochs=1)
    (tmp_path / ".last.safetensors.tmp").write_bytes(bytes(8))
    fit(synthetic_pair(), out=tmp_path, resume=True, progress=False)
    assert not list(tmp_path.glob(".*.tmp"))
