"""One step of the triples' view, providers side by side, right before fast; then a whole propagation.

python bench/propagation.py                       # zh_en, 2,048 columns
python bench/propagation.py --graph contea_FR_EN --width 1024 --record
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(
    0, str(Path(__file__).resolve().parents[1])
)  # run as a file, the repository root is not on the path
from bench._graphs import GRAPHS, load_graph
from bench._record import record
from loginmea_fast.graph import AlignmentGraph
from loginmea_fast.ops import propagate
from loginmea_fast.propagation import propagate_labels

CHUNK = 1 << 14  # edges whose products the plain form holds at a time
LIGHTEA = 512, 16  # scalars of a relation, columns that each of them weights

Provider = Callable[[Tensor, Tensor, AlignmentGraph], Tensor]


def plain(x: Tensor, weights: Tensor, graph: AlignmentGraph) -> Tensor:
    """Gather, multiply and add, a block of edges at a time."""
    source, destination = graph.edge_index()
    y = torch.zeros_like(x)
    for start in range(0, graph.num_edges, CHUNK):
        edges = slice(start, start + CHUNK)
        products = x[source[edges]] * weights[graph.dst_set[edges].long()]
        y.index_add_(0, destination[edges], products)
    return torch.nn.functional.normalize(y, dim=1)


def ours(x: Tensor, weights: Tensor, graph: AlignmentGraph) -> Tensor:
    """The operator."""
    return propagate(x, weights, graph)


def lightea(x: Tensor, weights: Tensor, graph: AlignmentGraph) -> Tensor:
    """As LightEA does it: a sparse matrix for each scalar of a relation, times a projection of the labels."""
    scalars, columns = LIGHTEA
    generator = torch.Generator().manual_seed(0)
    parts = []
    for scalar in range(scalars):
        value = weights[graph.dst_set.long(), scalar % weights.shape[1]]
        matrix = torch.sparse_csr_tensor(
            graph.dst_ptr, graph.dst_source.long(), value, (len(x), len(x)), check_invariants=False
        )
        parts.append(matrix @ (x @ torch.randn(x.shape[1], columns, generator=generator)))
    return torch.nn.functional.normalize(torch.cat(parts, 1), dim=1)


PROVIDERS: dict[str, Provider] = {"plain": plain, "lightea": lightea, "ours": ours}


def inputs(graph: AlignmentGraph, width: int) -> tuple[Tensor, Tensor]:
    """Labels [N, D] and weights [U, D] of a step."""
    generator = torch.Generator().manual_seed(0)
    shapes = (graph.num_entities, width), (graph.num_relation_sets, width)
    x, weights = (torch.randn(*shape, generator=generator) for shape in shapes)
    return x, weights


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--graph", choices=GRAPHS, default="zh_en")
    parser.add_argument("--width", type=int, default=2048)
    parser.add_argument("--providers", nargs="+", choices=PROVIDERS, default=list(PROVIDERS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--record", action="store_true")
    args = parser.parse_args()
    graph = load_graph(args.graph)
    x, weights = inputs(graph, args.width)
    truth = ours(x, weights, graph)
    rows = []
    for name in args.providers:
        result = PROVIDERS[name](x, weights, graph)
        if name != "lightea":  # which draws another projection, four times as wide
            torch.testing.assert_close(result, truth, rtol=1e-4, atol=1e-5)
        taken = [_seconds(lambda name=name: PROVIDERS[name](x, weights, graph)) for _ in range(args.rounds)]
        rows.append({"provider": name, "columns": result.shape[1], "seconds": min(taken)})
    half = graph.num_entities // 2
    seeds = torch.stack([torch.arange(0, half, 4), torch.arange(0, half, 4) + half], 1)
    taken = [_seconds(lambda: propagate_labels(graph, seeds, width=args.width)) for _ in range(args.rounds)]
    rows.append({"provider": "ours, a whole propagation", "columns": args.width, "seconds": min(taken)})
    print(f"{args.graph}: {graph.num_edges:,} edges, {args.width:,} columns, best of {args.rounds}")
    for row in rows:
        print(f"  {row['provider']:28} {row['columns']:6,} columns  {row['seconds']:7.2f} s")
    if args.record:
        record("propagation", [{"graph": args.graph, **row} for row in rows], merge="graph")


def _seconds(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
