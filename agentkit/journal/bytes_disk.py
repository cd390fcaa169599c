"""The one way bytes enter and leave diskcache's table: inside the database, never as a pickle, never as a file."""

from __future__ import annotations

import sqlite3
from typing import Any, Final, NoReturn

from agentkit.errors import MissingExtra

try:
    import diskcache
except ImportError as error:
    raise MissingExtra("diskcache", "notebook") from error

Cache: Final = diskcache.Cache
Timeout: Final = diskcache.Timeout

_MODE_RAW: Final = 1


class ForeignRow(ValueError):
    """Raised when a row is not what this class writes: somebody else wrote it."""


class BytesDisk(diskcache.Disk):  # type: ignore[misc]  # diskcache ships no types
    """diskcache unpickles whatever a row tells it to (CVE-2025-69872; its JSONDisk too): only plain bytes pass here."""

    def put(self, key: Any) -> tuple[memoryview, bool]:
        if type(key) is not bytes:
            raise ForeignRow(f"a key must be bytes, not {type(key).__name__}")
        return sqlite3.Binary(key), True

    def get(self, key: Any, raw: Any) -> bytes:
        if raw != 1 or type(key) is not bytes:
            raise ForeignRow("a key in the table was not written by agentkit")
        return key

    def store(self, value: Any, read: Any, key: Any = None) -> tuple[int, int, None, memoryview]:
        if read or type(value) is not bytes:
            raise ForeignRow(f"a value must be bytes, not {type(value).__name__}")
        return 0, _MODE_RAW, None, sqlite3.Binary(value)

    def fetch(self, mode: Any, filename: Any, value: Any, read: Any) -> bytes:
        if mode != _MODE_RAW or filename is not None or read or type(value) is not bytes:
            raise ForeignRow("a value in the table was not written by agentkit")
        return value

    def filename(self, key: Any = None, value: Any = None) -> NoReturn:
        raise ForeignRow("values lie inside the database, never in files")

    def remove(self, file_path: Any) -> None:
        """Nothing: no row of ours names a file, and a planted name may lead anywhere."""
