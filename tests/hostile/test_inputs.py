"""Files of somebody who means harm: one sentence in moments, nothing run, nothing read or written elsewhere.

What is tried of pickles, tables, the page and the native cache stands beside their other tests, under the same marker.
"""

from __future__ import annotations

import gzip
import io
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from PIL import Image

import loginmea_fast as lf
from loginmea_fast.data import read_graph, read_seeds, vector_files
from loginmea_fast.data.vector_files import read_vectors
from loginmea_fast.errors import DataError
from loginmea_fast.files import write_whole
from loginmea_fast.report.plot import draw
from loginmea_fast.runs.aligning import read_decisions
from loginmea_fast.training.checkpoint import save_tensors
from tests.align.graphs import write_graphs

RDF = '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#" xmlns:a="http://a/">'
ENTITIES = (
    '<?xml version="1.0"?><!DOCTYPE r [{}]>' + RDF + '<rdf:Description rdf:about="http://a/x"><a:b>{}</a:b>'
)
CLOSED = "</rdf:Description></rdf:RDF>"
LAUGHS = "".join(f'<!ENTITY l{n} "{10 * f"&l{n - 1};"}">' for n in range(1, 10))
XML = {
    "a billion laughs": (
        ENTITIES.format('<!ENTITY l0 "ha">' + LAUGHS, "&l9;") + CLOSED,
        "the XML entity 'l1'",
    ),
    "a parameter entity": (ENTITIES.format('<!ENTITY % p "x">', "") + CLOSED, "the XML entity '% p'"),
    "a long entity": (ENTITIES.format(f'<!ENTITY q "{5000 * "q"}">', 5000 * "&q;") + CLOSED, "very long"),
    "an entity elsewhere": (ENTITIES.format('<!ENTITY e SYSTEM "file://SECRET">', "&e;") + CLOSED, "g.rdf"),
    "a long DOCTYPE": (f"<!DOCTYPE r [{'<!-- x -->' * 200_000}]>{RDF}</rdf:RDF>", "more than a megabyte"),
    "elements inside each other": (
        RDF + 50_000 * "<rdf:Description><a:b>",
        "more than 1,000 elements inside",
    ),
    "the same behind quoted ends": (
        RDF + 3000 * "<rdf:Description><a:b><![CDATA[</a:b></rdf:Description>]]><!-- </a:b> -->",
        "more than 1,000 elements inside",
    ),
    "cut short": (ENTITIES.format("", "x"), "ends before its element 'rdf:RDF' does"),
}


@pytest.mark.hostile("XML")
@pytest.mark.parametrize("case", XML)
def test_xml(tmp_path: Path, case: str) -> None:
    text, message = XML[case]
    secret = tmp_path / "secret"
    secret.write_text("not to be read")
    (tmp_path / "g.rdf").write_text(text.replace("SECRET", str(secret)))
    with pytest.raises(DataError, match=message) as caught:
        read_graph(tmp_path / "g.rdf")
    assert "not to be read" not in str(caught.value)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("text", ["</p><br>", "<br/>", "a/>b", "<!-- <b> -->", "<b>" * 2000])
def test_text_that_looks_like_elements_is_text(tmp_path: Path, text: str) -> None:
    quoted = f'<rdf:Description rdf:about="http://a/x"><a:b><![CDATA[{text}]]></a:b></rdf:Description>'
    end = "</rdf:RDF>\n<!-- </end> -->\n"
    (tmp_path / "g.rdf").write_text(f"{RDF}<!-- <a><b>{2000 * '<c>'} -->{100 * quoted}{end}")
    graph = read_graph(tmp_path / "g.rdf")
    assert len(graph.attributes) == 1 or len(graph.attributes) == 100


NESTED = {
    "JSON-LD": ("g.jsonld", 200_000 * "["),
    "Turtle": ("g.ttl", "<http://a/a> <http://a/b> " + 200_000 * "[ <http://a/b> "),
    "collections": ("g.ttl", "<http://a/a> <http://a/b> " + 200_000 * "( "),
    "statements about statements": ("g.nt", 200_000 * "<< "),
}


@pytest.mark.hostile("nested and cut short")
@pytest.mark.parametrize("case", NESTED)
def test_what_lies_very_deep_is_one_sentence(tmp_path: Path, case: str) -> None:
    name, text = NESTED[case]
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError) as caught:
        read_graph(tmp_path / name)
    assert len(str(caught.value)) < 1000


