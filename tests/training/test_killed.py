"""Training that is stopped at random moments and goes on each time ends as if nothing had happened, bit for bit."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path

from loginmea_fast.runs import RunDirectory, fit
from loginmea_fast.training.checkpoint import load_tensors
from tests.helpers.killing import Whole, Work, assert_same_files, killed, without_a_stop
from tests.training.synthetic import synthetic_pair
from tests.training.test_loop import quiet_fit

TRAINING = Work(
    """
import loginmea_fast as lf
from loginmea_fast.training import TrainingInterrupted
from tests.training.synthetic import synthetic_pair

pair = synthetic_pair(80, degree=5)
keys = dict(
    preset="loginmea", epochs=8, hidden_dim=8, rank=2, eval_every=2, threads=1, batch_size=20, seed_ratio=0.5,
    bootstrap=True, bootstrap_start=1, bootstrap_every=1, bootstrap_window=2,
)
resume = os.path.exists(os.path.join(path, "config.toml"))
started = watch()
try:
    lf.fit(pair, out=path, resume=resume, progress=False, **({} if resume else keys))
except TrainingInterrupted as interrupted:
    sys.exit(interrupted.exit_code)
""",
    begins="directory.py",
    places=("loginmea_fast", "directory.py", "checkpoint.py", "/files.py"),
)
FILES = ("last.safetensors", "best.safetensors", "split.safetensors", "config.toml")
# What differs from run to run.
VARIES = {"seconds", "beside_seconds", "peak_memory", "step_memory"}


def told(path: Path) -> list[dict[str, object]]:
    """The records of metrics.jsonl but for the beginnings, of which each process writes one."""
    records = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    return [
        {key: value for key, value in record.items() if key not in VARIES}
        for record in records
        if record["event"] not in ("start", "resume")
    ]


whole = without_a_stop(TRAINING)


@killed
def test_a_run_that_is_stopped_again_and_again_ends_as_if_it_were_not(
    whole: Whole,
    tmp_path: Path,
    seed: int,
    record_property: Callable[[str, object], None],
) -> None:
    expected, moments = whole
    reached: dict[Path, int] = {}

    def stopped(path: Path, number: signal.Signals, place: str) -> None:
        if number == signal.SIGKILL:
            record_property(
                "killed", "checkpointing" if place in ("checkpoint.py", "/files.py") else "training"
            )
        for file in path.glob("*.safetensors"):
            load_tensors(file)
        if (path / "last.safetensors").is_file():
            epoch = RunDirectory.open(path).load("last")[0].state["epoch"]
            assert epoch >= reached.get(path, 0)
            reached[path] = epoch

    def done(path: Path) -> None:
        assert told(path) == told(expected)
        assert_same_files(path, expected, FILES)

    numbers = [signal.SIGKILL] * 4 + [signal.SIGTERM] * 2
    TRAINING.stop_again_and_again(tmp_path, moments, numbers, seed, stopped, done)


def test_what_killed_writes_leave_is_in_nobodys_way(tmp_path: Path) -> None:
    (tmp_path / ".config.toml.tmp").write_text("[run]\nse")
    quiet_fit(out=tmp_path, epochs=1)
    (tmp_path / ".last.safetensors.tmp").write_bytes(bytes(8))
    fit(synthetic_pair(), out=tmp_path, resume=True, progress=False)
    assert not list(tmp_path.glob(".*.tmp"))
