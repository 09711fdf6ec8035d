"""Alignments as files: TSV, CSV, Parquet, SSSOM, owl:sameAs and the Alignment API's RDF, each whole or not at all."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from loginmea_fast.errors import ConfigError, DataError

__all__ = [
    "FORMATS",
    "check_directory",
    "check_format",
    "safe_text",
    "write_directory",
    "write_matches",
]

Columns = Mapping[str, list[Any]]

# A table's cell may not end its line or its column, nor hide what follows it.
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069\\]")
_NAMED = {"\\": r"\\", "\t": r"\t", "\n": r"\n", "\r": r"\r"}
_FORMULA = re.compile(r"'*[=+\-@]")
_NUMBER = re.compile(r"[+-]?\d+([.,]\d+)*([eE][+-]?\d+)?")


def safe_text(text: str) -> str:
    r"""Text that no reader of tables and no spreadsheet takes for anything else.

    Control characters, line separators and marks that turn the direction of writing are escaped (``\n``, ``\u202e``),
    as is the backslash; what a spreadsheet would calculate (a leading ``=``, ``+``, ``-`` or ``@``, but for plain
    numbers) gets an apostrophe in front. `plain_text` of `reading` undoes both.
    """
    if _CONTROL.search(text):
        text = _CONTROL.sub(lambda found: _NAMED.get(found[0], f"\\u{ord(found[0]):04x}"), text)
    if _FORMULA.match(text) and not _NUMBER.fullmatch(text):
        text = f"'{text}"
    return text


def write_matches(
    columns: Columns, report: Mapping[str, Any], path: str | os.PathLike[str], format: str | None = None
) -> None:
    """Write matches into one file; see `Alignment.write`."""
    path = Path(path)
    if format is None:
        found = [name for name, entry in FORMATS.items() if path.name.lower().endswith(entry[0])]
        if not found:
            raise ConfigError(
                f"{path.name} does not say its format; give one of {', '.join(FORMATS)}, or a name that ends in "
                f"{', '.join(suffix for suffix, _ in FORMATS.values())}"
            )
        format = found[0]
    check_format(format)
    content = FORMATS[format][1](columns, report)
    scratch: str | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, scratch = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.chmod(scratch, 0o644)
        os.replace(scratch, path)
    except OSError as error:
        raise DataError(f"{path} cannot be written ({error.strerror or error})") from None
    finally:
        if scratch is not None and os.path.exists(scratch):
            os.unlink(scratch)


def write_directory(
    columns: Columns,
    tables: Mapping[str, Columns],
    report: Mapping[str, Any],
    directory: str | os.PathLike[str],
    format: str = "tsv",
    overwrite: bool = False,
) -> None:
    """Write matches, further tables by their names, and a report; see `Alignment.save`."""
    check_format(format)
    target = Path(directory)
    check_directory(target, overwrite)
    files = {f"alignment{FORMATS[format][0]}": FORMATS[format][1](columns, report)}
    files |= {f"{name}.tsv": _tsv(table, report) for name, table in tables.items()}
    files["report.json"] = (json.dumps(report, indent=2, allow_nan=False) + "\n").encode()
    scratch: Path | None = None
    try:
        target.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=".alignment-", dir=target))
        for name, content in files.items():
            (scratch / name).write_bytes(content)
        for old in _files_of_alignment(target):
            if old.name not in files:
                old.unlink()
        for name in files:
            (scratch / name).replace(target / name)
    except OSError as error:
        raise DataError(f"{target} cannot be written ({error.strerror or error})") from None
    finally:
        if scratch is not None:
            shutil.rmtree(scratch, ignore_errors=True)


def check_directory(directory: str | os.PathLike[str], overwrite: bool = False) -> None:
    """Raise `ConfigError` where `write_directory` would; asked before anything is computed.

    Raises:
        ConfigError: no directory, or one that holds an alignment that may not be replaced.
    """
    target = Path(directory)
    if target.exists() and not target.is_dir():
        raise ConfigError(f"{target} is no directory; choose another for the alignment")
    if target.is_dir() and not overwrite and (there := _files_of_alignment(target)):
        raise ConfigError(
            f"{target} holds another alignment ({there[0].name}); choose another directory, or replace it with "
            "--overwrite (overwrite=True)"
        )
    above = next(place for place in (target, *target.absolute().parents) if place.exists())
    if not os.access(above, os.W_OK | os.X_OK):
        raise ConfigError(
            f"cannot write the alignment into {target}: {above} may not be written to; choose another"
        )


def check_format(format: str) -> None:
    """Raise `ConfigError` unless `format` is one that alignments are written in."""
    if format not in FORMATS:
        raise ConfigError(f"format must be one of {', '.join(FORMATS)}; got {format!r}")


def _files_of_alignment(directory: Path) -> list[Path]:
    names = {f"alignment{suffix}" for suffix, _ in FORMATS.values()}
    names |= {"candidates.tsv", "unmatched.tsv", "report.json"}
    return sorted(path for path in directory.iterdir() if path.name in names)


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return f"{value:.6g}" if math.isfinite(value) else ""
    return safe_text(value) if isinstance(value, str) else str(value)


def _tsv(columns: Columns, _: Mapping[str, Any]) -> bytes:
    # Nothing needs a quote: neither tab nor line end is left in a cell.
    rows = zip(*columns.values(), strict=True)
    lines = ["\t".join(columns), *("\t".join(map(_cell, row)) for row in rows)]
    return "".join(f"{line}\n" for line in lines).encode("utf-8", "surrogatepass")


def _csv(columns: Columns, _: Mapping[str, Any]) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(map(_cell, row) for row in zip(*columns.values(), strict=True))
    return text.getvalue().encode("utf-8", "surrogatepass")


def _parquet(columns: Columns, report: Mapping[str, Any]) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    buffer = io.BytesIO()
    facts = {"loginmea_fast": json.dumps(report, allow_nan=False)}
    pq.write_table(pa.table(dict(columns)).replace_schema_metadata(facts), buffer)
    return buffer.getvalue()


FORMATS: dict[str, tuple[str, Callable[[Columns, Mapping[str, Any]], bytes]]] = {
    "tsv": (".tsv", _tsv),
    "csv": (".csv", _csv),
    "parquet": (".parquet", _parquet),
}
