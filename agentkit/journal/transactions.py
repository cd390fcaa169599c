"""Every change to the journal, each a function of an open transaction."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from sqlite3 import Connection
from typing import Any, Literal

from agentkit.errors import JournalError, UserError
from agentkit.events import Run
from agentkit.journal import database_errors
from agentkit.journal import provenance as origins
from agentkit.journal.provenance import Of, Provenance, decides
from agentkit.journal.queries import came_with_batch
from agentkit.journal.records import PAUSED, Claim, Intent, MessageNode, Outcome, Part, Row, Use
from agentkit.journal.row_codec import (
    BODIES,
    FORGOTTEN,
    ROW,
    SEAL,
    SEALED,
    STORED,
    columns_of,
    compact,
    holds,
    row_of,
    run_to_json,
    seal,
    text,
)

Settlement = Literal["redo", "result", "stop"]
_BY_ID = f"SELECT {ROW} FROM {STORED} WHERE step.id = ?"
_NEWEST = f"SELECT {ROW} FROM {STORED} WHERE step.key = ? AND step.n = ? ORDER BY step.gen DESC LIMIT 1"
_INSERT = (
    f"INSERT INTO step ({', '.join(SEALED)}, sum, agent, run, ord, parent, attempt, owner, started, request, result) "
    f"VALUES ({', '.join('?' * (len(SEALED) + 10))})"
)
_PUT_USE = "INSERT OR REPLACE INTO use (run, ord, step, replayed, started, ended, attempt)"
_AT = {name: index for index, name in enumerate(SEALED)}


@dataclass(frozen=True, kw_only=True, slots=True)
class Writing:
    """Where a change is made and in whose name."""

    connection: Connection
    path: Path
    owner: str
    alive: Callable[[str], bool]
    unsent: Callable[[Row], bool]
    provenance: Provenance

    def read(self, step: int) -> list[Any]:
        found = self.connection.execute(_BY_ID, (step,)).fetchone()
        if found is None:
            raise UserError(f"there is no step {step} in {self.path}: session.trace(run) lists them")
        return list(found)

    def row(self, step: int) -> Row:
        return self.row_of(self.read(step))

    def row_of(self, values: Sequence[Any]) -> Row:
        return row_of(values, self.path, self.connection, self.provenance)

    def sign(self, values: Sequence[Any], body: bytes | None, shown: bytes | None) -> bytes:
        """The checksum of a step made here, with its signature."""
        digest = seal(values[:BODIES], body, shown)
        return self.provenance.sign("step", digest, decides=decides(values[_AT["kind"]], values[_AT["settled"]]))


# ---- a step: intent, result


def begin(to: Writing, intent: Intent) -> Claim:
    """The row to run under, or the one that somebody else runs or has finished."""
    put_nodes(to, intent.nodes, source=intent.source)
    put_parts(to, intent.bodies, source=intent.source)
    found = to.connection.execute(_NEWEST, (intent.key, intent.n)).fetchone()
    if found is None:
        return _insert(to, intent, gen=1)
    if found[_AT["settled"]] == FORGOTTEN:
        return _insert(to, intent, gen=found[_AT["gen"]] + 1)
    row = to.row_of(found)
    if row.status == "started" and to.alive(row.owner) and not (intent.abandoned and row.owner == to.owner):
        return Claim(row, False)
    again = intent.fresh or intent.redo
    if intent.source and not again and (row.status != "started" or not row.source):
        return Claim(row, False)
    if row.source and (again or row.status != "done"):
        # What is from elsewhere stays as it is: nothing of it becomes a record made here.
        return _insert(to, intent, gen=row.gen + 1)
    if row.status == "done" and again:
        return _insert(to, intent, gen=row.gen + 1)
    if row.status == "done" or (row.settled == "stop" and not again):
        return Claim(row, False)
    return _take_over(to, intent, row)


def finish(to: Writing, outcome: Outcome) -> None:
    values = to.read(outcome.step)
    was, name = values[_AT["status"]], values[_AT["name"]]
    if values[_AT["kind"]] in ("approval", "question") and was == "done":
        # Decided meanwhile, by another process perhaps: what is on disk is what holds.
        return
    if was == "done":
        raise JournalError(
            to.path, f"step {outcome.step} ({name}) already has its result, this second one was not kept", "run again"
        )
    put_nodes(to, () if outcome.node is None else (outcome.node,), source=outcome.source)
    _rekey(to.connection, values, outcome)
    ended = _put_end(values, outcome)
    _put_bodies(to.connection, outcome.step, outcome.body, outcome.shown)
    _put_evidence(to.connection, outcome)
    use = outcome.use
    if use is not None and use.replayed:
        # Adopted from elsewhere: recorded under this intent, but nothing was performed or spent here.
        put_uses(to.connection, (use,))
    started = values[SEAL + 7] if use is None else use.started
    stopped = time.time() if use is None or use.ended is None else use.ended
    to.connection.execute(
        _FINISH,
        (
            *ended,
            seal(values[:BODIES], outcome.body, outcome.shown) if outcome.source
            else to.sign(values, outcome.body, outcome.shown),
            started, stopped, text(outcome.result), outcome.paid_twice, outcome.step,
        ),
    )  # fmt: skip
    usage = outcome.usage
    if usage is not None and (usage.estimated or usage.list_price):
        put = "INSERT OR REPLACE INTO unsure (step, tokens, price) VALUES (?, ?, ?)"
        to.connection.execute(put, (outcome.step, usage.estimated, usage.list_price))


_ENDED = ("status", "settled", "reply", "input_tokens", "output_tokens", "cost", "nested", "error", "model")
# Only what changes: to set a column of an index is to rewrite the index.
_FINISH = (
    f"UPDATE step SET {', '.join(f'{name} = ?' for name in _ENDED)}, sum = ?, started = ?, ended = ?, result = ?, "
    "twice = coalesce(?, twice) WHERE id = ?"
)


def _put_end(values: list[Any], outcome: Outcome) -> tuple[Any, ...]:
    """The columns of _ENDED, which are put into `values` too."""
    ended = (
        outcome.status,
        None,
        None if outcome.node is None else outcome.node.digest,
        *columns_of(outcome.usage),
        compact(outcome.nested) if outcome.nested else None,
        None if outcome.error is None else text(outcome.error),
        values[_AT["model"]] if outcome.model is None else text(outcome.model),
    )
    for name, value in zip(_ENDED, ended, strict=True):
        values[_AT[name]] = value
    return ended


def _rekey(connection: Connection, values: list[Any], outcome: Outcome) -> None:
    """Another member of a fallback chain answered: the row is found by that member's key from now on."""
    if outcome.key is None or outcome.key == values[_AT["key"]]:
        return
    values[_AT["gen"]] = _next_gen(connection, outcome.key, values[_AT["n"]])
    values[_AT["key"]] = outcome.key
    connection.execute("UPDATE step SET key = ?, gen = ? WHERE id = ?", (outcome.key, values[_AT["gen"]], outcome.step))


