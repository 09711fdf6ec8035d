"""pytest-benchmark over the providers of alignment_search.py, on a size that takes moments; right before fast."""

from __future__ import annotations

import pytest
import torch

from bench.alignment_search import DESCRIPTIONS, NEIGHBOURS, PROVIDERS, TRUTH, pairs_of

PAIRS, WIDTH = 1500, 1200


@pytest.mark.benchmark(group=f"alignment_ranks by CSLS, {PAIRS:,} x {WIDTH:,}")
@pytest.mark.parametrize("provider", PROVIDERS)
def test_ranks(benchmark, provider: str) -> None:
    left, right = pairs_of(PAIRS, WIDTH)
    ranks = PROVIDERS[provider](left, right)
    exact = provider.startswith("ours")
    for one, other in zip(ranks, PROVIDERS[TRUTH](left, right), strict=True):
        # Float32 scores of the plain formulas order near-ties by their rounding.
        assert torch.equal(one, other) if exact else (one != other).double().mean() < 0.5
    benchmark(PROVIDERS[provider], left, right)
    benchmark.extra_info |= {
        "what": DESCRIPTIONS[provider],
        "csls_k": NEIGHBOURS,
        "operations": 2 * 2 * PAIRS**2 * WIDTH,
        "torch": torch.__version__,
    }
