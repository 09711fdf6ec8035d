"""What stands in for an absent modality, against a loop over entities."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from loginmea_fast import AlignmentGraph
from loginmea_fast.data import Feature, stand_in
from loginmea_fast.errors import ConfigError
from tests.helpers.graphs import triples_of


def feature(graph: AlignmentGraph, kind: str) -> Feature:
    rng = torch.Generator().manual_seed(3)
    present = torch.rand(graph.num_entities, generator=rng) > 0.5
    values = torch.randn(graph.num_entities, 6, generator=rng)
    if kind == "sparse":
        values = (values * (values > 0) * present[:, None]).to_sparse_csr()
        present = values.crow_indices().diff() > 0
    return Feature(values.half() if kind == "float16" else values, present)


def dense(values: Tensor) -> Tensor:
    return values.to_dense().double()


@pytest.fixture(params=["random", "self loops", "isolated nodes", "hub"])
def graph(request: pytest.FixtureRequest) -> AlignmentGraph:
    return AlignmentGraph.from_triples(*triples_of(request.param))


@pytest.mark.parametrize("kind", ["float32", "float16", "sparse"])
def test_neighbors(graph: AlignmentGraph, kind: str) -> None:
    given = feature(graph, kind)
    made = stand_in(given, graph, "neighbors")
    assert made.values.layout == given.values.layout
    assert made.values.dtype == given.values.dtype
    edges = {(int(i), int(j)) for j, i in graph.edge_index().t()}
    values = dense(given.values)
    for entity in range(graph.num_entities):
        near = [j for i, j in edges if i == entity and given.present[j]]
        if given.present[entity]:
            expected, has = values[entity], True
        else:
            expected, has = (values[near].mean(0) if near else torch.zeros(6).double()), bool(near)
        torch.testing.assert_close(
            dense(made.values)[entity], expected, rtol=1e-3, atol=1e-3 if kind == "float16" else 1e-6
        )
        assert bool(made.present[entity]) == has


@pytest.mark.parametrize("kind", ["float32", "float16", "sparse"])
def test_learned(graph: AlignmentGraph, kind: str) -> None:
    given = feature(graph, kind)
    made = stand_in(given, graph, "learned")
    assert made.present.all()
    assert made.values.dtype == given.values.dtype
    values = dense(made.values)
    assert torch.equal(values[:, 6], (~given.present).double())
    assert torch.equal(values[:, :6], dense(given.values) * given.present[:, None])


def test_nothing_to_do(graph: AlignmentGraph) -> None:
    given = feature(graph, "float32")
    assert stand_in(given, graph, "mask") is given
    whole = Feature(given.values, torch.ones_like(given.present))
    for missing in ("mask", "learned", "neighbors"):
        assert stand_in(whole, graph, missing) is whole


def test_another_word(graph: AlignmentGraph) -> None:
    with pytest.raises(ConfigError, match="missing must be one of mask, learned, neighbors; got 'zeros'"):
        stand_in(feature(graph, "float32"), graph, "zeros")


def test_a_projection_of_means_is_the_mean_of_projections(graph: AlignmentGraph) -> None:
    """Why it may be done before training."""
    given, weight, bias = feature(graph, "float32"), torch.randn(6, 4), torch.randn(4)
    made = stand_in(given, graph, "neighbors")
    projected = given.values @ weight + bias
    absent = np.flatnonzero((made.present & ~given.present).numpy())
    source, destination = graph.edge_index()
    for entity in absent[:5]:
        near = source[(destination == entity)]
        near = near[given.present[near]]
        torch.testing.assert_close(
            (made.values @ weight + bias)[entity], projected[near].mean(0), rtol=1e-4, atol=1e-5
        )