_SAME_KEY = "SELECT id FROM step WHERE key = ? AND n = ? AND gen < ?"


def _insert(to: Writing, intent: Intent, *, gen: int) -> Claim:
    now = time.time()
    if gen > 1:
        older = to.connection.execute(_SAME_KEY, (intent.key, intent.n, gen)).fetchall()
        drop_answers(to.connection, [id_ for (id_,) in older])
    parts = compact(intent.parts)
    sealed = (
        intent.key, intent.n, gen, intent.slot, intent.kind, text(intent.name), intent.effects, "started", None,
        intent.history, None, None, None, None, None, None, parts, intent.model,
    )  # fmt: skip
    cursor = to.connection.execute(
        _INSERT,
        (
            *sealed, seal(sealed, None, None) if intent.source else to.sign(sealed, None, None), text(intent.agent),
            intent.run, intent.ord, intent.parent, 1, to.owner, now, text(intent.request), "",
        ),
    )  # fmt: skip
    id_ = int(cursor.lastrowid or 0)
    if intent.source:
        to.provenance.bring(to.connection, "step", id_, intent.source)
    _put_live_use(to.connection, intent, id_, attempt=1, now=now)
    return Claim(
        Row(
            id=id_, key=intent.key, n=intent.n, gen=gen, slot=intent.slot, kind=intent.kind, name=intent.name,
            effects=intent.effects, agent=intent.agent, run=intent.run, parent=intent.parent, status="started",
            attempt=1, owner=to.owner, started=now, parts=dict(intent.parts), request=intent.request,
            history=intent.history, model=intent.model, source=intent.source,
        ),
        True,
    )  # fmt: skip


