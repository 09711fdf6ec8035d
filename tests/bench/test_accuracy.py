"""bench.accuracy: what is measured is not measured again, a smoke run below its line fails, studies are settings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bench import _record
from bench.accuracy import __main__ as command
from bench.accuracy import case as measuring
from bench.accuracy.case import Case, describe, measure
from bench.accuracy.studies import STUDIES
from bench.accuracy.tasks import PLAN, SMOKE, TASKS, Task
from bench.accuracy.thinning import without_attributes
from loginmea_fast import data
from loginmea_fast.training.config import Config
from loginmea_fast.training.spelling import parse_overrides
from tests.training.synthetic import synthetic_pair


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A task of this name, quickly trained."""
    data.save(synthetic_pair(), tmp_path / "pair", "dbp15k")
    monkeypatch.setitem(TASKS, "small", Task("pair", ("relation",), 0.4))
    monkeypatch.setattr(measuring, "DATA", tmp_path)


def test_a_run_is_measured_once(small: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case("small", "fast", 3, ("epochs=2",))
    row = measure(case, tmp_path / "work")
    assert row["pairs"] == 24
    assert row["key"] == "small fast 3 epochs=2"
    assert row["best_epoch"] == 2, "validated at the end of its only round"
    assert 0 <= row["sinkhorn"]["right_to_left"]["mrr"] <= 1
    assert not any((tmp_path / "work" / "runs" / row["sources"]).iterdir()), (
        "what is measured is kept, the run is not"
    )
    monkeypatch.setattr(measuring.subprocess, "run", None)
    assert measure(case, tmp_path / "work")["csls"] == row["csls"]
    monkeypatch.setattr(measuring, "digest_of_sources", lambda: "of other sources")
    with pytest.raises(TypeError):  # it would train again
        measure(case, tmp_path / "work")


def test_nearest_neighbours_of_a_bootstrapped_run_are_told_without_the_links_that_joined(
    small: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those hold decisions of an optimal transport, which published figures of nearest neighbours do not."""
    run, commands = measuring.subprocess.run, []

    def watched(command: list[str], **options: Any) -> Any:
        commands.append(command)
        answer = run(command, **options)
        if "evaluate" in command:
            told = json.loads(answer.stdout)
            told["csls"]["left_to_right"]["mrr"] = 0.25
            answer.stdout = json.dumps(told)
        return answer

    monkeypatch.setattr(measuring.subprocess, "run", watched)
    row = measure(Case("small", "fast", 3, ("epochs=2", "rounds=1", "certainty=0.05")), tmp_path / "work")
    assert len(row["rounds"]) == 2
    assert "--no-late-pairs" in commands[-1]
    assert row["csls_without_joined"]["left_to_right"]["mrr"] == 0.25


def test_a_run_that_was_stopped_goes_on_and_says_no_seconds(
    small: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = Case("small", "fast", 3, ("epochs=2",))
    whole = measure(case, tmp_path / "whole")
    monkeypatch.setattr(measuring.shutil, "rmtree", lambda *_, **__: None)
    measure(case, tmp_path / "work")  # the run stays
    (tmp_path / "work" / "small-fast-3-epochs=2.json").unlink()
    row = measure(case, tmp_path / "work")
    assert (row["seconds"], row["cpu_seconds"]) == (None, None)
    assert row["csls"] == whole["csls"]
    assert describe({**row, "key": "small"}).endswith("; resumed")


def test_a_run_to_choose_by_tells_no_test_link() -> None:
    ways = {"left_to_right": {"hits@1": 0.9}}
    row = {"key": "a", "seconds": 1.0, "cpu_seconds": 1.0, "validation": {"hits@1": 0.5, "mrr": 0.6}}
    row |= dict.fromkeys(("cosine", "csls", "sinkhorn"), ways)
    assert "0.9" in describe({**row, "changes": ["members=2"]})
    told = describe({**row, "changes": ["members=2", "valid_ratio=0.3"]})
    assert told == "a: Hits@1 of validation links 0.500; 1 s, 1 CPU s"


def test_a_smoke_run_must_reach_its_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for beyond, status in ((0.01, 0), (-0.01, 1)):

        def measured(case: Case, *_: object, beyond: float = beyond, **__: object) -> dict:
            hits = {"left_to_right": {"hits@1": SMOKE[case.task, case.preset] + beyond}}
            row = {"key": case.key, "changes": case.changes, "seconds": 1.0, "cpu_seconds": 1.0}
            return row | dict.fromkeys(("cosine", "csls", "sinkhorn"), hits)

        monkeypatch.setattr(command, "measure", measured)
        assert command._smoke(tmp_path) == status


@pytest.mark.parametrize(
    ("words", "keys"),
    [
        ([], [f"{task} {preset} {seed}" for (task, preset), count in PLAN.items() for seed in range(count)]),
        (["zh_en", "--seeds", "7"], ["zh_en fast 7", "zh_en default 7", "zh_en best 7"]),
        (["zh_en", "fr_en", "--presets", "best"], ["zh_en best 0", "fr_en best 0"]),
    ],
)
def test_what_is_asked_for_is_measured(
    words: list[str], keys: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = []
    monkeypatch.setattr(command, "measure", lambda case, *_: measured.append(case.key))
    monkeypatch.setattr(command, "describe", str)
    monkeypatch.setattr(command, "DATA", tmp_path)
    monkeypatch.setattr("sys.argv", ["bench.accuracy", *words])
    assert command.main() == 0
    assert measured == keys


def test_bad_arguments_are_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for words, told in (
        (["nope"], "there is no task 'nope', but"),
        ([], "set LOGINMEA_DATA to where they are"),
        (["--record", "--work", str(tmp_path)], "there is nothing to record"),
    ):
        monkeypatch.setattr(command, "DATA", tmp_path / "none")
        monkeypatch.setattr("sys.argv", ["bench.accuracy", *words])
        with pytest.raises(SystemExit, match="2"):
            command.main()
        assert told in capsys.readouterr().err


def test_every_case_of_a_study_is_a_configuration_of_its_own() -> None:
    for study in STUDIES.values():
        cases = [case for _, case in study.cases()]
        assert len({case.key for case in cases}) == len(cases)
        for case in cases:
            assert case.task in TASKS
            Config.build({"preset": case.preset, **parse_overrides(case.changes)})


def test_attributes_are_taken_from_a_share_of_the_entities(tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    whole.mkdir()
    for side in "12":
        (whole / f"ent_ids_{side}").write_text("".join(f"{i}\te{side}/{i}\n" for i in range(10)))
        (whole / f"training_attrs_{side}").write_text("".join(f"e{side}/{i}\ta\tb\n" for i in range(10)))
        (whole / f"triples_{side}").write_text("0\t0\t1\n")
    left = {}
    for share in (0.2, 0.6):
        thinned = without_attributes(whole, share, tmp_path / "thinned")
        assert (thinned / "triples_1").read_text() == (whole / "triples_1").read_text()
        for side in "12":
            lines = (thinned / f"training_attrs_{side}").read_text().splitlines()
            assert len(lines) == round(10 * (1 - share))
            left[share, side] = set(lines)
    assert left[0.6, "1"] < left[0.2, "1"]


def test_a_row_is_kept_once_whatever_machine_measured_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The newest of it: a machine that writes down again what it had measured long before takes nothing away."""
    monkeypatch.setattr(_record, "RESULTS", tmp_path)
    measured = {"a": "08:00", "b": "09:00"}
    for machine, times in (("one", measured), ("other", {"b": "09:30"}), ("one", measured)):
        monkeypatch.setattr(_record, "machine_slug", lambda machine=machine: machine)
        rows = [{"key": key, "date": "2026-01-01", "time": time} for key, time in times.items()]
        _record.record("x", rows, merge="key", once=True)
    found = {
        machine: {row["key"] for row in json.loads((tmp_path / machine / "x.json").read_text())["rows"]}
        for machine in ("one", "other")
    }
    assert found == {"one": {"a"}, "other": {"b"}}
