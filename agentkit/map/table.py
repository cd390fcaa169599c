"""What a table is to a map: pieces of plain Python columns in the order of its rows, and what tells the rows apart."""

from __future__ import annotations

import bisect
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas

from agentkit.errors import MissingExtra, UserError, nearest
from agentkit.map.plain_values import cell_text, pandas_list

SIZE = 4096
_SHOWN = 3

Wanted = Callable[[int, int], bool]
"""Whether a row from the first ordinal up to, not including, the second is asked for."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Piece:
    """Rows that follow one another, by columns. `start` is the ordinal of the first one.

    Cells are plain Python: text, int, float, bool, lists and dicts. What is missing is the empty text, dates are ISO
    text. `values` holds the rows of a table without columns.
    """

    start: int
    index: Sequence[Any]
    columns: Mapping[str, Sequence[Any]]
    values: Sequence[Any] = field(default=())

    def __len__(self) -> int:
        return len(self.index)

    def row(self, place: int) -> Any:
        """Return the row at `place` of this piece as a mapping, or the value where the table has no columns."""
        if not self.columns:
            return self.values[place]
        return {name: cells[place] for name, cells in self.columns.items()}


class Table(ABC):
    """What is mapped over. `columns` is empty where the rows are values without names; `row` is then the value."""

    columns: tuple[str, ...] = ()
    length: int = 0
    path: Path | None = None

    def __init__(self, name: str) -> None:
        self.name = name

    @property
    def index(self) -> pandas.Index:
        """The index of the input; 0, 1, 2, … where it has none."""
        return pandas.RangeIndex(self.length)

    def pieces(
        self, *, size: int = SIZE, only: Collection[int] | None = None, columns: Collection[str] | None = None
    ) -> Iterator[Piece]:
        """Yield the rows in pieces of at most `size`, as often as asked.

        With `only`, pieces that hold none of these ordinals are left out, and not read where the source allows it;
        what is yielded is whole. With `columns`, only these are read.
        """
        self.check_unchanged()
        ordinals = None if only is None else sorted(only)

        def wanted(start: int, stop: int) -> bool:
            if ordinals is None:
                return True
            place = bisect.bisect_left(ordinals, start)
            return place < len(ordinals) and ordinals[place] < stop

        names = self.columns if columns is None else tuple(name for name in self.columns if name in columns)
        index = self.index
        for start, length, cells, values in self._read(size, wanted, names):
            # Hours may lie between two pieces: nothing is paid for rows of another file.
            self.check_unchanged()
            labels = plain_labels(index[start : start + length])
            yield Piece(start=start, index=labels, columns=cells, values=values)

    @abstractmethod
    def _read(
        self, size: int, wanted: Wanted, names: Sequence[str]
    ) -> Iterator[tuple[int, int, Mapping[str, Sequence[Any]], Sequence[Any]]]:
        """Yield the first ordinal, the number of rows, the cells by column, and the values where there are none."""

    def check_unchanged(self) -> None:  # noqa: B027 - what is in memory is a snapshot
        """Raise UserError when the file that is read is no longer the one that was opened."""


def plain_labels(index: pandas.Index) -> Sequence[Any]:
    """Return the labels of an index as plain Python; those of several levels are tuples."""
    if isinstance(index, pandas.RangeIndex):
        return range(index.start, index.stop, index.step)
    if isinstance(index, pandas.MultiIndex):
        levels = [pandas_list(index.get_level_values(level), "the index") for level in range(index.nlevels)]
        return list(zip(*levels, strict=True))
    # A label that is a tuple may stand in an index of one level, too.
    return [tuple(label) if isinstance(label, list) else label for label in pandas_list(index, "the index")]


def borders(length: int, size: int, wanted: Wanted) -> Iterator[tuple[int, int]]:
    """Yield where each wanted piece begins and ends."""
    for start in range(0, length, size):
        stop = min(start + size, length)
        if wanted(start, stop):
            yield start, stop


def unique_names(names: Sequence[str], table: str) -> tuple[str, ...]:
    """Return the names of columns; raise UserError where two are the same."""
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise UserError(f"{table} has two columns of the name {twice[0]}: rename one of them")
    return tuple(names)


def check_key(table: Table, column: str) -> None:
    """Raise UserError where `column` does not tell the rows apart: it is missing, or values are empty or not unique."""
    if column not in table.columns:
        raise UserError(
            f"key={column}: {table.name} has no column {column}{nearest(column, table.columns)}; "
            f"it has {describe_columns(table)}"
        )
    places: dict[str, list[int]] = {}
    for piece in table.pieces(columns=[column]):
        for ordinal, cell in enumerate(piece.columns[column], start=piece.start):
            places.setdefault(cell_text(cell), []).append(ordinal)
    empty = places.pop("", [])
    if empty:
        rows = f"row {empty[0]} has" if len(empty) == 1 else f"{len(empty):,} rows have"
        raise UserError(f"key={column}: {rows} no value (the first is row {empty[0]}); a key is the row's identity")
    twice = {value: rows for value, rows in places.items() if len(rows) > 1}
    if twice:
        shown = "; ".join(
            f"{value[:40]!r} in rows {', '.join(map(str, rows[:_SHOWN]))}{', …' * (len(rows) > _SHOWN)}"
            for value, rows in list(twice.items())[:_SHOWN]
        )
        more = f"; and {len(twice) - _SHOWN:,} more" * (len(twice) > _SHOWN)
        values = "1 value stands" if len(twice) == 1 else f"{len(twice):,} values stand"
        raise UserError(f"key={column}: {values} in more than one row: {shown}{more}; give another column, or none")


def describe_columns(table: Table) -> str:
    """Return the names of the columns in one line, the first ones where they are many."""
    if not table.columns:
        return "no columns: its rows are values, {{ row }} in a prompt"
    shown = ", ".join(table.columns[:12])
    return shown + f" and {len(table.columns) - 12} more" * (len(table.columns) > 12)


def import_pyarrow() -> Any:
    """Return pyarrow; raise MissingExtra where it is not installed."""
    try:
        import pyarrow
    except ImportError as error:
        raise MissingExtra("pyarrow", "parquet") from error
    return pyarrow
