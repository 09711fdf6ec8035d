"""An alignment that is killed at random moments goes on with the same call and ends as if nothing had happened."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from loginmea_fast.errors import ConfigError
from loginmea_fast.report import write_report
from loginmea_fast.runs.aligning import check_directory
from loginmea_fast.runs.aligning.keeping import Kept
from loginmea_fast.runs.aligning.writing import write_directory
from loginmea_fast.training.checkpoint import load_tensors
from loginmea_fast.training.config import Config
from tests.helpers.killing import Whole, Work, assert_same_files, killed, without_a_stop
from tests.training.synthetic import synthetic_pair

ALIGNING = Work(
    """
import loginmea_fast as lf
from loginmea_fast.runs.aligning import check_directory
from tests.training.synthetic import synthetic_pair

pair = synthetic_pair(60, degree=5)
keys = dict(preset="loginmea", epochs=3, hidden_dim=8, rank=2, backend="reference", threads=1)
started = watch()
check_directory(path)
found = lf.align(pair, seeds=pair.links[:40], keep=path + "/training", progress=False, **keys)
found.save(path, ("tsv", "csv"))
""",
    begins="procedure.py",
    places=("loginmea_fast", "keeping.py", "checkpoint.py", "writing.py", "/files.py"),
    last="report.json",
)
FILES = ("alignment.tsv", "alignment.csv", "rejected.tsv", "candidates.tsv", "unmatched.tsv")
ENTITIES = "entities.parquet"


def told(path: Path) -> dict[str, Any]:
    report: dict[str, Any] = json.loads((path / "report.json").read_text())
    return {key: value for key, value in report.items() if key not in ("seconds", "earlier_seconds")}


whole = without_a_stop(ALIGNING)


@killed
def test_the_same_call_goes_on(
    whole: Whole,
    tmp_path: Path,
    seed: int,
    record_property: Callable[[str, object], None],
) -> None:
    expected, moments = whole

    def stopped(path: Path, number: signal.Signals, place: str) -> None:
        record_property("killed", "alignment")
        for file in path.rglob("*.safetensors"):
            load_tensors(file)
        for file in path.glob("*.tsv"):
            assert file.read_bytes() == (expected / file.name).read_bytes(), "whole or not there"
        if (path / "report.json").is_file():
            assert told(path) == told(expected)

    def done(path: Path) -> None:
        assert_same_files(path, expected, FILES)
        assert pq.read_table(path / ENTITIES) == pq.read_table(expected / ENTITIES)
        assert told(path) == told(expected)

    ALIGNING.stop_again_and_again(tmp_path, moments, [signal.SIGKILL] * 3, seed, stopped, done)


MATCHES: Any = {"left": ["a"], "right": ["b"], "confidence": [1.0]}
TABLES: Any = {"rejected": {"left": ["c"]}}


@pytest.mark.parametrize("moment", range(5))
def test_an_alignment_that_was_killed_while_it_was_written_is_none_and_is_written_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: int
) -> None:
    """Before whichever step: what is there is whole, the page refuses it, and the same call goes on."""
    left = [moment]

    def before_each(plain: Any) -> Any:
        def step(self: Path, *args: Any, **more: Any) -> Any:
            left[0] -= 1
            if left[0] < 0:
                raise KeyboardInterrupt  # as near to a kill as a test gets: what would tidy up is taken away
            return plain(self, *args, **more)

        return step

    write_directory(MATCHES, TABLES, {"old": 1}, MATCHES, tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", before_each(Path.replace))
        patch.setattr(Path, "unlink", before_each(Path.unlink))
        patch.setattr("shutil.rmtree", lambda *args, **more: None)
        with pytest.raises(KeyboardInterrupt):
            write_directory(MATCHES, TABLES, {"new": 1}, MATCHES, tmp_path, overwrite=True)
    if moment == 0:
        assert json.loads((tmp_path / "report.json").read_text()) == {"old": 1}
    else:
        check_directory(tmp_path)
        with pytest.raises(ConfigError, match="holds neither an alignment nor a run"):
            write_report(tmp_path)
    write_directory(MATCHES, TABLES, {"new": 1}, MATCHES, tmp_path, overwrite=moment == 0)
    assert json.loads((tmp_path / "report.json").read_text()) == {"new": 1}
    assert {file.name for file in tmp_path.iterdir()} == {
        "alignment.tsv",
        "rejected.tsv",
        "entities.parquet",
        "report.json",
    }


def test_trainings_that_are_being_removed_when_the_kill_comes_are_gone_the_next_time(tmp_path: Path) -> None:
    pair, keep = synthetic_pair(), tmp_path / "training"
    (tmp_path / ".training.old" / "1").mkdir(parents=True)
    kept = Kept(keep)
    kept.open(pair, [pair.links], Config(), None)
    assert {file.name for file in tmp_path.iterdir()} == {"training"}
    assert kept.next() == (keep / "1", False)
