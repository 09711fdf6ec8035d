"""What docs/align.md tells people to type works."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

import loginmea_fast as lf
from loginmea_fast.cli import main
from tests.align.graphs import write_graphs
from tests.cli.conftest import TINY
from tests.training.synthetic import synthetic_pair

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "align.md").read_text(encoding="utf-8")
COMMANDS = [
    line
    for block in re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)
    for line in block.replace("\\\n", " ").splitlines()
    if line.startswith("loginmea-fast ")
]


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with all the files that the page names, small."""
    folder = write_graphs(tmp_path_factory.mktemp("desk"))
    lf.data.save(synthetic_pair(150, degree=5), folder / "data" / "dbp15k" / "fr_en")
    run = ["--out", str(folder / "runs" / "zh_en"), "--quiet", "--epochs", "3", "--valid-ratio", "0.3", *TINY]
    assert main(["train", str(folder / "data" / "dbp15k" / "fr_en"), *run]) == 0
    return folder


@pytest.mark.parametrize("line", COMMANDS)
def test_a_command(
    line: str, desk: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(desk)
    words = shlex.split(line)[1:]
    if words[0] == "align":
        if "propagate" in words:
            words += ["--propagation-width", "64"]
        elif not words[1].startswith("runs/"):
            words += ["--epochs", "2", *TINY]
    assert main(words) == 0, capsys.readouterr().err
    assert capsys.readouterr().out


def test_the_python(desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(desk)
    code = re.search(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert code
    names: dict = {"lf": lf}
    exec(compile(code[1], "docs/align.md", "exec"), names)
    assert len(names["found"].to_frame()) == len(names["found"])
    assert (desk / "alignment.tsv").is_file()


def test_the_table_of_columns_names_all_of_them(desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(desk)
    left, right = lf.data.read_graph("left.nt"), lf.data.read_graph("right.ttl")
    pair = lf.AlignmentPair.from_labeled_triples(left, right)
    found = lf.align(pair, method="propagate", propagation_width=64)
    for column in found.columns():
        spelt = re.sub("^evidence_(?!neighbors).*", "evidence_<modality>", column)
        spelt = re.sub("^share_.*", "share_<part>", spelt)
        assert f"`{spelt}`" in PAGE, column
    found.save(desk / "tables")
    for file in (desk / "tables").iterdir():
        assert f"`{file.name}`" in PAGE
