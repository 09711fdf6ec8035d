"""The tree is the architecture: the same stem in every room, and imports that run one way."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "loginmea_fast"

OPERATORS = (
    "relation_reflection_attention",
    "low_rank_fusion",
    "contrastive_loss",
    "alignment_search",
    "propagation",
)
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

# Rooms that an operator does without: one implementation for the GPU is enough where no measurement asks for two, and
# none where the vendor's sparse products serve.
CUDA = {"csrc/cuda/{}.h", "csrc/cuda/{}.cuh", "csrc/cuda/{}.cu"}
WITHOUT = {"contrastive_loss": CUDA, "alignment_search": CUDA, "propagation": {*CUDA, "kernels/{}.py"}}
# What the columns of the table in docs/architecture.md stand for.
COLUMNS = (
    "loginmea_fast/reference/{}.py",
    "loginmea_fast/ops/{}.py",
    "csrc/cpu/{}.cpp",
    "csrc/cuda/{}.cu",
    "kernels/{}.py",
    "tests/ops/test_{}.py",
    "bench/{}.py",
    "docs/ops/{}.md",
)

# What each part may import of the package. What is in FOUNDATION is everybody's.
FOUNDATION = {"derived", "errors", "files", "locks", "log", "machine", "mapped", "version"}
MAY_IMPORT: dict[str, set[str]] = {
    "derived": set(),
    "errors": set(),
    "files": set(),
    "locks": set(),
    "log": set(),
    "mapped": set(),
    "machine": set(),
    "whitening": set(),
    "version": set(),
    "kernels": set(),
    "reference": {"graph"},
    "native": set(),
    "view": {"native"},
    "graph": {"view"},
    "ops": {"reference", "kernels", "native", "graph"},
    "parallel": {"ops", "graph"},
    "nn": {"parallel", "ops", "graph"},
    "data": {"graph"},
    "propagation": {"data", "ops", "graph", "whitening"},
    "evaluation": {"data", "nn", "parallel", "ops", "graph", "whitening"},
    "training": {"evaluation", "propagation", "data", "nn", "parallel", "ops", "graph", "whitening"},
    "runs": {"training", "evaluation", "propagation", "data", "nn", "parallel", "ops", "graph"},
    "report": {"runs"},
    "cli": {"report", "runs", "training", "evaluation", "data", "nn", "parallel", "ops", "graph", "native"},
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
        "runs",
        "training",
    },
}


@pytest.mark.parametrize("operator", OPERATORS)
def test_an_operator_stands_in_every_room(operator: str) -> None:
    missing = {room for room in ROOMS if not (ROOT / room.format(operator)).is_file()}
    assert missing == WITHOUT.get(operator, set())


def test_the_table_of_rooms_is_that_of_the_tree() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` ((?:\| [^|]*){8})\|$", text, re.MULTILINE)
    assert tuple(operator for operator, _ in rows) == OPERATORS
    for operator, cells in rows:
        marked = [bool(cell.strip()) for cell in cells.split("|")[1:]]
        assert marked == [(ROOT / room.format(operator)).is_file() for room in COLUMNS], operator


def test_every_reference_is_an_operator_or_a_part_of_one() -> None:
    """A formula without an operator would be dead; `graph_mean` and helpers belong to the operators that use them."""
    for path in (PACKAGE / "reference").glob("*.py"):
        if not path.stem.startswith("_"):
            assert (PACKAGE / "ops" / path.name).is_file(), f"{path.name} has no public operator"


@pytest.fixture
def render_imports(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    return importlib.import_module("render_imports")


def test_the_directions_have_no_circle(render_imports: ModuleType) -> None:
    """Parts are packages: importing a file of one runs its `__init__`, and with it most of the part."""
    assert render_imports.circle(MAY_IMPORT) == []


def test_imports_run_one_way(render_imports: ModuleType) -> None:
    wrong = []
    known = render_imports.modules()
    for module, path in known.items():
        part = render_imports.part(module)
        for line, imported in render_imports.imports(path, known):
            target = render_imports.part(imported)
            if target not in MAY_IMPORT[part] | FOUNDATION | {part}:
                wrong.append(f"{path.relative_to(ROOT)}:{line}: {part} imports {target}")
    assert not wrong


def test_no_file_is_imported_by_what_it_imports(render_imports: ModuleType) -> None:
    graph = render_imports.file_graph()
    assert "loginmea_fast.training" in graph["loginmea_fast"], "an `__init__` is a file like any other"
    assert render_imports.circle(graph) == []


@pytest.mark.parametrize(
    ("graph", "found"),
    [
        ({"a": {"b"}, "b": {"c"}, "c": set()}, []),
        ({"a": {"b"}, "b": {"c"}, "c": {"b"}}, ["b", "c", "b"]),
        ({"a": {"a"}}, ["a", "a"]),
        ({"a": {"b", "c"}, "b": {"d"}, "c": {"d"}, "d": set()}, []),
    ],
)
def test_a_circle_is_found(render_imports: ModuleType, graph: dict[str, set[str]], found: list[str]) -> None:
    assert render_imports.circle(graph) == found


def test_every_way_of_importing_is_seen(render_imports: ModuleType, tmp_path: Path) -> None:
    file = tmp_path / "file.py"
    file.write_text(
        "import loginmea_fast.graph\n"
        "from loginmea_fast import ops\n"
        "from loginmea_fast.nn import LoginMEA\n"
        "def later():\n"
        "    from loginmea_fast.training.config import Config\n"
    )
    assert list(render_imports.imports(file, render_imports.modules())) == [
        (1, "loginmea_fast.graph"),
        (2, "loginmea_fast.ops"),
        (3, "loginmea_fast.nn"),
        (5, "loginmea_fast.training.config"),
    ]


def test_the_drawn_imports_are_those_of_the_tree(render_imports: ModuleType) -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    assert render_imports.render() in text, "run scripts/render_imports.py"


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
