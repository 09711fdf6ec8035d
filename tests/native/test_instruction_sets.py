"""Headers of the kernels under every instruction set that this processor has, not only under its widest."""

from __future__ import annotations

import os
import platform
import re
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


# Instruction sets that have a macro and are used only where code asks for them by name, which none here does; macros
# of no instruction set.
NEVER_UNASKED = {
    *("AMX_BF16", "AMX_INT8", "AMX_TILE", "AMXBF16", "AMXINT8", "AMXTILE", "AMX_FP16", "AMX_COMPLEX"),
    *(
        "CLDEMOTE",
        "CLFLUSHOPT",
        "CLWB",
        "CLZERO",
        "CMPCCXADD",
        "CRC32",
        "ENQCMD",
        "FSGSBASE",
        "HRESET",
        "INVPCID",
        "KL",
    ),
    *(
        "LAHF_SAHF",
        "LWP",
        "MOVDIR64B",
        "MOVDIRI",
        "MWAITX",
        "PCONFIG",
        "PKU",
        "PREFETCHI",
        "PREFETCHWT1",
        "PRFCHW",
    ),
    *(
        "PTWRITE",
        "RDPID",
        "RDPRU",
        "RDRND",
        "RDSEED",
        "SERIALIZE",
        "SGX",
        "SHSTK",
        "TSXLDTRK",
        "UINTR",
        "WAITPKG",
    ),
    *("WBNOINVD", "KL", "WIDEKL", "XSAVE", "XSAVEC", "XSAVEOPT", "XSAVES", "RTM", "HLE"),
    "ABM",  # POPCNT and LZCNT, which have macros of their own
    *("FLT16_HAS_DENORM", "FLT16_HAS_INFINITY", "FLT16_HAS_QUIET_NAN"),
}
MARCHES = ["native", "sapphirerapids", "alderlake", "cooperlake", "tigerlake", "knm", "znver3", "bdver4"]
COMPILERS = [name for name in ("g++", "clang++") if shutil.which(name)]


def _defined(compiler: str, march: str) -> set[str] | None:
    command = [compiler, f"-march={march}", "-dM", "-E", "-x", "c++", os.devnull]
    done = subprocess.run(command, capture_output=True, text=True)
    return (
        set(re.findall(r"#define __([A-Z0-9_]+)__ 1$", done.stdout, re.MULTILINE))
        if not done.returncode
        else None
    )


@pytest.mark.parametrize("march", MARCHES)
@pytest.mark.parametrize("compiler", COMPILERS)
def test_whatever_a_compiler_may_use_is_asked_for(compiler: str, march: str) -> None:
    defined, common = _defined(compiler, march), _defined(compiler, "x86-64")
    if defined is None or common is None:
        pytest.skip(f"this {compiler} does not know {march}")
    asked = set(re.findall(r"LOGINMEA_FEATURE\((\w+),", (ROOT / "csrc/common/cpu_features.h").read_text()))
    assert defined - common - NEVER_UNASKED <= asked


FEATURES = """
#include <cstdio>
#include "common/cpu_features.h"
int main() {
  const char* missing = loginmea::missing_cpu_feature();
  std::puts(missing ? missing : "nothing");
}
"""


@pytest.mark.parametrize(
    ("flags", "missing"), [([], "nothing"), (["-D__TBM__=1"], "TBM"), (["-D__AVX512ER__=1"], "AVX512ER")]
)
@pytest.mark.parametrize("compiler", COMPILERS)
def test_a_processor_that_lacks_something_is_told_what(
    compiler: str, flags: list[str], missing: str, tmp_path: Path
) -> None:
    """Only a few processors of the past have TBM or AVX512ER; compiling for this one finds nothing missing."""
    if flags and missing.lower() in Path("/proc/cpuinfo").read_text().split():
        pytest.skip(f"this processor has {missing}")
    source, program = tmp_path / "features.cpp", tmp_path / "features"
    source.write_text(FEATURES)
    march = "x86-64" if flags else "native"
    command = [
        compiler,
        "-std=c++17",
        "-Wall",
        "-Wextra",
        "-Werror",
        f"-march={march}",
        *flags,
        f"-I{ROOT / 'csrc'}",
    ]
    subprocess.run([*command, str(source), "-o", str(program)], check=True)
    assert subprocess.run([program], capture_output=True, text=True).stdout.strip() == missing
