"""GPU kernels, compiled for real GPUs where there is none. What compiles is not thereby right: tests/ops judge that."""

from __future__ import annotations

import importlib.metadata
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


def _told(name: str) -> tuple[str, set[tuple[str, str]]]:
    """A table of docs/gpu.md, and of each of its kernels the registers."""
    page = (ROOT / "docs" / "gpu.md").read_text()
    table = page.partition(f"<!-- {name}: ")[2].partition(f"<!-- /{name} -->")[0]
    found = re.findall(r"^\| `([^`]+)`[^|]*(?:\|[^|]*){2}\| (\d+)", table, re.MULTILINE)
    assert len(found) > 10
    return table, set(found)


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
    table, told = _told("kernels")
    if f"Compiled by {report.splitlines()[0]} for sm_90" in table:  # another release has other registers
        used = re.findall(r"sm_90a? +(\d+) registers.*  (\S.*)$", report, re.MULTILINE)
        assert told <= {(name, registers) for registers, name in used}, "run scripts/compile_cuda.py --render"
    assert f"{len(sources)} of {len(sources)} sources compiled" in report


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")
@pytest.mark.parametrize("capability", [80, 90])
def test_every_triton_kernel_compiles_and_the_page_says_what_it_takes(capability: int) -> None:
    report = _run("scripts/compile_triton.py", "--only", str(capability))
    assert f"sm_{capability}: " in report
    table, told = _told("triton")
    if capability == 90 and f"Compiled by Triton {importlib.metadata.version('triton')} " in table:
        used = set(re.findall(r"^sm_90  (\w+) .*?(\d+) registers", report, re.MULTILINE))
        assert {(name.split(".")[1], registers) for name, registers in told} <= used, (
            "run scripts/compile_triton.py --render"
        )
