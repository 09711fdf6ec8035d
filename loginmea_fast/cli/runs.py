"""Names of new run directories."""

from __future__ import annotations

import re
import time
from pathlib import Path

__all__ = ["fresh_run_directory"]


def fresh_run_directory(name: str, parent: str = "runs") -> Path:
    """A path under `parent` that is not taken: name and time, and a number where two start in one second."""
    stem = f"{re.sub(r'[^A-Za-z0-9_.]+', '-', name).strip('-')}-{time.strftime('%Y%m%d-%H%M%S')}"
    path, number = Path(parent) / stem, 1
    while path.exists():
        number += 1
        path = Path(parent) / f"{stem}-{number}"
    return path
