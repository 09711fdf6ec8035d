"""Queries are sampled where all would be compared with too much; what is asked is answered as among all."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from loginmea_fast import ops
from loginmea_fast.training import Config
from loginmea_fast.training.subsample import mutual_pairs, sample_queries
from tests.training.test_loop import BOOTSTRAP, SMALL, assert_same_parameters, losses, new_trainer, quiet_fit


def test_as_many_queries_as_may_be_compared() -> None:
    assert sample_queries(10, 100, 0, seed=1) is None
    assert sample_queries(10, 100, 1000, seed=1) is None
    some = sample_queries(10, 100, 999, seed=1)
    assert len(some) == len(some.unique()) == 9
    assert some.tolist() == sorted(some.tolist())
    assert torch.equal(some, sample_queries(10, 100, 999, seed=1))
    assert len(sample_queries(10, 100, 1, seed=1)) == 1
    assert (
        sample_queries(10**6, 100, 10**6, seed=1).tolist()
        != sample_queries(10**6, 100, 10**6, seed=2).tolist()
    )


def test_pairs_of_a_sample_are_those_of_all() -> None:
    generator = torch.Generator().manual_seed(0)
    left, right = (F.normalize(torch.randn(n, 6, generator=generator), dim=1) for n in (60, 50))
    left[7], right[9] = left[3], right[4]
    everyone, asked = mutual_pairs(left, right, 60 * 50, seed=0)
    assert asked is None
    assert torch.equal(everyone, ops.mutual_nearest(left, right))
    some, asked = mutual_pairs(left, right, 2999, seed=0)
    assert asked == 2999 // 110
    chosen = sample_queries(60, 110, 2999, seed=0)
    assert torch.equal(some, everyone[torch.isin(everyone[:, 0], chosen)])
    assert 0 < len(some) < len(everyone)


def test_validation_ranks_a_sample_among_all_and_says_so() -> None:
    config = Config.build(SMALL)
    trainer = new_trainer(config)
    whole, ranks = trainer._validation_metrics()
    assert "sampled_links" not in whole
    valid, rivals = trainer.problem.split.valid, trainer._without_training_link()
    each = sum(map(len, rivals))
    trainer.config = config.override(max_comparisons=2 * each)
    some, of_some = trainer._validation_metrics()
    assert some["sampled_links"] == len(of_some) == 2 < len(valid)
    chosen = sample_queries(len(valid), each, 2 * each, config.seed)
    assert of_some == [ranks[place] for place in chosen.tolist()]


def test_a_run_by_samples_repeats_and_says_of_how_many(tmp_path, capsys) -> None:
    few = {"epochs": 20, "max_comparisons": 500, "eval_every": 5}
    first = quiet_fit(BOOTSTRAP, out=tmp_path / "a", **few)
    again = quiet_fit(BOOTSTRAP, **few)
    assert_same_parameters(first.model.state_dict(), again.model.state_dict())
    proposals = [r for r in first.history if r["event"] == "bootstrap"]
    assert 0 < proposals[0]["sampled_entities"] < 20
    assert sum(r["joined"] for r in proposals) > 0
    validations = [r for r in first.history if r["event"] == "validation"]
    assert len(validations) == 4
    assert not any("sampled_links" in r for r in validations), "five links are few enough"
    exact = quiet_fit(BOOTSTRAP, epochs=20, eval_every=5)
    assert not any("sampled_entities" in r or "sampled_links" in r for r in exact.history)
    assert losses(exact.history) != losses(first.history)


@pytest.mark.parametrize("most", [0, 10**9])
def test_below_the_limit_nothing_changes(most: int) -> None:
    found = [quiet_fit(BOOTSTRAP, epochs=8, max_comparisons=m) for m in (most, 20_000_000_000)]
    assert_same_parameters(*(result.model.state_dict() for result in found))
