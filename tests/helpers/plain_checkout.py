"""A checkout and a Python as they are on a machine where nothing of this project is installed."""

from __future__ import annotations

import re
import shutil
import subprocess
import venv
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).parents[2]


def requirements(*names: str) -> set[str]:
    """These distributions and what they need, extras left out; those that are not installed are left out too."""
    found: set[str] = set()
    left = list(names)
    while left:
        name = left.pop()
        if name in found:
            continue
        try:
            needs = metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            continue
        found.add(name)
        left += [re.split(r"[\s;<>=!~\[(]", need, maxsplit=1)[0] for need in needs if "extra ==" not in need]
    return found


def python_with(directory: Path, *names: str) -> Path:
    """A Python in `directory` that sees these distributions and nothing else: no helper that a `.pth` file imports."""
    venv.create(directory, with_pip=False, symlinks=True)
    (site,) = directory.glob("lib/python*/site-packages")
    for name in requirements(*names):
        files = metadata.files(name)
        assert files is not None, f"{name} does not say what it installed"
        for top in {file.parts[0] for file in files if file.parts[0] not in {"..", "__pycache__"}}:
            source = Path(str(metadata.distribution(name).locate_file(top)))
            if source.suffix != ".pth" and source.exists() and not (site / top).exists():
                (site / top).symlink_to(source)
    return directory / "bin" / "python"


def checkout(directory: Path) -> Path:
    """What git holds of this tree, as it stands, in `directory`."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    for name in filter(None, listed.stdout.decode().split("\0")):
        if (ROOT / name).is_file():
            (directory / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, directory / name)
    return directory
