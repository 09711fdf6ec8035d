"""Numbers and dates among the values of attributes, as a modality.

Two graphs seldom name an attribute alike and seldom write its values alike (FB15K has decimal years, DB15K ISO dates),
so a value speaks by itself: tokens of what it is to several precisions, the same for both graphs, weighted by rarity.
Known links tell more: attributes whose values agree on them mean the same, and all others stay apart.
"""

from __future__ import annotations

import math
import os
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from loginmea_fast.data.attributes import literal_datatype, literal_text
from loginmea_fast.data.bags import csr_matrix, rows_with_entries
from loginmea_fast.data.directory import DataDirectory
from loginmea_fast.data.identifiers import Listed, Respelled, by_identifier
from loginmea_fast.data.tables import Entities, Feature, ValueTable
from loginmea_fast.data.textfile import read_fields, shorten
from loginmea_fast.errors import DataError

__all__ = ["holds_numbers", "made_of_values", "read_values", "value_feature"]

_DESCRIPTION = "numbers and dates of "

# Relative widths of the buckets. Between two cells a value is shared, so that neighbours match in part.
_SCALES = (0.1, 0.01, 0.001, 0.0001)

_AGREES = 5e-4  # relative: a year in 2,000, so that a date agrees with its year

_NUMBER = re.compile(r"^[+-]?(?:\d+(?:,\d{3})+|\d+)?(?:\.\d*)?(?:[eE][+-]?\d+)?$")
_QUANTITY = re.compile(r"^([+-]?[\d.,]+(?:[eE][+-]?\d+)?)\s*([^\W\d_][\w/^²³]{0,4}|%)$")
_DATE = re.compile(r"^([+-]?\d{4,})-(\d\d)(?:-(\d\d))?(?:[T ].*|Z|[+-]\d\d:\d\d)?$")
_ZONE = re.compile(r"(?:Z|[+-]\d\d:\d\d)$")
_MOSTLY = 0.5  # of the values of an attribute are numbers, or it is a text: a film may well be called "1984"
_NO_MONTH = int(np.iinfo(np.int64).min)  # of what is no date; years before 0 have negative months
_LONGEST = 100  # characters of a number or a date; what is longer is a text
_NO_UNITS = (
    "http://www.w3.org/",
    "xsd:",
    "rdf:",
)  # types of XML Schema and RDF say how a value is written, others what it counts
_NO_NUMBERS = {"nan", "inf", "infinity", "+inf", "-inf", "+infinity", "-infinity"}


def read_values(directory: str | os.PathLike[str], pair: Entities) -> ValueTable:
    """Reads ``attr_triples_1/2`` (uri TAB attribute TAB value) of a directory.

    Args:
        directory: holds at least one of the two files.
        pair: whose entities they speak of, by uri, each file of its graph.

    Returns:
        All values of known entities.

    Raises:
        DataError: neither file is there, or one is malformed; names the file and the line.
    """
    files = DataDirectory(Path(directory))
    paths = [files.find(f"attr_triples_{graph}") for graph in (1, 2)]
    if paths == [None, None]:
        raise DataError(
            f"{directory} has no attr_triples_1 or attr_triples_2, whose values the modality 'value' is made of; "
            "leave it out or put the files there"
        )
    owners: list[int] = []
    kinds: list[int] = []
    texts: list[str] = []
    known: dict[str, int] = {}
    unknown, first_unknown = 0, ""
    for path, entities in zip(paths, (pair.left_entities, pair.right_entities), strict=True):
        if path is None:
            continue
        own = entities.tolist()
        ids = by_identifier([pair.uris[entity] for entity in own], own)
        listed = Listed(ids, "the list of entities", Respelled())
        meant: dict[str, int] = {}
        for _, (uri, kind, *rest) in read_fields(path, 2, None, "entity, attribute, value"):
            if uri not in meant:
                meant[uri] = int(listed.match([uri], path.name)[0])
            entity = meant[uri]
            if entity < 0:
                unknown += 1
                first_unknown = first_unknown or uri
                continue
            owners.append(entity)
            kinds.append(known.setdefault(kind, len(known)))
            texts.append("\t".join(rest))
    return ValueTable(
        torch.tensor(owners, dtype=torch.int64),
        torch.tensor(kinds, dtype=torch.int64),
        texts,
        list(known),
        unknown,
        first_unknown,
    )


