"""Layers of relation-reflection attention and their gradients: right before fast, a process for each provider.

    python bench/relation_reflection_attention.py                            # all graphs, about ten minutes
    python bench/relation_reflection_attention.py --graphs zh_en --record    # one, into the record of all
    python bench/relation_reflection_attention.py --sweep                    # ours, 10^4 to 10^7 edges

Everybody starts from features x [N, d], relation embeddings [2R, d] and a vector a layer, and ends at the layers'
outputs side by side and the gradients of all three. Memory is the peak beyond the arguments, results included; a
provider that would need more than there is says how much.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace

import torch
import torch.nn.functional as F
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from bench._authors import AuthorsAttention, AuthorsEdges
from bench._graphs import GRAPHS, load_graph, uniform_graph
from bench._record import record
from loginmea_fast import AlignmentGraph
from loginmea_fast.reference import relation_reflection_attention as reference

WIDTH, LAYERS = 300, 2
SWEEP_WIDTH = 128  # 10^7 edges in 7 GB
# Largest relative L2 error of the output and of each gradient against float64, to be timed at all. At a width that
# fills a register and leaves twelve values over, as 300 does; the formula in float64 and 300 wide is too large for most
# machines. The gradient of a layer's vector sums terms that cancel over all edges, and leaves the authors' form 2e-5.
BOUND, CHECK_WIDTH = 5e-5, 28
CHECK_EDGES = 4 * 10**7  # edges x width that the formula holds at a time when it checks
# Tensors of edges x width that are alive at the peak of two layers, measured on zh_en: what decides whether one fits.
PLAIN_TENSORS = {"authors": 14.2, "clean": 11, "torch.compile": 3.7, "PyG": 10, "ours": 0}
Forward = Callable[[Tensor, Tensor, Tensor], Tensor]


def authors(graph: AlignmentGraph) -> Forward:
    """The authors' formulation: one reflector an edge, averaged anew in every layer."""
    ids = torch.arange(2 * graph.num_relations)
    edges = AuthorsEdges(graph, ids, len(ids), torch.float32)

    def forward(x: Tensor, relations: Tensor, vectors: Tensor) -> Tensor:
        owner = SimpleNamespace(attn_kernels=[v[:, None] for v in vectors])  # all that their layers read
        return torch.cat([x, *AuthorsAttention.layers(owner, x, relations, edges)], 1)

    return forward


def _plain_reflectors(graph: AlignmentGraph) -> Callable[[Tensor], Tensor]:
    sets = torch.repeat_interleave(torch.arange(graph.num_relation_sets), graph.set_rel_ptr.diff())
    members, count = graph.set_relation.long(), graph.set_count[:, None]

    def reflectors(relations: Tensor) -> Tensor:
        total = relations.new_zeros(graph.num_relation_sets, relations.shape[1])
        return F.normalize(
            total.index_add(0, sets, relations[members] * count.to(relations.dtype)), eps=1e-12
        )

    return reflectors


def clean(graph: AlignmentGraph) -> Forward:
    """Careful PyTorch: one reflector a relation set, averaged once; gathers and index_add."""
    edges, reflectors = reference.Edges.of(graph), _plain_reflectors(graph)

    def forward(x: Tensor, relations: Tensor, vectors: Tensor) -> Tensor:
        u = reflectors(relations)
        z = [x]
        for v in vectors:
            z.append(reference.relation_reflection_forward(z[-1], u, u @ v, edges, None, "tanh")[0])
        return torch.cat(z, 1)

    return forward


def compiled(graph: AlignmentGraph) -> Forward:
    """torch.compile of the clean form."""
    return torch.compile(clean(graph), dynamic=False)


