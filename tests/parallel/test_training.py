"""Training in several processes ends as in one: losses, metrics, parameters; and so do its checkpoints."""

from __future__ import annotations

import os
import re
import resource
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from loginmea_fast.errors import CheckpointError, ConfigError
from loginmea_fast.nn import members_of
from loginmea_fast.parallel import tables, world
from loginmea_fast.runs import dividing, evaluate, fit
from loginmea_fast.training import Callback, TrainingInterrupted
from loginmea_fast.training.interrupt import StopOnSignal
from tests.parallel.processes import answers, in_processes
from tests.training.synthetic import synthetic_pair

KEYS: dict[str, dict[str, Any]] = {
    "default": {"hidden_dim": 16, "epochs": 5, "updates": 2, "hard_samples": 10},
    "paper": {"preset": "loginmea", "hidden_dim": 16, "rank": 2, "epochs": 5, "eval_every": 2},
    "both": {
        "aggregation": "both",
        "hidden_dim": 16,
        "rank": 2,
        "epochs": 4,
        "updates": 3,
        "objectives": ("contrastive", "modality_contrastive:0.5"),
        "missing": "mask",
        "members": 2,
        "recompute": True,
        "attention": "triple",
    },
}
ALL = {"rounds": 0, "propagation": "none", "seed_ratio": 0.5, "valid_ratio": 0.2, "threads": 1, "csls_k": 3}
shards = pytest.mark.skipif(
    torch.__version__ < "2.8", reason="checkpoints of several processes need torch 2.8"
)


KEYS["rounds"] = {**KEYS["default"], "rounds": 2, "epochs": 3, "certainty": 0.2}
KEYS["bootstrap"] = {
    **KEYS["default"],
    **{"bootstrap": True, "bootstrap_start": 0, "bootstrap_every": 1, "bootstrap_window": 2},
}


def trained(name: str, out: str | None = None, resume: bool = False, **more: Any) -> dict[str, Any]:
    """Losses, metrics and own rows of the tables."""
    keys: dict[str, Any] = {} if resume else {**ALL, **KEYS[name], **more}
    result = fit(synthetic_pair(), out=out, resume=resume, progress=False, **keys)
    shards = getattr(result.problem.graph, "own", torch.arange(80))
    tables = [member.entity_embedding.detach() for member in members_of(result.model)]
    return {
        "losses": [record["loss"] for record in result.history if record["event"] == "epoch"],
        "norms": [record["gradient_norm"] for record in result.history if record["event"] == "epoch"],
        "parameters": result.history[0]["parameters"],
        "metrics": result.metrics,
        "entities": shards,
        "tables": tables,
        "relations": [member.relation_embedding.detach() for member in members_of(result.model)],
        "joined": [record for record in result.history if record["event"] == "bootstrap"],
        "proposed": [record["links"] for record in result.history if record["event"] == "round"],
        "processes": world().size,
    }


def agree(found: dict[str, Any], expected: dict[str, Any]) -> None:
    assert found["losses"] == pytest.approx(expected["losses"], abs=1e-4)
    assert found["norms"] == pytest.approx(expected["norms"], rel=1e-3)
    assert found["parameters"] == expected["parameters"]
    assert found["joined"] == expected["joined"]
    assert found["proposed"] == expected["proposed"]
    close(found["metrics"], expected["metrics"])
    for own, whole in zip(found["tables"], expected["tables"], strict=True):
        assert torch.allclose(own, whole[found["entities"]], atol=1e-3)
    for own, whole in zip(found["relations"], expected["relations"], strict=True):
        assert torch.allclose(own, whole, atol=1e-3)


def close(found: Any, expected: Any) -> None:
    assert type(found) is type(expected)
    if isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for key, value in expected.items():
            close(found[key], value)
    elif isinstance(expected, list):
        for mine, theirs in zip(found, expected, strict=True):
            close(mine, theirs)
    elif isinstance(expected, float):
        assert found == pytest.approx(expected, abs=1e-4)
    else:
        assert found == expected


