"""The result of a map as a frame: a column for each field of the output type, then what each row took."""

from __future__ import annotations

from array import array
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

_CODES = {status: code for code, status in enumerate(STATUSES)}
_AT_ONCE = 4096


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
        self._cells: list[list[Any]] = [[None] * self._length for _ in self._columns]
        self._statuses = bytearray(self._length)
        self._errors: dict[int, str] = {}
        self._costs = array("d", [float("nan")]) * self._length
        self._tokens = array("q", [0]) * self._length
        self._seconds = array("d", [float("nan")]) * self._length
        self._runs: list[str | None] = [None] * self._length

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
            kept = self._read_many(ordinals[start:stop], answers[start:stop], misfits)
            rows = zip(
                ordinals[start:stop], costs[start:stop], tokens[start:stop], seconds[start:stop], runs[start:stop],
                strict=True,
            )  # fmt: skip
            for ordinal, cost, count, taken, run in rows:
                if kept is None or ordinal in kept:
                    self._keep(ordinal, "done", cost, count, taken, run)
                    self._errors.pop(ordinal, None)
        return misfits

    def _read_many(
        self, ordinals: Sequence[int], answers: Sequence[bytes | str], misfits: list[int]
    ) -> set[int] | None:
        """Fill the cells of these rows in; return which were, None for all."""
        encoded = [answer.encode() if isinstance(answer, str) else answer for answer in answers]
        try:
            outputs = self._answers.validate_json(b"[" + b",".join(encoded) + b"]")
            kept = None
        except ValidationError:
            outputs, fitting = [], []
            for ordinal, answer in zip(ordinals, encoded, strict=True):
                try:
                    outputs.append(self._adapter.validate_json(answer))
                    fitting.append(ordinal)
                except ValidationError:
                    misfits.append(ordinal)
            ordinals, kept = fitting, set(fitting)
        for column, cells in zip(self._columns, self._cells, strict=True):
            for ordinal, cell in zip(ordinals, column.read_many(outputs), strict=True):
                cells[ordinal] = cell
        return kept

    def _keep(
        self, ordinal: int, status: Status, cost: float | None, tokens: int, seconds: float | None, run: str
    ) -> None:
        self._statuses[ordinal] = _CODES[status]
        self._costs[ordinal] = float("nan") if cost is None else cost
        self._tokens[ordinal] = tokens
        self._seconds[ordinal] = float("nan") if seconds is None else seconds
        self._runs[ordinal] = run or None

    def count(self, status: Status) -> int:
        """Return how many rows are in `status`."""
        return self._statuses.count(_CODES[status])

    def ordinals(self, status: Status) -> list[int]:
        """Return the rows in `status`, in order."""
        return [int(place) for place in numpy.flatnonzero(self._codes() == _CODES[status])]

    def frame(self) -> pandas.DataFrame:
        """Return all rows in the order of the input, under its index.

        The dtypes follow from the output type alone and all take missing values: `Int64`, `Float64`, `boolean`,
        `string`, `category` for a Literal or Enum of texts, `datetime64[us]` (in UTC where an answer names a zone).
        Nested values are JSON text. An integer of more than 64 bits makes its column one of objects.
        """
        return self._frame(None)

    @property
    def failed(self) -> pandas.DataFrame:
        """The rows that failed, as in `frame`."""
        return self._frame(self.ordinals("failed"))

    def _codes(self) -> Any:
        return numpy.frombuffer(bytes(self._statuses), dtype=numpy.uint8).astype(numpy.int8)

    def _frame(self, ordinals: list[int] | None) -> pandas.DataFrame:
        places = range(self._length) if ordinals is None else ordinals
        pick = slice(None) if ordinals is None else numpy.array(ordinals, dtype=numpy.int64)
        codes = self._codes()[pick]
        reached = codes != _CODES["pending"]
        data: dict[str, Any] = {
            column.name: column.array(cells if ordinals is None else [cells[place] for place in places])
            for column, cells in zip(self._columns, self._cells, strict=True)
        }
        data["status"] = pandas.Categorical.from_codes(codes, categories=list(STATUSES))
        data["error"] = pandas.array([self._errors.get(place) for place in places], dtype="string")
        data["cost"] = _floats(self._costs, pick)
        data["tokens"] = pandas.arrays.IntegerArray(numpy.array(self._tokens, dtype=numpy.int64)[pick], ~reached)
        data["seconds"] = _floats(self._seconds, pick)
        data["run"] = pandas.array([self._runs[place] for place in places], dtype="string")
        return pandas.DataFrame(data, index=self._index[pick])


def _floats(values: array[float], pick: Any) -> Any:
    found = numpy.array(values, dtype=numpy.float64)[pick]
    return pandas.arrays.FloatingArray(found, numpy.isnan(found))
