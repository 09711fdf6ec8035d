"""Where a run stops and goes on: checkpoints before what takes long, signals, threads, and what has changed since."""

from __future__ import annotations

import os
import signal
import threading
import warnings
from dataclasses import replace

import pytest
import torch

import loginmea_fast as lf
from loginmea_fast.errors import CheckpointError, ConfigError, DataError
from loginmea_fast.runs import RunDirectory, fit
from loginmea_fast.training import TrainingInterrupted
from loginmea_fast.training.loop import Trainer
from loginmea_fast.training.updates import Updates
from tests.training.synthetic import synthetic_pair
from tests.training.test_loop import BOOTSTRAP, assert_same_parameters, losses, quiet_fit


def resume(path, **more):
    return fit(synthetic_pair(), out=path, resume=True, progress=False, **more)


def events(history):
    return [(r["event"], r["epoch"]) for r in history if r["event"] not in ("start", "resume")]


class Failure(Exception):
    pass


def failing(*args):
    raise Failure


@pytest.mark.parametrize("place", ["_validate", "_mutual_nearest", "_keep_best"])
@pytest.mark.parametrize("number", [None, signal.SIGTERM])
def test_a_run_that_ends_in_what_follows_an_epoch_repeats_that_alone(tmp_path, monkeypatch, place, number):
    """A crash, or a signal, which is answered at once: nothing of the epoch is lost, nothing is recorded twice."""
    whole = quiet_fit(BOOTSTRAP, tmp_path / "whole")
    original = getattr(Trainer, place)

    def stopping(self, *args):
        if self.standing.epoch != 5:
            return original(self, *args)
        if number is None:
            raise Failure
        os.kill(os.getpid(), number)
        raise AssertionError("the signal was not answered")

    monkeypatch.setattr(Trainer, place, stopping)
    with pytest.raises(Failure if number is None else TrainingInterrupted):
        quiet_fit(BOOTSTRAP, tmp_path / "run")
    monkeypatch.undo()
    assert RunDirectory.open(tmp_path / "run").load("last")[0].state["epoch"] == 5
    resumed = resume(tmp_path / "run")
    assert losses(resumed.history) == losses(whole.history)
    assert events(resumed.history) == events(whole.history)
    assert resumed.metrics == whole.metrics
    for name in ("last.safetensors", "best.safetensors"):
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name


def test_a_signal_in_a_step_is_answered_before_what_follows_it(tmp_path, monkeypatch):
    step = Updates.step

    def step_then_signal(self, epoch, *rest):
        result = step(self, epoch, *rest)
        if epoch == 4:
            os.kill(os.getpid(), signal.SIGTERM)
        return result

    monkeypatch.setattr(Updates, "step", step_then_signal)
    monkeypatch.setattr(Trainer, "_validate", failing)
    with pytest.raises(TrainingInterrupted, match="stopped after epoch 5 of 12; all is saved"):
        quiet_fit(out=tmp_path / "run")
    monkeypatch.undo()
    resumed, whole = resume(tmp_path / "run"), quiet_fit()
    assert events(resumed.history) == events(whole.history)
    assert_same_parameters(resumed.model.state_dict(), whole.model.state_dict())


