"""GPU kernels, compiled for real GPUs where there is none. What compiles is not thereby right: tests/ops judge that."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

from loginmea_fast.native import toolchain

ROOT = Path(__file__).parents[1]


def _run(*command: str) -> str:
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return done.stdout


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(toolchain.missing("cuda") is not None, reason=f"{toolchain.missing('cuda')}")
def test_every_cuda_source_compiles_and_the_page_says_what_it_takes() -> None:
    report = _run("scripts/compile_cuda.py")
    sources = sorted(path.name for path in (ROOT / "csrc" / "cuda").glob("*.cu"))
    compiled: dict[str, set[str]] = {}
    for source, arch in re.findall(r"^(\S+\.cu) +(sm_\w+) ", report, re.MULTILINE):
        compiled.setdefault(source, set()).add(arch)
    assert set(compiled) == set(sources) - {"tensor_map.cu"}, "a source without a kernel, or a new one"
    for source, architectures in compiled.items():
        every = {"sm_90a"} if source.endswith("_sm90a.cu") else {"sm_80", "sm_90", "sm_90a"}
        assert architectures == every, source
    page = (ROOT / "docs" / "gpu.md").read_text()
    if f"Compiled by {report.splitlines()[0]} for sm_90" in page:  # another release has other registers
        used = re.findall(r"sm_90a? +(\d+) registers.*  (\S.*)$", report, re.MULTILINE)
        told = re.findall(r"^\| `([^`]+)` (?:\|[^|]*){2}\| (\d+)", page, re.MULTILINE)
        assert len(told) > 10
        assert set(told) <= {(name, registers) for registers, name in used}, (
            "run scripts/compile_cuda.py --render"
        )
    assert f"{len(sources)} of {len(sources)} sources compiled" in report


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")
@pytest.mark.parametrize("capability", [80, 90])
def test_every_triton_kernel_compiles(capability: int) -> None:
    report = _run("scripts/compile_triton.py", "--only", str(capability))
    assert f"sm_{capability}: " in report
