"""Rounds: links of proposals, new parameters, and that a run in rounds stops and goes on like any other."""

from __future__ import annotations

import weakref
from dataclasses import replace

import pytest
import torch

from loginmea_fast.errors import ConfigError
from loginmea_fast.runs import evaluate, fit
from loginmea_fast.training import Config, late, loop
from loginmea_fast.training.loop import Trainer
from loginmea_fast.training.rounds import propose
from loginmea_fast.training.standing import Standing
from loginmea_fast.training.updates import Updates
from tests.training.synthetic import synthetic_pair, with_values

ROUNDS = {
    "hidden_dim": 16,
    "epochs": 6,
    "updates": 2,
    "rounds": 2,
    "lr": 0.02,
    "hard_samples": 20,
    "seed_ratio": 0.4,
    "valid_ratio": 0.2,
    "eval_every": 3,
    "propagation_width": 64,
    "whitening": 0,
}


def quiet_fit(out=None, pair=None, **more):
    return fit(pair or synthetic_pair(), Config.build(ROUNDS, **more), out, progress=False)


def records(result, event):
    return [record for record in result.history if record["event"] == event]


def facts(result):
    """The records without what a clock says."""
    kept = [r for r in result.history if r["event"] not in ("start", "resume")]
    clocks = ("seconds", "peak_memory", "step_memory", "beside_seconds")
    return [{k: v for k, v in record.items() if k not in clocks} for record in kept]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return quiet_fit(tmp_path_factory.mktemp("rounds") / "whole")


NONE = torch.empty(0, 2, dtype=torch.int64)


class Fixed:
    """An embedding that is a table."""

    def __init__(self, rows):
        self.rows = torch.nn.functional.normalize(rows, dim=1)

    def embed(self, ids):
        return self.rows[ids]


def test_certain_pairs_are_proposed_and_doubtful_ones_are_not():
    torch.manual_seed(0)
    rows = torch.randn(10, 32)
    rows[5:9] = rows[0:4] + 0.01
    rows[4], rows[9] = rows[3], torch.randn(32)  # 3 and 4 both claim 8
    found = propose(Fixed(rows), torch.arange(5), torch.arange(5, 10), NONE, 0.7)
    assert {tuple(pair) for pair in found.tolist()} >= {(0, 5), (1, 6), (2, 7)}
    assert not torch.isin(found, torch.tensor([3, 4, 8])).any()
    assert propose(Fixed(rows), torch.arange(0), torch.arange(5, 10), NONE, 0.7).shape == (0, 2)


def test_a_rejected_pair_is_not_proposed_and_stands_in_nobodys_way():
    torch.manual_seed(0)
    rows = torch.randn(10, 32)
    rows[5:10] = rows[:5] + 0.01
    rows[1] = rows[0] + 0.02 * torch.randn(32)  # 5 and 6 are alike: each of 0 and 1 could be either
    rows[6] = rows[1] + 0.01
    rejected = torch.tensor([[0, 5]])
    found = propose(Fixed(rows), torch.arange(5), torch.arange(5, 10), rejected, 0.5).tolist()
    assert sorted(found) == [[0, 6], [1, 5], [2, 7], [3, 8], [4, 9]]
    all_pairs = torch.cartesian_prod(torch.arange(5), torch.arange(5, 10))
    assert propose(Fixed(rows), torch.arange(5), torch.arange(5, 10), all_pairs, 0.5).shape == (0, 2)


def test_a_round_begins_with_new_parameters_and_links_of_the_last_one(whole):
    rounds, epochs = records(whole, "round"), records(whole, "epoch")
    assert [r["epoch"] for r in rounds] == [6, 12]
    train = len(whole.problem.split.train)
    assert [r["links"] for r in epochs] == [train] * 6 + [train + rounds[0]["links"]] * 6 + [
        train + rounds[1]["links"]
    ] * 6
    assert rounds[0]["links"] > 0
    assert epochs[6]["loss"] > epochs[5]["loss"], "parameters begin anew"
    assert len({r["lr"] for r in epochs}) == 6, "each round has the same learning rates"
    assert [r["global_step"] for r in epochs] == torch.tensor([r["updates"] for r in epochs]).cumsum(
        0
    ).tolist()


def test_the_kept_epoch_comes_with_the_links_of_its_round(whole):
    number = (whole.best_epoch - 1) // 6
    joined = whole.run.load("best")[0].part("links")["joined"]
    assert len(joined) == (0 if number == 0 else records(whole, "round")[number - 1]["links"])
    again = evaluate(whole.run.path, pair=synthetic_pair())
    assert again["csls"] == whole.metrics["csls"]


