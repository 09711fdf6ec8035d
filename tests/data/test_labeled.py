"""Pairs from people's own tables and graphs, whose entities are told by labels."""

from __future__ import annotations

import datetime

import networkx
import numpy as np
import pandas
import polars
import pyarrow
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch_geometric.data import Data, HeteroData

import loginmea_fast as lf
from loginmea_fast.data import save
from loginmea_fast.data.columns import TRIPLES, choose_columns
from loginmea_fast.errors import DataError

LEFT = [("a", "knows", "b"), ("b", "likes", "c"), ("c", "knows", "a")]
RIGHT = [("A", "knows", "B"), ("B", "fears", "C")]
SEEDS = [("a", "A"), ("b", "B")]


def build(left=LEFT, right=RIGHT, seeds=SEEDS, **options):
    return lf.AlignmentPair.from_labeled_triples(left, right, seeds, **options)


def labels(pair):
    """Everything that a pair says, by label."""
    relations = pair.relation_names
    return {
        "triples": [(pair.uris[h], relations[r], pair.uris[t]) for h, r, t in pair.triples.tolist()],
        "links": [(pair.uris[left], pair.uris[right]) for left, right in pair.links.tolist()],
        "sides": [
            [pair.uris[e] for e in side.tolist()] for side in (pair.left_entities, pair.right_entities)
        ],
    }


EXPECTED = {"triples": LEFT + RIGHT, "links": SEEDS, "sides": [["a", "b", "c"], ["A", "B", "C"]]}


def hetero(rows):
    data = HeteroData()
    names = list(dict.fromkeys(label for head, _, tail in rows for label in (head, tail)))
    data["thing"].uris = names
    for relation in dict.fromkeys(relation for _, relation, _ in rows):
        ends = [(names.index(h), names.index(t)) for h, r, t in rows if r == relation]
        data["thing", relation, "thing"].edge_index = torch.tensor(ends).T
    return data


def homogeneous(rows):
    names = list(dict.fromkeys(label for head, _, tail in rows for label in (head, tail)))
    relations = list(dict.fromkeys(relation for _, relation, _ in rows))
    return Data(
        edge_index=torch.tensor([(names.index(h), names.index(t)) for h, _, t in rows]).T,
        edge_type=torch.tensor([relations.index(r) for _, r, _ in rows]),
        num_nodes=len(names),
        uris=names,
        relation_names=relations,
    )


def multigraph(rows):
    graph = networkx.MultiDiGraph()
    for head, relation, tail in rows:
        graph.add_edge(head, tail, key=relation)
    return graph


def digraph(rows):
    graph = networkx.DiGraph()
    for head, relation, tail in rows:
        graph.add_edge(head, tail, relation=relation)
    return graph