def test_an_interrupted_write_leaves_no_file_behind(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", failing)
    with pytest.raises(Failure):
        RunDirectory.create(tmp_path / "run", lf.Config())
    assert list((tmp_path / "run").iterdir()) == []


def test_outside_the_main_thread_no_handler_is_installed(tmp_path, monkeypatch):
    installed, results = [], []
    monkeypatch.setattr(signal, "signal", lambda *args: installed.append(args))
    thread = threading.Thread(target=lambda: results.append(quiet_fit(out=tmp_path / "run", epochs=2)))
    thread.start()
    thread.join()
    assert installed == []
    assert results[0].epoch == 2


def test_what_has_changed_since_a_run_stopped_is_said_once(tmp_path, monkeypatch):
    quiet_fit(out=tmp_path / "run", epochs=2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        resume(tmp_path / "run")
    threads = torch.get_num_threads()
    monkeypatch.setattr(torch, "__version__", "2.99.0")
    torch.set_num_threads(threads + 1)
    try:
        with pytest.warns(
            UserWarning, match="no longer repeats bit for bit: torch was .* and is 2.99.0, threads"
        ) as said:
            resume(tmp_path / "run")
    finally:
        torch.set_num_threads(threads)
    assert len(said) == 1


def test_another_split_is_refused(tmp_path):
    result = quiet_fit(out=tmp_path / "run", epochs=2)
    split = result.problem.split
    result.run.save_split(replace(split, train=split.test, test=split.train))
    with pytest.raises(CheckpointError, match="of another model: split is"):
        resume(tmp_path / "run")
    with pytest.raises(CheckpointError, match="of another model: split is"):
        lf.runs.evaluate(tmp_path / "run", synthetic_pair())


def test_the_split_has_a_seed_of_its_own():
    first, other = quiet_fit(epochs=1).problem.split, quiet_fit(epochs=1, split_seed=1).problem.split
    again = quiet_fit(epochs=1, seed=1, split_seed=0)
    assert torch.equal(again.problem.split.test, first.test)
    assert not torch.equal(other.test, first.test)
    assert losses(again.history) != losses(quiet_fit(epochs=1).history)


def test_a_run_goes_on_with_more_epochs(tmp_path):
    """The rates are those of the new length from there on, the epochs before stay as they were."""
    first = quiet_fit(out=tmp_path / "run", epochs=6)
    longer = resume(tmp_path / "run", epochs=12)
    assert losses(longer.history)[:6] == losses(first.history)
    rates = [r["lr"] for r in longer.history if r["event"] == "epoch"]
    assert rates[6:] == [r["lr"] for r in quiet_fit(epochs=12).history if r["event"] == "epoch"][6:]
    assert [r["event"] for r in longer.run.metrics()].count("final") == 1
    assert RunDirectory.open(tmp_path / "run").config == longer.config
    measured = lf.runs.evaluate(tmp_path / "run", synthetic_pair())
    assert {name: measured[name] for name in longer.metrics} == longer.metrics
    again = resume(tmp_path / "run")
    assert again.metrics == longer.metrics
    with pytest.raises(ConfigError, match="has finished 12 epochs and cannot end after 8; give more"):
        resume(tmp_path / "run", epochs=8)


def test_patience_begins_anew_with_more_epochs(tmp_path, monkeypatch):
    scores = iter([0.9, 0.1, 0.1, 0.2, 0.3, 0.3])
    monkeypatch.setattr(
        Trainer, "_validation_metrics", lambda self: ({"hits@1": 0.0, "mrr": next(scores)}, [])
    )
    quiet_fit(out=tmp_path / "run", eval_every=1, patience=2)
    assert losses(resume(tmp_path / "run").history)[-1][0] == 3, "it had ended"
    assert losses(resume(tmp_path / "run", epochs=20).history)[-1][0] == 5


def test_every_link_may_be_a_seed(tmp_path):
    result = quiet_fit(out=tmp_path / "run", epochs=2, seed_ratio=1)
    assert result.metrics == {}
    assert lf.runs.evaluate(tmp_path / "run", synthetic_pair()) == {
        "epoch": 2,
        "best_epoch": 2,
        "modalities": ["relation", "image"],
    }


def test_a_file_of_vectors_that_shrinks_in_training_ends_it_with_a_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(lf.data.vector_files, "MAPPED", 1)
    lf.data.save(synthetic_pair(), tmp_path / "pair")
    file = tmp_path / "pair" / "features_image.safetensors"
    whole = file.read_bytes()
    pair = lf.data.load(tmp_path / "pair", modalities=["image"])
    assert isinstance(pair.features["image"].values, lf.data.FeatureStore)

    class Shrinks(lf.training.Callback):
        def on_epoch(self, trainer, record):
            if record["epoch"] == 2:
                os.truncate(file, 1000)

    with pytest.raises(DataError, match=r"features_image.safetensors had .* bytes and has 1,000 .* --resume"):
        quiet_fit(BOOTSTRAP, tmp_path / "run", pair, [Shrinks()])
    file.write_bytes(whole)
    again = lf.data.load(tmp_path / "pair", modalities=["image"])
    resumed = fit(again, out=tmp_path / "run", resume=True, progress=False)
    assert losses(resumed.history) == losses(quiet_fit(BOOTSTRAP, tmp_path / "whole", again).history)
