"""Tables with a caption per row: csv, tsv, jsonl, parquet, and other sources with columns."""

import csv
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from clipgeom._extras import needs_extra
from clipgeom.captions.json_text import JsonFault, parse_json
from clipgeom.captions.lines import checked_image_id, checked_text, decoded_lines, open_binary, usable_id
from clipgeom.captions.stream import Caption
from clipgeom.errors import CaptionError, ConfigError

__all__ = ["CsvTable", "JsonLines", "ParquetTable", "Table", "TableCaptions"]

DEFAULT_COLUMNS = ("caption", "text")
DEFAULT_IMAGE_COLUMN = "image_id"
_BATCH = 8192  # rows of parquet in memory at a time


class Table(Protocol):
    """Rows with named columns, which can be read from the beginning any number of times."""

    @property
    def description(self) -> str:
        """Name the table, for error messages and provenance."""

    def names(self) -> Sequence[str]:
        """Read only the names of the columns."""

    def values(self, columns: Sequence[str], /) -> Iterator[tuple[object, ...]]:
        """Read the values in `columns`, in that order, of every row. An empty line is a row of empty texts."""


@dataclass(frozen=True, slots=True)
class TableCaptions:
    """The captions of a table; created by `of`, which chooses the columns."""

    table: Table
    column: str
    image_column: str | None
    image_column_named: bool = False  # by the user: then ids must be usable

    @classmethod
    def of(cls, table: Table, *, column: str | None, image_column: str | None) -> "TableCaptions":
        """Choose the columns: the named ones, else ``caption`` or ``text``, and ``image_id`` if it exists.

        Raises
        ------
        ConfigError
            There is no such column; the message names those that are there.
        """
        names = list(table.names())
        if not names:
            raise CaptionError(f"{table.description} holds no captions: it is empty.")
        if column is None:
            column = next((name for name in DEFAULT_COLUMNS if name in names), None)
            if column is None:
                raise ConfigError(
                    f"{table.description} has neither a column 'caption' nor 'text'; choose one with --column: "
                    f"{_quoted(names)}."
                )
        named = image_column is not None
        if image_column is None and DEFAULT_IMAGE_COLUMN in names:
            image_column = DEFAULT_IMAGE_COLUMN
        for wanted in filter(None, (column, image_column)):
            if wanted not in names:
                raise ConfigError(f"{table.description} has no column {wanted!r}; its columns: {_quoted(names)}.")
            if names.count(wanted) > 1:
                raise ConfigError(f"{table.description} has several columns {wanted!r}; rename all but one.")
        return cls(table, column, image_column, named)

    @property
    def description(self) -> str:
        """The table and its caption column."""
        return f"{self.table.description} (column {self.column})"

    def rows(self) -> Generator[Caption, None, None]:
        """Read the captions; their ids are the numbers of the rows, from 1, a header not counted."""
        columns = [self.column] if self.image_column is None else [self.column, self.image_column]
        for number, values in enumerate(self.table.values(columns), 1):
            where = f"{self.table.description}, row {number}"
            text = checked_text(values[0], f"{where}, column {self.column}")
            image = None
            if self.image_column_named:
                image = checked_image_id(values[1], f"{where}, column {self.image_column}")
            elif self.image_column is not None:
                image = usable_id(values[1])
            yield Caption(str(number), text, image)


