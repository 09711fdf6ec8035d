"""Low-rank fusion under pytest-benchmark; every provider is right before it is timed."""

from __future__ import annotations

import pytest
import torch

from bench.low_rank_fusion import PROVIDERS, Case, errors_of, prepared, step

CASE = Case(rows=1500, rank=4)


@pytest.mark.benchmark(group=f"low_rank_fusion {CASE}, forward and backward")
@pytest.mark.parametrize("name", PROVIDERS)
def test_low_rank_fusion(benchmark, name: str) -> None:
    benchmark.extra_info["errors"] = errors_of(name, CASE, CASE.rows)
    arguments = prepared(name, CASE)
    benchmark(step, PROVIDERS[name], arguments)
    benchmark.extra_info["operations"] = 3 * CASE.operations
    benchmark.extra_info["torch"] = torch.__version__
