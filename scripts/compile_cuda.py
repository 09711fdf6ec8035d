"""Compiles every CUDA source for real machines, on a machine that needs no GPU, and reports registers and spills.

The report is kept in build/cuda-report.txt: a line a kernel and architecture. With --render, the table of
docs/gpu.md is written from it. Exits 1 where a source does not compile.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from cuda_kernels import Compiled, kernel_table
from markers import render_into

from loginmea_fast.native.toolchain import jobs

ROOT = Path(__file__).resolve().parents[1]
BUILD = ROOT / "build" / "cuda"
ARCHITECTURES = os.environ.get("LOGINMEA_CUDA_ARCHS", "80;90;90a").split(";")

_KERNEL = re.compile(r"Compiling entry function '(?P<name>\S+)' for '(?P<arch>\w+)'")
_SPILL = re.compile(
    r"(?P<stack>\d+) bytes stack frame, (?P<stores>\d+) bytes spill stores, (?P<loads>\d+) bytes spill loads"
)
_USED = re.compile(r"Used (?P<registers>\d+) registers(?:.*?(?P<shared>\d+) bytes smem)?")


def compile_one(nvcc: str, source: Path) -> tuple[Path, int, str]:
    """Compiles one source for all its architectures; returns it with nvcc's exit code and everything it printed."""
    architectures = ["90a"] if source.stem.endswith("_sm90a") else ARCHITECTURES
    targets = [f"-gencode=arch=compute_{arch},code=sm_{arch}" for arch in architectures]
    flags = ["-std=c++17", "-O3", "--expt-relaxed-constexpr", "-Xptxas=-v", f"-I{ROOT / 'csrc'}"]
    output = BUILD / f"{source.stem}.o"
    done = subprocess.run(
        [nvcc, *flags, *targets, "-c", str(source), "-o", str(output)], capture_output=True, text=True
    )
    return source, done.returncode, done.stdout + done.stderr


def kernels(source: str, printed: str) -> list[Compiled]:
    """Reads ptxas' report of a source."""
    found = []
    name, arch, spilled = "", "", 0
    for line in printed.splitlines():
        if match := _KERNEL.search(line):
            name, arch, spilled = match["name"], match["arch"], 0
        elif match := _SPILL.search(line):
            spilled = int(match["stores"]) + int(match["loads"])
        elif (match := _USED.search(line)) and name:
            used = int(match["registers"]), spilled, int(match["shared"] or 0)
            found.append(Compiled(source, name, arch, *used))
            name = ""
    plain = demangle([row.name for row in found])
    return [row._replace(name=name) for row, name in zip(found, plain, strict=True)]


def demangle(names: list[str]) -> list[str]:
    """Names as they are written in the source, without their argument lists."""
    if not names or not shutil.which("c++filt"):
        return names
    plain = subprocess.run(
        ["c++filt"], input="\n".join(names), capture_output=True, text=True, check=True
    ).stdout
    for number, product in enumerate(("tf32", "exact", "bf16")):  # Products of tile.cuh
        plain = plain.replace(f"(loginmea::Products){number}", product)
    plain = plain.replace("> >", ">>").replace("> >", ">>")
    return [
        re.sub(r"^void |loginmea::|\(anonymous namespace\)::", "", line).split("(")[0]
        for line in plain.splitlines()
    ]


def main() -> int:
    """Compiles, prints and keeps the report."""
    nvcc = shutil.which("nvcc") or shutil.which("nvcc", path="/usr/local/cuda/bin")
    if nvcc is None:
        print("compile-cuda: no nvcc found; install the CUDA toolkit's compiler", file=sys.stderr)
        return 1
    BUILD.mkdir(parents=True, exist_ok=True)
    sources = sorted((ROOT / "csrc" / "cuda").glob("*.cu"))
    with ThreadPoolExecutor(jobs()) as pool:
        results = list(pool.map(lambda source: compile_one(nvcc, source), sources))
    compiled: list[Compiled] = []
    for source, code, printed in results:
        if code == 0:
            compiled += kernels(source.name, printed)
            continue
        print(printed, file=sys.stderr)
        print(f"compile-cuda: {source.relative_to(ROOT)} does not compile", file=sys.stderr)
    report = [
        f"{row.source:40} {row.arch:6}  {row.registers:3} registers  {row.shared:6} B shared  "
        f"{f'{row.spilled} bytes spilled' if row.spilled else 'no spills':>20}  {row.name}"
        for row in compiled
    ]
    target = ROOT / "build" / "cuda-report.txt"
    target.write_text("\n".join([f"nvcc {nvcc_release(nvcc)}", *report]) + "\n")
    print(target.read_text(), end="")
    failed = sum(code != 0 for _, code, _ in results)
    print(
        f"{len(sources) - failed} of {len(sources)} sources compiled for sm_{', sm_'.join(ARCHITECTURES)}; {target}"
    )
    if "--render" in sys.argv[1:] and not failed:
        render_into(ROOT / "docs" / "gpu.md", "kernels", kernel_table(compiled, nvcc_release(nvcc)))
    return 1 if failed else 0


def nvcc_release(nvcc: str) -> str:
    """The release that nvcc says it is."""
    match = re.search(
        r"release (\S+),", subprocess.run([nvcc, "--version"], capture_output=True, text=True).stdout
    )
    return match[1] if match else "of an unknown release"


if __name__ == "__main__":
    sys.exit(main())
