"""Sketches of modalities: cosines kept, rows of the absent zero, the same in blocks."""

from __future__ import annotations

import pytest
import torch

from loginmea_fast.data import Feature
from loginmea_fast.data import sketch as module
from loginmea_fast.data.sketch import SKETCH, sketch, sketch_width


@pytest.fixture
def bag() -> Feature:
    generator = torch.Generator().manual_seed(0)
    dense = torch.rand(50, 5000, generator=generator) * (torch.rand(50, 5000, generator=generator) < 0.01)
    dense[7] = dense[3]
    dense[11] = 0
    return Feature(dense.to_sparse_csr(), torch.arange(50) != 11)


def test_cosines_are_nearly_those_of_the_modality(bag: Feature) -> None:
    rows = sketch(bag)
    assert rows.shape == (50, SKETCH) == (50, sketch_width(bag))
    assert torch.equal(rows[7], rows[3])
    assert not rows[11].any()
    exact = torch.nn.functional.normalize(bag.values.to_dense(), dim=1)
    error = rows @ rows.T - exact @ exact.T
    assert error.abs().max() < 0.2
    assert error.mean().abs() < 0.01, "a product keeps its expectation"


def test_blocks_change_nothing(bag: Feature, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = sketch(bag)
    monkeypatch.setattr(module, "_BLOCK", 7)
    assert torch.equal(sketch(bag), whole)


def test_dense_rows_are_the_modality_itself() -> None:
    values = torch.randn(9, 6, generator=torch.Generator().manual_seed(0)).half()
    rows = sketch(Feature(values, torch.arange(9) != 4))
    assert sketch_width(Feature(values, torch.ones(9, dtype=torch.bool))) == 6
    assert not rows[4].any()
    torch.testing.assert_close(rows[:4], torch.nn.functional.normalize(values[:4].float(), dim=1))
