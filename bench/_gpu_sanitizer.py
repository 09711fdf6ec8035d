"""compute-sanitizer over a small case of every CUDA kernel: memcheck and racecheck; and which kernels that reaches."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from torch import Tensor

from bench._gpu_run import Run
from loginmea_fast import AlignmentGraph, ops
from tests.helpers.graphs import triples_of

__all__ = ["check", "small"]

ROOT = Path(__file__).resolve().parents[1]
TOOLS = ("memcheck", "racecheck")
OURS = "loginmea"  # in the mangled name of each of our kernels; libraries' kernels are not instrumented
_SUMMARY = re.compile(r"(?:ERROR|RACECHECK) SUMMARY: (\d+)")


def check(run: Run, op: str, tool: str) -> None:
    """Run `small` under a tool, in a process of its own."""
    with run.attempt(op=op, backend="cuda", tool=tool) as row:
        program = shutil.which("compute-sanitizer") or shutil.which(
            "compute-sanitizer", path="/usr/local/cuda/bin"
        )
        if program is None:
            row |= {"status": "not run", "reason": "compute-sanitizer is not there"}
            return
        with tempfile.NamedTemporaryFile(suffix=".jsonl") as rows:
            command = [
                program,
                "--tool",
                tool,
                *_only_ours(program),
                sys.executable,
                str(ROOT / "bench" / "gpu.py"),
            ]
            command += ["--task", f"small/{op}", "--rows", rows.name, "--scale", run.scale]
            # Without PyTorch's pool every tensor is an allocation of its own, so that its ends are seen.
            environment = os.environ | {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
            done = subprocess.run(command, env=environment, capture_output=True, text=True)
            finished = b'"small"' in Path(rows.name).read_bytes()
        told = done.stdout + done.stderr
        print(told[-8000:])
        summary = _SUMMARY.search(told)
        if not finished or summary is None:
            refused = next(
                (line for line in told.splitlines() if "not supported" in line or "rror:" in line), ""
            )
            row |= {
                "status": "failed",
                "reason": f"exit code {done.returncode} without a summary: {refused}"[:400],
            }
            return
        row["findings"] = int(summary[1])
        found = [
            line.removeprefix("=========").strip()
            for line in told.splitlines()
            if re.search(r"Invalid|hazard", line)
        ]
        assert row["findings"] == 0, f"{summary[1]} findings; first: {found[0] if found else 'see the log'}"


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
        "contrastive_loss": _loss,
        "alignment_search": _search,
    }[op]
    if (
        "PYTORCH_NO_CUDA_MEMORY_CACHING" in os.environ or run.rehearsal
    ):  # under a sanitizer, which CUPTI disturbs
        call(run)
        run.write(small=op, status="ok")
        return
    with (
        run.attempt(small=op) as row,
        torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as seen,
    ):
        call(run)
        torch.cuda.synchronize()
    launched = {event.key for event in seen.key_averages()}
    text = "".join(path.read_text() for path in (ROOT / "csrc" / "cuda").glob(f"{op}.cu*"))
    names = re.findall(r"__global__\s+(?:void|__launch_bounds__\([^)]*\)|\s)+(\w+)\s*\(", text)
    never = [name for name in dict.fromkeys(names) if not any(name in key for key in launched)]
    run.write(
        small=op, kernels=names, never_launched=never, status="wrong" if never and launched else row["status"]
    )


def _backend(run: Run) -> str:
    return "reference" if run.rehearsal else "cuda"


def _normal(run: Run, *shape: int, dtype: torch.dtype) -> Tensor:
    return torch.randn(*shape, device=run.device).to(dtype).requires_grad_()


def _attention(run: Run) -> None:
    for case in ("hub", "self loops"):
        graph = AlignmentGraph.from_triples(*triples_of(case)).to(run.device)
        for dtype in (torch.float32, torch.bfloat16):
            for triple in (False, True):
                u = _normal(run, graph.num_relation_sets, 37, dtype=dtype)
                w = _normal(run, 2, 37, dtype=dtype) if triple else None
                ops.relation_reflection_layers(
                    _normal(run, graph.num_entities, 37, dtype=dtype), u, None, graph, w, backend=_backend(run),
                    relation_vectors=_normal(run, 2, 37, dtype=dtype),
                ).sum().backward()  # fmt: skip


def _fusion(run: Run) -> None:
    for dtype in (torch.float32, torch.bfloat16):
        widths = (37, 64)
        inputs = [_normal(run, 131, width, dtype=dtype) for width in widths]
        factors = [_normal(run, 3, width + 1, 45, dtype=dtype) for width in widths]
        small = [_normal(run, 1, width, dtype=dtype) for width in (3, 45)]
        for precision in ("ieee", "tf32"):
            scale = _normal(run, 131, 2, dtype=dtype)
            out = ops.low_rank_fusion(
                inputs, factors, *small, scale, backend=_backend(run), precision=precision
            )
            out.sum().backward()


def _loss(run: Run) -> None:
    for dtype in (torch.float32, torch.bfloat16):
        left, right, extra = (_normal(run, rows, 37, dtype=dtype) for rows in (131, 131, 17))
        for both in (False, True):
            ops.contrastive_loss(left, right, 0.1, both, extra, backend=_backend(run)).backward()


def _search(run: Run) -> None:
    left, right = (_normal(run, 131, 37, dtype=torch.float32).detach() for _ in range(2))
    for screen in (None, "bfloat16"):
        options = {"csls_k": 5, "screen": screen, "backend": _backend(run)}
        ops.alignment_ranks(left, right, **options)
        ops.alignment_topk(left, right, 7, **options)
        ops.mutual_nearest(left, right, **options)
