"""Callbacks, and TensorBoard through them."""

from __future__ import annotations

import pytest

from loginmea_fast.errors import ConfigError
from loginmea_fast.runs import fit
from loginmea_fast.training import Callback
from loginmea_fast.training.updates import Updates
from tests.training.synthetic import synthetic_pair
from tests.training.test_loop import quiet_fit


class Listener(Callback):
    def __init__(self):
        self.heard = []

    def on_start(self, trainer):
        self.heard.append(("start", trainer.standing.epoch))

    def on_epoch(self, trainer, record):
        self.heard.append(("epoch", record["epoch"]))

    def on_validation(self, trainer, record):
        self.heard.append(("validation", record["epoch"]))

    def on_checkpoint(self, trainer, path):
        self.heard.append((path.stem, trainer.standing.epoch))

    def on_end(self, trainer, metrics):
        self.heard.append(("end", metrics))


@pytest.mark.parametrize(
    ("callbacks", "message"),
    [
        ([Listener], r"callbacks holds the class Listener; give an object, Listener\(\)"),
        ([object()], "must be objects of loginmea_fast.training.Callback; got object"),
        (Listener(), "callbacks must be a list of them; got Listener"),
    ],
    ids=["a class", "another", "no list"],
)
def test_what_is_no_callback_is_refused_before_training(callbacks, message):
    with pytest.raises(ConfigError, match=message):
        quiet_fit(epochs=1, callbacks=callbacks)


def test_callbacks_hear_every_moment_in_order(tmp_path):
    listener = Listener()
    result = quiet_fit(out=tmp_path / "run", epochs=2, eval_every=1, callbacks=[listener])
    each = [("epoch", "last", "best", "validation", "last"), ("epoch", "last", "validation", "last")]
    heard = [moment for moment in listener.heard if moment[0] != "best"]
    expected = [(name, n + 1) for n, names in enumerate(each) for name in names if name != "best"]
    assert heard == [("start", 0), *expected, ("end", result.metrics)]
    assert ("best", 1) in listener.heard
    again = Listener()
    fit(synthetic_pair(), out=tmp_path / "run", resume=True, progress=False, callbacks=[again])
    assert again.heard == [("start", 2), ("end", result.metrics)]


def test_in_memory_there_are_no_checkpoints():
    listener = Listener()
    quiet_fit(epochs=1, callbacks=[listener, Callback()])
    assert [name for name, _ in listener.heard] == ["start", "epoch", "validation", "end"]


def test_an_end_without_metrics_is_heard(monkeypatch):
    listener = Listener()
    monkeypatch.setattr(Updates, "step", lambda self, *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        quiet_fit(callbacks=[listener])
    assert listener.heard == [("start", 0), ("end", None)]


def scalars(directory):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = accumulator.EventAccumulator(str(directory))
    events.Reload()
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_tensorboard_draws_the_records(tmp_path):
    pytest.importorskip("tensorboard")
    result = quiet_fit(out=tmp_path / "run", tensorboard=True, epochs=3)
    longer = fit(synthetic_pair(), out=tmp_path / "run", resume=True, progress=False, epochs=5)
    found = scalars(tmp_path / "run" / "tensorboard")
    expected = [(r["epoch"], r["loss"]) for r in longer.history if r["event"] == "epoch"]
    assert [step for step, _ in found["epoch/loss"]] == [1, 2, 3, 4, 5]
    assert [value for _, value in found["epoch/loss"]] == pytest.approx([loss for _, loss in expected])
    assert [step for step, _ in found["validation/mrr"]] == [3, 5]
    tested = found["test/cosine/left_to_right/mrr"][0]
    assert tested[0] == result.best_epoch
    assert tested[1] == pytest.approx(result.metrics["cosine"]["left_to_right"]["mrr"])


def test_tensorboard_needs_a_directory_and_its_package(tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match="tensorboard writes into the run directory"):
        quiet_fit(tensorboard=True)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'loginmea-fast\[tensorboard\]'"):
        quiet_fit(out=tmp_path / "run", tensorboard=True)
    assert not (tmp_path / "run").exists()
