"""Draws who imports whom: parts of the package into docs/architecture.md, all files as Graphviz's dot with --dot."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from markers import render_into

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "loginmea_fast"
EVERYBODYS = {"errors", "version"}

Graph = dict[str, set[str]]


def modules() -> dict[str, Path]:
    """Every module of the package by its full name, those that are mapped into it included."""
    found = {}
    for folder, name in ((ROOT / PACKAGE, PACKAGE), (ROOT / "kernels", f"{PACKAGE}.kernels")):
        for path in sorted(folder.rglob("*.py")):
            parts = [name, *path.relative_to(folder).with_suffix("").parts]
            found[".".join(parts).removesuffix(".__init__")] = path
    return found


def imports(path: Path, known: Mapping[str, Path]) -> Iterator[tuple[int, str]]:
    """Line and module of each import in a file, anywhere in it; a package stands for its `__init__`."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: write imports in full"
            whole = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if name in known else node.module or "" for name in whole]
        else:
            continue
        yield from ((node.lineno, name) for name in dict.fromkeys(names) if name in known)


def file_graph() -> Graph:
    """Module -> modules that it imports."""
    known = modules()
    return {name: {target for _, target in imports(path, known)} - {name} for name, path in known.items()}


def part(module: str) -> str:
    """The part of the package that a module belongs to: its first folder or file, `__init__` for the package itself."""
    return module.split(".")[1] if "." in module else "__init__"


def part_graph() -> Graph:
    """Part -> parts that it imports, without those that everybody may import."""
    graph: Graph = {}
    for module, targets in file_graph().items():
        graph.setdefault(part(module), set()).update(map(part, targets))
    return {name: targets - {name} - EVERYBODYS for name, targets in graph.items() if name not in EVERYBODYS}


def circle(graph: Graph) -> list[str]:
    """A way through `graph` that ends where it began; empty where there is none."""
    done: set[str] = set()

    def visit(name: str, trail: list[str]) -> list[str]:
        if name in trail:
            return [*trail[trail.index(name) :], name]
        if name in done:
            return []
        for target in sorted(graph.get(name, ())):
            if found := visit(target, [*trail, name]):
                return found
        done.add(name)
        return []

    return next((found for name in sorted(graph) if (found := visit(name, []))), [])


def drawing(graph: Graph) -> str:
    """A line a part, importers above: what it imports that nothing else which it imports brings along."""
    assert not circle(graph), " -> ".join(circle(graph))
    reach: Graph = {}

    def reached(name: str) -> set[str]:
        if name not in reach:
            reach[name] = set(graph[name]).union(*(reached(target) for target in graph[name]))
        return reach[name]

    order = sorted(graph, key=lambda name: (-len(reached(name)), name))
    width = max(map(len, graph))
    lines = []
    for name in order:
        direct = sorted(t for t in graph[name] if not any(t in reached(o) for o in graph[name] - {t}))
        lines.append(f"{name:{width}}  ->  {', '.join(direct)}" if direct else name)
    return "\n".join(lines)


def dot(graph: Graph) -> str:
    """The graph for Graphviz: `python scripts/render_imports.py --dot | dot -Tsvg > imports.svg`."""
    edges = [f'  "{name}" -> "{target}"' for name in sorted(graph) for target in sorted(graph[name])]
    return "\n".join(["digraph imports {", "  rankdir=LR", *edges, "}"])


def render() -> str:
    """The block of docs/architecture.md."""
    graph = part_graph()
    ends = {"__init__", "__main__"}  # they name everything, and nothing names them
    return f"```\n{drawing({name: graph[name] for name in graph.keys() - ends})}\n```"


if __name__ == "__main__":
    if "--dot" in sys.argv[1:]:
        print(dot(file_graph()))
    else:
        changed = render_into(ROOT / "docs" / "architecture.md", "imports", render())
        print("docs/architecture.md", "written" if changed else "is up to date")
