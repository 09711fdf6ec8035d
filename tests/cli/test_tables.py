from __future__ import annotations

import pytest

from loginmea_fast.cli.tables import duration


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.00312, "3.1 ms"),
        (0.0384, "38 ms"),
        (0.9949, "995 ms"),
        (0.996, "1.0 s"),
        (1.44, "1.4 s"),
        (9.96, "10 s"),
        (127.3, "127 s"),
    ],
)
def test_durations_have_digits_that_mean_something(seconds: float, text: str) -> None:
    assert duration(seconds) == text
