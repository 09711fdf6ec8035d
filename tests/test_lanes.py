"""GPU kernels, compiled for real GPUs where there is none. What compiles is not thereby right: tests/ops judge that."""

from __future__ import annotations

import importlib.util
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
@pytest.mark.skipif(toolchain.missing("cuda") is not None, reason=f"{toolchain.missing('cuda')}")
def test_every_cuda_source_compiles_for_sm_80_and_sm_90() -> None:
    report = _run("scripts/compile_cuda.py")
    sources = sorted(path.name for path in (ROOT / "csrc" / "cuda").glob("*.cu"))
    for source in sources:
        for arch in ("sm_80", "sm_90"):
            assert any(line.startswith(source) and arch in line for line in report.splitlines()), (
                source,
                arch,
            )
    assert f"{len(sources)} of {len(sources)} sources compiled" in report


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")
@pytest.mark.parametrize("capability", [80, 90])
def test_every_triton_kernel_compiles(capability: int) -> None:
    report = _run("scripts/compile_triton.py", "--only", str(capability))
    assert f"sm_{capability}: " in report
