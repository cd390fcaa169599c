"""Every question to the journal that is about more than one step, as functions of a connection."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from sqlite3 import Connection
from typing import Any, NamedTuple

from agentkit.events import Event, Kind, Run, Step
from agentkit.journal import database_errors
from agentkit.journal.provenance import ELSEWHERE, Provenance, decides
from agentkit.journal.records import MessageNode, Part, Row
from agentkit.journal.row_codec import FORGOTTEN, ROW, RUN, STORED, USE, UseRow, holds, row_of, run_of, step_of

_ROWS = f"SELECT {ROW} FROM {STORED}"
NEWEST = f"{_ROWS} WHERE step.key = ? AND step.n = ? ORDER BY step.gen DESC LIMIT 1"
BY_ID = f"{_ROWS} WHERE step.id = ?"
BY_SLOT = (
    f"{_ROWS} WHERE step.slot = ? AND step.n = ? AND step.status = 'done' AND step.slot IS NOT NULL "
    f"AND step.settled IS NOT '{FORGOTTEN}' ORDER BY step.id DESC LIMIT 1"
)
_ANSWERS = (
    f"{_ROWS} WHERE step.slot = ? AND step.kind = 'model' AND step.status = 'done' AND step.ended >= ? "
    f"AND step.settled IS NOT '{FORGOTTEN}' ORDER BY step.ended DESC LIMIT 20"
)
_CHAIN = (
    "WITH RECURSIVE up (depth, digest, parent, body, sum) AS ("
    "SELECT 0, digest, parent, body, sum FROM node WHERE digest = ? UNION ALL "
    "SELECT depth + 1, node.digest, node.parent, node.body, node.sum FROM up JOIN node ON node.digest = up.parent) "
    "SELECT digest, parent, body, sum FROM up ORDER BY depth DESC"
)
# A question without an answer is open, not in doubt: it did nothing.
_STARTED = "SELECT id, owner FROM step WHERE status = 'started' AND kind NOT IN ('approval', 'question') ORDER BY id"
_USED = (
    f"SELECT {ROW}, use.ord, EXISTS (SELECT 1 FROM step AS later WHERE later.key = step.key AND later.n = step.n "
    "AND later.gen > step.gen), said.parent, node.digest, node.parent, node.body, node.sum "
    "FROM use JOIN step ON step.id = use.step LEFT JOIN body ON body.step = step.id "
    "LEFT JOIN input ON input.step = step.id "
    "LEFT JOIN node ON step.kind = 'model' AND node.digest = step.history "
    "LEFT JOIN node AS said ON said.digest = node.parent WHERE use.run = ? AND use.ord >= ? ORDER BY use.ord LIMIT ?"
)
_LONGEST = (
    "SELECT use.run FROM use JOIN (SELECT id FROM run WHERE agent = ?1 ORDER BY started DESC LIMIT 200) AS recent "
    "ON use.run = recent.id WHERE use.ord = ?3 AND use.step = ?2 "
    "ORDER BY (SELECT max(ord) FROM use AS whole WHERE whole.run = use.run) DESC LIMIT 1"
)
_ANY_OF = "SELECT DISTINCT key FROM step WHERE key IN ({})"
_AT_ONCE = 500
_STEPS = (
    f"SELECT {USE} FROM use JOIN step ON step.id = use.step LEFT JOIN input ON input.step = step.id "
    "WHERE use.run = ?1 AND (?2 IS NULL OR use.ord = ?2) ORDER BY use.ord"
)


class RecordSource(NamedTuple):
    """What is read from: a connection, the file's name for errors, who lives, and what tells own records."""

    connection: Connection
    path: Path
    alive: Callable[[str], bool]
    provenance: Provenance

    def row(self, values: Sequence[Any]) -> Row:
        return row_of(values, self.path, self.connection, self.provenance)


class Needed(NamedTuple):
    """What a set of runs rests on."""

    rows: list[Row]
    nodes: list[MessageNode]
    parts: list[Part]


class Used(NamedTuple):
    """A row as a run used it. A model request has the message it ended with, said after a reply to `answers`.

    `source` is where that message is from, if this user did not record it.
    """

    row: Row
    ord: int
    superseded: bool
    answers: bytes | None
    request: MessageNode | None
    source: str | None = None


def one(source: RecordSource, query: str, values: Sequence[Any]) -> Row | None:
    found = source.connection.execute(query, values).fetchone()
    return None if found is None else source.row(found)


