"""Values between the kernel and an isolated process: JSON that keeps their types, both ways, and never a pickle."""

from __future__ import annotations

import base64
import collections
import dataclasses
import datetime
import decimal
import enum
import fractions
import importlib
import math
import pathlib
import sys
import uuid
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from agentkit.errors import UserError

JSON: TypeAlias = Any

_TAG = "$"
_DEPTH = 100
_BINARY = "biufcmMSU"
_TEXTS: dict[str, tuple[type, Callable[[Any], str], Callable[[str], Any]]] = {
    "datetime": (datetime.datetime, lambda value: value.isoformat(), datetime.datetime.fromisoformat),
    "date": (datetime.date, lambda value: value.isoformat(), datetime.date.fromisoformat),
    "time": (datetime.time, lambda value: value.isoformat(), datetime.time.fromisoformat),
    "decimal": (decimal.Decimal, str, decimal.Decimal),
    "fraction": (fractions.Fraction, str, fractions.Fraction),
    "uuid": (uuid.UUID, str, uuid.UUID),
    "path": (pathlib.PurePath, str, pathlib.Path),
    "bytes": (bytes, lambda value: base64.b64encode(value).decode(), base64.b64decode),
}
"""By exact type, but for paths; a datetime is a date too, so it stands first."""
_SEQUENCES: dict[str, Any] = {"tuple": tuple, "set": set, "frozenset": frozenset, "deque": collections.deque}


class Unpackable(UserError):
    """A value that lives in one process only, or has no form as data here."""

    def __init__(self, where: str, kind: type) -> None:
        self.where = where
        own = kind.__module__ in ("builtins", "__main__", SANDBOX)
        name = kind.__qualname__ if own else f"{kind.__module__}.{kind.__qualname__}"
        super().__init__(f"{where} is a {name}, which cannot be handed to another process")


@dataclasses.dataclass(frozen=True, slots=True)
class Parcel:
    """A packed value on its way."""

    packed: JSON

    @classmethod
    def of(cls, value: Any, *, where: str) -> Parcel:
        return cls(pack(value, where=where))

    def open(self) -> Any:
        """The value; classes are those of the notebook."""
        return unpack(self.packed, vars(sys.modules["__main__"]))


SANDBOX = "__sandbox__"
"""The module of what a sandbox program defines: its classes are not known outside."""


class NotDefined(UserError):
    """A value is of a class that does not exist where it is unpacked."""


def pack(value: Any, *, where: str, depth: int = _DEPTH) -> JSON:
    """`value` as JSON from which `unpack` makes the same. Raises Unpackable, which names `where`."""
    kind = type(value)
    if value is None or kind in (str, int, bool) or (kind is float and math.isfinite(value)):
        return value
    if depth == 0:
        raise UserError(f"{where} is nested more than {_DEPTH} deep, or contains itself")
    if kind is list:
        return [pack(item, where=f"{where}[{place}]", depth=depth - 1) for place, item in enumerate(value)]
    if kind in (dict, collections.OrderedDict, collections.Counter):
        return _pack_dict(value, where, depth)
    found = _pack_text(value) or _pack_sequence(value, where, depth) or _pack_library(value, where, depth)
    found = found or _pack_object(value, where, depth)
    if found is None:
        raise Unpackable(where, kind)
    return found


def _pack_dict(value: Mapping[Any, Any], where: str, depth: int) -> JSON:
    if _TAG not in value and all(type(key) is str for key in value):
        return {key: pack(item, where=f"{where}[{key!r}]", depth=depth - 1) for key, item in value.items()}
    pairs = [
        [pack(key, where=where, depth=depth - 1), pack(item, where=f"{where}[{key!r}]", depth=depth - 1)]
        for key, item in value.items()
    ]
    return {_TAG: "dict", "of": pairs}


def _pack_text(value: Any) -> JSON:
    if type(value) is float:
        return {_TAG: "float", "of": str(value)}
    if type(value) is complex:
        return {_TAG: "complex", "of": [str(value.real), str(value.imag)]}
    if type(value) is datetime.timedelta:
        return {_TAG: "timedelta", "of": [value.days, value.seconds, value.microseconds]}
    if type(value) is range:
        return {_TAG: "range", "of": [value.start, value.stop, value.step]}
    for tag, (kind, write, _) in _TEXTS.items():
        if type(value) is kind or (kind is pathlib.PurePath and isinstance(value, kind)):
            return {_TAG: tag, "of": write(value)}
    return None


def _pack_sequence(value: Any, where: str, depth: int) -> JSON:
    for tag, kind in _SEQUENCES.items():
        if type(value) is kind:
            return {_TAG: tag, "of": [pack(item, where=where, depth=depth - 1) for item in value]}
    return None


