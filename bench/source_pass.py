"""Rows an edge that the attention's backward reads on a GPU in two passes, and would in one, counted on real graphs.

python -m bench.source_pass      # data sets of LOGINMEA_DATA, or ../shared/data beside the checkout

Two passes read four rows an edge: u and h by source, x and h by set. In one, a warp takes a chunk of edges of
neighbouring sources, sorted by set, and keeps x and dx of those sources in shared memory. It reads h of each edge and u
once a run of a set, and writes its part of du once a run, which a second kernel reads. Both ways x is read and dx
written once a source as well.
"""

from __future__ import annotations

import torch

import loginmea_fast as lf
from bench.accuracy.tasks import DATA

GRAPHS = ("dbp15k/zh_en", "dbp15k/fr_en", "mmkb/FB15K_DB15K", "contea/FR_EN")
CHUNKS = (32, 128, 512, 2048)


def main() -> None:
    """Print a line a graph and chunk."""
    print("graph, edges a chunk: runs of a set an edge, sources a chunk, rows an edge in one pass and in two")
    for name in GRAPHS:
        graph = lf.data.load(DATA / name).graph()
        sets, places = graph.src_set.long(), torch.arange(graph.num_edges)
        sources = torch.repeat_interleave(torch.arange(graph.num_entities), graph.src_ptr.long().diff())
        for chunk in CHUNKS:
            of = places // chunk
            runs = len((of * graph.num_relation_sets + sets).unique()) / len(sets)
            starts = len((of * graph.num_entities + sources).unique()) / len(sets)
            one, two = 1 + 3 * runs + 2 * starts, 4 + 2 * starts
            print(f"{name}, {chunk:5}: {runs:.2f}, {starts * chunk:5.0f}, {one:.2f}, {two:.2f}")


if __name__ == "__main__":
    main()
