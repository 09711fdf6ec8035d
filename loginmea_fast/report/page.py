"""The page: contents, scripts and styles in one file that asks no network for anything."""

from __future__ import annotations

import base64
import gzip
import html
import importlib.util
import json
import os
from importlib import resources
from pathlib import Path
from typing import Any

from loginmea_fast.errors import ConfigError, DataError, LoginMEAError
from loginmea_fast.files import write_whole
from loginmea_fast.report.alignment import alignment_contents
from loginmea_fast.report.run import run_contents

__all__ = ["NAME", "can_write", "write_report"]

NAME = "report.html"
"""Of the page, in the directory that it is about."""


def write_report(
    directory: str | os.PathLike[str],
    out: str | os.PathLike[str] | None = None,
    before: str | os.PathLike[str] | None = None,
) -> Path:
    """Write the page of a run or of an alignment.

    Args:
        directory: what `train` or `align` wrote.
        out: the file, or a directory for it; by default `report.html` in the directory.
        before: an earlier alignment of the same graphs, to show what has changed.

    Returns:
        The file, written whole or not at all.

    Raises:
        ConfigError: plotly is missing, the directory holds neither, a run has no records, or `before` goes with none.
        DataError: a file is missing or malformed, or the page cannot be written.
    """
    source = Path(directory)
    a_run = (source / "config.toml").is_file() and not (source / "report.json").is_file()
    if a_run and before is not None:
        raise ConfigError("before compares alignments; a run has none, align it first")
    try:
        contents = (
            run_contents(source)
            if a_run
            else alignment_contents(source, None if before is None else Path(before))
        )
    except LoginMEAError:
        raise
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        what, remedy = ("run", "train again") if a_run else ("alignment", "align again")
        raise DataError(
            f"{source} holds a damaged {what} ({type(error).__name__}: {error}); {remedy}"
        ) from None
    target = source if out is None else Path(out)
    if target.is_dir():
        target /= NAME
    page = _page(contents).encode("utf-8", "backslashreplace")
    try:
        write_whole(target, page)
    except OSError as error:
        raise DataError(f"{target} cannot be written ({error.strerror or error})") from None
    return target


def can_write() -> bool:
    """Whether plotly is there."""
    return importlib.util.find_spec("plotly") is not None


def _page(contents: dict[str, Any]) -> str:
    """The template filled in; contents are packed, so that no text of them is ever read as HTML."""
    try:
        from plotly.offline import get_plotlyjs
    except ImportError:
        raise ConfigError("the page needs plotly: pip install 'loginmea-fast[report]'") from None
    packed = gzip.compress(json.dumps(contents, allow_nan=False).encode(), mtime=0)
    parts = {
        "TITLE": html.escape(contents["title"]),
        "STYLE": _asset("page.css"),
        "PLOTLY": get_plotlyjs(),
        "SCRIPT": _asset("page.js"),
        "DATA": base64.b64encode(packed).decode(),
    }
    page = _asset("page.html")
    for name, text in parts.items():
        head, mark, tail = page.partition(f"<!--{name}-->")
        assert mark, f"the template has a place for {name}"
        page = head + text + tail
    return page


def _asset(name: str) -> str:
    return resources.files(__package__).joinpath("assets", name).read_text(encoding="utf-8")
