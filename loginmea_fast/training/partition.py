"""Parts of a graph between which training passes no messages, by METIS: an approximation, where fields are everything.

Two layers reach nearly all entities from a small batch wherever a few entities are near everyone. METIS (Karypis and
Kumar, SIAM J. Sci. Comput. 1998) divides the entities into parts of like size with few edges between them; those edges
are left out while the model trains, as in Cluster-GCN (Chiang et al., KDD 2019), so that what an update depends on ends
where its parts end. Both entities of a training link stand in one part. All but the updates sees the whole graph.
"""

from __future__ import annotations

import importlib.util
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from loginmea_fast.derived import Derived
from loginmea_fast.errors import ConfigError
from loginmea_fast.graph import AlignmentGraph

__all__ = ["Partition", "check_metis", "partition"]


class Partition(NamedTuple):
    """Who is in which part.

    Attributes:
        part: int64 [N], the part of each entity.
        graph: without the edges between parts.
        cut: share of the edges that are left out.
    """

    part: Tensor
    graph: AlignmentGraph
    cut: float


def check_metis() -> None:
    """Raise `ConfigError` where the package pymetis is not installed."""
    if importlib.util.find_spec("pymetis") is None:
        raise ConfigError(
            "pymetis is not installed; pip install 'loginmea-fast[partition]', or leave partitions at 0",
            "partitions",
        )


def partition(graph: AlignmentGraph, group_of: Tensor, parts: int, seed: int) -> Partition:
    """Divide a graph; the same again for the same seed.

    Args:
        graph: both knowledge graphs.
        group_of: int64 [N], the group of an entity, which is kept together; -1 where it is in none.
        parts: how many.
        seed: of METIS.

    Raises:
        ConfigError: pymetis is not there, or there are fewer entities than parts.
    """
    check_metis()
    sources = [graph.dst_ptr, graph.dst_source, graph.dst_set]
    state = group_of.numpy().tobytes(), parts, seed
    part = _parts.of(graph.dst_source, sources, lambda: _divided(graph, group_of, parts, seed), *state)
    cut = graph.within(part)
    return Partition(part, cut, 1 - cut.num_edges / max(graph.num_edges, 1))


_parts: Derived[Tensor] = Derived()  # the plan of memory asks for what the first update will


def _divided(graph: AlignmentGraph, group_of: Tensor, parts: int, seed: int) -> Tensor:
    """The part of each entity, int64 [N]."""
    import pymetis

    alone = group_of < 0
    groups = int(group_of.max()) + 1 if len(group_of) else 0
    vertex = torch.where(alone, groups + alone.cumsum(0) - 1, group_of).numpy()
    count = groups + int(alone.sum())
    if count < parts:
        raise ConfigError(
            f"partitions is {parts}, and there are {count} entities and links; lower it", "partitions"
        )
    source, destination = graph.edge_index().cpu().numpy()
    # Edges between the same two are one that weighs as much.
    first, second = vertex[destination], vertex[source]
    pairs, weight = np.unique((first * count + second)[first != second], return_counts=True)
    options = pymetis.Options()
    options.seed = seed % 2**31
    found = pymetis.part_graph(
        parts,
        pymetis.CSRAdjacency(np.searchsorted(pairs, np.arange(count + 1) * count), pairs % count),
        vweights=np.bincount(vertex, minlength=count),
        eweights=weight,
        options=options,
    )
    return torch.from_numpy(np.asarray(found.vertex_part, np.int64)[vertex])
