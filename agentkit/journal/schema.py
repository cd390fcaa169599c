"""The shape of the journal file: its tables, its format number and how a connection to it is made."""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path
from typing import Final
from urllib.parse import quote

from agentkit.journal import database_errors

FORMAT: Final = 2
APPLICATION: Final = 0x616B6974
PAGE: Final = 8192
BUSY_SECONDS = 10.0
_MODE_SECONDS = 1.0

_TABLES: Final = """
CREATE TABLE step (
  id INTEGER PRIMARY KEY,
  key BLOB NOT NULL, n INTEGER NOT NULL, gen INTEGER NOT NULL, slot BLOB,
  kind TEXT NOT NULL, name TEXT NOT NULL, effects TEXT NOT NULL,
  status TEXT NOT NULL, settled TEXT, history BLOB, reply BLOB,
  input_tokens INTEGER, output_tokens INTEGER, cost REAL, nested TEXT, error TEXT, parts TEXT NOT NULL, model TEXT,
  sum BLOB NOT NULL,
  agent TEXT NOT NULL, run TEXT NOT NULL, ord INTEGER NOT NULL, parent INTEGER,
  attempt INTEGER NOT NULL, owner TEXT NOT NULL, started REAL NOT NULL, ended REAL,
  request TEXT NOT NULL, result TEXT NOT NULL, twice INTEGER NOT NULL DEFAULT 0
);
CREATE UNIQUE INDEX step_key ON step (key, n, gen);
CREATE INDEX step_slot ON step (slot, n) WHERE status = 'done' AND slot IS NOT NULL;
CREATE INDEX step_twice ON step (id) WHERE twice = 1;
CREATE TABLE body (step INTEGER PRIMARY KEY, body BLOB, shown BLOB);
CREATE TABLE use (
  run TEXT NOT NULL, ord INTEGER NOT NULL, step INTEGER NOT NULL, replayed INTEGER NOT NULL,
  started REAL NOT NULL, ended REAL, attempt INTEGER, PRIMARY KEY (run, ord)
) WITHOUT ROWID;
CREATE TABLE node (
  id INTEGER PRIMARY KEY, digest BLOB NOT NULL UNIQUE, parent BLOB, body BLOB NOT NULL, sum BLOB NOT NULL
);
CREATE TABLE part (id INTEGER PRIMARY KEY, digest BLOB NOT NULL UNIQUE, body BLOB NOT NULL, sum BLOB NOT NULL);
CREATE TABLE run (
  seq INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, agent TEXT NOT NULL, label TEXT NOT NULL, started REAL NOT NULL,
  parent TEXT, owner TEXT NOT NULL, data TEXT NOT NULL, history BLOB, sum BLOB NOT NULL, output BLOB
);
CREATE INDEX run_started ON run (started);
CREATE INDEX run_parent ON run (parent) WHERE parent IS NOT NULL;
"""


_ADDED: Final[dict[str, str]] = {
    "input": "CREATE TABLE input (step INTEGER PRIMARY KEY, body BLOB NOT NULL, sum BLOB NOT NULL)",
    "output": "CREATE TABLE output (path TEXT NOT NULL, step INTEGER NOT NULL, PRIMARY KEY (path, step)) WITHOUT ROWID",
    # Records that were brought from elsewhere (`step 3`, `run a1b2`): from where, and who noted it.
    "origin": "CREATE TABLE origin (record TEXT PRIMARY KEY, source TEXT NOT NULL, sum BLOB NOT NULL) WITHOUT ROWID",
    # What this journal is called for each user, and the folder it was seen in.
    "home": "CREATE TABLE home (identity BLOB PRIMARY KEY, place BLOB NOT NULL, seen TEXT NOT NULL, "
    "held TEXT NOT NULL, sum BLOB NOT NULL) WITHOUT ROWID",
    # The steps whose tokens no server counted, and those whose price is not that of the tier they were asked in.
    "unsure": "CREATE TABLE unsure (step INTEGER PRIMARY KEY, tokens INTEGER NOT NULL, price INTEGER NOT NULL)",
    # What the rows of maps were answered, by their prompts: made of the steps, and gone when one of those changes.
    "answer": "CREATE TABLE answer (id INTEGER PRIMARY KEY, basis BLOB NOT NULL, prompt BLOB NOT NULL, "
    "run TEXT NOT NULL, first INTEGER NOT NULL, body BLOB NOT NULL, tokens INTEGER NOT NULL, cost REAL, "
    "seconds REAL NOT NULL, sum BLOB NOT NULL, UNIQUE (basis, prompt), UNIQUE (first, basis))",
}
"""Tables that came after format 1, each by its name. A row of `step` or `run` without one there is as it was before.

They stand beside the old tables, so an old journal is brought up to date without rewriting a row.
"""

