"""Values between the kernel and an isolated process: JSON that keeps their types, both ways, and never a pickle.

What comes back was written by somebody else's program. It is data: it names classes only out of a list made before
that program began, and neither imports nor calls anything.
"""

from __future__ import annotations

import base64
import collections
import dataclasses
import datetime
import decimal
import enum
import fractions
import inspect
import math
import pathlib
import re
import sys
import types
import typing
import uuid
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol, TypeAlias

from agentkit.errors import UserError

JSON: TypeAlias = Any
Name: TypeAlias = tuple[str, str]
"""A class: its module, and its name there."""

SANDBOX = "__sandbox__"
"""The module of what a sandbox program defines: its classes are not known outside."""

_TAG = "$"
_DEPTH = 100
_BINARY = "biufcmMSU"
_TEXTS: dict[str, tuple[type, Callable[[Any], str], Callable[[str], Any]]] = {
    "datetime": (datetime.datetime, lambda value: value.isoformat(), datetime.datetime.fromisoformat),
    "date": (datetime.date, lambda value: value.isoformat(), datetime.date.fromisoformat),
    "time": (datetime.time, lambda value: value.isoformat(), datetime.time.fromisoformat),
    "decimal": (decimal.Decimal, str, decimal.Decimal),
    "fraction": (fractions.Fraction, str, lambda text: fractions.Fraction(_match(_RATIO, text))),
    "uuid": (uuid.UUID, str, uuid.UUID),
    "path": (pathlib.PurePath, str, pathlib.Path),
    "bytes": (bytes, lambda value: base64.b64encode(value).decode(), base64.b64decode),
}
"""By exact type, but for paths; a datetime is a date too, so it stands first."""
_SEQUENCES: dict[str, Any] = {"tuple": tuple, "set": set, "frozenset": frozenset, "deque": collections.deque}
_PARTS: dict[str, Callable[[Any], Any]] = {
    "float": lambda text: float(_string(text)),
    "complex": lambda parts: complex(*map(float, parts)),
    "timedelta": lambda parts: datetime.timedelta(*parts),
    "range": lambda parts: range(*parts),
}

# "1e999999999" is a fraction too, of a billion digits.
_RATIO: re.Pattern[str] = re.compile(r"-?\d+(/\d+)?")
_DTYPE = re.compile(rf"[<>|=]?[{_BINARY}]\d+(\[\d*[A-Za-z]+\])?")
# A zone is looked up by name: `dateutil/` and a leading slash would open a file.
_ZONE = re.compile(r"(?!dateutil)[A-Za-z][A-Za-z0-9_+-]*(/[A-Za-z0-9_+-]+)*|(UTC)?[+-]\d\d:\d\d(:\d\d)?")
# Those of pandas, by their own names: other names would be asked of whatever library has registered some.
_EXTENSION = re.compile(
    r"U?Int(8|16|32|64)|Float(32|64)|boolean|str(ing)?(\[(python|pyarrow)\])?|Sparse\[[a-z0-9]+, [A-Za-z0-9.+-]+\]"
    r"|(u?int(8|16|32|64)|float|double|half_float|bool|(large_)?string|(large_)?binary|date(32|64)\[(day|ms)\]"
    r"|(timestamp|duration|time(32|64))\[(s|ms|us|ns)\])\[pyarrow\]"
)
_MOST_LARGE = 50_000
_MOST_ALIKE = 64


class Unpackable(UserError):
    """A value that lives in one process only, or has no form as data here."""

    def __init__(self, where: str, kind: type) -> None:
        self.where = where
        own = kind.__module__ in ("builtins", "__main__", SANDBOX)
        name = (
            "module"
            if issubclass(kind, types.ModuleType)
            else kind.__qualname__
            if own
            else f"{kind.__module__}.{kind.__qualname__}"
        )
        super().__init__(f"{where} is a {name}, which cannot be handed to another process")


