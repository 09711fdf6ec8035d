"""The formats of docs/data.md: their files are written, their Python is run, and it prints what the page says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import loginmea_fast as lf

PAGE = (Path(__file__).parents[1] / "docs" / "data.md").read_text(encoding="utf-8")
BLOCK = re.compile(r'^```(\w+)(?: title="([^"]+)")?\n(.*?)^```$', re.DOTALL | re.MULTILINE)


def blocks(heading: str) -> list[tuple[str, str, str]]:
    """Language, file and content of the code below a heading."""
    text = re.search(rf"^## {heading}\n(.*?)(?=^## |\Z)", PAGE, re.DOTALL | re.MULTILINE)
    assert text is not None, heading
    return BLOCK.findall(text[1])


def test_each_format_is_as_the_page_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"lf": lf}
    printed = ""
    compared = 0
    for language, file, content in blocks("Each format by an example"):
        if file:
            Path(file).write_text(content, encoding="utf-8")
        elif language == "python":
            capsys.readouterr()
            exec(compile(content, "docs/data.md", "exec"), names)
            printed = capsys.readouterr().out
        else:
            assert printed == content
            compared += 1
    assert compared == 9


def test_the_first_example_runs() -> None:
    python = [content for language, _, content in blocks("Your own graphs") if language == "python"]
    names: dict[str, object] = {"lf": lf}
    exec(compile(python[0], "docs/data.md", "exec"), names)
    pair = names["pair"]
    assert isinstance(pair, lf.AlignmentPair)
    assert pair.uris[:2] == ["Wien", "Österreich"]
