"""The command line under torchrun: one voice, a worker that is killed, and going on by hand or by torchrun itself."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import loginmea_fast

KEYS = ("--rounds=0", "--propagation=none", "--epochs=12", "--eval-every=2", "--hidden-dim=16", "--updates=4")
LONGER = ("--epochs=400", "--hidden-dim=32")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def torchrun(*arguments: str, count: int = 2, restarts: int = 0) -> subprocess.Popen[str]:
    """`train` in `count` processes."""
    launcher = ("-m", "torch.distributed.run", f"--nproc-per-node={count}", f"--max-restarts={restarts}")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "LOGINMEA_TIMEOUT": "60"}
    return subprocess.Popen(
        [sys.executable, *launcher, "--standalone", "-m", "loginmea_fast", "train", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        cwd=Path(__file__).parents[2],
    )


def metrics(run: Path) -> Any:
    return json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])["metrics"]["csls"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("whole") / "run"
    process = torchrun("embedded", *KEYS, "--out", str(run), "--json")
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert json.loads(out)["epochs"] == 12  # printed once
    assert err.count("GeoNames - countryinfo: ") == err.count("epoch 12/12: loss") == 1
    return run


def kill_worker(run: Path, process: subprocess.Popen[str], rank: int) -> None:
    """SIGKILL a worker once a checkpoint stands and training goes on."""
    deadline = time.monotonic() + 200
    while not (run / "best.safetensors").is_file():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    for child in children:
        if f"\0RANK={rank}\0".encode() in Path(f"/proc/{child}/environ").read_bytes():
            os.kill(int(child), signal.SIGKILL)
            return
    raise AssertionError(f"no worker has rank {rank}")


@pytest.mark.parametrize("restarts", [0, 1])
@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_worker_ends_the_job_and_the_run_goes_on(
    whole: Path, tmp_path: Path, rank: int, restarts: int
) -> None:
    run = tmp_path / "run"
    process = torchrun("embedded", *KEYS, "--out", str(run), restarts=restarts)
    kill_worker(run, process, rank)
    killed = time.monotonic()
    _, err = process.communicate(timeout=300)
    if restarts:
        assert process.returncode == 0, err
        events = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        kinds = [event["event"] for event in events]
        assert kinds.count("resume") == 1  # and not begun anew
        assert kinds[: kinds.index("resume")].count("epoch") >= 2
    else:
        assert process.returncode != 0
        assert time.monotonic() - killed < 30
        assert "Signal 9 (SIGKILL)" in err
        assert f"rank      : {rank}" in err
        again = torchrun("--resume", str(run))
        _, err = again.communicate(timeout=300)
        assert again.returncode == 0, err
    found, expected = metrics(run), metrics(whole)
    for way in expected:
        assert found[way] == pytest.approx(expected[way], abs=1e-4)


def test_sigterm_saves_and_stops_all(tmp_path: Path) -> None:
    run = tmp_path / "run"
    process = torchrun("embedded", *KEYS, *LONGER, "--out", str(run))
    while not (run / "best.safetensors").is_file():
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode != 0
    assert "all is saved in" in err, err
    assert "loginmea-fast: error" not in err, err


def test_what_cannot_be_shared_is_one_sentence() -> None:
    process = torchrun("embedded", "--rounds=1")
    _, err = process.communicate(timeout=200)
    told = [line for line in err.splitlines() if "2 processes cannot train with" in line]
    assert process.returncode != 0
    # The launcher ends the other process as soon as one has ended, which may be before it has spoken.
    assert len(told) in (1, 2)
    # The launcher adds a traceback of its own; none is of the package.
    package = str(Path(loginmea_fast.__file__).parent)
    assert not [line for line in err.splitlines() if line.lstrip().startswith("File ") and package in line]