KINDS = {
    "tuples": list,
    "generator": iter,
    "lists": lambda rows: [list(row) for row in rows],
    "numpy strings": np.array,
    "numpy objects": lambda rows: np.array(rows, dtype=object),
    "numpy fields": lambda rows: np.array(rows, dtype=[("tail", "U9"), ("relation", "U9"), ("head", "U9")])[
        ["tail", "relation", "head"]
    ],
    "pandas": lambda rows: pandas.DataFrame(rows, columns=["subject", "predicate", "object"]),
    "pandas without names": pandas.DataFrame,
    "pandas, other order": lambda rows: pandas.DataFrame(rows, columns=["h", "r", "t"])[["t", "h", "r"]],
    "pandas, more columns": lambda rows: pandas.DataFrame(rows, columns=["source", "type", "target"]).assign(
        w=1.0
    ),
    "polars": lambda rows: polars.DataFrame(rows, schema=["head", "relation", "tail"], orient="row"),
    "polars lazy": lambda rows: polars.LazyFrame(rows, schema=["h", "r", "t"], orient="row"),
    "pyarrow": lambda rows: pyarrow.table(dict(zip("hrt", map(list, zip(*rows, strict=True)), strict=True))),
    "columns": lambda rows: dict(zip("hrt", map(list, zip(*rows, strict=True)), strict=True)),
    "networkx multigraph": multigraph,
    "networkx digraph": digraph,
    "hetero data": hetero,
    "data": homogeneous,
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_table_and_graph_gives_the_same_pair(kind):
    make = KINDS[kind]
    if kind == "numpy fields":  # fields by name, whatever their order
        pair = build(make([row[::-1] for row in LEFT]), make([row[::-1] for row in RIGHT]))
    else:
        pair = build(make(LEFT), make(RIGHT))
    said = labels(pair)
    # Graphs list edges by node or by type; nothing else may differ.
    assert {name: sorted(own) if name == "triples" else own for name, own in said.items()} == {
        **EXPECTED,
        "triples": sorted(EXPECTED["triples"]),
    }
    if "networkx" not in kind and kind != "hetero data":
        assert said == EXPECTED


@pytest.mark.parametrize("kind", ["tuples", "numpy strings", "pandas without names", "pyarrow pairs"])
def test_seeds_come_in_the_same_kinds(kind):
    make = KINDS.get(kind) or (
        lambda rows: pyarrow.table({"left": [a for a, _ in rows], "right": [b for _, b in rows]})
    )
    assert labels(build(seeds=make(SEEDS)))["links"] == SEEDS


def test_a_pair_goes_through_training_decoding_and_saving(tmp_path):
    triples = [(f"n{i}", f"r{i % 3}", f"n{(i * 7 + 1) % 30}") for i in range(30)]
    right = [tuple(label.upper() for label in row) for row in triples]
    attributes = [(f"n{i}", "size", str(i)) for i in range(30)]
    pair = build(
        triples,
        right,
        [(f"n{i}", f"N{i}") for i in range(20)],
        test=[(f"n{i}", f"N{i}") for i in range(20, 30)],
        attributes=(attributes, [(e.upper(), a, v) for e, a, v in attributes]),
    )
    assert list(pair.features) == ["relation", "attribute", "value"]
    split = pair.split()
    assert [len(part) for part in (split.train, split.valid, split.test)] == [19, 1, 10]
    result = lf.fit(pair, lf.Config(epochs=1, hidden_dim=8, device="cpu", bootstrap=False))
    assert result.metrics
    save(pair, tmp_path / "saved")
    again = lf.data.load(tmp_path / "saved")
    assert labels(again) == labels(pair)
    assert torch.equal(
        again.features["attribute"].values.to_dense(), pair.features["attribute"].values.to_dense()
    )


def test_every_seed_is_for_training_and_none_is_no_split():
    assert build().split(valid_ratio=0).train.tolist() == [[0, 3], [1, 4]]
    pair = build(seeds=None)
    assert pair.links.shape == (0, 2)
    with pytest.raises(DataError, match="no known link to train on"):
        pair.split()


def test_isolated_entities_are_listed_or_have_attributes_alone():
    pair = build(entities=(["z", "c"], None), attributes=([("y", "age", 3)], None))
    assert pair.uris == ["z", "c", "a", "b", "y", "A", "B", "C"]
    assert build(None, RIGHT, None, attributes=([("y", "age", 3)], None)).uris == ["y", "A", "B", "C"]


def test_relations_and_attributes_that_both_graphs_name_are_one():
    pair = build(attributes=([("a", "age", "1")], [("B", "size", "2"), ("A", "age", "1")]))
    assert pair.relation_names == ["knows", "likes", "fears"]
    assert pair.attributes.types == ["age", "size"]
    assert pair.attributes.kind.tolist() == [0, 1, 0]
    assert pair.values.texts == ["1", "2", "1"]


def test_an_empty_value_is_an_attribute_without_one():
    pair = build(attributes=([("a", "age", ""), ("b", "age", "7")], None))
    assert len(pair.attributes.kind) == 2
    assert pair.values.texts == ["7"]


def test_names_are_those_of_label_predicates_in_the_language_that_both_graphs_know():
    label = "http://www.w3.org/2000/01/rdf-schema#label"
    left = [
        ("a", label, '"Wien"@de'),
        ("a", label, '"Vienna"@en'),
        ("b", "foaf:name", "Bob"),
        ("b", label, '"Robert"@en'),
    ]
    right = [("A", label, '"Vienna"@en'), ("A", label, '"Vienne"@fr'), ("B", "name", "Bob \\ \n Smith")]
    pair = build(attributes=(left, right))
    names = dict(zip(pair.uris, pair.names, strict=True))
    assert (names["a"], names["A"], names["b"], names["B"], names["c"]) == (
        "Vienna",
        "Vienna",
        "Robert",
        "Bob \\ Smith",
        "c",
    )
    assert "name" in pair.features
    names = dict(
        zip(pair.uris, build(attributes=(left, right), name_attributes="foaf:name").names, strict=True)
    )
    assert names["b"] == "Bob"
    with pytest.raises(DataError, match=r"neither graph has an attribute 'nmae'.*near are 'name'"):
        build(attributes=(left, right), name_attributes="nmae")


def test_blank_nodes_are_entities_without_a_name():
    pair = build([("_:b0", "r", "a")], [("_:b0", "r", "A")], [("a", "A")], modalities="name")
    assert pair.uris[:2] == ["_:b0", "a"]
    assert pair.features["name"].present.tolist() == [False, False, False, False]


def test_labels_are_spelt_from_numbers_and_bytes():
    frame = pandas.DataFrame({"h": [1.0, 2.0], "r": [0, 0], "t": [2, 3]})
    pair = build(frame, [(b"A", b"r", "B")], [(1, "A")])
    assert pair.uris == ["1", "2", "3", "A", "B"]
    pair = build(
        attributes=(
            [("a", "born", datetime.date(1912, 9, 21)), ("a", "alive", False), ("a", "kg", 1.5)],
            None,
        )
    )
    assert pair.values.texts == ["1912-09-21", "false", "1.5"]


def test_a_value_that_is_missing_is_left_out_and_counted():
    frame = pandas.DataFrame({"entity": ["a", "b"], "attribute": ["age", "age"], "value": [np.nan, 3.0]})
    pair = build(attributes=(frame, None))
    assert pair.values.texts == ["3"]
    assert any("1 of 2 rows have no value" in note for note in pair.notes)


def test_nodes_of_networkx_bring_attributes_and_stand_alone():
    graph = multigraph(LEFT)
    graph.add_node("d", population=12, tags=["x", "y"])
    graph.add_edge("a", "d")
    pair = build(graph)
    assert pair.uris[:4] == ["a", "b", "c", "d"]
    assert pair.values.texts == ["12", "x", "y"]
    assert any("1 edges name no relation" in note for note in pair.notes)


def test_nodes_of_hetero_data_without_names_are_numbered_by_type():
    data = HeteroData()
    data["person"].x = torch.zeros(3, 2)
    data["person", "lives in", "city"].edge_index = torch.tensor([[0, 1], [0, 0]])
    pair = build(data, seeds=[("person:0", "A")])
    assert pair.uris[:4] == ["person:0", "person:1", "person:2", "city:0"]
    assert any("person.x not read" in note for note in pair.notes)


def test_vectors_come_by_label_from_mappings_and_files(tmp_path):
    image = {"a": np.array([3.0, 4.0]), "A": np.array([1.0, 0.0])}
    pair = build(vectors={"image": image})
    assert list(pair.features) == ["image", "relation"]
    assert pair.features["image"].present.tolist() == [True, False, False, True, False, False]
    np.savez(tmp_path / "image.npz", **image)
    from_file = build(vectors={"image": str(tmp_path / "image.npz")}).features["image"]
    assert torch.equal(from_file.values, pair.features["image"].values)
    with pytest.raises(DataError, match=r"vectors\['image'\]: holds a int; expected"):
        build(vectors={"image": 3})


def test_what_a_row_of_an_array_is_is_said():
    pair = build(vectors={"image": np.eye(6)})
    assert (
        "row 0 is that of 'a', the first of graph 1, row 3 that of 'A', the first of graph 2"
        in pair.notes[-1]
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"left": "left.nt"}, r"left is 'left.nt', a str.*read_graph"),
        ({"left": [("a", "b")]}, r"left, row 0: expected 3 items"),
        ({"left": [("a", "r", "b"), ("a", None, "b")]}, r"left, row 1: the relation is missing"),
        ({"left": [("a", "r", "")]}, r"left, row 0: the tail is empty"),
        ({"left": [("a", "r", "\ud800")]}, r"left, row 0: the tail.*no valid text"),
        ({"left": np.zeros((2, 3, 4))}, r"left is an array of shape \[2, 3, 4\]"),
        ({"left": pandas.DataFrame({"a": [1], "b": [2]})}, r"left has 2 columns \('a', 'b'\); 3 are needed"),
        ({"left": []}, r"the left graph, left, has no entity"),
        ({"left": 7}, r"left is '7', a int"),
        (
            {"columns": ("x", "y", "z"), "left": pandas.DataFrame({"a": [1], "b": [2], "c": [3]})},
            "no column 'x'",
        ),
        ({"attributes": [("a", "age", 1)]}, "attributes must be a pair"),
        ({"seeds": [("A", "a"), ("B", "b")]}, "its columns are swapped"),
        (
            {"seeds": [("x", "A")]},
            r"1 of 1 links of seeds name entities that no graph has: seeds, row 0, 'x'.*entities=",
        ),
        (
            {"seeds": [("a", "A"), ("a", "B")], "max_repeated_links": 0},
            r"'a' is linked with 'A' and with 'B'.*keep one",
        ),
        ({"seeds": [("a", "A", "b")]}, r"seeds, row 0: expected 2 items"),
    ],
)
def test_what_is_wrong_is_one_sentence(options, message):
    with pytest.raises(DataError, match=message) as caught:
        build(**options)
    assert len(str(caught.value)) < 600


