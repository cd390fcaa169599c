"""What crosses the sandbox's border, both ways, and how the record keeps it: of the same kind, or refused by name."""

from __future__ import annotations

import base64
import dataclasses
import datetime
import decimal
import enum
import math
import pathlib
import sys
import uuid
from collections.abc import Callable, Mapping
from typing import Any

from agentkit.errors import UserError
from agentkit.sandbox.dataframe_handle import FrameHandle
from agentkit.values.typed_json import NOT_DATA, NOTHING, Classes, Forged, Parcel, unpack

ROWS = 10_000
"""The most rows of a frame that enter as records, and of a series or array as a list. A longer frame is a handle."""

_DEPTH = 100
_TAG = "$"
_LONG_INT = 10_000
"""Bits of a number that is not written in decimal: Python refuses to from 4,300 digits on."""
_PLAIN = (str, int, bool, bytes, datetime.date, datetime.time, datetime.timedelta, decimal.Decimal, complex)


class Uncrossable(UserError):
    """A value that has no form on the other side of the border."""


# ---- in


def enter(value: object, *, where: str) -> Any:
    """`value` as a program gets it; Uncrossable names `where` and the type of what cannot enter."""
    return _enter(value, where, _DEPTH)


def _enter(value: Any, where: str, depth: int) -> Any:
    if value is None or type(value) in (int, bool, bytes):
        return value
    if type(value) is str:
        return value if value.isascii() else _whole(value, where)
    if type(value) is float:
        return None if math.isnan(value) else value
    if depth == 0:
        raise Uncrossable(f"{where} is nested more than {_DEPTH} deep, or contains itself")
    for convert in (_library, _container, _scalar, _model):
        found, answer = convert(value, where, depth - 1)
        if found:
            return answer
    raise Uncrossable(f"{where} is a {_name(value)}, which cannot cross: pass numbers, text, lists, dicts or a frame")


