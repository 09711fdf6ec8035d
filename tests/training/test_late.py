"""What stands beside the model, how its weight comes about, and that a run read back has the same."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from loginmea_fast.data.names import tfidf_bag
from loginmea_fast.data.sketch import sketch
from loginmea_fast.errors import ConfigError, InputError
from loginmea_fast.evaluation import JointEmbedding, decode, evaluate_links
from loginmea_fast.evaluation.embedding import StoredEmbedding
from loginmea_fast.propagation import join, propagate_labels
from loginmea_fast.runs import align, assemble, evaluate, fit, load_run
from loginmea_fast.training import Config, late
from loginmea_fast.training.updates import Updates
from loginmea_fast.whitening import whiten_rows
from tests.training.synthetic import synthetic_pair

SMALL = {
    "preset": "loginmea",
    "hidden_dim": 16,
    "rank": 2,
    "epochs": 6,
    "lr": 0.02,
    "seed_ratio": 0.4,
    "valid_ratio": 0.2,
    "warmup_epochs": 2,
    "propagation": "late",
    "propagation_width": 64,
}
BOOTSTRAP = {**SMALL, "bootstrap": True, "bootstrap_start": 1, "bootstrap_every": 1, "bootstrap_window": 2}


def labels_of(result):
    """What is propagated beside the model."""
    (labels,) = result.embedding.beside
    return labels


def quiet_fit(config, out=None, pair=None, **more):
    return fit(pair or synthetic_pair(), Config.build(config, **more), out, progress=False)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run in which links have joined."""
    return quiet_fit(BOOTSTRAP, tmp_path_factory.mktemp("late") / "run")


def test_rows_are_those_of_join_however_they_are_asked_for(run, monkeypatch):
    everyone = torch.arange(80)
    whole = run.embedding.embed(everyone)
    alone = JointEmbedding(run.model, run.problem.features, run.problem.graph).embed(everyone)
    expected = join(alone, labels_of(run).rows, labels_of(run).weight)
    assert torch.equal(whole, expected)
    monkeypatch.setattr(late, "_BLOCK", 7)
    some = torch.tensor([3, 70, 3, *range(20)])
    torch.testing.assert_close(run.embedding.embed(some), expected[some])
    assert run.embedding.embed(everyone[:0]).shape == (0, expected.shape[1])


def test_labels_are_those_of_training_links_and_of_links_that_joined(run):
    joined = run.run.load("best")[0].part("links")["joined"]
    assert len(joined)
    links = torch.cat([run.problem.split.train, joined])
    expected = propagate_labels(run.problem.graph, links, width=64, seed=0).embedding
    assert torch.equal(labels_of(run).rows, expected)
    assert run.metrics["beside"] == {
        "labels": {
            "weight": labels_of(run).weight,
            "columns": expected.shape[1],
            "links": len(links),
        }
    }


def test_a_run_read_back_has_the_same_embedding_and_metrics(run):
    loaded = load_run(run.run.path, synthetic_pair())
    everyone = torch.arange(80)
    assert torch.equal(loaded.embedding.embed(everyone), run.embedding.embed(everyone))
    measured = evaluate(run.run.path, synthetic_pair())
    assert {key: measured[key] for key in run.metrics} == run.metrics
    found, again = (decode(e, loaded.problem.pair, k=3) for e in (run.embedding, loaded.embedding))
    assert torch.equal(found.matches, again.matches)
    assert torch.equal(found.scores, again.scores)


def test_the_recorded_weight_is_taken_and_another_checkpoint_chooses_its_own(run, monkeypatch):
    chosen = []

    def choose(*arguments, **options):
        chosen.append(arguments)
        return 2.0

    monkeypatch.setattr(late, "late_weight", choose)
    assert load_run(run.run.path, synthetic_pair()).embedding.weights == run.embedding.weights
    assert not chosen
    assert load_run(run.run.path, synthetic_pair(), "last").embedding.weights == {"labels": 2.0}
    assert load_run(run.run.path, synthetic_pair(), propagation_width=32).embedding.weights == {"labels": 2.0}
    assert len(chosen) == 2


