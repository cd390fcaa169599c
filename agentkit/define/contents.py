"""The content of data as bytes to hash: scalars, arrays and frames, each bounded by what may be spent on it."""

from __future__ import annotations

import array
import datetime
import decimal
import fractions
import hashlib
import pathlib
import pickle
import re
import sys
import uuid
from collections.abc import Callable
from typing import Any, TypeAlias

BYTES_PER_SECOND = 400_000_000
"""What sha256 does on a slow machine; size, not the clock, decides, so that equal values always get equal digests."""

CELLS_PER_SECOND = 4_000_000
_SAMPLE = 10_000

_SCALARS = (
    bool,
    int,
    float,
    complex,
    str,
    bytes,
    bytearray,
    range,
    slice,
    datetime.date,
    datetime.time,
    datetime.timedelta,
    datetime.tzinfo,
    decimal.Decimal,
    fractions.Fraction,
    uuid.UUID,
    type(None),
    type(...),
    type(NotImplemented),
)


Cells: TypeAlias = Callable[[list[Any]], bytes]


class TooLarge(Exception):
    """Hashing the whole value would take longer than was allowed."""


def scalar(value: object) -> bytes | None:
    """The content of a value that has no parts."""
    if isinstance(value, pathlib.PurePath):
        return _tagged("path", str(value))
    if isinstance(value, re.Pattern):
        return _tagged("pattern", (value.pattern, value.flags))
    if isinstance(value, array.array):
        return _tagged("array", (value.typecode, value.tobytes()))
    if isinstance(value, int) and type(value) is int:
        return _tagged("int", hex(value))
    if type(value) in _SCALARS or (isinstance(value, _SCALARS) and type(value).__module__ in ("datetime", "zoneinfo")):
        return _tagged(type(value).__name__, value)
    return None


def plain(value: object) -> bytes | None:
    """The content of a value of a class made from a number, a text, a date; None for another one."""
    base: Any = next((cls for cls in type(value).__mro__ if cls in _SCALARS), None)
    return None if base is None else _sha(_tagged(base.__name__, base.__repr__(value)))


def _tagged(name: str, value: object) -> bytes:
    return f"{name}:{value!r}".encode("utf-8", "backslashreplace")


def data(value: Any, seconds: float, cells: Cells) -> tuple[bytes, bool] | None:
    """The digest of an array, series, index or frame and whether it is of all of it; None for anything else.

    `cells` is the digest of a list of objects, for arrays that hold such.
    """
    numpy = sys.modules.get("numpy")
    if numpy is None or not hasattr(numpy, "ndarray"):
        return None
    if isinstance(value, numpy.generic):
        return _sha(_tagged(str(value.dtype), value.item() if value.dtype.hasobject else value.tobytes())), True
    if isinstance(value, numpy.ndarray):
        whole = value.nbytes <= BYTES_PER_SECOND * seconds and (
            not value.dtype.hasobject or value.size <= CELLS_PER_SECOND * seconds
        )
        return _array(value if whole else _spread(value.reshape(-1)), value.shape, cells), whole
    pandas = sys.modules.get("pandas")
    if pandas is None or not hasattr(pandas, "DataFrame"):
        return None
    return _pandas(pandas, value, seconds, cells)


def _pandas(pandas: Any, value: Any, seconds: float, cells: Cells) -> tuple[bytes, bool] | None:
    if isinstance(value, pandas.DataFrame | pandas.Series | pandas.Index):
        whole = value.memory_usage(index=True).sum() if isinstance(value, pandas.DataFrame) else value.nbytes
        fits = bool(whole <= BYTES_PER_SECOND * seconds and value.size <= CELLS_PER_SECOND * seconds)
        return _frame(pandas, value if fits else _spread(value), value.shape, cells), fits
    if type(value).__module__.startswith("pandas.") and hasattr(value, "dtype") and hasattr(value, "__array__"):
        return _column(pandas, value, cells), True
    if isinstance(value, pandas.Timestamp | pandas.Timedelta | pandas.Period | pandas.Interval):
        return _sha(_tagged(type(value).__name__, value)), True
    if value is pandas.NA or value is pandas.NaT:
        return _sha(b"missing"), True
    return None