@pytest.mark.parametrize(("epoch", "update"), [(0, 0), (2, 1), (6, 0), (7, 1), (13, 0)])
def test_a_run_that_is_cut_anywhere_goes_on_bit_for_bit(tmp_path, monkeypatch, whole, epoch, update):
    class Killed(Exception):
        pass

    step = Updates.step

    def until(self, e, u=0):
        if (e, u) == (epoch, update):
            raise Killed
        return step(self, e, u)

    monkeypatch.setattr(Updates, "step", until)
    monkeypatch.setattr(loop, "_UNSAVED_SECONDS", 0)
    with pytest.raises(Killed):
        quiet_fit(tmp_path / "cut")
    monkeypatch.undo()
    resumed = fit(synthetic_pair(), out=tmp_path / "cut", resume=True, progress=False)
    assert facts(resumed) == facts(whole)
    for name in ("best.safetensors", "last.safetensors"):
        assert (tmp_path / "cut" / name).read_bytes() == (whole.run.path / name).read_bytes(), name


def test_test_partners_change_no_parameter_and_no_choice(whole):
    """Test links are read once, at the end: who belongs to whom among them is seen by nothing before."""
    split = whole.problem.split
    test = torch.stack([split.test[:, 0], split.test[:, 1].roll(1)], 1)
    pair = with_values(synthetic_pair(), split.test)  # which attributes mean the same is learned, too
    links = torch.cat([split.train, split.valid, test])
    other = fit(
        replace(pair, links=links, official_split=replace(split, test=test)),
        Config.build(ROUNDS, seed_ratio=None),
        progress=False,
    )
    same = fit(replace(pair, official_split=split), Config.build(ROUNDS, seed_ratio=None), progress=False)
    for name, value in same.model.state_dict().items():
        assert torch.equal(value, other.model.state_dict()[name]), name
    for event in ("validation", "round", "epoch"):
        assert [r for r in facts(other) if r["event"] == event] == [
            r for r in facts(same) if r["event"] == event
        ]
    assert other.embedding.weights == same.embedding.weights
    assert other.metrics != same.metrics


def test_rounds_end_where_they_gain_nothing(monkeypatch):
    monkeypatch.setattr(loop, "propose", lambda *args: torch.empty(0, 2, dtype=torch.int64))
    result = quiet_fit()
    assert len(records(result, "epoch")) == 6
    monkeypatch.undo()
    counts = iter([12, 5])
    monkeypatch.setattr(
        loop,
        "propose",
        lambda *args: synthetic_pair().links[-next(counts) :],  # known to nobody here
    )
    with pytest.warns(UserWarning, match="no validation link tells whether a round is better"):
        result = quiet_fit(rounds=5, valid_ratio=0.0)
    assert [r["links"] for r in records(result, "round")] == [12, 5]
    assert len(records(result, "epoch")) == 12


def test_a_key_beside_the_preset_is_said():
    result = quiet_fit(preset="best", rounds=0, epochs=2, members=2)
    (note,) = records(result, "start")[0]["notes"]
    assert note.startswith("preset best, but with ")
    assert {"epochs=2", "rounds=0"} < set(note.removeprefix("preset best, but with ").split(", "))


def test_rounds_that_validation_judges_are_no_cause_for_a_warning(recwarn):
    quiet_fit(rounds=1, epochs=2)
    quiet_fit(rounds=0, epochs=2, valid_ratio=0.0)
    assert not any("no validation link tells" in str(one.message) for one in recwarn)


def test_without_rounds_it_is_one_training():
    result = quiet_fit(rounds=0, epochs=2)
    assert not records(result, "round")
    assert len(records(result, "epoch")) == 2


def test_the_length_of_a_round_is_that_of_its_run(tmp_path):
    quiet_fit(tmp_path / "run", epochs=2)
    with pytest.raises(ConfigError, match="has rounds of 2 epochs"):
        fit(synthetic_pair(), out=tmp_path / "run", resume=True, progress=False, epochs=4)


def test_patience_ends_a_round_and_the_next_one_begins(monkeypatch):
    """Progress is within a round: its first epochs are behind the best of the rounds before it."""
    scores = iter([0.9, 0.1, 0.1, 0.5, 0.6, 0.7, 0.8, 0.9, 0.9, 0.2, 0.1, 0.1])
    monkeypatch.setattr(
        Trainer, "_validation_metrics", lambda self: ({"hits@1": 0.0, "mrr": next(scores)}, [])
    )
    result = quiet_fit(eval_every=1, patience=2)
    assert [r["epoch"] for r in records(result, "validation")] == [1, 2, 3, *range(7, 13), 13, 14, 15]
    assert [r["epoch"] for r in records(result, "round")] == [6, 12]
    assert result.best_epoch == 12


