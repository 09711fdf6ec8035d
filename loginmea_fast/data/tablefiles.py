"""CSV, TSV and Parquet through pyarrow, a batch of rows at a time: which columns there are, and the labels in them."""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loginmea_fast.data.badlines import BadLines
from loginmea_fast.data.encodings import not_utf8
from loginmea_fast.data.textfile import Utf8Stream, opened, shorten
from loginmea_fast.errors import DataError

__all__ = ["TABLE_SUFFIXES", "TableFile", "guarded", "open_table", "unguarded"]

TABLE_SUFFIXES = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".tab": "tsv",
    ".txt": "tsv",
    ".parquet": "parquet",
    ".pq": "parquet",
}
_DELIMITERS = ",;|\t"
_BLOCK = 1 << 26  # bytes of CSV at once, and with it the longest row
_ROWS = 1 << 16
_HEAD = 1 << 16
# Spreadsheets take a cell that begins so for a formula; a quote before it keeps it text.
_FORMULA = re.compile(r"['=+\-@\t\r\n\uff1d\uff0b\uff0d\uff20]")
_NUMBER = re.compile(r"[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?")
_QUOTED = re.compile(r'"((?:[^"]|"")*)"')


def guarded(cell: str) -> str:
    """A cell as it is written, so that no spreadsheet runs it: a quote is put before what could begin a formula."""
    if not _FORMULA.match(cell) or _NUMBER.fullmatch(cell):
        return cell
    return "'" + cell if cell[0] != "'" or _FORMULA.match(cell, 1) else cell


def unguarded(cell: str) -> str:
    """A cell as it was before :func:`guarded`."""
    return (
        cell[1:] if cell[:1] == "'" and _FORMULA.match(cell, 1) and not _NUMBER.fullmatch(cell[1:]) else cell
    )


@dataclass
class TableFile:
    """A table in a file.

    Attributes:
        path: the file.
        format: "csv", "tsv" or "parquet".
        names: cells of the first row, which are the names of the columns if it is a header; of Parquet in any case.
        width: how many columns there are.
        delimiter: between the cells of a text file.
        quoted: whether cells of a text file may be in quotes, and then hold line breaks.
    """

    path: Path
    format: str
    names: list[str]
    width: int
    delimiter: str = ""
    quoted: bool = False

    def batches(self, header: bool, bad: BadLines) -> Iterator[list[list[Any]]]:
        """The rows, a batch of columns at a time.

        Args:
            header: whether the first row is one.
            bad: gets rows of another number of cells.

        Raises:
            DataError: an encoding that is not UTF-8, or a file that is damaged.
        """
        if self.format == "parquet":
            yield from _parquet(self.path)
        else:
            yield from self._text(header, bad)

    def _text(self, header: bool, bad: BadLines) -> Iterator[list[list[Any]]]:
        import pyarrow as pa
        from pyarrow import csv as arrow_csv

        def invalid(row: Any) -> str:
            kind = f"{row.actual_columns} cells instead of {row.expected_columns}"
            bad.add(self.path, row.number or 0, kind, row.text)
            return "skip"

        names = [str(position) for position in range(self.width)]
        quote = '"' if self.quoted else False
        with opened(self.path, "rows of cells") as stream:
            stream.skip_blank_lines()
            source: Any = pa.PythonFile(_Checked(self.path, stream), mode="r")
            try:
                reader = arrow_csv.open_csv(
                    source,
                    arrow_csv.ReadOptions(
                        use_threads=False,
                        block_size=_BLOCK,
                        column_names=names,
                        skip_rows_after_names=int(header),
                    ),
                    arrow_csv.ParseOptions(
                        delimiter=self.delimiter,
                        quote_char=quote,
                        double_quote=True,
                        newlines_in_values=bool(quote),
                        invalid_row_handler=invalid,
                    ),
                    arrow_csv.ConvertOptions(
                        column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=False
                    ),
                )
                for batch in reader:
                    for start in range(0, batch.num_rows, _ROWS):
                        part = batch.slice(start, _ROWS)
                        columns = [column.to_pylist() for column in part.columns]
                        if not quote:
                            columns = [_unquoted(column) for column in columns]
                        yield [
                            [unguarded(cell) if cell[:1] == "'" else cell for cell in own] for own in columns
                        ]
            except pa.ArrowInvalid as error:
                raise DataError(_refusal(self.path, str(error))) from None