@dataclass
class _Parsed:
    """What the values of a table turned out to be, position by position, and what was odd about them."""

    number: np.ndarray  # [V] float64, the decimal year of a date; NaN where there is none
    month: np.ndarray  # [V] int64, 12 year + month - 1 of a date, _NO_MONTH where there is none
    day: np.ndarray  # [V] int64, of the month, 0 where there is none
    no_numbers: int = 0
    by_chance: int = 0
    not_finite: int = 0
    units: dict[int, Counter[str]] | None = None


def value_feature(
    table: ValueTable, num_entities: int, links: Tensor | None = None
) -> tuple[Feature, tuple[str, ...]]:
    """Bag of what an entity's numbers and dates are.

    Every number gives a token of itself to six digits and, at each of four relative precisions from a tenth to a
    ten-thousandth, a share of the two nearest cells of a grid over log(1 + |x|), as far as it is from the other: close
    numbers match in part, the closer the more. A date is its decimal year, and gives tokens of its year, its month
    and its day besides. A token weighs log(N / entities that have it). Rows keep their lengths: who says more is
    known better.

    An attribute whose values are decimal years (twelfths of a year between 1000 and 2100, some not whole) is read as
    dates. Units are read past: values of one attribute in different units stay as they stand.

    Args:
        table: values of attributes.
        num_entities: N.
        links: int64 [L, 2], known pairs of entities, or None. With them tokens are told apart by what attributes
            mean: two whose values agree (to 1 in 2,000) on at least three links, and on three in ten of the pairs of
            values that the links bring together, mean the same; attributes without such a partner share a class.
            Training links only: a feature made of test links would know the answers.

    Returns:
        A sparse CSR feature [N, tokens that two entities or more have] of float32, and notes on values that are no
        numbers, not finite, or in mixed units, each with its count.

    Raises:
        DataError: no value is a number or a date.
    """
    parsed = _parse(table)
    if np.isnan(parsed.number).all():
        example = f", the first is {shorten(table.texts[0])}" if table.texts else ""
        raise DataError(
            f"none of {len(table.texts):,} attribute values is a number or a date{example}; leave the modality "
            "'value' out"
        )
    meaning = np.zeros(len(table.kinds), dtype=np.int64)
    if links is not None:
        meaning = _meanings(table, parsed.number, links)
    rows, tokens, shares = _tokens(table.entity.numpy(), meaning[table.kind.numpy()], parsed)
    # A token counts once an entity, with its largest share.
    order = np.lexsort((-shares, tokens, rows))
    rows, tokens, shares = rows[order], tokens[order], shares[order]
    first = np.ones(len(rows), dtype=bool)
    first[1:] = (rows[1:] != rows[:-1]) | (tokens[1:] != tokens[:-1])
    rows, tokens, shares = rows[first], tokens[first], shares[first]
    having = np.bincount(tokens)
    keep = having[tokens] > 1  # what a single entity has matches nothing
    column = np.cumsum(having > 1) - 1
    width = max(int((having > 1).sum()), 1)
    weights = shares * np.log(num_entities / having[tokens])
    values = csr_matrix(rows[keep], column[tokens[keep]], weights[keep], (num_entities, width))
    description = f"{_DESCRIPTION}{len(table.kinds):,} attributes to several precisions, by rarity"
    return Feature(values, rows_with_entries(values), description), _notes(table, parsed)


def made_of_values(feature: Feature) -> bool:
    """Whether `value_feature` made it, and not a file of vectors or a hand."""
    return feature.description.startswith(_DESCRIPTION)


