"""Batches with rows of their own have the gradient that slices of the output have, at the price of their own rows."""

from __future__ import annotations

import pytest
import torch

from loginmea_fast.nn import LoginMEAOutput
from loginmea_fast.training.apart import ApartRows
from loginmea_fast.training.config import Config
from loginmea_fast.training.objectives import Batch, WeightedObjectives

LINKS, FURTHER = 12, 5
NONE = torch.empty(0, 2, dtype=torch.int64)


def output_of(weight: torch.Tensor) -> LoginMEAOutput:
    x = torch.randn(2 * LINKS + FURTHER, 4, generator=torch.Generator().manual_seed(0)) @ weight
    return LoginMEAOutput(torch.nn.functional.normalize(x), x.sin(), {"relation": x.cos()}, x)


@pytest.mark.parametrize("objectives", ["contrastive", "hard_sample", "contrastive,modality_contrastive"])
def test_gradients_are_those_of_slices(objectives: str) -> None:
    config = Config.build(objectives=objectives.split(","), hard_samples=2)
    weighted = WeightedObjectives(config, ["relation"], True)
    weights = [
        torch.randn(4, 6, generator=torch.Generator().manual_seed(1)).requires_grad_() for _ in range(2)
    ]
    further = slice(2 * LINKS, 2 * LINKS + FURTHER)
    outputs = [weighted.kept(output_of(weight)) for weight in weights]
    apart, total = ApartRows(outputs[1]), torch.zeros(())
    for first, end in ((0, 5), (5, 9), (9, LINKS)):
        places = slice(first, end), slice(LINKS + first, LINKS + end), further
        loss, _ = weighted(outputs[0], Batch(*places, NONE))
        total = total + loss
        own, within = apart.take(places)
        assert len(own.joint) == 2 * (end - first) + FURTHER
        again, _ = weighted(own, Batch(*within, NONE))
        again.backward()
        apart.collect()
        assert again.item() == loss.item()
    total.backward()
    apart.backward()
    torch.testing.assert_close(weights[1].grad, weights[0].grad)
