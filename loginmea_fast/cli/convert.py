"""`loginmea-fast convert`."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from loginmea_fast.cli.options import Json, RightGraph
from loginmea_fast.errors import DataError

EXAMPLES = """\
examples:
  loginmea-fast convert left.nt.gz right.ttl --seeds seeds.tsv --to csv --out pair
  loginmea-fast convert left/ right/ --seeds seeds.tsv --to openea --out pair       a directory of files a side
  loginmea-fast convert data/dbp15k/fr_en --to ntriples --out fr_en                 a data set in any known layout
  loginmea-fast convert left.csv right.csv --columns subj,pred,obj --to turtle --out pair

DIR is a data set that train and align take; left and right in it are graphs that other tools read."""


def run(
    left: Annotated[
        str,
        Parameter(
            name="LEFT",
            metavar="LEFT",
            help="file or directory of the left graph, or directory of a data set",
        ),
    ],
    right: RightGraph = None,
    /,
    *,
    to: Annotated[str, Parameter(metavar="FORMAT", help="openea, dbp15k, ntriples, turtle, csv or parquet")],
    out: Annotated[str, Parameter(metavar="DIR", help="directory to write; must not exist yet, or be empty")],
    seeds: Annotated[str | None, Parameter(metavar="FILE", help="known pairs of entities")] = None,
    valid: Annotated[
        str | None, Parameter(metavar="FILE", help="known pairs to select a model by, no seeds")
    ] = None,
    test: Annotated[str | None, Parameter(metavar="FILE", help="known pairs to measure by, no seeds")] = None,
    format: Annotated[
        str,
        Parameter(
            metavar="FORMAT", help="of LEFT and RIGHT, or layout of the data set; default: by the files"
        ),
    ] = "auto",
    columns: Annotated[
        str | None,
        Parameter(metavar="LIST", help="names or numbers of head, relation and tail in tables, by commas"),
    ] = None,
    name_attributes: Annotated[
        str, Parameter(metavar="LIST", help="attributes whose values are the names of entities, by commas")
    ] = "",
    skip_bad_lines: Annotated[
        bool, Parameter(negative="", show_default=False, help="read past lines that are none, and count them")
    ] = False,
    as_json: Json = False,
) -> int:
    """Read two graphs and their links in any format, and write them in another."""
    from loginmea_fast.data import AlignmentPair, load, load_embedded, read_graph, read_seeds, save

    names = tuple(name.strip() for name in name_attributes.split(",") if name.strip())
    links = {"seeds": seeds, "valid": valid, "test": test}
    if right is None:
        if given := [f"--{name}" for name, path in links.items() if path is not None]:
            raise DataError(
                f"{given[0]} goes with two graphs, LEFT and RIGHT; {left} alone is a data set with links of its own"
            )
        options: dict[str, Any] = {"name_attributes": names, "with_values": True}
        pair = load_embedded() if left == "embedded" else load(left, format, **options)
    else:
        asked = None if columns is None else [_column(column) for column in columns.split(",")]
        graphs = [read_graph(path, format, asked, skip_bad_lines=skip_bad_lines) for path in (left, right)]
        known: dict[str, Any] = {
            name: read_seeds(path, skip_bad_lines=skip_bad_lines)
            for name, path in links.items()
            if path is not None
        }
        pair = AlignmentPair.from_labeled_triples(
            graphs[0], graphs[1], **known, name_attributes=names, modalities=(), name=Path(out).name
        )
    lost = save(pair, out, to)
    pair = replace(pair, features={}, notes=(*pair.notes, *lost))
    if as_json:
        print(json.dumps({"out": out, "format": to, **pair.summary()}, indent=2))
    else:
        print(pair.describe())
        print(f"written to {out} as {to}")
    return 0


def _column(text: str) -> str | int:
    return int(text) if text.strip().lstrip("-").isdigit() else text.strip()
