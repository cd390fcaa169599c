"""What is done to a journal as a whole: checking every byte of it, and really deleting."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from sqlite3 import Connection
from typing import Any, Final

from agentkit.errors import JournalBusy, JournalCorrupt, UserError
from agentkit.journal import provenance, queries, transactions
from agentkit.journal.queries import RecordSource
from agentkit.journal.transactions import Writing

_EVERYTHING: Final = ("body", "input", "output", "use", "step", "node", "part", "run", "origin", "unsure", "answer")
_KEPT_NODES: Final = (
    "WITH RECURSIVE kept (digest) AS (SELECT history FROM step WHERE history IS NOT NULL "
    "UNION SELECT reply FROM step WHERE reply IS NOT NULL UNION SELECT history FROM run WHERE history IS NOT NULL "
    "UNION SELECT node.parent FROM node JOIN kept ON node.digest = kept.digest WHERE node.parent IS NOT NULL) "
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Selection:
    """What to erase; a run takes the runs inside it along, and the steps that no other run used."""

    run: str | None = None
    step: int | None = None
    agent: str | None = None
    before: float | None = None
    everything: bool = False


def erase(to: Writing, chosen: Selection) -> int:
    """Delete the records. Until `compact` has run, the bytes are still in the file."""
    if chosen == Selection():
        raise UserError("nothing was named to erase: give a run, a step, an agent, a date or everything")
    if chosen.everything:
        count = int(to.connection.execute("SELECT count(*) FROM step").fetchone()[0])
        for table in _EVERYTHING:
            to.connection.execute(f"DELETE FROM {table}")
        return count
    runs = _runs(to.connection, chosen)
    steps = _steps(to.connection, chosen, runs)
    transactions.drop_answers(to.connection, steps, runs)
    to.connection.executemany("DELETE FROM use WHERE run = ?", [(run,) for run in runs])
    to.connection.executemany("DELETE FROM run WHERE id = ?", [(run,) for run in runs])
    tables = (*(dict.fromkeys(("body", "input", "output", "use", "unsure"), "step").items()), ("step", "id"))
    for table, column in tables:
        to.connection.executemany(f"DELETE FROM {table} WHERE {column} = ?", [(step,) for step in steps])
    gone = [*(f"step {step}" for step in steps), *(f"run {run}" for run in runs)]
    to.connection.executemany("DELETE FROM origin WHERE record = ?", [(record,) for record in gone])
    _drop_orphans(to.connection)
    return len(steps)


def compact(connection: Connection, path: object) -> None:
    """Rewrite the file without what was deleted, and empty the log beside it."""
    connection.execute("VACUUM")
    busy = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
    if busy:
        raise JournalBusy(
            path,
            "was erased, but another process holds the old pages of its log",
            "close the other kernels and run the same erase again",
        )


def problems(source: RecordSource) -> list[str]:
    """Everything that is wrong with the file, one line each."""
    checks = (_structure, _rows, _contents, _chains, _origins)
    return [line for check in checks for line in _report_check(check, source)]


def _report_check(check: Callable[[RecordSource], Iterator[str]], source: RecordSource) -> Iterator[str]:
    try:
        yield from check(source)
    except sqlite3.DatabaseError as error:
        yield f"{source.path}: cannot be read to its end ({error})"


def _structure(source: RecordSource) -> Iterator[str]:
    for (line,) in source.connection.execute("PRAGMA integrity_check"):
        if line != "ok":
            yield f"{source.path}: {line}"


def _rows(source: RecordSource) -> Iterator[str]:
    for (id_,) in source.connection.execute("SELECT id FROM step ORDER BY id"):
        yield from _describe_failure(partial(queries.one, source, queries.BY_ID, (id_,)))
    for (step,) in source.connection.execute("SELECT step FROM body WHERE step NOT IN (SELECT id FROM step)"):
        yield f"{source.path}: a body belongs to step {step}, which is not there"


def _contents(source: RecordSource) -> Iterator[str]:
    for found in source.connection.execute("SELECT digest, parent, body, sum FROM node"):
        yield from _describe_failure(partial(queries.node_of, source, found))
    for found in source.connection.execute("SELECT digest, body, sum FROM part"):
        yield from _describe_failure(partial(queries.part_of, source, found))
    for (step,) in source.connection.execute("SELECT step FROM input"):
        yield from _describe_failure(partial(queries.evidence, source, step))
    for (id_,) in source.connection.execute("SELECT id FROM run"):
        yield from _describe_failure(partial(queries.run_contents, source, id_))


def _chains(source: RecordSource) -> Iterator[str]:
    query = "SELECT count(*) FROM node WHERE parent IS NOT NULL AND parent NOT IN (SELECT digest FROM node)"
    broken = source.connection.execute(query).fetchone()[0]
    if broken:
        yield f"{source.path}: {broken} messages have no predecessor, so their conversations are not whole"


def _origins(source: RecordSource) -> Iterator[str]:
    for record in provenance.find_forgeries(source.connection, source.provenance.identity):
        yield f"{source.path}: where {record} is from was not noted by this user, or was changed"


def _describe_failure(read: Callable[[], object]) -> Iterator[str]:
    try:
        read()
    except JournalCorrupt as error:
        yield f"{error.path}: {error.problem}"


def adopt(to: Writing) -> int:
    """Sign as this user's own what is from elsewhere, and say how many steps; what was decided is asked again."""
    count = 0
    for (id_,) in to.connection.execute("SELECT id FROM step ORDER BY id").fetchall():
        values = to.read(id_)
        row = to.row_of(values)
        if row.source and not provenance.decides(row.kind, row.settled):
            transactions.reseal(to, id_)
            count += 1
    for (id_,) in to.connection.execute("SELECT id FROM run").fetchall():
        transactions.adopt_run(to, id_)
    source = RecordSource(to.connection, to.path, to.alive, to.provenance)
    nodes = to.connection.execute("SELECT digest, parent, body, sum FROM node").fetchall()
    transactions.put_nodes(to, [queries.node_of(source, values) for values in nodes])
    parts = to.connection.execute("SELECT digest, body, sum FROM part").fetchall()
    transactions.put_parts(to, [queries.part_of(source, values) for values in parts])
    return count


