"""Time and peak memory of reading a graph of ten million triples, by format, beside the parser alone.

    python bench/reading.py
    python bench/reading.py --triples 100000 --formats nt csv
    python bench/reading.py --record

The graph is synthetic: a million entities, each with a name and a date, and eight relation triples an entity, as large
dumps have them. Each format is read in a process of its own, whose peak is the system's count; the parser alone
(pyoxigraph, pyarrow) reads the same file and keeps nothing.
"""

from __future__ import annotations

import argparse
import gzip
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
from bench import sizes  # noqa: E402
from bench._record import record  # noqa: E402
from loginmea_fast.data import read_graph  # noqa: E402

FORMATS = ("nt", "nt.gz", "csv", "parquet")
_A_BLOCK = 1 << 20  # triples that are drawn at once
_LABEL, _BORN = "http://www.w3.org/2000/01/rdf-schema#label", "http://example.org/ontology/born"
_DATE = "http://www.w3.org/2001/XMLSchema#date"


def triples(count: int) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Heads, relations and tails by blocks: a tenth as many entities, tails by a power law, relations by Zipf's."""
    generator = np.random.default_rng(0)
    entities, left = max(count // 10, 1), count * 8 // 10
    while left:
        size = min(left, _A_BLOCK)
        heads = generator.integers(entities, size=size)
        tails = (entities * generator.random(size) ** 3).astype(np.int64)
        yield heads, np.minimum(generator.zipf(1.5, size), 500), tails
        left -= size


def write_ntriples(path: Path, count: int) -> None:
    """The graph as N-Triples, compressed where the name says so."""
    compressed = path.suffix == ".gz"
    with gzip.open(path, "wt", 1) if compressed else path.open("w", encoding="utf-8") as file:
        for heads, relations, tails in triples(count):
            rows = zip(heads.tolist(), relations.tolist(), tails.tolist(), strict=True)
            file.writelines(f"<{_entity(h)}> <{_relation(r)}> <{_entity(t)}> .\n" for h, r, t in rows)
        for entity in range(count // 10):
            file.write(f'<{_entity(entity)}> <{_LABEL}> "Entity number {entity}"@en .\n')
            file.write(f'<{_entity(entity)}> <{_BORN}> "{_day(entity)}"^^<{_DATE}> .\n')


def write_tables(folder: Path, count: int, suffix: str) -> None:
    """The graph as a folder of a table of triples and one row an entity."""
    import pyarrow as pa
    import pyarrow.csv
    import pyarrow.parquet

    columns: list[list[str]] = [[], [], []]
    for heads, relations, tails in triples(count):
        columns[0].extend(map(_entity, heads.tolist()))
        columns[1].extend(map(_relation, relations.tolist()))
        columns[2].extend(map(_entity, tails.tolist()))
    folder.mkdir()
    entities = range(count // 10)
    names = [f"Entity number {entity}" for entity in entities]
    tables = {
        "triples": dict(zip(("head", "relation", "tail"), columns, strict=True)),
        "entities": {"id": list(map(_entity, entities)), "label": names, "born": list(map(_day, entities))},
    }
    for name, table in tables.items():
        write = pyarrow.csv.write_csv if suffix == "csv" else pyarrow.parquet.write_table
        write(pa.table(table), folder / f"{name}.{suffix}")


def _entity(number: int) -> str:
    return f"http://example.org/resource/{number}"


def _relation(number: int) -> str:
    return f"http://example.org/ontology/relation{number}"


def _day(number: int) -> str:
    return f"{1000 + number % 1000}-{1 + number % 12:02}-{1 + number % 28:02}"


def parse_alone(path: Path) -> None:
    """Read the files by the library that the package reads them by, and keep nothing."""
    if path.is_dir():
        import pyarrow.csv
        import pyarrow.parquet

        for file in path.iterdir():
            (pyarrow.csv.read_csv if file.suffix == ".csv" else pyarrow.parquet.read_table)(file)
        return
    import pyoxigraph

    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
        for _ in pyoxigraph.parse(file, pyoxigraph.RdfFormat.N_TRIPLES):
            pass


def child(path: Path, alone: bool) -> dict[str, Any]:
    """Seconds and peak of one reading in this process."""
    started = time.perf_counter()
    read: Callable[[Path], Any] = parse_alone if alone else read_graph
    graph = read(path)
    found = {"seconds": time.perf_counter() - started, "bytes": sizes.peak_bytes()}
    if graph is None:
        return found
    return {**found, "triples": len(graph.triples), "entities": len(graph.entities)}


def measure(folder: Path, format: str, count: int) -> dict[str, Any]:
    """A row: ours and the parser alone."""
    path = folder / f"graph.{format}"
    if format.startswith("nt"):
        write_ntriples(path, count)
    else:
        write_tables(path, count, format)
    size = sum(file.stat().st_size for file in (path.iterdir() if path.is_dir() else [path]))
    row: dict[str, Any] = {"format": format, "lines": count, "file_bytes": size}
    for name, flags in (("parser", ["--alone"]), ("ours", [])):
        command = [sys.executable, __file__, "--child", str(path), *flags]
        row[name] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return row


def main() -> None:
    """Measure, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--triples", type=int, default=10_000_000)
    parser.add_argument("--formats", nargs="+", choices=FORMATS, default=list(FORMATS))
    parser.add_argument("--record", action="store_true")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child is not None:
        print(json.dumps(child(args.child, args.alone)))
        return
    rows = []
    for format in args.formats:
        with tempfile.TemporaryDirectory() as folder:
            rows.append(measure(Path(folder), format, args.triples))
        told = (
            f"{rows[-1][of]['seconds']:.1f} s, {rows[-1][of]['bytes'] / 1e9:.2f} GB"
            for of in ("ours", "parser")
        )
        print(
            f"{format}, {rows[-1]['file_bytes'] / 1e6:,.0f} MB: {'; the parser alone '.join(told)}",
            flush=True,
        )
    if args.record:
        record("reading", rows, note="a synthetic graph of a million entities")


if __name__ == "__main__":
    main()
