"""A portable file as it is read: line by line, into a temporary database, and nothing of it is believed.

What a file may cost is bounded: a line, all of it together, and how much one record may hold. In memory there is one
record at a time; the others wait on disk until the whole was seen to match its checksum.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import math
import re
import sqlite3
import types
import zlib
from collections.abc import Iterator
from contextlib import closing
from dataclasses import fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple, NoReturn, Union, cast, get_args, get_origin, get_type_hints

from agentkit.errors import JournalCorrupt, JournalError, JournalFormat
from agentkit.events import Gauge, Run, Usage
from agentkit.journal import database_errors
from agentkit.journal.records import MessageNode, Part, Row, Use
from agentkit.journal.row_codec import is_countable
from agentkit.tools.inputs import is_report

FORMAT: Final = 1
KIND: Final = "agentkit portable journal"
LINE: Final = 32 << 20
"""Bytes that one record may have, written as a line."""
LIMIT: Final = 1 << 30
"""Bytes that a file may unpack to."""

ROW: Final = (
    "id key n gen slot kind name effects agent status started ended parts request result history body usage nested "
    "shown error model reply"
).split()
DIGESTS: Final = frozenset({"key", "slot", "history", "reply", "digest", "parent"})
BODIES: Final = frozenset({"body", "shown", "output"})

_ITEMS: Final = 500_000
_DEPTH: Final = 12
_QUOTES: Final = 2_000_000
_BRACKETS: Final = re.compile(rb"[^\[\]{}]+")
_AT_ONCE: Final = 256

_TABLES: Final = """
CREATE TABLE run (id TEXT PRIMARY KEY, line BLOB NOT NULL);
CREATE TABLE step (
  id INTEGER PRIMARY KEY, key BLOB NOT NULL, n INTEGER NOT NULL, gen INTEGER NOT NULL, line BLOB NOT NULL
);
CREATE TABLE use (step INTEGER NOT NULL, run TEXT NOT NULL, ord INTEGER NOT NULL, line BLOB NOT NULL);
CREATE INDEX use_step ON use (step);
CREATE INDEX use_run ON use (run, ord);
CREATE TABLE node (digest BLOB PRIMARY KEY, line BLOB NOT NULL);
CREATE TABLE part (digest BLOB PRIMARY KEY, line BLOB NOT NULL);
CREATE INDEX step_key ON step (key, n);
CREATE TABLE place (step INTEGER PRIMARY KEY, id INTEGER NOT NULL, added INTEGER NOT NULL);
"""


class ArchiveEnd(NamedTuple):
    """A run, with the digest of its conversation and its output."""

    run: Run
    history: bytes | None
    output: bytes | None


class Archive:
    """The records of one portable file, once all of it was seen to be whole. Made by `read`; close it after use."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._records = connection

    def __enter__(self) -> Archive:
        return self

    def __exit__(self, *exc: object) -> None:
        self._records.close()

    def runs(self) -> Iterator[ArchiveEnd]:
        for (line,) in self._records.execute("SELECT line FROM run ORDER BY rowid"):
            yield _read_end(json.loads(line))

    def waves(self) -> Iterator[list[Row]]:
        """The steps, some at a time; those of one key in the order they were made, never two of them together."""
        order = (
            "SELECT line, row_number() OVER (PARTITION BY key, n ORDER BY gen, id) AS wave FROM step ORDER BY wave, id"
        )
        some: list[Row] = []
        size, now = 0, 1
        for line, wave in self._records.execute(order):
            if some and (wave != now or len(some) >= _AT_ONCE or size + len(line) > LINE):
                yield some
                some, size = [], 0
            now = wave
            some.append(_row(json.loads(line)["step"]))
            size += len(line)
        if some:
            yield some

    def first_use(self, step: int) -> Use:
        found = self._records.execute("SELECT line FROM use WHERE step = ? ORDER BY rowid LIMIT 1", (step,)).fetchone()
        return Use(**json.loads(found[0])["use"])

    def evidence(self, step: int) -> dict[str, Any] | None:
        """What the step read from outside, as it was said; None where the file does not tell."""
        found = self._records.execute("SELECT line FROM step WHERE id = ?", (step,)).fetchone()
        return None if found is None else _evidence(json.loads(found[0]))

    def place(self, step: int, id: int, *, added: bool) -> None:
        """Where a step of the file lies in the journal, and whether it was not there before."""
        self._records.execute("INSERT INTO place VALUES (?, ?, ?)", (step, id, added))

    def add_row(self, row: Row) -> bool:
        """Whether an earlier step of this key was not there before."""
        query = "SELECT 1 FROM step JOIN place ON place.step = step.id WHERE key = ? AND n = ? AND added"
        return self._records.execute(query, (row.key, row.n)).fetchone() is not None

    def uses(self, run: str) -> Iterator[Use]:
        """What a run used, by the steps' ids in the journal."""
        query = "SELECT line, place.id FROM use JOIN place USING (step) WHERE run = ? ORDER BY ord"
        for line, id in self._records.execute(query, (run,)):
            yield Use(**json.loads(line)["use"])._replace(step=id)

    def nodes(self) -> Iterator[list[MessageNode]]:
        """The messages, some at a time."""
        some: list[MessageNode] = []
        size = 0
        for (line,) in self._records.execute("SELECT line FROM node ORDER BY rowid"):
            some.append(_node(json.loads(line)["node"]))
            size += len(line)
            if len(some) >= _AT_ONCE or size > LINE:
                yield some
                some, size = [], 0
        if some:
            yield some

    def node(self, digest: bytes | None) -> MessageNode | None:
        found = self._records.execute("SELECT line FROM node WHERE digest = ?", (digest,)).fetchone()
        return None if found is None else _node(json.loads(found[0])["node"])

    def part(self, digest: str) -> Part | None:
        try:
            wanted = bytes.fromhex(digest)
        except ValueError:
            return None
        found = self._records.execute("SELECT line FROM part WHERE digest = ?", (wanted,)).fetchone()
        return None if found is None else _part(json.loads(found[0])["part"])