@dataclass(frozen=True, slots=True)
class CsvTable:
    """Comma or tab separated values with a header line, UTF-8, quoted as spreadsheets do (RFC 4180)."""

    path: Path
    delimiter: str

    @property
    def description(self) -> str:
        """The path."""
        return str(self.path)

    def names(self) -> Sequence[str]:
        """Read the header."""
        return next(self._records(), [])

    def values(self, columns: Sequence[str], /) -> Iterator[tuple[object, ...]]:
        """Read the rows after the header."""
        records = self._records()
        header = next(records)
        places = [header.index(name) for name in columns]
        for number, record in enumerate(records, 1):
            if not record:
                yield ("",) * len(columns)
                continue
            if len(record) != len(header):
                raise CaptionError(
                    f"{self.path}, row {number}: found {len(record)} values under {len(header)} column names; a value "
                    "that holds the separator must be put in double quotes."
                )
            yield tuple(record[place] for place in places)

    def _records(self) -> Iterator[list[str]]:
        with open_binary(self.path) as file:
            reader = csv.reader(decoded_lines(file, self.description), delimiter=self.delimiter, strict=True)
            try:
                yield from reader
            except csv.Error as error:
                raise CaptionError(
                    f"{self.path}, line {reader.line_num}: {error}; a value that begins with a double quote must end "
                    "with one, and quotes inside it are doubled."
                ) from error


@dataclass(frozen=True, slots=True)
class JsonLines:
    """A JSON object a line. The columns are the keys of the first object."""

    path: Path

    @property
    def description(self) -> str:
        """The path."""
        return str(self.path)

    def names(self) -> Sequence[str]:
        """Read the keys of the first object."""
        return next((list(item) for item in self._objects() if item is not None), [])

    def values(self, columns: Sequence[str], /) -> Iterator[tuple[object, ...]]:
        """Read the objects, a row each; the first column is required, the others may be missing."""
        caption, *others = columns
        for number, item in enumerate(self._objects(), 1):
            if item is None:
                yield ("",) * len(columns)
                continue
            if caption not in item:
                raise CaptionError(f"{self.path}, line {number}: no {caption!r}, only {_quoted(item)}.")
            yield item[caption], *map(item.get, others)

    def _objects(self) -> Iterator[dict[str, object] | None]:
        with open_binary(self.path) as file:
            for number, line in enumerate(decoded_lines(file, self.description), 1):
                if not line.strip():
                    yield None
                    continue
                try:
                    item = parse_json(line)
                except JsonFault as fault:
                    raise CaptionError(f"{self.path}, line {number} is not valid JSON: {fault}.") from fault
                if not isinstance(item, dict):
                    raise CaptionError(
                        f'{self.path}, line {number}: expected a JSON object such as {{"caption": "…"}}, '
                        f"found {type(item).__name__}."
                    )
                yield item


@dataclass(frozen=True, slots=True)
class ParquetTable:
    """A parquet file, of which only the columns in use are read, some thousand rows at a time."""

    path: Path

    @property
    def description(self) -> str:
        """The path."""
        return str(self.path)

    def names(self) -> Sequence[str]:
        """Read the schema."""
        with self._opened() as file:
            return list(file.schema_arrow.names)

    def values(self, columns: Sequence[str], /) -> Iterator[tuple[object, ...]]:
        """Read the rows."""
        done = 0
        with self._opened() as file:
            for batch in file.iter_batches(batch_size=_BATCH, columns=list(columns)):
                try:
                    lists = [batch.column(name).to_pylist() for name in columns]
                except UnicodeDecodeError as error:
                    row = done + 1 + _undecodable(batch, columns)
                    raise CaptionError(f"{self.path}, row {row}: a text is not UTF-8 ({error.reason}).") from error
                done += len(batch)
                yield from zip(*lists, strict=True)

    @contextmanager
    def _opened(self) -> Iterator[Any]:
        with needs_extra("report", "reading parquet"):
            import pyarrow
            import pyarrow.parquet
        try:
            with pyarrow.parquet.ParquetFile(self.path) as file:
                yield file
        except (pyarrow.ArrowException, OSError) as error:
            raise CaptionError(
                f"{self.path} cannot be read as parquet: {str(error).splitlines()[0].rstrip('.')}."
            ) from error


def _undecodable(batch: Any, columns: Sequence[str]) -> int:
    """Find the first row with a text that is not UTF-8."""
    for index in range(len(batch)):
        try:
            for name in columns:
                batch.column(name)[index].as_py()
        except UnicodeDecodeError:
            return index
    return 0


def _quoted(names: Iterable[str]) -> str:
    return ", ".join(map(repr, names))
