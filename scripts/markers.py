"""Records in, documents out: parts that a script writes stand between `<!-- NAME: ... -->` and `<!-- /NAME -->`."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec

__all__ = ["joined", "read_records", "render_into", "table"]

P = ParamSpec("P")


def table(title: str, columns: str, rows: Iterable[Iterable[object]]) -> str:
    """A table of markdown under its title.

    Args:
        title: of any length; without its last line end.
        columns: their names with ` | ` between them.
        rows: the cells of each.
    """
    rule = "---|" * (columns.count("|") + 1)
    lines = (f"| {' | '.join(map(str, cells))} |" for cells in rows)
    return "\n".join([title, "", f"| {columns} |", f"|{rule}", *lines])


def joined(nothing: str) -> Callable[[Callable[P, Iterator[str]]], Callable[P, str]]:
    """Makes one text of the tables that a function yields, `nothing` where it yields none."""

    def decorate(tables: Callable[P, Iterator[str]]) -> Callable[P, str]:
        @wraps(tables)
        def render(*args: P.args, **kwargs: P.kwargs) -> str:
            return "\n\n".join(tables(*args, **kwargs)) or nothing

        return render

    return decorate


def read_records(results: Path, name: str) -> list[dict[str, Any]]:
    """The records of a benchmark, one a machine that has measured it."""
    return [json.loads(path.read_text(encoding="utf-8")) for path in sorted(results.glob(f"*/{name}.json"))]


def render_into(document: Path, name: str, text: str) -> bool:
    """Put `text` between the markers of `name`; True if that changed the document.

    Raises:
        ValueError: the document has no such pair of markers.
    """
    before = document.read_text(encoding="utf-8")
    pattern = re.compile(rf"(<!-- {name}\b[^>]*-->\n).*?(<!-- /{name} -->)", re.DOTALL)
    if not pattern.search(before):
        raise ValueError(f"{document} has no markers <!-- {name} --> and <!-- /{name} -->")
    after = pattern.sub(lambda match: f"{match[1]}{text.strip()}\n{match[2]}", before)
    if after != before:
        document.write_text(after, encoding="utf-8")
    return after != before