def _meanings(table: ValueTable, number: np.ndarray, links: Tensor) -> np.ndarray:
    """Class of every attribute, 0 for those without a partner: components of the attributes that agree on links."""
    own: dict[int, list[int]] = {}
    for position in np.flatnonzero(~np.isnan(number)).tolist():
        own.setdefault(int(table.entity[position]), []).append(position)
    kind = table.kind.numpy()
    met: Counter[tuple[int, int]] = Counter()
    agreed: Counter[tuple[int, int]] = Counter()
    for left, right in links.tolist():
        for a in own.get(left, ()):
            for b in own.get(right, ()):
                pair = int(kind[a]), int(kind[b])
                met[pair] += 1
                agreed[pair] += bool(abs(number[a] - number[b]) <= _AGREES * abs(number[a]))
    pairs = [pair for pair, count in agreed.items() if count >= 3 and count >= 0.3 * met[pair]]
    if not pairs:
        return np.zeros(len(table.kinds), dtype=np.int64)
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    left_kinds, right_kinds = np.array(pairs).T
    size = len(table.kinds)
    _, component = connected_components(
        coo_matrix((np.ones(len(pairs)), (left_kinds, right_kinds)), (size, size)), directed=False
    )
    paired = np.zeros(size, dtype=bool)
    paired[left_kinds] = paired[right_kinds] = True
    return np.where(paired, component + 1, 0).astype(np.int64)


def _parse(table: ValueTable) -> _Parsed:
    count = len(table.texts)
    parsed = _Parsed(
        np.full(count, np.nan), np.full(count, _NO_MONTH), np.zeros(count, dtype=np.int64), units={}
    )
    assert parsed.units is not None
    for position, (text, kind) in enumerate(zip(table.texts, table.kind.tolist(), strict=True)):
        value = _read(text)
        if value is None:
            parsed.no_numbers += 1
        elif not math.isfinite(value.number):
            parsed.not_finite += 1
        else:
            parsed.number[position] = value.number
            parsed.month[position], parsed.day[position] = value.month, value.day
            if value.month == _NO_MONTH:
                parsed.units.setdefault(kind, Counter())[value.unit] += 1
    there = ~np.isnan(parsed.number)
    by_chance = there & ~_mostly_numbers(table, there)[table.kind.numpy()]
    parsed.number[by_chance], parsed.month[by_chance] = np.nan, _NO_MONTH
    parsed.by_chance = int(by_chance.sum())
    for kind in set(table.kind.numpy()[by_chance].tolist()):
        parsed.units.pop(kind, None)
    _decimal_years(table.kind.numpy(), parsed)
    return parsed


def _mostly_numbers(table: ValueTable, there: np.ndarray) -> np.ndarray:
    """Bool [K], attributes most of whose values are numbers or dates, given which values are, bool [V]."""
    said, numbers = (
        np.bincount(table.kind.numpy()[chosen], minlength=len(table.kinds)) for chosen in (slice(None), there)
    )
    return (numbers > 0) & (numbers >= _MOSTLY * said)


class _Value(NamedTuple):
    """A number or a date: its decimal year, 12 year + month - 1 or _NO_MONTH, its day or 0; the unit of a number."""

    number: float
    month: int = _NO_MONTH
    day: int = 0
    unit: str = ""


def _read(text: str) -> _Value | None:
    """What a value is; None if neither number nor date. The type of an RDF literal may be its unit."""
    bare = literal_text(text)
    if len(bare) > _LONGEST:
        return None
    if date := _DATE.match(bare):
        year, month, day = int(date[1]), int(date[2]), int(date[3] or 0)
        if 1 <= month <= 12 and day <= 31 and abs(year) < 10**6:
            return _Value(year + (month - 1) / 12, 12 * year + month - 1, day)
    datatype = literal_datatype(text)
    if datatype.endswith(("#gYear", "xsd:gYear")):
        bare = _ZONE.sub("", bare)
    if (number := _number(bare)) is not None:
        unit = "" if datatype.startswith(_NO_UNITS) else re.split("[/#:]", datatype)[-1]
        return _Value(number, unit=unit)
    if (quantity := _QUANTITY.match(bare)) and (number := _number(quantity[1])) is not None:
        return _Value(number, unit=quantity[2])
    return None


def holds_numbers(table: ValueTable) -> bool:
    """Whether any attribute is mostly numbers or dates, which the modality ``value`` could be made of."""
    there = np.array(
        [(value := _read(text)) is not None and math.isfinite(value.number) for text in table.texts],
        dtype=bool,
    )
    return bool(_mostly_numbers(table, there).any())


def _number(text: str) -> float | None:
    if text.lower() in _NO_NUMBERS:
        return math.inf
    if not _NUMBER.match(text) or not any(character.isdigit() for character in text):
        return None
    return float(text.replace(",", ""))


