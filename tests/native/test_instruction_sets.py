"""Headers of the kernels under every instruction set that this processor has, not only under its widest."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sysconfig
from pathlib import Path

import pytest

from loginmea_fast.native import load, unavailable
from loginmea_fast.native.sources import Sources

from .conftest import Workshop

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


def _is_gcc() -> bool:
    if shutil.which("g++") is None:
        return False
    done = subprocess.run(["g++", "-dM", "-E", "-x", "c++", os.devnull], capture_output=True, text=True)
    return "__GNUC__" in done.stdout and "__clang__" not in done.stdout


reads_gcc = pytest.mark.skipif(not _is_gcc(), reason="reads what GCC says of its loops, and g++ is none")


def _without_avx512(source: Path, output: Path) -> dict[tuple[str, int], bool]:
    """Compile as the library is, with AVX2; places of loops that GCC speaks of -> whether some became vectors."""
    flags = re.search(r"loginmea_cpu PRIVATE (-O3 .*)\)", (ROOT / "csrc/CMakeLists.txt").read_text())
    assert flags
    command = ["g++", "-std=c++17", "-fopenmp", "-march=x86-64-v3", f"-I{ROOT / 'csrc'}", *flags[1].split()]
    kind = ["-S"] if output.suffix == ".s" else []
    done = subprocess.run(
        [*command, "-fopt-info-vec-all", *kind, source, "-o", output], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    spoken_of: dict[tuple[str, int], bool] = {}
    said = re.findall(r"/(\w+\.\w+):(\d+):\d+: (optimized: loop vectorized using 32 byte)?", done.stderr)
    for name, line, vectors in said:
        place = name, int(line)
        spoken_of[place] = spoken_of.get(place, False) or bool(vectors)
    return spoken_of


def _asked_for(path: Path, spoken_of: dict[tuple[str, int], bool]) -> dict[int, bool]:
    """Lines of `omp simd` loops that were compiled -> whether they became vectors.

    GCC names a loop by its head or by one of its first statements, and by the line of the pragma what joins its lanes.
    """
    lines = path.read_text().splitlines()
    pragmas = [line for line, code in enumerate(lines, 1) if re.match(r"\s*#pragma omp.* simd", code)]
    found = {}
    for line, following in zip(pragmas, [*pragmas[1:], len(lines)], strict=True):
        places = [(path.name, near) for near in range(line + 1, min(line + 5, following))]
        if any(place in spoken_of for place in places):
            found[line + 1] = any(spoken_of.get(place, False) for place in places)
    return found


def _scalar(loops: dict[int, bool]) -> list[int]:
    return [line for line, vectors in loops.items() if not vectors]


@reads_gcc
def test_float32_functions_are_vectors_without_avx512(tmp_path: Path) -> None:
    """`omp simd` is a wish, and what denies it is silent."""
    source, program = Path(__file__).with_name("vectors.cpp"), tmp_path / "vectors"
    spoken_of = _without_avx512(source, program)
    for path in (source, ROOT / "csrc/cpu/softmax_rows.h"):
        loops = _asked_for(path, spoken_of)
        assert len(loops) == path.read_text().count("#pragma omp simd")
        assert not _scalar(loops), f"{path.name}: no vectors came of the loops at lines {_scalar(loops)}"
    if "avx2" in Path("/proc/cpuinfo").read_text():
        done = subprocess.run([program], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout


@reads_gcc
@pytest.mark.parametrize(
    ("source", "count"),
    [  # loops that are compiled: one of the search is for processors that multiply bfloat16
        ("alignment_search", 3),
        ("modality_scale", 4),
        ("relation_reflection_attention", 1),
        ("relation_reflection_attention_backward", 2),
    ],
)
def test_loops_of_kernels_are_vectors_without_avx512(source: str, count: int, tmp_path: Path) -> None:
    """Of some type at least: bfloat16 is none that GCC makes vectors of."""
    path = ROOT / f"csrc/cpu/{source}.cpp"
    loops = _asked_for(path, _without_avx512(path, tmp_path / "kernels.s"))
    assert len(loops) == count
    assert not _scalar(loops), f"{path.name}: no vectors came of the loops at lines {_scalar(loops)}"


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


KERNELS = """
#include "common/cpu_features.h"
#include <Python.h>
int answer();
static PyObject* get(PyObject*, PyObject*) { return PyLong_FromLong(answer()); }
static PyMethodDef methods[] = {{"answer", get, METH_NOARGS, nullptr}, {nullptr, nullptr, 0, nullptr}};
static PyModuleDef definition = {PyModuleDef_HEAD_INIT, "loginmea_cpu", nullptr, -1, methods, 0, 0, 0, 0};
PyMODINIT_FUNC PyInit_loginmea_cpu_kernels() { return PyModule_Create(&definition); }
"""
TRIED = """
from loginmea_fast.errors import BuildError
try:
    print(loader.load("cpu").answer())
except BuildError as error:
    print(error)
