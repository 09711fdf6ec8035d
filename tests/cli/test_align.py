from __future__ import annotations

import json
from pathlib import Path

import pytest

from loginmea_fast import data
from tests.align.graphs import write_graphs
from tests.cli.conftest import TINY

QUICK = ("--method", "propagate", "--propagation-width", 128, "--seed-ratio", 0.5)


def test_a_data_set(call, data_dir: Path, tmp_path: Path) -> None:
    out = tmp_path / "found"
    done = call("align", data_dir, *QUICK, "--modalities", "relation", "--out", out)
    assert done.status == 0, done.err
    assert "matches" in done.out
    assert "expected precision" in done.out
    assert f"written to {out}" in done.out
    assert "measured on 20 withheld links" in done.out
    report = json.loads((out / "report.json").read_text())
    assert report["known_links"] == 20
    lines = (out / "alignment.tsv").read_text().splitlines()
    assert len(lines) == report["matches"] + 1


def test_an_alignment_that_is_there_is_told_before_data_is_read(call, data_dir: Path, tmp_path: Path) -> None:
    out = tmp_path / "found"
    out.mkdir()
    (out / "alignment.tsv").write_text("")
    call("align", data_dir, "--out", out).check_error("holds another alignment", "--overwrite")
    done = call("align", data_dir, *QUICK, "--modalities", "relation", "--out", out, "--overwrite", "--json")
    assert done.status == 0
    assert done.json["out"] == str(out)


def test_a_run(call, trained_run: Path, tmp_path: Path) -> None:
    done = call("align", trained_run, "--out", tmp_path / "found", "--format", "csv", "--json")
    assert done.status == 0, done.err
    assert done.json["method"] == "model"
    assert done.json["withheld_links"] == 28
    assert (tmp_path / "found" / "alignment.csv").is_file()
    call("align", trained_run, "--out", tmp_path / "x", "--method", "propagate").check_error("--method out")


def test_the_model_by_default(call, data_dir: Path, tmp_path: Path) -> None:
    done = call(
        "align", data_dir, "--seed-ratio", 0.8, "--epochs", 2, "--out", tmp_path / "found", "--json", *TINY
    )
    assert done.status == 0, done.err
    assert done.json["method"] == "model"
    assert done.json["held_out_links"] == 6


def test_wrong_input(call, data_dir: Path, tmp_path: Path) -> None:
    out = ("--out", tmp_path / "x")
    call("align", data_dir).check_error("out")
    call("align", data_dir, *out, "--format", "docx").check_error("format must be one of")
    call("align", tmp_path / "nowhere", *out).check_error("does not exist")
    (tmp_path / "left.csv").write_text("id,name\na,b\n")
    call("align", tmp_path / "left.csv", *out).check_error("two files are aligned")
    call("align", data_dir, *out, "--method", "magic").check_error("method")
    call("align", data_dir, *out, "--precision", "2", "--method", "propagate").check_error("precision")


def test_matches_in_a_file_are_measured(call, data_dir: Path, tmp_path: Path) -> None:
    out = tmp_path / "found"
    call("align", data_dir, *QUICK, "--modalities", "relation", "--precision", 0.2, "--out", out)
    pair = data.load(data_dir)
    gold = tmp_path / "gold.tsv"
    gold.write_text("".join(f"{pair.uris[a]}\t{pair.uris[b]}\n" for a, b in pair.links.tolist()))
    done = call("evaluate", out / "alignment.tsv", gold)
    assert done.status == 0, done.err
    assert "have an entity of the 40 links" in done.out
    assert "expected calibration error" in done.out
    answer = call("evaluate", out / "alignment.tsv", gold, "--json").json
    assert answer["links"] == 40
    assert answer["judged"] == answer["matches"]
    assert answer["precision"] == answer["right"] / answer["judged"]
    call("evaluate", out / "alignment.tsv").check_error("is a file of matches", "GOLD")
    call("evaluate", out / "alignment.tsv", gold, "--csls-k", 3).check_error("leave the flags")
    gold.write_text("cities\ttowns\n" + gold.read_text())
    told = call("evaluate", out / "alignment.tsv", gold)
    assert "begins with 'cities' and 'towns', which no match names" in told.out
    rows = [line.split("\t") for line in gold.read_text().splitlines()]
    gold.write_text("".join(f"{row[1]}\t{row[0]}\n" for row in rows))
    call("evaluate", out / "alignment.tsv", gold).check_error("the columns of the links are swapped")
    gold.write_text("http://elsewhere/1\tb\n")
    call("evaluate", out / "alignment.tsv", gold).check_error("no entity of")
    call("evaluate", out / "alignment.tsv", tmp_path / "none.tsv").check_error("none.tsv")


def test_several_formats_at_once(call, data_dir: Path, tmp_path: Path) -> None:
    out = tmp_path / "found"
    done = call(
        "align", data_dir, *QUICK, "--modalities", "relation", "--out", out, "--format", "tsv,sameas,sssom"
    )
    assert done.status == 0, done.err
    assert {path.name for path in out.iterdir()} == {
        "alignment.tsv",
        "alignment.nt",
        "alignment.sssom.tsv",
        "rejected.tsv",
        "candidates.tsv",
        "unmatched.tsv",
        "entities.parquet",
        "report.json",
    }