@pytest.mark.hostile("nested and cut short")
@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("g.ttl", "<http://a/x> <http://a/b> <http://a/y> ;"),
        ("g.ttl", '<http://a/x> <http://a/b> "half'),
        ("g.jsonld", '{"@id": "http://a/x", "http://a/b": [{"@id": "http://a/y"}'),
        ("g.nt", "<http://a/x> <http://a/b> <http://a/y> .\n<http://a/x> <http://a/b> <htt"),
    ],
)
def test_what_is_cut_short_is_told(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=name):
        read_graph(tmp_path / name)
    (tmp_path / f"{name}.gz").write_bytes(gzip.compress(text.encode() * 2000)[:-20])
    with pytest.raises(DataError):
        read_graph(tmp_path / f"{name}.gz")


def _npz(path: Path, shape: tuple[int, ...]) -> None:
    """An array of a declared shape, and one page of zeros for its numbers."""
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(head, {"descr": "<f4", "fortran_order": False, "shape": shape})
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("features.npy", head.getvalue() + bytes(1 << 20))


def _npz_that_climbs(path: Path) -> None:
    array = io.BytesIO()
    np.save(array, np.ones((3, 2), dtype=np.float32))
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("../../escaped.npy", array.getvalue())


def _hdf5(path: Path, fill: Callable[[h5py.File], object]) -> None:
    with h5py.File(path, "w") as file:
        fill(file)


def _ladder(file: h5py.File) -> None:
    group = file
    for _ in range(30):
        below = group.create_group("a")
        group["b"] = below
        group = below


def _virtual(file: h5py.File) -> None:
    layout = h5py.VirtualLayout((3, 2), "f4")
    layout[:] = h5py.VirtualSource("secret.h5", "numbers", (3, 2))
    file.create_virtual_dataset("features", layout)


def _elsewhere(file: h5py.File) -> None:
    file.create_dataset("features", (2, 2), "f4", external=[("/etc/passwd", 0, 16)])


def _repeated(path: Path) -> None:
    lists: list[Any] = [1.0]
    for _ in range(60):
        lists = [lists, lists]
    path.write_bytes(pickle.dumps([lists, lists]))


PACKED: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "npz that declares a terabyte": ("v.npz", lambda p: _npz(p, (10**9, 256)), "more memory than there is"),
    "npz that declares more than fits in 64 bits": ("v.npz", lambda p: _npz(p, (2**40, 2**40)), "v.npz"),
    "npz of an array that climbs": ("v.npz", _npz_that_climbs, ""),
    "npy cut short": (
        "v.npy",
        lambda p: np.save(p, np.ones((9, 9))) or os.truncate(p, 300),
        "cannot be read",
    ),
    "HDF5 of a huge array that is not there": (
        "v.h5",
        lambda p: _hdf5(p, lambda f: f.create_dataset("features", (10**7, 10**6), "f4", chunks=(1, 1000))),
        "more memory than there is",
    ),
    "HDF5 whose numbers lie elsewhere": ("v.h5", lambda p: _hdf5(p, _elsewhere), "in another file"),
    "HDF5 of a virtual array": ("v.h5", lambda p: _hdf5(p, _virtual), "in another file"),
    "HDF5 with groups that multiply": ("v.h5", lambda p: _hdf5(p, _ladder), "more than 1,000 times"),
    "pickle of lists that multiply": ("v.pkl", _repeated, "over and over"),
}


@pytest.mark.hostile("archives and arrays")
@pytest.mark.timeout(60)
@pytest.mark.parametrize("case", PACKED)
def test_archives_and_arrays(tmp_path: Path, case: str) -> None:
    name, write, message = PACKED[case]
    folder = tmp_path / "a" / "b"
    folder.mkdir(parents=True)
    write(folder / name)
    before = sorted(tmp_path.rglob("*"))
    if message:
        with pytest.raises(DataError, match=message) as caught:
            read_vectors(folder / name)
        assert len(str(caught.value)) < 1000
    else:
        read_vectors(folder / name)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.hostile("archives and arrays")
def test_an_array_of_objects_in_an_archive_runs_nothing(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(tmp_path / "executed"),)

    np.savez(tmp_path / "v.npz", features=np.array([Evil()], dtype=object))
    np.save(tmp_path / "v.npy", np.array([Evil()], dtype=object), allow_pickle=True)
    for name in ("v.npz", "v.npy"):
        with pytest.raises(DataError, match="only numpy arrays, torch tensors and builtin containers"):
            read_vectors(tmp_path / name)
    assert not (tmp_path / "executed").exists()


