"""The tree is the architecture: the same stem in every room, and imports that run one way."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "loginmea_fast"

OPERATORS = ("relation_reflection_attention", "low_rank_fusion", "contrastive_loss", "alignment_search")
ROOMS = (
    "loginmea_fast/reference/{}.py",
    "loginmea_fast/ops/{}.py",
    "csrc/cpu/{}.h",
    "csrc/cpu/{}.cpp",
    "csrc/cuda/{}.h",
    "csrc/cuda/{}.cuh",
    "csrc/cuda/{}.cu",
    "kernels/{}.py",
    "tests/ops/test_{}.py",
    "bench/{}.py",
    "bench/test_{}.py",
    "docs/ops/{}.md",
)

# Rooms that an operator does without: one implementation for the GPU is enough where no measurement asks for two.
WITHOUT = {"contrastive_loss": {"csrc/cuda/{}.h", "csrc/cuda/{}.cuh", "csrc/cuda/{}.cu"}}

# What each part may import of the package. `errors`, `locks` and `version` are everybody's.
FOUNDATION = {"errors", "locks", "version"}
MAY_IMPORT = {
    "errors": set(),
    "locks": set(),
    "version": set(),
    "kernels": set(),
    "reference": {"graph"},
    "native": set(),
    "graph": set(),
    "ops": {"reference", "kernels", "native", "graph"},
    "nn": {"ops", "graph"},
    "data": {"graph"},
    "propagation": {"data", "ops", "graph"},
    # Neighbours: a run is evaluated while it trains, and again when it is read back. Their files still form no cycle.
    "evaluation": {"training", "data", "nn", "ops", "graph"},
    "training": {"evaluation", "data", "nn", "ops", "graph"},
    "cli": {"training", "evaluation", "data", "nn", "ops", "graph", "native"},
    "__main__": {"cli"},
    "__init__": {
        "data",
        "evaluation",
        "graph",
        "native",
        "nn",
        "ops",
        "propagation",
        "reference",
        "training",
    },
}


@pytest.mark.parametrize("operator", OPERATORS)
def test_an_operator_stands_in_every_room(operator: str) -> None:
    missing = {room for room in ROOMS if not (ROOT / room.format(operator)).is_file()}
    assert missing == WITHOUT.get(operator, set())


def test_every_reference_is_an_operator_or_a_part_of_one() -> None:
    """A formula without an operator would be dead; `graph_mean` and helpers belong to the operators that use them."""
    for path in (PACKAGE / "reference").glob("*.py"):
        if not path.stem.startswith("_"):
            assert (PACKAGE / "ops" / path.name).is_file(), f"{path.name} has no public operator"


def _sources() -> list[tuple[str, Path]]:
    found = [("kernels", path) for path in (ROOT / "kernels").rglob("*.py")]
    for path in PACKAGE.rglob("*.py"):
        part = path.relative_to(PACKAGE).parts[0]
        found.append((part.removesuffix(".py"), path))
    return found


def _imported(path: Path) -> Iterator[tuple[int, str]]:
    """The parts of the package that a file imports, anywhere in it, with their lines."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: write imports in full"
            module = node.module or ""
            names = (
                [f"{module}.{alias.name}" for alias in node.names] if module == "loginmea_fast" else [module]
            )
        else:
            continue
        for name in names:
            first, _, rest = name.partition(".")
            if first == "loginmea_fast" and rest:
                yield node.lineno, rest.split(".")[0]


def test_imports_run_one_way() -> None:
    wrong = []
    for part, path in _sources():
        allowed = MAY_IMPORT[part] | FOUNDATION | {part}
        for line, target in _imported(path):
            if target not in allowed:
                wrong.append(f"{path.relative_to(ROOT)}:{line}: {part} imports {target}")
    assert not wrong


def _module(path: Path) -> str:
    name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    return name if path.is_relative_to(PACKAGE) else f"loginmea_fast.{name}"


def test_no_file_is_imported_by_what_it_imports() -> None:
    paths = {_module(path): path for _, path in _sources() if path.name != "__init__.py"}
    imports: dict[str, set[str]] = {}
    for name, path in paths.items():
        found = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module:
                found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
            elif isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
        imports[name] = found & paths.keys() - {name}
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, " -> ".join((*trail, name))
        if name not in done:
            for target in sorted(imports[name]):
                visit(target, (*trail, name))
            done.add(name)

    for name in sorted(paths):
        visit(name, ())


def test_native_sources_know_nothing_above_them() -> None:
    """No torch header: a library then survives an upgrade of torch and compiles where there is none."""
    for path in (ROOT / "csrc").rglob("*"):
        if path.suffix not in {".h", ".cuh", ".cpp", ".cu"}:
            continue
        includes = re.findall(r'^\s*#\s*include\s*[<"]([^>"]+)[>"]', path.read_text(), re.MULTILINE)
        above = [name for name in includes if name.split("/")[0] in {"torch", "ATen", "c10", "THC"}]
        assert not above, f"{path.relative_to(ROOT)} includes {above}"
        if "pybind11/pybind11.h" in includes:
            assert path.name == "bind.h", f"{path.relative_to(ROOT)} meets Python outside the bindings"
