"""The comparison helper must fail where it should."""

from __future__ import annotations

import pytest
import torch

from tests.helpers.compare import assert_close


@pytest.fixture
def reference() -> torch.Tensor:
    return torch.randn(6, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def test_equal_values_pass(reference: torch.Tensor) -> None:
    assert_close(reference.float(), reference, "x")


def test_wrong_shape_fails(reference: torch.Tensor) -> None:
    with pytest.raises(AssertionError, match="shape"):
        assert_close(reference[:-1], reference, "x")


def test_one_wrong_element_fails(reference: torch.Tensor) -> None:
    wrong = reference.clone()
    wrong[2, 3] += 1e-3
    with pytest.raises(AssertionError, match="elementwise"):
        assert_close(wrong.float(), reference, "x")


def test_small_error_everywhere_fails_in_l2(reference: torch.Tensor) -> None:
    with pytest.raises(AssertionError, match="relative L2"):
        assert_close((reference * (1 + 1e-5)).float(), reference, "x")


def test_lost_row_fails(reference: torch.Tensor) -> None:
    small = reference.clone()
    small[4] *= 1e-9
    lost = small.clone()
    lost[4] = 0
    with pytest.raises(AssertionError, match="row 4 is zero"):
        assert_close(lost.float(), small, "x")


def test_nan_where_none_is_expected_fails(reference: torch.Tensor) -> None:
    wrong = reference.clone()
    wrong[0, 0] = float("nan")
    with pytest.raises(AssertionError, match="NaN"):
        assert_close(wrong, reference, "x")


def test_expected_zeros(reference: torch.Tensor) -> None:
    with pytest.raises(AssertionError, match="expected zeros"):
        assert_close(reference, torch.zeros_like(reference), "x")
