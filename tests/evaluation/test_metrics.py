from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from loginmea_fast.errors import InputError
from loginmea_fast.evaluation.metrics import (
    alignment_metrics,
    degree_groups,
    presence_groups,
    random_baseline,
    rank_metrics,
)


def brute_force_ranks(left, right, csls_k, left_extra, right_extra):
    """Ranks by definition, one pair at a time, from the whole matrix."""
    a = np.concatenate([left, left_extra])
    b = np.concatenate([right, right_extra])
    a, b = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (a, b))
    scores = a @ b.T
    if csls_k:
        r_left = np.sort(scores, 1)[:, -csls_k:].mean(1)
        r_right = np.sort(scores, 0)[-csls_k:].mean(0)
        scores = 2 * scores - r_left[:, None] - r_right
    forward, backward = [], []
    for i in range(len(left)):
        forward.append(1 + sum(scores[i, j] > scores[i, i] for j in range(len(b))))
        backward.append(1 + sum(scores[j, i] > scores[i, i] for j in range(len(a))))
    return {"left_to_right": forward, "right_to_left": backward}


def brute_force_metrics(ranks):
    hits = {f"hits@{k}": sum(r <= k for r in ranks) / len(ranks) for k in (1, 5, 10, 50)}
    return {**hits, "mrr": sum(1 / r for r in ranks) / len(ranks), "mr": sum(ranks) / len(ranks)}


@pytest.mark.parametrize("extra", [0, 13])
def test_metrics_equal_brute_force(extra):
    generator = torch.Generator().manual_seed(extra)
    left = torch.randn(70, 6, generator=generator)
    right = left + 0.7 * torch.randn(70, 6, generator=generator)
    more_left, more_right = torch.randn(2, extra, 6, generator=generator)
    group = torch.rand(70, generator=generator) < 0.3
    result = alignment_metrics(
        left,
        right,
        csls_k=5,
        left_extra=more_left if extra else None,
        right_extra=more_right if extra else None,
        groups={"by_luck": {"chosen": group, "nobody": group & ~group}},
    )
    assert result["pairs"] == 70
    assert result["candidates"] == {"left_to_right": 70 + extra, "right_to_left": 70 + extra}
    double = [t.double().numpy() for t in (left, right, more_left, more_right)]
    for name, k in (("cosine", 0), ("csls", 5)):
        ranks = brute_force_ranks(double[0], double[1], k, double[2], double[3])
        for direction in ranks:
            assert result[name][direction] == pytest.approx(brute_force_metrics(ranks[direction]))
        if k:
            chosen = [r for way in ranks.values() for r, c in zip(way, group, strict=True) if c]
            (only,) = result["by_luck"]
            assert (only.pop("label"), only.pop("pairs")) == ("chosen", int(group.sum()))
            assert only == pytest.approx(brute_force_metrics(chosen))


def test_csls_takes_no_more_neighbours_than_there_are():
    left, right = torch.randn(2, 3, 4)
    assert (
        alignment_metrics(left, right, csls_k=10)["csls"] == alignment_metrics(left, right, csls_k=3)["csls"]
    )
    assert "csls" not in alignment_metrics(left, right, csls_k=0)


def test_ties_count_half():
    metrics = alignment_metrics(torch.ones(3, 2), torch.ones(3, 2), csls_k=0)
    assert metrics["cosine"]["left_to_right"]["mr"] == 2.0
    assert metrics["cosine"]["left_to_right"]["hits@1"] == 0.0


def test_the_random_baseline_is_the_mean_over_all_rankings():
    rankings = list(itertools.permutations(range(1, 6)))
    expected = brute_force_metrics([ranking[0] for ranking in rankings])
    assert random_baseline(5) == pytest.approx(expected)


def test_no_pairs():
    with pytest.raises(InputError, match="at least one test link"):
        rank_metrics(torch.empty(0))


@pytest.mark.parametrize(
    "degrees",
    [
        torch.arange(40),
        torch.ones(40, dtype=torch.int64),
        torch.arange(40) ** 3,
        torch.tensor([0] * 30 + [5] * 9 + [99]),
    ],
)
def test_degree_groups_part_the_links(degrees):
    links = torch.stack([torch.arange(20), torch.arange(20, 40)], 1)
    groups = degree_groups(degrees, links)
    assert torch.equal(sum(mask.long() for mask in groups.values()), torch.ones(20, dtype=torch.int64))
    for label, mask in groups.items():
        low, _, high = label.partition("-")
        lesser = degrees[links].amin(1)[mask]
        if len(lesser):
            assert int(low) <= int(lesser.min())
            assert int(lesser.max()) <= int(high or low)


def test_quartiles_of_spread_degrees_are_even():
    links = torch.stack([torch.arange(20), torch.arange(20, 40)], 1)
    assert [int(m.sum()) for m in degree_groups(torch.arange(40), links).values()] == [5, 5, 5, 5]


def test_presence_groups():
    groups = presence_groups(
        torch.tensor([True, True, False, True, False, False]), torch.tensor([[0, 3], [1, 4], [2, 5]])
    )
    assert {label: mask.tolist() for label, mask in groups.items()} == {
        "both": [True, False, False],
        "one": [False, True, False],
        "neither": [False, False, True],
    }
