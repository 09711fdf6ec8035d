"""Steps over what a batch needs against steps over the whole graph, on real data with the default recipe."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bench.same_steps import DATASETS, compare, load_problem

DATA = Path(os.environ.get("LOGINMEA_DATA") or "../shared/data")


@pytest.mark.slow
@pytest.mark.parametrize("name", DATASETS)
def test_five_steps_end_at_the_same_parameters(name: str) -> None:
    if not (DATA / name).is_dir():
        pytest.skip(f"no data at {DATA / name}")
    found = compare(load_problem(DATA / name))
    assert found.exact < 1e-12, "in float64 nothing is left but its rounding"
    assert 0 < found.together < 2e-5, "RMSprop makes of the rounding of small gradients a part of a step"
    assert found.together < found.rounding, (
        "a view is nearer to the whole than rounding lets either be to the truth"
    )
    assert found.loss < 1e-5
