from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from loginmea_fast import ops
from loginmea_fast.errors import ConfigError
from loginmea_fast.nn import LoginMEAOutput
from loginmea_fast.runs import assemble, build_model, fit
from loginmea_fast.training import Config
from loginmea_fast.training.objectives import OBJECTIVES, Batch, WeightedObjectives, objective_weights
from loginmea_fast.training.objectives.hard_sample import score_deviation
from tests.training.synthetic import synthetic_pair

SMALL = {
    "preset": "loginmea",
    "hidden_dim": 16,
    "rank": 2,
    "epochs": 6,
    "batch_size": 8,
    "eval_every": 3,
    "hard_samples": 10,
}


def _output(links: int, further: int, width: int = 6) -> tuple[LoginMEAOutput, list[Tensor]]:
    """An output whose leaves are returned, too: the graph's part and one modality."""
    parts = [torch.randn(2 * links + further, width, requires_grad=True) for _ in range(2)]
    both = torch.cat(parts, 1)
    return LoginMEAOutput(F.normalize(both), parts[0], {"image": parts[1]}, both), parts


def _batch(links: int, further: int) -> Batch:
    same = torch.empty(0, 2, dtype=torch.int64)
    return Batch(slice(0, links), slice(links, 2 * links), slice(2 * links, 2 * links + further), same)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_objective_returns_the_terms_that_it_names_and_gradients(name: str) -> None:
    objective = OBJECTIVES[name](Config())
    output, leaves = _output(5, 4)
    kept = WeightedObjectives(Config(objectives=(name,)), ["image"], True).kept(output)
    there = {field for field, value in kept._asdict().items() if isinstance(value, Tensor) or value}
    assert there == {"joint", *objective.reads}
    found = objective(kept, _batch(5, 4))
    assert tuple(found) == objective.terms(["image"], True)
    torch.stack(list(found.values())).sum().backward()
    assert all(leaf.grad is not None and leaf.grad.isfinite().all() for leaf in leaves)


@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_shares_of_a_batch_add_up_to_its_loss_and_gradient(name: str, bidirectional: bool) -> None:
    objective = OBJECTIVES[name](Config(bidirectional=bidirectional))
    output, leaves = _output(7, 4)
    batch = _batch(7, 4)._replace(same=torch.tensor([[0, 5], [5, 0], [2, 3], [3, 2]]))
    whole = objective(output, batch)
    torch.stack(list(whole.values())).sum().backward(retain_graph=True)
    gradients = [leaf.grad.clone() for leaf in leaves]
    for leaf in leaves:
        leaf.grad = None
    total = dict.fromkeys(whole, 0.0)
    for part in (slice(0, 2), slice(2, 3), slice(3, 7)):
        share = objective(output, batch._replace(part=part))
        torch.stack(list(share.values())).sum().backward(retain_graph=True)
        total = {term: total[term] + share[term].item() for term in whole}
    assert total == pytest.approx({term: value.item() for term, value in whole.items()}, rel=1e-6)
    for leaf, gradient in zip(leaves, gradients, strict=True):
        assert torch.allclose(leaf.grad, gradient, atol=1e-6)


def test_contrastive_alone_is_the_operator_bit_for_bit() -> None:
    output, _ = _output(7, 0)
    config = Config(temperature=0.2, bidirectional=True, objectives=("contrastive",))
    total, terms = WeightedObjectives(config, ["image"], True)(output, _batch(7, 0))
    rows = output.unnormalized
    expected = ops.contrastive_loss(rows[:7], rows[7:14], 0.2, bidirectional=True)
    assert torch.equal(total, expected)
    assert torch.allclose(ops.contrastive_loss(output.joint[:7], output.joint[7:14], 0.2, True), expected)
    assert torch.equal(terms["contrastive"], expected)


def test_both_sides_of_a_batch_have_the_gradient_of_slices() -> None:
    rows = torch.randn(9, 3, dtype=torch.float64, requires_grad=True)
    batch = Batch(slice(1, 3), slice(5, 7), slice(8, 9), torch.empty(0, 2, dtype=torch.int64))
    assert torch.autograd.gradcheck(batch.sides, rows)
    left, right = batch.sides(rows)
    assert torch.equal(left, rows[1:3])
    assert torch.equal(right, rows[5:7])


def test_the_hard_sample_loss_is_that_of_its_formula() -> None:
    output, leaves = _output(4, 9)
    (loss,) = OBJECTIVES["hard_sample"](Config(hard_scale=7.0))(output, _batch(4, 9)).values()
    loss.backward()
    gradients = [leaf.grad.clone() for leaf in leaves]
    double = [leaf.detach().double().requires_grad_() for leaf in leaves]
    x = torch.cat(double, 1)
    s = -(x[:8, None] - x[None]).square().sum(-1)
    own, positives = torch.arange(8), torch.arange(8).roll(4)
    # The deviation that is held constant is of s without the query's own part, which shifts all of a row alike.
    logits = 7.0 * (s - s.gather(1, positives[:, None])) / s.detach().std(1, correction=0)[:, None]
    logits[own, own] = logits[own, positives] = -torch.inf
    expected = logits.logsumexp(1).mean()
    expected.backward()
    assert abs(loss.item() - expected.item()) < 1e-5 * abs(expected.item())
    for a, e in zip(gradients, double, strict=True):
        assert torch.allclose(a.double(), e.grad, rtol=1e-4, atol=1e-5)


