"""One graph, or the links between two, from files in the formats that people have."""

from __future__ import annotations

import contextlib
import gzip
import json
import subprocess
import sys

import pyarrow
import pytest
import zstandard
from pyarrow import parquet

import loginmea_fast as lf
from loginmea_fast.data import read_graph, read_seeds
from loginmea_fast.errors import DataError

NAME = "http://www.w3.org/2000/01/rdf-schema#label"
INTEGER = "http://www.w3.org/2001/XMLSchema#integer"
TYPE = "http://www.w3.org/1999/02/22-rdf-syntax-ns#type"

NTRIPLES = f"""\
<http://a/x> <http://a/knows> <http://a/y> .
<http://a/y> <http://a/knows> _:b0 .
<http://a/x> <{NAME}> "Wien\\n"@de .
<http://a/x> <http://a/size> "12"^^<{INTEGER}> .
_:b0 <http://a/note> "plain" .
<http://a/z> <{TYPE}> <http://a/City> .
"""
TURTLE = f"""\
@prefix a: <http://a/> .
a:x a:knows a:y . a:y a:knows _:b0 .
a:x <{NAME}> "Wien\\n"@de ; a:size 12 .
_:b0 a:note "plain" . a:z a a:City .
"""
RDFXML = f"""\
<?xml version="1.0"?>
<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#" xmlns:a="http://a/" xmlns:s="http://www.w3.org/2000/01/rdf-schema#">
<rdf:Description rdf:about="http://a/x"><a:knows rdf:resource="http://a/y"/></rdf:Description>
<rdf:Description rdf:about="http://a/y"><a:knows rdf:nodeID="b0"/></rdf:Description>
<rdf:Description rdf:about="http://a/x"><s:label xml:lang="de">Wien\n</s:label>
<a:size rdf:datatype="{INTEGER}">12</a:size></rdf:Description>
<rdf:Description rdf:nodeID="b0"><a:note>plain</a:note></rdf:Description>
<a:City rdf:about="http://a/z"/>
</rdf:RDF>
"""
JSONLD = json.dumps(
    [
        {"@id": "http://a/x", "http://a/knows": {"@id": "http://a/y"}},
        {"@id": "http://a/y", "http://a/knows": {"@id": "_:b0"}},
        {
            "@id": "http://a/x",
            NAME: {"@value": "Wien\n", "@language": "de"},
            "http://a/size": {"@value": "12", "@type": INTEGER},
        },
        {"@id": "_:b0", "http://a/note": "plain"},
        {"@id": "http://a/z", "@type": "http://a/City"},
    ]
)
TRIPLES = [("http://a/x", "http://a/knows", "http://a/y"), ("http://a/y", "http://a/knows", "_:b0")]
VALUES = [
    ("http://a/x", NAME, '"Wien\\n"@de'),
    ("http://a/x", "http://a/size", f'"12"^^<{INTEGER}>'),
    ("_:b0", "http://a/note", "plain"),
    ("http://a/z", f"{TYPE} http://a/City", ""),
]


def write(path, text, encoding="utf-8"):
    path.write_bytes(text.encode(encoding) if isinstance(text, str) else text)
    return path


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("g.nt", NTRIPLES),
        ("g.nq", NTRIPLES.replace(" .\n", " <http://a/graph> .\n")),
        ("g.ttl", TURTLE),
        ("g.trig", TURTLE),
        ("g.rdf", RDFXML),
        ("g.owl", RDFXML),
        ("g.jsonld", JSONLD),
    ],
)
@pytest.mark.parametrize("pack", [None, "gz", "zst"])
@pytest.mark.parametrize("named", [True, False])
def test_every_format_of_rdf_says_the_same(tmp_path, name, text, pack, named):
    data = text.encode()
    if not named:
        name = "graph"  # told by its content
        if text.count("<http://a/graph>"):
            pytest.skip("a quad is read as N-Quads by its name alone")
    if pack == "gz":
        name, data = name + ".gz", gzip.compress(data)
    elif pack == "zst":
        name, data = name + ".zst", zstandard.compress(data)
    graph = read_graph(write(tmp_path / name, data))
    assert list(graph.relation_triples()) == TRIPLES
    assert list(graph.labeled_attributes()) == VALUES
    assert graph.entities == ["http://a/x", "http://a/y", "_:b0", "http://a/z"] or name.startswith("g.j")


