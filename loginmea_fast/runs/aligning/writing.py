"""Matches as files: one by itself, or a directory with all that an alignment says; whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from loginmea_fast.errors import ConfigError, DataError
from loginmea_fast.files import write_whole
from loginmea_fast.runs.aligning.formats import FORMATS, Columns, check_format

_ENTITIES = "entities.parquet"
_REPORT = (
    "report.json"  # what makes a directory an alignment: the last file that is written, the first that goes
)
_SCRATCH = ".alignment-"

__all__ = ["check_directory", "write_directory", "write_matches"]


def write_matches(
    columns: Columns, report: Mapping[str, Any], path: str | os.PathLike[str], format: str | None = None
) -> None:
    """Write matches into one file; see `Alignment.write`."""
    path = Path(path)
    if format is None:
        name = path.name.lower()
        found = [key for key, (suffix, _) in FORMATS.items() if name.endswith(suffix)]
        if not found:
            raise ConfigError(
                f"{path.name} does not say its format; give one of {', '.join(FORMATS)}, or a name that ends in "
                f"{', '.join(suffix for suffix, _ in FORMATS.values())}"
            )
        format = max(found, key=lambda key: len(FORMATS[key][0]))
    check_format(format)
    content = FORMATS[format][1](columns, report)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, content)
    except OSError as error:
        raise DataError(f"{path} cannot be written ({error.strerror or error})") from None


def write_directory(
    columns: Columns,
    tables: Mapping[str, Columns],
    report: Mapping[str, Any],
    entities: Columns,
    directory: str | os.PathLike[str],
    formats: Sequence[str] = ("tsv",),
    overwrite: bool = False,
) -> None:
    """Write matches, further tables by their names, a report, and what is told of entities; see `Alignment.save`."""
    for format in formats:
        check_format(format)
    target = Path(directory)
    check_directory(target, overwrite)
    files = {f"alignment{FORMATS[format][0]}": FORMATS[format][1](columns, report) for format in formats}
    files |= {f"{name}.tsv": FORMATS["tsv"][1](table, report) for name, table in tables.items()}
    files[_ENTITIES] = FORMATS["parquet"][1](entities, report)
    files[_REPORT] = (json.dumps(report, indent=2, allow_nan=False) + "\n").encode()
    scratch: Path | None = None
    try:
        target.mkdir(parents=True, exist_ok=True)
        left_behind = _left_behind(target)
        scratch = Path(tempfile.mkdtemp(prefix=_SCRATCH, dir=target))
        for name, content in files.items():
            write_whole(scratch / name, content)
        (target / _REPORT).unlink(missing_ok=True)
        for old in _files_of_alignment(target):
            if old.name not in files:
                old.unlink()
        for name in files:
            (scratch / name).replace(target / name)
        for killed in left_behind:
            shutil.rmtree(killed, ignore_errors=True)
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
    unfinished = target.is_dir() and not (target / _REPORT).exists() and _left_behind(target)
    if target.is_dir() and not (overwrite or unfinished) and (there := _files_of_alignment(target)):
        raise ConfigError(
            f"{target} holds another alignment ({there[0].name}); choose another directory, or replace it with "
            "--overwrite (overwrite=True)"
        )
    above = next(place for place in (target, *target.absolute().parents) if place.exists())
    if not os.access(above, os.W_OK | os.X_OK):
        raise ConfigError(
            f"cannot write the alignment into {target}: {above} may not be written to; choose another"
        )


def _left_behind(directory: Path) -> list[Path]:
    """Where files were put together by writes that were killed."""
    return list(directory.glob(f"{_SCRATCH}*"))


def _files_of_alignment(directory: Path) -> list[Path]:
    names = {f"alignment{suffix}" for suffix, _ in FORMATS.values()}
    names |= {"rejected.tsv", "candidates.tsv", "unmatched.tsv", _REPORT, _ENTITIES}
    names.add("report.html")  # the page of the alignment that was there, which would show former matches
    return sorted(path for path in directory.iterdir() if path.name in names)
