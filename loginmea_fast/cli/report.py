"""`loginmea-fast report`: a page to look at and decide on."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from loginmea_fast.cli.options import Json

EXAMPLES = """\
examples:
  loginmea-fast report found                          found/report.html: look, decide, download decisions.tsv
  loginmea-fast report again --before found           what has changed
"""


def run(
    directory: Annotated[str, Parameter(name="DIR", help="what align or train wrote")],
    /,
    *,
    out: Annotated[
        str | None,
        Parameter(metavar="FILE", help="the page, or a directory for it; default: report.html in DIR"),
    ] = None,
    before: Annotated[
        str | None, Parameter(metavar="DIR", help="an earlier alignment, to show what has changed")
    ] = None,
    as_json: Json = False,
) -> int:
    """Write the page and say where."""
    import json

    from loginmea_fast.report import write_report

    file = write_report(directory, out, before)
    print(json.dumps({"page": str(file)}) if as_json else f"open {file} in a browser")
    return 0
