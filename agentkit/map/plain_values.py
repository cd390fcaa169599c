"""The cells of any table as plain Python: what stands in a prompt, the same whichever library held it."""

from __future__ import annotations

import datetime
import decimal
import json
from collections.abc import Sequence
from typing import Any

import numpy
import pandas

from agentkit.errors import UserError
from agentkit.values.expressions import digest
from agentkit.values.registry import Unconvertible, to_json

_AS_THEY_ARE = frozenset({str, int, bool})
_HAVE_A_TEXT = _AS_THEY_ARE | {float}


def plain_list(values: Sequence[Any], where: str) -> list[Any]:
    """Return `values` as text, numbers, booleans, lists and dicts with text keys; see `plain` for each."""
    if set(map(type, values)) <= _AS_THEY_ARE:
        return list(values)
    return [value if type(value) in _AS_THEY_ARE else plain(value, where) for value in values]


def plain(value: Any, where: str) -> Any:
    """Return `value` as plain Python.

    What is missing (None, NaN, NaT, NA) is the empty text. Dates and times are ISO text. A float of less than 64
    bits is the shortest number that it stands for. Bytes are their UTF-8 text, or their length and digest where they
    are none. Anything else is as a tool's result would be recorded. Raise UserError, which begins with `where`, for
    what has no such form.
    """
    kind = type(value)
    if kind in _AS_THEY_ARE:
        return value
    if kind is float:
        return value if value == value else ""
    if value is None or _is_missing(value):
        return ""
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, bytes | bytearray | memoryview):
        return _bytes_text(bytes(value))
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, numpy.floating):
        return float(str(value))
    try:
        converted = to_json(value, where=where)
    except Unconvertible as error:
        raise UserError(
            f"{where} holds a {error.kind.__qualname__}, which has no text of its own: make it text, a number, a list "
            "or a dict first"
        ) from error
    return "" if converted is None else converted


def _is_missing(value: Any) -> bool:
    if type(value).__name__ in ("NAType", "NaTType"):
        return True
    if isinstance(value, decimal.Decimal):
        return value.is_nan()
    return bool(isinstance(value, numpy.floating | numpy.datetime64 | numpy.timedelta64) and value != value)


def _bytes_text(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return f"[{len(value):,} bytes; digest {digest(value)}]"


def cell_texts(values: Sequence[Any]) -> list[str]:
    """Return plain values as a model reads them."""
    if set(map(type, values)) <= _HAVE_A_TEXT:
        return list(map(str, values))
    return list(map(cell_text, values))


def cell_text(value: Any) -> str:
    """Return a plain value as a model reads it: lists and dicts as JSON."""
    if isinstance(value, list | dict):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, tuple):
        return ", ".join(map(cell_text, value))
    return str(value)


def pandas_list(values: Any, where: str) -> list[Any]:
    """Return the cells of a series, index or numpy array as plain Python."""
    if isinstance(values.dtype, numpy.dtype):
        return _numpy_list(numpy.asarray(values), where)
    if isinstance(values.dtype, pandas.CategoricalDtype):
        # One conversion a category; code -1, the last place, is a missing cell.
        categories = [*pandas_list(values.dtype.categories, where), ""]
        return [categories[code] for code in pandas.Categorical(values).codes.tolist()]
    return plain_list(values.tolist(), where)


def _numpy_list(values: Any, where: str) -> list[Any]:
    match values.dtype.kind, values.dtype.itemsize:
        case "f", 8:
            cells: list[Any] = values.tolist()
            return [cell if cell == cell else "" for cell in cells] if numpy.isnan(values).any() else cells
        case "f", _:
            return plain_list([float(text) for text in values.astype(str).tolist()], where)
        case (("M" | "m"), _):
            return plain_list(list(pandas.array(values)), where)
        case _:
            return plain_list(values.tolist(), where)