def read(path: Path) -> Archive:
    """The records in the file at `path`, or a JournalError that says what is wrong with it."""
    # Without a name SQLite keeps it in a file of its own that goes with the connection, and in memory a few pages.
    connection = sqlite3.connect("", isolation_level=None)
    try:
        connection.executescript(_TABLES)
        connection.execute("BEGIN")
        lines = _lines(path)
        _check_head(next(lines), path)
        for line in lines:
            _keep(connection, line, path)
        if connection.execute("SELECT 1 FROM step WHERE id NOT IN (SELECT step FROM use)").fetchone():
            raise JournalCorrupt(path, "has a step that no run used", "export it again")
        connection.execute("COMMIT")
    except sqlite3.Error as error:
        connection.close()
        raise JournalError(path, f"cannot be unpacked ({error})", "make room where temporary files go") from error
    except BaseException:
        connection.close()
        raise
    return Archive(connection)


# ---- lines


def _lines(path: Path) -> Iterator[bytes]:
    """All but the last one, which is the checksum of those before it and is checked once they were given out."""
    digest = hashlib.sha256()
    unpacked, before = 0, b""
    try:
        with closing(gzip.open(path, "rb")) as file:
            while line := file.readline(LINE + 1):
                unpacked += len(line)
                if unpacked > LIMIT:
                    raise JournalCorrupt(path, f"unpacks to more than {LIMIT >> 20} MB", "export fewer runs")
                if len(line) > LINE:
                    raise JournalCorrupt(path, f"has a record of more than {LINE >> 20} MB", "export fewer runs")
                if before:
                    digest.update(before)
                    yield before
                before = line
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise JournalCorrupt(path, f"is cut short or damaged ({error})", "copy or export it again") from error
    except FileNotFoundError as error:
        raise JournalError(path, "is not there", "check its name and folder") from error
    except OSError as error:
        raise database_errors.translate(error, path) from error
    if not before:
        raise JournalCorrupt(path, "is empty", "copy or export it again")
    last = _parse_line(before, path)
    if not isinstance(last, dict) or "sha256" not in last:
        raise JournalCorrupt(path, "has no checksum at its end", "copy or export it again")
    # Compared as it is written, so that no byte of the file may differ, those of the last line included.
    if before != format_line({"sha256": digest.hexdigest()}):
        raise JournalCorrupt(path, "does not match its checksum", "copy or export it again")


