"""Vectors in Parquet: a column that says whose they are, and a column of lists, or one a number."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from loginmea_fast.data.textfile import shorten, some_of
from loginmea_fast.errors import DataError

__all__ = ["parquet_arrays"]

_KEYS = ("ids", "id", "uris", "uri", "iri", "entity", "entities", "key", "keys", "name", "names", "label")


def parquet_arrays(path: Path) -> dict[str, Any]:
    """The arrays of a Parquet file of vectors, as another file would hold them.

    Returns:
        ``features`` [n, d], with ``keys`` [n] of strings or ``ids`` [n] of integers where a column says whose the rows
        are. Rows without a vector are left out.

    Raises:
        DataError: no numbers, lists of different lengths, or several columns of lists; goes on from the file's name.
    """
    import pyarrow as pa
    from pyarrow import parquet

    table = parquet.read_table(path)
    kinds = {field.name: field.type for field in table.schema}

    def is_list(kind: Any) -> bool:
        return bool(
            pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
        )

    texts = [
        name for name, kind in kinds.items() if pa.types.is_string(kind) or pa.types.is_large_string(kind)
    ]
    named = [name for name in _KEYS if name in kinds and (name in texts or pa.types.is_integer(kinds[name]))]
    key = next(iter([*named, *texts]), None)
    lists = [name for name, kind in kinds.items() if is_list(kind)]
    numbers = [
        name
        for name, kind in kinds.items()
        if name != key and (pa.types.is_floating(kind) or pa.types.is_integer(kind))
    ]
    if len(lists) > 1 or not (lists or numbers):
        raise DataError(
            f"has the columns {some_of(map(shorten, kinds), 8)}; expected one of keys and one of lists of numbers, or "
            "one of keys and the others numbers"
        )
    if lists:
        column = table.column(lists[0]).combine_chunks()
        there = np.flatnonzero(column.is_valid().to_numpy(zero_copy_only=False))
        column = column.take(pa.array(there))
        lengths = np.unique(column.value_lengths().to_numpy())
        if len(lengths) > 1:
            raise DataError(f"has lists of {lengths[0]} and of {lengths[-1]} numbers; all need as many")
        flat = column.flatten().to_numpy(zero_copy_only=False)
        features = flat.reshape(len(there), -1)
    else:
        there = np.arange(table.num_rows)
        features = np.stack([table.column(name).to_numpy() for name in numbers], 1)
    if key is None:
        return {"features": features}
    keys = table.column(key).take(pa.array(there))
    return {
        "features": features,
        "keys" if key in texts else "ids": np.array(
            keys.to_pylist(), dtype=object if key in texts else np.int64
        ),
    }
