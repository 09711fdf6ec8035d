"""compute-sanitizer over a small case of every CUDA kernel: memcheck and racecheck; and which kernels that reaches."""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench.gpu.run import Run, environment
from bench.gpu.session import COMMAND, ROOT
from loginmea_fast import AlignmentGraph, ops
from tests.helpers.graphs import triples_of

__all__ = ["check", "findings", "judged", "kernels_in", "program", "small"]

OURS = "loginmea"  # in the mangled name of each of our kernels; libraries' kernels are not instrumented
HOPPER = {"group_products", "walk_ring"}  # kernels of cards that have them
POOLLESS = "PYTORCH_NO_CUDA_MEMORY_CACHING"
_SUMMARY = re.compile(r"(?:ERROR|RACECHECK) SUMMARY: (\d+)")
_TELLING = re.compile(r"Invalid|azard|not supported|Error")


def check(run: Run, op: str, tool: str) -> None:
    """Run `small` under a tool, in a process of its own."""
    with run.attempt(op=op, backend="cuda", tool=tool) as row:
        found = program()
        if found is None:
            row |= {"status": "not run", "reason": "compute-sanitizer is not there"}
            return
        with tempfile.NamedTemporaryFile(suffix=".jsonl") as rows:
            command = [found, "--tool", tool, *_only_ours(found), *COMMAND]
            command += ["--task", f"small/{op}", "--rows", rows.name, "--scale", run.scale]
            # Without PyTorch's pool every tensor is an allocation of its own, so that its ends are seen.
            environment = os.environ | {POOLLESS: "1"}
            done = subprocess.run(command, env=environment, capture_output=True, text=True)
            written = [json.loads(line) for line in Path(rows.name).read_text().splitlines()]
        told = done.stdout + done.stderr
        print(told[-8000:])
        row |= judged(told, done.returncode, next((r for r in written if "small" in r), None))


def program() -> str | None:
    """Where compute-sanitizer is."""
    return shutil.which("compute-sanitizer") or shutil.which("compute-sanitizer", path="/usr/local/cuda/bin")


def findings(told: str) -> int | None:
    """How many a tool's output says that it has found; None where it says nothing."""
    summary = _SUMMARY.search(told)
    return None if summary is None else int(summary[1])


def judged(told: str, code: int, case: dict[str, Any] | None) -> dict[str, Any]:
    """What a tool's output says, given the row that the case itself has written, if it got so far."""
    if case is not None and case["status"] == "refused":
        return {"status": "refused", "reason": case["reason"]}
    lines = [line.removeprefix("=========").strip() for line in told.splitlines()]
    count = findings(told)
    first = next((line for line in lines if _TELLING.search(line)), "see the log")
    if count is None or case is None:
        return {"status": "failed", "reason": f"exit code {code}: {first}"[:400]}
    if count or case["status"] != "ok":
        return {"status": "wrong", "findings": count, "reason": f"{count} findings; {first}"[:400]}
    return {"findings": 0}


def _only_ours(program: str) -> list[str]:
    """The option that picks kernels by a part of their name; it was renamed between releases."""
    told = subprocess.run([program, "--help"], capture_output=True, text=True).stdout
    option = next((name for name in ("--kernel-name", "--kernel-regex") if name in told), None)
    return [option, f"kns={OURS}"] if option else []


def small(run: Run, op: str) -> None:
    """Forward and backward of every variant, on inputs whose sizes divide nothing; then the kernels never launched."""
    call = {
        "relation_reflection_attention": _attention,
        "low_rank_fusion": _fusion,
    }[op]
    if POOLLESS in os.environ:  # under a sanitizer, which leaves the profiler no room
        with run.attempt(small=op):
            call(run)
        return
    activity = torch.profiler.ProfilerActivity
    with run.attempt(op=op, backend=_backend(run), tool="kernels") as row:
        with torch.profiler.profile(activities=[activity.CPU if run.rehearsal else activity.CUDA]) as seen:
            call(run)
        launched = {event.key for event in seen.key_averages()}
        row["kernels"] = [name for text in _sources(op) for name in kernels_in(text)]
        if launched and not run.rehearsal:  # nothing is seen where the driver does not allow profiling
            never = [name for name in row["kernels"] if not any(name in key for key in launched)]
            if not run.hopper:
                never = [name for name in never if name not in HOPPER]
            assert not never, f"never launched: {', '.join(never)}"


def _sources(op: str) -> list[str]:
    """The sources of an operator, and the skeleton that it stands on."""
    own = [path.read_text() for path in sorted((ROOT / "csrc" / "cuda").glob(f"{op}*.cu*"))]
    skeletons = re.findall(r'#include "cuda/(segments|tile|warpgroup)\.cuh"', "".join(own))
    return own + [(ROOT / "csrc" / "cuda" / f"{name}.cuh").read_text() for name in skeletons]


def kernels_in(source: str) -> list[str]:
    """Names of the kernels that a CUDA source defines, and of the functors that a skeleton's kernels are made with."""
    bounds = r"__launch_bounds__\([^)]*\)"
    kernels = re.findall(rf"__global__\s+(?:void\s+|{bounds}\s+)+(\w+)\s*\(", source)
    structs = re.split(r"^struct ", source, flags=re.MULTILINE)[1:]
    return kernels + [re.split(r"\W", text)[0] for text in structs if "__device__ void end(" in text]


def _backend(run: Run) -> str:
    return "reference" if run.rehearsal else "cuda"


def _normal(run: Run, *shape: int, dtype: torch.dtype) -> Tensor:
    return torch.randn(*shape, device=run.device).to(dtype).requires_grad_()


def _attention(run: Run) -> None:
    cases = itertools.product(
        ("hub", "self loops"), (torch.float32, torch.bfloat16), (False, True), (False, True)
    )
    for case, dtype, triple, hopper in cases:
        graph = AlignmentGraph.from_triples(*triples_of(case)).to(run.device)
        width = 40 if hopper else 37  # bulk copies take multiples of 16 bytes
        u = _normal(run, graph.num_relation_sets, width, dtype=dtype)
        w = _normal(run, 2, width, dtype=dtype) if triple else None
        with environment({"LOGINMEA_HOPPER": "1" if hopper else ""}):
            ops.relation_reflection_layers(
                _normal(run, graph.num_entities, width, dtype=dtype), u, None, graph, w, backend=_backend(run),
                relation_vectors=_normal(run, 2, width, dtype=dtype),
            ).sum().backward()  # fmt: skip


def _fusion(run: Run) -> None:
    for dtype in (torch.float32, torch.bfloat16):
        widths = (37, 64)
        inputs = [_normal(run, 131, width, dtype=dtype) for width in widths]
        factors = [_normal(run, 3, width + 1, 45, dtype=dtype) for width in widths]
        small = [_normal(run, 1, width, dtype=dtype) for width in (3, 45)]
        for precision, hopper in (("ieee", False), ("tf32", False), ("tf32", True)):
            scale = _normal(run, 131, 2, dtype=dtype)
            with environment({"LOGINMEA_HOPPER": "1" if hopper else ""}):
                out = ops.low_rank_fusion(
                    inputs, factors, *small, scale, backend=_backend(run), precision=precision
                )
                out.sum().backward()
