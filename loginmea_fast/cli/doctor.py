"""`loginmea-fast doctor`."""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from loginmea_fast.cli.options import Json
from loginmea_fast.cli.tables import duration, table
from loginmea_fast.errors import LoginMEAError

if TYPE_CHECKING:
    from loginmea_fast.cli.selfcheck import Check, Serving

EXAMPLES = """\
examples:
  loginmea-fast doctor
  loginmea-fast doctor --no-measure          builds nothing that is not needed to answer
  loginmea-fast doctor --json > doctor.json  what a bug report wants

Exit status 1 if a check fails. The first run on a machine compiles the native library."""

_PACKAGES = (
    "torch",
    "numpy",
    "safetensors",
    "pydantic",
    "cyclopts",
    "tqdm",
    "pybind11",
    "cmake",
    "ninja",
    "triton",
    "h5py",
)
_VARIABLES = (
    "LOGINMEA_BACKEND",
    "LOGINMEA_CACHE",
    "LOGINMEA_DATA",
    "LOGINMEA_MARCH",
    "LOGINMEA_NATIVE_DIR",
    "LOGINMEA_CUDA_ARCHS",
    "TRITON_INTERPRET",
    "MAX_JOBS",
    "OMP_NUM_THREADS",
    "CXX",
    "CUDA_HOME",
)


def run(
    *,
    measure: Annotated[
        bool,
        Parameter(show_default=False, help="measure the machine's ceilings, too; on unless --no-measure"),
    ] = True,
    as_json: Json = False,
) -> int:
    """Look, ask, measure, check; 1 if a check failed."""
    from loginmea_fast import native
    from loginmea_fast.cli import selfcheck

    say = (lambda text: print(text, file=sys.stderr, flush=True)) if as_json else _say
    report: dict[str, Any] = {"versions": _versions(), "machine": _machine(), "environment": _environment()}
    say(_describe_machine(report))
    report["ceilings"] = _ceilings() if measure else None
    if report["ceilings"] is not None:
        say(_describe_ceilings(report["ceilings"]))
    devices = ["cpu", *(["cuda"] if report["machine"]["gpus"] else [])]
    serving = list(selfcheck.serving(devices))
    report["operators"] = [asdict(entry) for entry in serving]
    say(_describe_serving(serving))
    # After the operators have been called: they are what fills the cache.
    report["native"] = native.status()
    report["cache"] = _cache(report["native"]["cache"])
    say(_describe_native(report["native"], report["cache"]))
    say("\nself-check: results and gradients of a small case against the formula in float64")
    checks = []
    started = time.perf_counter()
    for check in selfcheck.self_check(devices):
        checks.append(check)
        say(_describe_check(check))
    report["checks"] = [{**asdict(check), "passed": check.passed} for check in checks]
    report["passed"] = all(check.passed for check in checks)
    report["check_seconds"] = time.perf_counter() - started
    failed = sum(not check.passed for check in checks)
    took = duration(report["check_seconds"])
    say(f"\n{len(checks) - failed} of {len(checks)} checks passed in {took}")
    if as_json:
        print(json.dumps(report, indent=2))
    return 0 if report["passed"] else 1


def _say(text: str) -> None:
    print(text, flush=True)