def _spread(value: Any) -> Any:
    """Rows evenly spread over all of it, with the first and the last."""
    step = max(1, len(value) // _SAMPLE)
    rows = [*range(0, len(value), step), len(value) - 1]
    return value.iloc[rows] if hasattr(value, "iloc") else value[rows]


def _array(value: Any, shape: tuple[int, ...], cells: Cells) -> bytes:
    head = _tagged("ndarray", (str(value.dtype), shape))
    if value.dtype.hasobject:
        return _sha(head, cells(list(value.reshape(-1))))
    numpy = sys.modules["numpy"]
    return _sha(head, memoryview(numpy.ascontiguousarray(value).reshape(-1).view(numpy.uint8)))


def _frame(pandas: Any, value: Any, shape: tuple[int, ...], cells: Cells) -> bytes:
    if isinstance(value, pandas.DataFrame):
        columns = [_column(pandas, value.iloc[:, place].array, cells) for place in range(value.shape[1])]
        return _sha(
            _tagged("frame", shape), _index(pandas, value.columns, cells), _index(pandas, value.index, cells), *columns
        )
    if isinstance(value, pandas.Series):
        named = _tagged("series", (value.name, shape))
        return _sha(named, _index(pandas, value.index, cells), _column(pandas, value.array, cells))
    return _sha(_tagged("index", shape), _index(pandas, value, cells))


def _index(pandas: Any, index: Any, cells: Cells) -> bytes:
    names = _tagged("names", tuple(index.names))
    if isinstance(index, pandas.RangeIndex):
        return _sha(names, _tagged("range", (index.start, index.stop, index.step)))
    if isinstance(index, pandas.MultiIndex):
        levels = (index.get_level_values(level).array for level in range(index.nlevels))
        return _sha(names, *(_column(pandas, level, cells) for level in levels))
    return _sha(names, _column(pandas, index.array, cells))


def _column(pandas: Any, values: Any, cells: Cells) -> bytes:
    kind = _tagged("dtype", str(values.dtype))
    plain = values.asi8 if hasattr(values, "asi8") else values.to_numpy() if hasattr(values, "to_numpy") else values
    if str(plain.dtype) in (str(values.dtype), "int64") and not plain.dtype.hasobject:
        return _sha(kind, _array(plain, plain.shape, cells))
    try:
        return _sha(kind, memoryview(pandas.util.hash_array(values, categorize=False)).cast("B"))
    except (TypeError, ValueError, NotImplementedError):
        # Cells such as lists and arrays have no hash of their own.
        return _sha(kind, cells(list(plain)))


def pickled(value: object, seconds: float, code: Callable[[Any], bytes | None]) -> bytes:
    """The digest of what an object of a library would be saved as; it is never loaded. Raises if it cannot be saved.

    `code` gives the digest of a function or class that would be saved as a mere name, or None where a name will do.
    """
    sink = _Sink(int(BYTES_PER_SECOND * seconds))
    pickler = _Pickler(sink, protocol=5)
    pickler.code = code
    pickler.dump(value)
    return sink.digest()


class _Pickler(pickle.Pickler):
    code: Callable[[Any], bytes | None]

    def reducer_override(self, value: Any) -> Any:
        digest = self.code(value)
        return NotImplemented if digest is None else (bytes, (digest,))


class _Sink:
    """A file that keeps a digest of what is written."""

    def __init__(self, limit: int) -> None:
        self._hash = hashlib.sha256()
        self._left = limit
        self.digest: Callable[[], bytes] = self._hash.digest

    def write(self, data: Any) -> int:
        view = memoryview(data)
        self._left -= view.nbytes
        if self._left < 0:
            raise TooLarge
        self._hash.update(view)
        return view.nbytes


def _sha(*pieces: bytes | memoryview) -> bytes:
    whole = hashlib.sha256()
    for piece in pieces:
        whole.update(piece)
    return whole.digest()
