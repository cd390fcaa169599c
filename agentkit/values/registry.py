"""The one registry that turns what notebook functions return into JSON values, or refuses it by name."""

from __future__ import annotations

import base64
import dataclasses
import datetime
import decimal
import enum
import math
import pathlib
import re
import sys
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

from agentkit.errors import UserError

JSON: TypeAlias = Any

ROWS = 1_000
"""The most rows of a frame or series that cross; what is left out is said."""

DEPTH = 100
"""How deep lists and dicts may be nested in one another."""

_DIGITS = 4_300
_BITS = int(_DIGITS / math.log10(2))
_LEFT_OUT = re.compile(r"(?:… )?\d+ more of \d+$")


def too_deep(where: str) -> UserError:
    return UserError(f"{where} is nested more than {DEPTH} deep, or contains itself")


class Unconvertible(UserError):
    """A value has no JSON form that says the same."""

    def __init__(self, where: str, kind: type) -> None:
        self.where = where
        self.kind = kind
        name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
        super().__init__(
            f"{where} is of type {name}, which cannot be recorded: return numbers, text, lists, dicts or a frame"
        )


def to_json(value: object, *, where: str) -> JSON:
    """`value` as JSON values: numbers, text, booleans, None, lists and dicts with text keys.

    NaN, NaT and NA become None. Frames become a list of records and series a dict by index, both with at most `ROWS`
    rows. Raises Unconvertible, which names `where` and the type, for anything without an entry here.
    """
    return _convert(value, where, DEPTH)


def describe_left_out(value: JSON) -> str | None:
    """What `to_json` says of the rows that it left out, if it left out any."""
    last = value[-1] if isinstance(value, list) and value else value.get("…") if isinstance(value, dict) else None
    return last.lstrip("… ") if isinstance(last, str) and _LEFT_OUT.match(last) else None


def _convert(value: Any, where: str, depth: int) -> JSON:
    if type(value) is str:
        return text(value)
    if value is None or type(value) is bool:
        return value
    if type(value) is int:
        return _whole(value, where)
    if type(value) is float:
        return value if math.isfinite(value) else _not_finite(value)
    if depth == 0:
        raise too_deep(where)
    for convert in (_standard, _model, _numpy, _pandas):
        found, answer = convert(value, where, depth - 1)
        if found:
            return answer
    raise Unconvertible(where, type(value))


_SMALL = 1 << 62


def is_plain(items: list[Any] | tuple[Any, ...]) -> bool:
    """Return whether these are numbers, texts or the like that JSON takes as they are, found out for all at once."""
    kinds = set(map(type, items))
    if kinds <= {bool, type(None)}:
        return True
    if kinds <= {int, bool}:
        return bool(min(items) > -_SMALL and max(items) < _SMALL)
    if kinds == {float}:
        return all(map(math.isfinite, items))
    return kinds == {str} and all(map(str.isascii, items))


def text(value: str) -> str:
    """Half of a pair (a file name that is no UTF-8, a reply cut in the middle) has no bytes: it is written out."""
    return value if value.isascii() else value.encode(errors="backslashreplace").decode()


def _whole(value: int, where: str) -> int:
    if value.bit_length() > _BITS:
        raise UserError(f"{where} is a number of more than {_DIGITS:,} digits, which no JSON reader takes: return text")
    return value


def _not_finite(value: float) -> float | str | None:
    return None if math.isnan(value) else ("Infinity" if value > 0 else "-Infinity")


_MISSING: tuple[bool, JSON] = (False, None)


def _standard(value: Any, where: str, depth: int) -> tuple[bool, JSON]:
    match value:
        case enum.Enum():
            return True, _convert(value.value, where, depth)
        case bool() | int() | str():
            return True, text(value) if isinstance(value, str) else _whole(int(value), where)
        case float():
            return True, _convert(float(value), where, depth)
        case Mapping():
            names = [_key(key, where) for key in value]
            check_names(names, list(value), where)
            items = (_convert(item, where, depth) for item in value.values())
            return True, dict(zip(names, items, strict=True))
        case list() | tuple() if is_plain(value):
            return True, list(value)
        case list() | tuple():
            return True, [_convert(item, where, depth) for item in value]
        case set() | frozenset():
            return True, sorted((_convert(item, where, depth) for item in value), key=repr)
        case _:
            return _scalar(value, where, depth)


