"""A pair written as N-Triples, Turtle, CSV or Parquet and read again is the same pair up to numbering."""

from __future__ import annotations

import csv

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import loginmea_fast as lf
from loginmea_fast.data import load, load_embedded, read_graph, read_seeds, save
from loginmea_fast.data.rdf_terms import iri_of, label_of, literal_form, split_literal
from loginmea_fast.data.tablefiles import guarded, unguarded
from loginmea_fast.errors import DataError

FORMATS = ["csv", "parquet", "ntriples", "turtle"]
ODD = [
    "=HYPERLINK(1)",
    "+1",
    "-x",
    "@a",
    "'=x",
    "''",
    "'",
    "-1",
    "1e5",
    "\t",
    "a\tb",
    "a\nb",
    "\r",
    "a\r\nb",
    " a ",
]
ODD += [
    '"',
    '"x"',
    '"x"@en',
    '"1"^^<http://t>',
    "a,b",
    "a;b",
    "<a>",
    "<http://a>",
    "http://a/b c",
    "http://a/é",
    "a:b#c#d",
]
ODD += [
    "_:b0",
    "_:b 0",
    "_:00112233445566778899",
    "urn:label:a",
    "urn:x:y",
    "%41",
    "\\",
    "\\n",
    "#",
    "\x00",
    "\x1b[31m",
]
ODD += ["\u202e", "\ufeff", "\u2028", "\U0001f600", "left", "head", "entity"]


def facts(pair):
    """Everything that a pair says, by label, in no order."""
    uris, relations = _bare(pair.uris), _bare(pair.relation_names)
    kinds = _bare(pair.attributes.types) if pair.attributes else []
    occurrences = (
        zip(pair.attributes.entity.tolist(), pair.attributes.kind.tolist(), strict=True) if kinds else ()
    )
    values = pair.values
    said = (
        zip(values.entity.tolist(), values.kind.tolist(), values.texts, strict=True)
        if values is not None
        else ()
    )
    left = set(pair.left_entities.tolist())
    parts = vars(pair.official_split) if pair.official_split else {"links": pair.links}
    return {
        "entities": [
            sorted(uris[e] for e in side.tolist()) for side in (pair.left_entities, pair.right_entities)
        ],
        "triples": sorted((h in left, uris[h], relations[r], uris[t]) for h, r, t in pair.triples.tolist()),
        "links": {name: sorted((uris[a], uris[b]) for a, b in part.tolist()) for name, part in parts.items()},
        "attributes": sorted((e in left, uris[e], kinds[k]) for e, k in occurrences),
        "values": sorted(
            (e in left, uris[e], _bare([values.kinds[k]])[0], split_literal(text)) for e, k, text in said
        ),
        "names": sorted((e in left, uris[e], _bare([pair.names[e]])[0]) for e in range(pair.num_entities)),
    }


def _bare(labels):
    """Labels without angle brackets around an IRI, which RDF does without."""
    return [label[1:-1] if label == f"<{iri_of(label)}>" else label for label in labels]


@pytest.mark.parametrize("format", FORMATS)
def test_the_embedded_pair_comes_back(format, tmp_path):
    pair = load_embedded()
    assert save(pair, tmp_path / "pair", format) == []
    again = load(tmp_path / "pair")
    assert facts(again) == facts(pair)
    order = torch.tensor([again.uris.index(uri) for uri in pair.uris])
    assert torch.equal(again.features["image"].values[order], pair.features["image"].values)
    for modality in ("relation", "attribute"):
        own, other = (
            pair.features[modality].values.to_dense(),
            again.features[modality].values.to_dense()[order],
        )
        assert torch.equal(
            own.sort(1).values, other.sort(1).values
        )  # columns of equal counts may change places
    suffix = ".parquet" if format == "parquet" else ".csv"
    sides = [
        next(path for path in (tmp_path / "pair").iterdir() if path.name.startswith(side))
        for side in ("left", "right")
    ]
    seeds = read_seeds(tmp_path / "pair" / f"links{suffix}")
    by_hand = lf.AlignmentPair.from_labeled_triples(*map(read_graph, sides), seeds)
    assert facts(by_hand)["triples"] == facts(pair)["triples"]
    assert facts(by_hand)["links"]["train"] == facts(pair)["links"]["links"]


@pytest.mark.parametrize("format", [*FORMATS, "openea", "dbp15k"])
def test_every_layout_turns_into_every_other(format, tmp_path, tiny_openea):
    pair = load(tiny_openea(), with_values=True)
    assert len(pair.values.texts) == 4
    save(pair, tmp_path / "pair", format)
    again = load(tmp_path / "pair", with_values=True)
    assert facts(again)["values"] == facts(pair)["values"]
    assert facts(again)["links"] == facts(pair)["links"]
    for second in FORMATS:
        save(again, tmp_path / second, second)
        assert facts(load(tmp_path / second)) == facts(load(tmp_path / "pair", with_values=True))


@pytest.mark.parametrize("format", FORMATS)
def test_odd_names_survive(format, tmp_path):
    others = ODD[1:] + ODD[:1]
    pair = lf.AlignmentPair.from_labeled_triples(
        list(zip(ODD, ODD, others, strict=True)),
        list(zip(others, others, ODD, strict=True)),
        list(zip(ODD, others, strict=True)),
        attributes=(list(zip(ODD, others, ODD, strict=True)), None),
        modalities=(),
    )
    save(pair, tmp_path / "pair", format)
    assert facts(load(tmp_path / "pair", modalities=())) == facts(pair)