@pytest.mark.parametrize(("second", "kept"), [((1.0, 0.78), 12), ((0.88, 0.9), 6)])
def test_a_round_is_worse_where_more_than_chance_says_so(monkeypatch, second, kept):
    """Both fall by .01 in the mean: in the first links disagree about it, in the second none has become better."""
    of_round = [(0.9, 0.9), second, (0.1, 0.1)]

    def fake(self):
        ranks = list(of_round[(self.standing.epoch - 1) // 6]) * 10
        return {"hits@1": 0.0, "mrr": sum(ranks) / 20}, ranks

    monkeypatch.setattr(Trainer, "_validation_metrics", fake)
    result = quiet_fit(eval_every=0)
    assert result.best_epoch == kept
    assert len(records(result, "epoch")) == kept + 6, "a round that is worse is the last"


def test_rounds_are_held_against_the_highest_of_all(tmp_path, monkeypatch):
    """Each is worse than the one before by less than chance, the third than the first by more."""
    of_round = [(0.9, 0.9), (1.0, 0.78), (0.88, 0.86), (0.1, 0.1)]

    def fake(self):
        ranks = list(of_round[(self.standing.epoch - 1) // 6]) * 10
        return {"hits@1": 0.0, "mrr": sum(ranks) / 20}, ranks

    monkeypatch.setattr(Trainer, "_validation_metrics", fake)
    monkeypatch.setattr(loop, "propose", lambda *_: synthetic_pair().links[-5:])
    result = quiet_fit(tmp_path / "run", eval_every=0, rounds=3)
    assert result.best_epoch == 12
    assert len(records(result, "epoch")) == 18, "a round that is worse is the last"
    standing = Standing.of(result.run.load("last")[0].state)
    assert (standing.best_score, standing.highest_score) == (pytest.approx(0.89), pytest.approx(0.9))
    assert standing.highest_ranks == [0.9] * 20


def test_links_that_fall_a_little_each_round_do_not_fall_for_ever():
    """225 links, each round .9 standard errors of the difference below the one before."""
    standing, config = Standing(), Config(epochs=1, rounds=3)
    apart = torch.randn(4, 225, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    apart = (apart - apart.mean(1, True)) / apart.std(1, keepdim=True) * 0.3 / 2**0.5
    for epoch, score in enumerate((0.8, 0.782, 0.764, 0.746), 1):
        standing.epoch = epoch
        kept = standing.judge(score, (score + apart[epoch - 1]).tolist(), config)
        assert kept == (epoch < 3)
        assert standing.best_epoch == min(epoch, 2)
    assert (standing.best_score, standing.highest_score) == (0.782, 0.8)


def test_within_a_round_the_best_counts_and_no_epoch_is_far_below_the_highest():
    standing, config = Standing(), Config(epochs=3)
    told = [
        (3, (0.9, 0.9), True),
        (4, (1.0, 0.78), True),  # less than an error below
        (5, (1.0, 0.77), False),  # so is this, but the round has a better one
        (6, (0.895, 0.895), False),  # better than that, and surely worse than the highest
    ]
    for epoch, ranks, kept in told:
        standing.epoch = epoch
        assert standing.judge(sum(ranks) / 2, list(ranks) * 10, config) == kept, epoch


def test_a_checkpoint_that_knows_no_highest_goes_on_from_what_it_kept():
    old = {"epoch": 6, "best_score": 0.9, "best_ranks": [0.9, 0.9], "best_epoch": 6, "gone": 1}
    standing = Standing.of(old)
    assert (standing.best_score, standing.best_epoch) == (0.9, 6)
    assert (standing.highest_score, standing.highest_ranks) == (0.9, [0.9, 0.9])
    assert Standing.of({"epoch": 1, "best_score": None}).highest_score is None
    assert Standing.of(vars(standing)) == standing


def test_a_round_that_patience_has_ended_is_resumed_bit_for_bit(tmp_path, monkeypatch):
    def fake(self):
        return {"hits@1": 0.0, "mrr": 1 / (1 + self.standing.epoch % 6)}, []

    class Killed(Exception):
        pass

    monkeypatch.setattr(Trainer, "_validation_metrics", fake)
    options = {"eval_every": 1, "patience": 2}
    whole = quiet_fit(tmp_path / "whole", **options)
    assert [r["epoch"] for r in records(whole, "epoch")] == [1, 2, 3, 7, 8, 9, 13, 14, 15]
    save, saves = Trainer._save, iter(range(1000))

    def die(self):
        save(self)
        if next(saves) == kill_after:
            raise Killed

    for kill_after in (4, 5, 6):  # before and after the round is ended
        out, saves = tmp_path / f"cut {kill_after}", iter(range(1000))
        monkeypatch.setattr(Trainer, "_save", die)
        with pytest.raises(Killed):
            quiet_fit(out, **options)
        monkeypatch.setattr(Trainer, "_save", save)
        assert facts(fit(synthetic_pair(), out=out, resume=True, progress=False)) == facts(whole)


def test_bootstrapping_begins_anew_with_a_round(monkeypatch):
    """Its epochs are those of the round, and no candidate of parameters that are gone is kept."""
    asked = []

    def found(self, epoch, sampled, left, right):
        asked.append((self.standing.epoch, len(self.bootstrapping.candidates)))
        return torch.zeros(1, 2, dtype=torch.int64)

    monkeypatch.setattr(Trainer, "_mutual_nearest", found)
    links = synthetic_pair().links[-5:]
    monkeypatch.setattr(loop, "propose", lambda *_: links)  # or there is no second round
    quiet_fit(rounds=1, bootstrap=True, bootstrap_start=3, bootstrap_every=1, bootstrap_window=2)
    assert asked == [(4, 0), (5, 1), (6, 0), (10, 0), (11, 1), (12, 0)]


def joining(monkeypatch, scores, **more):
    """A run in whose windows a pair joins after every second epoch; where one did, and where no more were to."""
    found = iter(scores)

    def validated(self):
        score, apart = next(found), 0.05 * (-1) ** self.standing.epoch
        return {"hits@1": score, "mrr": score}, [score + apart, score - apart]

    first = torch.zeros(1, 2, dtype=torch.int64)
    monkeypatch.setattr(Trainer, "_validation_metrics", validated)
    monkeypatch.setattr(Trainer, "_mutual_nearest", lambda *_: first)
    windows = {"bootstrap": True, "bootstrap_start": 1, "bootstrap_every": 2, "bootstrap_window": 1}
    result = quiet_fit(eval_every=1, **windows, **more)
    bootstrap = records(result, "bootstrap")
    return [r["epoch"] for r in bootstrap if r["joined"]], [r["epoch"] for r in bootstrap if r.get("ended")]


@pytest.mark.parametrize(
    ("scores", "joins", "ends"),
    [
        ((0.5, 0.6, 0.3, 0.7, 0.8, 0.8), [2], [3]),
        ((0.5, 0.6, 0.59, 0.7, 0.8, 0.8), [2, 4, 6], []),
        ((0.5, 0.4, 0.6, 0.2, 0.8, 0.8), [2, 4, 6], []),
        ((0.5, 0.6, 0.7, 0.2, 0.8, 0.8), [2, 4, 6], []),
        ((0.5, 0.6, 0.6, 0.2, 0.8, 0.8), [2, 4], [4]),
    ],
    ids=["falls", "by chance", "is best later", "rises first", "falls as the next join"],
)
def test_a_window_that_makes_validation_fall_is_the_last(monkeypatch, scores, joins, ends):
    """A validation is of the links that had joined before its epoch."""
    assert joining(monkeypatch, scores, rounds=0, epochs=6) == (joins, ends)


def test_a_round_is_held_against_itself(monkeypatch):
    """Its first validations are behind the best of the round before, which says nothing of the links that joined."""
    monkeypatch.setattr(loop, "propose", lambda *_: synthetic_pair().links[-5:])
    scores = (0.8, 0.9, 0.9, 0.9, 0.3, 0.4, 0.5, 0.6)
    assert joining(monkeypatch, scores, rounds=1, epochs=4) == ([2, 4, 6, 8], [])


def test_a_warm_start_is_of_the_first_round(tmp_path):
    source = quiet_fit(tmp_path / "source", rounds=0, epochs=3)
    warm = quiet_fit(epochs=2, rounds=1, init_from=source.run.path)
    cold = quiet_fit(epochs=2, rounds=1)
    first, anew = ([r["loss"] for r in records(result, "epoch")] for result in (warm, cold))
    assert first[0] < anew[0]
    assert first[2] > first[1], "the second round begins from new parameters"


def test_an_embedding_is_let_go_of_before_the_next_is_formed(monkeypatch):
    formed = []

    def beside(*args, **more):
        assert all(one() is None for one in formed), "two embeddings at once"
        found = late.beside_model(*args, **more)
        formed.append(weakref.ref(found.beside[0].rows))
        return found

    monkeypatch.setattr(loop, "beside_model", beside)
    monkeypatch.setattr(
        loop, "embedding_of", lambda joint, *rest: beside(late.model_embedding(joint, *rest[:2]), *rest)
    )
    quiet_fit()
    assert len(formed) == 3