def test_a_class_of_everything_lists_an_entity_and_says_no_more(tmp_path):
    text = f"<http://a/x> <{TYPE}> <http://www.w3.org/2002/07/owl#Thing> .\n"
    graph = read_graph(write(tmp_path / "g.nt", text))
    assert graph.entities == ["http://a/x"]
    assert graph.values == []


def test_several_files_and_a_directory_are_one_graph_and_blank_nodes_stay_apart(tmp_path):
    (tmp_path / "side").mkdir()
    files = [
        write(tmp_path / "side" / "a.nt", "_:b0 <http://r> <http://x> .\n"),
        write(tmp_path / "side" / "b.ttl", "_:b0 <http://r> <http://x> , [ <http://r> <http://y> ] .\n"),
        write(tmp_path / "side" / "c.csv", "head,relation,tail\nhttp://x,http://r,http://z\n"),
    ]
    write(tmp_path / "side" / "notes.xyz", "?")
    write(tmp_path / "side" / "README.md", "about it")
    graph = read_graph(tmp_path / "side")
    assert graph.name == "side"
    assert graph.entities == ["_:b0", "http://x", "_:f1.b0", "_:f1.anonymous1", "http://y", "http://z"]
    assert graph.relations == ["http://r"]
    assert graph.notes == ("not read in side: notes.xyz (no known suffix)",)
    assert read_graph(files).entities == graph.entities


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("g.csv", "head,relation,tail\nx,knows,y\ny,likes,z\n"),
        ("g.csv", "x,knows,y\ny,likes,z\n"),
        ("g.csv", 'subject;predicate;object\r\n"x";knows;y\r\ny;likes;z\r\n'),
        ("g.csv", "note,target,source,type\n,y,x,knows\n,z,y,likes\n"),
        ("g.tsv", "x\tknows\ty\ny\tlikes\tz\n"),
        ("g.tsv", '"h"\t"r"\t"t"\n"x"\t"knows"\t"y"\n"y"\t"likes"\t"z"\n'),
        ("rel_triples_1", "x\tknows\ty\ny\tlikes\tz\n"),
        ("g.txt", "x\tknows\ty\ny\tlikes\tz\n"),
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_tables_of_triples(tmp_path, name, text, encoding):
    graph = read_graph(write(tmp_path / name, text, encoding))
    assert list(graph.relation_triples()) == [("x", "knows", "y"), ("y", "likes", "z")]


def test_parquet_and_columns_that_are_named(tmp_path):
    columns = {"s": ["x", "y"], "how": [1, 2], "o": ["y", "z"]}
    parquet.write_table(pyarrow.table(columns), tmp_path / "g.parquet")
    assert list(read_graph(tmp_path / "g.parquet").relation_triples()) == [("x", "1", "y"), ("y", "2", "z")]
    graph = read_graph(tmp_path / "g.parquet", columns=("o", "how", "s"))
    assert list(graph.relation_triples()) == [("y", "1", "x"), ("z", "2", "y")]
    graph = read_graph(write(tmp_path / "g.csv", "a,b,c\nx,y,knows\n"), columns=("a", "c", "b"))
    assert list(graph.relation_triples()) == [("x", "knows", "y")]
    with pytest.raises(DataError, match="has no column 'd'"):
        read_graph(tmp_path / "g.csv", columns=("a", "c", "d"))


def test_tables_of_attributes_of_entities_and_of_rows(tmp_path):
    graph = read_graph(
        [
            write(tmp_path / "a.csv", "entity,attribute,value\nx,age,12\ny,age,\n"),
            write(tmp_path / "attributes.tsv", 'x\tname\t"Wien"@de\n'),
            write(tmp_path / "entities.csv", "entity\nz\n"),
            write(tmp_path / "cities.csv", "id,population,mayor\nw,7,\nx,,Ann\n"),
            write(tmp_path / "mixed.csv", 'h,r,t\nx,knows,y\nx,note,"""hello""@en"\n'),
        ]
    )
    assert graph.entities == ["x", "y", "z", "w"]
    assert list(graph.labeled_attributes()) == [
        ("x", "age", "12"),
        ("y", "age", ""),
        ("x", "name", '"Wien"@de'),
        ("w", "population", "7"),
        ("x", "mayor", "Ann"),
        ("x", "note", '"hello"@en'),
    ]
    assert any("cities.csv: a row is an entity, 'id' says which" in note for note in graph.notes)


