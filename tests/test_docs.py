"""Documents that cannot drift from what they describe."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from loginmea_fast.cli import app
from loginmea_fast.data import format_names
from loginmea_fast.training import Config
from loginmea_fast.training.config import parse_overrides

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])


@pytest.fixture
def scripts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(document: Path) -> None:
    text = re.sub(r"```.*?```", "", document.read_text(encoding="utf-8"), flags=re.DOTALL)
    targets = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r'(?:src|srcset|href)="([^"]+)"', text)
    local = [target.partition("#")[0] for target in targets if "://" not in target]
    assert [target for target in local if target and not (document.parent / target).exists()] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_commands_in_documents_are_understood(document: Path) -> None:
    for block in re.findall(r"```sh\n(.*?)```", document.read_text(encoding="utf-8"), re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            if line.startswith("loginmea-fast "):
                words = shlex.split(line, comments=True)
                args = app._parse(words[1 : words.index("|") if "|" in words else None])
                Config.build(parse_overrides(getattr(args, "overrides", None) or []))
                assert args.command in words
                assert getattr(args, "format", None) in (None, "auto", *format_names())


def test_the_table_of_keys_is_that_of_the_class(scripts: None) -> None:
    from render_config import config_table

    text = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
    assert config_table() in text, "run scripts/render_config.py"


def test_rendering_leaves_the_rest_of_a_document_alone(scripts: None, tmp_path: Path) -> None:
    from markers import render_into

    document = tmp_path / "page.md"
    document.write_text("before\n<!-- results: by a script -->\nold\n\nolder\n<!-- /results -->\nafter\n")
    assert render_into(document, "results", "\nnew \\1\n")
    assert (
        document.read_text() == "before\n<!-- results: by a script -->\nnew \\1\n<!-- /results -->\nafter\n"
    )
    assert not render_into(document, "results", "new \\1")
    with pytest.raises(ValueError, match="no markers <!-- config -->"):
        render_into(document, "config", "x")


@pytest.mark.slow
def test_the_python_of_the_readme_runs(capsys: pytest.CaptureFixture[str]) -> None:
    code = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert code
    assert code[1].count("epochs=20") == 1
    exec(compile(code[1].replace("epochs=20", "epochs=1"), "README.md", "exec"), {})
    out = capsys.readouterr().out
    assert "Hits@1 0." in out
    assert out.count(" -> ") == 5
