"""The page: what is in it, that no text of it can run, and what it says where there is nothing to show."""

from __future__ import annotations

import base64
import gzip
import io
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from PIL import Image

import loginmea_fast as lf
from loginmea_fast.errors import ConfigError, DataError
from loginmea_fast.report import alignment as contents
from loginmea_fast.report import write_report
from loginmea_fast.runs.aligning import portraits as looks
from tests.report.conftest import HOSTILE


def read(page: Path) -> dict[str, Any]:
    """What the page holds, as its script unpacks it."""
    (packed,) = re.findall(r'<script id="data"[^>]*>([^<]*)</script>', page.read_text(encoding="utf-8"))
    return json.loads(gzip.decompress(base64.b64decode(packed)))


def test_an_alignment_is_all_there(found: lf.Alignment, directory: Path) -> None:
    data = read(write_report(directory))
    matches, entities = data["matches"], data["entities"]
    assert len(matches["left"]) == len(found.left)
    assert sum(matches["accepted"]) == len(found)
    place = found.left.tolist().index(int(found.left[0]))
    shown = [entities[number]["id"] for number in matches["left"]].index(
        found.pair.uris[int(found.left[place])]
    )
    assert entities[matches["right"][shown]]["id"] == found.pair.uris[int(found.right[place])]
    first = entities[matches["left"][shown]]
    assert first["degree"] == int(found.pair.degrees()[found.left[place]])
    assert len(first["neighbors"]) >= 1
    assert {"Calibration", "Precision against threshold", "Confidence"} <= {
        f["title"] for f in data["figures"]
    }
    side = data["candidates"]["side"]
    assert side == "left"
    assert len(data["candidates"]["of"]) > 0


@pytest.mark.hostile("the page")
def test_text_of_the_data_is_never_html(directory: Path) -> None:
    page = write_report(directory)
    assert HOSTILE not in page.read_text(encoding="utf-8")
    assert any(entity["name"] == HOSTILE for entity in read(page)["entities"])
    assert "default-src 'none'" in page.read_text(encoding="utf-8")


@pytest.mark.hostile("the page")
def test_identifiers_go_out_as_tables_write_them(directory: Path, tmp_path: Path) -> None:
    cells = {entity["cell"] for entity in read(write_report(directory, tmp_path / "p.html"))["entities"]}
    assert not any(cell.startswith(("=", "+", "@")) or "\t" in cell or "\n" in cell for cell in cells)


def test_of_very_many_the_most_doubtful_and_the_surest_are_shown_and_figures_are_of_all(
    directory: Path,
) -> None:
    data = contents.alignment_contents(directory, most=20)
    whole = contents.alignment_contents(directory)
    confidences = data["matches"]["confidence"]
    told = f"20 of {len(whole['matches']['left']):,}: the 18 most doubtful and the 2 surest"
    assert ["on this page", told] in data["summary"]
    distances = sorted(abs(sure - data["threshold"]) for sure in whole["matches"]["confidence"])
    assert max(abs(sure - data["threshold"]) for sure in confidences[:18]) <= distances[18] + 1e-3
    assert sorted(confidences[18:]) == sorted(whole["matches"]["confidence"])[-2:]
    assert len(confidences) == 20
    assert data["figures"] == whole["figures"]
    assert data["key"] == whole["key"]


def test_candidates_are_of_the_side_that_was_matched_from(found: lf.Alignment, tmp_path: Path) -> None:
    """An identifier may stand in both graphs, so that it does not tell the side."""
    back = lf.align(
        found.pair,
        method="propagate",
        seeds=found.known,
        direction="right_to_left",
        pivots=False,
        propagation_width=64,
        backend="reference",
    )
    back.save(tmp_path / "back")
    data = contents.alignment_contents(tmp_path / "back")
    assert data["candidates"]["side"] == "right"
    for entity, others in data["candidates"]["of"].items():
        assert data["entities"][entity]["side"] == "right"
        assert {data["entities"][other]["side"] for other, _ in others} == {"left"}


def test_known_neighbours_are_named_and_marked(found: lf.Alignment, directory: Path) -> None:
    data = contents.alignment_contents(directory)
    uris, names = found.pair.uris, dict(zip(found.pair.uris, found.pair.names, strict=True))
    known = {(uris[left], uris[right]) for left, right in found.known.tolist()}
    told = [(n, entity["side"]) for entity in data["entities"] for n in entity["neighbors"]]
    assert all(names[identifier] == name for (_, _, name, identifier, _), _ in told)
    marked = {(n[3], n[4]) if side == "left" else (n[4], n[3]) for n, side in told if n[4]}
    assert marked
    assert marked <= known


def test_what_has_changed_since_an_earlier_alignment(
    found: lf.Alignment, directory: Path, tmp_path: Path
) -> None:
    kept = found.accepted.clone()
    kept[kept.nonzero()[:3, 0]] = False
    rows = {name: getattr(found, name)[kept | ~found.accepted] for name in ("left", "right", "confidence")}
    rows |= {name: getattr(found, name)[kept | ~found.accepted] for name in ("score", "margin", "mutual")}
    evidence = {name: values[kept | ~found.accepted] for name, values in found.evidence.items()}
    shares = {name: values[kept | ~found.accepted] for name, values in found.shares.items()}
    later = replace(found, **rows, evidence=evidence, shares=shares)
    later.save(tmp_path / "later")
    data = read(write_report(tmp_path / "later", before=directory))
    assert data["matches"]["change"].count("gone") == 3
    assert ["since found", "0 new, 3 gone"] in data["summary"]
    back = read(write_report(directory, tmp_path / "back.html", before=tmp_path / "later"))
    assert back["matches"]["change"].count("new") == 3


