"""Parts of a document that a script writes stand between `<!-- NAME: ... -->` and `<!-- /NAME -->`."""

from __future__ import annotations

import re
from pathlib import Path

__all__ = ["render_into"]


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