def _whole(text: str, where: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise Uncrossable(f"{where} is text with half a surrogate pair, which cannot cross: leave it out") from None
    return text


_MISSING: tuple[bool, Any] = (False, None)


def _container(value: Any, where: str, depth: int) -> tuple[bool, Any]:
    match value:
        case Mapping():
            return True, {_key(key, where): _enter(item, _at(where, key), depth) for key, item in value.items()}
        case list():
            return True, [_enter(item, where, depth) for item in value]
        case tuple():
            return True, tuple(_enter(item, where, depth) for item in value)
        case set() | frozenset():
            return True, type(value)(_enter(item, where, depth) for item in value)
        case range():
            return True, list(value)
        case FrameHandle():
            return True, value
        case _:
            return _MISSING


def _at(where: str, key: Any) -> str:
    # Of another's class the repr is another's code.
    return f"{where}[{key!r}]" if type(key) in _PLAIN else f"{where}[{type(key).__qualname__}]"


def _key(key: Any, where: str) -> Any:
    crossed = _enter(key, f"a key of {where}", 3)
    if isinstance(crossed, list | dict | FrameHandle):
        raise Uncrossable(f"a key of {where} is a {_name(key)}, which cannot be a key there")
    return crossed


def _scalar(value: Any, where: str, depth: int) -> tuple[bool, Any]:
    match value:
        case enum.Enum():
            return True, _enter(value.value, where, depth)
        case bool() | int() | str() | bytes() | float():
            plain: Any = next(kind for kind in (bool, int, str, bytes, float) if isinstance(value, kind))
            return True, _enter(plain(value), where, depth)
        case bytearray() | memoryview():
            return True, bytes(value)
        case datetime.datetime() | datetime.date() | datetime.time() | datetime.timedelta():
            return True, value
        case decimal.Decimal() | complex():
            return True, value
        case uuid.UUID() | pathlib.PurePath():
            return True, str(value)
        case _:
            return _MISSING


def _model(value: Any, where: str, depth: int) -> tuple[bool, Any]:
    dump = getattr(type(value), "model_dump", None)
    if callable(dump) and not isinstance(value, type):
        return True, _enter(dump(value), where, depth)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        named = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        return True, _enter(named, where, depth)
    return _MISSING


def _library(value: Any, where: str, depth: int) -> tuple[bool, Any]:
    """numpy and pandas, when they are there: their missing values become None before anything else looks at them."""
    for convert in (_pandas, _numpy):
        found, answer = convert(value, where, depth)
        if found:
            return True, answer
    return _MISSING


def _numpy(value: Any, where: str, depth: int) -> tuple[bool, Any]:
    numpy = sys.modules.get("numpy")
    if numpy is None or not hasattr(numpy, "ndarray"):
        return _MISSING
    if isinstance(value, numpy.datetime64 | numpy.timedelta64):
        return True, None if numpy.isnat(value) else _enter(
            value.astype(f"{value.dtype.kind}8[us]").item(), where, depth
        )
    if isinstance(value, numpy.generic):
        return True, _enter(value.item(), where, depth)
    if isinstance(value, numpy.ndarray):
        if value.ndim and len(value) > ROWS:
            raise Uncrossable(
                f"{where} is an array of {len(value):,} elements, and {ROWS:,} can cross: pass a part of it"
            )
        return True, _enter(list(value) if value.ndim else value.item(), where, depth)
    return _MISSING


def _pandas(value: Any, where: str, depth: int) -> tuple[bool, Any]:
    pandas = sys.modules.get("pandas")
    # A kernel that is just importing pandas has the module without its names.
    if pandas is None or not hasattr(pandas, "DataFrame"):
        return _MISSING
    if value is pandas.NA or value is pandas.NaT:
        return True, None
    if isinstance(value, pandas.Timestamp):
        return True, value.to_pydatetime(warn=False)
    if isinstance(value, pandas.Timedelta):
        return True, value.to_pytimedelta()
    if isinstance(value, pandas.DataFrame):
        if len(value) > ROWS:
            return True, FrameHandle(frame=value, root=where, enter=lambda answer: enter(answer, where=where))
        return True, records(value, where)
    if isinstance(value, pandas.Series | pandas.Index):
        if len(value) > ROWS:
            raise Uncrossable(
                f"{where} is a {_name(value)} of {len(value):,} values, and {ROWS:,} can cross: pass it as a frame"
            )
        return True, [_enter(item, where, depth) for item in value]
    if isinstance(value, pandas.Period | pandas.Interval):
        return True, str(value)
    return _MISSING


def records(frame: Any, where: str) -> list[dict[Any, Any]]:
    """The rows of a frame as dicts; an index that says something is the first column."""
    index = frame.index
    plain = type(index).__name__ == "RangeIndex" and index.start == 0 and index.step == 1 and index.name is None
    shown = frame if plain else frame.reset_index()
    names = [_column(name) for name in shown.columns]
    columns = [[_enter(item, where, 8) for item in shown.iloc[:, place]] for place in range(len(names))]
    return [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]


def _column(name: Any) -> str:
    return ", ".join(map(str, name)) if isinstance(name, tuple) else str(name)


def _name(value: object) -> str:
    kind = type(value)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


# ---- on record: JSON in which each value keeps its kind


def to_record(value: Any, *, where: str) -> Any:
    """`value`, which entered or left a sandbox, as JSON; Uncrossable for what a program cannot give back."""
    return _to_record(value, where, _DEPTH * 2)


def _to_record(value: Any, where: str, depth: int) -> Any:
    if value is None or type(value) in (str, bool):
        return value
    if type(value) is int:
        return value if value.bit_length() < _LONG_INT else _tag("int", hex(value))
    if depth == 0:
        raise Uncrossable(f"{where} is nested too deep to leave the sandbox")
    match value:
        case float():
            return value if math.isfinite(value) else None if math.isnan(value) else _tag("float", repr(value))
        case list():
            return [_to_record(item, where, depth - 1) for item in value]
        case dict():
            return _dict_record(value, where, depth)
        case tuple() | set() | frozenset():
            items = [_to_record(item, where, depth - 1) for item in value]
            kind = "tuple" if isinstance(value, tuple) else type(value).__name__
            return _tag(kind, items if kind == "tuple" else sorted(items, key=repr))
        case Parcel():
            return _tag("parcel", value.packed)
        case FrameHandle():
            return _tag("frame", [value.root, [list(op) for op in value.ops]])
        case _:
            return _scalar_record(value, where)


def _dict_record(value: dict[Any, Any], where: str, depth: int) -> Any:
    if all(type(key) is str for key in value) and _TAG not in value:
        return {key: _to_record(item, where, depth - 1) for key, item in value.items()}
    pairs = [[_to_record(key, where, depth - 1), _to_record(item, where, depth - 1)] for key, item in value.items()]
    return _tag("dict", pairs)


def _scalar_record(value: Any, where: str) -> Any:
    match value:
        case datetime.datetime() | datetime.date() | datetime.time():
            return _tag(type(value).__name__, value.isoformat())
        case datetime.timedelta():
            return _tag("timedelta", [value.days, value.seconds, value.microseconds])
        case decimal.Decimal():
            return _tag("Decimal", str(value))
        case bytes():
            return _tag("bytes", base64.b64encode(value).decode())
        case complex():
            return _tag("complex", [value.real, value.imag])
        case pathlib.PurePath():
            return str(value)
        case _:
            shown = getattr(value, "name", None) or _name(value)
            raise Uncrossable(
                f"{where} is a {shown}, which cannot leave the sandbox: make it numbers, text, lists or dicts"
            )


def _tag(kind: str, value: Any) -> dict[str, Any]:
    return {_TAG: kind, "v": value}


def from_record(kept: Any, *, frames: Mapping[str, FrameHandle] | None = None, classes: Classes = NOTHING) -> Any:
    """The value that was recorded; a frame is made again from the one of that name among `frames`.

    Raises Forged for a record that names a class which is not among `classes`.
    """
    try:
        return _BoundaryReader(frames or {}, classes).read(kept)
    except NOT_DATA as error:
        raise Forged(f"the record holds what is no value: {type(error).__name__}: {ascii(str(error))[:200]}") from error


class _BoundaryReader:
    def __init__(self, frames: Mapping[str, FrameHandle], classes: Classes) -> None:
        self._frames, self._classes = frames, classes

    def read(self, kept: Any) -> Any:
        match kept:
            case list():
                return self._items(kept)
            case {"$": str(kind), "v": value} if len(kept) == 2 and (kind in _VALUES or kind in _HOLDING):
                return _VALUES[kind](value) if kind in _VALUES else self._read_container(kind, value)
            case dict():
                return {key: self.read(item) for key, item in kept.items()}
            case _:
                return kept

    def _read_container(self, kind: str, value: Any) -> Any:
        match kind:
            case "dict":
                return {self.read(key): self.read(item) for key, item in value}
            case "parcel":
                return unpack(value, self._classes)
            case "frame":
                return self._frames[value[0]].again(value[1]).frame
            case _:
                return _SEQUENCES[kind](self._items(value))

    def _items(self, kept: list[Any]) -> list[Any]:
        return [self.read(item) for item in kept]


_SEQUENCES: dict[str, Callable[[list[Any]], Any]] = {"tuple": tuple, "set": set, "frozenset": frozenset}
_HOLDING = {*_SEQUENCES, "dict", "parcel", "frame"}
_VALUES: dict[str, Callable[[Any], Any]] = {
    "float": float,
    "int": lambda text: int(text, 16),
    "datetime": datetime.datetime.fromisoformat,
    "date": datetime.date.fromisoformat,
    "time": datetime.time.fromisoformat,
    "timedelta": lambda parts: datetime.timedelta(*parts),
    "Decimal": decimal.Decimal,
    "bytes": base64.b64decode,
    "complex": lambda parts: complex(*parts),
}
