"""Compiles every Triton kernel for real GPUs on a machine that has none, and reports registers and shared memory.

Each operator is called through its public function, forward and backward, with CPU tensors and `backend="triton"`,
while a stand-in for the driver names an architecture: what a launch would compile is compiled, with the same
specialisations, and nothing runs. One process an architecture, because Triton keeps one target a process. Exits 1 where
a kernel does not compile, wants more shared memory than the architecture has, or was never reached. With --render, the
table of docs/gpu.md is written.
"""

from __future__ import annotations

import argparse
import importlib
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from markers import render_into
from triton_kernels import Specialisation, triton_table

import loginmea_fast as lf
from loginmea_fast.ops.low_rank_fusion import adaptive_low_rank_fusion
from loginmea_fast.ops.modality_scale import modality_scale

ROOT = Path(__file__).resolve().parents[1]
# What a block can have ("CUDA C++ Programming Guide", Compute Capabilities): kernels for 8.0 serve 8.6 and 8.9 as well,
# which have 99 KiB where 8.0 itself has 163.
SHARED_BYTES = {80: 99 * 1024, 90: 227 * 1024}
DTYPES = (torch.float32, torch.bfloat16)


def _random(*shape: int, dtype: torch.dtype) -> torch.Tensor:
    return torch.randn(*shape).to(dtype).requires_grad_()


def _graph() -> lf.AlignmentGraph:
    """A thousand entities and a hub that is everybody's neighbour by one relation: rows and sets long and short."""
    hub = torch.stack(
        [torch.zeros(1000, dtype=torch.int64), torch.zeros(1000, dtype=torch.int64), torch.arange(1000)], 1
    )
    others = torch.stack([torch.randint(high, (300,)) for high in (1000, 5, 1000)], 1)
    return lf.AlignmentGraph.from_triples(torch.cat([hub, others]), 1000, 5)


def relation_reflection_attention(dtype: torch.dtype) -> None:
    """Both modes, both epilogues, narrow, odd, usual and wide rows, one layer and several."""
    graph = _graph()
    for width in (63, 128, 300, 600):
        shape = graph.num_relation_sets, width
        x, reflectors = _random(graph.num_entities, width, dtype=dtype), _random(*shape, dtype=dtype)
        logits, vectors = _random(2, shape[0], dtype=dtype), _random(2, width, dtype=dtype)
        common = {"backend": "triton", "relation_vector": vectors[1]}
        for activation in (
            (None, "tanh") if width < 600 else ("tanh",)
        ):  # of wide rows the blocks alone are new
            for neighbor in (None, vectors):
                first = None if neighbor is None else neighbor[0]
                y = lf.ops.relation_reflection_attention(
                    x, reflectors, logits[0], graph, first, activation, **common
                )
                z = lf.ops.relation_reflection_layers(
                    x, reflectors, logits, graph, neighbor, activation, backend="triton"
                )
                (y.sum() + z.sum()).backward()


def low_rank_fusion(dtype: torch.dtype) -> None:
    """One to four modalities, of one row and many, with and without scales; three in each precision, kept or not."""
    for widths, rows in (((300,), 1), ((300, 300), 96), ((300, 300, 300), 96), ((63, 128, 300, 1), 96)):
        inputs = [_random(rows, width, dtype=dtype) for width in widths]
        factors = [_random(8, width + 1, 300, dtype=dtype) for width in widths]
        weights, bias = _random(1, 8, dtype=dtype), _random(1, 300, dtype=dtype)
        for scale in (None, _random(rows, len(widths), dtype=dtype)):
            for keep in (False, True):
                lf.ops.low_rank_fusion(
                    inputs, factors, weights, bias, scale, "triton", keep_products=keep
                ).sum().backward()
        if len(widths) == 3:
            for precision in ("tf32", "bfloat16"):
                for keep in (False, True):
                    lf.ops.low_rank_fusion(
                        inputs,
                        factors,
                        weights,
                        bias,
                        scale,
                        "triton",
                        precision=precision,
                        keep_products=keep,
                    ).sum().backward()


def scale_of_modalities(dtype: torch.dtype) -> None:
    """With a query and without, of all modalities and of those that rows have, alone and in one node with fusion."""
    inputs = [_random(96, 300, dtype=dtype) for _ in range(3)]
    query, present = _random(1, 300, dtype=dtype), torch.rand(96, 3) > 0.5
    for q in (query, None):
        for has in (present, None):
            modality_scale(inputs, q, "triton", present=has).sum().backward()
    factors = [_random(8, 301, 300, dtype=dtype) for _ in inputs]
    weights, bias = _random(1, 8, dtype=dtype), _random(1, 300, dtype=dtype)
    adaptive_low_rank_fusion(inputs, query, factors, weights, bias, "triton").sum().backward()


def contrastive_loss(dtype: torch.dtype) -> None:
    """One way and both ways, with and without further negatives, each product precision; and everything optional."""
    left, right, extra = (_random(rows, 300, dtype=dtype) for rows in (192, 192, 70))
    for precision in ("ieee", "tf32", "bfloat16"):
        for bidirectional, keys in ((False, None), (True, None), (False, extra)):
            temperature = torch.tensor(0.1, requires_grad=bidirectional)
            lf.ops.contrastive_loss(
                left, right, temperature, bidirectional, "triton", right_keys=keys, precision=precision
            ).backward()
        keys = torch.cat([left, right, extra])
        rows = torch.arange(192)
        lf.ops.contrastive_loss_to_keys(
            left,
            keys,
            rows + 192,
            torch.linspace(1, 2, 192, requires_grad=True),
            "triton",
            key_bias=-keys.float().square().sum(1) / 2,
            excluded=torch.stack([rows, rows], 1),
            normalize=False,
            positive_in_denominator=False,
            precision=precision,
        ).backward()