def test_the_metrics_are_of_both_and_the_model_is_what_it_is_without(run):
    without = quiet_fit(BOOTSTRAP, propagation="none", propagation_width=1024)
    for name, tensor in without.model.state_dict().items():
        assert torch.equal(run.model.state_dict()[name], tensor)
    final = run.history[-1]
    measured = evaluate(run.run.path, synthetic_pair(), propagation="none")
    assert {key: measured[key] for key in without.metrics} == without.metrics
    assert final["metrics"] == run.metrics != without.metrics
    assert final["validation"] == late.validation_metrics(run.embedding, run.problem, run.config)
    pair, test = run.problem.pair, run.problem.split.test
    joined = evaluate_links(run.embedding, pair, test)
    assert {**joined, "beside": run.embedding.summary()} == run.metrics
    assert isinstance(without.embedding, JointEmbedding)


def test_a_run_resumed_at_its_end_says_the_same(run):
    again = fit(synthetic_pair(), out=run.run.path, resume=True, progress=False)
    assert again.metrics == run.metrics
    assert again.history[-1]["validation"] == run.history[-1]["validation"]


def test_names_stand_beside_the_model_as_they_are(tmp_path):
    """Whether the model has few columns for them or not; a run read back is the same, and one without is told apart."""
    pair = synthetic_pair()
    words = [[f"name{entity % 40}", "of"] for entity in range(80)]
    names = replace(pair, features={**pair.features, "name_tfidf": tfidf_bag(words)})
    run = quiet_fit(SMALL, tmp_path / "run", names, late_names=True, whitening=0.5)
    labels, beside = run.embedding.beside
    assert (labels.name, beside.name) == ("labels", "name_tfidf")
    assert torch.equal(beside.rows, whiten_rows(sketch(names.features["name_tfidf"]), 0.5))
    assert run.embedding.parts[-2:] == [("labels", 80), ("name_tfidf", 1024)]
    everyone = torch.arange(80)
    rows = run.embedding.model.embed(everyone)
    for part in run.embedding.beside:
        rows = join(rows, part.rows, part.weight)
    torch.testing.assert_close(run.embedding.embed(everyone), rows)
    assert run.metrics["beside"]["name_tfidf"] == {"weight": beside.weight, "columns": 1024}
    loaded = load_run(run.run.path, names)
    assert torch.equal(loaded.embedding.embed(everyone), run.embedding.embed(everyone))
    assert loaded.embedding.weights == run.embedding.weights
    assert len(quiet_fit(SMALL, pair=names).embedding.beside) == 1
    alone = quiet_fit(SMALL, pair=names, late_names=True, propagation="none")
    assert [part.name for part in alone.embedding.beside] == ["name_tfidf"]


def test_links_that_joined_have_labels_of_their_own(tmp_path):
    """They change what a run aligns by, and neither its training nor what its rounds propose."""
    rounds = {**SMALL, "rounds": 2, "certainty": 0.1, "late_pairs": True}
    run = quiet_fit(rounds, tmp_path / "run")
    joined = run.run.load("best")[0].part("links")["joined"]
    labels, own = run.embedding.beside
    assert (labels.name, own.name, own.weight) == ("labels", "joined", 0.5)
    left, right = joined.unbind(1)
    assert torch.equal(own.rows[left], own.rows[right])
    torch.testing.assert_close(own.rows[left].norm(dim=1), torch.ones(len(joined)))
    assert len(own.rows[left].unique(dim=0)) == len(joined) == run.metrics["beside"]["joined"]["links"] > 1
    assert int(own.rows.any(1).sum()) == 2 * len(joined)

    assert run.history[-1]["weights"]["joined"] > 0

    everyone = torch.arange(80)
    loaded = load_run(run.run.path, synthetic_pair())
    assert torch.equal(loaded.embedding.embed(everyone), run.embedding.embed(everyone))
    assert "joined" not in align(loaded, progress=False).shares
    without = quiet_fit({**rounds, "late_pairs": False}, tmp_path / "without")
    assert torch.equal(without.run.load("best")[0].part("links")["joined"], joined)
    assert [part.name for part in without.embedding.beside] == ["labels"]
    measured = evaluate(run.run.path, synthetic_pair(), late_pairs=False)
    assert {key: measured[key] for key in without.metrics} == without.metrics