def _scalar(value: Any, where: str, depth: int) -> tuple[bool, JSON]:
    match value:
        case datetime.datetime() | datetime.date() | datetime.time():
            return True, None if _is_nat(value) else value.isoformat()
        case datetime.timedelta():
            return True, None if _is_nat(value) else value.total_seconds()
        case decimal.Decimal() | uuid.UUID() | pathlib.PurePath():
            return True, text(str(value))
        case complex():
            return True, {"real": _convert(value.real, where, depth), "imag": _convert(value.imag, where, depth)}
        case bytes() | bytearray() | memoryview():
            return True, base64.b64encode(bytes(value)).decode()
        case range():
            return True, list(value)
        case _:
            return _MISSING


def _is_nat(value: object) -> bool:
    return type(value).__name__ == "NaTType"


def _key(key: object, where: str) -> str:
    match key:
        case str():
            return text(key)
        case bool() | int() | float() | None:
            return str(key)
        case enum.Enum():
            return _key(key.value, where)
        case tuple():
            return ", ".join(_key(part, where) for part in key)
        case _:
            converted = _convert(key, where, DEPTH)
            return converted if isinstance(converted, str) else str(converted)


def check_names(names: Sequence[str], keys: Sequence[object], where: str) -> None:
    """Raise UserError where two keys have one name in JSON: one of the two values would be lost."""
    if len(set(names)) == len(names):
        return
    twice = next(name for name in names if names.count(name) > 1)
    same = " and ".join(repr(key) for key, name in zip(keys, names, strict=True) if name == twice)
    raise UserError(f"{where} has {same} as keys or columns, which are both {twice!r} in JSON: rename one of them")


def _model(value: Any, where: str, depth: int) -> tuple[bool, JSON]:
    """Pydantic models, known by their method, and dataclass instances."""
    dump: Callable[..., Any] | None = getattr(type(value), "model_dump", None)
    if dump is not None:
        return True, _convert(dump(value, mode="json"), where, depth)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        named = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        return True, _convert(named, where, depth)
    return _MISSING


def _numpy(value: Any, where: str, depth: int) -> tuple[bool, JSON]:
    numpy = sys.modules.get("numpy")
    if numpy is None:
        return _MISSING
    if isinstance(value, numpy.datetime64 | numpy.timedelta64):
        if numpy.isnat(value):
            return True, None
        return True, str(value) if isinstance(value, numpy.datetime64) else value / numpy.timedelta64(1, "s")
    if isinstance(value, numpy.generic):
        return True, _convert(value.item(), where, depth)
    if isinstance(value, numpy.ndarray):
        return True, _convert(
            _limit_items(list(value[:ROWS]), len(value)) if value.ndim else value.item(), where, depth
        )
    return _MISSING


def _pandas(value: Any, where: str, depth: int) -> tuple[bool, JSON]:
    pandas = sys.modules.get("pandas")
    # A kernel that is just importing pandas has the module without its names.
    if pandas is None or not hasattr(pandas, "DataFrame"):
        return _MISSING
    if value is pandas.NA or value is pandas.NaT:
        return True, None
    if isinstance(value, pandas.DataFrame):
        return True, _limit_items(_records(value, where, depth), len(value))
    if isinstance(value, pandas.Series):
        return True, _series(value, where, depth)
    if isinstance(value, pandas.Index):
        return True, _limit_items([_convert(item, where, depth) for item in value[:ROWS]], len(value))
    if isinstance(value, pandas.Period | pandas.Interval):
        return True, str(value)
    return _MISSING


def _records(frame: Any, where: str, depth: int) -> list[JSON]:
    shown = frame.head(ROWS)
    if not _is_default_index(shown.index):
        shown = shown.reset_index()
    names = [_key(name, where) for name in shown.columns]
    check_names(names, list(shown.columns), where)
    return [
        {name: _convert(item, where, depth) for name, item in zip(names, row, strict=True)}
        for row in shown.itertuples(index=False, name=None)
    ]


def _is_default_index(index: Any) -> bool:
    return type(index).__name__ == "RangeIndex" and index.start == 0 and index.step == 1 and index.name is None


def _series(series: Any, where: str, depth: int) -> JSON:
    """By index where the index says something and says it once, else as a list."""
    shown = series.iloc[:ROWS]
    items = [_convert(item, where, depth) for item in shown]
    if _is_default_index(series.index) or not series.index.is_unique:
        return _limit_items(items, len(series))
    names = [_key(key, where) for key in shown.index]
    check_names(names, list(shown.index), where)
    named = dict(zip(names, items, strict=True))
    if len(series) > ROWS:
        named["…"] = f"{len(series) - ROWS} more of {len(series)}"
    return named


def _limit_items(items: Iterable[JSON], length: int) -> list[JSON]:
    kept = list(items)[:ROWS]
    if length > ROWS:
        kept.append(f"… {length - ROWS} more of {length}")
    return kept