class NotDefined(UserError):
    """A value is of a class that does not exist where it is unpacked."""


class Forged(UserError):
    """Something else than a packed value, or one that names what it must not name: nothing was made of it."""


class Classes(Protocol):
    """Which classes a packed value may name, and how their instances are made."""

    def find(self, module: str, name: str) -> type: ...

    def make(self, kind: type, fields: dict[str, Any]) -> Any: ...


@dataclasses.dataclass(frozen=True, slots=True)
class Entered:
    """The classes of what went in, and of what was declared to come out: no other comes back.

    Instances are made of their fields; no code of theirs runs on what somebody else's program put there.
    """

    classes: Mapping[Name, type] = dataclasses.field(default_factory=dict)

    def find(self, module: str, name: str) -> type:
        found = self.classes.get((module, name))
        if found is None:
            raise Forged(f"it names {_shorten(f'{module}.{name}')}, which neither went in nor was declared to come out")
        return found

    def make(self, kind: type, fields: dict[str, Any]) -> Any:
        if _is_model(kind):
            return _make_model(kind, fields)
        if hasattr(kind, "__post_init__"):
            raise Forged(_own_code(kind, "__post_init__"))
        _compare_fields(kind, fields, {field.name for field in dataclasses.fields(typing.cast(Any, kind))})
        made: Any = object.__new__(kind)
        for name, value in fields.items():
            object.__setattr__(made, name, value)
        return made


NOTHING = Entered()
"""No class at all: what is read with it is made of Python's, numpy's and pandas' values."""


@dataclasses.dataclass(frozen=True, slots=True)
class Parcel:
    """A packed value on its way; `classes` are those of what was packed here, empty for what came from elsewhere."""

    packed: JSON
    classes: Mapping[Name, type] = dataclasses.field(default_factory=dict, compare=False)

    @classmethod
    def of(cls, value: Any, *, where: str) -> Parcel:
        packer = _Packer()
        return cls(packer.pack(value, where, _DEPTH), packer.classes)

    def open(self, classes: Classes) -> Any:
        """The value. Raises Forged for what no packing makes, and for a class that is not among `classes`."""
        return unpack(self.packed, classes)


def declare(kinds: Iterable[type]) -> dict[Name, type]:
    """These classes, and those that their fields are declared to hold."""
    found: dict[Name, type] = {}
    left = list(kinds)
    while left:
        kind = left.pop()
        if not _is_packable(kind) or (kind.__module__, kind.__qualname__) in found:
            left += [each for each in typing.get_args(kind) if each is not Ellipsis]
            continue
        found[(kind.__module__, kind.__qualname__)] = kind
        left += [] if issubclass(kind, enum.Enum) else typing.get_type_hints(kind).values()
    return found


def _is_packable(kind: Any) -> bool:
    """Whether instances of this can be packed by their fields."""
    return inspect.isclass(kind) and (issubclass(kind, enum.Enum) or dataclasses.is_dataclass(kind) or _is_model(kind))


def _is_model(kind: type) -> bool:
    pydantic = sys.modules.get("pydantic")
    return pydantic is not None and issubclass(kind, pydantic.BaseModel)


# -- there


def pack(value: Any, *, where: str) -> JSON:
    """`value` as JSON from which `unpack` makes the same. Raises Unpackable, which names `where`."""
    return _Packer().pack(value, where, _DEPTH)


