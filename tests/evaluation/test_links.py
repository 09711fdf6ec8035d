from __future__ import annotations

import dataclasses
import json
import logging

import pytest
import torch
import torch.nn.functional as F

import loginmea_fast as lf
from loginmea_fast.data import Feature
from loginmea_fast.errors import ConfigError, InputError
from loginmea_fast.evaluation import JointEmbedding, decode, evaluate_links
from loginmea_fast.evaluation.decoders import decoder_names
from loginmea_fast.evaluation.embedding import StoredEmbedding
from loginmea_fast.evaluation.metrics import alignment_metrics
from loginmea_fast.runs import assemble, build_model, evaluate, fit, load_run
from loginmea_fast.training import Config
from loginmea_fast.training.interrupt import StopOnSignal
from loginmea_fast.training.loop import Trainer
from tests.training.synthetic import synthetic_pair


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    config = Config.build(hidden_dim=16, rank=2, epochs=6, lr=0.02, seed_ratio=0.4, valid_ratio=0.0)
    return fit(synthetic_pair(), config, tmp_path_factory.mktemp("runs") / "run", progress=False)


def test_joint_embedding_keeps_the_mode_and_leaves_no_gradient(trained):
    rows = torch.tensor([3, 70, 3])
    trained.model.train()
    joint = trained.embedding.embed(rows)
    assert trained.model.training
    assert not joint.requires_grad
    assert torch.equal(joint[0], joint[2])
    torch.testing.assert_close(joint.norm(dim=1), torch.ones(3))


def test_the_realistic_protocol_ranks_among_all_entities(trained):
    problem = trained.problem
    arguments = (trained.embedding, problem.pair, problem.split.test)
    field, realistic = evaluate_links(*arguments), evaluate_links(*arguments, candidates="all")
    assert field["protocol"] == "test"
    assert field["candidates"] == {"left_to_right": 24, "right_to_left": 24}
    assert realistic["candidates"] == {"left_to_right": 40, "right_to_left": 40}
    joint = trained.embedding.embed(torch.arange(80)).double()
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
    assert (loaded.epoch, loaded.best_epoch) == (trained.epoch, trained.best_epoch)
    assert evaluate(trained.run.path, synthetic_pair(), candidates="all", csls_k=0)["protocol"] == "all"


def test_bad_arguments(trained):
    problem = trained.problem
    arguments = (trained.embedding, problem.pair)
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
    decoded = decode(trained.embedding, problem.pair, problem.split.test, k=3)
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
    for direction, sides in (("left_to_right", 1), ("right_to_left", -1)):
        queries, keys = [problem.pair.left_entities, problem.pair.right_entities][::sides]
        decoded = decode(trained.embedding, problem.pair, k=99, csls_k=0, direction=direction)
        assert [entry.entity for entry in decoded] == queries.tolist()
        assert all(entry.partners == () and entry.correct is None for entry in decoded)
        assert {match.entity for match in decoded[0].matches} == set(keys.tolist())


def test_decoding_holds_columns_and_reads_as_a_sequence(trained):
    problem = trained.problem
    decoded = decode(trained.embedding, problem.pair, problem.split.test, k=2)
    assert decoded.matches.shape == decoded.scores.shape == (24, 2)
    assert list(decoded) == [decoded[i] for i in range(len(decoded))] == decoded[:]
    assert decoded[-1].partners == (int(problem.split.test[-1, 1]),)
    backwards = decode(trained.embedding, problem.pair, problem.split.test, k=1, direction="right_to_left")
    right = sum(entry.correct for entry in backwards) / len(backwards)
    assert right == trained.metrics["csls"]["right_to_left"]["hits@1"]


@pytest.mark.parametrize("direction", ["left_to_right", "right_to_left"])
def test_scores_do_not_depend_on_which_entities_are_decoded(trained, direction):
    problem = trained.problem
    arguments = (trained.embedding, problem.pair)
    everyone = decode(*arguments, k=3, direction=direction)
    some = decode(*arguments, problem.split.test[4:7], k=3, candidates="all", direction=direction)
    place = [everyone.queries.tolist().index(entity) for entity in some.queries.tolist()]
    assert torch.equal(some.matches, everyone.matches[place])
    assert torch.equal(some.scores, everyone.scores[place])


