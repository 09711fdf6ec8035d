"""Two overlapping, noisy views of one made-up world, of any size: to see how things grow, not how well they align.

The world has entities, triples and attributes; either graph knows a part of its entities, most of the triples among
these, some of them wrong, and most of their attributes, under relations and attributes of its own. How often an entity
is a tail follows a power law, how often a relation or an attribute occurs Zipf's.

Everything is drawn chunk by chunk, each from its own stream of random numbers, and written as it is drawn: memory holds
a few numbers an entity, and the same arguments give the same files, byte by byte, with the same NumPy.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from loginmea_fast.data.saving import new_directory
from loginmea_fast.errors import InputError

__all__ = ["Synthetic", "generate"]

# What is drawn at a time. Part of what the seed means: another number gives other graphs.
_TRIPLES, _ENTITIES = 1 << 20, 1 << 16
_HEADS = 1.5  # u^_HEADS spreads heads mildly: an entity has about as many facts as another
_ATTRIBUTES = 2000  # types
_MOST = 10**8  # entities
_SIDES = ("left", "right")


@dataclass(frozen=True)
class Synthetic:
    """What is to be made.

    Attributes:
        entities: of both graphs together.
        triples: of each graph, a mean for each of its entities.
        relations: of each graph.
        overlap: share of a graph's entities that the other one has too; all of these are linked.
        kept: share of the world's triples and attributes that a graph knows of the entities that it has.
        noise: share of these that are wrong.
        exponent: gamma of the power law p(k) ~ k^-gamma that the numbers k of triples follow in which an entity is the
            tail.
        attributes: of an entity, a mean; 0 for none at all.
        vectors: modality -> width of its half-precision vectors.
        present: share of the entities that have a vector, of each modality.
        seed: of everything.
    """

    entities: int
    triples: float = 8.0
    relations: int = 500
    overlap: float = 0.75
    kept: float = 0.8
    noise: float = 0.05
    exponent: float = 2.5
    attributes: float = 5.0
    vectors: Mapping[str, int] = field(default_factory=dict)
    present: float = 0.8
    seed: int = 0

    def __post_init__(self) -> None:
        """Raise `InputError` unless such graphs can be made."""
        for name, least, most in (
            ("entities", 4, _MOST),
            ("triples", 0.01, 10_000),
            ("relations", 1, 10**6),
            ("overlap", 0.0, 1.0),
            ("kept", 0.01, 1.0),
            ("noise", 0.0, 1.0),
            ("exponent", 2.05, 100.0),
            ("attributes", 0.0, 1000.0),
            ("present", 0.0, 1.0),
            ("seed", 0, 2**63),
        ):
            value = getattr(self, name)
            if not least <= value <= most:
                raise InputError(f"{name} must be from {least:,} to {most:,}; got {value:,}")
        if not self.shared:
            raise InputError(
                f"an overlap of {self.overlap:g} links none of {self.side:,} entities of each graph; raise it, for "
                "nothing learns without links"
            )
        for name, width in self.vectors.items():
            if not name.isidentifier() or not 1 <= width <= 65536:
                raise InputError(
                    f"vectors need a name of letters and a width from 1 to 65,536; got {name!r} of width {width}"
                )

    @property
    def side(self) -> int:
        """Entities of one graph."""
        return self.entities // 2

    @property
    def shared(self) -> int:
        """Entities of both graphs, the first of the world."""
        return round(self.overlap * self.side)

    @property
    def world(self) -> int:
        """Entities of either graph or both: shared, then those of the left alone, then those of the right."""
        return 2 * self.side - self.shared


def generate(directory: str | os.PathLike[str], synthetic: Synthetic) -> dict[str, Any]:
    """Write a data set in the layout of DBP15K.

    Vectors are ``features_<modality>.npy`` [N, width], float16, rows of zeros where an entity has none.

    Args:
        directory: must not exist yet, or be empty; it appears whole or not at all.
        synthetic: what.

    Returns:
        What was asked for, and how many triples and links came of it.

    Raises:
        InputError: the directory is in use or cannot be written.
    """
    with new_directory(directory) as scratch:
        ids = _ids(synthetic)
        for number in (1, 2):
            _write_entities(scratch / f"ent_ids_{number}", ids[number - 1], _SIDES[number - 1])
        triples = _write_triples(scratch, synthetic, ids)
        if synthetic.attributes:
            _write_attributes(scratch, synthetic, ids)
        for place, (name, width) in enumerate(synthetic.vectors.items()):
            _write_vectors(scratch / f"features_{name}.npy", synthetic, ids, width, place)
        shared = np.arange(synthetic.shared)
        _write(scratch / "ill_ent_ids", ids[0][shared], ids[1][shared])
        told = {**asdict(synthetic), "triples": triples, "links": synthetic.shared}
        lines = [f"- {key}: {value}" for key, value in told.items()]
        text = "\n".join(["# A synthetic data set, made by loginmea-fast generate", "", *lines, ""])
        (scratch / "README.md").write_text(text, encoding="utf-8")
    return {**asdict(synthetic), "triples": triples, "links": synthetic.shared}


def _stream(synthetic: Synthetic, *place: int) -> np.random.Generator:
    """The random numbers of one chunk of one kind."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(synthetic.seed, spawn_key=place)))


