"""How much a sandbox program may use: every limit has a value, and none can be switched off."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any

from agentkit.errors import UserError, nearest

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMG]?)(i?)B?$", re.IGNORECASE)
_TIME = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m)?$")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0}
_MOST_SECONDS = 3600.0
_MOST_BYTES = 64 << 30
_LEAST_BYTES = 4096


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """Bytes of `memory`, seconds of `time` spent computing, host `calls`, bytes `printed` and bytes of `source`.

    Time that a host call takes is not the program's.
    """

    memory: int = 256 << 20
    time: float = 10.0
    calls: int = 200
    printed: int = 1 << 20
    source: int = 64 << 10

    @classmethod
    def parse(cls, text: str, *, option: str = "limits") -> Limits:
        """`memory=256MB,time=10s,calls=200`; UserError names what is wrong and what can be said."""
        limits = cls()
        for part in filter(None, (part.strip() for part in text.split(","))):
            name, _, value = (piece.strip() for piece in part.partition("="))
            if name not in _READ:
                raise UserError(f"{option} {part}: unknown limit {name}{nearest(name, _READ)}; {_USAGE}")
            limits = replace(limits, **{name: _READ[name](value, f"{option} {name}")})
        return limits

    def __str__(self) -> str:
        return f"memory={self.memory / (1 << 20):g}MB,time={self.time:g}s,calls={self.calls}"


def _size(text: str, where: str) -> int:
    found = _SIZE.match(text)
    power = "KMG".find(found[2].upper()) + 1 if found and found[2] else 0
    size = int(float(found[1]) * 1024**power) if found else 0
    # A number alone is bytes: whoever means megabytes would be told of a limit of 256 bytes.
    if not 0 < size <= _MOST_BYTES or (text.isdecimal() and size < _LEAST_BYTES):
        raise UserError(f"{where}={text}: write a size such as 64KB or 256MB")
    return size


def _seconds(text: str, where: str) -> float:
    found = _TIME.match(text)
    seconds = float(found[1]) * _SECONDS[found[2] or "s"] if found else 0.0
    if not 0 < seconds <= _MOST_SECONDS:
        raise UserError(f"{where}={text}: write a time up to an hour, such as 500ms, 10s or 2m")
    return seconds


def _count(text: str, where: str) -> int:
    if not text.isdecimal() or len(text) > 6:
        raise UserError(f"{where}={text}: write a number of calls such as 200")
    return int(text)


_READ: dict[str, Callable[[str, str], Any]] = {
    "memory": _size,
    "time": _seconds,
    "calls": _count,
    "printed": _size,
    "source": _size,
}
_USAGE = "write memory=256MB,time=10s,calls=200 (and printed=1MB, source=64KB)"
assert set(_READ) == {field.name for field in fields(Limits)}