def test_the_neighbours_taken_are_reported(trained, caplog):
    problem = trained.problem
    arguments = (trained.embedding, problem.pair, problem.split.test[:4])
    assert decode(*arguments, csls_k=10).csls_k == 4
    assert evaluate_links(*arguments, csls_k=10)["csls_k"] == 4
    assert caplog.text.count("CSLS takes 4 neighbours instead of 10: there are 4 candidates") == 2
    assert evaluate_links(*arguments, csls_k=3)["csls_k"] == 3


@pytest.mark.parametrize("call", [evaluate_links, decode])
def test_a_model_without_its_features_is_no_embedding(trained, call):
    problem = trained.problem
    with pytest.raises(InputError, match=r"got LoginMEA\. Give .*JointEmbedding\(model, features, graph\)"):
        call(trained.model, problem.pair, problem.split.test)
    with pytest.raises(
        InputError,
        match=r"JointEmbedding takes a model, its features and the graph, .*; got Features, LoginMEA",
    ):
        JointEmbedding(problem.features, trained.model, problem.graph)
    joint = JointEmbedding(trained.model, problem.features, problem.graph)
    assert call(joint, problem.pair, problem.split.test) is not None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"decoder_k": 0, "decoder": "sinkhorn"}, "decoder_k must be a whole number of at least 1; got 0"),
        ({"decoder_k": "many"}, "decoder_k must be a whole number of at least 1; got 'many'"),
        ({"threshold": "high"}, "threshold must be a number; got 'high'"),
        ({"threshold": float("nan")}, "threshold must be a number; got nan"),
    ],
)
def test_settings_of_decoding_are_checked(trained, change, message):
    with pytest.raises(InputError, match=message):
        decode(trained.embedding, trained.problem.pair, trained.problem.split.test, **change)


def test_decoding_that_does_not_converge_is_marked_and_told(trained, monkeypatch, caplog):
    pair = trained.problem.pair
    rows = torch.full((pair.num_entities, 4), 1.0)
    rows[pair.left_entities] += 1e-3 * torch.randn(40, 4, generator=torch.Generator().manual_seed(0))
    rows[pair.right_entities] += 1e-3 * torch.randn(40, 4, generator=torch.Generator().manual_seed(1))

    class Alike:
        num_entities = pair.num_entities

        def embed(self, entities):
            return F.normalize(rows[entities])

    with caplog.at_level(logging.WARNING):
        decoded = decode(Alike(), pair, k=2, decoder="sinkhorn", decoder_k=1)
    assert not decoded.converged
    assert "sinkhorn did not converge in 500 iterations" in caplog.text


@pytest.mark.parametrize("call", [evaluate_links, decode])
def test_links_are_checked(trained, call):
    problem = trained.problem
    arguments = (trained.embedding, problem.pair)
    links = problem.split.test
    for wrong, message in (
        (links.flip(1), r"link 0, .* must have an entity of graph 1 in column 0, and \d+ belongs to graph 2"),
        (links[:, 0], r"links must be int64 \[\., 2\], not torch.int64 \[24\]"),
        (links.double(), "not torch.float64"),
        ([[0, 99]], "in column 1, and 99 is none: ids are 0 to 79"),
        (links[[0, 1, 0]], "stands twice"),
        (["a"], "links must be int64"),
        ([], "no .*links"),
    ):
        with pytest.raises(InputError, match=message):
            call(*arguments, wrong)
    with pytest.raises(ConfigError, match="candidates must be one of test, all; got 'al'"):
        call(*arguments, links, candidates="al")
    assert call(*arguments, links.tolist()) is not None
    assert call(*arguments, links.numpy()) is not None