def _pack_object(value: Any, where: str, depth: int) -> JSON:
    """Members of an Enum, dataclasses and pydantic models, by the name of their class and their fields."""
    kind = type(value)
    if kind.__module__ == SANDBOX:
        return None
    named = {_TAG: "object", "module": kind.__module__, "name": kind.__qualname__}
    if isinstance(value, enum.Enum):
        return {**named, _TAG: "enum", "of": value.name}
    if hasattr(kind, "model_fields") and hasattr(kind, "model_validate"):
        fields = {name: getattr(value, name) for name in kind.model_fields}
    elif dataclasses.is_dataclass(value):
        fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    else:
        return None
    return {
        **named,
        "of": {name: pack(item, where=f"{where}.{name}", depth=depth - 1) for name, item in fields.items()},
    }


# -- numpy and pandas, where they are in use


def _pack_library(value: Any, where: str, depth: int) -> JSON:
    numpy, pandas = sys.modules.get("numpy"), sys.modules.get("pandas")
    if numpy is not None and isinstance(value, numpy.ndarray | numpy.generic):
        return _pack_array(value, numpy, where, depth)
    if pandas is None or not hasattr(pandas, "DataFrame"):
        return None
    if value is pandas.NA or value is pandas.NaT:
        return {_TAG: "NA" if value is pandas.NA else "NaT"}
    if isinstance(value, pandas.Timestamp | pandas.Timedelta):
        tag = "moment" if isinstance(value, pandas.Timestamp) else "span"
        return {_TAG: tag, "of": value.isoformat(), "zone": _zone(value)}
    if isinstance(value, pandas.DataFrame):
        return _pack_frame(value, where, depth)
    if isinstance(value, pandas.Series):
        held = {"values": _pack_column(value.array, where, depth), "index": _pack_index(value.index, where, depth)}
        return {_TAG: "series", "name": pack(value.name, where=where, depth=depth - 1), **held}
    if isinstance(value, pandas.Index):
        return _pack_index(value, where, depth)
    return None


def _zone(value: Any) -> str | None:
    zone = getattr(value, "tz", None)
    return None if zone is None else str(zone)


def _pack_array(value: Any, numpy: Any, where: str, depth: int) -> JSON:
    array = numpy.asarray(value)
    shape = {_TAG: "array", "shape": list(array.shape), "scalar": isinstance(value, numpy.generic)}
    if array.dtype.kind in _BINARY:
        data = base64.b64encode(numpy.ascontiguousarray(array).tobytes()).decode()
        return {**shape, "dtype": array.dtype.str, "data": data}
    if array.dtype.kind != "O":
        raise Unpackable(where, type(value))
    items = [pack(item, where=where, depth=depth - 1) for item in array.ravel().tolist()]
    return {**shape, "dtype": "object", "items": items}


def _pack_frame(frame: Any, where: str, depth: int) -> JSON:
    columns = [_pack_column(frame.iloc[:, place].array, where, depth) for place in range(frame.shape[1])]
    return {
        _TAG: "frame",
        "names": _pack_index(frame.columns, where, depth),
        "index": _pack_index(frame.index, where, depth),
        "columns": columns,
    }


def _pack_column(array: Any, where: str, depth: int) -> JSON:
    """A pandas array by its kind: plain numbers as they are, the others as what they are made of."""
    import numpy
    import pandas

    dtype = array.dtype
    if isinstance(dtype, numpy.dtype) or isinstance(array, pandas.arrays.NumpyExtensionArray):
        return {"as": "array", "of": _pack_array(numpy.asarray(array), numpy, where, depth)}
    if isinstance(dtype, pandas.CategoricalDtype):
        codes = _pack_array(array.codes, numpy, where, depth)
        return {"as": "category", "of": codes, "ordered": bool(dtype.ordered),
                "categories": _pack_index(dtype.categories, where, depth)}  # fmt: skip
    if isinstance(dtype, pandas.DatetimeTZDtype):
        utc = numpy.asarray(array.tz_convert("UTC").tz_localize(None))
        return {"as": "zoned", "zone": str(dtype.tz), "of": _pack_array(utc, numpy, where, depth)}
    items = [
        item if type(item) is str else None if item is pandas.NA else pack(item, where=where, depth=depth - 1)
        for item in array
    ]
    return {"as": "items", "dtype": str(dtype), "of": items}


def _pack_index(index: Any, where: str, depth: int) -> JSON:
    import pandas

    names = [pack(name, where=where, depth=depth - 1) for name in index.names]
    if isinstance(index, pandas.RangeIndex):
        return {_TAG: "index", "as": "range", "of": [index.start, index.stop, index.step], "names": names}
    if isinstance(index, pandas.MultiIndex):
        levels = [_pack_column(index.get_level_values(place).array, where, depth) for place in range(index.nlevels)]
        return {_TAG: "index", "as": "levels", "of": levels, "names": names}
    return {_TAG: "index", "as": "plain", "of": _pack_column(index.array, where, depth), "names": names}


# -- back


