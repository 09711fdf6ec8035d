"""Which columns of a table are head, relation and tail, and the labels in them, from whatever holds the table."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

import numpy as np

from loginmea_fast.data.textfile import shorten, some_of
from loginmea_fast.errors import DataError

__all__ = [
    "ATTRIBUTES",
    "ENTITIES",
    "IDS",
    "LINKS",
    "TRIPLES",
    "Columns",
    "Roles",
    "as_columns",
    "choose_columns",
    "find_columns",
    "is_missing",
    "to_labels",
]

Columns = Sequence[str | int]


@dataclass(frozen=True)
class Roles:
    """What the columns of a kind of table mean.

    Attributes:
        names: one word a column, for messages.
        known: one set a column: what people call it, in lower case.
    """

    names: tuple[str, ...]
    known: tuple[frozenset[str], ...]

    @classmethod
    def of(cls, **known: str) -> Roles:
        """Roles from words: ``of(head="head h subject", ...)``."""
        return cls(tuple(known), tuple(frozenset(words.split()) for words in known.values()))


TRIPLES = Roles.of(
    head="head h subject subj s source src from start start_id head_id head_entity subject_id node1",
    relation="relation rel r predicate pred p property edge type relationship edge_type relation_type predicate_id",
    tail="tail t object obj o target tgt dst to end end_id tail_id tail_entity object_id node2",
)
ATTRIBUTES = Roles.of(
    entity="entity e uri iri id node head h subject subj s entity_id",
    attribute="attribute attr a key property predicate pred p relation r attribute_type name_of_attribute",
    value="value v val literal object obj o tail t text",
)
LINKS = Roles.of(
    left="left l left_entity entity1 entity_1 e1 ent1 uri1 uri_1 id1 id_1 kg1 graph1 source src subject subject_id "
    "head from ltable_id left_id left_uri a",
    right="right r right_entity entity2 entity_2 e2 ent2 uri2 uri_2 id2 id_2 kg2 graph2 target tgt object object_id "
    "tail to rtable_id right_id right_uri b",
)
IDS = Roles.of(entity="entity entity_id id uri iri")
ENTITIES = Roles.of(entity="entity entities e uri iri id node entity_id label name")


def choose_columns(
    names: Sequence[str], roles: Roles, asked: Columns | None, what: str
) -> tuple[list[int], str | None]:
    """Positions of the columns that have the roles.

    By name where the table's names say all roles, else the first ones in order.

    Args:
        names: names of the table's columns.
        roles: what is looked for.
        asked: names or positions that were given, one a role; None guesses.
        what: the table, for messages.

    Returns:
        One position a role, and a note that says how a guess came about; None where there was nothing to guess.

    Raises:
        DataError: a column that was asked for is not there, or there are too few.
    """
    count = len(roles.names)
    shown = some_of(map(shorten, names), 8)
    if asked is not None:
        if isinstance(asked, str) or len(asked) != count:
            raise DataError(
                f"columns must be {count} names or positions, {', '.join(roles.names)}, not {asked!r}; "
                f"{what} has {shown}"
            )
        return [_position(names, column, what, shown) for column in asked], None
    if len(names) < count:
        raise DataError(
            f"{what} has {len(names)} columns ({shown}); {count} are needed: {', '.join(roles.names)}"
        )
    if (found := find_columns(names, roles)) is not None:
        chosen = ", ".join(
            f"{role} is {shorten(names[at])}" for role, at in zip(roles.names, found, strict=True)
        )
        exact = len(names) == count and [names[at] for at in found] == list(roles.names)
        return found, None if exact else f"{what}: {chosen}"
    return list(range(count)), (
        f"{what}: the columns {shown} do not say which is what, so the first {count} are {', '.join(roles.names)}; "
        "columns=... says otherwise"
    )


def find_columns(names: Sequence[str], roles: Roles) -> list[int] | None:
    """Positions of the columns whose names say that they have the roles; None where a role has none."""
    plain = [re.sub(r"[^a-z0-9]+", "_", name.strip().lower()).strip("_") for name in names]
    found: list[int] = []
    for known in roles.known:
        position = next((at for at, name in enumerate(plain) if name in known and at not in found), None)
        if position is None:
            return None
        found.append(position)
    return found


def _position(names: Sequence[str], column: str | int, what: str, shown: str) -> int:
    if isinstance(column, str) and column in names:
        return list(names).index(column)
    if isinstance(column, int) and not isinstance(column, bool) and -len(names) <= column < len(names):
        return column % len(names)
    raise DataError(f"{what} has no column {column!r}; there are {shown}, counted from 0")


def as_columns(
    table: Any, roles: Roles, columns: Columns | None, what: str, notes: list[str]
) -> list[list[str]]:
    """Labels of a table, a list a role.

    Args:
        table: a pandas, polars or pyarrow table, a mapping from names to columns, an array or tensor [n, roles] or with
            named fields, or rows: tuples or lists, one item a role.
        roles: what is looked for.
        columns: names or positions where they are not to be guessed.
        what: the table, for messages.
        notes: gets a sentence on what was guessed or left out.

    Returns:
        As many lists as there are roles, equally long. Numbers become their decimal spelling. Rows without a value
        (NaN, None) are left out, with a note, where the last role is "value".

    Raises:
        DataError: something that is none of these, rows of another length, or a label that is missing or empty.
    """
    names, parts = _raw_columns(table, roles, what)
    if names is None:
        if columns is not None:
            names = [str(position) for position in range(len(parts))]
        elif len(parts) != len(roles.names):
            raise DataError(
                f"{what} has rows of {len(parts)} items; {len(roles.names)} are needed: {', '.join(roles.names)}"
            )
    if names is not None:
        chosen, note = choose_columns(names, roles, columns, what)
        notes += [note] if note else []
        parts = [parts[position] for position in chosen]
    labels = [_listed(part) for part in parts]
    if roles.names[-1] == "value":
        labels = _without_missing(labels, what, notes)
    return [
        to_labels(part, f"{what}, {{}}: the {role}", role == "value")
        for part, role in zip(labels, roles.names, strict=True)
    ]


def _raw_columns(table: Any, roles: Roles, what: str) -> tuple[list[str] | None, list[Any]]:
    """Names and columns; no names where there are none to go by."""
    kind = type(table).__module__.partition(".")[0]
    if kind == "pandas" and hasattr(table, "columns"):
        parts = [table.iloc[:, position] for position in range(table.shape[1])]
        return _names(table.columns), parts
    if kind == "polars" and hasattr(table, "collect_schema"):
        frame = table.collect() if hasattr(table, "collect") else table
        return list(frame.columns), frame.get_columns()
    if kind == "pyarrow" and hasattr(table, "column_names"):
        return list(table.column_names), list(table.columns)
    if isinstance(table, Mapping):
        return list(map(str, table)), list(table.values())
    if kind == "torch" and hasattr(table, "numpy"):
        table = table.detach().cpu().numpy()
    if isinstance(table, np.ndarray):
        if table.dtype.names is not None:
            return list(table.dtype.names), [table[name] for name in table.dtype.names]
        if table.size == 0:
            return None, [[] for _ in roles.names]
        if table.ndim == 1 and table.dtype.hasobject and len(roles.names) > 1:
            return _raw_columns(list(table), roles, what)
        if table.ndim == 1 and len(roles.names) == 1:
            return None, [table]
        if table.ndim != 2:
            raise DataError(
                f"{what} is an array of shape {list(table.shape)}; expected [n, {len(roles.names)}]: "
                f"{', '.join(roles.names)}"
            )
        return None, list(table.T)
    if isinstance(table, str | bytes) or not isinstance(table, Iterable):
        hint = (
            "; a file is read by loginmea_fast.data.read_graph or read_seeds"
            if isinstance(table, str)
            else ""
        )
        raise DataError(
            f"{what} is {shorten(str(table))}, a {type(table).__name__}; expected rows of "
            f"{', '.join(roles.names)}, or a table of them{hint}"
        )
    if len(roles.names) == 1:
        return None, [list(table)]
    return None, _rows(table, roles, what)


def _names(labels: Iterable[Any]) -> list[str] | None:
    """Names of a frame's columns; a frame that was given none numbers them."""
    names = list(labels)
    return None if names == list(range(len(names))) else list(map(str, names))