def test_what_was_guessed_is_told(tmp_path):
    graph = read_graph(write(tmp_path / "g.csv", "p,q,r,w\nx,knows,y,1\n"))
    assert "names no columns, so it is data, and the columns after the third are left out" in graph.notes[0]
    graph = read_graph(write(tmp_path / "g.csv", "source,type,target\nx,knows,y\n"))
    assert graph.notes == ("g.csv: head is 'source', relation is 'type', tail is 'target'",)


def test_a_table_of_entities_under_any_names_is_told_by_its_numbers(tmp_path):
    """It was read as triples of its first row and all others, and most columns were left out."""
    text = "city,state,river,population\nWien,AT,Donau,2005760\nGraz,AT,Mur,303270\nRust,AT,,\n"
    graph = read_graph(write(tmp_path / "g.csv", text))
    assert graph.entities == ["Wien", "Graz", "Rust"]
    assert ("Graz", "river", "Mur") in list(graph.labeled_attributes())
    assert "a row is an entity, 'city' says which" in graph.notes[0]
    graph = read_graph(write(tmp_path / "t.csv", "a,knows,b,2001\nb,knows,c,2002\nc,knows,d,2003\n"))
    assert len(list(graph.relation_triples())) == 3


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("s.tsv", "x\tX\ny\tY\n"),
        ("s.csv", "left,right\nx,X\ny,Y\n"),
        ("s.csv", "right,score,left\nX,1.0,x\nY,.5,y\n"),
        ("s.csv", "x,X\ny,Y\n"),
        (
            "s.nt",
            "<x> <http://www.w3.org/2002/07/owl#sameAs> <X> .\n<y> <http://www.w3.org/2002/07/owl#sameAs> <Y> .\n",
        ),
        ("s.ttl", "<x> <http://r> <X> . <y> <http://r> <Y> ."),
        ("ent_links", "x\tX\ny\tY\n"),
    ],
)
def test_seeds(tmp_path, name, text):
    seeds = read_seeds(write(tmp_path / name, text))
    assert (seeds.left, seeds.right) == (["x", "y"], ["X", "Y"])
    header = name == "s.csv" and "left" in text
    assert any("the first row is a header" in note for note in seeds.notes) == header
    pair = lf.AlignmentPair.from_labeled_triples([("x", "r", "y")], [("X", "r", "Y")], seeds)
    assert pair.links.tolist() == [[0, 2], [1, 3]]


def test_graphs_and_seeds_from_files_are_a_pair(tmp_path):
    left = read_graph(write(tmp_path / "left.nt", NTRIPLES))
    right = read_graph(write(tmp_path / "right.csv", "h,r,t\nX,knows,Y\n"))
    seeds = read_seeds(write(tmp_path / "seeds.tsv", "left\tright\nhttp://a/x\tX\nhttp://a/unknown\tY\n"))
    pair = lf.AlignmentPair.from_labeled_triples(left, right, seeds)
    assert pair.name == "left - right"
    assert pair.links.tolist() == [[0, 4]]
    assert pair.names[0] == "Wien"
    assert any(
        "seeds.tsv, line 3, 'http://a/unknown' is not in the left graph" in note for note in pair.notes
    )


def test_the_same_file_on_both_sides_is_refused(tmp_path):
    path = write(tmp_path / "g.nt", NTRIPLES)
    (tmp_path / "other.nt").symlink_to(path)
    with pytest.raises(DataError, match="is left and right at once"):
        lf.AlignmentPair.from_labeled_triples(read_graph(path), read_graph(tmp_path / "other.nt"))
    copy = write(tmp_path / "copy.nt", NTRIPLES)
    pair = lf.AlignmentPair.from_labeled_triples(
        read_graph(path), read_graph(copy), [("http://a/x", "http://a/x")]
    )
    assert "g and copy say the same: is one a copy of the other?" in pair.notes


BOMB = (
    '<?xml version="1.0"?><!DOCTYPE r [<!ENTITY a "lol"><!ENTITY b "&a;&a;">]>'
    '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"/>'
)


