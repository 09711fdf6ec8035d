"""pytest-benchmark over the providers of propagation.py, on a size that takes moments; right before fast."""

from __future__ import annotations

import pytest
import torch

from bench._graphs import uniform_graph
from bench.propagation import PROVIDERS, inputs, ours

EDGES, WIDTH = 20_000, 512


@pytest.mark.benchmark(group=f"propagation, {EDGES:,} edges, {WIDTH} columns")
@pytest.mark.parametrize("provider", PROVIDERS)
def test_propagation(benchmark, provider: str) -> None:
    graph = uniform_graph(EDGES)
    x, weights = inputs(graph, WIDTH)
    result = PROVIDERS[provider](x, weights, graph)
    if provider != "lightea":
        torch.testing.assert_close(result, ours(x, weights, graph), rtol=1e-4, atol=1e-5)
    benchmark(PROVIDERS[provider], x, weights, graph)
    benchmark.extra_info["edges"] = graph.num_edges
    benchmark.extra_info["torch"] = torch.__version__
