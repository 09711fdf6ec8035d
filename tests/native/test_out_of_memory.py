"""A kernel that runs out of memory says so and leaves the process alive, wherever in it that happens.

Rows are few and very wide, so that each workspace is large enough to be mapped on its own: every allocation then meets
the limit in turn while the limit is raised step by step.
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

HARNESS = """
import resource, sys
import torch
from loginmea_fast import native
from loginmea_fast.native import dtype_code

native.load("cpu")
cpu, code, threads = native.load("cpu"), dtype_code(torch.float32), 2
torch.set_num_threads(threads)
torch.ones(1 << 22).sum()  # the threads of the pool exist before memory is short
def pointers(tensors): return [t.data_ptr() for t in tensors]
def rows(*shape): return torch.ones(*shape)
WIDE = 1 << 18
PREPARE
run()  # warm: what is made at the first call is made
def mapped():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[0]) * resource.getpagesize()
outcomes = []
for step in range(2000):
    limit = mapped() + step * STEP
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
    try:
        run()
        outcome = "served"
    except MemoryError as error:
        outcome = str(error)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    outcomes.append(outcome)
    if outcome == "served":
        break
run()
print(len(outcomes), outcomes[0], "...", outcomes[-1])
assert outcomes[-1] == "served", outcomes[-1]
assert all(o.startswith("no memory for a workspace of") or o == "std::bad_alloc" for o in outcomes[:-1]), outcomes
assert len(outcomes) > 1, "nothing was short"
"""

GRAPH = """
from loginmea_fast import AlignmentGraph
from loginmea_fast.ops.relation_reflection_attention import _index_of
import numpy as np
triples = np.array([[0, 0, 1], [1, 1, 2], [2, 0, 0], [0, 1, 2]])
graph = AlignmentGraph.from_triples(triples, 3, 2)
n, e, u, d = 3, graph.num_edges, graph.num_relation_sets, WIDE
"""

HUB = """
from loginmea_fast import AlignmentGraph
from loginmea_fast.ops.relation_reflection_attention import _index_of
import numpy as np
spokes = 1 << 16
triples = np.stack([np.zeros(spokes, int), np.arange(spokes) % 2, 1 + np.arange(spokes)], 1)
graph = AlignmentGraph.from_triples(triples, spokes + 1, 2)
n, e, u, d = spokes + 1, graph.num_edges, graph.num_relation_sets, 4
"""

ATTENTION = """
index = pointers(_index_of(graph))
z, reflectors, vectors = [rows(n, d) for _ in range(3)], rows(u, d), rows(2, d)
logits, lse = rows(2, u), rows(2, n)
dx, du, dc, dv, dw = rows(n, d), rows(u, d), rows(2, u), rows(2, d), rows(2, d)
kept = [torch.empty(n + 1, dtype=torch.int64), *(torch.empty(e, dtype=torch.int32) for _ in range(3))]
def stream():
    cpu.relation_reflection_stream([n, n, e], u, index, *pointers(kept), threads)
stream()
def forward():
    cpu.relation_reflection_forward(
        code, [n, n, e], u, d, index, pointers(kept), pointers(z), [d] * 3, reflectors.data_ptr(), 0,
        vectors.data_ptr(), TRIPLE, True,
        logits.data_ptr(), lse.data_ptr(), threads)
def backward():
    cpu.relation_reflection_backward(
        code, [n, n, e], u, d, index, pointers(z), [d] * 3, pointers(z), [d] * 3, lse.data_ptr(), logits.data_ptr(),
        reflectors.data_ptr(), vectors.data_ptr(), TRIPLE, True, False, dx.data_ptr(), du.data_ptr(), dc.data_ptr(),
        dv.data_ptr(), dw.data_ptr(), threads)
"""

FUSION = """
count, k, d = 7, 2, 1 << 12
x, w = [rows(count, d) for _ in range(2)], [rows(k, d + 1, 3) for _ in range(2)]
small, bias, scale, y = rows(1, k), rows(1, 3), rows(count, 2), rows(count, 3)
dx, dw = [rows(count, d) for _ in range(2)], [rows(k, d + 1, 3) for _ in range(2)]
dk, db, dr = rows(1, k), rows(1, 3), rows(count, 2)
compute = COMPUTE
given = pointers(x), [d] * 2, [d] * 2, pointers(w), small.data_ptr()
def forward():
    cpu.low_rank_fusion_forward(
        *given, bias.data_ptr(), scale.data_ptr(), 0, y.data_ptr(), count, k, 3, code, compute, threads)
