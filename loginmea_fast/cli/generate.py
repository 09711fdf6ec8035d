"""`loginmea-fast generate`."""

from __future__ import annotations

import json
from typing import Annotated

from cyclopts import Parameter

from loginmea_fast.cli.options import Json

EXAMPLES = """\
examples:
  loginmea-fast generate made --entities 100000                                  structure and attributes
  loginmea-fast generate made --entities 1000000 --vectors image=512 --seed 3    with half-precision vectors

The other commands take DIR as they take real data. The graphs have the shape of real ones and no meaning:
figures measured on them are figures of synthetic data."""


def run(
    out: Annotated[
        str, Parameter(name="DIR", metavar="DIR", help="directory to write; must not exist yet, or be empty")
    ],
    /,
    *,
    entities: Annotated[int, Parameter(metavar="N", help="entities of both graphs together")],
    triples: Annotated[float, Parameter(metavar="X", help="of each graph, for each of its entities")] = 8.0,
    relations: Annotated[
        int, Parameter(metavar="N", help="of each graph; how often each occurs: Zipf")
    ] = 500,
    overlap: Annotated[
        float, Parameter(metavar="X", help="share of a graph's entities that the other one has, linked")
    ] = 0.75,
    kept: Annotated[
        float, Parameter(metavar="X", help="share of the world's facts that a graph knows")
    ] = 0.8,
    noise: Annotated[float, Parameter(metavar="X", help="share of a graph's facts that are wrong")] = 0.05,
    exponent: Annotated[float, Parameter(metavar="X", help="of the power law of entities as tails")] = 2.5,
    attributes: Annotated[float, Parameter(metavar="X", help="of an entity; 0: none at all")] = 5.0,
    vectors: Annotated[
        list[str] | None,
        Parameter(metavar="MODALITY=WIDTH", negative="", help="half-precision vectors; may be repeated"),
    ] = None,
    present: Annotated[
        float, Parameter(metavar="X", help="share of the entities that have a vector, of each modality")
    ] = 0.8,
    seed: Annotated[int, Parameter(metavar="N", help="the same seed gives the same files")] = 0,
    as_json: Json = False,
) -> int:
    """Make a synthetic data set: two overlapping, noisy views of one made-up world, in the layout of DBP15K."""
    from loginmea_fast.data import Synthetic, generate

    widths = dict(_width(text) for text in vectors or [])
    synthetic = Synthetic(
        entities,
        triples,
        relations,
        overlap,
        kept,
        noise,
        exponent,
        attributes,
        widths,
        present,
        seed,
    )
    made = generate(out, synthetic)
    if as_json:
        print(json.dumps({"out": out, **made}, indent=2))
        return 0
    left, right = made["triples"]
    side = synthetic.side
    print(
        f"{out}: synthetic, {side:,} + {side:,} entities, {left:,} + {right:,} triples, {made['links']:,} links"
    )
    for name, width in widths.items():
        print(f"  {name}: float16 vectors of {width} numbers for {present:.0%} of the entities")
    return 0


def _width(text: str) -> tuple[str, int]:
    from loginmea_fast.errors import InputError

    name, _, width = text.partition("=")
    if not width.isdigit():
        raise InputError(f"--vectors takes MODALITY=WIDTH, as in image=512; got {text!r}")
    return name, int(width)