_INDEXES: Final[dict[str, str]] = {
    # The few steps that are batches, among those of all rows.
    "step_batch": "CREATE INDEX step_batch ON step (id) WHERE kind = 'batch'",
}
"""Indexes that came after format 1. A journal that can only be read does without."""


def connect(path: Path, *, exclusive: bool = False) -> sqlite3.Connection:
    """A connection for reading and writing. `exclusive` needs no shared memory, which network file systems lack."""
    connection = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
    try:
        if exclusive:
            connection.execute("PRAGMA locking_mode=EXCLUSIVE")
        connection.execute(f"PRAGMA page_size={PAGE}")
        _to_wal(connection)
        connection.execute("PRAGMA synchronous=FULL")
        # The writer checkpoints between batches, where nobody waits; SQLite's own is the safety net for large ones.
        connection.execute("PRAGMA wal_autocheckpoint=4000")
        connection.execute(f"PRAGMA journal_size_limit={16 * 2**20}")
        connection.execute("PRAGMA trusted_schema=OFF")
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def _to_wal(connection: sqlite3.Connection) -> None:
    """SQLite does not wait by itself for another process that changes the mode of a new file at this moment."""
    ends = time.monotonic() + _MODE_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > ends:
                raise
        time.sleep(0.02)


def connect_to_read(path: Path, *, immutable: bool = False) -> sqlite3.Connection:
    """A connection that can only read. `immutable` reads without locks, so only where nobody can write."""
    address = f"file:{quote(str(path))}?mode=ro" + ("&immutable=1" if immutable else "")
    connection = sqlite3.connect(address, uri=True, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
    connection.execute("PRAGMA trusted_schema=OFF")
    return connection


def create_tables(connection: sqlite3.Connection) -> None:
    """Make an empty file a journal; of two processes that try at once, one does it."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        if not _tables(connection):
            for statement in (*_TABLES.split(";"), *_ADDED.values(), *_INDEXES.values()):
                connection.execute(statement)
            connection.execute(f"PRAGMA application_id={APPLICATION}")
            connection.execute(f"PRAGMA user_version={FORMAT}")
        connection.execute("COMMIT")
    except sqlite3.Error:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def upgrade(connection: sqlite3.Connection) -> None:
    """Add to a journal of an older format what it lacks; of two processes that try at once, one does it.

    Killed here, the journal is as it was, or whole: it is one transaction.
    """
    if _format(connection) == FORMAT and not (_missing(connection) or _unindexed(connection)):
        return
    connection.execute("BEGIN IMMEDIATE")
    try:
        for name in _missing(connection):
            connection.execute(_ADDED[name])
        for name in _unindexed(connection):
            connection.execute(_INDEXES[name])
        connection.execute(f"PRAGMA user_version={FORMAT}")
        connection.execute("COMMIT")
    except sqlite3.Error:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def stand_in(connection: sqlite3.Connection) -> None:
    """Give a journal that can only be read empty tables for those its format lacks, so that one query serves all."""
    for name in _missing(connection):
        connection.execute(_ADDED[name].replace("CREATE TABLE", "CREATE TEMP TABLE", 1))


def _missing(connection: sqlite3.Connection) -> list[str]:
    there = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    return [name for name in _ADDED if name not in there]


def _unindexed(connection: sqlite3.Connection) -> list[str]:
    there = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'index'")}
    return [name for name in _INDEXES if name not in there]


def _format(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def is_empty(connection: sqlite3.Connection) -> bool:
    return not _tables(connection)


def check_format(connection: sqlite3.Connection, path: Path) -> None:
    application = int(connection.execute("PRAGMA application_id").fetchone()[0])
    if application != APPLICATION:
        raise database_errors.corrupt(path, "is not an agentkit journal")
    version = _format(connection)
    if version > FORMAT:
        raise database_errors.newer(path, version, FORMAT)


def _tables(connection: sqlite3.Connection) -> int:
    return int(connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0])
