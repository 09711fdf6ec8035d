from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import pandas
import polars
import pytest

import loginmea_fast as lf
from loginmea_fast.errors import ConfigError, DataError
from loginmea_fast.runs.aligning.writing import safe_text
from tests.training.synthetic import synthetic_pair

STRANGE = (
    "a\tb",
    "a\nb\r",
    "=HYPERLINK(1)",
    "+1+2",
    "-x",
    "@cmd",
    "'=x",
    'say "hi", he said',
    "back\\slash",
    "null\0",
    "line\u2028end",
    "turned\u202eround",
    "plain é 名",
    "-12",
)


@pytest.fixture(scope="module")
def found() -> lf.Alignment:
    pair = replace(synthetic_pair(200, degree=5, relations=12), features={})
    names = [*STRANGE, *pair.names[len(STRANGE) :]]
    uris = [f"{name}{i}" for i, name in enumerate(names)]
    return lf.align(
        replace(pair, names=names, uris=uris),
        method="propagate",
        seeds=pair.links[100:],
        precision=0.1,
        propagation_width=128,
        backend="reference",
    )


def test_a_table_has_a_line_a_match_whatever_names_hold(found: lf.Alignment, tmp_path: Path) -> None:
    found.write(tmp_path / "alignment.tsv")
    data = (tmp_path / "alignment.tsv").read_bytes()
    lines = data.decode().split("\n")
    assert lines.pop() == ""
    assert len(lines) == len(found) + 1
    assert lines[0].split("\t")[:6] == ["left", "right", "score", "margin", "mutual", "confidence"]
    assert all(len(line.split("\t")) == len(lines[0].split("\t")) for line in lines)
    assert len(data.decode().splitlines()) == len(lines), "no other line separator is left"
    assert len(pandas.read_csv(tmp_path / "alignment.tsv", sep="\t", quoting=csv.QUOTE_NONE)) == len(found)
    assert len(polars.read_csv(tmp_path / "alignment.tsv", separator="\t", quote_char=None)) == len(found)


def test_no_cell_is_a_formula(found: lf.Alignment, tmp_path: Path) -> None:
    found.write(tmp_path / "alignment.csv")
    with (tmp_path / "alignment.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(found)
    for row in rows:
        for column in ("left", "right", "left_name", "right_name"):
            assert row[column][:1] not in tuple("=@\t\r"), row
            assert row[column][:1] not in tuple("+-") or row[column][1:].isdigit()


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("a\tb\\", r"a\tb\\"),
        ("=1", "'=1"),
        ("'=1", "''=1"),
        ("-12", "-12"),
        ("+3.5e7", "+3.5e7"),
        ("-1+1", "'-1+1"),
        ("\u202ex", r"\u202ex"),
        ("'quoted'", "'quoted'"),
    ],
)
def test_safe_text(text: str, written: str) -> None:
    assert safe_text(text) == written


def test_parquet_keeps_names_as_they_are(found: lf.Alignment, tmp_path: Path) -> None:
    found.write(tmp_path / "alignment.parquet")
    frame = pandas.read_parquet(tmp_path / "alignment.parquet")
    pandas.testing.assert_frame_equal(frame, found.to_frame())
    assert set(STRANGE) & set(frame.left_name)


def test_frames(found: lf.Alignment, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    whole = found.to_frame(every=True)
    assert len(whole) == len(found.left) >= len(found.to_frame()) == len(found)
    monkeypatch.setitem(sys.modules, "pandas", None)
    assert isinstance(found.to_frame(), polars.DataFrame)
    monkeypatch.setitem(sys.modules, "polars", None)
    rows = found.to_frame()
    assert isinstance(rows, list)
    assert rows[0]["left"] == found.pair.uris[int(found.left[0])]


def test_a_directory_is_not_written_over(found: lf.Alignment, tmp_path: Path) -> None:
    out = tmp_path / "out"
    found.save(out)
    names = {path.name for path in out.iterdir()}
    assert names == {"alignment.tsv", "candidates.tsv", "unmatched.tsv", "report.json"}
    with pytest.raises(ConfigError, match="holds another alignment"):
        found.save(out)
    (out / "notes.txt").write_text("mine")
    found.save(out, "csv", overwrite=True)
    names = {path.name for path in out.iterdir()}
    assert names == {"alignment.csv", "candidates.tsv", "unmatched.tsv", "report.json", "notes.txt"}


def test_what_cannot_be_written_is_told(found: lf.Alignment, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="is no directory"):
        found.save(tmp_path / "file")
    with pytest.raises(ConfigError, match="format must be one of"):
        found.save(tmp_path / "new", "docx")
    assert not (tmp_path / "new").exists()
    with pytest.raises(ConfigError, match="does not say its format"):
        found.write(tmp_path / "alignment.docx")
    with pytest.raises(DataError, match="cannot be written"):
        found.write(tmp_path / "file" / "alignment.tsv")
