"""What was learnt of the limits of model servers, kept for the next kernel of this user: a place to begin, no more."""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

_TABLE = (
    "CREATE TABLE IF NOT EXISTS learnt_limit (name TEXT PRIMARY KEY, number INTEGER NOT NULL, period REAL NOT NULL, "
    "learnt REAL NOT NULL) WITHOUT ROWID"
)
_LONGEST_NAME = 300
_MOST_NAMES = 500
_DAY = 86_400.0
_LARGEST = 10_000_000


class LearntLimit(NamedTuple):
    """So many at once, where `period` is 0; otherwise so many in that many seconds."""

    number: int
    period: float


class LearntLimits:
    """Limits by what they are of, in the small file beside the circuits; one that cannot be used holds nothing.

    Whatever else can write to the file: a limit out of bounds, of yesterday or of tomorrow is no limit.
    """

    def __init__(self, path: Path, *, clock: Callable[[], float] = time.time) -> None:
        self._path = path
        self._clock = clock
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self._usable = True

    def find(self, name: str) -> LearntLimit | None:
        with self._lock, suppress(sqlite3.Error):
            connection = self._open()
            if connection is None:
                return None
            found = connection.execute(
                "SELECT number, period, learnt FROM learnt_limit WHERE name = ?", (name[:_LONGEST_NAME],)
            ).fetchone()
            return None if found is None else self._check(*found)
        return None

    def _check(self, number: object, period: object, learnt: object) -> LearntLimit | None:
        if not (isinstance(number, int) and isinstance(period, float) and isinstance(learnt, float)):
            return None
        lately = 0 <= self._clock() - learnt < _DAY
        return LearntLimit(number, period) if lately and 1 <= number <= _LARGEST and 0 <= period <= _DAY else None

    def keep(self, name: str, limit: LearntLimit) -> None:
        with self._lock, suppress(sqlite3.Error):
            connection = self._open()
            if connection is None:
                return
            now = self._clock()
            connection.execute(
                "INSERT OR REPLACE INTO learnt_limit VALUES (?, ?, ?, ?)",
                (name[:_LONGEST_NAME], limit.number, float(limit.period), now),
            )
            connection.execute(
                "DELETE FROM learnt_limit WHERE name NOT IN "
                "(SELECT name FROM learnt_limit ORDER BY learnt DESC LIMIT ?)",
                (_MOST_NAMES,),
            )

    def close(self) -> None:
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    def _open(self) -> sqlite3.Connection | None:
        if self._connection is None and self._usable:
            try:
                self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                os.close(os.open(self._path, os.O_CREAT | os.O_RDWR, 0o600))
                connection = sqlite3.connect(self._path, timeout=0.2, isolation_level=None, check_same_thread=False)
                connection.execute("PRAGMA journal_mode=WAL")
                connection.execute("PRAGMA synchronous=OFF")
                connection.execute(_TABLE)
            except (OSError, sqlite3.Error):
                self._usable = False
                return None
            self._connection = connection
        return self._connection
