"""Headers of the kernels under every instruction set that this processor has, not only under its widest."""

from __future__ import annotations

import platform
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

pytestmark = [
    pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="names levels of x86-64"),
    pytest.mark.skipif(shutil.which("c++") is None, reason="needs a C++ compiler"),
]


@pytest.mark.parametrize(
    ("march", "needs", "vector_bytes"),
    [
        ("x86-64", (), 16),
        ("x86-64-v3", ("avx2", "fma"), 32),
        ("x86-64-v4", ("avx512f", "avx512bw", "avx512dq", "avx512vl"), 64),
        ("native", ("avx512_bf16",), 64),
    ],
)
def test_packed_products(march: str, needs: tuple[str, ...], vector_bytes: int, tmp_path: Path) -> None:
    flags = next(
        (line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("flags")), ""
    )
    if missing := set(needs) - set(flags.split()):
        pytest.skip(f"this processor has no {', '.join(sorted(missing))}")
    program = tmp_path / "gemm_tile"
    source = Path(__file__).with_name("gemm_tile.cpp")
    subprocess.run(
        [
            "c++",
            "-std=c++17",
            "-O2",
            f"-march={march}",
            f"-I{ROOT / 'csrc'}",
            str(source),
            "-o",
            str(program),
        ],
        check=True,
    )
    done = subprocess.run([program], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert done.stdout.strip() == f"vectors of {vector_bytes} bytes"


def test_functions_of_numbers_that_are_none(tmp_path: Path) -> None:
    program, source = tmp_path / "elementwise", Path(__file__).with_name("elementwise.cpp")
    checks = ["-fsanitize=undefined", "-fsanitize=float-cast-overflow", "-fno-sanitize-recover=all"]
    subprocess.run(
        ["c++", "-std=c++17", "-O1", *checks, f"-I{ROOT / 'csrc'}", str(source), "-o", str(program)],
        check=True,
    )
    done = subprocess.run([program], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