def _versions() -> dict[str, str | None]:
    from loginmea_fast.version import __version__

    versions: dict[str, str | None] = {"loginmea-fast": __version__, "python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = None
    return versions


def _machine() -> dict[str, Any]:
    import torch

    gpus = []
    for index in range(torch.cuda.device_count()):
        facts = torch.cuda.get_device_properties(index)
        gpus.append(
            {"name": facts.name, "memory": facts.total_memory, "capability": f"{facts.major}.{facts.minor}"}
        )
    return {
        "system": platform.platform(),
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "torch_cuda": torch.version.cuda,
        "gpus": gpus,
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())


def _environment() -> dict[str, str]:
    return {name: os.environ[name] for name in _VARIABLES if name in os.environ}


def _ceilings() -> dict[str, Any]:
    """What the native library measures of this machine, or why it cannot."""
    import torch

    from loginmea_fast import native

    threads = torch.get_num_threads()
    try:
        cpu = native.load("cpu")
    except LoginMEAError as error:
        return {"reason": str(error)}
    return {
        "threads": threads,
        "copy_bytes_per_second": cpu.measure_copy(1 << 28, 5, threads),
        "gather_bytes_per_second": cpu.measure_gather(1 << 17, 300, 1 << 18, 3, threads),
        "float32_operations_per_second": cpu.measure_fma(0.3, threads),
    }


def _cache(directory: str) -> dict[str, Any]:
    files = (
        [path for path in Path(directory).rglob("*") if path.is_file()] if os.path.isdir(directory) else []
    )
    libraries = [path for path in files if path.suffix == ".so" and "trees" not in path.parts]
    return {
        "directory": directory,
        "libraries": len(libraries),
        "library_bytes": _size(libraries),
        "bytes": _size(files),
    }


def _size(files: Iterable[Path]) -> int:
    total = 0
    for path in files:
        try:
            total += path.stat().st_size
        except FileNotFoundError:  # another process tidies the cache meanwhile
            continue
    return total


def _describe_machine(report: dict[str, Any]) -> str:
    versions, machine = report["versions"], report["machine"]
    lines = [
        ", ".join(f"{name} {version or 'absent'}" for name, version in versions.items()),
        f"{machine['processor']}; {machine['cores']} cores, {machine['threads']} threads, "
        f"{machine['memory'] / 2**30:.1f} GiB; {machine['system']}",
    ]
    built = f"CUDA {machine['torch_cuda']}" if machine["torch_cuda"] else "no CUDA"
    if not machine["gpus"]:
        lines.append(f"no GPU (torch is built with {built})")
    for gpu in machine["gpus"]:
        lines.append(
            f"{gpu['name']}, {gpu['memory'] / 2**30:.0f} GiB, sm {gpu['capability']} (torch with {built})"
        )
    lines += [f"{name}={value}" for name, value in report["environment"].items()]
    return "\n".join(lines)


def _describe_ceilings(ceilings: dict[str, Any]) -> str:
    if "reason" in ceilings:
        return f"\nceilings of this machine: not measured, {ceilings['reason']}"
    return (
        f"\nceilings of this machine, {ceilings['threads']} threads: "
        f"copy {ceilings['copy_bytes_per_second'] / 1e9:.1f} GB/s, "
        f"gather of rows {ceilings['gather_bytes_per_second'] / 1e9:.1f} GB/s, "
        f"float32 multiply-add {ceilings['float32_operations_per_second'] / 1e9:.0f} GFLOP/s"
    )


def _describe_native(native: dict[str, Any], cache: dict[str, Any]) -> str:
    lines = ["\nnative libraries"]
    for device in ("cpu", "cuda"):
        entry = native[device]
        detail = entry["reason"] or entry["library"] or "compiled when it is first needed"
        lines.append(f"  {device}: {entry['state']}; {detail}; compiler: {entry['compiler'] or 'none'}")
    lines.append(
        f"  cache: {cache['directory']}, {cache['libraries']} libraries of {cache['library_bytes'] / 2**20:.1f} MiB, "
        f"{cache['bytes'] / 2**20:.1f} MiB with build trees and logs; {native['jobs']} compilers at once"
    )
    return "\n".join(lines)


def _describe_serving(serving: Sequence[Serving]) -> str:
    """A line an operator and device, then why the other backends do not serve."""
    dtypes = list(dict.fromkeys(entry.dtype for entry in serving))
    chosen: dict[tuple[str, str], dict[str, str]] = {}
    reasons: dict[str, list[Serving]] = {}
    for entry in serving:
        chosen.setdefault((entry.op, entry.device), {})[entry.dtype] = entry.backend
        for name, reason in entry.others.items():
            reasons.setdefault(f"{name}: {reason or 'can serve, is not the fastest'}", []).append(entry)
    rows = [[op, device, *(by_dtype[d] for d in dtypes)] for (op, device), by_dtype in chosen.items()]
    lines = ["\nbackends", _indent(table(["operator", "on", *dtypes], rows)), "why not another"]
    for told, entries in reasons.items():
        lines.append(f"  {told}" + ("" if len(entries) == len(serving) else f" ({_where(entries, serving)})"))
    return "\n".join(lines)


def _where(entries: Sequence[Serving], serving: Sequence[Serving]) -> str:
    """The operators meant, with device and dtype where not all of them are."""
    parts = []
    for op in dict.fromkeys(entry.op for entry in entries):
        meant = [f"{entry.device} {entry.dtype}" for entry in entries if entry.op == op]
        everywhere = len(meant) == sum(entry.op == op for entry in serving)
        parts.append(op if everywhere else f"{op} on {', '.join(meant)}")
    return "; ".join(parts)


def _describe_check(check: Check) -> str:
    verdict = "pass" if check.passed else "FAIL"
    what = check.problem or f"error {check.error:.1e}, bound {check.bound:.0e}"
    return f"  {verdict}  {check.op} on {check.device} in {check.dtype} by {check.backend}: {what}"


def _indent(text: str) -> str:
    return "\n".join("  " + line for line in text.splitlines())