def test_pictures_are_small_few_and_counted(pictured: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = read(write_report(pictured))
    shown = [base64.b64decode(entity["picture"]) for entity in data["entities"] if entity["picture"]]
    told = dict(data["summary"])["entities with a picture here"]
    has = int(told.split()[2])
    assert told == f"{len(shown)} of {has} that have one"
    assert len(shown) == has - 1, "one is no picture any more"
    for content in shown:
        with Image.open(io.BytesIO(content)) as picture:
            assert picture.format == "JPEG"
            assert max(picture.size) == 96
        assert len(content) <= 6000
    table = pq.read_table(pictured / "entities.parquet")
    assert table["picture"].null_count == len(table) - len([p for p in table["picture"].to_pylist() if p])


def test_of_very_many_pictures_those_of_the_most_doubtful_matches_are_shown(
    found: lf.Alignment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(looks, "_PICTURES", 5)
    Image.new("RGB", (200, 400), "red").save(tmp_path / "p.png")
    everyone = dict.fromkeys(range(found.pair.num_entities), tmp_path / "p.png")
    replace(found, pictures=everyone).save(tmp_path / "found")
    data = contents.alignment_contents(tmp_path / "found")
    with_picture = {number for number, entity in enumerate(data["entities"]) if entity["picture"]}
    assert len(with_picture) == 5
    first = [
        number
        for both in zip(data["matches"]["left"], data["matches"]["right"], strict=True)
        for number in both
    ]
    assert with_picture == set(first[:5])
    assert dict(data["summary"])["entities with a picture here"].startswith("5 of ")


def test_a_run_shows_its_curves(run: Path) -> None:
    data = read(write_report(run))
    assert {"Loss", "Validation", "Links", "Seconds", "Memory", "Hits by degree"} <= {
        figure["title"] for figure in data["figures"]
    }
    (weights,) = (figure for figure in data["figures"] if figure["title"] == "Weights")
    (bars,) = weights["traces"]
    assert {"graph", "labels"} <= set(bars["x"])
    assert sum(bars["y"]) == pytest.approx(1, abs=1e-3)
    assert "matches" not in data
    assert any(name == "Hits@1 by csls" for name, _ in data["summary"])


def test_what_no_page_can_be_made_of(directory: Path, run: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds neither an alignment nor a run"):
        write_report(tmp_path)
    with pytest.raises(ConfigError, match="before compares alignments"):
        write_report(run, before=directory)
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in directory.iterdir():
        if file.is_file():
            (copy / file.name).write_bytes(file.read_bytes())
    (copy / "entities.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match=r"entities\.parquet is damaged"):
        write_report(copy)
    (copy / "entities.parquet").unlink()
    with pytest.raises(DataError, match="align again with this version"):
        write_report(copy)
    (copy / "alignment.tsv").unlink()
    with pytest.raises(ConfigError, match="--format tsv"):
        write_report(copy)
    (copy / "report.json").write_text("{}")
    with pytest.raises(DataError, match=r"report\.json is damaged"):
        write_report(copy)
    with pytest.raises(DataError, match="cannot be written"):
        write_report(directory, tmp_path / "no" / "page.html")
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / "config.toml").write_bytes((run / "config.toml").read_bytes())
    with pytest.raises(ConfigError, match="has no epoch yet"):
        write_report(empty)


def test_without_plotly_it_says_what_to_install(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "plotly.offline", None)
    with pytest.raises(ConfigError, match=r"pip install 'loginmea-fast\[report\]'"):
        write_report(directory)


@pytest.mark.parametrize(
    ("name", "was", "becomes"),
    [
        ("alignment.tsv", b"\t0.", b"\tfoo0."),
        ("alignment.tsv", b"left", b"\xff\xfe"),
        ("report.json", b'"threshold": 0', b'"threshold": null, "was": 0'),
        ("report.json", b'"matched_by_decoder"', b'"other"'),
    ],
)
def test_a_damaged_alignment_is_one_sentence(
    directory: Path, tmp_path: Path, name: str, was: bytes, becomes: bytes
) -> None:
    place = tmp_path / "damaged"
    shutil.copytree(directory, place)
    content = (place / name).read_bytes()
    assert was in content
    (place / name).write_bytes(content.replace(was, becomes))
    with pytest.raises(DataError, match="align again"):
        write_report(place)


@pytest.mark.parametrize("line", ['{"event": "epoch"}', "[1]", '{"event": "epoch", "epoch": 1, "loss": "x"}'])
def test_a_damaged_record_is_one_sentence(run: Path, tmp_path: Path, line: str) -> None:
    place = tmp_path / "damaged"
    shutil.copytree(run, place)
    (place / "metrics.jsonl").write_text(line + "\n")
    with pytest.raises(DataError, match="damaged"):
        write_report(place)


def test_a_page_that_cannot_be_written_is_one_sentence(directory: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(DataError, match="cannot be written"):
        write_report(directory, tmp_path / "file" / "page.html")


def test_an_earlier_alignment_of_another_right_graph_is_refused(directory: Path, tmp_path: Path) -> None:
    """Its left entities are the same, and a few labels of the right one coincide."""
    place = tmp_path / "other"
    shutil.copytree(directory, place)
    for name in ("alignment.tsv", "rejected.tsv"):
        head, *lines = (place / name).read_text(encoding="utf-8").splitlines()
        right = head.split("\t").index("right")
        rows = [line.split("\t") for line in lines]
        for number, row in enumerate(rows):
            row[right] = row[right] if number % 10 == 0 else f"other {row[right]}"
        (place / name).write_text("\n".join([head, *map("\t".join, rows)]) + "\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="right entities are matched here"):
        write_report(directory, tmp_path / "page.html", before=place)
