"""Graphs for a machine without the data sets: packed from them as small integer files, or generated.

A pack holds triples, links and which attribute types an entity has, as integers in a compressed npz of a megabyte or
two; no names and no features.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from bench._graphs import generated
from loginmea_fast.data import load
from loginmea_fast.data.bags import csr_matrix, relation_bag
from loginmea_fast.graph import AlignmentGraph

__all__ = ["PACKED", "Problem", "pack_all", "problem"]

ROOT = Path(__file__).resolve().parents[2]
CACHE = ROOT / "bench" / ".cache"
PACKED = {"zh_en": "dbp15k/zh_en", "FB15K_DB15K": "mmkb/FB15K_DB15K"}
# entities, relations, triples and links of the data sets, for graphs generated in their place
COUNTS = {
    "zh_en": (38_960, 3_024, 165_556, 15_000),
    "FB15K_DB15K": (27_793, 1_624, 681_410, 12_846),
}
BAG = 1000  # columns of the bags, as in the authors' code


@dataclass(frozen=True)
class Problem:
    """A graph to train on.

    Attributes:
        name: of the data set, with "generated" in it where it is none.
        graph: both knowledge graphs.
        triples: int64 [T, 3].
        links: int64 [P, 2].
        attributes: float32 CSR [N, 1000].
    """

    name: str
    graph: AlignmentGraph
    triples: Tensor
    links: Tensor
    attributes: Tensor

    def relation_bag(self) -> Tensor:
        """float32 CSR [N, 1000], how often each of the most frequent relations meets an entity."""
        return relation_bag(self.triples, self.graph.num_entities, BAG, BAG).values


def pack_all(cache: Path = CACHE) -> list[Path]:
    """Write a pack of every data set that is there.

    Raises:
        SystemExit: none is.
    """
    root = Path(os.environ.get("LOGINMEA_DATA") or ROOT.parent / "shared" / "data")
    cache.mkdir(parents=True, exist_ok=True)
    written = []
    for name, directory in PACKED.items():
        if not (root / directory).is_dir():
            print(f"{root / directory} is not there: a graph of its size will be generated instead")
            continue
        pair = load(root / directory, modalities=["attribute"], bag_size=BAG)
        bag = pair.features["attribute"].values
        path = cache / f"{name}.npz"
        np.savez_compressed(
            path,
            sizes=np.array([pair.num_entities, pair.num_relations]),
            triples=pair.triples.numpy().astype(np.int32),
            links=pair.links.numpy().astype(np.int32),
            attribute_entity=np.repeat(
                np.arange(pair.num_entities, dtype=np.int32), bag.crow_indices().diff()
            ),
            attribute_kind=bag.col_indices().numpy().astype(np.int16),
        )
        written.append(path)
    if not written:
        raise SystemExit(
            f"no data set in {root}; set LOGINMEA_DATA to the directory that holds {list(PACKED.values())}"
        )
    return written


def problem(name: str, shrink: int = 1, cache: Path = CACHE) -> Problem:
    """The packed data set, or a generated graph of its size where there is no pack.

    Args:
        name: a key of `PACKED`.
        shrink: divide the numbers of a generated graph by this, and use no pack.
        cache: where packs are.
    """
    path = cache / f"{name}.npz"
    if shrink == 1 and path.is_file():
        with np.load(path) as pack:
            entities, relations = pack["sizes"].tolist()
            triples, links = (torch.from_numpy(pack[key].astype(np.int64)) for key in ("triples", "links"))
            attributes = csr_matrix(pack["attribute_entity"], pack["attribute_kind"], None, (entities, BAG))
        return Problem(
            name, AlignmentGraph.from_triples(triples, entities, relations), triples, links, attributes
        )
    entities, relations, count, pairs = (n // shrink for n in COUNTS[name])
    relations = max(relations, 3)
    triples = torch.from_numpy(generated(entities, relations, count))
    links = torch.arange(2 * pairs).view(2, pairs).T.contiguous()
    rng = np.random.default_rng(1)
    owners = rng.integers(0, entities, 6 * entities)
    attributes = csr_matrix(owners, rng.integers(0, BAG, len(owners)), None, (entities, BAG))
    attributes.values().fill_(1.0)
    graph = AlignmentGraph.from_triples(triples, entities, relations)
    return Problem(f"{name}-sized (generated)", graph, triples, links, attributes)