@pytest.mark.hostile("nested and cut short")
@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("g.nt", "", r"g.nt.*no triple and no entity"),
        ("g.csv", "", r"g.csv is empty"),
        ("g.csv", "head,relation,tail\n", r"no triple and no entity"),
        ("g", "", r"g is empty"),
        ("g", "lorem ipsum", r"begins with 'lorem ipsum', which looks like none of"),
        (
            "g.nt",
            '<http://a> <http://b> "caf\xe9" .\n'.encode("latin1"),
            r"not valid UTF-8, it would read as WINDOWS-1252 \(first: g.nt, line 1",
        ),
        (
            "g.ttl",
            '<http://a> <http://b> "caf\xe9" .\n'.encode("latin1"),
            r"not valid UTF-8; it would read as WINDOWS-1252 ",
        ),
        (
            "g.csv",
            "h,r,t\na,b,c\na,b,caf\xe9\n".encode("latin1"),
            r"line 3: not valid UTF-8; it would read as WINDOWS-1252 ",
        ),
        ("g.ttl", "@prefix a: <http://a> .\na:x a:y .", r"g.ttl, line 2: .*\(read as turtle\)"),
        ("g.rdf", BOMB, r"declares the XML entity 'b'"),
        ("g.rdf", "<html><body>404</body></html>", r"is a web page"),
        (
            "g.jsonld",
            '{"@context": "http://schema.org/", "name": "x"}',
            r"context elsewhere, which is not fetched",
        ),
        ("g.json", '[{"id": "x", "name": "Wien"}]', r"JSON without a @context that says .* 'id'"),
        ("g.csv", "a,b\nx,y\n", r"has 2 columns \('a', 'b'\); a graph needs 3"),
        ("g.parquet", "no parquet", r"no readable Parquet file"),
        ("g.nt", "version https://git-lfs.github.com/spec/v1\n", r"Git LFS pointer"),
    ],
)
def test_what_is_no_graph_is_one_sentence(tmp_path, name, text, message):
    with pytest.raises(DataError, match=message) as caught:
        read_graph(write(tmp_path / name, text))
    assert len(str(caught.value)) < 1000


