"""`convert`: two graphs and their links in any format, written in another."""

from __future__ import annotations

import pytest

from loginmea_fast import data

LEFT = '<http://a/x> <http://a/r> <http://a/y> .\n<http://a/x> <http://a/size> "12" .\n'


@pytest.fixture
def graphs(tmp_path):
    (tmp_path / "left.nt").write_text(LEFT)
    (tmp_path / "right.csv").write_text("subj,pred,obj\nX,r,Y\n")
    (tmp_path / "seeds.tsv").write_text("left\tright\nhttp://a/x\tX\n")
    return tmp_path


@pytest.mark.parametrize("to", ["openea", "dbp15k", "ntriples", "turtle", "csv", "parquet"])
def test_two_graphs_become_a_data_set(call, graphs, to):
    found = call(
        "convert",
        graphs / "left.nt",
        graphs / "right.csv",
        "--seeds",
        graphs / "seeds.tsv",
        "--to",
        to,
        "--out",
        graphs / "out",
    )
    assert found.status == 0, found.err
    assert "out: 2 + 2 entities, 1 + 1 triples, 2 relations, 1 links" in found.out
    assert "right.csv: head is 'subj', relation is 'pred', tail is 'obj'" in found.out
    pair = data.load(graphs / "out", with_values=True)
    assert [(pair.uris[a], pair.uris[b]) for a, b in pair.links.tolist()] == [("http://a/x", "X")]
    assert pair.values.texts == ["12"]


def test_a_data_set_becomes_another_and_says_so_as_json(call, tmp_path):
    found = call("convert", "embedded", "--to", "turtle", "--out", tmp_path / "out", "--json")
    assert found.status == 0, found.err
    assert found.json["entities"] == [2677, 3378]
    again = call("convert", tmp_path / "out", "--to", "dbp15k", "--out", tmp_path / "again", "--json")
    assert again.json["triples"] == found.json["triples"]


def test_columns_and_bad_lines(call, graphs):
    (graphs / "left.csv").write_text("a,b,c\ny,x,r\nbad\n")
    words = (
        "convert",
        graphs / "left.csv",
        graphs / "left2.csv",
        "--columns",
        "b,c,a",
        "--to",
        "csv",
        "--out",
        graphs / "out",
    )
    (graphs / "left2.csv").write_text("a,b,c\nY,X,r\n")
    call(*words).check_error("left.csv: 1 bad lines: 1 x 1 cells instead of 3", "--skip-bad-lines")
    found = call(*words, "--skip-bad-lines")
    assert found.status == 0, found.err
    pair = data.load(graphs / "out")
    assert pair.uris == ["x", "y", "X", "Y"]


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (("left.nt", "left.nt", "--to", "csv"), ("left.nt is left and right at once",)),
        (("left.nt", "nothing.nt", "--to", "csv"), ("nothing.nt does not exist",)),
        (("left.nt", "right.csv", "--to", "cvs"), ("unknown data format 'cvs'", "did you mean 'csv'")),
        (("left.nt", "right.csv", "--to", "csv", "--columns", "a,b"), ("columns must be 3 names",)),
        (
            ("left.nt", "right.csv", "--to", "csv", "--seeds", "left.nt"),
            ("no link", "name entities that no graph has"),
        ),
        (("embedded", "--to", "csv", "--seeds", "seeds.tsv"), ("--seeds goes with two graphs",)),
        (("left.nt", "--to", "csv"), ("left.nt is no directory",)),
    ],
)
def test_what_is_wrong_is_one_line(call, graphs, monkeypatch, words, parts):
    monkeypatch.chdir(graphs)
    found = call("convert", *words, "--out", "out")
    assert found.status == 2
    assert any(part in found.err for part in parts), found.err
    assert len(found.err.strip().splitlines()) == 1
    assert not (graphs / "out").exists()
