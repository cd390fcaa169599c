"""The columns that an output type has in a frame: their names and dtypes, and the cell that an answer has in each."""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import enum
import inspect
import types
from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Annotated, Any, Literal, Union, cast, get_args, get_origin, get_type_hints

import pandas
from pydantic import BaseModel, RootModel, TypeAdapter
from pydantic_ai import DeferredToolRequests
from pydantic_core import to_json, to_jsonable_python

ANSWER = "answer"
"""The one column of an output type without fields."""

_JSON = "json"
_DTYPES: dict[type, str] = {
    bool: "boolean",
    int: "Int64",
    float: "Float64",
    decimal.Decimal: "Float64",
    str: "string",
    # Microseconds, as Python's own: in nanoseconds there is no year before 1678.
    datetime.datetime: "datetime64[us]",
    datetime.date: "datetime64[us]",
    datetime.timedelta: "timedelta64[us]",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Column:
    """One column of the result. `read` gives the cell of an answer."""

    name: str
    dtype: Any
    get: Callable[[Any], Any]

    @property
    def _as_they_are(self) -> frozenset[type]:
        """The types of what is a cell already."""
        if isinstance(self.dtype, pandas.CategoricalDtype):
            return _PLAIN["string"]
        return _PLAIN.get(self.dtype, frozenset())

    def read(self, answer: object) -> Any:
        """Return the cell of one answer; None where there is none."""
        return None if answer is None else self._cell(self.get(answer))

    def read_many(self, answers: Sequence[Any]) -> list[Any]:
        """Return the cells of many answers."""
        if type(None) in set(map(type, answers)):
            return list(map(self.read, answers))
        found = list(map(self.get, answers))
        if set(map(type, found)) <= self._as_they_are:
            return found
        return list(map(self._cell, found))

    def _cell(self, value: Any) -> Any:
        if value is None:
            return None
        if isinstance(value, enum.Enum):
            value = value.value
        match self.dtype:
            case "json":
                return value if isinstance(value, str) else to_json(value, fallback=str).decode()
            case "Float64":
                return float(value)
            case "string":
                return value if isinstance(value, str) else str(to_jsonable_python(value, fallback=str))
        if isinstance(value, datetime.datetime) and value.tzinfo is not None:
            return value.astimezone(datetime.UTC).replace(tzinfo=None)
        return value

    def array(self, cells: Any) -> Any:
        """Return an array of cells, missing ones among them, as what a frame holds."""
        dtype = "string" if self.dtype == _JSON else self.dtype
        if dtype == "Int64" and any(cell is not None and not -(2**63) <= cell < 2**63 for cell in cells):
            return cells
        if isinstance(dtype, pandas.CategoricalDtype):
            return pandas.Categorical(cells, dtype=dtype)
        return pandas.array(cells, dtype=dtype)


_PLAIN: dict[Any, frozenset[type]] = {
    "boolean": frozenset({bool, type(None)}),
    "Int64": frozenset({int, type(None)}),
    "Float64": frozenset({float, type(None)}),
    "string": frozenset({str, type(None)}),
}


def output_type_of(output: Any) -> Any:
    """Return the type of the answers of an agent with this `output_type`: what a marker holds, a function returns."""
    if isinstance(output, list | tuple):
        # Calls that wait for a person are no answer.
        return _union([output_type_of(one) for one in output if one is not DeferredToolRequests])
    for inner in ("output", "outputs", "output_function"):
        marked = getattr(output, inner, None)
        if marked is not None and type(output).__module__ == "pydantic_ai.output":
            return output_type_of(list(marked) if isinstance(marked, Sequence) else marked)
    if inspect.isroutine(output):
        hints = get_type_hints(output, include_extras=True)
        return hints.get("return", Any)
    return output


def _union(kinds: Sequence[Any]) -> Any:
    return Union[tuple(kinds)] if len(kinds) > 1 else kinds[0]  # noqa: UP007 - a tuple known only now


def columns_of(output: Any) -> tuple[Column, ...]:
    """Return the columns of an output type: one for each field, or `answer` where it has none."""
    plain = _bare(output)
    if isinstance(plain, type) and issubclass(plain, BaseModel) and not issubclass(plain, RootModel):
        fields = {name: field.annotation for name, field in plain.model_fields.items()}
        fields |= {name: field.return_type for name, field in plain.model_computed_fields.items()}
        return _columns(fields, attrgetter)
    if dataclasses.is_dataclass(plain):
        return _columns(_hints(plain, [field.name for field in dataclasses.fields(plain)]), attrgetter)
    properties = _properties(plain)
    if properties:
        return _columns(properties, _item)
    if _is_typed_dict(plain):
        return _columns(get_type_hints(plain), _item)
    if isinstance(plain, type) and issubclass(plain, tuple) and hasattr(plain, "_fields"):
        return _columns(_hints(plain, cast(Any, plain)._fields), attrgetter)
    if isinstance(plain, type) and issubclass(plain, RootModel):
        return (Column(name=ANSWER, dtype=dtype_of(plain.model_fields["root"].annotation), get=attrgetter("root")),)
    return (Column(name=ANSWER, dtype=dtype_of(output), get=lambda answer: answer),)


def _is_typed_dict(kind: Any) -> bool:
    # Not typing's own question: it knows none that typing_extensions made.
    return isinstance(kind, type) and issubclass(kind, dict) and hasattr(kind, "__required_keys__")


def _item(name: str) -> Callable[[Any], Any]:
    return lambda answer: answer.get(name)


_SCHEMA_TYPES: dict[Any, Any] = {"string": str, "integer": int, "number": float, "boolean": bool}


def _properties(kind: Any) -> dict[str, Any]:
    """The types by name of a dict with a schema, as `StructuredDict` and a front matter make one."""
    if not (isinstance(kind, type) and issubclass(kind, dict) and kind is not dict and not _is_typed_dict(kind)):
        return {}
    properties = TypeAdapter(kind).json_schema().get("properties", {})
    return {name: _schema_type(said) for name, said in properties.items()}


def _schema_type(schema: Any) -> Any:
    kinds = schema.get("type") if isinstance(schema, dict) else None
    named = [kind for kind in (kinds if isinstance(kinds, list) else [kinds]) if kind != "null"]
    if isinstance(schema, dict) and schema.get("enum"):
        return Literal[tuple(schema["enum"])]
    return _SCHEMA_TYPES.get(named[0], Any) if len(named) == 1 else Any


def _hints(kind: Any, names: Sequence[str]) -> dict[str, Any]:
    hints = get_type_hints(get_origin(kind) or kind)
    return {name: hints.get(name, Any) for name in names}


def _columns(fields: dict[str, Any], getter: Callable[[str], Callable[[Any], Any]]) -> tuple[Column, ...]:
    return tuple(Column(name=name, dtype=dtype_of(kind), get=getter(name)) for name, kind in fields.items())


def _bare(kind: Any) -> Any:
    """The type without what is only said about it, and without None."""
    while True:
        if get_origin(kind) is Annotated:
            kind = get_args(kind)[0]
        elif hasattr(kind, "__value__"):
            kind = kind.__value__
        elif hasattr(kind, "__supertype__"):
            kind = kind.__supertype__
        elif get_origin(kind) in (Union, types.UnionType):
            members = [one for one in get_args(kind) if one is not type(None)]
            if len(members) != 1:
                return kind
            kind = members[0]
        else:
            return kind


def dtype_of(kind: Any) -> Any:
    """Return the dtype of a column of this annotation; it takes missing values and depends on nothing else."""
    kind = _bare(kind)
    if get_origin(kind) in (Union, types.UnionType):
        dtypes = [dtype_of(one) for one in get_args(kind) if one is not type(None)]
        if all(dtype in ("Int64", "Float64") for dtype in dtypes):
            return "Float64"
        return dtypes[0] if all(dtype == dtypes[0] for dtype in dtypes) else _JSON
    if get_origin(kind) is Literal:
        return _dtype_of_values(get_args(kind))
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return _dtype_of_values([member.value for member in kind])
    if isinstance(kind, type):
        return next((dtype for base, dtype in _DTYPES.items() if issubclass(kind, base)), _JSON)
    return _JSON


def _dtype_of_values(values: Sequence[Any]) -> Any:
    values = [value.value if isinstance(value, enum.Enum) else value for value in values if value is not None]
    kinds = set(map(type, values))
    if kinds == {str}:
        return pandas.CategoricalDtype(list(dict.fromkeys(values)))
    return _DTYPES.get(kinds.pop(), _JSON) if len(kinds) == 1 else _JSON
