"""Whitening: the formula, what it leaves alone, and that a run's embedding is the same when it is read back."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from loginmea_fast.errors import ConfigError
from loginmea_fast.evaluation import JointEmbedding, rank_links
from loginmea_fast.evaluation import whitening as module
from loginmea_fast.evaluation.embedding import StoredEmbedding
from loginmea_fast.evaluation.whitening import WhitenedEmbedding, whitened
from loginmea_fast.propagation import propagate_labels
from loginmea_fast.runs import fit, load_run
from loginmea_fast.training import Config
from loginmea_fast.whitening import whiten_rows
from tests.training.synthetic import synthetic_pair

PARTS = [("graph", 5), ("name", 3)]


def stored(seed: int = 0, count: int = 200) -> StoredEmbedding:
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(count, 8, generator=generator) * torch.tensor([4.0, 2, 1, 1, 0.5, 3, 1, 1]) + 0.5
    rows[::7, 5:] = 0  # entities without a name
    return StoredEmbedding(F.normalize(rows, dim=1), PARTS)


def formula(rows: torch.Tensor, power: float, centred: bool = True) -> torch.Tensor:
    """Of one part, in double precision, by the inverse root of its covariance."""
    known = rows.any(1)
    x = F.normalize(rows[known].double(), dim=1)
    mean = x.mean(0) if centred else torch.zeros_like(x[0])
    covariance = x.T @ x / len(x) - mean.outer(mean)
    covariance = (len(x) * covariance + covariance.trace() * torch.eye(x.shape[1])) / (len(x) + x.shape[1])
    values, vectors = torch.linalg.eigh(covariance)
    y = (x - mean) @ (vectors @ torch.diag(values ** (-power / 2)) @ vectors.T)
    out = torch.zeros_like(rows, dtype=torch.float64)
    out[known] = F.normalize(y, dim=1) * rows[known].double().norm(dim=1).mean()
    return out


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
def test_rows_are_those_of_the_formula_part_by_part(power: float) -> None:
    embedding = stored()
    everyone = torch.arange(200)
    found = whitened(embedding, everyone, power)
    parts = [formula(part, power) for part in embedding.rows.split([5, 3], 1)]
    expected = F.normalize(torch.cat(parts, 1), dim=1)
    torch.testing.assert_close(found.embed(everyone).double(), expected, atol=1e-5, rtol=1e-4)
    assert found.parts == PARTS
    some = torch.tensor([9, 3, 9])
    torch.testing.assert_close(found.embed(some), found.embed(everyone)[some])
    assert not found.embed(everyone)[::7, 5:].any()


def test_labels_are_whitened_without_a_mean_and_unknown_ones_stay_zero() -> None:
    labels = stored().rows.clone()
    labels[10:20] = 0
    expected = F.normalize(formula(labels, 0.5, centred=False), dim=1)
    found = whiten_rows(labels, 0.5, centred=False)
    assert found is labels
    torch.testing.assert_close(found.double(), expected, atol=1e-5, rtol=1e-4)


def test_full_whitening_leaves_no_direction_that_is_shared_by_all() -> None:
    generator = torch.Generator().manual_seed(1)
    rows = torch.randn(3000, 6, generator=generator) + torch.tensor([5.0, 0, 0, 0, 0, 0])
    found = whitened(StoredEmbedding(rows), torch.arange(3000), 1.0).embed(torch.arange(3000))
    covariance = torch.cov(found.T)
    torch.testing.assert_close(covariance, torch.eye(6) / 6, atol=0.02, rtol=0)


def test_a_direction_shared_by_all_no_longer_hides_the_partner() -> None:
    generator = torch.Generator().manual_seed(2)
    own = torch.randn(300, 32, generator=generator)
    shared = torch.randn(2, 32, generator=generator) * 2
    left, right = (own + 0.5 * torch.randn(300, 32, generator=generator) for _ in range(2))
    mix = torch.randn(600, 2, generator=generator)
    embedding = StoredEmbedding(F.normalize(torch.cat([left, right]) + mix @ shared, dim=1))
    links = torch.stack([torch.arange(300), torch.arange(300, 600)], 1)

    def found(embedding) -> float:
        ranks = rank_links(embedding, links, links[:, 0], links[:, 1], csls_k=0)
        return float((ranks[0] <= 1).double().mean())

    assert found(whitened(embedding, links.T.reshape(-1), 0.5)) > found(embedding) + 0.1


def test_rows_that_are_all_alike_and_no_rows_at_all_pass_through() -> None:
    same = StoredEmbedding(F.normalize(torch.ones(10, 4), dim=1))
    assert torch.isfinite(whitened(same, torch.arange(10), 0.5).embed(torch.arange(10))).all()
    assert not whiten_rows(torch.zeros(10, 4), 0.5).any()
    assert whitened(stored(), torch.arange(200), 0.5).embed(torch.arange(0)).shape == (0, 8)


def test_many_rows_are_judged_by_every_nth(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    embedding = stored()

    class Watched:
        parts = PARTS

        def embed(self, rows):
            asked.append(rows)
            return embedding.embed(rows)

    monkeypatch.setattr(module, "SAMPLE", 60)
    whitened(Watched(), torch.arange(200), 0.5)
    assert asked[0].tolist() == list(range(0, 200, 4))


def test_a_run_aligns_by_whitened_rows_and_reads_them_back(tmp_path) -> None:
    config = Config.build(
        preset="loginmea", hidden_dim=16, rank=2, epochs=3, seed_ratio=0.4, valid_ratio=0.2, warmup_epochs=1
    )
    plain = fit(synthetic_pair(), config, progress=False)
    run = fit(synthetic_pair(), config.override(whitening=0.5), tmp_path / "run", progress=False)
    assert isinstance(run.embedding, WhitenedEmbedding)
    everyone = torch.arange(80)
    expected = whitened(
        JointEmbedding(run.model, run.problem.features, run.problem.graph), everyone, 0.5
    ).embed(everyone)
    assert torch.equal(run.embedding.embed(everyone), expected)
    assert not torch.equal(plain.embedding.embed(everyone), expected)
    assert torch.equal(load_run(run.run.path, synthetic_pair()).embedding.embed(everyone), expected)


def test_a_power_outside_its_range_is_refused() -> None:
    with pytest.raises(ConfigError, match="'whitening' must be"):
        Config(whitening=1.5)


def test_propagated_labels_are_whitened_where_it_is_asked_for() -> None:
    pair = synthetic_pair()
    links = pair.links[:20]
    plain = propagate_labels(pair.graph(), links, width=64).embedding
    found = propagate_labels(pair.graph(), links, width=64, whitening=0.5).embedding
    assert torch.equal(found, whiten_rows(plain, 0.5, centred=False))