def _take_over(to: Writing, intent: Intent, row: Row) -> Claim:
    now = time.time()
    # Nobody lives who could still send it: the row's owner was found dead.
    underway = row.kind == "model" and row.status == "started"
    sent = underway and not to.unsent(row) and not came_with_batch(to.connection, row)
    twice = row.maybe_paid_twice or intent.paid_before or sent
    to.connection.execute(
        "UPDATE step SET status = 'started', settled = NULL, error = NULL, attempt = ?, owner = ?, started = ?, "
        "ended = NULL, twice = ?, agent = ?, run = ?, ord = ?, parent = ?, request = ?, parts = ?, result = '' "
        "WHERE id = ?",
        (
            row.attempt + 1, to.owner, now, twice, text(intent.agent), intent.run, intent.ord, intent.parent,
            text(intent.request), compact(intent.parts), row.id,
        ),
    )  # fmt: skip
    _drop_contents(to.connection, row.id)
    reseal(to, row.id)
    _put_live_use(to.connection, intent, row.id, attempt=row.attempt + 1, now=now)
    return Claim(to.row(row.id), True)


# ---- a person decides


def pause(to: Writing, steps: Iterable[int], *, on: bool) -> None:
    """A person is waited for inside these steps, or not any more."""
    for step in steps:
        to.connection.execute(
            "UPDATE step SET error = ? WHERE id = ? AND status = 'started'", (PAUSED if on else None, step)
        )
        reseal(to, step)


def settle(to: Writing, step: int, action: Settlement, *, body: bytes | None) -> Row:
    row = to.row(step)
    if row.status == "done":
        return _settle_finished(to, row, action, body)
    if row.status == "started" and to.alive(row.owner):
        raise UserError(f"step {step} ({row.name}) is still running: stop it first")
    status, error = _SETTLED[action]
    if action == "redo" and row.status == "started" and row.kind == "model":
        to.connection.execute("UPDATE step SET twice = 1 WHERE id = ?", (step,))
    to.connection.execute(
        "UPDATE step SET status = ?, settled = ?, error = ?, ended = ? WHERE id = ?",
        (status, action, error, time.time(), step),
    )
    _put_bodies(to.connection, step, body if action == "result" else None, None)
    reseal(to, step)
    return to.row(step)


def drop_answers(connection: Connection, steps: Iterable[int], runs: Iterable[str] = ()) -> None:
    """Let the answers of rows that rest on these steps, or are of these runs, be walked again."""
    for step in steps:
        connection.execute("DELETE FROM answer WHERE first = ?1 OR first = " + _FIRST_OF_ITS_RUN, (step,))
    connection.executemany("DELETE FROM answer WHERE run = ?", [(run,) for run in runs])


# All runs that use a step began as the one that performed it did: its key holds what was said before.
_FIRST_OF_ITS_RUN = (
    "(SELECT use.step FROM step JOIN use ON use.run = step.run WHERE step.id = ?1 ORDER BY use.ord LIMIT 1)"
)


def _settle_finished(to: Writing, row: Row, action: Settlement, body: bytes | None) -> Row:
    """What is done is only asked about when it must happen once and its code has changed since; its result stays."""
    if row.effects != "once":
        raise UserError(
            f"step {row.id} ({row.name}) has its result: ask anew with fresh=True, or session.forget(step={row.id})"
        )
    to.connection.execute("UPDATE step SET settled = ? WHERE id = ?", (action, row.id))
    drop_answers(to.connection, (row.id,))
    if action == "result":
        to.connection.execute("DELETE FROM body WHERE step = ?", (row.id,))
        _put_bodies(to.connection, row.id, body, None)
    reseal(to, row.id)
    return to.row(row.id)