class _Packer:
    """One packing: no method of a value that is not of Python, numpy or pandas is called."""

    def __init__(self) -> None:
        self.classes: dict[Name, type] = {}

    def pack(self, value: Any, where: str, depth: int) -> JSON:
        kind = type(value)
        if value is None or kind in (str, int, bool) or (kind is float and math.isfinite(value)):
            return value
        if depth == 0:
            raise UserError(f"{where} is nested more than {_DEPTH} deep, or contains itself")
        if kind is list:
            return [self.pack(item, f"{where}[{place}]", depth - 1) for place, item in enumerate(value)]
        if kind in (dict, collections.OrderedDict, collections.Counter):
            return self._dict(value, where, depth)
        found = _text(value) or self._sequence(value, where, depth) or self._library(value, where, depth)
        found = found or self._object(value, where, depth)
        if found is None:
            raise Unpackable(where, kind)
        return found

    def _dict(self, value: Mapping[Any, Any], where: str, depth: int) -> JSON:
        if _TAG not in value and all(type(key) is str for key in value):
            return {key: self.pack(item, f"{where}[{key!r}]", depth - 1) for key, item in value.items()}
        pairs = [
            [self.pack(key, where, depth - 1), self.pack(item, f"{where}[{_key(key)}]", depth - 1)]
            for key, item in value.items()
        ]
        return {_TAG: "dict", "of": pairs}

    def _sequence(self, value: Any, where: str, depth: int) -> JSON:
        for tag, kind in _SEQUENCES.items():
            if type(value) is kind:
                return {_TAG: tag, "of": [self.pack(item, where, depth - 1) for item in value]}
        return None

    def _object(self, value: Any, where: str, depth: int) -> JSON:
        """Members of an Enum, dataclasses and pydantic models, by the name of their class and their fields."""
        kind = type(value)
        if kind.__module__ == SANDBOX or not _is_packable(kind):
            return None
        self.classes[(kind.__module__, kind.__qualname__)] = kind
        named = {_TAG: "object", "module": kind.__module__, "name": kind.__qualname__}
        if issubclass(kind, enum.Enum):
            if value._name_ not in kind._member_map_:
                raise Unpackable(where, kind)
            return {**named, _TAG: "enum", "of": value._name_}
        names = type(value).model_fields if _is_model(kind) else [field.name for field in dataclasses.fields(value)]
        fields = {name: _field(value, name, where) for name in names}
        return {**named, "of": {name: self.pack(item, f"{where}.{name}", depth - 1) for name, item in fields.items()}}

    # numpy and pandas, where they are in use

    def _library(self, value: Any, where: str, depth: int) -> JSON:
        numpy, pandas = sys.modules.get("numpy"), sys.modules.get("pandas")
        kind = type(value)
        if numpy is not None and issubclass(kind, numpy.ndarray | numpy.generic):
            return self._array(value, numpy, where, depth)
        if pandas is None or not hasattr(pandas, "DataFrame"):
            return None
        if value is pandas.NA or value is pandas.NaT:
            return {_TAG: "NA" if value is pandas.NA else "NaT"}
        if issubclass(kind, pandas.Timestamp | pandas.Timedelta):
            tag = "moment" if issubclass(kind, pandas.Timestamp) else "span"
            return {_TAG: tag, "of": value.isoformat(), "zone": _zone(value)}
        if issubclass(kind, pandas.DataFrame):
            return self._frame(value, where, depth)
        if issubclass(kind, pandas.Series):
            held = {"values": self._column(value.array, where, depth), "index": self._index(value.index, where, depth)}
            return {_TAG: "series", "name": self.pack(value.name, where, depth - 1), **held}
        if issubclass(kind, pandas.Index):
            return self._index(value, where, depth)
        return None

    def _array(self, value: Any, numpy: Any, where: str, depth: int) -> JSON:
        array = numpy.asarray(value)
        shape = {_TAG: "array", "shape": list(array.shape), "scalar": isinstance(value, numpy.generic)}
        if array.dtype.kind in _BINARY:
            data = base64.b64encode(numpy.ascontiguousarray(array).tobytes()).decode()
            return {**shape, "dtype": array.dtype.str, "data": data}
        if array.dtype.kind != "O":
            raise Unpackable(where, type(value))
        items = [self.pack(item, where, depth - 1) for item in array.ravel().tolist()]
        return {**shape, "dtype": "object", "items": items}

    def _frame(self, frame: Any, where: str, depth: int) -> JSON:
        columns = [self._column(frame.iloc[:, place].array, where, depth) for place in range(frame.shape[1])]
        return {
            _TAG: "frame",
            "names": self._index(frame.columns, where, depth),
            "index": self._index(frame.index, where, depth),
            "columns": columns,
        }

    def _column(self, array: Any, where: str, depth: int) -> JSON:
        """A pandas array by its kind: plain numbers as they are, the others as what they are made of."""
        import numpy
        import pandas

        dtype = array.dtype
        if isinstance(dtype, numpy.dtype) or isinstance(array, pandas.arrays.NumpyExtensionArray):
            return {"as": "array", "of": self._array(numpy.asarray(array), numpy, where, depth)}
        if isinstance(dtype, pandas.CategoricalDtype):
            codes = self._array(array.codes, numpy, where, depth)
            return {"as": "category", "of": codes, "ordered": bool(dtype.ordered),
                    "categories": self._index(dtype.categories, where, depth)}  # fmt: skip
        if isinstance(dtype, pandas.DatetimeTZDtype):
            utc = numpy.asarray(array.tz_convert("UTC").tz_localize(None))
            return {"as": "zoned", "zone": str(dtype.tz), "of": self._array(utc, numpy, where, depth)}
        items = [
            item if type(item) is str else None if item is pandas.NA else self.pack(item, where, depth - 1)
            for item in array
        ]
        return {"as": "items", "dtype": str(dtype), "of": items}

    def _index(self, index: Any, where: str, depth: int) -> JSON:
        import pandas

        names = [self.pack(name, where, depth - 1) for name in index.names]
        if isinstance(index, pandas.RangeIndex):
            return {_TAG: "index", "as": "range", "of": [index.start, index.stop, index.step], "names": names}
        if isinstance(index, pandas.MultiIndex):
            levels = [self._column(index.get_level_values(place).array, where, depth) for place in range(index.nlevels)]
            return {_TAG: "index", "as": "levels", "of": levels, "names": names}
        return {_TAG: "index", "as": "plain", "of": self._column(index.array, where, depth), "names": names}


