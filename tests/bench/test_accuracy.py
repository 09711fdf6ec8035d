"""bench.accuracy: a measured run is not measured again, and a smoke run below its line fails."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.accuracy import __main__ as accuracy
from bench.accuracy.tasks import SMOKE, TASKS, Task
from loginmea_fast import data
from tests.training.synthetic import synthetic_pair


def test_a_run_is_measured_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data.save(synthetic_pair(), tmp_path / "pair", "dbp15k")
    monkeypatch.setitem(TASKS, "small", Task("pair", ("relation",), 0.4))
    monkeypatch.setattr(accuracy, "DATA", tmp_path)
    row = accuracy.measure("small", "fast", 3, tmp_path / "work")
    assert row["pairs"] == 24
    assert 0 <= row["sinkhorn"]["right_to_left"]["mrr"] <= 1
    assert not any((tmp_path / "work" / "runs").iterdir()), "what is measured is kept, the run is not"
    monkeypatch.setattr(accuracy.subprocess, "run", None)
    assert accuracy.measure("small", "fast", 3, tmp_path / "work")["csls"] == row["csls"]


def test_a_smoke_run_must_reach_its_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for beyond, status in ((0.01, 0), (-0.01, 1)):

        def measured(name: str, preset: str, *_: object, beyond: float = beyond, **__: object) -> dict:
            hits = {"left_to_right": {"hits@1": SMOKE[name, preset] + beyond}}
            row = {"task": name, "preset": preset, "seed": 0, "seconds": 1.0}
            return row | dict.fromkeys(("cosine", "csls", "sinkhorn"), hits)

        monkeypatch.setattr(accuracy, "measure", measured)
        assert accuracy._smoke(tmp_path) == status
