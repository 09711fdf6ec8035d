"""`evaluate --plot`: figures of a run and of matches as a picture."""

from __future__ import annotations

from pathlib import Path

import pytest

from loginmea_fast.report.figures import bars, curve, lines, reliability
from loginmea_fast.report.plot import draw
from tests.align.graphs import write_graphs

pytest.importorskip("matplotlib")
BINS = [
    {"confidence": 0.2, "precision": 0.1, "matches": 5},
    {"confidence": 0.9, "precision": 0.95, "matches": 40},
]


def test_a_run(call, trained_run: Path, tmp_path: Path) -> None:
    done = call("evaluate", trained_run, "--plot", tmp_path / "run.svg", "--json")
    assert done.status == 0, done.err
    assert done.json["run"] == str(trained_run)
    text = (tmp_path / "run.svg").read_text()
    for title in ("Loss", "Validation", "Links", "Seconds", "Memory", "Hits by degree"):
        assert f">{title}<" in text


def test_matches(call, tmp_path: Path) -> None:
    write_graphs(tmp_path)
    sides = (tmp_path / "left.nt", tmp_path / "right.nt", "--seeds", tmp_path / "seeds.tsv")
    out = ("--method", "propagate", "--propagation-width", 64, "--out", tmp_path / "found")
    assert call("align", *sides, *out).status == 0
    matches, gold = tmp_path / "found" / "alignment.tsv", tmp_path / "gold.tsv"
    done = call("evaluate", matches, gold, "--plot", tmp_path / "sure.png")
    assert done.status == 0, done.err
    assert (tmp_path / "sure.png").read_bytes().startswith(b"\x89PNG")
    call("evaluate", gold, gold, "--plot", tmp_path / "sure.png").check_error("says no confidence")


def test_what_cannot_be_drawn_is_refused_before_anything_is_computed(call, tmp_path: Path) -> None:
    call("evaluate", tmp_path, "--plot", tmp_path / "run.bmp").check_error("ends in .svg, .png, .pdf")
    call("evaluate", tmp_path, "--plot", tmp_path / "no" / "run.svg").check_error("is no directory")


def test_without_matplotlib_it_says_what_to_install(
    call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    call("evaluate", tmp_path, "--plot", tmp_path / "run.svg").check_error(
        "pip install 'loginmea-fast[plot]'"
    )


def test_the_same_figures_are_the_same_picture(tmp_path: Path) -> None:
    figures = [
        reliability(BINS, 0.05),
        curve([0.9, 0.8, 0.3], 0.5),
        lines("Links", "", "epoch", "links", {"links": [(1, 10), (2, 30)]}),
        bars(
            "Hits",
            "",
            ["both of them (12)", "neither (3)"],
            {"hits@1": [0.5, 0.2], "hits@10": [0.9, 0.3]},
            "share",
        ),
    ]
    first = draw(figures, tmp_path / "a.svg").read_bytes()
    assert first == draw(figures, tmp_path / "b.svg").read_bytes()
    assert [file.name for file in sorted(tmp_path.iterdir())] == ["a.svg", "b.svg"]
    for title in (b"Calibration", b"Precision against threshold", b"both of them (12)"):
        assert title in first
