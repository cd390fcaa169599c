"""The content of data as bytes to hash: scalars, arrays, frames, trees of lists and dicts, and what can be saved."""

from __future__ import annotations

import array
import datetime
import decimal
import fractions
import hashlib
import marshal
import os
import pathlib
import pickle
import re
import sys
import uuid
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, TypeAlias

BYTES_PER_SECOND = 400_000_000
"""What sha256 does on a slow machine; size, not the clock, decides, so that equal values always get equal digests."""

CELLS_PER_SECOND = 4_000_000
_REMEMBERED_BYTES = 256 << 10
_BLOCK = 4096
_ROWS = 64
_MOST_REMEMBERED = 4096
_MOST_WAITING = 20_000_000

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
        return _tag("path", str(value))
    if isinstance(value, re.Pattern):
        return _tag("pattern", (value.pattern, value.flags))
    if isinstance(value, array.array):
        return _tag("array", (value.typecode, value.tobytes()))
    if isinstance(value, int) and type(value) is int:
        return _tag("int", hex(value))
    if type(value) in _SCALARS or (isinstance(value, _SCALARS) and type(value).__module__ in ("datetime", "zoneinfo")):
        return _tag(type(value).__name__, value)
    return None


def plain(value: object) -> bytes | None:
    """The content of a value of a class made from a number, a text, a date; None for another one."""
    base: Any = next((cls for cls in type(value).__mro__ if cls in _SCALARS), None)
    return None if base is None else _sha(_tag(base.__name__, base.__repr__(value)))


def _tag(name: str, value: object) -> bytes:
    return f"{name}:{value!r}".encode("utf-8", "backslashreplace")


def data(value: Any, cells: Cells) -> bytes | None:
    """The digest of an array, series, index or frame, of all of it; None for anything else.

    `cells` is the digest of a list of objects, for arrays that hold such.
    """
    numpy = sys.modules.get("numpy")
    if numpy is None or not hasattr(numpy, "ndarray"):
        return None
    if isinstance(value, numpy.generic):
        return _sha(_tag(str(value.dtype), value.item() if value.dtype.hasobject else value.tobytes()))
    if isinstance(value, numpy.ndarray):
        return _array(value, cells)
    pandas = sys.modules.get("pandas")
    if pandas is None or not hasattr(pandas, "DataFrame"):
        return None
    return _pandas(pandas, value, cells)


def _pandas(pandas: Any, value: Any, cells: Cells) -> bytes | None:
    if isinstance(value, pandas.DataFrame | pandas.Series | pandas.Index):
        return _frame(pandas, value, cells)
    if type(value).__module__.startswith("pandas.") and hasattr(value, "dtype") and hasattr(value, "__array__"):
        return _column(pandas, value, cells)
    if isinstance(value, pandas.Timestamp | pandas.Timedelta | pandas.Period | pandas.Interval):
        return _sha(_tag(type(value).__name__, value))
    if value is pandas.NA or value is pandas.NaT:
        return _sha(b"missing")
    return None


def _array(value: Any, cells: Cells) -> bytes:
    head = _tag("ndarray", (str(value.dtype), value.shape))
    if value.dtype.hasobject:
        return _sha(head, cells(list(value.reshape(-1))))
    numpy = sys.modules["numpy"]
    return _of_buffer(numpy, head, numpy.ascontiguousarray(value).reshape(-1).view(numpy.uint8))


_remembered: OrderedDict[tuple[bytes, bytes], bytes] = OrderedDict()
_weights: list[Any] = []


def _of_buffer(numpy: Any, head: bytes, buffer: Any) -> bytes:
    """The digest of a buffer of bytes. That of a large one is remembered by a checksum of all of it, which costs less.

    What is changed in place has another checksum, so nothing needs to be known of who holds the buffer.
    """
    if buffer.nbytes < _REMEMBERED_BYTES:
        return _sha(head, memoryview(buffer))
    known = (head, _checksum(numpy, buffer))
    digest = _remembered.get(known)
    if digest is None:
        digest = _remembered[known] = _sha(head, memoryview(buffer))
        if len(_remembered) > _MOST_REMEMBERED:
            _remembered.popitem(last=False)
    return digest