def _decimal_years(kind: np.ndarray, parsed: _Parsed) -> None:
    """Months of attributes whose numbers are twelfths of a year."""
    is_number = (parsed.month == _NO_MONTH) & ~np.isnan(parsed.number)
    number = np.where(is_number & (np.abs(parsed.number) < 1e6), parsed.number, 0.5)
    twelfths = np.rint(number * 12)
    near = np.abs(number * 12 - twelfths) < 1e-4
    whole = near & (twelfths % 12 == 0)

    def count(condition: np.ndarray) -> np.ndarray:
        return np.bincount(kind[is_number & condition], minlength=int(kind.max()) + 1)

    numbers = count(np.ones(len(kind), dtype=bool))
    recent = count((number >= 1000) & (number < 2100))
    dates = (recent >= 0.9 * numbers) & (count(near) >= 0.98 * numbers) & (count(~whole) >= 0.05 * numbers)
    chosen = is_number & near & (dates & (numbers > 0))[kind]
    parsed.month[chosen] = twelfths[chosen].astype(np.int64)


def _tokens(
    entity: np.ndarray, meaning: np.ndarray, parsed: _Parsed
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Entity, token and share of every token of every value; tokens numbered from 0 over all sorts."""
    here = np.flatnonzero(~np.isnan(parsed.number))
    number, month = parsed.number[here], parsed.month[here]
    dated = month != _NO_MONTH
    # To the year where a date is known, so that "1982" and "1982-05" share a token.
    exact = np.where(dated, np.floor(month / 12), number)
    sorts: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = [(here, _six_digits(exact), np.ones(len(here)))]
    sorts.append((here[dated], month[dated].astype(np.float64), np.ones(int(dated.sum()))))
    days = dated & (parsed.day[here] > 0)
    sorts.append((here[days], 32.0 * month[days] + parsed.day[here][days], np.ones(int(days.sum()))))
    for scale in _SCALES:
        place = np.sign(number) * np.log1p(np.abs(number)) / math.log1p(scale)
        cell = np.floor(place)
        beyond = place - cell
        cells, parts = np.concatenate([cell, cell + 1]), np.concatenate([1 - beyond, beyond])
        sorts.append((np.concatenate([here, here]), cells, parts))
    rows, tokens, shares, total = [], [], [], 0
    for position, key, share in sorts:
        keep = share > 1e-6
        labelled = np.stack([meaning[position[keep]].astype(np.float64), key[keep]])
        distinct, number_of = np.unique(labelled, axis=1, return_inverse=True)
        rows.append(entity[position[keep]])
        tokens.append(number_of.reshape(-1) + total)
        shares.append(share[keep])
        total += distinct.shape[1]
    return np.concatenate(rows), np.concatenate(tokens), np.concatenate(shares)


def _six_digits(number: np.ndarray) -> np.ndarray:
    magnitude = 10.0 ** (5 - np.floor(np.log10(np.maximum(np.abs(number), 1e-300))))
    with np.errstate(over="ignore", invalid="ignore"):
        rounded = np.rint(number * magnitude) / magnitude
    return np.where(np.isfinite(rounded), rounded, number) + 0.0


def _notes(table: ValueTable, parsed: _Parsed) -> tuple[str, ...]:
    total = len(table.texts)
    notes = []
    if table.unknown:
        notes.append(
            f"{table.unknown:,} attribute values are those of entities outside the lists and are left out (first: "
            f"{shorten(table.first_unknown)})"
        )
    if parsed.no_numbers:
        notes.append(
            f"{parsed.no_numbers:,} of {total:,} attribute values are neither number nor date; the modality 'value' "
            "leaves them out"
        )
    if parsed.by_chance:
        notes.append(
            f"{parsed.by_chance:,} of {total:,} attribute values are numbers or dates of attributes that are mostly "
            "text and are left out"
        )
    if parsed.not_finite:
        notes.append(
            f"{parsed.not_finite:,} of {total:,} attribute values are infinite or NaN and are left out"
        )
    mixed = [
        (table.kinds[kind], units) for kind, units in sorted((parsed.units or {}).items()) if len(units) > 1
    ]
    if mixed:
        name, units = mixed[0]
        written = ", ".join(f"{unit or 'none'} {count:,}" for unit, count in units.most_common(4))
        notes.append(
            f"{len(mixed):,} attributes have values in mixed units, the first is {shorten(name)} ({written}); numbers "
            "are compared as they stand"
        )
    return tuple(notes)
