"""The C++ and CUDA sources: where they lie, and a snapshot of them that cannot change during a build."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from loginmea_fast.errors import BuildError

__all__ = ["Sources", "find_root"]

_SUFFIXES = {".h", ".cuh", ".cpp", ".cu", ".txt"}


def find_root() -> Path:
    """The directory of the sources: inside an installed package, beside it in a checkout.

    Raises:
        BuildError: neither is there.
    """
    package = Path(__file__).parents[1]
    candidates = (package / "csrc", package.parent / "csrc")
    for root in candidates:
        if (root / "CMakeLists.txt").is_file():
            return root
    raise BuildError(
        f"the C++ sources are missing: expected CMakeLists.txt in {candidates[0]} or {candidates[1]}; "
        "reinstall loginmea-fast"
    )


@dataclass(frozen=True)
class Sources:
    """Every source file's bytes, read once: what is hashed is what is compiled."""

    root: Path
    files: dict[str, bytes]

    @classmethod
    def read(cls, root: Path, device: str) -> Sources:
        """Reads what the library of `device` ("cpu" or "cuda") is made of, and nothing of the other's."""
        other = {"cpu": "cuda", "cuda": "cpu"}[device]
        files = {}
        for path in sorted(root.rglob("*")):
            name = path.relative_to(root).as_posix()
            if path.suffix not in _SUFFIXES or not path.is_file():
                continue
            if name.startswith(f"{other}/") or name.startswith(f"bindings_{other}."):
                continue
            files[name] = path.read_bytes()
        return cls(root, files)

    @property
    def digest(self) -> str:
        """SHA-256 over names and contents; csrc/CMakeLists.txt computes the same for builds ahead of time."""
        total = hashlib.sha256()
        for name, data in sorted(self.files.items()):
            total.update(f"{hashlib.sha256(data).hexdigest()}  {name}\n".encode())
        return total.hexdigest()

    def write_to(self, target: Path) -> None:
        """Makes `target` hold exactly these files, touching only those that differ.

        The build tool decides by modification time what to compile again, so a file that is rewritten here is
        newer than every object made from what it held before, whatever the original's time stamp says.
        """
        for path in sorted(target.rglob("*"), reverse=True):
            if path.is_file() and path.relative_to(target).as_posix() not in self.files:
                path.unlink()
        for name, data in self.files.items():
            path = target / name
            if not path.is_file() or path.read_bytes() != data:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)
