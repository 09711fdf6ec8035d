from __future__ import annotations

import pytest
import torch

from bench._authors import AuthorsFusion
from loginmea_fast.errors import InputError
from loginmea_fast.nn.low_rank_fusion import LowRankFusion
from tests.helpers.compare import assert_close

WIDTH, ROWS, RANK = 12, 21, 4


def _inputs(dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    return [torch.randn(ROWS, WIDTH, dtype=dtype, requires_grad=True) for _ in range(3)]


@pytest.mark.parametrize("keep_products", [False, True])
def test_it_is_the_authors_fusion_under_their_names(keep_products) -> None:
    theirs = AuthorsFusion(WIDTH, 3, RANK).double()
    torch.nn.init.normal_(theirs.fusion_bias)
    ours = LowRankFusion([WIDTH] * 3, WIDTH, RANK, keep_products=keep_products)
    ours.load_state_dict({name: value.float() for name, value in theirs.state_dict().items()})
    x = _inputs()
    double = [v.detach().double().requires_grad_() for v in x]
    upstream = torch.randn(ROWS, WIDTH)
    y, expected = ours(x), theirs(double)
    assert_close(y, expected, "output")
    y.backward(upstream)
    expected.backward(upstream.double())
    for a, e in zip(x, double, strict=True):
        assert_close(a.grad, e.grad, "gradient to an input")
    truth = dict(theirs.named_parameters())
    for name, parameter in ours.named_parameters():
        assert_close(parameter.grad, truth[name].grad, f"gradient to {name}")


def test_without_adaptive_weights_rows_are_only_normalised() -> None:
    module = LowRankFusion([3, 5], 4, RANK, adaptive=False)
    assert module.ent_attn is None
    assert not any(name.startswith("ent_attn") for name in module.state_dict())
    x = [torch.randn(ROWS, 3), torch.randn(ROWS, 5)]
    scaled = [v * torch.rand(ROWS, 1).add(0.5) for v in x]
    assert_close(module(scaled), module(x).double(), "output of rescaled rows")


def test_a_module_in_bfloat16_products_stays_near_the_float32_one() -> None:
    module = LowRankFusion([WIDTH] * 3, WIDTH, RANK)
    x = _inputs()
    exact = module(x)
    module.precision = "bfloat16"
    assert_close(module(x), exact.double(), "output", dtype=torch.bfloat16)


def test_autocast_and_parameters_in_bfloat16() -> None:
    module = LowRankFusion([WIDTH] * 3, WIDTH, RANK)
    x = _inputs()
    exact = module(x)
    with torch.autocast("cpu", torch.bfloat16):
        y = module(x)
    y.sum().backward()
    assert y.dtype == torch.bfloat16
    assert module.ent_attn.weight.grad.dtype == torch.float32
    assert_close(y, exact.double(), "output under autocast")
    whole = module.bfloat16()([v.bfloat16() for v in x])
    assert_close(whole, exact.double(), "output in bfloat16", bounds=(8e-2, 3e-2))


def test_it_says_what_it_is() -> None:
    assert "input_dims=(3, 3), output_dim=4, rank=2" in repr(LowRankFusion([3, 3], 4, 2))


def test_bad_sizes_and_inputs_are_named() -> None:
    for arguments in (([], 4, 2), ([3, 0], 4, 2), ([3], 0, 2), ([3], 4, 0)):
        with pytest.raises(InputError, match="positive sizes"):
            LowRankFusion(*arguments)
    with pytest.raises(InputError, match="one width"):
        LowRankFusion([3, 4], 4, 2)
    module = LowRankFusion([3, 3], 4, 2)
    with pytest.raises(InputError, match="2 modalities; got 1"):
        module([torch.ones(2, 3)])
    with pytest.raises(InputError, match=r"factors\[1\] must have shape"):
        LowRankFusion([3, 4], 4, 2, adaptive=False)([torch.ones(2, 3), torch.ones(2, 3)])
