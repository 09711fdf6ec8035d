"""Relation-reflection attention under pytest-benchmark; every provider is right before it is timed."""

from __future__ import annotations

import pytest
import torch

from bench._graphs import uniform_graph
from bench.relation_reflection_attention import PROVIDERS, errors_of, leaves_of, step, upstream_of

WIDTH, LAYERS, EDGES = 60, 2, 20_000


@pytest.mark.benchmark(group=f"relation_reflection_attention, {EDGES:,} edges, forward and backward")
@pytest.mark.parametrize("provider", PROVIDERS)
def test_relation_reflection_attention(benchmark, provider: str) -> None:
    if provider == "PyG":
        pytest.importorskip(
            "torch_geometric", reason="PyTorch Geometric is not installed; the extra bench has it"
        )
    graph = uniform_graph(EDGES)
    benchmark.extra_info["errors"] = errors_of(provider, graph, LAYERS)
    leaves = leaves_of(graph, WIDTH, LAYERS)
    upstream = upstream_of(torch.empty(graph.num_entities, (LAYERS + 1) * WIDTH))
    benchmark(step, PROVIDERS[provider](graph), leaves, upstream)
    benchmark.extra_info["edges"] = graph.num_edges
    benchmark.extra_info["torch"] = torch.__version__