def _key(key: Any) -> str:
    # Of another's class the repr is another's code.
    return repr(key) if type(key) in (str, int, float, bool) else type(key).__qualname__


def _field(value: Any, name: str, where: str) -> Any:
    """The field as it is held: what a property of that name would compute is somebody's code."""
    found = inspect.getattr_static(value, name)
    if type(found) is types.MemberDescriptorType:
        return found.__get__(value)
    if hasattr(type(found), "__get__"):
        raise Unpackable(f"{where}.{name}", type(found))
    return found


def _text(value: Any) -> JSON:
    kind = type(value)
    if kind is float:
        return {_TAG: "float", "of": str(value)}
    if kind is complex:
        return {_TAG: "complex", "of": [str(value.real), str(value.imag)]}
    if kind is datetime.timedelta:
        return {_TAG: "timedelta", "of": [value.days, value.seconds, value.microseconds]}
    if kind is range:
        return {_TAG: "range", "of": [value.start, value.stop, value.step]}
    for tag, (known, write, _) in _TEXTS.items():
        if kind is known or (known is pathlib.PurePath and issubclass(kind, known)):
            return {_TAG: tag, "of": write(value)}
    return None


def _zone(value: Any) -> str | None:
    zone = getattr(value, "tz", None)
    return None if zone is None else str(zone)


# -- and back


def unpack(packed: JSON, classes: Classes) -> Any:
    """The value that was packed. Raises Forged for anything that no packing makes."""
    try:
        return _TypedReader(classes).read(packed, _DEPTH)
    except NOT_DATA as error:
        raise Forged(f"it holds what is no value: {type(error).__name__}: {_shorten(str(error))}") from error


NOT_DATA = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, RecursionError)
"""What Python's, numpy's and pandas' constructors raise on what is none of theirs."""