def test_every_decoder_is_reported(trained):
    problem = trained.problem
    arguments = (trained.embedding, problem.pair, problem.split.test)
    plain = evaluate_links(*arguments)
    metrics = evaluate_links(*arguments, decoder="all", decoder_k=10)
    assert set(metrics.pop("decoders")) == set(decoder_names()) - {"cosine", "csls"}
    assert metrics == plain
    sinkhorn = evaluate_links(*arguments, decoder="sinkhorn", decoder_k=999)["decoders"]["sinkhorn"]
    assert sinkhorn["candidates_each"] == 24
    assert sinkhorn["left_to_right"]["hits@1"] == sinkhorn["recall"]
    json.dumps(sinkhorn)
    with pytest.raises(ConfigError, match="decoder must be one of"):
        evaluate_links(*arguments, decoder="some")


@pytest.mark.parametrize("decoder", decoder_names())
@pytest.mark.parametrize("direction", ["left_to_right", "right_to_left"])
def test_decoding_by_every_decoder(trained, decoder, direction):
    problem = trained.problem
    arguments = (trained.embedding, problem.pair, problem.split.test)
    decoded = decode(*arguments, k=3, direction=direction, decoder=decoder, decoder_k=24)
    assert decoded.decoder == decoder
    right = sum(bool(entry.correct) for entry in decoded) / len(decoded)
    if decoder in ("cosine", "csls"):
        assert right == trained.metrics[decoder][direction]["hits@1"]
    else:
        metrics = evaluate_links(*arguments, decoder=decoder, decoder_k=24)["decoders"][decoder]
        assert right == metrics.get(direction, {}).get("hits@1", metrics["recall"])
    for entry in decoded:
        assert len(entry.matches) <= 3
        assert all(match.entity >= 0 for match in entry.matches)


def test_known_links_are_left_out_and_a_threshold_leaves_some_alone(trained):
    problem = trained.problem
    known = problem.split.train
    rows = trained.embedding.embed(torch.arange(problem.pair.num_entities))
    twins = problem.split.test[:2, 0]  # of whom one has to stay alone
    rows[twins[1]] = rows[twins[0]]
    arguments = (StoredEmbedding(rows), problem.pair)
    decoded = decode(*arguments, known=known, decoder="mutual")
    assert not torch.isin(decoded.queries, known[:, 0]).any()
    assert not torch.isin(decoded.matches, known[:, 1]).any()
    assert len(decoded) == 40 - len(known)
    assert {len(entry.matches) for entry in decoded} == {0, 1}
    scores = decode(*arguments, k=1, csls_k=0).scores[:, 0]
    middle = float(scores.median())
    some = decode(*arguments, k=1, csls_k=0, threshold=middle)
    assert sum(bool(entry.matches) for entry in some) == int((scores >= middle).sum())
    with pytest.raises(InputError, match="0 entities to decode and 0 to match with"):
        decode(*arguments, known=problem.pair.links)


def test_what_decoding_refuses(trained):
    arguments = (trained.embedding, trained.problem.pair)
    with pytest.raises(
        ConfigError, match="direction must be one of left_to_right, right_to_left; got 'back'"
    ):
        decode(*arguments, direction="back")
    with pytest.raises(InputError, match="k must be a whole number of at least 1; got 0"):
        decode(*arguments, k=0)
    with pytest.raises(InputError, match="csls_k must be a whole number of at least 0; got -1"):
        decode(*arguments, csls_k=-1)


def test_one_to_one_links_are_ranked_as_they_were(trained):
    """The same figures as ranks of rows that stand side by side, among further candidates at their end."""
    problem, links = trained.problem, trained.problem.split.test
    pair = problem.pair
    others = [
        entities[~torch.isin(entities, links[:, side])]
        for side, entities in enumerate((pair.left_entities, pair.right_entities))
    ]
    joint = trained.embedding.embed(torch.cat([links.t().reshape(-1), *others]))
    left, right, more_left, more_right = joint.split([24, 24, 16, 16])
    for candidates, extra in (("test", (None, None)), ("all", (more_left, more_right))):
        metrics = evaluate_links(trained.embedding, pair, links, candidates=candidates, breakdown=False)
        expected = alignment_metrics(left, right, 10, *extra)
        assert metrics == {"protocol": candidates, **expected}