def has_message(source: RecordSource, digest: bytes) -> bool:
    return source.connection.execute("SELECT 1 FROM node WHERE digest = ?", (digest,)).fetchone() is not None


def messages(source: RecordSource, digest: bytes) -> list[bytes]:
    chain = source.connection.execute(_CHAIN, (digest,)).fetchall()
    if not chain or chain[0][1] is not None:
        raise database_errors.corrupt(source.path, f"conversation {digest.hex()[:12]} is not whole")
    return [node_of(source, found).body for found in chain]


def part(source: RecordSource, digest: bytes) -> bytes | None:
    found = source.connection.execute("SELECT digest, body, sum FROM part WHERE digest = ?", (digest,)).fetchone()
    return None if found is None else part_of(source, found).body


def evidence(source: RecordSource, step: int) -> bytes | None:
    """What a step read from outside, as it was written."""
    found = source.connection.execute("SELECT body, sum FROM input WHERE step = ?", (step,)).fetchone()
    if found is None:
        return None
    if not holds(found[1], (step,), found[0]):
        raise database_errors.corrupt(source.path, f"what step {step} read does not match its checksum")
    return bytes(found[0])


def writers(source: RecordSource, path: str) -> list[tuple[int, str]]:
    """The newest steps that wrote the file at `path`, each with the run that performed it."""
    query = (
        "SELECT step.id, step.run FROM output JOIN step ON step.id = output.step WHERE output.path = ? "
        "ORDER BY step.id DESC LIMIT 50"
    )
    return [(int(step), str(run_id)) for step, run_id in source.connection.execute(query, (path,))]


def run(source: RecordSource, id_: str) -> Run | None:
    found = source.connection.execute(f"SELECT {RUN} FROM run WHERE id = ?", (id_,)).fetchone()
    return None if found is None else _run(source, *found)


def run_contents(source: RecordSource, id_: str) -> tuple[bytes | None, bytes | None] | None:
    """The digest of the conversation and the output, once the run's checksum was seen to hold."""
    found = source.connection.execute("SELECT id, data, history, output, sum FROM run WHERE id = ?", (id_,)).fetchone()
    if found is None:
        return None
    if not holds(found[4], found[:3], found[3]):
        raise database_errors.corrupt(source.path, f"run {id_} does not match its checksum")
    return found[2], found[3]


_OF = (
    "WHERE (?1 IS NULL OR agent = ?1) AND (?2 IS NULL OR label = ?2) AND (parent IS NULL OR NOT ?3) "
    "AND (parent IS NULL OR json_extract(data, '$.row') IS NULL)"
)
"""The runs that are listed: those of the rows of a map are part of it."""


def runs(
    source: RecordSource,
    *,
    agent: str | None,
    label: str | None,
    top: bool,
    limit: int,
    caller: str | None = None,
    thread: str | None = None,
) -> list[Run]:
    found = source.connection.execute(
        f"SELECT {RUN} FROM run {_OF} AND (?5 IS NULL OR json_extract(data, '$.caller') = ?5) "
        "AND (?6 IS NULL OR json_extract(data, '$.thread') = ?6) ORDER BY started DESC, seq DESC LIMIT ?4",
        (agent, label, top, limit, caller, thread),
    ).fetchall()
    return [_run(source, *values) for values in found]


def rows_of(source: RecordSource, run_id: str, *, row: int | None, limit: int) -> list[Run]:
    """The runs of the rows of a map, oldest first; of one row only, where it is given."""
    found = source.connection.execute(
        f"SELECT {RUN} FROM run WHERE parent = ?1 AND json_extract(data, '$.row') IS NOT NULL "
        "AND (?2 IS NULL OR json_extract(data, '$.row') = ?2) ORDER BY seq LIMIT ?3",
        (run_id, row, limit),
    ).fetchall()
    return [_run(source, *values) for values in found]


def count(source: RecordSource, *, agent: str | None, label: str | None, top: bool) -> int:
    return int(source.connection.execute(f"SELECT count(*) FROM run {_OF}", (agent, label, top)).fetchone()[0])


def labels(source: RecordSource) -> list[str]:
    return [label for (label,) in source.connection.execute("SELECT DISTINCT label FROM run ORDER BY label")]


def inner_runs(source: RecordSource, parent: str) -> list[Run]:
    found = source.connection.execute(f"SELECT {RUN} FROM run WHERE parent = ? ORDER BY started, seq", (parent,))
    return [_run(source, *values) for values in found.fetchall()]


