from __future__ import annotations

from pathlib import Path

import pytest

from loginmea_fast import data
from loginmea_fast.runs import evaluate

FAST = ("--epochs", "2")


@pytest.mark.slow
def test_the_demo_shows_real_figures_and_real_names(call, tmp_path: Path) -> None:
    done = call("demo", "--out", tmp_path / "demo", "--json", *FAST)
    assert done.status == 0
    answer = done.json
    assert "epoch 2/2" in done.err
    for name, run in answer["runs"].items():
        measured = evaluate(run)
        assert answer["metrics"][name]["csls"] == measured["csls"]
    scores = {name: metrics["csls"]["left_to_right"] for name, metrics in answer["metrics"].items()}
    random = answer["metrics"]["without-names"]["random"]["left_to_right"]
    assert scores["without-names"]["hits@1"] > 20 * random["hits@1"]
    assert scores["with-names"]["mrr"] > scores["without-names"]["mrr"]
    assert (len(answer["right"]), len(answer["wrong"])) == (10, 5)
    pair = data.load_embedded([])
    links = {(pair.names[left], pair.names[right]) for left, right in pair.links.tolist()}
    assert all((example["left"], example["right"]) in links for example in answer["right"])
    for example in answer["wrong"]:
        assert (example["left"], example["truth"]) in links
    assert Path(answer["page"]).read_text(encoding="utf-8").startswith("<!doctype html>")


@pytest.mark.slow
def test_the_demo_for_people(call, tmp_path: Path) -> None:
    done = call("demo", "--out", tmp_path / "demo", *FAST)
    lines = done.out.splitlines()
    for label in ("relations + attributes + images", "the same with names", "random ranking"):
        assert sum(line.startswith(label) for line in lines) == 1
    assert sum("  =  " in line for line in lines) == 10
    assert sum("  is not  " in line and ", but  " in line for line in lines) == 5
    assert str(tmp_path / "demo" / "without-names") in done.out
    assert str(tmp_path / "demo" / "alignment" / "report.html") in done.out


@pytest.mark.parametrize("name", ["without-names", "with-names"])
def test_the_demo_leaves_a_directory_in_use_alone(call, tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    (tmp_path / name / "mine").touch()
    call("demo", "--out", tmp_path, *FAST).check_error(f"{name} exists already")
    assert [path.name for path in tmp_path.rglob("*")] == [name, "mine"]
