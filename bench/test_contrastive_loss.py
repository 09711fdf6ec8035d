"""The contrastive loss under pytest-benchmark; every provider is right before it is timed."""

from __future__ import annotations

import pytest
import torch

from bench.contrastive_loss import BOUNDS, PROVIDERS, TEMPERATURE, provider, rows_of
from loginmea_fast.reference.contrastive_loss import contrastive_loss_gradient

BATCH, WIDTH = 1000, 300


@pytest.mark.benchmark(group=f"contrastive_loss {BATCH} x {WIDTH}")
@pytest.mark.parametrize("name", PROVIDERS)
def test_contrastive_loss(benchmark, name: str) -> None:
    step = provider(name, BATCH, WIDTH)
    loss, *gradients = step()
    left, right = (rows.double() for rows in rows_of(BATCH, WIDTH))
    expected, *expected_gradients = contrastive_loss_gradient(left, right, TEMPERATURE)
    bound = BOUNDS["bfloat16" if "bfloat16" in name else "float32"]
    assert abs(loss.item() - expected.item()) <= bound * expected.item()
    for gradient, truth in zip(gradients, expected_gradients[:2], strict=True):
        assert (gradient.double() - truth).norm() <= bound * truth.norm()
    benchmark(step)
    benchmark.extra_info["operations"] = 3 * 2 * BATCH * BATCH * WIDTH
    benchmark.extra_info["torch"] = torch.__version__
