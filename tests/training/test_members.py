"""Several models side by side: each learns as it would alone, and a run of them stops, goes on and is read back."""

from __future__ import annotations

import pytest
import torch

from loginmea_fast.nn import Ensemble, LoginMEA, members_of
from loginmea_fast.runs import evaluate, fit, load_run
from loginmea_fast.training import Config
from loginmea_fast.training.updates import Updates
from tests.training.synthetic import synthetic_pair

MEMBERS = {
    "members": 2,
    "hidden_dim": 16,
    "epochs": 4,
    "updates": 2,
    "rounds": 1,
    "lr": 0.02,
    "hard_samples": 20,
    "seed_ratio": 0.4,
    "valid_ratio": 0.2,
    "eval_every": 2,
    "propagation_width": 64,
}


def quiet_fit(out=None, **more):
    return fit(synthetic_pair(), Config.build(MEMBERS, **more), out, progress=False)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return quiet_fit(tmp_path_factory.mktemp("members") / "whole")


def test_the_first_member_learns_what_it_would_learn_alone():
    alone, beside = (quiet_fit(members=count, rounds=0, valid_ratio=0.0) for count in (1, 2))
    assert isinstance(alone.model, LoginMEA)
    first, second = members_of(beside.model)
    for name, value in alone.model.state_dict().items():
        torch.testing.assert_close(first.state_dict()[name], value, rtol=1e-5, atol=1e-6)
    assert not torch.allclose(first.entity_embedding, second.entity_embedding)


def test_a_run_of_several_is_read_back_and_warms_another(whole, tmp_path):
    assert isinstance(whole.model, Ensemble)
    loaded = load_run(whole.run.path, synthetic_pair())
    everyone = torch.arange(whole.problem.pair.num_entities)
    assert torch.equal(loaded.embedding.embed(everyone), whole.embedding.embed(everyone))
    again = evaluate(whole.run.path, synthetic_pair())
    assert {key: again[key] for key in whole.metrics} == whole.metrics
    warm = quiet_fit(init_from=str(whole.run.path), rounds=0, epochs=1)
    assert any("begin as in" in note for r in warm.history if r["event"] == "start" for note in r["notes"])
    single = quiet_fit(tmp_path / "one", members=1, rounds=0)
    warm = quiet_fit(init_from=str(single.run.path), rounds=0, epochs=1)
    (note,) = [note for r in warm.history if r["event"] == "start" for note in r["notes"] if "begin" in note]
    assert "not taken" not in note


def test_a_run_of_several_goes_on_where_it_was_stopped(whole, tmp_path, monkeypatch):
    step = Updates.step
    calls = []

    def dies(self, *where):
        calls.append(where)
        if len(calls) == 7:
            raise RuntimeError("killed")
        return step(self, *where)

    monkeypatch.setattr(Updates, "step", dies)
    with pytest.raises(RuntimeError, match="killed"):
        quiet_fit(tmp_path / "run")
    monkeypatch.undo()
    resumed = fit(synthetic_pair(), out=tmp_path / "run", resume=True, progress=False)
    for name, value in whole.model.state_dict().items():
        assert torch.equal(resumed.model.state_dict()[name], value), name
    assert resumed.metrics == whole.metrics