@pytest.mark.parametrize("name", KEYS)
def test_several_processes_train_as_one(name: str) -> None:
    expected = trained(name)
    assert any(expected["proposed"]) == (name == "rounds")
    assert any(record["joined"] for record in expected["joined"]) == (name == "bootstrap")
    for count in (2, 4) if name == "default" else (3,):
        found = in_processes(count, trained, name)
        assert torch.cat([told["entities"] for told in found]).sort().values.tolist() == list(range(80))
        for told in found:
            assert told["processes"] == count
            agree(told, expected)
        assert all(torch.equal(told["relations"][0], found[0]["relations"][0]) for told in found)


def stopped(name: str, out: str, epochs: int) -> None:
    """A run that ends after some epochs, as far as its last checkpoint is concerned."""

    class Stop(Callback):
        def on_epoch(self, trainer: Any, record: dict[str, Any]) -> None:
            if record["epoch"] == epochs:
                os.kill(os.getpid(), signal.SIGTERM)

    try:
        fit(synthetic_pair(), out=out, progress=False, callbacks=[Stop()], **ALL, **KEYS[name])
    except TrainingInterrupted:
        return
    raise AssertionError("the run was not stopped")


def stopped_apart(out: str) -> tuple[str, int]:
    """What a process says of a signal that meets one where it leaves at once and the other a moment later."""
    interrupt_with = StopOnSignal.interrupt_with

    def then_signal(stop: StopOnSignal, message: str | None) -> None:
        ends = message is None and stop._at_once is not None
        if ends and world().rank == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        interrupt_with(stop, message)
        if ends:
            os.kill(os.getpid(), signal.SIGTERM)

    StopOnSignal.interrupt_with = then_signal  # type: ignore[method-assign]
    return told_when_stopped(out)


def told_when_stopped(out: str) -> tuple[str, int]:
    with pytest.raises(TrainingInterrupted) as told:
        fit(synthetic_pair(), out=out, progress=False, **ALL, **KEYS["paper"])
    return str(told.value), told.value.exit_code


def stopped_while_it_writes(out: str) -> tuple[str, int]:
    """What a process says of a signal that meets one of two as it writes its rows, where it may leave at once."""
    writer = tables._storage().HuggingFaceStorageWriter
    write = writer.write_data

    def with_signal(self: Any, *arguments: Any) -> Any:
        if world().rank == 1 and (Path(out) / "best.safetensors").is_file():
            os.kill(os.getpid(), signal.SIGTERM)
        return write(self, *arguments)

    writer.write_data = with_signal
    return told_when_stopped(out)


@shards
def test_a_signal_while_a_process_writes_its_rows_is_a_stop_in_all(tmp_path: Path) -> None:
    for told, code in in_processes(2, stopped_while_it_writes, str(tmp_path / "run")):
        assert told.startswith("stopped after epoch 2 of 5; all is saved in ")
        assert code == 128 + signal.SIGTERM


def without_room(out: str) -> None:
    if world().rank == 1:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
    fit(synthetic_pair(), out=out, progress=False, **ALL, **KEYS["default"])


@shards
def test_rows_that_cannot_be_written_are_one_error_everywhere(tmp_path: Path) -> None:
    for error in answers(2, without_room, str(tmp_path / "run")):
        assert isinstance(error, CheckpointError), error
        assert re.match(
            f"cannot write {tmp_path}/run/last.tables-a: .*too large.*; make room there", str(error)
        )


@shards
def test_a_signal_that_meets_processes_apart_is_a_stop_in_all(tmp_path: Path) -> None:
    (first, code), (second, other) = in_processes(2, stopped_apart, str(tmp_path / "run"))
    assert code == other == 128 + signal.SIGTERM
    assert first.startswith(
        "stopped, as another process has; go on from the last checkpoint with loginmea-fast"
    )
    assert second.startswith("stopped after epoch 2 of 5; all is saved in ")
    resumed, whole = (
        in_processes(2, trained, "paper", out, resume)[0]
        for out, resume in ((str(tmp_path / "run"), True), (None, False))
    )
    close(resumed["metrics"], whole["metrics"])