def unpack(packed: JSON, space: Mapping[str, Any]) -> Any:
    """The value that was packed; classes of the notebook are found by name in `space`."""
    if isinstance(packed, list):
        return [unpack(item, space) for item in packed]
    if not isinstance(packed, dict):
        return packed
    if _TAG not in packed:
        return {key: unpack(item, space) for key, item in packed.items()}
    return _unpack_tagged(packed[_TAG], packed, space)


def _unpack_tagged(tag: str, packed: dict[str, Any], space: Mapping[str, Any]) -> Any:
    if tag in _TEXTS:
        return _TEXTS[tag][2](packed["of"])
    if tag in _SEQUENCES:
        return _SEQUENCES[tag](unpack(item, space) for item in packed["of"])
    match tag:
        case "dict":
            return {unpack(key, space): unpack(item, space) for key, item in packed["of"]}
        case "float":
            return float(packed["of"])
        case "complex":
            return complex(*map(float, packed["of"]))
        case "timedelta":
            return datetime.timedelta(*packed["of"])
        case "range":
            return range(*packed["of"])
        case "enum":
            return _class(packed, space)[packed["of"]]
        case "object":
            return _object(_class(packed, space), {name: unpack(item, space) for name, item in packed["of"].items()})
        case _:
            return _unpack_library(tag, packed, space)


def _class(packed: Mapping[str, Any], space: Mapping[str, Any]) -> Any:
    first, *rest = packed["name"].split(".")
    here = packed["module"] == "__main__"
    if here and first not in space:
        raise NotDefined(f"a value is a {first}, a class of the notebook that is not defined there: pass its fields")
    found = space[first] if here else getattr(importlib.import_module(packed["module"]), first)
    for part in rest:
        found = getattr(found, part)
    return found


def _object(kind: Any, fields: dict[str, Any]) -> Any:
    if hasattr(kind, "model_validate"):
        return kind.model_construct(**fields)
    given = {field.name for field in dataclasses.fields(kind) if field.init}
    made = kind(**{name: item for name, item in fields.items() if name in given})
    for name in fields.keys() - given:
        object.__setattr__(made, name, fields[name])
    return made


def _unpack_library(tag: str, packed: dict[str, Any], space: Mapping[str, Any]) -> Any:
    if tag == "array":
        return _unpack_array(packed, space)
    import pandas

    match tag:
        case "NA":
            return pandas.NA
        case "NaT":
            return pandas.NaT
        case "moment":
            moment = pandas.Timestamp(packed["of"])
            return moment if packed["zone"] is None else moment.tz_convert(packed["zone"])
        case "span":
            return pandas.Timedelta(packed["of"])
        case "series":
            index = _unpack_index(packed["index"], space)
            name = unpack(packed["name"], space)
            return pandas.Series(_unpack_column(packed["values"], space), index=index, name=name)
        case "index":
            return _unpack_index(packed, space)
        case "frame":
            columns = [_unpack_column(column, space) for column in packed["columns"]]
            index = _unpack_index(packed["index"], space)
            frame = pandas.DataFrame(dict(enumerate(columns)), index=index)
            frame.columns = _unpack_index(packed["names"], space)
            return frame
        case _:
            raise UserError(f"a value of the unknown kind {tag!r} came from another process")


def _unpack_array(packed: Mapping[str, Any], space: Mapping[str, Any]) -> Any:
    import numpy

    if packed["dtype"] == "object":
        array = numpy.empty(len(packed["items"]), dtype=object)
        for place, item in enumerate(packed["items"]):
            array[place] = unpack(item, space)
    else:
        array = numpy.frombuffer(base64.b64decode(packed["data"]), dtype=numpy.dtype(packed["dtype"])).copy()
    array = array.reshape(packed["shape"])
    return array[()] if packed["scalar"] else array


def _unpack_column(column: Mapping[str, Any], space: Mapping[str, Any]) -> Any:
    import pandas

    match column["as"]:
        case "array":
            return _unpack_array(column["of"], space)
        case "category":
            categories = _unpack_index(column["categories"], space)
            codes = _unpack_array(column["of"], space)
            return pandas.Categorical.from_codes(codes, categories=categories, ordered=column["ordered"])
        case "zoned":
            return (
                pandas.DatetimeIndex(_unpack_array(column["of"], space)).tz_localize("UTC").tz_convert(column["zone"])
            )
        case _:
            return pandas.array([unpack(item, space) for item in column["of"]], dtype=column["dtype"])


def _unpack_index(packed: Mapping[str, Any], space: Mapping[str, Any]) -> Any:
    import pandas

    names = [unpack(name, space) for name in packed["names"]]
    match packed["as"]:
        case "range":
            return pandas.RangeIndex(*packed["of"], name=names[0])
        case "levels":
            return pandas.MultiIndex.from_arrays([_unpack_column(level, space) for level in packed["of"]], names=names)
        case _:
            return pandas.Index(_unpack_column(packed["of"], space), name=names[0])
