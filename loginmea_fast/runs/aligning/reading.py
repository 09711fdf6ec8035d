"""Matches and links read back from files: tables with or without a header, Parquet, SSSOM, RDF."""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from loginmea_fast.data.badlines import BadLines
from loginmea_fast.data.identifiers import plain_spelling
from loginmea_fast.data.rdf import RDF_SUFFIXES, read_rdf_pairs
from loginmea_fast.data.textfile import read_bytes, shorten
from loginmea_fast.errors import DataError
from loginmea_fast.runs.aligning.formats import FORMATS, plain_text

__all__ = ["MatchFile", "read_matches", "spelt_alike"]

# Names of the two columns, in the order in which a file is looked through for them.
_COLUMNS = (
    ("left", "right"),
    ("subject_id", "object_id"),
    ("source", "target"),
    ("entity1", "entity2"),
    ("head", "tail"),
)
_SAME_AS = re.compile(r"<([^>]*)>\s*<http://www\.w3\.org/2002/07/owl#sameAs>\s*<([^>]*)>\s*\.\s*(?:#.*)?")
_FORM = "left, right[, confidence]"


@dataclass(frozen=True)
class MatchFile:
    """Pairs of identifiers as a file has them.

    Attributes:
        pairs: (left, right), each once, in the order of the file.
        confidence: of each, where the file has a column of this name.
    """

    pairs: list[tuple[str, str]]
    confidence: list[float] | None


def read_matches(path: str | os.PathLike[str]) -> MatchFile:
    """Read pairs from a table (TSV or CSV, with a header or without), Parquet, SSSOM, or RDF.

    RDF says owl:sameAs or skos:exactMatch, or holds cells of the Alignment API.

    Args:
        path: the file, or a directory that `Alignment.save` wrote one into.

    Raises:
        DataError: no such file, no pair in it, or a line that is none; names it.
    """
    path = Path(path)
    if path.is_dir():
        path = _inside(path)
    name = path.name.lower()
    if name.endswith(".parquet"):
        return _from_columns(path, *_parquet_columns(path))
    if path.suffix.lower() in RDF_SUFFIXES and not name.endswith(".nt"):
        left, right, measures, _ = read_rdf_pairs(path, RDF_SUFFIXES[path.suffix.lower()], BadLines())
        sure = (_sure(f"{path}, cell {number}", cell) for number, cell in enumerate(measures, start=1))
        return _joined(path, zip(left, right, sure, strict=True))
    text = read_bytes(path, _FORM).decode("utf-8", "replace").removeprefix("\ufeff")
    if name.endswith(".nt"):
        return _joined(path, _same_as(path, text))
    lines = text.replace("\r\n", "\n").split("\n")
    head = [line for line in lines if line.startswith("#")] if ".sssom." in name else []
    prefixes = dict(_prefixes(head))
    first = next((line for line in lines[len(head) :] if line.strip()), "")
    separator = "," if name.endswith(".csv") or ("\t" not in first and "," in first) else "\t"
    rows = csv.reader(lines[len(head) :], delimiter=separator)
    return _joined(path, _rows(path, rows, prefixes, len(head)))


def spelt_alike(found: MatchFile, links: MatchFile) -> MatchFile:
    """The matches with their identifiers as the links spell them, where these differ by no more than the writing.

    Formats do not spell identifiers alike: RDF has `urn:x-left:Graz` for Graz, SSSOM percent escapes for é.
    """
    sides = []
    for side in (0, 1):
        listed = {pair[side] for pair in links.pairs}
        of: dict[str, str | None] = {}
        for label in listed:
            plain = plain_spelling(label)
            of[plain] = None if plain in of else label
        sides.append(
            [
                pair[side] if pair[side] in listed else of.get(plain_spelling(pair[side])) or pair[side]
                for pair in found.pairs
            ]
        )
    return MatchFile(list(zip(sides[0], sides[1], strict=True)), found.confidence)


def _inside(directory: Path) -> Path:
    """The matches in the directory of an alignment, tables first, which say the most."""
    own = (directory / f"alignment{suffix}" for suffix, _ in FORMATS.values())
    found = next((path for path in own if path.is_file()), None)
    if found is None:
        raise DataError(f"{directory} holds no alignment; name a file of {_FORM}, or the --out of align")
    return found