def steps(source: RecordSource, run_id: str, *, place: int | None = None) -> list[Step]:
    found = source.connection.execute(_STEPS, (run_id, place)).fetchall()
    uses = [UseRow._make(values) for values in found]
    tools = {use.step: use.ord for use in uses if use.kind == "tool"}
    return [step_of(use, source=_source(source, use), within=tools.get(use.parent or 0)) for use in uses]


def _source(source: RecordSource, use: UseRow) -> str:
    deciding = decides(use.kind, use.settled)
    return source.provenance.source(source.connection, "step", use.step, use.sum, decides=deciding)


def uses_of(source: RecordSource, run_id: str, *, since: int, limit: int) -> list[Used]:
    """What stood at each place of a run from the place `since` on, in order."""
    found = source.connection.execute(_USED, (run_id, since, limit)).fetchall()
    return [
        Used(
            source.row(values[:-7]),
            values[-7],
            bool(values[-6]),
            values[-5],
            None if values[-4] is None else node_of(source, values[-4:]),
            None if values[-4] is None or source.provenance.is_own("node", values[-1]) else ELSEWHERE,
        )
        for values in found
    ]


def longest_from(source: RecordSource, step: int, *, agent: str, place: int) -> str | None:
    """Of the newer runs of this agent that had this step at this place, the one that came furthest."""
    found = source.connection.execute(_LONGEST, (agent, step, place)).fetchone()
    return None if found is None else str(found[0])


def any_of(source: RecordSource, keys: Sequence[bytes]) -> set[bytes]:
    """Those of the keys under which there is a record of any kind."""
    found: set[bytes] = set()
    for start in range(0, len(keys), _AT_ONCE):
        some = keys[start : start + _AT_ONCE]
        asked = source.connection.execute(_ANY_OF.format(",".join("?" * len(some))), some)
        found.update(key for (key,) in asked)
    return found


def trace(source: RecordSource, run_id: str) -> list[Event]:
    """The run, its steps in order, and behind each step the runs inside it."""
    root = run(source, run_id)
    return [] if root is None else _trace(source, root, frozenset())


def closure(source: RecordSource, run_ids: Iterable[str]) -> list[Run]:
    """The runs, and every run inside them."""
    found: dict[str, Run] = {}
    waiting = list(run_ids)
    while waiting:
        one_run = run(source, waiting.pop(0))
        if one_run is not None and one_run.id not in found:
            found[one_run.id] = one_run
            waiting.extend(inner.id for inner in inner_runs(source, one_run.id))
    return list(found.values())


def in_doubt(source: RecordSource) -> list[Row]:
    started = source.connection.execute(_STARTED).fetchall()
    lives = {owner: source.alive(owner) for owner in {owner for _, owner in started}}
    return [row for id_, owner in started if not lives[owner] for row in _rows(source, BY_ID, (id_,))]


def double_payments(source: RecordSource) -> list[Row]:
    return _rows(source, f"{_ROWS} WHERE step.twice = 1 ORDER BY step.id", ())


def questions(source: RecordSource, *, limit: int) -> list[Row]:
    """What persons were asked, newest first; of several askings of the same the newest."""
    query = (
        f"{_ROWS} WHERE step.kind IN ('approval', 'question') AND step.name NOT LIKE 'edit %' "
        f"AND step.settled IS NOT '{FORGOTTEN}' AND NOT EXISTS ("
        "SELECT 1 FROM step AS later WHERE later.key = step.key AND later.n = step.n AND later.gen > step.gen) "
        "ORDER BY step.id DESC LIMIT ?"
    )
    return _rows(source, query, (limit,))


def questions_in(source: RecordSource, run_id: str, name: str) -> list[Row]:
    """The questions of this name that persons were asked in a run, in order."""
    query = (
        f"{_ROWS} JOIN use ON use.step = step.id WHERE use.run = ? AND step.kind = 'question' AND step.name = ? "
        f"AND step.settled IS NOT '{FORGOTTEN}' ORDER BY use.ord"
    )
    return _rows(source, query, (run_id, name))


def nearest(source: RecordSource, *, kind: Kind, name: str, agent: str, before: int | None, limit: int) -> list[Row]:
    query = (
        f"{_ROWS} WHERE step.kind = ?1 AND step.name = ?2 AND step.agent = ?3 AND (?4 IS NULL OR step.id < ?4) "
        f"AND step.settled IS NOT '{FORGOTTEN}' ORDER BY step.id DESC LIMIT ?5"
    )
    return _rows(source, query, (kind, name, agent, before, limit))


