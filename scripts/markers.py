"""Records in, documents out: parts that a script writes stand between `<!-- NAME: ... -->` and `<!-- /NAME -->`."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

__all__ = ["read_records", "render_into"]


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