def _rows(table: Iterable[Any], roles: Roles, what: str) -> list[Any]:
    rows = list(table)
    width = len(roles.names)
    if not rows:
        return [[] for _ in roles.names]
    for position, row in enumerate(rows):
        if isinstance(row, str | bytes) or not hasattr(row, "__len__") or len(row) != width:
            raise DataError(
                f"{what}, row {position}: expected {width} items ({', '.join(roles.names)}), found "
                f"{shorten(str(row))}; correct or delete the row"
            )
    return [list(column) for column in zip(*rows, strict=True)]


def _listed(column: Any) -> list[Any]:
    """A column as Python values; missing ones are None or NaN."""
    if isinstance(column, list):
        return column
    for method in ("to_pylist", "to_list", "tolist"):
        if hasattr(column, method):
            return list(getattr(column, method)())
    return list(column)


def is_missing(value: Any) -> bool:
    """Whether a value of a table is None, NaN, or what pandas has for them."""
    nan = isinstance(value, float | np.floating) and value != value
    return value is None or nan or type(value).__name__ in ("NAType", "NaTType")


def _without_missing(parts: list[list[Any]], what: str, notes: list[str]) -> list[list[Any]]:
    values = parts[-1]
    if all(type(value) is str for value in values):
        return parts
    gone = [position for position, value in enumerate(values) if is_missing(value)]
    if not gone:
        return parts
    notes.append(
        f"{what}: {len(gone):,} of {len(values):,} rows have no value and are left out (first: row {gone[0]})"
    )
    keep = [not is_missing(value) for value in values]
    return [[item for item, kept in zip(part, keep, strict=True) if kept] for part in parts]