def format_line(record: dict[str, Any]) -> bytes:
    """A record as a line."""
    return json.dumps(record, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode() + b"\n"


def _check_head(line: bytes, path: Path) -> None:
    head = _parse_line(line, path)
    if not isinstance(head, dict) or head.get("agentkit") != KIND:
        raise JournalCorrupt(path, "is not a portable journal", "ask for the file again")
    if not isinstance(head.get("format"), int) or head["format"] > FORMAT:
        raise JournalFormat(
            path, f"has format {head.get('format')}, this agentkit reads up to {FORMAT}", "upgrade jupyter-agentkit"
        )


def _parse_line(line: bytes, path: Path) -> Any:
    try:
        _check_shape(line)
        return json.loads(line, parse_constant=_refuse, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        raise JournalCorrupt(path, f"has a line that is not JSON ({error})", "copy or export it again") from error


def _check_shape(line: bytes) -> None:
    """Raise ValueError for what would take much more memory parsed than it takes as text: a record is flat and small.

    Bodies are texts in it, whatever they hold.
    """
    outside = line.replace(b"\\\\", b"").replace(b'\\"', b"")
    if outside.count(b'"') > _QUOTES:
        raise ValueError("more than a record holds")
    outside = b"".join(outside.split(b'"')[::2])
    if outside.count(b",") + outside.count(b":") > _ITEMS:
        raise ValueError("more than a record holds")
    depth = 0
    for bracket in _BRACKETS.sub(b"", outside)[:_ITEMS]:
        depth += 1 if bracket in b"[{" else -1
        if depth > _DEPTH:
            raise ValueError("nested deeper than a record is")


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of a record")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text[:20]} is no number of a record")
    return number


# ---- records


def _keep(connection: sqlite3.Connection, line: bytes, path: Path) -> None:
    record = _parse_line(line, path)
    try:
        match record:
            case {"run": dict(), **_other}:
                connection.execute("INSERT INTO run VALUES (?, ?)", (_read_end(record).run.id, line))
            case {"step": dict(values)}:
                row = _row(values)
                _evidence(record)
                connection.execute("INSERT INTO step VALUES (?, ?, ?, ?, ?)", (row.id, row.key, row.n, row.gen, line))
            case {"use": dict(values)}:
                _check(values, Use)
                use = Use(**values)
                connection.execute("INSERT INTO use VALUES (?, ?, ?, ?)", (use.step, use.run, use.ord, line))
            case {"node": dict(values)}:
                connection.execute("INSERT OR IGNORE INTO node VALUES (?, ?)", (_node(values).digest, line))
            case {"part": dict(values)}:
                connection.execute("INSERT OR IGNORE INTO part VALUES (?, ?)", (_part(values).digest, line))
            case _:
                raise ValueError(f"unknown record {str(record)[:60]}")
    except (KeyError, TypeError, ValueError, OverflowError, sqlite3.IntegrityError) as error:
        raise JournalCorrupt(path, f"has a record that cannot be read ({error!r})", "export it again") from error


def _read_end(record: dict[str, Any]) -> ArchiveEnd:
    values = record["run"]
    _check(values, Run)
    gauges = tuple(Gauge(**gauge) for gauge in values.get("gauges", ()))
    run = Run(**{**values, "notes": tuple(values["notes"]), "gauges": gauges})
    return ArchiveEnd(run, _bytes("history", record["history"]), _bytes("output", record["output"]))


def _row(values: dict[str, Any]) -> Row:
    made = {name: _bytes(name, values[name]) for name in ROW}
    _check(made, Row)
    usage = made["usage"]
    if not is_countable(made["nested"]):
        raise ValueError("nested says of steps what none can be")
    return Row(**{**made, "usage": usage and Usage(**usage)}, run="", attempt=1, owner="")


def _evidence(record: dict[str, Any]) -> dict[str, Any] | None:
    """What stands beside a step, or ValueError: it decides whether a record holds, and `why` shows it."""
    text = record.get("evidence")
    if text is None:
        return None
    _check_shape(str(text).encode())
    found = json.loads(str(text), parse_constant=_refuse, parse_float=_finite)
    if not is_evidence(found):
        raise ValueError("no evidence of what a step read")
    return cast("dict[str, Any]", found)


def is_evidence(found: object) -> bool:
    """Whether it has the form of what is kept of what a step read, without what the names of a person stand for."""
    if not isinstance(found, dict) or found.keys() != {"inputs", "wrote", "unchecked", "reads"}:
        return False
    if not is_report({"inputs": found["inputs"], "wrote": found["wrote"], "unseen": found["unchecked"]}):
        return False
    reads = found["reads"]
    return all("path" in one for one in found["wrote"]) and (
        isinstance(reads, dict)
        and all(isinstance(e, list) and len(e) == 2 and type(e[0]) is str and e[1] is None for e in reads.values())
    )


def _node(values: dict[str, Any]) -> MessageNode:
    made = {name: _bytes(name, value) for name, value in values.items()}
    _check(made, MessageNode)
    return MessageNode(**made)


def _part(values: dict[str, Any]) -> Part:
    made = {name: _bytes(name, value) for name, value in values.items()}
    _check(made, Part)
    return Part(**made)


def _bytes(name: str, value: Any) -> Any:
    if value is None:
        return None
    if name in DIGESTS:
        return bytes.fromhex(value)
    return str(value).encode() if name in BODIES else value


def _check(values: dict[str, Any], kind: type) -> None:
    """Raise TypeError for a value that is none of its field."""
    hints = _hints(kind)
    for name, value in values.items():
        if name not in hints or not _fits(value, hints[name]):
            raise TypeError(f"{kind.__name__}.{name} cannot be {str(value)[:40]!r}")


@cache
def _hints(kind: type) -> dict[str, Any]:
    return get_type_hints(kind)


def _fits(value: Any, hint: Any) -> bool:
    arguments = get_args(hint)
    match get_origin(hint):
        case origin if origin is Literal:
            return value in arguments
        case origin if origin in (Union, types.UnionType):
            return any(_fits(value, one) for one in arguments)
        case origin if origin is tuple:
            return isinstance(value, list | tuple) and all(_fits(one, arguments[0]) for one in value)
        case origin if origin is dict:
            return isinstance(value, dict) and all(_fits(one, arguments[1]) for one in value.values())
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 1 << 63
    if is_dataclass(hint):
        names = {each.name for each in fields(hint)}
        known = _hints(hint) if isinstance(hint, type) else {}
        return isinstance(value, dict) and all(name in names and _fits(one, known[name]) for name, one in value.items())
    return isinstance(value, hint)
