"""What an update sees, and embeddings that linked entities share."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from loginmea_fast.data.tables import ValueTable
from loginmea_fast.errors import DataError
from loginmea_fast.parallel.shards import SharedRows
from loginmea_fast.runs import assemble, build_model, fit
from loginmea_fast.training import Config
from loginmea_fast.training.loop import Trainer
from loginmea_fast.training.sampling import Sampler, batches, check_negatives
from loginmea_fast.training.sharing import followers_of
from tests.training.synthetic import synthetic_pair

GRAPH = synthetic_pair().graph()
# 0 has two partners and 43 has two: these three links are one group.
LINKS = torch.tensor([[0, 41], [1, 42], [0, 43], [2, 43], [3, 44], [4, 45]])


def sampler(links=LINKS, **values):
    return Sampler(Config(**{"batch_size": 2, "updates": 1, **values}), synthetic_pair(), links, GRAPH)


def test_an_epoch_sees_every_link_once_in_an_order_of_its_own():
    found = sampler()
    orders = [torch.cat([found.positions(epoch, u) for u in range(len(found.spans))]) for epoch in (0, 1)]
    for order in orders:
        assert sorted(order.tolist()) == list(range(6))
    assert not torch.equal(*orders)
    assert torch.equal(found.positions(1, 2), sampler().positions(1, 2))


def test_batches_are_small_enough_and_many_enough():
    assert [end - first for first, end in sampler(batch_size=4).spans] == [3, 3]
    assert len(sampler(batch_size=100, updates=3).spans) == 3
    assert len(sampler(batch_size=100, updates=50).spans) == 3, "a batch keeps two links"
    for links in range(2, 12):
        sizes = [end - first for first, end in batches(links, 2)]
        assert sum(sizes) == links
        assert set(sizes) <= {2, 3}, "one link alone has nothing to be told apart from"
    assert sampler(updates=0).spans == [(0, 6)]


def test_links_of_one_group_are_the_same_thing():
    same = {tuple(pair) for pair in sampler().same(torch.tensor([5, 3, 0, 2])).tolist()}
    assert same == {(1, 2), (2, 1), (1, 3), (3, 1), (2, 3), (3, 2)}
    assert len(sampler().same(torch.tensor([0, 1, 5]))) == 0
    assert len(sampler(LINKS[:2]).same(torch.tensor([0, 1]))) == 0


def test_further_entities_are_none_of_the_groups_of_the_update():
    found = sampler()
    assert found.entities(torch.tensor([0, 4])).tolist() == [0, 2, 3, 41, 43, 44]
    further = found.further(torch.tensor([0, 4]), 1000, 0, 0)
    assert len(further) == 80 - 6
    assert not torch.isin(further, torch.tensor([0, 2, 3, 41, 43, 44])).any()
    few = found.further(torch.tensor([0]), 7, 3, 1)
    assert (few < 40).sum() == (few >= 40).sum() == 7
    assert torch.equal(few, sampler().further(torch.tensor([0]), 7, 3, 1))
    assert not torch.equal(few, found.further(torch.tensor([0]), 7, 3, 2))


def test_shared_rows_are_one_parameter():
    """Trained by gradients of both rows, as one row that both entities look up would be."""
    shared = SharedRows(*followers_of(sampler().group_of), torch.device("cpu"))
    torch.manual_seed(0)
    table = torch.randn(80, 3, requires_grad=True)
    shared.spread(table)
    for one, other in ((0, 41), (0, 43), (0, 2), (1, 42), (3, 44)):
        assert torch.equal(table[one], table[other])
    weight = torch.randn(80, 3)
    (table * weight).sum().backward()
    shared.collect(table.grad)
    torch.testing.assert_close(table.grad[0], weight[[0, 2, 41, 43]].sum(0))
    torch.testing.assert_close(table.grad[50], weight[50])
    assert not table.grad[[2, 41, 43, 42, 44, 45]].any()


def test_linked_entities_stay_one_in_training():
    config = Config(rounds=0, epochs=1, hidden_dim=8, seed_ratio=0.5, hard_samples=5)
    problem = assemble(synthetic_pair(), config)
    trainer = Trainer(problem, build_model(problem, config), config)
    before = trainer.model.entity_embedding.detach().clone()
    for update in range(3):
        trainer.updates.step(0, update)
        table = trainer.model.entity_embedding.detach()
        left, right = problem.split.train.unbind(1)
        assert torch.equal(table[left], table[right])
    assert not torch.equal(before, table)


def test_an_update_does_not_see_the_embeddings_that_it_tells_apart():
    config = Config(rounds=0, hidden_dim=8, seed_ratio=0.5, hard_samples=5, dropout=0.0)
    losses = []
    for noise in (0.0, 1.0):
        problem = assemble(synthetic_pair(), config)
        trainer = Trainer(problem, build_model(problem, config), config)
        sampler = trainer.updates.sampler()
        entities = sampler.entities(sampler.positions(0, 1))
        with torch.no_grad():
            trainer.model.entity_embedding[entities] += noise
        losses.append(trainer.updates.step(0, 1).loss)
    assert torch.equal(*losses)


def test_a_value_modality_that_was_given_is_not_made_anew_of_attribute_values():
    pair = synthetic_pair()
    table = ValueTable(torch.arange(80), torch.zeros(80, dtype=torch.int64), ["a text"] * 80, ["k"], 0, "")
    given = replace(pair, features={"value": pair.features["image"]}, values=table)
    problem = assemble(given, Config(scale_features=False))
    assert torch.equal(problem.features["value"], pair.features["image"].values)


def test_links_that_nothing_can_be_learnt_from_are_refused_before_training(tmp_path):
    pair = synthetic_pair()
    star = torch.stack([torch.zeros(4, dtype=torch.int64), torch.arange(40, 44)], 1)
    for links, found in (
        (star, "all 4 training links share entities"),
        (LINKS[:1], "there is 1 training link"),
    ):
        with pytest.raises(DataError, match=f"{found}, and .* hard_samples above 0"):
            check_negatives(pair, links, 0)
        check_negatives(pair, links, 10)
    check_negatives(pair, LINKS, 0)
    known = replace(pair, links=star)
    with pytest.raises(DataError, match="share entities"):
        fit(known, out=tmp_path / "run", seed_ratio=1, hard_samples=0, progress=False)
    assert not (tmp_path / "run").exists()
    result = fit(known, seed_ratio=1, epochs=1, rounds=0, hidden_dim=8, propagation="none", progress=False)
    assert next(record["loss"] for record in result.history if record["event"] == "epoch") > 0


def test_batches_of_two_train_an_odd_number_of_links():
    config = Config(
        rounds=0, epochs=1, hidden_dim=8, batch_size=2, hard_samples=0, seed_ratio=0.3, valid_ratio=0.1
    )
    result = fit(synthetic_pair(), config, progress=False)
    assert len(result.problem.split.train) % 2