def test_a_run_from_before_is_read_as_it_was(tmp_path):
    """A key that its configuration does not name came later, and is a default now: the run never had it."""
    run = quiet_fit({**SMALL, "rounds": 2, "certainty": 0.1, "late_pairs": False}, tmp_path / "run")
    config = run.run.path / "config.toml"
    lines = config.read_text().splitlines()
    left_out = ("late_pairs", "preset")
    config.write_text("\n".join(line for line in lines if not line.startswith(left_out)))
    assert Config.load(config).late_pairs
    everyone = torch.arange(80)
    for checkpoint in (None, "last"):
        loaded = load_run(run.run.path, synthetic_pair(), checkpoint)
        assert [part.name for part in loaded.embedding.beside] == ["labels"]
        if checkpoint is None:
            assert torch.equal(loaded.embedding.embed(everyone), run.embedding.embed(everyone))
    other = load_run(run.run.path, synthetic_pair(), propagation_width=32)
    assert [part.name for part in other.embedding.beside] == ["labels"]
    assert fit(synthetic_pair(), out=run.run.path, resume=True, progress=False).metrics == run.metrics
    asked = load_run(run.run.path, synthetic_pair(), late_pairs=True)
    assert [part.name for part in asked.embedding.beside] == ["labels", "joined"]


def test_test_partners_change_no_weight(monkeypatch):
    """The weight is chosen by validation links: other test partners leave it and the embedding as they are.

    Also where labels find the partners and the model finds the others, so that test links would choose by them.
    """
    first = quiet_fit(SMALL)
    problem = first.problem
    test = problem.split.test.clone()
    test[:, 1] = test[:, 1].roll(1)
    permuted = replace(problem, split=replace(problem.split, test=test))
    joint = JointEmbedding(first.model, problem.features, problem.graph)
    again = late.beside_model(joint, permuted, first.config, problem.split.train[:0])
    assert again.weights == first.embedding.weights
    assert torch.equal(again.beside[0].rows, labels_of(first).rows)
    left, right = problem.split.test.unbind(1)
    own = torch.eye(40)[: len(left)]
    right_ones, wrong_ones = torch.zeros(2, 80, 40)
    right_ones[left], right_ones[right] = own, own
    wrong_ones[left], wrong_ones[test[:, 1]] = own, own
    found = replace(late.propagate_labels(problem.graph, problem.split.train), embedding=right_ones)
    monkeypatch.setattr(late, "propagate_labels", lambda *_, **__: found)
    weights = [
        late.beside_model(
            StoredEmbedding(wrong_ones, []), each, first.config, problem.split.train[:0]
        ).weights
        for each in (problem, permuted)
    ]
    assert weights[0] == weights[1]