def alignment_search(dtype: torch.dtype) -> None:
    """Ranks, the best k and mutual neighbours, with and without CSLS and screening."""
    left, right = (_random(192, 300, dtype=dtype).detach() for _ in range(2))
    for csls_k in (0, 10):
        for screen in (None, "bfloat16"):
            lf.ops.alignment_ranks(left, right, csls_k=csls_k, screen=screen, backend="triton")
            lf.ops.alignment_topk(left, right, 10, csls_k=csls_k, screen=screen, backend="triton")


CALLS: tuple[Callable[[torch.dtype], None], ...] = (
    relation_reflection_attention,
    low_rank_fusion,
    scale_of_modalities,
    contrastive_loss,
    alignment_search,
)


def _compile_for(capability: int, render: bool) -> int:
    """Compiles for one architecture in this process, which must not have used Triton before."""
    import triton
    from triton.backends.compiler import GPUTarget

    class Driver:
        """What Triton asks of a driver before it compiles; it never gets as far as a launch."""

        def get_current_device(self) -> int:
            return 0

        def get_current_stream(self, device: int) -> int:
            return 0

        def get_current_target(self) -> GPUTarget:
            return GPUTarget("cuda", capability, 32)

    triton.runtime.driver.set_active(Driver())
    launch = triton.runtime.jit.JITFunction.run
    compiled: dict[str, tuple[str, triton.compiler.CompiledKernel]] = {}

    def compile_only(self, *args, grid, warmup, **kwargs):  # type: ignore[no-untyped-def]
        kernel = launch(self, *args, grid=grid, warmup=True, **kwargs)
        compiled[kernel.hash] = f"{self.__module__.rsplit('.', 1)[-1]}.{self.__name__}", kernel
        return kernel

    triton.runtime.jit.JITFunction.run = compile_only
    lf.ops._dispatch.triton_reason = lambda tensor: None
    for call in CALLS:
        for dtype in DTYPES:
            call(dtype)
    limit = SHARED_BYTES[capability]
    too_much = 0
    found = [_specialisation(name, kernel) for name, kernel in compiled.values()]
    for line, shared in sorted((line, one.shared) for line, one in found):
        too_much += shared > limit
        print(f"sm_{capability}  {line}{'  MORE SHARED MEMORY THAN THERE IS' if shared > limit else ''}")
    if render and capability == 90:
        text = triton_table([one for _, one in found], triton.__version__)
        render_into(ROOT / "docs" / "gpu.md", "triton", text)
    reached = {name for name, _ in compiled.values()}
    never = _launched_by_python() - reached
    print(f"sm_{capability}: {len(reached)} kernels compiled in {len(compiled)} specialisations")
    if never:
        print(f"sm_{capability}: never reached: {', '.join(sorted(never))}")
    return 1 if too_much or never else 0


def _specialisation(name: str, kernel) -> tuple[str, Specialisation]:  # type: ignore[no-untyped-def]
    """A kernel's line, with what the assembler says it uses, its element types and its choices; and the same apart."""
    import triton

    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as cubin:
        cubin.write(kernel.asm["cubin"])
        cubin.flush()
        told = subprocess.run(
            [tool, "-res-usage", cubin.name], capture_output=True, text=True, check=True
        ).stdout
    registers, stack = (int(re.search(rf"{what}:(\d+)", told)[1]) for what in ("REG", "STACK"))  # type: ignore[index]
    warps, shared = kernel.metadata.num_warps, kernel.metadata.shared
    arguments = kernel.src.fn.arg_names
    chosen = {arguments[path[0]]: value for path, value in kernel.src.constants.items()}
    choices = " ".join(f"{argument}={value}" for argument, value in chosen.items())
    kinds = [
        k for kind in kernel.src.signature.values() for k in (kind if isinstance(kind, tuple) else (kind,))
    ]
    pointers = list(dict.fromkeys(kind[1:] for kind in kinds if kind.startswith("*")))
    used = f"{warps:2} warps  {registers:3} registers  {stack:4} B local  {shared:6} B shared"
    line = f"{kernel.metadata.name:28} {used}  {' '.join(pointers)}  {choices}"
    return line, Specialisation(name, chosen, frozenset(pointers), warps, registers, shared)


def _launched_by_python() -> set[str]:
    """Every kernel in kernels/ that is launched with a grid, not only called by another."""
    found = set()
    for path in sorted((ROOT / "kernels").glob("*.py")):
        importlib.import_module(f"loginmea_fast.kernels.{path.stem}".removesuffix(".__init__"))
        text = path.read_text()
        for name in re.findall(r"@triton\.jit[^\n]*\n(?:@[^\n]*\n)*def (\w+)", text):
            if re.search(rf"\b{name}\[", text):
                found.add(f"{path.stem}.{name}")
    return found


def main() -> int:
    """Compiles for the architectures asked for, each in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--only", type=int, choices=sorted(SHARED_BYTES), help="one architecture, in this process"
    )
    parser.add_argument("--render", action="store_true", help="write the table of docs/gpu.md")
    args = parser.parse_args()
    if args.only:
        return _compile_for(args.only, args.render)
    again = [sys.executable, __file__, *sys.argv[1:]]
    return max(subprocess.run([*again, "--only", str(arch)]).returncode for arch in SHARED_BYTES)


if __name__ == "__main__":
    sys.exit(main())