def test_seeds_that_name_nobody_are_left_out_with_near_names():
    pair = build([("Berlin", "r", "Paris")], seeds=[("Berlni", "A"), ("Paris", "B"), ("Paris", "A ")])
    assert labels(pair)["links"] == [("Paris", "A"), ("Paris", "B")] or labels(pair)["links"] == [
        ("Paris", "B"),
        ("Paris", "A"),
    ]
    notes = " ".join(pair.notes)
    assert "1 of 3 links of seeds name entities that no graph has" in notes
    assert "near: 'Berlin'" in notes
    assert "'Paris' is linked with 'A' and with 'B'" in notes


def test_a_first_row_that_names_nobody_is_a_header():
    pair = build(seeds=[("left", "right"), *SEEDS])
    assert labels(pair)["links"] == SEEDS
    assert any("taken for a header" in note for note in pair.notes)


def test_a_first_row_that_is_misspelt_is_no_header():
    typed = ("Wienn", "Viennna")
    pair = build([("Wien", "in", "AT")], [("Vienna", "in", "AT")], seeds=[typed, ("AT", "AT")])
    assert labels(pair)["links"] == [("AT", "AT")]
    notes = " ".join(pair.notes)
    assert "taken for a header" not in notes
    assert "'Wienn' is not in the left graph (near: 'Wien')" in notes