_SETTLED: dict[Settlement, tuple[str, str | None]] = {
    "redo": ("cancelled", None),
    "result": ("done", None),
    "stop": ("failed", "a person decided to stop here"),
}


def forget(to: Writing, *, run: str | None, step: int | None, agent: str | None) -> int:
    """Leave a tombstone for each step: it is listed, and never replayed again."""
    runs = runs_below(to.connection, run, agent)
    steps = steps_of(to.connection, runs, step, agent)
    drop_answers(to.connection, steps, runs)
    for each in steps:
        _drop_contents(to.connection, each)
        to.connection.execute(_ENTOMB, (FORGOTTEN, each))
        reseal(to, each)
    for run_id in runs:
        to.connection.execute("UPDATE run SET output = NULL WHERE id = ?", (run_id,))
        reseal_run(to, run_id)
    return len(steps)


_ENTOMB = (
    "UPDATE step SET settled = ?, status = CASE status WHEN 'started' THEN 'cancelled' ELSE status END, "
    "request = '', result = '', error = NULL, nested = NULL WHERE id = ?"
)
_RUNS_BELOW = (
    "WITH RECURSIVE below (id) AS (SELECT id FROM run WHERE id = ?1 OR agent = ?2 "
    "UNION SELECT run.id FROM run JOIN below ON run.parent = below.id) SELECT id FROM below"
)


def runs_below(connection: Connection, run: str | None, agent: str | None) -> list[str]:
    if run is None and agent is None:
        return []
    return [id_ for (id_,) in connection.execute(_RUNS_BELOW, (run, agent))]


def steps_of(connection: Connection, runs: Iterable[str], step: int | None, agent: str | None) -> list[int]:
    """The steps these runs used, those of the agent, and every generation of the one named."""
    found = {id_ for run in runs for (id_,) in connection.execute("SELECT step FROM use WHERE run = ?", (run,))}
    if agent is not None:
        found |= {id_ for (id_,) in connection.execute("SELECT id FROM step WHERE agent = ?", (agent,))}
    if step is not None:
        same = "SELECT other.id FROM step JOIN step AS other USING (key, n) WHERE step.id = ?"
        found |= {id_ for (id_,) in connection.execute(same, (step,))}
    return sorted(found)


def reseal(to: Writing, step: int) -> None:
    """What a step says now is said here, by this user."""
    values = to.read(step)
    to.connection.execute(
        "UPDATE step SET sum = ? WHERE id = ?", (to.sign(values, values[BODIES], values[BODIES + 1]), step)
    )
    origins.drop(to.connection, "step", step)


# ---- runs, uses, messages, parts


def put_run(to: Writing, run: Run, *, history: bytes | None, output: bytes | None) -> None:
    data = text(run_to_json(run))
    digest = seal((run.id, data, history), output)
    if run.source:
        to.provenance.bring(to.connection, "run", run.id, run.source)
    to.connection.execute(
        "INSERT INTO run (id, agent, label, started, parent, owner, data, history, sum, output) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO UPDATE SET agent = excluded.agent, "
        "label = excluded.label, started = excluded.started, parent = excluded.parent, owner = excluded.owner, "
        "data = excluded.data, history = excluded.history, sum = excluded.sum, output = excluded.output",
        (
            run.id, text(run.agent), text(run.label), run.started, run.parent_run, to.owner, data, history,
            digest if run.source else to.provenance.sign("run", digest), output,
        ),
    )  # fmt: skip


def reseal_run(to: Writing, run: str) -> None:
    """After something was taken out of it; where it is from stays."""
    values = to.connection.execute("SELECT id, data, history, output, sum FROM run WHERE id = ?", (run,)).fetchone()
    digest = seal(values[:3], values[3])
    sum = to.provenance.sign("run", digest) if to.provenance.is_own("run", values[4]) else digest
    to.connection.execute("UPDATE run SET sum = ? WHERE id = ?", (sum, run))