def _ids(synthetic: Synthetic) -> tuple[np.ndarray, np.ndarray]:
    """The id in either graph of each entity of the world, -1 where it has none; int32 [W] both.

    Right ids are shuffled within runs, so that equal places say nothing and vectors are still written almost in order.
    """
    side, shared = synthetic.side, synthetic.shared
    left = np.full(synthetic.world, -1, np.int32)
    left[:side] = np.arange(side)
    place = np.arange(side, dtype=np.int32)
    for chunk, start in enumerate(range(0, side, _ENTITIES)):
        _stream(synthetic, 0, chunk).shuffle(place[start : start + _ENTITIES])
    right = np.full(synthetic.world, -1, np.int32)
    right[:shared] = side + place[:shared]
    right[side:] = side + place[shared:]
    return left, right


def _write_triples(directory: Path, synthetic: Synthetic, ids: tuple[np.ndarray, np.ndarray]) -> list[int]:
    """As many world triples as give each graph what was asked for; how many they are of each."""
    world, relations = synthetic.world, synthetic.relations
    total = round(
        synthetic.triples * synthetic.side * (world / synthetic.side) ** 2 / synthetic.kept,
    )
    draw = _stream(synthetic, 1)
    busy = draw.permutation(world).astype(np.int32)  # the entity of each rank
    own_relation = (np.arange(relations), relations + draw.permutation(relations))
    frequency = _zipf(relations)
    steep = (synthetic.exponent - 1) / (synthetic.exponent - 2)
    written = [0, 0]
    with (directory / "triples_1").open("wb") as left, (directory / "triples_2").open("wb") as right:
        for chunk, start in enumerate(range(0, total, _TRIPLES)):
            draw = _stream(synthetic, 2, chunk)
            count = min(_TRIPLES, total - start)
            head = busy[(world * draw.random(count) ** _HEADS).astype(np.int64)]
            tail = busy[(world * draw.random(count) ** steep).astype(np.int64)]
            relation = np.searchsorted(frequency, draw.random(count))
            for side, file in enumerate((left, right)):
                known = draw.random(count) < synthetic.kept
                h, t = ids[side][head], ids[side][tail]
                wrong = draw.random(count) < synthetic.noise
                others = draw.integers(0, synthetic.side, count, np.int32) + side * synthetic.side
                known &= (h >= 0) & (t >= 0)
                t = np.where(wrong, others, t)
                known &= h != t
                written[side] += int(known.sum())
                _append(file, h[known], own_relation[side][relation[known]], t[known])
    return written


