"""Training that begins with the parameters of another run."""

from __future__ import annotations

import pytest
import torch

import loginmea_fast as lf
from loginmea_fast.errors import ConfigError
from loginmea_fast.runs import assemble, build_model, fit
from loginmea_fast.runs.warm_start import warm_start
from tests.training.synthetic import synthetic_pair
from tests.training.test_loop import SMALL, assert_same_parameters, losses, quiet_fit


def new_model(pair=None, **changes):
    """A model, and the graph that it is of."""
    config = lf.Config.build(SMALL, **changes)
    problem = assemble(pair or synthetic_pair(), config)
    return build_model(problem, config), problem.graph


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return quiet_fit(out=tmp_path_factory.mktemp("first") / "run", epochs=2)


def test_a_run_and_a_pretrained_model_begin_alike(source, tmp_path):
    run = lf.runs.load_run(source.run.path, synthetic_pair())
    loaded = run.model
    loaded.save_pretrained(tmp_path / "model", run.problem.graph)
    for place in (source.run.path, tmp_path / "model"):
        model, graph = new_model(seed=3)
        note = warm_start(model, graph, str(place))
        assert (
            note == f"{len(model.state_dict())} of {len(model.state_dict())} parameters begin as in {place}"
        )
        assert_same_parameters(model.state_dict(), loaded.state_dict())


def test_what_was_not_taken_is_named(source):
    model, graph = new_model(synthetic_pair(seed=1), rank=3)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    note = warm_start(model, graph, str(source.run.path))
    assert "entity_embedding (of another graph)" in note
    assert "[3," in note
    assert torch.equal(model.entity_embedding, before["entity_embedding"])
    name = "projections.image.weight"
    assert torch.equal(model.state_dict()[name], source.model.state_dict()[name])
    note = warm_start(*new_model(modalities=["image"]), str(source.run.path))
    assert "(not in this model)" in note


def test_training_begins_there_and_says_so(source, tmp_path, capsys):
    warm = quiet_fit(out=tmp_path / "run", epochs=1, init_from=source.run.path)
    cold = quiet_fit(epochs=1)
    assert losses(warm.history)[0][1] < losses(cold.history)[0][1]
    assert "parameters begin as in" in warm.history[0]["notes"][0]
    again = fit(synthetic_pair(), out=tmp_path / "run", resume=True, progress=False)
    assert_same_parameters(again.model.state_dict(), warm.model.state_dict())


def test_what_is_no_source_is_refused(source, tmp_path):
    with pytest.raises(ConfigError, match=r"init_from names .*, which is neither a run directory nor"):
        quiet_fit(init_from=tmp_path)
    with pytest.raises(ConfigError, match=r"nothing in .* fits this model"):
        warm_start(*new_model(modalities=["image"], hidden_dim=9, rank=3, depth=1), str(source.run.path))