def adopt_run(to: Writing, run: str) -> None:
    """It is this user's own from now on."""
    values = to.connection.execute("SELECT id, data, history, output, sum FROM run WHERE id = ?", (run,)).fetchone()
    if not holds(values[4], values[:3], values[3]):
        raise database_errors.corrupt(to.path, f"run {run} does not match its checksum")
    sum = to.provenance.sign("run", seal(values[:3], values[3]))
    to.connection.execute("UPDATE run SET sum = ? WHERE id = ?", (sum, run))
    origins.drop(to.connection, "run", run)


def put_uses(connection: Connection, uses: Iterable[Use]) -> None:
    connection.executemany(
        f"{_PUT_USE} VALUES (?, ?, ?, ?, ?, ?, NULL)",
        uses,
    )


def put_nodes(to: Writing, nodes: Iterable[MessageNode], *, source: str = "") -> None:
    """Messages said here take the place of what somebody else put under their digests, and never the other way."""
    for node in nodes:
        digest = seal(node[:2], node.body)
        values = (*node, digest if source else to.provenance.sign("node", digest))
        added = to.connection.execute(f"INSERT OR IGNORE {_PUT_NODE}", values).rowcount
        if not added and not source and not _is_ours(to, "node", node.digest):
            to.connection.execute(f"INSERT OR REPLACE {_PUT_NODE}", values)


def put_parts(to: Writing, parts: Iterable[Part], *, source: str = "") -> None:
    for part in parts:
        # Nearly always there already: to ask costs less than the checksum.
        known = _is_ours(to, "part", part.digest)
        if known or (known is not None and source):
            continue
        digest = seal(part[:1], part.body)
        to.connection.execute(
            "INSERT OR REPLACE INTO part (digest, body, sum) VALUES (?, ?, ?)",
            (*part, digest if source else to.provenance.sign("part", digest)),
        )


_PUT_NODE = "INTO node (digest, parent, body, sum) VALUES (?, ?, ?, ?)"


def _is_ours(to: Writing, of: Of, digest: bytes) -> bool | None:
    """Whether this user recorded what lies under `digest`; None where nothing does."""
    found = to.connection.execute(f"SELECT sum FROM {of} WHERE digest = ?", (digest,)).fetchone()
    return None if found is None else to.provenance.is_own(of, found[0])


def _put_live_use(connection: Connection, intent: Intent, step: int, *, attempt: int, now: float) -> None:
    connection.execute(
        f"{_PUT_USE} VALUES (?, ?, ?, 0, ?, NULL, ?)",
        (intent.run, intent.ord, step, now, attempt),
    )


def _put_bodies(connection: Connection, step: int, body: bytes | None, shown: bytes | None) -> None:
    if body is None and shown is None:
        connection.execute("DELETE FROM body WHERE step = ?", (step,))
        return
    connection.execute("INSERT OR REPLACE INTO body (step, body, shown) VALUES (?, ?, ?)", (step, body, shown))


def _put_evidence(connection: Connection, outcome: Outcome) -> None:
    if outcome.evidence is None:
        return
    sealed = seal((outcome.step,), outcome.evidence)
    connection.execute(
        "INSERT OR REPLACE INTO input (step, body, sum) VALUES (?, ?, ?)", (outcome.step, outcome.evidence, sealed)
    )
    paths = [(text(path), outcome.step) for path in outcome.wrote]
    connection.executemany("INSERT OR IGNORE INTO output (path, step) VALUES (?, ?)", paths)


def _drop_contents(connection: Connection, step: int) -> None:
    for table in ("body", "input", "output"):
        connection.execute(f"DELETE FROM {table} WHERE step = ?", (step,))


def _next_gen(connection: Connection, key: bytes, n: int) -> int:
    found = connection.execute("SELECT max(gen) FROM step WHERE key = ? AND n = ?", (key, n)).fetchone()
    return int(found[0] or 0) + 1