@shards
@pytest.mark.parametrize("name", ["default", "both"])
def test_a_checkpoint_is_read_by_other_numbers_of_processes(name: str, tmp_path: Path) -> None:
    expected = trained(name)
    here = tmp_path / "two"
    in_processes(2, stopped, name, str(here), 3)
    assert sorted(file.name for file in here.iterdir()) == [
        ".lock", "config.toml", "last.safetensors", "last.tables-a", "metrics.jsonl", "split.safetensors"
    ]  # fmt: skip
    assert len(list((here / "last.tables-a").iterdir())) == 2
    for count in (1, 2, 4):
        there = tmp_path / str(count)
        shutil.copytree(here, there)
        if count == 1:
            with pytest.warns(UserWarning, match="processes was 2 and is 1"):
                found = [trained(name, str(there), resume=True)]
            assert not list(there.glob("last.tables-*"))
        else:
            found = in_processes(count, trained, name, str(there), True)
        for told in found:
            agree(told, expected)
        close(without_epochs(evaluate(there, synthetic_pair())), expected["metrics"])


def without_epochs(metrics: dict[str, Any]) -> dict[str, Any]:
    return {
        name: value for name, value in metrics.items() if name not in ("epoch", "best_epoch", "modalities")
    }


@shards
def test_a_run_of_one_process_goes_on_in_several(tmp_path: Path) -> None:
    stopped("default", str(tmp_path / "run"), 3)
    expected = trained("default")
    for told in in_processes(2, trained, "default", str(tmp_path / "run"), True):
        agree(told, expected)


@pytest.fixture(scope="module")
def divided(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("divided") / "run"
    in_processes(2, stopped, "default", str(run), 3)
    return run


@shards
@pytest.mark.parametrize("how", ["missing", "cut", "changed"])
@pytest.mark.parametrize("count", [1, 2])
def test_a_damaged_shard_is_one_error_everywhere(divided: Path, tmp_path: Path, how: str, count: int) -> None:
    run = tmp_path / "run"
    shutil.copytree(divided, run)
    shard = sorted((run / "last.tables-a").iterdir())[1]
    if how == "missing":
        shard.unlink()
    elif how == "cut":
        shard.write_bytes(shard.read_bytes()[:-100])
    else:
        shard.write_bytes(b"\xff" * 100 + shard.read_bytes()[100:])
    words = {
        "missing": f"{shard.name} is missing, one shard of the checkpoint",
        "cut": f"{shard.name} is cut short or damaged",
        "changed": f"{shard.parent} cannot be read",
    }[how]
    if count == 1:
        with pytest.raises(CheckpointError, match=words):
            trained("default", str(run), True)
    else:
        for error in answers(count, trained, "default", str(run), True):
            assert isinstance(error, CheckpointError)
            assert words in str(error)
            assert "train anew" in str(error)


def refused(change: str) -> None:
    rank, keys = world().rank, {**ALL, **KEYS["default"]}
    pair = synthetic_pair(seed=rank if change == "data" else 0)
    if change == "seed":
        keys["seed"] = rank
    elif change == "version":
        dividing.__version__ = f"9.{rank}"
    elif change == "batches":
        keys["batch_size"] = 2
    elif change == "rounds":  # with links that join there may be a batch more
        keys |= {"rounds": 1, "batch_size": 5}
    elif change in ("propagation", "decoder"):
        keys[change] = {"propagation": "late", "decoder": "one_to_one"}[change]
    fit(pair, progress=False, **keys)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("data", r"started alike: the data \(graph\) is"),
        ("seed", "started alike: the key seed is 0 in process 0 and 1 in process 1"),
        ("version", "started alike: version is 9.0 in process 0 and 9.1 in process 1"),
        ("propagation", "2 processes cannot train with propagation=late"),
        ("batches", "3 processes are too many for batches of 2 links"),
        ("rounds", "3 processes are too many for batches of 2 links"),
        ("decoder", "2 processes rank by cosine and CSLS alone"),
    ],
)
def test_processes_that_differ_or_cannot_are_told_so(change: str, words: str) -> None:
    for error in answers(3 if change in ("batches", "rounds") else 2, refused, change):
        assert isinstance(error, ConfigError)
        assert re.search(words, str(error)), error