def _write_attributes(directory: Path, synthetic: Synthetic, ids: tuple[np.ndarray, np.ndarray]) -> None:
    """Which attribute types an entity has, a line an entity that has any."""
    import pyarrow as pa
    import pyarrow.compute as pc

    frequency = _zipf(_ATTRIBUTES)
    right_types = _stream(synthetic, 3).permutation(_ATTRIBUTES)
    names = (
        [f"http://left.example/a{k}" for k in range(_ATTRIBUTES)],
        [f"http://right.example/a{k}" for k in right_types],
    )
    with (
        (directory / "training_attrs_1").open("wb") as left,
        (directory / "training_attrs_2").open("wb") as right,
    ):
        for draw, start, end in _chunks(synthetic, 4):
            counts = draw.poisson(synthetic.attributes / synthetic.kept, end - start)
            owner = np.repeat(np.arange(end - start), counts)
            kind = np.searchsorted(frequency, draw.random(len(owner)))
            for side, file in enumerate((left, right)):
                own = ids[side][start:end]
                known = (draw.random(len(owner)) < synthetic.kept) & (own[owner] >= 0)
                wrong = draw.random(len(owner)) < synthetic.noise
                seen = np.where(wrong, draw.integers(0, _ATTRIBUTES, len(owner)), kind)[known]
                degree = np.bincount(owner[known], minlength=end - start)
                texts = pa.array(names[side]).take(pa.array(seen))
                lists = pa.ListArray.from_arrays(pa.array(np.append(0, degree.cumsum()), pa.int32()), texts)
                some = pa.array(degree > 0)
                joined = pc.binary_join(lists, "\t").filter(some)
                _append(file, _uris(own, _SIDES[side]).filter(some), joined)


def _write_vectors(
    path: Path, synthetic: Synthetic, ids: tuple[np.ndarray, np.ndarray], width: int, place: int
) -> None:
    """A direction an entity of the world; either graph sees it blurred."""
    shape = (2 * synthetic.side, width)
    table = np.lib.format.open_memmap(path, "w+", np.float16, shape)
    for draw, start, end in _chunks(synthetic, 5, place):
        truth = draw.standard_normal((end - start, width), np.float32)
        for own in ids:
            blurred = truth + draw.standard_normal(truth.shape, np.float32)
            there = (own[start:end] >= 0) & (draw.random(end - start) < synthetic.present)
            table[own[start:end][there]] = blurred[there]
    table.flush()


def _chunks(synthetic: Synthetic, *kind: int) -> Iterator[tuple[np.random.Generator, int, int]]:
    """Random numbers, first and end of each run of the world's entities."""
    for chunk, start in enumerate(range(0, synthetic.world, _ENTITIES)):
        yield _stream(synthetic, *kind, chunk), start, min(start + _ENTITIES, synthetic.world)


def _zipf(count: int) -> np.ndarray:
    """Cumulated shares of 1, 1/2, 1/3 ..."""
    shares = 1 / np.arange(1, count + 1)
    total = shares.cumsum()
    cumulated: np.ndarray = total / total[-1]
    return cumulated


def _uris(ids: np.ndarray, side: str) -> Any:
    import pyarrow as pa
    import pyarrow.compute as pc

    return pc.binary_join_element_wise(f"http://{side}.example/e", pa.array(ids).cast(pa.string()), "")


def _write_entities(path: Path, ids: np.ndarray, side: str) -> None:
    own = np.sort(ids[ids >= 0])
    with path.open("wb") as file:
        for start in range(0, len(own), _TRIPLES):
            some = own[start : start + _TRIPLES]
            _append(file, some, _uris(some, side))


def _write(path: Path, *columns: np.ndarray) -> None:
    with path.open("wb") as file:
        _append(file, *columns)


def _append(file: BinaryIO, *columns: Any) -> None:
    """Lines of columns, arrays of NumPy or Arrow, tabs between them."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if not len(columns[0]):
        return
    texts = [pa.array(column).cast(pa.string()) for column in columns]
    lines = pc.binary_join_element_wise(*texts, "\t")
    whole = pc.binary_join(pa.ListArray.from_arrays([0, len(lines)], lines), "\n")
    file.write(whole[0].as_buffer())
    file.write(b"\n")
