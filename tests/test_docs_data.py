"""Pages with examples: their files are written, Python and commands run in order, and print what the pages say."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

import loginmea_fast as lf
from loginmea_fast.cli import main

DOCS = Path(__file__).parents[1] / "docs"
BLOCK = re.compile(r'^```(\w+)(?: title="([^"]+)")?\n(.*?)^```$', re.DOTALL | re.MULTILINE)
# Examples, by page, of which the output is compared.
COMPARED = {
    "formats/ntriples.md": 1,
    "formats/turtle.md": 1,
    "formats/rdfxml.md": 1,
    "formats/jsonld.md": 1,
    "formats/csv.md": 1,
    "formats/parquet.md": 1,
    "formats/links.md": 1,
    "formats/libraries.md": 1,
    "formats/layouts.md": 1,
    "formats/matches.md": 4,
    "quick-start.md": 1,
}


def test_every_page_of_a_format_is_tried() -> None:
    pages = {f"formats/{path.name}" for path in (DOCS / "formats").glob("*.md")}
    assert pages - {"formats/index.md"} == {name for name in COMPARED if name.startswith("formats/")}
    listed = set(re.findall(r"\]\((\w+\.md)\)", (DOCS / "formats" / "index.md").read_text(encoding="utf-8")))
    assert {f"formats/{name}" for name in listed} == pages - {"formats/index.md"}


@pytest.mark.parametrize("page", COMPARED)
def test_a_page_is_as_it_says(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"lf": lf}
    printed, compared = "", 0
    for language, file, content in BLOCK.findall((DOCS / page).read_text(encoding="utf-8")):
        if file:
            Path(file).parent.mkdir(exist_ok=True)
            Path(file).write_text(content, encoding="utf-8")
        elif language == "python":
            capsys.readouterr()
            exec(compile(content, page, "exec"), names)
            printed = capsys.readouterr().out
        elif language == "sh":
            for line in content.splitlines():
                assert main(shlex.split(line)[1:]) == 0, (line, capsys.readouterr().err)
        else:
            assert printed == content
            compared += 1
    assert compared == COMPARED[page]


def test_the_first_example_of_data_runs() -> None:
    text = (DOCS / "data.md").read_text(encoding="utf-8").partition("\n## Your own graphs\n")[2]
    names: dict[str, Any] = {"lf": lf}
    python = next(content for language, _, content in BLOCK.findall(text) if language == "python")
    exec(compile(python, "docs/data.md", "exec"), names)
    assert isinstance(names["pair"], lf.AlignmentPair)
    assert names["pair"].uris[:2] == ["Wien", "Österreich"]


@pytest.mark.slow
def test_the_notebook_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its cells in order, as Jupyter would; no output is kept in it that could be of another version."""
    notebook = json.loads((DOCS / "notebooks" / "align.ipynb").read_text(encoding="utf-8"))
    assert notebook["nbformat"] == 4
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            assert cell["outputs"] == []
            exec(compile("".join(cell["source"]), "align.ipynb", "exec"), names)
    assert names["figures"]["precision"] > 0.9
    assert "precision" in capsys.readouterr().out