def message_passing(graph: AlignmentGraph) -> Forward:
    """PyTorch Geometric, as its users write it."""
    from torch_geometric.nn import MessagePassing
    from torch_geometric.utils import softmax

    class Layer(MessagePassing):
        def __init__(self) -> None:
            super().__init__(aggr="add")

        def forward(self, x: Tensor, edge_index: Tensor, u: Tensor, logits: Tensor) -> Tensor:
            weight = softmax(logits, edge_index[1], num_nodes=len(x))
            return torch.tanh(self.propagate(edge_index, x=x, u=u, weight=weight, size=(len(x), len(x))))

        def message(self, x_j: Tensor, u: Tensor, weight: Tensor) -> Tensor:
            return weight[:, None] * (x_j - 2 * (x_j * u).sum(1, keepdim=True) * u)

    layer, reflectors = Layer(), _plain_reflectors(graph)
    edge_index, sets = graph.edge_index(), graph.dst_set.long()

    def forward(x: Tensor, relations: Tensor, vectors: Tensor) -> Tensor:
        u = reflectors(relations)
        z = [x]
        for v in vectors:
            z.append(layer(z[-1], edge_index, u[sets], (u @ v)[sets]))
        return torch.cat(z, 1)

    return forward


def ours(graph: AlignmentGraph) -> Forward:
    """The operators."""
    from loginmea_fast import ops

    def forward(x: Tensor, relations: Tensor, vectors: Tensor) -> Tensor:
        u = ops.relation_reflectors(relations, graph)
        return ops.relation_reflection_layers(x, u, None, graph, relation_vectors=vectors)

    return forward


PROVIDERS: dict[str, Callable[[AlignmentGraph], Forward]] = {
    "authors": authors,
    "clean": clean,
    "torch.compile": compiled,
    "PyG": message_passing,
    "ours": ours,
}


def leaves_of(
    graph: AlignmentGraph, width: int, layers: int, dtype: torch.dtype = torch.float32
) -> list[Tensor]:
    """x, relation embeddings and vectors on a scale at which every gradient counts."""
    generator = torch.Generator().manual_seed(0)
    shapes = ((graph.num_entities, width), (2 * graph.num_relations, width), (layers, width))
    x, relations, vectors = (torch.randn(s, generator=generator) for s in shapes)
    return [t.to(dtype).requires_grad_() for t in (x.tanh(), relations, vectors)]


def upstream_of(out: Tensor) -> Tensor:
    """The same gradient of the output for everybody."""
    return torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).to(out.dtype)


def step(forward: Forward, leaves: list[Tensor], upstream: Tensor) -> tuple[float, float]:
    """Seconds of forward and of backward."""
    start = time.perf_counter()
    out = forward(*leaves)
    between = time.perf_counter()
    torch.autograd.grad(out, leaves, upstream)
    return between - start, time.perf_counter() - between


