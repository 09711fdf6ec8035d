"""Everything that only a GPU can show, in one command: build, check, measure, keep.

    python bench/gpu --pack          # where the data sets are: their graphs as small integer files in bench/.cache
    python bench/gpu                 # where the GPU is: all stages within nine minutes
    python bench/gpu --stages floors correctness
    python bench/gpu --rehearse      # anywhere: the same code, tiny, on the CPU; shows nothing about a GPU

Needs no network and no installation: torch, triton, pybind11, ninja, cmake, nvcc, and a checkout. Every task is a
process of its own with a time limit, so a kernel that hangs or takes the CUDA context with it costs one task. Results
are written after each task: a run that is cut short keeps what it had. docs/gpu.md tells what the figures mean.
"""

from __future__ import annotations

import importlib.util
import sys
import types
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def use_checkout() -> None:
    """Make this checkout importable as it lies, whatever is or is not installed.

    `bench` and `tests` have no `__init__.py`, so that a package of that name in site-packages would win over them;
    `loginmea_fast.kernels` lies beside the package, where an installation would have mapped it.
    """
    sys.path[0] = str(ROOT)
    for name in ("bench", "tests"):
        package = types.ModuleType(name)
        package.__path__ = [str(ROOT / name)]
        sys.modules[name] = package
    import loginmea_fast

    if importlib.util.find_spec("loginmea_fast.kernels") is None:
        loginmea_fast.__path__.append(str(ROOT))


if __name__ == "__main__":
    use_checkout()
    from bench.gpu.command import main

    sys.exit(main())