def test_the_sampled_deviation_is_near_that_over_all_keys() -> None:
    queries, keys = torch.randn(50, 20), torch.randn(7300, 20)
    bias = -keys.square().sum(1) / 2
    exact = (queries @ keys.T + bias).std(1, correction=0)
    assert ((score_deviation(queries, keys, bias) / exact - 1).abs() < 0.2).all()


def test_weights_fixed_and_learned() -> None:
    output, _ = _output(5, 4)
    names = ("contrastive:2", "modality_contrastive:0.5")
    total, terms = WeightedObjectives(Config(objectives=names), ["image"], True)(output, _batch(5, 4))
    by_hand = 2 * terms["contrastive"] + 0.5 * (
        terms["modality_contrastive.image"] + terms["modality_contrastive.graph"]
    )
    assert torch.allclose(total, by_hand)
    learned = WeightedObjectives(Config(objectives=names, learned_weights=True), ["image"], True)
    with torch.no_grad():
        learned.log_variances.copy_(torch.tensor([0.1, -0.2, 0.3]))
    total, terms = learned(output, _batch(5, 4))
    total.backward()
    weighted = torch.stack(list(terms.values())) * torch.tensor([2.0, 0.5, 0.5])
    v = learned.log_variances.detach()
    assert torch.allclose(total, ((-v).exp() * weighted + v).sum())
    assert torch.allclose(learned.log_variances.grad, 1 - (-v).exp() * weighted)


@pytest.mark.parametrize(
    "objectives",
    [("hard_sample",), ("contrastive", "modality_contrastive:0.3")],
    ids=["hard_sample", "per modality"],
)
def test_a_run_with_other_objectives_learns_and_resumes_bit_for_bit(tmp_path, objectives) -> None:
    pair = synthetic_pair()
    options = {**SMALL, "objectives": objectives, "learned_weights": len(objectives) > 1}
    whole = fit(pair, Config(**options), tmp_path / "whole", progress=False)
    losses = [record["loss"] for record in whole.history if record["event"] == "epoch"]
    assert losses[-1] < losses[0]

    from loginmea_fast.training.updates import Updates

    class Killed(Exception):
        pass

    step = Updates.step

    def until_four(self, epoch, *rest):
        if epoch == 4:
            raise Killed
        return step(self, epoch, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Updates, "step", until_four)
        with pytest.raises(Killed):
            fit(pair, Config(**options), tmp_path / "cut", progress=False)
    resumed = fit(pair, out=tmp_path / "cut", resume=True, progress=False)
    again = [record["loss"] for record in resumed.history if record["event"] == "epoch"]
    assert again == losses
    if len(objectives) > 1:
        terms = [record["terms"] for record in resumed.history if record["event"] == "epoch"]
        assert set(terms[0]) == {
            "contrastive",
            *(f"modality_contrastive.{m}" for m in ("relation", "image", "graph")),
        }


def test_further_entities_have_no_training_link_and_change_by_epoch() -> None:

    from loginmea_fast.training.loop import Trainer

    config = Config(**{**SMALL, "objectives": ("hard_sample",)})
    problem = assemble(synthetic_pair(), config)
    trainer = Trainer(problem, build_model(problem, config), config)
    sampler = trainer.updates.sampler()
    everyone = sampler.positions(0)
    first, second = (sampler.further(everyone, 10, epoch, 0) for epoch in (0, 1))
    assert len(first) == 20
    assert not torch.isin(first, sampler.links).any()
    assert torch.equal(first, sampler.further(everyone, 10, 0, 0))
    assert not torch.equal(first, second)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"objectives": ("contrasive",)}, "must name some of contrastive, hard_sample.*got 'contrasive'"),
        ({"objectives": ("contrastive", "contrastive:2")}, "names contrastive twice"),
        ({"objectives": ("contrastive:much",)}, "gives contrastive the weight 'much'"),
        ({"objectives": ("contrastive:-1",)}, "gives contrastive the weight '-1'"),
        ({"objectives": ("contrastive:0", "hard_sample:0")}, "gives every loss the weight 0"),
        ({"objectives": ("hard_sample",), "compat": "authors"}, "trains with the contrastive loss alone"),
    ],
)
def test_wrong_objectives_are_named(values, message) -> None:
    with pytest.raises(ConfigError, match=message):
        objective_weights(Config(**values))


def test_a_batch_without_negatives_is_refused() -> None:
    output, _ = _output(1, 0)
    with pytest.raises(ConfigError, match="hard_sample needs negatives"):
        OBJECTIVES["hard_sample"](Config())(output, _batch(1, 0))