def dependencies_of(source: RecordSource, run_ids: Iterable[str]) -> Needed:
    """The rows the runs (and the runs inside them) used, with every message and part these name."""
    chosen = closure(source, run_ids)
    rows: dict[int, Row] = {}
    query = f"{_ROWS} JOIN use ON use.step = step.id WHERE use.run = ? ORDER BY use.ord"
    for each in chosen:
        rows.update((row.id, row) for row in _rows(source, query, (each.id,)))
    ends = [contents[0] for each in chosen if (contents := run_contents(source, each.id)) is not None]
    ends += [digest for row in rows.values() for digest in (row.history, row.reply)]
    digests = {value for row in rows.values() for value in row.parts.values()}
    return Needed(list(rows.values()), _nodes(source, ends), _parts(source, digests))


def open_batches(source: RecordSource, name: str) -> list[Row]:
    """The steps of this name of kind `batch` that have no recorded result, oldest first."""
    query = (
        f"{_ROWS} WHERE step.kind = 'batch' AND step.name = ? AND step.status <> 'done' "
        f"AND step.settled IS NOT '{FORGOTTEN}' ORDER BY step.id"
    )
    return _rows(source, query, (name,))


def came_with_batch(connection: Connection, row: Row) -> bool:
    """Whether the result of this step came with a batch, so that nothing was sent for it."""
    if row.parent is None:
        return False
    found = connection.execute("SELECT 1 FROM step WHERE id = ? AND kind = 'batch'", (row.parent,)).fetchone()
    return found is not None


def answers(source: RecordSource, slot: bytes, *, since: float) -> list[Row]:
    """The recorded replies to one request, by whichever model, newest first."""
    return _rows(source, _ANSWERS, (slot, since))


def _trace(source: RecordSource, root: Run, above: frozenset[str]) -> list[Event]:
    inner: dict[int | None, list[Run]] = {}
    for each in inner_runs(source, root.id):
        if each.id not in above:
            inner.setdefault(each.parent_ord, []).append(each)
    events: list[Event] = [root]
    for step in steps(source, root.id):
        events.append(step)
        for each in inner.pop(step.ord, []):
            events += _trace(source, each, above | {root.id})
    # Runs whose step was never recorded, for instance because its agent was called from plain code.
    for each in (each for group in inner.values() for each in group):
        events += _trace(source, each, above | {root.id})
    return events


def _rows(source: RecordSource, query: str, values: Sequence[Any]) -> list[Row]:
    return [source.row(found) for found in source.connection.execute(query, values).fetchall()]


def _nodes(source: RecordSource, ends: Iterable[bytes | None]) -> list[MessageNode]:
    """Every message up from the ends, parents before children."""
    found: dict[bytes, MessageNode] = {}
    for end in ends:
        branch: list[MessageNode] = []
        while end is not None and end not in found:
            values = source.connection.execute(
                "SELECT digest, parent, body, sum FROM node WHERE digest = ?", (end,)
            ).fetchone()
            if values is None:
                break
            branch.append(node_of(source, values))
            end = branch[-1].parent
        found.update((node.digest, node) for node in reversed(branch))
    return list(found.values())


def _parts(source: RecordSource, digests: Iterable[str]) -> list[Part]:
    found: list[Part] = []
    for digest in sorted(digests):
        try:
            raw = bytes.fromhex(digest)
        except ValueError:
            continue
        values = source.connection.execute("SELECT digest, body, sum FROM part WHERE digest = ?", (raw,)).fetchone()
        if values is not None:
            found.append(part_of(source, values))
    return found


def node_of(source: RecordSource, values: Sequence[Any]) -> MessageNode:
    if not holds(values[3], values[:2], values[2]):
        raise database_errors.corrupt(source.path, f"message {bytes(values[0]).hex()[:12]} does not match its checksum")
    return MessageNode(*values[:3])


def part_of(source: RecordSource, values: Sequence[Any]) -> Part:
    if not holds(values[2], values[:1], values[1]):
        raise database_errors.corrupt(source.path, f"part {bytes(values[0]).hex()[:12]} does not match its checksum")
    return Part(*values[:2])


def _run(source: RecordSource, id_: str, data: str, owner: str, sum: bytes) -> Run:
    found = run_of(id_, data, source=source.provenance.source(source.connection, "run", id_, sum))
    if found.status == "running" and not source.alive(owner):
        return replace(found, status="stopped", error="its process ended before the run did; run again to continue")
    return found
