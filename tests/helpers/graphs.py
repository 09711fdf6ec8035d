"""Graphs that every test of a graph operator walks: the always-there cases and hypothesis' own."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from loginmea_fast import AlignmentGraph

# Names of the cases; `triples_of` makes them.
ALWAYS_THERE = (
    "no edges",
    "one node",
    "isolated nodes",
    "self loops",
    "repeated triples",
    "parallel",
    "hub",
    "random",
)


def sizes_of(graph: AlignmentGraph) -> tuple[int, int]:
    """Entities and relations, by which a model of a graph is built."""
    return graph.num_entities, graph.num_relations


def triples_of(name: str) -> tuple[np.ndarray, int, int]:
    """Triples [T, 3], number of entities and of relations of an always-there case."""
    rng = np.random.default_rng(0)

    def random(count: int, entities: int, relations: int) -> np.ndarray:
        columns = (rng.integers(0, n, count) for n in (entities, relations, entities))
        return np.stack(list(columns), 1)

    if name == "no edges":
        return np.zeros((0, 3), np.int64), 5, 2
    if name == "one node":
        return np.array([[0, 0, 0]]), 1, 1
    if name == "isolated nodes":
        return random(12, 6, 3) + np.array([4, 0, 4]), 17, 3
    if name == "self loops":
        loops = np.stack([np.arange(9), rng.integers(0, 3, 9), np.arange(9)], 1)
        return np.concatenate([loops, random(20, 9, 3)]), 9, 3
    if name == "repeated triples":
        return np.repeat(random(15, 8, 3), 3, 0), 8, 3
    if name == "parallel":
        return random(200, 6, 5), 6, 5
    if name == "hub":
        spokes = np.stack(
            [np.zeros(700, np.int64), rng.integers(0, 4, 700), 1 + rng.integers(0, 299, 700)], 1
        )
        return np.concatenate([spokes, random(60, 300, 4)]), 300, 4
    assert name == "random", name
    return random(150, 40, 6), 40, 6


@st.composite
def graphs(draw: st.DrawFn) -> tuple[np.ndarray, int, int]:
    """Small graphs with parallel relations, repeated triples, self loops and isolated nodes."""
    entities, relations = draw(st.integers(1, 9)), draw(st.integers(1, 4))
    triple = st.tuples(
        st.integers(0, entities - 1), st.integers(0, relations - 1), st.integers(0, entities - 1)
    )
    triples = draw(st.lists(triple, min_size=1, max_size=30))
    return np.array(triples, np.int64), entities, relations
