"""Graphs that benchmarks walk: real ones, read with nothing but numpy, and generated ones with a hub."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from loginmea_fast import AlignmentGraph

__all__ = ["GRAPHS", "generated", "load_graph", "uniform_graph"]

ROOT = Path(__file__).resolve().parents[1]
DIRECTORIES = {
    "zh_en": "dbp15k/zh_en",
    "FB15K_DB15K": "mmkb/FB15K_DB15K",
    "contea_FR_EN": "contea/FR_EN",
}
GRAPHS = (*DIRECTORIES, "power_law")


def load_graph(name: str) -> AlignmentGraph:
    """The graph of a data set, or of the generated power law whose hub has a tenth of the triples.

    Raises:
        FileNotFoundError: the data set is not in LOGINMEA_DATA (default ../shared/data).
    """
    if name == "power_law":
        return AlignmentGraph.from_triples(generated(50_000, 400, 200_000, hub=0.1), 50_000, 400)
    directory = Path(os.environ.get("LOGINMEA_DATA") or ROOT.parent / "shared" / "data") / DIRECTORIES[name]
    triples = np.concatenate([np.loadtxt(directory / f"triples_{side}", np.int64) for side in (1, 2)])
    # Ids are unique over both graphs, and the last entity may have no triples.
    ids = [
        int(line.split("\t", 1)[0])
        for side in (1, 2)
        for line in (directory / f"ent_ids_{side}").read_text(encoding="utf-8").splitlines()
    ]
    return AlignmentGraph.from_triples(triples, max(ids) + 1, int(triples[:, 1].max()) + 1)


def generated(entities: int, relations: int, count: int, hub: float = 0.005, seed: int = 0) -> np.ndarray:
    """Triples [count, 3] of a power-law graph: the r-th busiest entity occurs as r^(-1/2), and one hub far more.

    Args:
        entities: N; ids are shuffled, so that neighbours lie anywhere.
        relations: R, frequent ones far more so than others, as in DBpedia.
        count: T.
        hub: share of the triples whose head is one and the same entity.
        seed: of the generator.
    """
    rng = np.random.default_rng(seed)
    name = rng.permutation(entities)
    triples = np.empty((count, 3), np.int64)
    for column in (0, 2):
        triples[:, column] = name[(entities * rng.random(count) ** 2).astype(np.int64)]
    triples[:, 1] = relations * rng.random(count) ** 4
    triples[: int(hub * count), 0] = name[0]
    return triples


def uniform_graph(edges: int, degree: int = 8, relations: int = 50) -> AlignmentGraph:
    """About `edges` edges between entities picked at random, for sweeps over the size alone."""
    entities = max(edges // degree, 2)
    rng = np.random.default_rng(0)
    columns = [rng.integers(0, n, edges // 2) for n in (entities, relations, entities)]
    return AlignmentGraph.from_triples(np.stack(columns, 1), entities, relations)