def open_table(path: Path, format: str) -> TableFile:
    """A table, of which as much was read as tells its columns.

    Raises:
        DataError: missing or empty, or no table.
    """
    if format == "parquet":
        schema = _parquet_file(path).schema_arrow
        return TableFile(path, format, list(schema.names), len(schema.names))
    with opened(path, "rows of cells") as stream:
        stream.skip_blank_lines()
        head = stream.peek(_HEAD)
    if not head.strip():
        raise DataError(f"{path} is empty, it should hold rows of cells; fetch or write the file again")
    text = head.decode("utf-8", "replace")
    if format == "tsv":
        row = text.split("\n", 1)[0].rstrip("\r")
        names = row.split("\t")
        if not all(name[:1] == name[-1:] == '"' for name in names):
            return TableFile(path, format, [unguarded(name) for name in _unquoted(names)], len(names), "\t")
        delimiter = "\t"
    else:
        delimiter = max(_DELIMITERS, key=lambda mark: (_cells(text, mark), -_DELIMITERS.index(mark)))
    names = next(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter), [])
    return TableFile(path, format, [unguarded(name) for name in names], len(names), delimiter, quoted=True)


class _Checked:
    """A stream of text whose bytes are UTF-8, or a DataError that names the line: what reads tables knows none."""

    closed = False

    def __init__(self, path: Path, stream: Utf8Stream) -> None:
        self._path, self._stream, self._line = path, stream, 1
        self._decoder = codecs.getincrementaldecoder("utf-8")()

    def readable(self) -> bool:
        """What readers ask."""
        return True

    def read(self, size: int = -1) -> bytes:
        """See :class:`~loginmea_fast.data.textfile.Utf8Stream`."""
        data = self._stream.read(size)
        try:
            self._decoder.decode(data, final=not data)
        except UnicodeDecodeError as error:
            good = error.object[: error.start]
            line = self._line + good.count(b"\n")
            raw = error.object[good.rfind(b"\n") + 1 :].split(b"\n", 1)[0]
            text = error.object[: error.object.rfind(b"\n") + 1] or raw
            raise DataError(
                f"{self._path}, line {line}: not valid UTF-8; {not_utf8(text, raw, self._path.name)}"
            ) from None
        self._line += data.count(b"\n")
        return data


def _cells(text: str, delimiter: str) -> int:
    """How many cells the first row has if split at this mark."""
    try:
        return len(next(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter), []))
    except csv.Error:
        return 1


def _unquoted(cells: list[str]) -> list[str]:
    """Cells of TSV, whose quotes are those of an RDF literal as a rule: they go where quotes inside were doubled."""
    return [
        match[1].replace('""', '"')
        if cell[:1] == '"' and '""' in cell and (match := _QUOTED.fullmatch(cell))
        else cell
        for cell in cells
    ]


def _parquet_file(path: Path) -> Any:
    import pyarrow as pa
    from pyarrow import parquet

    try:
        return parquet.ParquetFile(path)
    except FileNotFoundError:
        raise DataError(f"{path} is missing; put it there or name another file") from None
    except (pa.ArrowException, OSError, ValueError) as error:  # also text in it that is not UTF-8
        raise DataError(
            f"{path} is no readable Parquet file ({shorten(str(error), 100)}); write it again"
        ) from None


def _parquet(path: Path) -> Iterator[list[list[Any]]]:
    import pyarrow as pa

    try:
        for batch in _parquet_file(path).iter_batches(_ROWS):
            yield [column.to_pylist() for column in batch.columns]
    except (pa.ArrowException, OSError, ValueError) as error:  # also text in it that is not UTF-8
        raise DataError(
            f"{path} is a damaged Parquet file ({shorten(str(error), 100)}); write it again"
        ) from None


def _refusal(path: Path, message: str) -> str:
    if "straddling" in message:
        return (
            f"{path} has a row of more than {_BLOCK:,} bytes, or a quote that is never closed; correct it, or write "
            "Parquet"
        )
    return f"{path} cannot be read as a table ({shorten(message, 160)[1:-1]}); correct it"