@pytest.fixture(scope="session")
def graphs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_graphs(tmp_path_factory.mktemp("graphs"))


@pytest.mark.parametrize("suffix", ["nt", "csv"])
def test_two_files_and_known_pairs(call, graphs: Path, tmp_path: Path, suffix: str) -> None:
    sides = (graphs / f"left.{suffix}", graphs / f"right.{suffix}")
    out = tmp_path / "found"
    done = call(
        "align", *sides, "--seeds", graphs / "seeds.tsv", *QUICK[:4], "--modalities", "relation", "--out", out
    )
    assert done.status == 0, done.err
    measured = call("evaluate", out / "alignment.tsv", graphs / "gold.tsv", "--json").json
    assert measured["precision"] > 0.85
    assert measured["recall"] > 0.5


def test_two_turtle_files_as_another_tool_writes_them(call, graphs: Path, tmp_path: Path) -> None:
    """With prefixes, lists of objects and blank nodes, by rdflib; the matches are those of the same N-Triples."""
    rdflib = pytest.importorskip("rdflib")
    for side in ("left", "right"):
        graph = rdflib.Graph().parse(graphs / f"{side}.nt")
        graph.bind("here", f"http://{side}.example/")
        graph.serialize(tmp_path / f"{side}.ttl", "turtle")
        graph.serialize(tmp_path / f"{side}.nt", "nt", encoding="utf-8")
        assert "@prefix here:" in (tmp_path / f"{side}.ttl").read_text()
    found = {}
    for suffix in ("ttl", "nt"):
        sides = (tmp_path / f"left.{suffix}", tmp_path / f"right.{suffix}", "--seeds", graphs / "seeds.tsv")
        done = call("align", *sides, *QUICK[:4], "--out", tmp_path / suffix)
        assert done.status == 0, done.err
        found[suffix] = call(
            "evaluate", tmp_path / suffix / "alignment.tsv", graphs / "gold.tsv", "--json"
        ).json
    assert found["ttl"]["precision"] > 0.85
    assert found["ttl"]["recall"] > 0.5
    assert abs(found["ttl"]["recall"] - found["nt"]["recall"]) < 0.1, "in another order of entities"


def test_two_files_alone(call, graphs: Path, tmp_path: Path) -> None:
    out = tmp_path / "found"
    done = call("align", graphs / "left.nt", graphs / "right.nt", *QUICK[:4], "--out", out)
    assert done.status == 0, done.err
    assert "unsupervised" in done.out
    assert "75 by equal names" in done.out
    measured = call("evaluate", out / "alignment.tsv", graphs / "gold.tsv", "--json").json
    assert measured["precision"] > 0.85
    none = call(
        "align",
        graphs / "left.csv",
        graphs / "right.csv",
        "--modalities",
        "relation",
        "--out",
        tmp_path / "x",
    )
    assert none.status == 2
    assert "no known link and no pivot" in none.err


def test_quiet_hides_no_warning(call, graphs: Path, tmp_path: Path) -> None:
    """Seeds that name nobody or contradict each other were a note of the description, which quiet leaves out."""
    lines = (graphs / "seeds.tsv").read_text().splitlines()
    left, right = lines[1].split("\t")
    lines += [f"http://left.example/nobody\t{right}", f"{left}\t{lines[2].split()[1]}"]
    (tmp_path / "seeds.tsv").write_text("\n".join(lines) + "\n")
    sides = (graphs / "left.nt", graphs / "right.nt", "--seeds", tmp_path / "seeds.tsv")
    done = call("align", *sides, *QUICK[:4], "--quiet", "--out", tmp_path / "found", "--json")
    assert done.status == 0, done.err
    warned = done.err.splitlines()
    assert all(line.startswith("loginmea-fast: warning: ") for line in warned)
    assert any("1 of 62 links" in line and "'http://left.example/nobody'" in line for line in warned)
    assert any("is linked with" in line for line in warned)


def test_bad_graphs_and_seeds(call, graphs: Path, tmp_path: Path) -> None:
    out = ("--out", tmp_path / "x")
    sides = (graphs / "left.nt", graphs / "right.nt")
    call("align", sides[0], sides[0], *out).check_error("are the same file")
    call("align", graphs / "none.nt", sides[1], *out).check_error("none.nt", "does not exist")
    call("align", *sides, "--seeds", graphs / "none.tsv", *out).check_error("none.tsv")
    wrong = tmp_path / "wrong.tsv"
    wrong.write_text("http://left.example/e9999\thttp://right.example/e200\n")
    call("align", *sides, "--seeds", wrong, *out).check_error("http://left.example/e9999", "line 1")
    call("align", graphs, "--seeds", wrong, *out).check_error("--seeds", "go with two graphs")
