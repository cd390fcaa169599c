"""Tables in Arrow's memory and in files, which are read in pieces: parquet, CSV and JSON lines."""

from __future__ import annotations

import csv
import gzip
import sys
import zlib
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import pandas
from pydantic_core import from_json

from agentkit.errors import UserError
from agentkit.map.plain_values import pandas_list, plain_list
from agentkit.map.table import SIZE, Table, Wanted, import_pyarrow, unique_names

SUFFIXES = (".parquet", ".csv", ".csv.gz", ".jsonl")


def names_file(rows: str) -> bool:
    """Return whether `--rows` names a file; else it is an expression."""
    return rows.endswith(SUFFIXES)


def open_file(path: Path, name: str) -> Table:
    """Return the table in the file at `path`; UserError says what is wrong with it, and where."""
    path = path.expanduser()
    suffix = next((suffix for suffix in SUFFIXES if path.name.lower().endswith(suffix)), None)
    if suffix is None:
        raise UserError(
            f"{name} {str(path)[:80]!r} ends in none of {', '.join(SUFFIXES)}: give such a file, or read it yourself "
            "and give the frame"
        )
    if path.is_dir():
        raise UserError(f"{name} {path} is a folder: give one file, or pandas.read_parquet({str(path)!r})")
    try:
        path.stat()
    except OSError as error:
        raise UserError(f"{name} {path} cannot be read: {error.strerror} (in {Path.cwd()})") from error
    kinds: dict[str, type[_FileTable]] = {".parquet": _ParquetTable, ".jsonl": _JsonLinesTable}
    return kinds.get(suffix, _CsvTable)(name, path)


class ArrowTable(Table):
    """A table of Arrow, or what says that it can be one. What is read once only is read at once."""

    def __init__(self, name: str, rows: Any) -> None:
        super().__init__(name)
        pyarrow = import_pyarrow()
        if not isinstance(rows, pyarrow.Table):
            read = getattr(rows, "to_arrow", None)
            rows = pyarrow.table(rows) if read is None or hasattr(rows, "__arrow_c_stream__") else read()
        self._table = rows
        self.columns = unique_names(rows.column_names, name)
        self.length = rows.num_rows

    def _read(
        self, size: int, wanted: Wanted, names: Sequence[str]
    ) -> Iterator[tuple[int, int, Mapping[str, Sequence[Any]], Sequence[Any]]]:
        for start in range(0, self.length, size):
            stop = min(start + size, self.length)
            if wanted(start, stop):
                yield start, stop - start, _arrow_cells(self._table.slice(start, size), names, self.name), ()


def _arrow_cells(batch: Any, names: Sequence[str], table: str) -> dict[str, list[Any]]:
    return {name: _arrow_list(batch.column(name), f"column {name} of {table}") for name in names}


def _arrow_list(column: Any, where: str) -> list[Any]:
    if str(column.type) in ("float", "halffloat"):
        return pandas_list(column.to_numpy(zero_copy_only=False), where)
    return plain_list(column.to_pylist(), where)


class _FileTable(Table):
    path: Path

    def __init__(self, name: str, path: Path) -> None:
        super().__init__(name)
        self.path = path
        self._opened = self._identity()
        self._survey()
        self.check_unchanged()

    @abstractmethod
    def _survey(self) -> None:
        """Read what is needed to know columns, length and index, and whether every row can be read."""

    def _identity(self) -> tuple[int, int, int] | None:
        try:
            found = self.path.stat()
        except FileNotFoundError:
            return None
        return found.st_size, found.st_mtime_ns, found.st_ino

    def check_unchanged(self) -> None:
        now = self._identity()
        if now is None:
            raise UserError(f"{self.name}: {self.path} is no longer there: put it back, or map over another file")
        if now != self._opened:
            raise UserError(f"{self.name}: {self.path} has changed since it was opened: map over it again")


class _ParquetTable(_FileTable):
    def _survey(self) -> None:
        with self._file() as file:
            schema = file.schema_arrow
            self.length = file.metadata.num_rows
            names = unique_names(schema.names, self.name)
            self._index, kept = self._read_index(file, schema.pandas_metadata or {})
        self.columns = tuple(name for name in names if name not in kept)

    @contextmanager
    def _file(self) -> Iterator[Any]:
        pyarrow = import_pyarrow()
        import pyarrow.parquet as parquet

        try:
            # A buffered stream: without it the columns of a whole row group stand in memory.
            with parquet.ParquetFile(self.path, pre_buffer=False, buffer_size=1 << 20) as file:
                yield file
        except (pyarrow.ArrowException, OSError) as error:
            raise UserError(f"{self.name}: {self.path} cannot be read as parquet: {_first_line(error)}") from error

    def _read_index(self, file: Any, described: Mapping[str, Any]) -> tuple[pandas.Index, set[str]]:
        """The index that pandas wrote, and the columns that are kept for it."""
        levels = described.get("index_columns") or []
        if len(levels) == 1 and isinstance(levels[0], dict) and levels[0].get("kind") == "range":
            said = levels[0]
            index = pandas.RangeIndex(said["start"], said["stop"], said["step"], name=said.get("name"))
            return (index if len(index) == self.length else pandas.RangeIndex(self.length)), set()
        names = [level for level in levels if isinstance(level, str)]
        if not names:
            return pandas.RangeIndex(self.length), set()
        return file.read(columns=names).to_pandas().index, set(names)

    @property
    def index(self) -> pandas.Index:
        return self._index

    def _read(
        self, size: int, wanted: Wanted, names: Sequence[str]
    ) -> Iterator[tuple[int, int, Mapping[str, Sequence[Any]], Sequence[Any]]]:
        with self._file() as file:
            stop = 0
            for group in range(file.metadata.num_row_groups):
                start, stop = stop, stop + file.metadata.row_group(group).num_rows
                if not wanted(start, stop):
                    continue
                # A batch of no columns says nothing of its rows.
                read = list(names) or list(self.columns[:1])
                for batch in file.iter_batches(batch_size=size, row_groups=[group], columns=read, use_threads=False):
                    if wanted(start, start + batch.num_rows):
                        yield start, batch.num_rows, _arrow_cells(batch, names, self.name), ()
                    start += batch.num_rows


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