def test_links_that_repeat_another_are_told_by_their_labels():
    pair = build(seeds=[*SEEDS, ("nobody", "none"), SEEDS[0]])
    assert labels(pair)["links"] == SEEDS
    told = [note for note in pair.notes if "repeat another" in note]
    count = len(SEEDS) + 2
    assert told == [
        f"1 of {count} links of seeds repeat another and are left out: seeds, row {count - 1}, {SEEDS[0][0]!r} and "
        f"{SEEDS[0][1]!r}"
    ]
    assert not any("stand twice" in note for note in pair.notes)


@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        (["Subject", "Predicate", "Object"], [0, 1, 2]),
        (["id", "target", "source", "type"], [2, 3, 1]),
        (["a", "b", "c", "d"], [0, 1, 2]),
    ],
)
def test_columns_are_guessed_and_the_guess_is_told(names, chosen):
    found, note = choose_columns(names, TRIPLES, None, "table")
    assert found == chosen
    assert note.startswith("table: ")
    assert choose_columns(names, TRIPLES, [-1, names[0], 1], "table") == ([len(names) - 1, 0, 1], None)


TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=6)


@given(
    st.lists(st.tuples(TEXT, TEXT, TEXT), min_size=1, max_size=8),
    st.lists(st.tuples(TEXT, TEXT, TEXT), min_size=1, max_size=8),
)
def test_labels_come_back_as_they_are(left, right):
    pair = build(left, right, [(left[0][0], right[0][2])], modalities="")
    said = labels(pair)
    assert said["triples"] == left + right
    assert said["links"] == [(left[0][0], right[0][2])]
    assert said["sides"] == [
        list(dict.fromkeys(x for h, _, t in rows for x in (h, t))) for rows in (left, right)
    ]


def test_an_iri_is_called_by_its_last_part_and_a_label_as_it_stands() -> None:
    labels = [
        "AC/DC",
        "Track #1",
        "C#",
        "<b>x</b>",
        "New_York",
        "http://a/resource/Old_York",
        "<http://a/b#c>",
        "_:b1",
    ]
    pair = lf.AlignmentPair.from_labeled_triples(
        [(label, "r", labels[0]) for label in labels], [("x", "r", "y")], seeds=[("AC/DC", "x")]
    )
    called = dict(zip(pair.uris, pair.names, strict=True))
    assert [called[label] for label in labels] == [
        *("AC/DC", "Track #1", "C#", "<b>x</b>", "New York", "Old York"),
        *("c", "_:b1"),
    ]