@pytest.mark.hostile("archives and arrays")
def test_what_unpacks_to_more_than_there_is_room_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vector_files.shutil, "disk_usage", lambda place: type("U", (), {"free": 8 << 20}))
    (tmp_path / "v.npy.gz").write_bytes(gzip.compress(bytes(64 << 20)))
    with pytest.raises(DataError, match="unpacks to more than 4 MiB, half of what is free"):
        read_vectors(tmp_path / "v.npy.gz")


@pytest.mark.hostile("paths")
def test_folders_that_go_in_circles_or_elsewhere(tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    Image.new("RGB", (8, 8), "red").save(folder / "a.png")
    (folder / "round").symlink_to(folder)
    (folder / "nothing.png").symlink_to(tmp_path / "nowhere.png")
    (tmp_path / "secret").mkdir()
    Image.new("RGB", (8, 8), "blue").save(tmp_path / "secret" / "b.png")
    (folder / "out").symlink_to(tmp_path / "secret")
    stored = read_vectors(folder)
    assert stored.entries is not None
    assert list(stored.entries) == ["a.png"]


@pytest.mark.hostile("paths")
def test_names_that_climb_are_names(tmp_path: Path) -> None:
    """Identifiers of entities name no file, whatever they look like, and a link in place of a result is replaced."""
    folder = tmp_path / "a" / "b"
    folder.mkdir(parents=True)
    write_graphs(folder, 100)
    for file in folder.iterdir():
        file.write_text(file.read_text().replace("left.example/e1", "left.example/../../../../e1"))
    precious = tmp_path / "precious"
    precious.write_text("mine")
    (folder / "found").mkdir()
    (folder / "found" / "report.json").symlink_to(precious)
    pair = lf.AlignmentPair.from_labeled_triples(
        read_graph(folder / "left.nt"), read_graph(folder / "right.nt"), read_seeds(folder / "seeds.tsv")
    )
    assert any("/../" in uri for uri in pair.uris)
    found = lf.align(pair, method="propagate", propagation_width=64, pivots=False, progress=False)
    found.save(folder / "found", ("tsv", "sameas", "sssom", "alignment-rdf"), overwrite=True)
    assert precious.read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "precious"]


ODD = "\u202emoc.elpmaxe\x1b[31m\x07\x00\u2066"


@pytest.mark.hostile("text")
@pytest.mark.parametrize("name", ["seeds.tsv", "seeds.csv", "decisions.tsv"])
def test_errors_show_control_and_bidirectional_characters_by_number(tmp_path: Path, name: str) -> None:
    write_graphs(tmp_path, 60)
    left, right = (read_graph(tmp_path / f"{side}.nt") for side in ("left", "right"))
    separator = "," if name.endswith("csv") else "\t"
    cells = [ODD, "http://right.example/e61", *(["accepted"] if name == "decisions.tsv" else [])]
    (tmp_path / name).write_text(f"{separator.join(cells)}\n", encoding="utf-8")

    def read() -> None:
        if name == "decisions.tsv":
            read_decisions(tmp_path / name, lf.AlignmentPair.from_labeled_triples(left, right))
        else:
            lf.AlignmentPair.from_labeled_triples(left, right, read_seeds(tmp_path / name))

    with pytest.raises(DataError) as caught:
        read()
    assert not set(str(caught.value)) & set(ODD) - set("moc.elpmaxe[31")


@pytest.mark.hostile("paths")
@pytest.mark.parametrize("writer", ["page", "plot", "checkpoint", "table"])
def test_a_link_laid_where_a_file_is_being_written_leads_nowhere(tmp_path: Path, writer: str) -> None:
    """Each writes beside the file first; what lies there under the name that it would take must not be followed."""
    precious = tmp_path / "precious"
    precious.write_text("mine")
    name = {"page": "report.html", "plot": "plot.svg", "checkpoint": "last.safetensors", "table": "a.tsv"}[
        writer
    ]
    target = tmp_path / "given" / name
    target.parent.mkdir()
    for beside in (f".{name}.tmp", f".{target.stem}.tmp{target.suffix}", name):
        (target.parent / beside).symlink_to(precious)
    if writer == "checkpoint":
        save_tensors(target, {"a": torch.ones(2)})
    elif writer == "plot":
        pytest.importorskip("matplotlib")
        trace = {"type": "scatter", "x": [0, 1], "y": [0, 1], "name": "a", "mode": "lines"}
        axis = {"title": {"text": "x"}}
        draw([{"title": "t", "layout": {"xaxis": axis, "yaxis": axis}, "traces": [trace]}], target)
    else:
        write_whole(target, b"ours")
    assert precious.read_text() == "mine"
    assert target.is_file()
    assert not target.is_symlink()