def _runs(connection: Connection, chosen: Selection) -> list[str]:
    runs = transactions.runs_below(connection, chosen.run, chosen.agent)
    if chosen.before is not None:
        runs += [id_ for (id_,) in connection.execute("SELECT id FROM run WHERE started < ?", (chosen.before,))]
    return list(dict.fromkeys(runs))


def _steps(connection: Connection, chosen: Selection, runs: list[str]) -> list[int]:
    found = set(transactions.steps_of(connection, (), chosen.step, chosen.agent))
    connection.execute("CREATE TEMP TABLE IF NOT EXISTS going (id TEXT PRIMARY KEY)")
    connection.execute("DELETE FROM going")
    connection.executemany("INSERT INTO going (id) VALUES (?)", [(run,) for run in runs])
    kept = "NOT EXISTS (SELECT 1 FROM use WHERE use.step = step.id AND use.run NOT IN (SELECT id FROM going))"
    used = "SELECT step FROM use WHERE run IN (SELECT id FROM going)"
    found |= _ids(connection, f"SELECT id FROM step WHERE id IN ({used}) AND {kept}", ())
    if chosen.before is not None:
        found |= _ids(connection, f"SELECT id FROM step WHERE started < ? AND {kept}", (chosen.before,))
    connection.execute("DELETE FROM going")
    return sorted(found)


def _ids(connection: Connection, query: str, values: tuple[Any, ...]) -> set[int]:
    return {id_ for (id_,) in connection.execute(query, values)}


def _drop_orphans(connection: Connection) -> None:
    """Messages and parts that no remaining step or run names."""
    connection.execute(f"{_KEPT_NODES} DELETE FROM node WHERE digest NOT IN (SELECT digest FROM kept)")
    named = {
        value for (parts,) in connection.execute("SELECT DISTINCT parts FROM step") for value in _part_digests(parts)
    }
    unused = [(id_,) for id_, digest in connection.execute("SELECT id, digest FROM part") if digest.hex() not in named]
    connection.executemany("DELETE FROM part WHERE id = ?", unused)


def _part_digests(parts: str) -> list[str]:
    return list(json.loads(parts).values())
