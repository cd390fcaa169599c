"""The result of a map as a frame: a column for each field of the output type, then what each row took."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, TypeAlias, get_args

import numpy
import pandas
from pydantic import TypeAdapter, ValidationError

from agentkit.errors import UserError
from agentkit.map.output_columns import columns_of, output_type_of
from agentkit.map.table import Table

Status: TypeAlias = Literal["pending", "done", "failed", "waiting", "skipped"]
"""`pending` was not reached, `waiting` waits for a person's yes, `skipped` was left out by a limit or a sample."""

STATUSES: tuple[Status, ...] = get_args(Status)
OWN = ("status", "error", "cost", "tokens", "seconds", "run")
"""The columns that a map adds to those of the output type."""

_OF_ONE_RUN = ("error", "cost", "tokens", "seconds", "run")
"""Those of them that say how it went rather than what came of it."""

_CODES = {status: code for code, status in enumerate(STATUSES)}
_AT_ONCE = 256
"""More stand in memory at once for no gain: the collector of garbage walks over them again and again."""


class ResultColumns:
    """What is known of each row, by its ordinal; the frame is made of it at any time."""

    def __init__(self, output_type: object, table: Table) -> None:
        self._type = output_type_of(output_type)
        self._columns = columns_of(self._type)
        taken = [column.name for column in self._columns if column.name in OWN]
        if taken:
            kind = getattr(self._type, "__name__", str(self._type))
            raise UserError(
                f"the output type {kind} has a field {taken[0]}, as a column of the map's own is called "
                f"({', '.join(OWN)}): rename the field"
            )
        self._index = table.index
        self._length = table.length
        self._adapter: TypeAdapter[Any] = TypeAdapter(self._type)
        self._answers: TypeAdapter[list[Any]] = TypeAdapter(list[self._type])  # type: ignore[name-defined]
        # Arrays of references: filled by a list of ordinals at once, and eight bytes a cell where nothing is known yet.
        self._cells = [_empty(self._length) for _ in self._columns]
        self._statuses = numpy.zeros(self._length, dtype=numpy.int8)
        self._errors: dict[int, str] = {}
        self._costs = numpy.full(self._length, numpy.nan)
        self._tokens = numpy.zeros(self._length, dtype=numpy.int64)
        self._seconds = numpy.full(self._length, numpy.nan)
        self._runs = _empty(self._length)

    def put(
        self,
        ordinal: int,
        *,
        status: Status,
        answer: object | None = None,
        error: str = "",
        cost: float | None = None,
        tokens: int = 0,
        seconds: float | None = None,
        run: str = "",
    ) -> None:
        """Keep what is known of one row; what was known of it before is forgotten."""
        for column, cells in zip(self._columns, self._cells, strict=True):
            cells[ordinal] = None if status != "done" else column.read(answer)
        self._keep(ordinal, status, cost, tokens, seconds, run)
        self._errors.pop(ordinal, None)
        if error:
            self._errors[ordinal] = error

    def put_json(
        self,
        ordinals: Sequence[int],
        answers: Sequence[bytes | str],
        *,
        costs: Sequence[float | None],
        tokens: Sequence[int],
        seconds: Sequence[float | None],
        runs: Sequence[str],
    ) -> list[int]:
        """Keep the recorded answers of many rows, all of them done; return the ordinals whose answer fits no longer.

        Of those nothing is kept. An answer is the JSON that the output type is read from.
        """
        misfits: list[int] = []
        for start in range(0, len(ordinals), _AT_ONCE):
            stop = start + _AT_ONCE
            kept = self._read_many(ordinals[start:stop], answers[start:stop])
            places = numpy.asarray(ordinals[start:stop], dtype=numpy.int64)
            misfits += places[~kept].tolist()
            done = places[kept]
            self._statuses[done] = _CODES["done"]
            # An array of floats has NaN where the list has None.
            self._costs[done] = numpy.array(costs[start:stop], dtype=numpy.float64)[kept]
            self._tokens[done] = numpy.array(tokens[start:stop], dtype=numpy.int64)[kept]
            self._seconds[done] = numpy.array(seconds[start:stop], dtype=numpy.float64)[kept]
            self._runs[done] = numpy.array(runs[start:stop], dtype=object)[kept]
            for ordinal in self._errors.keys() & set(done.tolist()):
                del self._errors[ordinal]
        return misfits

    def _read_many(self, ordinals: Sequence[int], answers: Sequence[bytes | str]) -> Any:
        """Fill the cells of these rows in; return for each whether its answer is one of the output type."""
        encoded = [answer.encode() if isinstance(answer, str) else answer for answer in answers]
        kept = numpy.ones(len(encoded), dtype=bool)
        try:
            outputs = self._answers.validate_json(b"[" + b",".join(encoded) + b"]")
        except ValidationError:
            outputs = []
            for place, answer in enumerate(encoded):
                try:
                    outputs.append(self._adapter.validate_json(answer))
                except ValidationError:
                    kept[place] = False
        done = numpy.asarray(ordinals, dtype=numpy.int64)[kept]
        for column, cells in zip(self._columns, self._cells, strict=True):
            cells[done] = column.read_many(outputs)
        return kept

    def _keep(
        self, ordinal: int, status: Status, cost: float | None, tokens: int, seconds: float | None, run: str
    ) -> None:
        self._statuses[ordinal] = _CODES[status]
        self._costs[ordinal] = numpy.nan if cost is None else cost
        self._tokens[ordinal] = tokens
        self._seconds[ordinal] = numpy.nan if seconds is None else seconds
        self._runs[ordinal] = run or None

    def count(self, status: Status) -> int:
        """Return how many rows are in `status`."""
        return int((self._statuses == _CODES[status]).sum())

    def ordinals(self, status: Status) -> list[int]:
        """Return the rows in `status`, in order."""
        places: list[int] = numpy.flatnonzero(self._statuses == _CODES[status]).tolist()
        return places

    def frame(self) -> pandas.DataFrame:
        """Return all rows in the order of the input, under its index.

        The dtypes follow from the output type alone and all take missing values: `Int64`, `Float64`, `boolean`,
        `string`, `category` for a Literal or Enum of texts, `datetime64[us]` (in UTC where an answer names a zone).
        Nested values are JSON text. An integer of more than 64 bits makes its column one of objects.
        """
        return self._frame(numpy.arange(self._length))

    @property
    def failed(self) -> pandas.DataFrame:
        """The rows that failed, as in `frame`."""
        return self._frame(numpy.flatnonzero(self._statuses == _CODES["failed"]))

    def _frame(self, places: Any) -> pandas.DataFrame:
        codes = self._statuses[places]
        errors = _empty(self._length)
        for ordinal, error in self._errors.items():
            errors[ordinal] = error
        data: dict[str, Any] = {
            column.name: column.array(cells[places]) for column, cells in zip(self._columns, self._cells, strict=True)
        }
        data["status"] = pandas.Categorical.from_codes(codes, categories=list(STATUSES))
        data["error"] = pandas.array(errors[places], dtype="string")
        data["cost"] = _floats(self._costs[places])
        data["tokens"] = pandas.arrays.IntegerArray(self._tokens[places], codes == _CODES["pending"])
        data["seconds"] = _floats(self._seconds[places])
        data["run"] = pandas.array(self._runs[places], dtype="string")
        index = self._index if len(places) == self._length else self._index[places]
        return pandas.DataFrame(data, index=index, copy=False)


def without_run(value: object) -> object:
    """Return the frame of a map without what differs between two runs of it; any other value as it is."""
    if isinstance(value, pandas.DataFrame) and set(OWN) <= set(value.columns):
        return value.drop(columns=list(_OF_ONE_RUN))
    return value


def _empty(length: int) -> Any:
    return numpy.full(length, None, dtype=object)


def _floats(values: Any) -> Any:
    return pandas.arrays.FloatingArray(values, numpy.isnan(values))
