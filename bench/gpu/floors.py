"""What the card can do at best: copying, gathering rows, multiplying matrices; and what it is."""

from __future__ import annotations

import importlib.util
import platform
import shutil
import subprocess

import torch
import torch.nn.functional as F

from bench.gpu.run import Run

__all__ = ["build", "environment", "floors"]

PACKAGES = ("triton", "torch_geometric", "pybind11", "cmake", "ninja", "pytest", "hypothesis")


def environment(run: Run) -> None:
    """The card, its driver, and what is installed beside torch."""
    row = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "packages": {name: _version(name) for name in PACKAGES},
        "nvcc": _told("nvcc", "--version"),
        "compute_sanitizer": shutil.which("compute-sanitizer"),
    }
    if run.device.type == "cuda" and torch.cuda.is_available():
        card = torch.cuda.get_device_properties(run.device)
        row |= {
            "device": card.name,
            "capability": f"{card.major}{card.minor}",
            "multiprocessors": card.multi_processor_count,
            "memory_gb": round(card.total_memory / 1e9, 1),
            "l2_mb": round(card.L2_cache_size / 2**20, 1),
            "driver": _told(
                "nvidia-smi", "--query-gpu=driver_version,clocks.sm,clocks.mem", "--format=csv,noheader"
            ),
        }
    run.write(**row)


def _version(name: str) -> str | None:
    if importlib.util.find_spec(name) is None:
        return None
    from importlib import metadata

    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "there, version unknown"


def _told(*command: str) -> str | None:
    if shutil.which(command[0]) is None:
        return None
    return subprocess.run(command, capture_output=True, text=True).stdout.strip().splitlines()[-1]


def build(run: Run) -> None:
    """The CUDA library, compiled for this card."""
    from loginmea_fast import native

    with run.attempt(backend="cuda") as row:
        library = native.load("cuda")
        row["library"] = library.__file__
        row["functions"] = sum(not name.startswith("_") for name in dir(library))


def floors(run: Run) -> None:
    """Copy bandwidth, gathers that hit and that miss L2, and matrix products, plain and in the fusion's shape."""
    with run.attempt(floor="copy") as row:
        _copy(run, row, run.pick(2**30, 2**30, 2**16))
    for name, rows in (("gather from L2", 20_000), ("gather from memory", 2_000_000)):
        with run.attempt(floor=name) as row:
            _gather(run, row, 50 if run.rehearsal else rows)
    size = run.pick(8192, 8192, 32)
    shapes = {
        "": (size, size, size),
        ", shape of the fusion": run.pick((38_960, 300, 2400), (38_960, 300, 2400), (20, 5, 8)),
    }
    for dtype, precision, name in (
        (torch.float32, "highest", "float32"),
        (torch.float32, "high", "tf32"),
        (torch.bfloat16, "highest", "bfloat16"),
    ):
        torch.set_float32_matmul_precision(precision)
        for suffix, shape in shapes.items():
            with run.attempt(floor=name + suffix) as row:
                _product(run, row, shape, dtype)


def _copy(run: Run, row: dict, size: int) -> None:
    source = torch.randn(size // 4, device=run.device)
    target = torch.empty_like(source)
    _rate(row, run.measure(lambda _: target.copy_(source)), 2 * source.nbytes, "GB/s", 1e9)


def _product(run: Run, row: dict, shape: tuple[int, int, int], dtype: torch.dtype) -> None:
    m, k, n = shape
    a, b = torch.randn(m, k, device=run.device).to(dtype), torch.randn(k, n, device=run.device).to(dtype)
    out = torch.empty(m, n, device=run.device, dtype=dtype)
    _rate(row, run.measure(lambda _: torch.mm(a, b, out=out)), 2 * m * n * k, "TFLOP/s", 1e12)


def _gather(run: Run, row: dict, rows: int) -> None:
    """Sums of eight rows of 300 float32 each, any rows: what attention does without its arithmetic."""
    table = torch.randn(rows, 300, device=run.device)
    bags = run.pick(500_000, 500_000, 20)
    index = torch.randint(rows, (bags, 8), device=run.device)
    moved = index.numel() * table.shape[1] * 4 + bags * table.shape[1] * 4
    _rate(row, run.measure(lambda _: F.embedding_bag(index, table, mode="sum")), moved, "GB/s", 1e9)


def _rate(row: dict, timing: dict, amount: float, unit: str, scale: float) -> None:
    row |= timing
    if timing:
        row["rate"] = round(amount / (timing["ms"][0] / 1e3) / scale, 1)
        row["unit"] = unit