@pytest.mark.parametrize("format", ["dbp15k", "openea"])
def test_values_with_line_breaks_are_written_as_literals(format, tmp_path):
    pair = lf.AlignmentPair.from_labeled_triples(
        [("a", "r", "b")],
        [("A", "r", "B")],
        [("a", "A")],
        attributes=([("a", "note", "two\n\tlines")], None),
        modalities=(),
    )
    save(pair, tmp_path / "pair", format)
    again = load(tmp_path / "pair", modalities=(), with_values=True)
    assert [split_literal(text).text for text in again.values.texts] == ["two\n\tlines"]


LABEL = st.one_of(
    st.sampled_from(ODD), st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=5)
)
VALUE = st.one_of(
    LABEL,
    st.just(""),
    st.builds(lambda text: literal_form(text, "en"), LABEL),
    st.builds(lambda text: literal_form(text, "", "http://unit/km"), LABEL),
)
ROWS = st.lists(st.tuples(LABEL, LABEL, LABEL), min_size=1, max_size=4)


@settings(max_examples=40)
@given(
    ROWS,
    ROWS,
    st.lists(st.tuples(LABEL, LABEL, VALUE), max_size=4),
    st.lists(LABEL, max_size=3),
    st.sampled_from(FORMATS),
)
def test_any_pair_comes_back(tmp_path_factory, left, right, attributes, entities, format):
    pair = lf.AlignmentPair.from_labeled_triples(
        left,
        right,
        [(left[0][0], right[0][0])],
        attributes=(attributes, None),
        entities=(entities, None),
        modalities=(),
    )
    folder = tmp_path_factory.mktemp("pair")
    save(pair, folder / "pair", format)
    assert facts(load(folder / "pair", modalities=())) == facts(pair)


@pytest.mark.hostile("text")
@given(st.one_of(LABEL, st.text(st.sampled_from("'=+-@1e.\t\r\nx"), max_size=6)))
def test_no_cell_begins_a_formula_and_every_one_comes_back(cell):
    written = guarded(cell)
    assert unguarded(written) == cell
    if written[:1] in set("=+-@\t\r\n"):
        float(written)  # a number is none


@pytest.mark.hostile("text")
@given(LABEL)
def test_every_label_is_an_iri_and_comes_back(label):
    import pyoxigraph

    iri = iri_of(label)
    assert pyoxigraph.NamedNode(iri).value == iri
    assert label_of(iri) == (label[1:-1] if label == f"<{iri}>" else label)


@pytest.mark.hostile("text")
@given(LABEL, st.sampled_from(["", "en", "en-us"]), st.sampled_from(["", "http://unit/km"]))
def test_every_literal_comes_back(text, language, datatype):
    datatype = "" if language else datatype
    assert tuple(split_literal(literal_form(text, language, datatype))) == (text, language, datatype)


def test_csv_is_what_other_tools_read(tmp_path):
    pair = lf.AlignmentPair.from_labeled_triples(
        [("a,b", "=r", 'say "x"')],
        [("A", "r", "B")],
        [("a,b", "A")],
        attributes=([("a,b", "t", "-12.5")], None),
    )
    save(pair, tmp_path / "pair", "csv")
    with (tmp_path / "pair" / "left" / "relations.csv").open(newline="") as file:
        assert list(csv.reader(file)) == [["head", "relation", "tail"], ["a,b", "'=r", 'say "x"']]
    assert "-12.5" in (tmp_path / "pair" / "left" / "attributes.csv").read_text()


def test_a_side_may_be_in_any_format_and_one_may_be_missing(tmp_path):
    folder = tmp_path / "pair"
    (folder / "right").mkdir(parents=True)
    (folder / "left.ttl").write_text("<http://a> <http://r> <http://b> .")
    (folder / "right" / "edges.csv").write_text("source,type,target\nA,r,B\n")
    (folder / "seeds.tsv").write_text("http://a\tA\n")
    (folder / "stray.xyz").write_text("?")
    pair = load(folder)
    assert pair.official_split.train.tolist() == [[0, 2]]
    assert any("stray.xyz" in note for note in pair.notes)
    (folder / "left.ttl").rename(folder / "other.ttl")
    with pytest.raises(DataError, match="is in no known layout, nearest is"):
        load(folder)


@pytest.mark.slow
def test_real_data_go_through_ntriples(dataset, tmp_path):
    """Names as rdfs:label, attributes, every fact: what is read of two N-Triples files is the data set."""
    pair = load(dataset("dbp15k/fr_en"), modalities=())
    save(pair, tmp_path / "pair", "ntriples")
    again = load(tmp_path / "pair", modalities=())
    before, after = facts(_named_relations(pair)), facts(again)
    assert after["entities"] == before["entities"]
    assert after["triples"] == before["triples"]
    assert after["links"] == before["links"]
    words = {
        (pair.uris[entity]): [w for word in own for w in word.split()] for entity, own in pair.words.items()
    }
    assert {again.uris[entity]: own for entity, own in again.words.items()} == {
        k: v for k, v in words.items() if v
    }
    label = "http://www.w3.org/2000/01/rdf-schema#label"
    assert sorted(row for row in after["attributes"] if row[2] != label) == before["attributes"]


def _named_relations(pair):
    import dataclasses

    return dataclasses.replace(
        pair, relation_names=[f"relation {number}" for number in range(pair.num_relations)]
    )
