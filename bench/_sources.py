"""Which version of the sources was measured, told by the sources themselves: a checkout need not have git."""

from __future__ import annotations

import hashlib
from pathlib import Path

__all__ = ["digest_of_sources"]

ROOT = Path(__file__).resolve().parents[1]


def digest_of_sources() -> str:
    """The first 16 hexadecimal digits of SHA-256 over the package's and the kernels' sources."""
    total = hashlib.sha256()
    for folder in ("csrc", "kernels", "loginmea_fast"):
        for path in sorted((ROOT / folder).rglob("*")):
            # A checkout may have the package's link to the kernels, which are read by themselves.
            if "kernels" not in path.relative_to(ROOT).parts[1:] and path.suffix in (
                ".py",
                ".cu",
                ".cuh",
                ".cpp",
                ".h",
                ".txt",
            ):
                total.update(f"{path.relative_to(ROOT)}\n".encode() + path.read_bytes())
    return total.hexdigest()[:16]