class _TypedReader:
    """One reading: what it makes is bounded by what was sent."""

    def __init__(self, classes: Classes) -> None:
        self._classes = classes
        self._large = 0

    def read(self, packed: JSON, depth: int) -> Any:
        kind = type(packed)
        if kind is not dict and kind is not list:
            return packed
        if depth == 0:
            raise Forged(f"it is nested more than {_DEPTH} deep")
        if kind is list:
            return [self.read(item, depth - 1) for item in packed]
        if _TAG not in packed:
            return {key: self.read(item, depth - 1) for key, item in packed.items()}
        tag = packed[_TAG]
        text = _TEXTS.get(tag)
        return self._value(_string(tag), packed, depth) if text is None else text[2](_string(packed["of"]))

    def _value(self, tag: str, packed: dict[str, Any], depth: int) -> Any:
        # A queue takes 700 bytes, a frame some thousand, and twenty letters can ask for one.
        self._large += tag in ("deque", "series", "index", "frame")
        if self._large > _MOST_LARGE:
            raise Forged(f"it holds more than {_MOST_LARGE:,} frames, series and queues")
        if tag in _PARTS:
            return _PARTS[tag](packed["of"])
        if tag in _SEQUENCES:
            items = [self.read(item, depth - 1) for item in packed["of"]]
            return _SEQUENCES[tag](items if tag in ("tuple", "deque") else _scatter(items))
        match tag:
            case "dict":
                pairs = [(self.read(key, depth - 1), self.read(item, depth - 1)) for key, item in packed["of"]]
                _scatter([key for key, _ in pairs])
                return dict(pairs)
            case "enum":
                return self._member(packed)
            case "object":
                kind = self._classes.find(_string(packed["module"]), _string(packed["name"]))
                if issubclass(kind, enum.Enum):
                    raise Forged(f"it makes a member of {kind.__qualname__}, which has those it has")
                fields = {name: self.read(item, depth - 1) for name, item in packed["of"].items()}
                return self._classes.make(kind, fields)
            case "array":
                return self._array(packed, depth)
            case _:
                return self._library(tag, packed, depth)

    def _member(self, packed: Mapping[str, Any]) -> Any:
        kind = self._classes.find(_string(packed["module"]), _string(packed["name"]))
        if not issubclass(kind, enum.Enum):
            raise Forged(f"it takes {kind.__qualname__} for an Enum")
        return kind._member_map_[packed["of"]]

    def _library(self, tag: str, packed: dict[str, Any], depth: int) -> Any:
        import pandas

        match tag:
            case "NA":
                return pandas.NA
            case "NaT":
                return pandas.NaT
            case "moment":
                moment = pandas.Timestamp(_string(packed["of"]))
                return moment if packed["zone"] is None else moment.tz_convert(_match(_ZONE, packed["zone"]))
            case "span":
                return pandas.Timedelta(_string(packed["of"]))
            case "series" | "index" | "frame":
                return self._table(tag, packed, depth)
            case _:
                raise Forged(f"it holds a value of the unknown kind {_shorten(str(tag))}")

    def _table(self, tag: str, packed: dict[str, Any], depth: int) -> Any:
        import pandas

        if tag == "index":
            return self._index(packed, depth)
        index = self._index(packed["index"], depth)
        sent = [packed["values"]] if tag == "series" else packed["columns"]
        columns = [self._column(column, depth) for column in sent]
        if any(len(column) != len(index) for column in columns):
            # A shorter one would be repeated, to whatever length the index claims.
            raise Forged("it holds a table whose columns are not as long as its index")
        if tag == "series":
            return pandas.Series(columns[0], index=index, name=self.read(packed["name"], depth - 1))
        frame = pandas.DataFrame(dict(enumerate(columns)), index=index)
        frame.columns = self._index(packed["names"], depth)
        return frame

    def _array(self, packed: Mapping[str, Any], depth: int) -> Any:
        import numpy

        if packed["dtype"] == "object":
            array = numpy.empty(len(packed["items"]), dtype=object)
            for place, item in enumerate(packed["items"]):
                array[place] = self.read(item, depth - 1)
        else:
            dtype = numpy.dtype(_match(_DTYPE, packed["dtype"]))
            array = numpy.frombuffer(base64.b64decode(packed["data"]), dtype=dtype).copy()
        array = array.reshape(packed["shape"])
        return array[()] if packed["scalar"] else array

    def _column(self, column: Mapping[str, Any], depth: int) -> Any:
        import pandas

        match column["as"]:
            case "array":
                return self._flat(column["of"], depth)
            case "category":
                categories = self._index(column["categories"], depth)
                codes = self._flat(column["of"], depth)
                return pandas.Categorical.from_codes(codes, categories=categories, ordered=bool(column["ordered"]))
            case "zoned":
                moments = pandas.DatetimeIndex(self._flat(column["of"], depth))
                return moments.tz_localize("UTC").tz_convert(_match(_ZONE, column["zone"]))
            case "items":
                items = [self.read(item, depth - 1) for item in column["of"]]
                return pandas.array(items, dtype=_match(_EXTENSION, column["dtype"]))
            case other:
                raise Forged(f"it holds a column of the unknown kind {_shorten(str(other))}")

    def _flat(self, packed: Mapping[str, Any], depth: int) -> Any:
        array = self._array(packed, depth)
        if packed["scalar"] or array.ndim != 1:
            raise Forged("it holds a column that is none")
        return array

    def _index(self, packed: Mapping[str, Any], depth: int) -> Any:
        import pandas

        names = [self.read(name, depth - 1) for name in packed["names"]]
        match packed["as"]:
            case "range":
                return pandas.RangeIndex(*packed["of"], name=names[0])
            case "levels":
                return pandas.MultiIndex.from_arrays(
                    [self._column(level, depth) for level in packed["of"]], names=names
                )
            case "plain":
                return pandas.Index(self._column(packed["of"], depth), name=names[0])
            case other:
                raise Forged(f"it holds an index of the unknown kind {_shorten(str(other))}")