@pytest.fixture(scope="module")
def with_several_partners():
    """Left entities 0 to 3 have a second partner, a copy of the first; so has one right entity."""
    pair = synthetic_pair()
    count = pair.num_entities
    copies = torch.tensor([int(pair.links[entity, 1]) for entity in range(4)])
    again = torch.arange(count, count + 4)
    own = (pair.triples[pair.num_left_triples :, None, :] == copies[:, None]).any(1)
    copied = pair.triples[pair.num_left_triples :][own[:, 0] | own[:, 2]].clone()
    for old, new in zip(copies.tolist(), again.tolist(), strict=True):
        copied[:, ::2][copied[:, ::2] == old] = new
    features = {
        name: Feature(
            torch.cat([f.values.to_dense(), f.values.to_dense()[copies]]),
            torch.cat([f.present, f.present[copies]]),
        )
        for name, f in pair.features.items()
    }
    names = [f"entity {i}" for i in range(count + 4)]
    return dataclasses.replace(
        pair,
        uris=names,
        names=names,
        right_entities=torch.cat([pair.right_entities, again]),
        triples=torch.cat([pair.triples, copied]),
        links=torch.cat([pair.links, torch.stack([torch.arange(4), again], 1)]),
        features=features,
    )


def test_data_of_one_to_n_links_from_end_to_end(with_several_partners, tmp_path):
    config = Config.build(hidden_dim=16, rank=2, epochs=6, lr=0.02, seed_ratio=0.4, valid_ratio=0.2)
    result = fit(with_several_partners, config, tmp_path / "run", progress=False)
    split = result.problem.split
    metrics = result.metrics
    assert metrics["pairs"] == len(split.test)
    assert metrics["candidates"] == {
        "left_to_right": len(split.test[:, 1].unique()),
        "right_to_left": len(split.test[:, 0].unique()),
    }
    assert evaluate(tmp_path / "run", with_several_partners) == {
        "epoch": result.epoch,
        "best_epoch": result.best_epoch,
        "modalities": ["relation", "image"],
        **metrics,
    }
    decoded = decode(result.embedding, with_several_partners, with_several_partners.links)
    assert len(decoded) == 40
    assert {len(entry.partners) for entry in decoded} == {1, 2}


def test_targets_are_distinct_and_other_partners_are_no_rivals(with_several_partners):
    """An embedding that gives copies equal rows: the copy of a partner must not push it to rank 1.5."""
    pair = with_several_partners
    metrics = evaluate_links(_Lookup(pair), pair, pair.links, breakdown=False)
    assert metrics["pairs"] == 44
    assert metrics["candidates"] == {"left_to_right": 44, "right_to_left": 40}
    for score in ("cosine", "csls"):
        assert metrics[score]["left_to_right"]["mr"] == 1.0
        assert metrics[score]["right_to_left"]["mr"] == 1.0
    assert metrics["random"]["left_to_right"]["mr"] == pytest.approx((36 * 22.5 + 8 * 22) / 44)


class _Lookup:
    """Every entity has the row of what it is linked to."""

    def __init__(self, pair):
        self.rows = torch.zeros(pair.num_entities, 40)
        self.rows[torch.arange(40), torch.arange(40)] = 1
        self.rows[pair.links[:, 1]] = self.rows[pair.links[:, 0]]

    def embed(self, rows):
        return self.rows[rows]


def test_every_link_a_seed(tmp_path):
    pair = synthetic_pair()
    split = pair.split(1.0, 0.1)
    assert len(split.test) == 0
    config = Config.build(hidden_dim=16, rank=2, epochs=2)
    problem = assemble(pair, config, split)
    trainer = Trainer(problem, build_model(problem, config), config)
    trainer.start(False)
    with StopOnSignal(False) as stop:
        trainer.train(stop, progress=False)
    assert trainer.finish() == {}
    with pytest.raises(InputError, match="every known link is a seed"):
        evaluate_links(trainer.joint, pair, split.test)


def test_public_names():
    assert lf.runs.evaluate is evaluate