def _rows(
    path: Path, rows: Iterator[list[str]], prefixes: Mapping[str, str], skipped: int
) -> Iterator[tuple[str, str, float | None]]:
    places: tuple[int, int, int | None] | None = None
    text_of: Callable[[str], str] = str
    for number, row in enumerate(rows, start=skipped + 1):
        if not any(cell.strip() for cell in row):
            continue
        if places is None:
            names = [cell.strip().lower() for cell in row]
            places = _places(names)
            if places is not None:
                # A table of this package, where control characters are escaped; in another a backslash is one.
                text_of = plain_text if "margin" in names else str
                continue
            places = (0, 1, None)
        if len(row) <= max(places[:2]):
            raise DataError(
                f"{path}, line {number}: expected {_FORM}, by tabs or commas; got {shorten(' '.join(row))}"
            )
        left, right = (_whole(text_of(row[place]), prefixes) for place in places[:2])
        sure = None
        if places[2] is not None:
            cell = row[places[2]] if places[2] < len(row) else ""
            sure = _sure(f"{path}, line {number}", cell or "nothing")
        yield left, right, sure


def _sure(where: str, cell: str) -> float | None:
    """A confidence as a file writes it; None where it says nothing of it."""
    if not cell:
        return None
    try:
        sure = float(cell)
    except ValueError:
        sure = float("nan")
    if not 0 <= sure <= 1:
        raise DataError(
            f"{where}: a confidence is a number from 0 to 1; got {cell!r}: correct it, or leave all of them out"
        )
    return sure


def _places(names: list[str]) -> tuple[int, int, int | None] | None:
    """Where a header has left, right and confidence; None where the row is no header."""
    sure = names.index("confidence") if "confidence" in names else None
    for left, right in _COLUMNS:
        if left in names and right in names:
            return names.index(left), names.index(right), sure
    return None


def _prefixes(head: list[str]) -> Iterator[tuple[str, str]]:
    """The CURIE prefixes among the metadata of SSSOM."""
    inside = False
    for line in head:
        text = line.removeprefix("#")
        if not text.startswith((" ", "\t")):
            inside = text.strip() == "curie_map:"
        elif inside:
            prefix, _, space = text.strip().partition(":")
            yield prefix, space.strip().strip("\"'")


def _whole(text: str, prefixes: Mapping[str, str]) -> str:
    prefix, colon, local = text.partition(":")
    return prefixes[prefix] + local if colon and prefix in prefixes else text


def _same_as(path: Path, text: str) -> Iterator[tuple[str, str, None]]:
    for number, line in enumerate(text.split("\n"), start=1):
        bare = line.strip()
        if not bare or bare.startswith("#"):
            continue
        found = _SAME_AS.fullmatch(bare)
        if not found:
            raise DataError(
                f"{path}, line {number}: expected <left> owl:sameAs <right> .; got {shorten(bare)}"
            )
        yield found[1], found[2], None


def _parquet_columns(path: Path) -> tuple[list[str], list[str], list[float] | None]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
        table.validate(full=True)  # text that is not UTF-8 among it
    except (OSError, ValueError, pa.ArrowException) as error:
        raise DataError(f"{path} cannot be read as Parquet ({shorten(str(error))})") from None
    places = _places([name.lower() for name in table.column_names])
    if places is None:
        raise DataError(f"{path} has no columns left and right; it has {', '.join(table.column_names)}")
    left, right = (list(map(str, table.column(place).to_pylist())) for place in places[:2])
    return left, right, None if places[2] is None else table.column(places[2]).to_pylist()


def _from_columns(path: Path, left: list[str], right: list[str], sure: list[float] | None) -> MatchFile:
    confidence: list[float | None] = [None] * len(left) if sure is None else list(sure)
    return _joined(path, zip(left, right, confidence, strict=True))


def _joined(path: Path, rows: Iterator[tuple[str, str, float | None]]) -> MatchFile:
    found: dict[tuple[str, str], float | None] = {}
    for left, right, sure in rows:
        found.setdefault((left, right), sure)
    if not found:
        raise DataError(f"{path} holds no pair; expected {_FORM} a line")
    values = list(found.values())
    known = [value for value in values if value is not None]
    return MatchFile(list(found), known if len(known) == len(values) else None)
