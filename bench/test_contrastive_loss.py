"""The contrastive losses under pytest-benchmark; every provider is right before it is timed."""

from __future__ import annotations

import pytest
import torch

from bench.contrastive_loss import (
    BOUNDS,
    HARD_SAMPLE_BOUND,
    PROVIDERS,
    formula,
    hard_sample,
    hard_sample_error,
    provider,
    rows_of,
)

BATCH, KEYS, WIDTH = 1000, 3000, 300


@pytest.mark.benchmark(group=f"contrastive_loss {BATCH} x {WIDTH}, with gradients")
@pytest.mark.parametrize("name", PROVIDERS)
def test_contrastive_loss(benchmark, name: str) -> None:
    step = provider(name, BATCH, WIDTH)
    loss, *gradients = step()
    expected, *expected_gradients = formula(*rows_of(BATCH, WIDTH))
    bound = BOUNDS["bfloat16" if "bfloat16" in name else "float32"]
    assert abs(loss.item() - expected.item()) <= bound * expected.item()
    for gradient, truth in zip(gradients, expected_gradients, strict=True):
        assert (gradient.double() - truth).norm() <= bound * truth.norm()
    benchmark(step)
    benchmark.extra_info["operations"] = 3 * 2 * BATCH * BATCH * WIDTH
    benchmark.extra_info["torch"] = torch.__version__


@pytest.mark.benchmark(
    group=f"hard-sample loss, {BATCH // 2} links, {KEYS:,} keys, {WIDTH} wide, with gradients"
)
@pytest.mark.parametrize("name", ["clean", "ours"])
def test_hard_sample(benchmark, name: str) -> None:
    steps = hard_sample(BATCH // 2, KEYS, WIDTH)
    assert hard_sample_error(steps) <= HARD_SAMPLE_BOUND
    benchmark(steps[name])
    benchmark.extra_info["operations"] = 3 * 2 * BATCH * KEYS * WIDTH
    benchmark.extra_info["torch"] = torch.__version__