def test_the_weight_follows_validation(monkeypatch):
    """Rows of the model that say nothing: labels get weight. Labels that say something wrong: less than usual."""
    result = quiet_fit(SMALL)
    problem, none = result.problem, result.problem.split.train[:0]

    class Constant:
        def embed(self, rows):
            return torch.ones(len(rows), 4) / 2

    assert late.beside_model(Constant(), problem, result.config, none).weights["labels"] > 0

    class Perfect:
        def embed(self, rows):
            partner = dict(map(tuple, problem.pair.links.flip(1).tolist()))
            return torch.eye(40)[torch.tensor([partner.get(i, i) for i in rows.tolist()])]

    assert late.beside_model(Perfect(), problem, result.config, none).weights == {"labels": 0.7}, "as good"
    valid = problem.split.valid
    wrong = torch.zeros(80, 40)
    wrong[valid[:, 0]] = torch.eye(40)[: len(valid)]
    wrong[valid[:, 1]] = torch.eye(40)[: len(valid)].roll(1, 0)
    found = replace(late.propagate_labels(problem.graph, problem.split.train), embedding=wrong)
    monkeypatch.setattr(late, "propagate_labels", lambda *_, **__: found)
    monkeypatch.setitem(late._USUAL_WEIGHTS, "labels", 2.0)
    assert late.beside_model(Perfect(), problem, result.config, none).weights["labels"] < 1.0


def test_without_validation_links_the_weight_is_told(caplog):
    result = quiet_fit(SMALL, valid_ratio=0.0)
    assert result.embedding.weights == {"labels": 0.7}
    assert "takes the weight labels 0.7: there are no validation links" in caplog.text
    assert "validation" not in result.history[-1]


def test_bad_values():
    with pytest.raises(ConfigError, match="'propagation' must be one of 'none', 'late'; got 'early'"):
        Config(propagation="early")
    with pytest.raises(ConfigError, match="'propagation_width' must be a whole number of at least 1; got 0"):
        Config(propagation_width=0)


def test_labels_that_cannot_travel_are_told_before_training(tmp_path, monkeypatch):
    pair = synthetic_pair()
    split = pair.split(0.4, 0.2)
    touched = torch.isin(pair.triples[:, ::2], split.train[:, 0]).any(1)
    left = int((~touched[: pair.num_left_triples]).sum())
    bare = replace(pair, triples=pair.triples[~touched], num_left_triples=left)
    monkeypatch.setattr(Updates, "step", None)
    with pytest.raises(InputError, match="has an entity without a neighbour"):
        quiet_fit(SMALL, tmp_path / "run", bare)
    assert not (tmp_path / "run").exists()
    assert assemble(bare, Config.build(SMALL, propagation="none")) is not None


def test_known_links_whose_labels_join_nothing_are_told():
    pair = synthetic_pair()
    split = pair.split(SMALL["seed_ratio"], SMALL["valid_ratio"])
    triples = pair.triples[(pair.triples[:, ::2] != split.train[0, 0]).all(1)]
    lonely = replace(pair, triples=triples, num_left_triples=int((triples[:, 0] < 40).sum()))
    notes = quiet_fit(SMALL, pair=lonely).history[0]["notes"]
    assert any(note.startswith(f"1 of {len(split.train)} known links have an entity") for note in notes), (
        notes
    )


def test_labels_that_reach_nobody_are_told():
    pair = synthetic_pair()
    split = pair.split(SMALL["seed_ratio"], SMALL["valid_ratio"])
    among = torch.isin(pair.triples[:, ::2], split.train.reshape(-1)).all(1)
    closed = replace(
        pair, triples=pair.triples[among], num_left_triples=int(among[: pair.num_left_triples].sum())
    )
    told = f"labels of the known links can reach 0 of {40 - len(split.train)} entities without a link"
    for propagation, times in (("late", 1), ("none", 0)):
        notes = quiet_fit(SMALL, pair=closed, propagation=propagation, epochs=1).history[0]["notes"]
        assert sum(note.startswith(told) for note in notes) == times, notes
        for method in ("model", "propagate"):
            config = Config.build(SMALL, propagation=propagation, epochs=1)
            notes = align(
                closed, config=config, method=method, seeds=split.train, pivots=False, progress=False
            ).notes
            said = sum(note.startswith(told) for note in notes)
            assert said == (1 if method == "propagate" else times), notes
    assert not any("can reach" in note for note in quiet_fit(SMALL, epochs=1).history[0]["notes"])