def test_what_is_not_there_or_unknown(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        read_graph(tmp_path / "nothing.nt")
    with pytest.raises(DataError, match="holds no file that ends in"):
        read_graph(tmp_path)
    with pytest.raises(DataError, match="unknown format 'rdf'"):
        read_graph(write(tmp_path / "g.nt", NTRIPLES), format="rdf")
    with pytest.raises(DataError, match="named twice"):
        read_graph([tmp_path / "g.nt", tmp_path / "g.nt"])
    with pytest.raises(DataError, match="no owl:sameAs or skos:exactMatch"):
        read_seeds(tmp_path / "g.nt")
    with pytest.raises(DataError, match=r"has one column, and begins with 'x y'; .* with a tab between them"):
        read_seeds(write(tmp_path / "s.tsv", "x y\n"))
    with pytest.raises(DataError, match="no link"):
        read_seeds(write(tmp_path / "s.csv", "left,right\n"))


@pytest.mark.hostile("nested and cut short")
@pytest.mark.parametrize("count", [1_000, pytest.param(1_000_000, marks=pytest.mark.slow)])
def test_a_million_bad_lines_are_summed_up_by_kind(tmp_path, count):
    lines = b"this is bad\n" * count + b'<http://a> <http://b> "x\n' + NTRIPLES.encode()
    path = write(tmp_path / "g.nt", lines)
    expected = (
        rf"{count + 1:,} bad lines: {count:,} x .*line 1, 'this is bad'.*line {count + 1}, .*--skip-bad"
    )
    with pytest.raises(DataError, match=expected) as caught:
        read_graph(path)
    assert len(str(caught.value)) < 1000
    graph = read_graph(path, skip_bad_lines=True)
    assert list(graph.relation_triples()) == TRIPLES
    assert "they are left out" in graph.notes[0]


@pytest.mark.parametrize(
    "bad",
    [
        '<http://a> <http://b> "never closed',
        "<http://a> <http://b> <http://never",
        "<http://a> <http://b> <http://c>",
        "<http://a> <http://b> <http://c> . <http://d>",
        '<http://a> <http://b> "\\q" .',
        "nothing",
    ],
)
def test_a_bad_line_harms_no_other(tmp_path, bad):
    good = NTRIPLES.splitlines()
    text = "\n".join(["# comment", good[0], "", bad, *good[1:]])
    graph = read_graph(write(tmp_path / "g.nt", text), skip_bad_lines=True)
    assert list(graph.relation_triples()) == TRIPLES
    assert list(graph.labeled_attributes()) == VALUES
    assert "1 bad lines" in graph.notes[0]
    assert "g.nt, line 4," in graph.notes[0]
    with pytest.raises(DataError, match=r"g\.ttl"):
        read_graph(write(tmp_path / "g.ttl", text))


def test_bad_rows_of_tables_are_summed_up_by_kind(tmp_path):
    path = write(tmp_path / "g.csv", "h,r,t\na,b\nx,knows,y\n,b,c\na,b,c,d\n")
    with pytest.raises(
        DataError, match=r"3 bad lines: .*2 cells instead of 3.*an empty cell \(first: g.csv, line"
    ):
        read_graph(path)
    assert list(read_graph(path, skip_bad_lines=True).relation_triples()) == [("x", "knows", "y")]


@pytest.mark.hostile("nested and cut short")
@pytest.mark.parametrize("name", ["g.nt", "g.csv"])
def test_a_literal_of_ten_million_characters(tmp_path, name):
    long = "x" * 10_000_000
    text = {
        "g.nt": f'<http://a> <{NAME}> "{long}" .\n',
        "g.csv": f'entity,attribute,value\nhttp://a,{NAME},"{long}"\n',
    }[name]
    graph = read_graph(write(tmp_path / name, text))
    assert graph.values == [long]
    pair = lf.AlignmentPair.from_labeled_triples(graph, [("A", "r", "B")])
    assert len(pair.names[0]) == 1000
    assert any("longer than 1,000 characters" in note for note in pair.notes)


def test_without_the_library_rdf_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyoxigraph", None)
    with pytest.raises(DataError, match="pip install pyoxigraph"):
        read_graph(write(tmp_path / "g.nt", NTRIPLES))


@pytest.mark.slow
def test_ten_million_triples_are_read_in_two_minutes_and_four_gigabytes(tmp_path):
    """Seconds of processor time, in a process of its own."""
    path = tmp_path / "big.nt"
    with path.open("w") as file:
        for start in range(0, 10_000_000, 10_000):
            file.write(
                "".join(
                    f"<http://a/{row * 7919 % 1_000_003}> <http://r/{row % 97}> <http://a/{row * 131 % 999_983}> .\n"
                    if row % 3
                    else f'<http://a/{row * 7919 % 1_000_003}> <http://s/{row % 89}> "value {row}"@en .\n'
                    for row in range(start, start + 10_000)
                )
            )
    code = (
        "import resource, sys, time; from loginmea_fast.data import read_graph; start = time.process_time();"
        "graph = read_graph(sys.argv[1]); print(len(graph.triples) + len(graph.values), "
        "time.process_time() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)"
    )
    out = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True
    ).stdout
    count, seconds, peak = map(float, out.split())
    assert count == 10_000_000
    assert seconds < 120
    assert peak < 4e9


def test_a_damaged_name_in_parquet_is_one_sentence(tmp_path):
    """Names of columns are read as UTF-8 outside of pyarrow's own errors."""
    columns = {"head": ["x"] * 3, "relation": ["r"] * 3, "tail": ["y"] * 3}
    parquet.write_table(pyarrow.table(columns), tmp_path / "g.parquet", store_schema=False)
    whole = (tmp_path / "g.parquet").read_bytes()
    for place in range(len(whole)):
        (tmp_path / "g.parquet").write_bytes(
            whole[:place] + bytes([whole[place] ^ 0x80]) + whole[place + 1 :]
        )
        with contextlib.suppress(DataError):
            read_graph(tmp_path / "g.parquet")


def test_a_byte_that_no_encoding_has_is_one_sentence(tmp_path):
    """Where the line that is shown reaches beyond the whole lines that an encoding is judged by."""
    (tmp_path / "g.csv").write_bytes(b"a,b,c\n" * 3 + b"x,y,\x8d")
    with pytest.raises(DataError, match="line 4: not valid UTF-8"):
        read_graph(tmp_path / "g.csv")
