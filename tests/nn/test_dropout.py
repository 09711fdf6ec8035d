from __future__ import annotations

import pytest
import torch

from loginmea_fast.errors import ConfigError
from loginmea_fast.nn.dropout import PooledDropout


@pytest.mark.parametrize("shape", [(0, 5), (7, 1), (1000, 301), (1 << 18, 2)], ids=str)
def test_elements_are_kept_or_dropped_and_the_gradient_follows(shape) -> None:
    dropout = PooledDropout(0.25, seed=3)
    x = torch.ones(shape, requires_grad=True)
    y = dropout(x)
    assert y.shape == x.shape
    assert torch.isin(y.detach(), torch.tensor([0.0, 1 / 0.75])).all()
    y.backward(torch.full_like(y, 2.0))
    assert torch.equal(x.grad, 2 * y.detach())
    if y.numel() > 1000:
        assert abs(y.mean().item() - 1) < 0.01


def test_columns_and_rows_are_dropped_alike() -> None:
    """A pool whose length shared a factor with the width would drop whole columns more often than others."""
    y = PooledDropout(0.5)(torch.ones(4096, 256))
    for dim in (0, 1):
        assert (y.mean(dim) - 1).abs().max() < 6 * (1 / y.shape[dim]) ** 0.5


def test_masks_follow_seed_step_and_call() -> None:
    x = torch.ones(50, 40)

    def masks(seed: int, step: int) -> list[torch.Tensor]:
        dropout = PooledDropout(0.4, seed)
        dropout.set_step(step)
        return [dropout(x) for _ in range(2)]

    first, second = masks(1, 5)
    assert torch.equal(first, masks(1, 5)[0])
    assert torch.equal(second, masks(1, 5)[1])
    for other in (second, masks(1, 6)[0], masks(2, 5)[0]):
        assert not torch.equal(first, other)
    dropout = PooledDropout(0.4, 1)
    dropout(x)
    dropout.set_step(5)
    assert torch.equal(dropout(x), first), "what came before a step matters"


def test_gradcheck_and_views() -> None:
    dropout = PooledDropout(0.3)
    x = torch.randn(6, 8, dtype=torch.float64)[:, ::2].requires_grad_()

    def step(t: torch.Tensor) -> torch.Tensor:
        dropout.set_step(1)
        return dropout(t)

    assert torch.autograd.gradcheck(step, x)


def test_evaluation_and_zero_change_nothing() -> None:
    x = torch.randn(3, 4)
    assert PooledDropout(0.5).eval()(x) is x
    assert PooledDropout(0.0)(x) is x


@pytest.mark.parametrize("p", [-0.1, 1.0, float("nan")])
def test_a_wrong_probability_is_named(p) -> None:
    with pytest.raises(ConfigError, match="at least 0 and below 1"):
        PooledDropout(p)