def to_labels(values: list[Any], where: str, may_be_empty: bool) -> list[str]:
    """Labels of a column; numbers become their decimal spelling.

    Args:
        values: the column.
        where: what it is, for messages; "{}" becomes the row.
        may_be_empty: whether "" will do.

    Raises:
        DataError: a label is missing, empty or no valid text.
    """
    if any(type(value) is not str for value in values):
        values = [_label(value, position, where) for position, value in enumerate(values)]
    if not may_be_empty and not all(values):
        place = where.format(f"row {values.index('')}")
        raise DataError(f"{place} is empty; give it a label or delete the row")
    try:
        "\n".join(values).encode()
    except UnicodeEncodeError:
        wrong = next(at for at, value in enumerate(values) if not _encodable(value))
        raise DataError(
            f"{where.format(f'row {wrong}')}, {ascii(values[wrong])[:80]}, is no valid text (half of a UTF-16 pair); "
            "decode it anew"
        ) from None
    return values


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _label(value: Any, position: int, where: str) -> str:
    if isinstance(value, str):
        return str(value)
    where = where.format(f"row {position}")
    if is_missing(value):
        raise DataError(f"{where} is missing ({value}); give it a label or delete the row")
    if isinstance(value, bytes):
        try:
            return value.decode("utf-8")
        except UnicodeDecodeError:
            raise DataError(f"{where}, {value[:60]!r}, is not UTF-8; decode it first") from None
    if isinstance(value, bool | np.bool_):
        return str(bool(value)).lower()
    if isinstance(value, float | np.floating) and float(value).is_integer() and abs(float(value)) < 2**53:
        return str(int(value))  # a column of whole numbers with a gap is one of floats in pandas
    if isinstance(value, datetime | date):
        return value.isoformat()
    return str(value)