def errors_of(provider: str, graph: AlignmentGraph, layers: int) -> list[float]:
    """Relative L2 errors of the output and the three gradients against the formula in float64; raises beyond BOUND."""
    width = min(CHECK_WIDTH, max(CHECK_EDGES // graph.num_edges, 1))
    results = []
    for make, dtype in ((PROVIDERS[provider], torch.float32), (clean, torch.float64)):
        leaves = leaves_of(graph, width, layers, dtype)
        out = make(graph)(*leaves)
        results.append([out, *torch.autograd.grad(out, leaves, upstream_of(out).float().to(dtype))])
    errors = [((a.double() - e).norm() / e.norm()).item() for a, e in zip(*results, strict=True)]
    if not max(errors) <= BOUND:
        raise SystemExit(f"{provider}: relative errors {errors} beyond {BOUND}: not timed")
    return errors


def gathered_bytes(graph: AlignmentGraph, width: int, layers: int) -> tuple[int, int]:
    """Bytes of rows that our schedule asks for, forward and backward, wherever they are found.

    Forward: a feature row an edge, a reflector a (destination, set) and the output. Backward: a gradient row an edge,
    a reflector and a private sum, read and written, a (source, set), and four rows an entity.
    """
    row = 4 * width
    pairs = [
        len(torch.unique(entity * graph.num_relation_sets + sets.long()))
        for entity, sets in (
            (graph.edge_index()[1], graph.dst_set),
            (torch.repeat_interleave(graph.src_ptr.diff()), graph.src_set),
        )
    ]
    forward = graph.num_edges + pairs[0] + graph.num_entities
    backward = graph.num_edges + 3 * pairs[1] + 4 * graph.num_entities
    return layers * row * forward, layers * row * backward


def resident(field: str) -> int:
    """Bytes of this process's memory: VmRSS now, VmHWM at most since the peak was reset."""
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith(field + ":"))
    return int(line.split()[1]) * 1024


def give_memory_back() -> None:
    """From now on, what is freed goes back to the system at once, so that a peak is of what is alive."""
    libc = ctypes.CDLL(None)
    for option in (-1, -3):  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD
        libc.mallopt(option, 1 << 16)
    libc.malloc_trim(0)


def in_process(
    provider: str, graph: AlignmentGraph, width: int, layers: int, seconds: float
) -> dict[str, object]:
    """What a child process does: check, warm up, time until `seconds` are spent, find the peak."""
    # An allocation that does not fit fails, before the machine starts to look for a process to end.
    limit = resident("VmSize") + int(0.9 * available())
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    errors = errors_of(provider, graph, layers)
    forward, leaves = PROVIDERS[provider](graph), leaves_of(graph, width, layers)
    upstream = upstream_of(torch.empty(graph.num_entities, (layers + 1) * width))
    first = sum(step(forward, leaves, upstream))
    times: list[tuple[float, float]] = []
    spent = first
    while not times or (spent < seconds and len(times) < 25):
        times.append(step(forward, leaves, upstream))
        spent += sum(times[-1])
    give_memory_back()
    Path("/proc/self/clear_refs").write_text("5")
    before = resident("VmRSS")
    step(forward, leaves, upstream)
    forward_s, backward_s = (statistics.median(t) for t in zip(*times, strict=True))
    return {
        "forward": forward_s,
        "backward": backward_s,
        "bytes": resident("VmHWM") - before,
        "first_call": first,
        "calls": len(times),
        "errors": errors,
    }


def child(provider: str, *options: object) -> dict[str, object]:
    """Run one provider in a process of its own; "skipped" is why it did not fit into memory."""
    command = [sys.executable, __file__, "--provider", provider, *map(str, options)]
    with tempfile.TemporaryFile("w+") as log:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=log, text=True)
        log.seek(0)
        if done.returncode:
            lines = log.read().strip().splitlines()
            reason = lines[-1] if lines else f"{provider} ended with {done.returncode}"
            if "allocate memory" in reason or "MemoryError" in reason:
                return {"skipped": reason}
            raise SystemExit(reason)
    return json.loads(done.stdout.splitlines()[-1])


def available() -> int:
    """Bytes that can be had without swapping."""
    line = next(x for x in Path("/proc/meminfo").read_text().splitlines() if x.startswith("MemAvailable:"))
    return int(line.split()[1]) * 1024


def ceilings(graph: AlignmentGraph, width: int) -> dict[str, float]:
    """Bytes a second of copying, and of summing rows picked at random out of N."""
    from loginmea_fast import native

    library, threads = native.load("cpu"), torch.get_num_threads()
    return {
        "copy": library.measure_copy(1 << 28, 3, threads),
        "gather": library.measure_gather(graph.num_entities, width, graph.num_edges, 3, threads),
    }