"""


@pytest.fixture
def guarded(workshop: Workshop) -> Workshop:
    """A workshop whose library is entered as the real one is."""
    shutil.copytree(ROOT / "csrc" / "common", workshop.sources / "common")
    shutil.copy(ROOT / "csrc" / "cpu" / "entry.cpp", workshop.sources / "cpu")
    (workshop.sources / "bindings_cpu.cpp").write_text(KERNELS)
    return workshop


def test_a_library_for_this_processor_is_let_in(guarded: Workshop) -> None:
    assert guarded.run(TRIED)[0] == "42"


@pytest.mark.parametrize("feature", ["TBM", "AVX512ER"])
def test_a_library_for_another_processor_is_refused_in_a_sentence_and_not_built_again(
    guarded: Workshop, feature: str
) -> None:
    """Only a few processors of the past have TBM or AVX512ER: the flag says that the compiler may use it."""
    if feature.lower() in Path("/proc/cpuinfo").read_text().split():
        pytest.skip(f"this processor has {feature}")
    guarded.environment["CXXFLAGS"] = f"-D__{feature}__=1"
    expected = (
        f"{guarded.cache}.*was built for a processor with {feature}, which this one lacks; set LOGINMEA_MARCH"
    )
    first, said = guarded.run(TRIED)
    assert re.match(expected, first)
    assert said.count("compiling") == 1
    (entry,) = guarded.entries()
    built = (entry / "loginmea_cpu.so").stat()
    again, said = guarded.run(TRIED)
    assert (again, said) == (first, "")
    kept = (entry / "loginmea_cpu.so").stat()
    assert (built.st_ino, built.st_mtime_ns) == (kept.st_ino, kept.st_mtime_ns)


def test_a_library_built_ahead_of_time_for_another_processor_is_passed_over(guarded: Workshop) -> None:
    guarded.run(TRIED, CXXFLAGS="-D__TBM__=1")
    (entry,) = guarded.entries()
    ahead = guarded.root / "ahead"
    ahead.mkdir()
    digest = Sources.read(guarded.sources, "cpu").digest[:16]
    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    shutil.copy(entry / "loginmea_cpu.so", ahead / f"loginmea_cpu-{digest}{suffix}")
    answer, said = guarded.run(TRIED, LOGINMEA_NATIVE_DIR=str(ahead))
    assert answer == "42"
    assert "ahead of time is passed over" in said
    assert "which this one lacks" in said


@pytest.mark.skipif(shutil.which("objdump") is None, reason="needs objdump")
@pytest.mark.parametrize("compiler", COMPILERS)
def test_the_entry_has_no_instruction_that_a_processor_may_lack(guarded: Workshop, compiler: str) -> None:
    """Whatever the flags say: letters v begin all of AVX, and SSE3 and later come with registers it does not touch."""
    guarded.run(TRIED, CXX=compiler, CXXFLAGS="-O3 -march=native")
    (objects,) = guarded.cache.glob("trees/*/build/CMakeFiles/loginmea_cpu.dir")
    words = {}
    for name in ("cpu/entry.cpp.o", "cpu/answer.cpp.o"):
        done = subprocess.run(
            ["objdump", "-d", "--no-show-raw-insn", str(objects / name)],
            check=True,
            capture_output=True,
            text=True,
        )
        words[name] = set(re.findall(r"^\s+[0-9a-f]+:\s+(\w+)", done.stdout, re.MULTILINE))
    assert {"cpuid"} < words["cpu/entry.cpp.o"]
    assert not [
        word
        for word in words["cpu/entry.cpp.o"]
        if re.match(r"v(?!er[rw]$)|[sp]ext|andn|bls|mulx|rorx", word)
    ]


@pytest.mark.skipif(shutil.which("readelf") is None, reason="needs readelf")
def test_no_kernel_runs_before_the_entry() -> None:
    """A constructor of a static object would: two initialisers are the compiler's own, of frames and of CPUID."""
    if (reason := unavailable("cpu")) is not None:
        pytest.skip(reason)
    done = subprocess.run(
        ["readelf", "-dW", str(load("cpu").__file__)], check=True, capture_output=True, text=True
    )
    found = re.search(r"\(INIT_ARRAYSZ\)\s+(\d+)", done.stdout)
    assert found is None or int(found[1]) <= 16


def test_another_processor_has_a_library_of_its_own(guarded: Workshop) -> None:
    """A compiler that resolves -march=native otherwise, as it would on another machine that shares the cache."""
    compiler = guarded.root / "c++"
    compiler.write_text(f'#!/bin/sh\nexec {shutil.which("c++")} "$@" $LACKING\n')
    compiler.chmod(0o755)
    guarded.environment["CXX"] = str(compiler)
    for lacking in ("", "-mno-sse4.2 -mno-avx", ""):
        assert guarded.run(TRIED, LACKING=lacking)[0] == "42"
    assert len(guarded.entries()) == 2
