"""pytest-benchmark over the providers of alignment_search.py, on a size that takes moments; right before fast."""

from __future__ import annotations

import pytest
import torch

from bench.alignment_search import DESCRIPTIONS, NEIGHBOURS, PROVIDERS, TRUTH, pairs_of

SHAPES = ((1000, 300), (2000, 2400))


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: f"{shape[0]}x{shape[1]}")
@pytest.mark.parametrize("provider", PROVIDERS)
def test_ranks(benchmark, provider: str, shape: tuple[int, int]) -> None:
    left, right = pairs_of(*shape)
    ranks = PROVIDERS[provider](left, right)
    expected = PROVIDERS[TRUTH](left, right)
    exact = provider.startswith("ours")
    for one, other in zip(ranks, expected, strict=True):
        # Float32 scores of the plain formulas order near-ties by their rounding.
        assert torch.equal(one, other) if exact else (one != other).double().mean() < 0.5
    operations = 2 * 2 * shape[0] ** 2 * shape[1]
    benchmark.extra_info |= {
        "what": DESCRIPTIONS[provider],
        "csls_k": NEIGHBOURS,
        "gflop": operations / 1e9,
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
    }
    benchmark(PROVIDERS[provider], left, right)