def report(
    name: str, width: int, layers: int, providers: Sequence[str], seconds: float
) -> list[dict[str, object]]:
    """Print the table of one graph; returns its rows."""
    graph = load_graph(name)
    limits, asked = ceilings(graph, width), gathered_bytes(graph, width, layers)
    print(
        f"\n{name}: {graph.num_entities:,} entities, {graph.num_edges:,} edges, {graph.num_relation_sets:,} relation "
        f"sets, {layers} layers {width} wide\ncopying {limits['copy'] / 1e9:.1f} GB/s, gathering rows picked at random "
        f"{limits['gather'] / 1e9:.1f} GB/s",
        flush=True,
    )
    rows: list[dict[str, object]] = []
    for provider in providers:
        row: dict[str, object] = {"graph": name, "provider": provider, "width": width, "layers": layers}
        needed = PLAIN_TENSORS[provider] * graph.num_edges * width * 4
        if needed > 0.9 * available():
            row["skipped"] = f"needs about {needed / 1e9:.0f} GB, {available() / 1e9:.0f} GB are free"
        else:
            free = available()
            options = ("--graphs", name, "--width", width, "--layers", layers, "--seconds", seconds)
            row |= child(provider, *options) | limits
            if "skipped" in row:
                row["skipped"] = f"needs about {needed / 1e9:.0f} GB and found no room in {free / 1e9:.0f} GB"
        if provider == "ours" and "forward" in row:
            row |= {"forward_rate": asked[0] / row["forward"], "backward_rate": asked[1] / row["backward"]}
        rows.append(row)
    ours = next((row for row in rows if row["provider"] == "ours" and "forward" in row), None)
    print(f"{'':14}{'forward s':>10}{'':>8}{'backward s':>12}{'':>8}{'MB':>8}{'':>8}{'GB/s':>14}")
    for row in rows:
        if "skipped" in row:
            print(f"{row['provider']:14}{row['skipped']}")
            continue
        if ours is not None:
            row |= {f"{key}_ratio": row[key] / ours[key] for key in ("forward", "backward", "bytes")}
        ratio = [
            f"{row[k]:.1f}x" if k in row else "" for k in ("forward_ratio", "backward_ratio", "bytes_ratio")
        ]
        rates = ", ".join(f"{row[k] / 1e9:.1f}" for k in ("forward_rate", "backward_rate") if k in row)
        print(
            f"{row['provider']:14}{row['forward']:10.3f}{ratio[0]:>8}{row['backward']:12.3f}{ratio[1]:>8}"
            f"{row['bytes'] / 1e6:8.0f}{ratio[2]:>8}{rates:>14}",
            flush=True,
        )
    return rows


def sweep(width: int, layers: int, seconds: float) -> list[dict[str, object]]:
    """Ours over graphs of 10^4 to 10^7 edges; prints nanoseconds and bytes an edge."""
    rows: list[dict[str, object]] = []
    print(f"\n{layers} layers {width} wide, 8 edges an entity\n{'':12}{'an edge:':>12}")
    print(f"{'edges':>12}{'forward ns':>12}{'backward ns':>13}{'bytes':>8}")
    for exponent in (4, 5, 6, 7):
        options = ("--edges", 10**exponent, "--width", width, "--layers", layers, "--seconds", seconds)
        row = {"provider": "ours", "width": width, "layers": layers} | child("ours", *options)
        rows.append(row)
        per_edge = [row[key] / row["edges"] for key in ("forward", "backward", "bytes")]
        print(
            f"{row['edges']:12,}{per_edge[0] * 1e9:12.1f}{per_edge[1] * 1e9:13.1f}{per_edge[2]:8.0f}",
            flush=True,
        )
    return rows


def main() -> None:
    """Print the tables, or serve as one provider's process."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--graphs", nargs="+", choices=GRAPHS, default=list(GRAPHS))
    parser.add_argument("--providers", nargs="+", choices=tuple(PROVIDERS), default=list(PROVIDERS))
    parser.add_argument("--width", type=int, help=f"default {WIDTH}, of a sweep {SWEEP_WIDTH}")
    parser.add_argument("--layers", type=int, default=LAYERS)
    parser.add_argument("--seconds", type=float, default=12.0, help="spent on calls of each provider, about")
    parser.add_argument("--sweep", action="store_true", help="ours alone, over sizes")
    parser.add_argument("--record", action="store_true", help="keep the figures in bench/results")
    parser.add_argument("--provider", choices=tuple(PROVIDERS), help=argparse.SUPPRESS)
    parser.add_argument("--edges", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    width = args.width or (SWEEP_WIDTH if args.sweep else WIDTH)
    if args.provider:
        graph = uniform_graph(args.edges) if args.edges else load_graph(args.graphs[0])
        result = in_process(args.provider, graph, width, args.layers, args.seconds)
        print(json.dumps(result | {"edges": graph.num_edges}))
        return
    note = "forward and backward in seconds, medians; `bytes` is the peak of one of each beyond the arguments"
    if args.sweep:
        rows = sweep(width, args.layers, args.seconds)
        if args.record:
            record("relation_reflection_attention-sizes", rows, note=note)
        return
    note += "; ratios to ours; rates are bytes of the rows that our schedule asks for, a second"
    for name in args.graphs:
        rows = report(name, width, args.layers, args.providers, args.seconds)
        if args.record:
            record("relation_reflection_attention", rows, note=note, merge="graph")


if __name__ == "__main__":
    main()
