from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote

import pandas
import polars
import pyoxigraph
import pytest
import rdflib
from sssom.parsers import parse_sssom_table
from sssom.validators import validate

import loginmea_fast as lf
from loginmea_fast.errors import ConfigError, DataError
from loginmea_fast.runs.aligning import read_matches, spelt_alike
from loginmea_fast.runs.aligning.formats import plain_text, safe_text
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


@pytest.mark.hostile("text")
def test_a_table_has_a_line_a_match_whatever_names_hold(found: lf.Alignment, tmp_path: Path) -> None:
    found.write(tmp_path / "alignment.tsv")
    data = (tmp_path / "alignment.tsv").read_bytes()
    lines = data.decode().split("\n")
    assert lines.pop() == ""
    assert len(lines) == len(found) + 1
    assert lines[0].split("\t")[:6] == ["left", "right", "score", "margin", "mutual", "confidence"]
    assert all(len(line.split("\t")) == len(lines[0].split("\t")) for line in lines)
    assert len(data.decode().splitlines()) == len(lines), "no other line separator is left"
    assert len(pandas.read_csv(tmp_path / "alignment.tsv", sep="\t")) == len(found)
    assert len(polars.read_csv(tmp_path / "alignment.tsv", separator="\t")) == len(found)


@pytest.mark.hostile("text")
def test_no_cell_is_a_formula(found: lf.Alignment, tmp_path: Path) -> None:
    found.write(tmp_path / "alignment.csv")
    with (tmp_path / "alignment.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(found)
    for row in rows:
        for column in ("left", "right", "left_name", "right_name"):
            assert row[column][:1] not in tuple("=@\t\r"), row
            assert row[column][:1] not in tuple("+-") or row[column][1:].isdigit()


@pytest.mark.hostile("text")
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
    assert plain_text(written) == text


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
    assert names == {
        "alignment.tsv",
        "rejected.tsv",
        "candidates.tsv",
        "unmatched.tsv",
        "report.json",
        "entities.parquet",
    }
    with pytest.raises(ConfigError, match="holds another alignment"):
        found.save(out)
    (out / "notes.txt").write_text("mine")
    (out / "report.html").write_text("the page of the former matches")
    found.save(out, "csv", overwrite=True)
    names = {path.name for path in out.iterdir()}
    assert names == {
        "alignment.csv",
        "rejected.tsv",
        "candidates.tsv",
        "unmatched.tsv",
        "entities.parquet",
        "report.json",
        "notes.txt",
    }


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


def read(path: Path) -> list[tuple[str, str]]:
    return read_matches(path).pairs


@pytest.mark.parametrize("suffix", ["tsv", "csv", "parquet"])
def test_tables_are_read_back_as_they_were(found: lf.Alignment, tmp_path: Path, suffix: str) -> None:
    found.write(tmp_path / f"alignment.{suffix}")
    back = read_matches(tmp_path / f"alignment.{suffix}")
    columns = found.columns()
    assert back.pairs == list(zip(columns["left"], columns["right"], strict=True))
    assert back.confidence == pytest.approx(columns["confidence"], abs=1e-5)


@pytest.fixture
def dbpedia(found: lf.Alignment) -> lf.Alignment:
    """The same with IRIs, some of which hold what no IRI may."""
    strange = ("a b", "é", "AC/DC", "50%", "x|y", "<z>", "q[1]", "\U0001f600", "a#b#c", "%C3%A9")
    places = {"left": "http://fr.example.org/resource/", "right": "http://example.org/resource/"}
    uris = list(found.pair.uris)
    for side, space in places.items():
        for number, entity in enumerate(getattr(found.pair, f"{side}_entities").tolist()):
            uris[entity] = f"{space}{strange[number % len(strange)]}{number}"
    return replace(found, pair=replace(found.pair, uris=uris))


@pytest.mark.parametrize("which", ["found", "dbpedia"])
def test_sameas_is_ntriples(which: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    alignment = request.getfixturevalue(which)
    alignment.write(tmp_path / "alignment.nt")
    quads = list(pyoxigraph.parse(path=tmp_path / "alignment.nt", format=pyoxigraph.RdfFormat.N_TRIPLES))
    graph = rdflib.Graph().parse(tmp_path / "alignment.nt", format="nt")
    assert len(quads) == len(graph) == len(alignment)
    assert {quad.predicate.value for quad in quads} == {str(rdflib.OWL.sameAs)}
    pairs = {(quad.subject.value, quad.object.value) for quad in quads}
    assert pairs == {(str(s), str(o)) for s, _, o in graph} == set(read(tmp_path / "alignment.nt"))
    if which == "dbpedia":
        assert all(left.startswith("http://fr.example.org/resource/") for left, _ in pairs)
        assert any("AC/DC" in left for left, _ in pairs), "what is an IRI already stays as it is"


@pytest.mark.parametrize("which", ["found", "dbpedia"])
def test_sssom_is_valid(which: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    alignment = request.getfixturevalue(which)
    alignment.write(tmp_path / "alignment.sssom.tsv")
    mappings = parse_sssom_table(tmp_path / "alignment.sssom.tsv")
    for report in validate(mappings).values():
        assert report.results == []
    assert len(mappings.df) == len(alignment)
    assert set(mappings.df.mapping_tool) == {"loginmea-fast"}
    said = sorted(alignment.columns()["confidence"])  # the library sorts rows by identifier
    assert sorted(mappings.df.confidence) == pytest.approx(said, abs=1e-5)
    assert set(mappings.df.predicate_id) == {"skos:exactMatch"}
    alignment.write(tmp_path / "alignment.nt")
    texts = [(unquote(a), unquote(b)) for a, b in read(tmp_path / "alignment.sssom.tsv")]
    assert texts == [(unquote(a), unquote(b)) for a, b in read(tmp_path / "alignment.nt")]


@pytest.mark.parametrize("which", ["found", "dbpedia"])
def test_alignment_rdf(which: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    alignment = request.getfixturevalue(which)
    alignment.write(tmp_path / "alignment.rdf")
    graph = rdflib.Graph().parse(tmp_path / "alignment.rdf", format="xml")
    space = rdflib.Namespace("http://knowledgeweb.semanticweb.org/heterogeneity/alignment#")
    assert next(graph.objects(None, space.type)) == rdflib.Literal("11")
    cells = list(graph.subjects(space.entity1))
    pairs = {
        (str(graph.value(cell, space.entity1)), str(graph.value(cell, space.entity2))): float(
            graph.value(cell, space.measure)
        )
        for cell in cells
    }
    alignment.write(tmp_path / "alignment.nt")
    assert set(pairs) == set(read(tmp_path / "alignment.nt"))
    assert sorted(pairs.values()) == pytest.approx(sorted(alignment.columns()["confidence"]), abs=1e-5)


@pytest.mark.parametrize("which", ["found", "dbpedia"])
@pytest.mark.parametrize("suffix", ["nt", "rdf", "sssom.tsv"])
def test_what_tools_read_is_measured_by_the_links_of_the_graphs(
    which: str, suffix: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """RDF and SSSOM spell labels as IRIs, and characters by escapes; the links do not."""
    alignment = request.getfixturevalue(which)
    alignment.write(tmp_path / f"alignment.{suffix}")
    alignment.write(tmp_path / "gold.parquet")
    gold = read_matches(tmp_path / "gold.parquet")
    back = spelt_alike(read_matches(tmp_path / f"alignment.{suffix}"), gold)
    assert len(set(back.pairs) & set(gold.pairs)) >= 0.98 * len(gold.pairs)
    if suffix == "rdf":
        assert back.confidence == pytest.approx(gold.confidence, abs=1e-5)


def test_cells_of_the_alignment_api_are_links(tmp_path: Path) -> None:
    """As the Ontology Alignment Evaluation Initiative writes them, without the hash of the namespace."""
    (tmp_path / "gold.rdf").write_text(
        '<rdf:RDF xmlns="http://knowledgeweb.semanticweb.org/heterogeneity/alignment" '
        'xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><Alignment><map><Cell>'
        '<entity1 rdf:resource="http://l/a"/><entity2 rdf:resource="http://r/a"/><measure>0.5</measure>'
        "</Cell></map></Alignment></rdf:RDF>"
    )
    found = read_matches(tmp_path / "gold.rdf")
    assert (found.pairs, found.confidence) == ([("http://l/a", "http://r/a")], [0.5])
    seeds = lf.data.read_seeds(tmp_path / "gold.rdf")
    assert (seeds.left, seeds.right) == (["http://l/a"], ["http://r/a"])
    assert seeds.notes == ("gold.rdf: links are the cells of the Alignment API",)
    (tmp_path / "gold.rdf").write_text((tmp_path / "gold.rdf").read_text().replace("0.5", "much"))
    with pytest.raises(DataError, match="cell 1: a confidence is a number"):
        read_matches(tmp_path / "gold.rdf")


def test_matches_of_a_directory(found: lf.Alignment, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no alignment"):
        read_matches(tmp_path)
    found.write(tmp_path / "alignment.csv")
    assert read(tmp_path) == read(tmp_path / "alignment.csv")


@pytest.mark.parametrize(
    ("name", "text", "pairs"),
    [
        ("gold.tsv", "a\tx\nb\ty\n", [("a", "x"), ("b", "y")]),
        ("gold.tsv", "left\tright\r\na\tx\r\n", [("a", "x")]),
        ("gold.csv", 'source,target\n"a,1",x\n', [("a,1", "x")]),
        ("gold.txt", "Right,Left\nx,a\n\n", [("a", "x")]),
        ("gold.tsv", "a\tx\na\tx\n", [("a", "x")]),
        ("gold.tsv", "left\tright\nC:\\new\t'=x\n", [("C:\\new", "'=x")]),
        ("own.tsv", "left\tright\tmargin\nC:\\\\new\t'=x\t1\n", [("C:\\new", "=x")]),
    ],
)
def test_links_are_read_with_a_header_or_without(
    tmp_path: Path, name: str, text: str, pairs: list[tuple[str, str]]
) -> None:
    (tmp_path / name).write_text(text)
    assert read(tmp_path / name) == pairs


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("a.tsv", "left\tright\n", "holds no pair"),
        ("a.tsv", "a\tx\nb\n", "line 2: expected left, right"),
        ("a.tsv", "left\tright\tconfidence\na\tx\tmuch\n", "line 2: a confidence is a number"),
        ("a.nt", "<a> <b> <c> .\n", "line 1: expected <left> owl:sameAs"),
        ("a.parquet", "no parquet", "cannot be read as Parquet"),
    ],
)
def test_what_is_no_file_of_matches_is_told(tmp_path: Path, name: str, text: str, told: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=told):
        read_matches(tmp_path / name)
