"""How a journal file is opened: made when new, checked, and read even where nothing can be written."""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
from pathlib import Path
from typing import Final

from agentkit.errors import JournalError
from agentkit.journal import database_errors, schema
from agentkit.journal.storage import StorageLocation

# How SQLite says that it could not make the index of the log: the folder, the disk or its space does not let it.
_NO_INDEX: Final = frozenset(
    {sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR}
)


def open_to_write(place: StorageLocation, *, exclusive: bool) -> sqlite3.Connection:
    """The reading connection of a journal that was seen to be whole enough and writable."""
    place.prepare()
    torn = _is_incomplete(place.path)
    connection = schema.connect(place.path, exclusive=exclusive)
    try:
        if schema.is_empty(connection):
            schema.create_tables(connection)
        schema.check_format(connection, place.path)
        if torn:
            raise database_errors.corrupt(place.path, "is cut short")
        # SQLite opens a file it may not write without a word: ask.
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("ROLLBACK")
        schema.upgrade(connection)
        place.complete()
    except Exception:
        connection.close()
        raise
    return connection


def open_again(place: StorageLocation, *, exclusive: bool) -> sqlite3.Connection:
    place.check()
    return schema.connect(place.path, exclusive=exclusive)


def second(place: StorageLocation) -> sqlite3.Connection:
    """The writer's own connection, so that a read never waits for a sync."""
    return open_again(place, exclusive=False)


def open_to_read(path: Path) -> sqlite3.Connection:
    if database_errors.shut_out(path) is not None:
        raise database_errors.read_only(path)
    if not path.exists():
        raise JournalError(path, "does not exist", "check the folder, or run something in it first")
    if path.stat().st_size == 0:
        raise database_errors.corrupt(path, "is empty")
    torn = _is_incomplete(path)
    try:
        connection = _check_integrity(schema.connect_to_read(path), path)
        if torn:
            connection.close()
            raise database_errors.corrupt(path, "is cut short")
        return connection
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode & 0xFF not in _NO_INDEX:
            raise
    # Nothing can be written beside it, so nobody is writing it either.
    if not _has_open_log(path):
        return _check_integrity(schema.connect_to_read(path, immutable=True), path)
    return _copy_to_memory(path)


def _check_integrity(connection: sqlite3.Connection, path: Path) -> sqlite3.Connection:
    try:
        schema.check_format(connection, path)
        schema.stand_in(connection)
    except Exception:
        connection.close()
        raise
    return connection


def _is_incomplete(path: Path) -> bool:
    """SQLite reads what is missing of the last page as zeros. (While its log is merged the file may end anywhere.)"""
    return not _has_open_log(path) and path.stat().st_size % schema.PAGE != 0


def _has_open_log(path: Path) -> bool:
    log = Path(f"{path}-wal")
    return log.exists() and log.stat().st_size > 0


def _copy_to_memory(path: Path) -> sqlite3.Connection:
    """The newest steps are still in the log beside the file, and merging needs a place to write."""
    with tempfile.TemporaryDirectory(prefix="agentkit-") as folder:
        copy = Path(folder) / path.name
        shutil.copyfile(path, copy)
        shutil.copyfile(f"{path}-wal", f"{copy}-wal")
        merged = sqlite3.connect(copy, isolation_level=None)
        memory = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
        try:
            merged.backup(memory)
        finally:
            merged.close()
    return _check_integrity(memory, path)
