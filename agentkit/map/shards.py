"""Cut a table into contiguous shards that other processes map, and join their frames to the frame of the whole."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import pandas

from agentkit.errors import UserError
from agentkit.map.table import Table, Wanted, borders, check_key


@dataclass(frozen=True, kw_only=True)
class Shard:
    """Rows of a table that follow one another, as plain Python: `start` is the place of the first in the whole.

    It may be mapped like the table it was cut from, and answers for its rows as the whole would: under the same index,
    from the same texts.
    """

    start: int
    index: pandas.Index
    columns: Mapping[str, Sequence[Any]]
    values: Sequence[Any] = ()

    def __len__(self) -> int:
        return len(self.index)

    def open(self, name: str) -> Table:
        """Return the table of these rows."""
        return _ShardTable(name, self)


class _ShardTable(Table):
    def __init__(self, name: str, shard: Shard) -> None:
        super().__init__(name)
        self.columns = tuple(shard.columns)
        self.length = len(shard)
        self._shard = shard

    @property
    def index(self) -> pandas.Index:
        return self._shard.index

    def _read(
        self, size: int, wanted: Wanted, names: Sequence[str]
    ) -> Iterator[tuple[int, int, Mapping[str, Sequence[Any]], Sequence[Any]]]:
        for start, stop in borders(self.length, size, wanted):
            cells = {name: self._shard.columns[name][start:stop] for name in names}
            yield start, stop - start, cells, self._shard.values[start:stop]


def cut(table: Table, count: int, *, key: str | None = None) -> list[Shard]:
    """Return the rows in `count` shards of nearly equal length, in order; fewer where there are fewer rows.

    Raise UserError where `key` does not tell the rows of the whole apart, as a map of it would.
    """
    if type(count) is not int or count < 1:
        raise UserError(f"{count!r} shards: a number of shards, 1 or more")
    if key is not None:
        check_key(table, key)
    count = min(count, table.length)
    bounds = [table.length * number // count for number in range(count + 1)]
    columns: dict[str, list[Any]] = {name: [] for name in table.columns}
    values: list[Any] = []
    for piece in table.pieces():
        for name, cells in piece.columns.items():
            columns[name].extend(cells)
        values.extend(piece.values)
    return [
        Shard(
            start=start,
            index=table.index[start:stop],
            columns={name: cells[start:stop] for name, cells in columns.items()},
            values=values[start:stop],
        )
        for start, stop in pairwise(bounds)
    ]


def join(frames: Sequence[pandas.DataFrame]) -> pandas.DataFrame:
    """Return the frames of the shards, in the order of these, as the frame of the whole."""
    if not frames:
        raise UserError("no shard gave a frame: there is nothing to join")
    return pandas.concat(frames)
