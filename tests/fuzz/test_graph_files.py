"""Graphs and links in files against damaged copies: a graph whose parts fit together, or one sentence.

`make fuzz` runs 500 cases with each of the nine files, beside its 20,000 of data sets and vectors.
"""

from __future__ import annotations

import io
import time
from pathlib import Path

import pyarrow
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from loginmea_fast.data import LabeledGraph, LabeledLinks, read_graph, read_seeds
from loginmea_fast.errors import DataError
from tests.data.test_reading import JSONLD, NTRIPLES, RDFXML, TURTLE
from tests.fuzz.mutations import CASES, DAMAGED, SECONDS, STORED


def _parquet() -> bytes:
    file = io.BytesIO()
    parquet.write_table(pyarrow.table({"head": ["a", "b"], "relation": ["r", "s"], "tail": ["b", "c"]}), file)
    return file.getvalue()


FILES = {
    "g.nt": NTRIPLES.encode(),
    "g.nq": NTRIPLES.replace(" .\n", " <http://a/graph> .\n").encode(),
    "g.ttl": TURTLE.encode(),
    "g.rdf": RDFXML.encode(),
    "g.jsonld": JSONLD.encode(),
    "g.csv": 'head,relation,tail\na,knows,"b ""x"""\n"b ""x""",likes,caf\u00e9\n'.encode(),
    "attributes.tsv": b'entity\tattribute\tvalue\na\tage\t12\nb\tname\t"Wien"@de\n',
    "rows.csv": b"id,age,city\na,12,Wien\nb,,Graz\n",
    "g.parquet": _parquet(),
}


def _read(path: Path, skip: bool) -> tuple[LabeledGraph | None, LabeledLinks | None]:
    """The graph and the links, or None where one short sentence said what is wrong; other exceptions pass through."""
    found: list[LabeledGraph | LabeledLinks | None] = []
    for read in (read_graph, read_seeds):
        start = time.process_time()
        try:
            found.append(read(path, skip_bad_lines=skip))
        except DataError as error:
            said = str(error)
            assert "\n" not in said
            assert len(said.replace(str(path), "")) < 1500
            found.append(None)
        assert time.process_time() - start < SECONDS
    graph, links = found
    if isinstance(graph, LabeledGraph):
        assert len(set(graph.entities)) == len(graph.entities) > 0
        assert len(graph.values) == len(graph.attribute_triples)
        assert graph.triples[:, ::2].max(initial=0) < len(graph.entities)
        assert graph.triples[:, 1].max(initial=-1) < max(len(graph.relations), 1)
        assert all("\n" not in note and len(note) < 1500 for note in graph.notes)
    assert links is None or (isinstance(links, LabeledLinks) and len(links.left) == len(links.right) > 0)
    return graph, links  # type: ignore[return-value]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.timeout(0)
def test_a_damaged_graph(name: str, tmp_path: Path) -> None:
    content = FILES[name]
    path = tmp_path / name
    path.write_bytes(content)
    whole, _ = _read(path, False)
    assert whole is not None

    @settings(max_examples=max(1, CASES // 40), suppress_health_check=list(HealthCheck), database=None)
    @given(st.data())
    def case(draw: st.DataObject) -> None:
        number = st.integers(0, 1 << 16)
        steps = draw.draw(st.lists(st.tuples(st.sampled_from(sorted(DAMAGED)), number, number), max_size=2))
        damaged = content
        for mutation, a, b in steps:
            damaged = DAMAGED[mutation](damaged, a, b)
        path.write_bytes(damaged)
        graph, _ = _read(path, draw.draw(st.booleans()))
        if not steps and name != "g.parquet":
            assert graph is not None
            stored = draw.draw(st.sampled_from(sorted(STORED)))
            path.write_bytes(STORED[stored](content, 0, 0))
            again, _ = _read(path, False)
            assert again is not None, stored
            assert again.entities == whole.entities, stored
            assert again.triples.tolist() == whole.triples.tolist(), stored
            # XML and line ends inside quotes are the only places where a line end is said otherwise.
            if stored != "crlf":
                assert again.values == whole.values, stored

    case()
