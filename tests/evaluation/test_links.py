from __future__ import annotations

import json

import pytest
import torch
import torch.nn.functional as F

import loginmea_fast as lf
from loginmea_fast.errors import ConfigError, InputError
from loginmea_fast.evaluation import decode, evaluate, evaluate_links, joint_embedding, load_run
from loginmea_fast.training import Config, fit
from tests.training.synthetic import synthetic_pair


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    config = Config.build(hidden_dim=16, rank=2, epochs=6, lr=0.02, seed_ratio=0.4, valid_ratio=0.0)
    return fit(synthetic_pair(), config, tmp_path_factory.mktemp("runs") / "run", progress=False)


def test_joint_embedding_keeps_the_mode_and_leaves_no_gradient(trained):
    rows = torch.tensor([3, 70, 3])
    trained.model.train()
    joint = joint_embedding(trained.model, trained.problem.features, rows)
    assert trained.model.training
    assert not joint.requires_grad
    assert torch.equal(joint[0], joint[2])
    torch.testing.assert_close(joint.norm(dim=1), torch.ones(3))


def test_the_realistic_protocol_ranks_among_all_entities(trained):
    problem = trained.problem
    arguments = (trained.model, problem.features, problem.pair, problem.split.test)
    field, realistic = evaluate_links(*arguments), evaluate_links(*arguments, candidates="all")
    assert field["protocol"] == "test"
    assert field["candidates"] == {"left_to_right": 24, "right_to_left": 24}
    assert realistic["candidates"] == {"left_to_right": 40, "right_to_left": 40}
    joint = joint_embedding(trained.model, problem.features, torch.arange(80)).double()
    links = problem.split.test
    cosines = F.normalize(joint[links[:, 0]]) @ F.normalize(joint[problem.pair.right_entities]).T
    own = (F.normalize(joint[links[:, 0]]) * F.normalize(joint[links[:, 1]])).sum(1)
    ranks = 1 + (cosines > own[:, None] + 1e-9).sum(1)
    assert realistic["cosine"]["left_to_right"]["mr"] == pytest.approx(ranks.double().mean().item())


def test_breakdowns_cover_every_link(trained):
    metrics = trained.metrics
    assert sum(bucket["pairs"] for bucket in metrics["by_degree"]) == metrics["pairs"]
    assert sum(group["pairs"] for group in metrics["by_image"]) == metrics["pairs"]
    assert "by_relation" not in metrics, "every entity has one"
    json.dumps(metrics)


def test_a_run_read_back_is_the_model_that_was_trained(trained):
    loaded = load_run(trained.run.path, synthetic_pair())
    for name, tensor in trained.model.state_dict().items():
        assert torch.equal(loaded.model.state_dict()[name], tensor)
    assert loaded.epoch == trained.best_epoch
    assert evaluate(trained.run.path, synthetic_pair(), candidates="all", csls_k=0)["protocol"] == "all"


def test_bad_arguments(trained):
    problem = trained.problem
    arguments = (trained.model, problem.features, problem.pair)
    with pytest.raises(ConfigError, match="candidates must be one of test, all; got 'some'"):
        evaluate_links(*arguments, problem.split.test, candidates="some")
    with pytest.raises(InputError, match="no test links"):
        evaluate_links(*arguments, problem.split.test[:0])
    with pytest.raises(ConfigError, match="did you mean 'csls_k'"):
        evaluate(trained.run.path, problem.pair, csls=3)
    with pytest.raises(ConfigError, match="is not a run directory"):
        evaluate(trained.run.path.parent)


def test_decoding_agrees_with_hits(trained):
    problem = trained.problem
    decoded = decode(trained.model, problem.features, problem.pair, problem.split.test, k=3)
    right = sum(entry.correct for entry in decoded) / len(decoded)
    assert right == trained.metrics["csls"]["left_to_right"]["hits@1"]
    for entry in decoded:
        scores = [match.score for match in entry.matches]
        assert len(scores) == 3
        assert scores == sorted(scores, reverse=True)
        assert entry.name == problem.pair.names[entry.entity]
        assert {match.entity for match in entry.matches} <= set(problem.split.test[:, 1].tolist())


def test_decoding_without_links_looks_at_everyone(trained):
    problem = trained.problem
    decoded = decode(trained.model, problem.features, problem.pair, k=99, csls_k=0)
    assert [entry.entity for entry in decoded] == problem.pair.left_entities.tolist()
    assert all(entry.partner is None and entry.correct is None for entry in decoded)
    assert {match.entity for match in decoded[0].matches} == set(problem.pair.right_entities.tolist())


def test_public_names():
    assert lf.evaluation.evaluate is evaluate
