"""A frame as a program holds it: a handle with a closed list of questions, none of which runs code of the program's."""

from __future__ import annotations

import json
import operator
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any
from uuid import NAMESPACE_OID, UUID, uuid5

from agentkit.sandbox.monty.driver import CallFailed, Handle

MOST_ROWS = 10_000
"""The most rows that `head` and a grouped `agg` give at once."""

_COMPARE: dict[str, Callable[[Any, Any], Any]] = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "in": lambda column, values: column.isin(list(values)),
    "not in": lambda column, values: ~column.isin(list(values)),
    "contains": lambda column, text: column.astype("string").str.contains(text, regex=False, na=False),
    "startswith": lambda column, text: column.astype("string").str.startswith(text, na=False),
    "is null": lambda column, _: column.isna(),
    "not null": lambda column, _: column.notna(),
}
_AGGREGATE = ("count", "sum", "mean", "median", "min", "max", "std", "nunique", "first", "last")
_LITERALS = (str, int, float, bool, type(None))


@dataclass(frozen=True, kw_only=True, eq=False)
class FrameHandle(Handle):
    """A frame that stays in the notebook: what it is of (`root`), and the filters (`ops`) that made it of that.

    `enter` makes of an answer what a program gets.
    """

    frame: Any
    root: str
    enter: Callable[[Any], Any]
    ops: tuple[tuple[Any, ...], ...] = ()

    attributes = ("columns", "rows")
    methods = frozenset({"head", "filter", "agg"})

    @property
    def id(self) -> UUID:
        return uuid5(NAMESPACE_OID, json.dumps([self.root, self.ops], default=str))

    @property
    def columns(self) -> list[str]:
        return [str(name) for name in self.frame.columns]

    @property
    def rows(self) -> int:
        return len(self.frame)

    def again(self, ops: Iterable[Iterable[Any]]) -> FrameHandle:
        """The handle that these filters make of this one."""
        handle = self
        for column, op, value in ops:
            handle = handle.filter(column, op, value)
        return handle

    def call(self, method: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """A method of the closed list; CallFailed says what the program did wrong."""
        if method not in self.methods:
            raise CallFailed("AttributeError", f"a frame has {', '.join(sorted(self.methods))}, not {method}")
        try:
            return getattr(self, method)(*args, **kwargs)
        except CallFailed as error:
            raise CallFailed(error.kind, error.message, fault="code") from error
        except Exception as error:
            # Whatever pandas makes of the question, it was the program's.
            raise CallFailed(type(error).__name__, f"{method}: {error}", fault="code") from error

    def head(self, n: int = 5) -> Any:
        """The first rows as dicts."""
        if type(n) is not int or not 0 <= n <= MOST_ROWS:
            raise CallFailed("ValueError", f"head(n): n is a number of rows from 0 to {MOST_ROWS}")
        return self.enter(self.frame.head(n).reset_index(drop=True))

    def filter(self, column: str, op: str, value: Any = None) -> FrameHandle:
        """The rows where `column` compares so with a literal."""
        if op not in _COMPARE:
            raise CallFailed("ValueError", f"filter: {op!r} is not one of {', '.join(_COMPARE)}")
        literals = value if isinstance(value, list | tuple | set) and op in ("in", "not in") else [value]
        if not all(isinstance(one, _LITERALS) for one in literals):
            raise CallFailed("TypeError", "filter compares with text, a number, a bool or None, or with a list of them")
        series = self.frame[self._column(column)]
        kept = self.frame[_COMPARE[op](series, value)]
        recorded = list(literals) if op in ("in", "not in") else value
        return replace(self, frame=kept, ops=(*self.ops, (column, op, recorded)))

    def agg(self, column: str, how: str, by: str | list[str] | None = None) -> Any:
        """One number of a column, or one for each group of the columns `by`, as dicts in the order of the groups."""
        if how not in _AGGREGATE:
            raise CallFailed("ValueError", f"agg: {how!r} is not one of {', '.join(_AGGREGATE)}")
        name = self._column(column)
        if by is None:
            return self.enter(_aggregate(self.frame[name], how))
        groups = [self._column(one) for one in ([by] if isinstance(by, str) else by)]
        grouped = getattr(self.frame.groupby(groups, sort=True, observed=True)[name], how)()
        if len(grouped) > MOST_ROWS:
            raise CallFailed("ValueError", f"agg: {len(grouped):,} groups, and at most {MOST_ROWS:,} can cross")
        return self.enter(grouped.reset_index(name=str(column) if str(column) not in groups else how))

    def _column(self, name: Any) -> Any:
        for column in self.frame.columns:
            if column == name or str(column) == name:
                return column
        raise CallFailed("KeyError", f"no column {name!r}; it has {', '.join(self.columns)}")


def _aggregate(series: Any, how: str) -> Any:
    if how in ("first", "last"):
        return series.iloc[0 if how == "first" else -1] if len(series) else None
    return getattr(series, how)()
