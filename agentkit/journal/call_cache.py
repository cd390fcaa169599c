"""The call cache: answers reused across projects (`user`) or by a team (`shared`), with a size limit and an end.

Losing it costs money, never correctness: whatever is wrong with the file or with a row is reported and is a miss.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import sqlite3
import stat
import struct
import time
from collections.abc import Callable
from contextlib import closing, suppress
from importlib import import_module
from pathlib import Path
from typing import Any, Final, Literal

from agentkit.errors import UserError
from agentkit.journal.storage import on_network

CacheScope = Literal["user", "shared"]
SIZE_LIMIT: Final = 1 << 30
SECRET_VARIABLE: Final = "AGENTKIT_SHARED_KEY"

_FILE: Final = "cache.db"
_DOMAIN: Final = b"agentkit call cache 1\0"
_HEADER: Final = struct.Struct("<32sd")  # what proves the row, and when it ends
_LOCK_SECONDS: Final = 2.0

_SETTINGS: Final[dict[str, Any]] = {
    "statistics": 0,
    "tag_index": 0,
    "eviction_policy": "least-recently-stored",
    "cull_limit": 10,
    "sqlite_auto_vacuum": 1,
    "sqlite_cache_size": 1 << 13,
    "sqlite_mmap_size": 0,
    # Values of 32 KB and more in files of their own came back as wrong bytes after a power cut.
    "disk_min_file_size": 1 << 30,
    "disk_pickle_protocol": 5,
}
_COUNTERS: Final = ("count", "size", "hits", "misses")


class CallCache:
    """Bytes by key, on disk. Made by `open`; safe to use from any thread."""

    def __init__(self, cache: Any, *, path: Path, secret: bytes, report: Callable[[str], None]) -> None:
        self.path = path
        self._cache = cache
        self._secret = secret
        self._report = report

    @classmethod
    def open(
        cls,
        folder: Path,
        *,
        scope: CacheScope = "user",
        report: Callable[[str], None],
        secret: bytes | None = None,
        size_limit: int = SIZE_LIMIT,
    ) -> CallCache:
        """Open or make the cache in `folder`; one that cannot be used is reported once and then always misses.

        `secret` (default: $AGENTKIT_SHARED_KEY, for `shared` only) makes rows of people without it misses.
        """
        if secret is None and scope == "shared":
            secret = os.environ.get(SECRET_VARIABLE, "").encode()
        path = folder / _FILE
        _check_folder(folder, scope=scope, signed=bool(secret))
        if scope == "shared" and not secret:
            report(
                f"{folder}: everybody who can write there can forge answers that your agents take for a model's or a "
                f"tool's: have the team set {SECRET_VARIABLE} to one secret"
            )
        # Imported at first use: no scope beyond the project, no diskcache.
        disk = import_module("agentkit.journal.bytes_disk")
        cache: Any = None
        try:
            _make_file(path, scope)
            settings = _settings(path, size_limit)
            _assert_settings(path, settings)
            cache = disk.Cache(str(folder), timeout=_LOCK_SECONDS, disk=disk.BytesDisk, **settings)
        except _errors() as error:
            report(f"{path}: the call cache cannot be used ({error}); calls are made live. Delete {folder} to renew it")
        return cls(cache, path=path, secret=secret or b"", report=report)

    def get(self, key: bytes) -> bytes | None:
        """The body put under `key`, if it is still there, whole, in time and ours."""
        if self._cache is None:
            return None
        try:
            stored = self._cache.get(key)
        except _errors() as error:
            self._report_miss(key, str(error))
            return None
        if stored is None:
            return None
        return self._open_entry(key, stored)

    def put(self, key: bytes, body: bytes, ttl: float | None = None) -> None:
        """Keep `body` for `ttl` seconds (None: until the size limit drops it)."""
        if self._cache is None:
            return
        ends = time.time() + ttl if ttl is not None else float("inf")
        try:
            self._cache.set(key, self._seal(key, body, ends), expire=ttl)
        except _errors() as error:
            self._report(f"{self.path}: an answer was not kept in the call cache ({error})")

    def forget(self, key: bytes) -> None:
        """Never answer `key` from this cache again, until it is put anew."""
        if self._cache is None:
            return
        try:
            self._cache.delete(key)
        except _errors() as error:
            self._report(f"{self.path}: an answer could not be dropped from the call cache ({error})")

    def close(self) -> None:
        if self._cache is not None:
            self._cache.close()
            self._cache = None

    def _seal(self, key: bytes, body: bytes, ends: float) -> bytes:
        return _HEADER.pack(self._proof(key, body, ends), ends) + body

    def _open_entry(self, key: bytes, stored: bytes) -> bytes | None:
        if len(stored) < _HEADER.size:
            self._report_miss(key, "the row is cut short")
            return None
        proof, ends = _HEADER.unpack_from(stored)
        body = stored[_HEADER.size :]
        if not hmac.compare_digest(proof, self._proof(key, body, ends)):
            self._report_miss(key, "the row does not match its checksum")
            return None
        # Said by the sealed row, not by the table, whose column anybody who can write may move.
        return body if ends > time.time() else None

    def _proof(self, key: bytes, body: bytes, ends: float) -> bytes:
        # The key and the end are part of what is proven: a row moved to another key is as wrong as a changed one.
        return hmac.digest(self._secret, _DOMAIN + struct.pack("<Qd", len(key), ends) + key + body, hashlib.sha256)

    def _report_miss(self, key: bytes, reason: str) -> None:
        self._report(f"{self.path}: {reason}; {key.hex()[:12]} is asked live")


def _errors() -> tuple[type[Exception], ...]:
    disk = import_module("agentkit.journal.bytes_disk")
    return (sqlite3.Error, OSError, disk.Timeout, disk.ForeignRow)


def _check_folder(folder: Path, *, scope: CacheScope, signed: bool) -> None:
    """A cache in which anybody could plant an answer is refused."""
    if scope == "user":
        with suppress(OSError):
            # Where the home cannot be written to there is no cache, which whoever opens it is told.
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    elif not folder.is_dir():
        raise UserError(f"shared folder {folder} is not there: make it, or name the one your team uses")
    for place in (folder, folder / _FILE):
        with suppress(FileNotFoundError, NotADirectoryError):
            _check_place(place, place.lstat(), scope=scope, signed=signed)


def _check_place(place: Path, found: os.stat_result, *, scope: CacheScope, signed: bool) -> None:
    if place.name == _FILE and not stat.S_ISREG(found.st_mode):
        raise UserError(f"{place} is not a plain file: remove it, the call cache makes its own")
    if scope == "shared":
        if found.st_mode & stat.S_IWOTH and not signed:
            raise UserError(f"{place} can be written by anybody: chmod o-w it, or have the team set {SECRET_VARIABLE}")
    elif found.st_uid != os.getuid():
        raise UserError(f"{place} belongs to another user: name a folder of your own, or use the scope `shared`")
    elif found.st_mode & 0o077:
        place.chmod(found.st_mode & 0o700)


def _make_file(path: Path, scope: CacheScope) -> None:
    with suppress(FileExistsError):
        # SQLite gives its side files the mode of this one.
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        if scope == "shared":
            path.chmod(0o660)


def _assert_settings(path: Path, settings: dict[str, Any]) -> None:
    """Put ours before diskcache reads them: it sets attributes and runs PRAGMAs as the last opener's rows say."""
    with closing(sqlite3.connect(path, timeout=_LOCK_SECONDS, isolation_level=None)) as connection:
        connection.execute("PRAGMA trusted_schema=OFF")
        # Also finds out in two seconds, not in diskcache's sixty, that somebody holds the file.
        connection.execute("BEGIN IMMEDIATE")
        if connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'Settings'").fetchone():
            marks = ",".join("?" * len(_COUNTERS))
            connection.execute(f"DELETE FROM Settings WHERE key NOT IN ({marks})", _COUNTERS)
            connection.executemany("INSERT INTO Settings VALUES (?, ?)", settings.items())
        connection.execute("COMMIT")
        if connection.execute("PRAGMA auto_vacuum").fetchone() != (1,):
            # Without it the file never shrinks below its limit, and every put would drop ten answers.
            connection.execute("PRAGMA auto_vacuum=FULL")
            connection.execute("VACUUM")


def _settings(path: Path, size_limit: int) -> dict[str, Any]:
    # WAL needs memory shared between processes, which a network file system does not give.
    remote = on_network(path.parent.resolve())
    return {
        **_SETTINGS,
        "size_limit": size_limit,
        "sqlite_journal_mode": "delete" if remote else "wal",
        "sqlite_synchronous": 3 if remote else 2,
    }