class _CsvTable(_FileTable):
    """Cells are text as it is written: `007` stays, and so does the country `NA`."""

    def _survey(self) -> None:
        with self._records(SIZE) as pieces:
            header = next(pieces, None)
            if header is None:
                raise UserError(f"{self.name}: {self.path} is empty: its first line must name the columns")
            [names] = header
            if len(names) == 1 and any(sign in names[0] for sign in ";\t|"):
                raise UserError(
                    f"{self.name}: the first line of {self.path} has no comma: read it with "
                    f"pandas.read_csv({str(self.path)!r}, sep=…) and give the frame"
                )
            self.columns = unique_names(names, self.name)
            self.length = sum(map(len, pieces))

    @contextmanager
    def _records(self, size: int) -> Iterator[Iterator[list[list[str]]]]:
        opening = gzip.open if self.path.suffix.lower() == ".gz" else open
        with opening(self.path, "rb") as file:
            yield self._parse(file, size)

    def _parse(self, file: Iterable[bytes], size: int) -> Iterator[list[list[str]]]:
        """Yield the header alone, then the rows in pieces; lines that are blank are left out."""
        reader = csv.reader(self._lines(file), strict=True)
        width = 0
        while True:
            most = size if width else 1
            # A cell may be longer than the reader's limit, which is one for the process: raised only while we read.
            limit = csv.field_size_limit(sys.maxsize)
            records: list[list[str]] = []
            try:
                while len(records) < most and (record := next(reader, None)) is not None:
                    if not record:
                        continue
                    width = width or len(record)
                    if len(record) != width:
                        self._check_width(record, width, reader.line_num)
                        record += [""] * (width - len(record))
                    records.append(record)
            except csv.Error as error:
                raise UserError(f"{self.name}: line {reader.line_num} of {self.path}: {error}") from error
            except (OSError, EOFError, zlib.error) as error:
                raise UserError(f"{self.name}: {self.path} cannot be read: {_first_line(error)}") from error
            finally:
                csv.field_size_limit(limit)
            if not records:
                return
            yield records

    def _check_width(self, record: Sequence[str], width: int, line: int) -> None:
        if len(record) > width:
            raise UserError(
                f"{self.name}: line {line} of {self.path} has {len(record)} cells, and the first line names {width} "
                "columns: put a cell that holds a comma in quotes"
            )

    def _lines(self, file: Iterable[bytes]) -> Iterator[str]:
        for number, line in enumerate(file, start=1):
            try:
                yield line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise UserError(
                    f"{self.name}: line {number} of {self.path} is not UTF-8 (byte 0x{line[error.start]:02x}): save it "
                    f"as UTF-8, or read it with pandas.read_csv({str(self.path)!r}, encoding=…) and give the frame"
                ) from error

    def _read(
        self, size: int, wanted: Wanted, names: Sequence[str]
    ) -> Iterator[tuple[int, int, Mapping[str, Sequence[Any]], Sequence[Any]]]:
        places = [(name, place) for place, name in enumerate(self.columns) if name in names]
        start = 0
        with self._records(size) as pieces:
            for records in islice(pieces, 1, None):
                if not wanted(start, self.length):
                    return
                if wanted(start, start + len(records)):
                    cells = list(zip(*records, strict=True))
                    yield start, len(records), {name: cells[place] for name, place in places}, ()
                start += len(records)


class _JsonLinesTable(_FileTable):
    """A mapping a line; a key that a line does not have is missing there."""

    def _survey(self) -> None:
        columns: dict[str, None] = {}
        for record in self._records():
            columns.update(dict.fromkeys(record))
            self.length += 1
        self.columns = tuple(columns)

    def _records(self) -> Iterator[dict[str, Any]]:
        try:
            with self.path.open("rb") as file:
                for number, line in enumerate(file, start=1):
                    if line.strip():
                        yield self._parse(line, number)
        except OSError as error:
            raise UserError(f"{self.name}: {self.path} cannot be read: {_first_line(error)}") from error

    def _parse(self, line: bytes, number: int) -> dict[str, Any]:
        where = f"{self.name}: line {number} of {self.path}"
        try:
            record = from_json(line)
        except ValueError as error:
            raise UserError(f"{where} is not JSON: {_first_line(error)}") from error
        if not isinstance(record, dict):
            raise UserError(f"{where} is no JSON object: every line must name its values")
        return record

    def _read(
        self, size: int, wanted: Wanted, names: Sequence[str]
    ) -> Iterator[tuple[int, int, Mapping[str, Sequence[Any]], Sequence[Any]]]:
        records = self._records()
        for start in range(0, self.length, size):
            if not wanted(start, self.length):
                return
            piece = list(islice(records, size))
            if wanted(start, start + len(piece)):
                cells = {
                    name: plain_list([record.get(name) for record in piece], f"column {name} of {self.name}")
                    for name in names
                }
                yield start, len(piece), cells, ()
