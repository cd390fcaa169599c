"""Open what a person maps over: any frame, file or iterable is a table of rows."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterable, Iterable, Iterator, Mapping, Sequence, Set
from pathlib import Path
from typing import Any

import pandas

from agentkit.errors import UserError
from agentkit.map.plain_values import pandas_list, plain_list
from agentkit.map.row_files import ArrowTable, open_file
from agentkit.map.shards import Shard
from agentkit.map.table import Piece as Piece
from agentkit.map.table import Table as Table
from agentkit.map.table import Wanted, borders, unique_names
from agentkit.map.table import check_key as check_key


class _FrameTable(Table):
    def __init__(self, name: str, frame: Any) -> None:
        super().__init__(name)
        self.columns = unique_names([_column_name(label) for label in frame.columns], name)
        self.length = len(frame)
        # What is changed in the person's frame afterwards does not reach the map: with pandas 3 that costs no copy.
        self._frame = frame.copy(deep=int(pandas.__version__.partition(".")[0]) < 3)

    @property
    def index(self) -> pandas.Index:
        return self._frame.index

    def _read(
        self, size: int, wanted: Wanted, names: Sequence[str]
    ) -> Iterator[tuple[int, int, Mapping[str, Sequence[Any]], Sequence[Any]]]:
        places = {name: place for place, name in enumerate(self.columns) if name in names}
        columns = {name: self._frame.iloc[:, place] for name, place in places.items()}
        for start, stop in borders(self.length, size, wanted):
            cells = {
                name: pandas_list(column.iloc[start:stop], f"column {name} of {self.name}")
                for name, column in columns.items()
            }
            yield start, stop - start, cells, ()


def _column_name(label: object) -> str:
    return "_".join(map(str, label)) if isinstance(label, tuple) else str(label)


class _PolarsTable(Table):
    def __init__(self, name: str, frame: Any) -> None:
        super().__init__(name)
        self._frame = frame.clone()
        self.columns = tuple(frame.columns)
        self.length = frame.height

    def _read(
        self, size: int, wanted: Wanted, names: Sequence[str]
    ) -> Iterator[tuple[int, int, Mapping[str, Sequence[Any]], Sequence[Any]]]:
        for start, stop in borders(self.length, size, wanted):
            piece = self._frame.slice(start, stop - start)
            cells = {name: _polars_list(piece.get_column(name), f"column {name} of {self.name}") for name in names}
            yield start, stop - start, cells, ()


def _polars_list(column: Any, where: str) -> list[Any]:
    if str(column.dtype) in ("Float16", "Float32"):
        return pandas_list(column.to_numpy(), where)
    return plain_list(column.to_list(), where)


class _RecordsTable(Table):
    """Rows that Python holds: mappings by their keys, or values without names."""

    def __init__(self, name: str, records: list[Any], columns: tuple[str, ...]) -> None:
        super().__init__(name)
        self.columns = columns
        self.length = len(records)
        self._records = records

    def _read(
        self, size: int, wanted: Wanted, names: Sequence[str]
    ) -> Iterator[tuple[int, int, Mapping[str, Sequence[Any]], Sequence[Any]]]:
        for start, stop in borders(self.length, size, wanted):
            records = self._records[start:stop]
            if not self.columns:
                yield start, stop - start, {}, plain_list(records, f"a row of {self.name}")
                continue
            cells = {
                name: plain_list([record.get(name) for record in records], f"column {name} of {self.name}")
                for name in names
            }
            yield start, stop - start, cells, ()


def open_table(rows: object, *, name: str = "rows") -> Table:
    """Return the table that `rows` is: a frame, an Arrow table, a file or an iterable, whose generator is listed once.

    Raise UserError, in one line, where it is none, is empty, or has two columns of one name.
    """
    table = _open(rows, name)
    if not table.length:
        raise UserError(f"{name} has no rows: there is nothing to map")
    return table


def _open(rows: Any, name: str) -> Table:
    if isinstance(rows, str | Path):
        return open_file(Path(rows), name)
    if isinstance(rows, Shard):
        return rows.open(name)
    if isinstance(rows, pandas.DataFrame):
        return _FrameTable(name, rows)
    if isinstance(rows, pandas.Series):
        return _FrameTable(name, rows.to_frame(name="value" if rows.name is None else rows.name))
    module = type(rows).__module__.partition(".")[0]
    if module == "polars" and hasattr(rows, "collect"):
        rows = rows.collect()
    if module == "polars" and hasattr(rows, "to_frame"):
        rows = rows.to_frame()
    if module == "polars" and hasattr(rows, "iter_slices"):
        return _PolarsTable(name, rows)
    if hasattr(rows, "__arrow_c_stream__") or hasattr(rows, "to_arrow"):
        return ArrowTable(name, rows)
    return _open_iterable(rows, name)


def _open_iterable(rows: Any, name: str) -> Table:
    refused = _refusal(rows, name)
    if refused:
        raise UserError(refused)
    records = list(rows)
    named = [_as_mapping(record) for record in records]
    kinds = {record is not None for record in named}
    if len(kinds) == 2:
        odd = next(place for place, record in enumerate(named) if (record is None) == (named[0] is not None))
        raise UserError(
            f"row {odd} of {name} is a {type(records[odd]).__name__}, and row 0 is a {type(records[0]).__name__}: make "
            "all rows mappings, or none"
        )
    if kinds != {True}:
        return _RecordsTable(name, records, ())
    # Every key once, in the order in which they are met.
    columns = list(dict.fromkeys(key for record in named if record is not None for key in record))
    texts = {key: key for key in columns if type(key) is str}
    if len(texts) != len(columns):
        named = [{str(key): cell for key, cell in record.items()} for record in named if record is not None]
    return _RecordsTable(name, named, unique_names([str(key) for key in columns], name))


def _refusal(rows: Any, name: str) -> str:
    kind = type(rows).__name__
    if isinstance(rows, Mapping):
        return f"{name} is a {kind}: give [{name}] for one row, or pandas.DataFrame({name}) for a dict of columns"
    if isinstance(rows, bytes | bytearray):
        return f"{name} is {kind}: give a table, a path or a list"
    if isinstance(rows, Set) and not isinstance(rows, Mapping) and type(rows) in (set, frozenset):
        return f"{name} is a {kind}, which has no order: give sorted({name})"
    if isinstance(rows, AsyncIterable):
        return f"{name} is asynchronous: list it first, [row async for row in {name}]"
    if hasattr(rows, "columns") or hasattr(rows, "__dataframe__") or getattr(rows, "ndim", 1) > 1:
        return f"{name} is a {type(rows).__module__.partition('.')[0]} {kind}: make it a pandas.DataFrame first"
    if not isinstance(rows, Iterable):
        return f"{name} is a {kind}: give a DataFrame, an Arrow table, a path or an iterable of rows"
    return ""


def _as_mapping(record: Any) -> Mapping[Any, Any] | None:
    if isinstance(record, Mapping):
        return record
    if dataclasses.is_dataclass(record) and not isinstance(record, type):
        return {one.name: getattr(record, one.name) for one in dataclasses.fields(record)}
    if hasattr(type(record), "model_fields") and hasattr(record, "model_dump"):
        return {**vars(record), **(record.model_extra or {})}
    if isinstance(record, tuple) and hasattr(record, "_asdict"):
        as_dict: Mapping[Any, Any] = record._asdict()
        return as_dict
    return None