def backward():
    cpu.low_rank_fusion_backward(
        y.data_ptr(), *given, scale.data_ptr(), 0, pointers(dx), pointers(dw), dk.data_ptr(), db.data_ptr(),
        dr.data_ptr(), count, k, 3, code, compute, threads)
"""

SCALE = """
count, d = 3, WIDE
x, dx, query, dq, r = [rows(count, d)], [rows(count, d)], rows(1, d), rows(1, d), rows(count, 1)
def backward():
    cpu.modality_scale_backward(
        r.data_ptr(), pointers(x), [d], [d], query.data_ptr(), 0, pointers(dx), dq.data_ptr(), count, False, code,
        threads)
"""

MEANS = """
y, out = rows(n, d), rows(n, d)
relations, reflectors, reciprocal = rows(2 * graph.num_relations, d), rows(u, d), rows(u)
members = graph.set_rel_ptr, graph.set_relation, graph.set_count
transposed = graph.rel_ptr, graph.rel_set, graph.rel_count
def sums():
    cpu.row_sums(code, n, d, graph.dst_ptr.data_ptr(), graph.dst_source.data_ptr(), 4, *[0] * 7, y.data_ptr(), d,
                 out.data_ptr(), n, threads)
def reflect():
    cpu.unit_reflectors(code, u, d, *pointers(members), relations.data_ptr(), reflectors.data_ptr(),
                        reciprocal.data_ptr(), 1e-12, threads)
def reflect_backward():
    cpu.unit_reflectors_backward(code, len(relations), u, d, *pointers(transposed), reflectors.data_ptr(),
                                 reflectors.data_ptr(), reciprocal.data_ptr(), 1e-12, relations.data_ptr(), threads)
"""

CASES = {
    "attention forward": (GRAPH + ATTENTION, "forward"),
    "attention backward": (GRAPH + ATTENTION, "backward"),
    "attention forward, triple": (GRAPH + ATTENTION, "forward"),
    "attention backward, triple": (GRAPH + ATTENTION, "backward"),
    "attention stream, hub": (HUB + ATTENTION, "stream"),
    "attention forward, hub": (HUB + ATTENTION, "forward"),
    "attention backward, hub": (HUB + ATTENTION, "backward"),
    "fusion forward": (FUSION, "forward"),
    "fusion backward": (FUSION, "backward"),
    "fusion forward, bfloat16 products": (FUSION, "forward"),
    "fusion backward, bfloat16 products": (FUSION, "backward"),
    "scale backward": (SCALE, "backward"),
    "row sums": (GRAPH + MEANS, "sums"),
    "reflectors": (GRAPH + MEANS, "reflect"),
    "reflectors backward": (GRAPH + MEANS, "reflect_backward"),
    "ceiling of copies": ("", "lambda: cpu.measure_copy(1 << 24, 1, threads)"),
    "ceiling of gathers": ("", "lambda: cpu.measure_gather(4, WIDE, 8, 1, threads)"),
}


@pytest.mark.skipif(sys.platform != "linux", reason="limits the address space as Linux does")
@pytest.mark.parametrize("case", CASES)
def test_a_kernel_short_of_memory_leaves_the_process_alive(case: str) -> None:
    prepare, run = CASES[case]
    prepare = prepare.replace("TRIPLE", "vectors.data_ptr()" if "triple" in case else "0")
    prepare = prepare.replace("COMPUTE", "dtype_code(torch.bfloat16)" if "bfloat16" in case else "code")
    script = HARNESS.replace("PREPARE", prepare + f"\nrun = {run}").replace("STEP", str(1 << 17))
    # Freed memory goes back at once: what was there before cannot serve what is asked for now.
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, f"{done.returncode}: {done.stdout[-500:]} {done.stderr[-1500:]}"