def _checksum(numpy: Any, buffer: Any) -> bytes:
    """Of each block the sum of its words, each times an odd number that only this process knows.

    A word is first mixed with its upper half: two numbers that differ in their signs only would otherwise be exchanged
    unnoticed.
    """
    if not _weights:
        _weights.append(numpy.frombuffer(os.urandom(8 * _BLOCK), dtype=numpy.uint64) | numpy.uint64(1))
    whole = buffer.nbytes // (8 * _BLOCK) * (8 * _BLOCK)
    words = buffer[:whole].view(numpy.uint64).reshape(-1, _BLOCK)
    sums = hashlib.sha256(memoryview(buffer[whole:]))
    for start in range(0, len(words), _ROWS):
        some = words[start : start + _ROWS]
        mixed = some >> numpy.uint64(32)
        mixed ^= some
        sums.update(memoryview(mixed @ _weights[0]))
    return sums.digest()


def _frame(pandas: Any, value: Any, cells: Cells) -> bytes:
    shape = value.shape
    if isinstance(value, pandas.DataFrame):
        columns = [_column(pandas, value.iloc[:, place].array, cells) for place in range(value.shape[1])]
        return _sha(
            _tag("frame", shape), _index(pandas, value.columns, cells), _index(pandas, value.index, cells), *columns
        )
    if isinstance(value, pandas.Series):
        named = _tag("series", (value.name, shape))
        return _sha(named, _index(pandas, value.index, cells), _column(pandas, value.array, cells))
    return _sha(_tag("index", shape), _index(pandas, value, cells))


def _index(pandas: Any, index: Any, cells: Cells) -> bytes:
    names = _tag("names", tuple(index.names))
    if isinstance(index, pandas.RangeIndex):
        return _sha(names, _tag("range", (index.start, index.stop, index.step)))
    if isinstance(index, pandas.MultiIndex):
        levels = (index.get_level_values(level).array for level in range(index.nlevels))
        return _sha(names, *(_column(pandas, level, cells) for level in levels))
    return _sha(names, _column(pandas, index.array, cells))


def _column(pandas: Any, values: Any, cells: Cells) -> bytes:
    kind = _tag("dtype", str(values.dtype))
    plain = values.asi8 if hasattr(values, "asi8") else values.to_numpy() if hasattr(values, "to_numpy") else values
    if str(plain.dtype) in (str(values.dtype), "int64") and not plain.dtype.hasobject:
        return _sha(kind, _array(plain, cells))
    try:
        return _sha(kind, memoryview(pandas.util.hash_array(values, categorize=False)).cast("B"))
    except (TypeError, ValueError, NotImplementedError):
        # Cells such as lists and arrays have no hash of their own.
        return _sha(kind, cells(list(plain)))


_LEAVES = frozenset({int, float, bool, str, bytes, complex, type(None)})
_BRANCHES = frozenset({list, tuple, dict})


def tree(value: Any) -> bytes | None:
    """The digest of all of a list or dict, however large, of numbers, texts, lists and dicts; None for any other."""
    waiting: list[Any] = [value]
    while waiting:
        here = waiting.pop()
        items = [*here.keys(), *here.values()] if type(here) is dict else here
        kinds = set(map(type, items)) - _LEAVES
        if not kinds <= _BRANCHES:
            return None
        if kinds:
            waiting += [item for item in items if type(item) in _BRANCHES]
        if len(waiting) > _MOST_WAITING:
            # It contains itself, or is too wide to be looked through.
            return None
    try:
        # This old form says nothing of which parts are the same object, nor of how texts are kept.
        return _sha(b"tree ", marshal.dumps(value, 2))
    except ValueError:
        return None


def digest_pickle(value: object, seconds: float, code: Callable[[Any], bytes | None]) -> bytes:
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