def _string(value: Any) -> str:
    if not isinstance(value, str):
        raise Forged(f"it holds a {type(value).__name__} where text stands")
    return value


def _match(pattern: re.Pattern[str], text: Any) -> str:
    if pattern.fullmatch(_string(text)) is None:
        raise Forged(f"it holds {_shorten(text)}, which is no name of that kind")
    return text  # type: ignore[no-any-return]


def _scatter(keys: list[Any]) -> list[Any]:
    """The keys, unless many were chosen to fall on one place, where each is compared with all before it."""
    if len(keys) > _MOST_ALIKE:
        [(_, most)] = collections.Counter(map(hash, keys)).most_common(1)
        if most > _MOST_ALIKE:
            raise Forged(f"it holds {most:,} keys of one hash")
    return keys


def _shorten(text: str) -> str:
    return ascii(text)[:200]


# -- what is made of fields


def _compare_fields(kind: type, fields: Mapping[str, Any], known: Iterable[str]) -> None:
    if set(fields) != set(known):
        raise Forged(f"it holds a {kind.__qualname__} with other fields than that has")


def _make_model(kind: Any, fields: dict[str, Any]) -> Any:
    import pydantic

    _compare_fields(kind, fields, kind.model_fields)
    if not kind.model_post_init.__module__.startswith("pydantic."):
        raise Forged(_own_code(kind, "model_post_init"))
    construct: Any = pydantic.BaseModel.model_construct
    return construct.__func__(kind, **fields)


def _own_code(kind: type, method: str) -> str:
    return (
        f"it holds a {kind.__qualname__}, whose own {method} would have to run here on what the program made: "
        "let it give the fields back"
    )
