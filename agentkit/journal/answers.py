"""Answers of rows by their prompts: what a map asks in one lookup for all its rows, where no step is walked."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from sqlite3 import Connection
from typing import Final, NamedTuple

from agentkit.journal.queries import RecordSource
from agentkit.journal.transactions import Writing

_AT_ONCE: Final = 500
_WHOLE: Final = 2_000
"""From so many prompts on, all answers of a basis are read in order and not looked up one by one."""
_COLUMNS: Final = "prompt, run, first, body, tokens, cost, seconds, sum"
_BODY: Final = 3
_PERFORMED: Final = (
    "SELECT step.kind, step.status, step.effects, step.settled, step.parts, step.sum, step.id, "
    "input.body FROM use JOIN step ON step.id = use.step LEFT JOIN input ON input.step = step.id "
    "WHERE use.run = ? ORDER BY use.ord"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class RowAnswer:
    """The answer of one row: its output as JSON, and what it took when it was live.

    `prompt` is a digest, `run` the run that is recorded of it. `step` is the one step that is all of it, where it was
    made without a run of its own; what is found has its first step there. Cost is in USD, None where no price is known.
    """

    prompt: bytes
    run: str
    body: bytes
    tokens: int
    cost: float | None
    seconds: float
    step: int | None = None


class _Stored(NamedTuple):
    """The columns of an answer, as they are signed."""

    prompt: bytes
    run: str
    first: int
    body: bytes
    tokens: int
    cost: float | None
    seconds: float
    sum: bytes


def put(to: Writing, basis: bytes, answer: RowAnswer, codes: Mapping[str, str]) -> bool:
    """Keep an answer if a walk through its run could only come to the same one; whether it was kept.

    `basis` is a digest of all that the answer rests on besides its prompt and the code of the tools that were called,
    which `codes` gives by the part of a key that names the tool. An answer is not kept where a step read something from
    outside, waited for a person, lives only as long as its kernel, or performed runs of its own.
    """
    first = answer.step if answer.step is not None else _first_of_run(to, answer.run, codes)
    if first is None:
        return False
    values = (answer.prompt, answer.run, first, answer.body, answer.tokens, answer.cost, answer.seconds)
    to.connection.execute(
        f"INSERT OR REPLACE INTO answer (basis, {_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (basis, *values, to.provenance.identity.sign(*_signed(basis, values))),
    )
    return True


def _first_of_run(to: Writing, run: str, codes: Mapping[str, str]) -> int | None:
    """The first step of a run whose steps alone decide its answer; None of another run."""
    if to.connection.execute("SELECT 1 FROM run WHERE parent = ? LIMIT 1", (run,)).fetchone() is not None:
        return None
    steps = to.connection.execute(_PERFORMED, (run,)).fetchall()
    for kind, status, effects, settled, parts, sum, _, evidence in steps:
        plain = status == "done" and settled is None and effects != "kernel" and not _reads_outside(evidence)
        if not plain or kind not in ("model", "tool") or not to.provenance.is_own("step", sum):
            return None
        if kind == "tool":
            named = json.loads(parts)
            if codes.get(named.get("name", "")) != named.get("code"):
                return None
    return int(steps[0][6]) if steps else None


def _reads_outside(evidence: bytes | None) -> bool:
    """Whether a step read or wrote what another program may have changed since. Its code and data are in its key."""
    found = {} if evidence is None else json.loads(evidence)
    return bool(found.get("inputs") or found.get("wrote"))


def find(source: RecordSource, basis: bytes, prompts: Sequence[bytes]) -> Iterator[RowAnswer]:
    """The answers to those of `prompts` that have one; one that this user did not sign here is none."""
    if len(prompts) >= _WHOLE:
        wanted = frozenset(prompts)
        found: Iterable[tuple[object, ...]] = (
            row
            for row in source.connection.execute(f"SELECT {_COLUMNS} FROM answer NOT INDEXED WHERE basis = ?", (basis,))
            if row[0] in wanted
        )
    else:
        found = _by_prompt(source.connection, basis, prompts)
    for values in found:
        *said, signature = values
        # A column of SQLite holds whatever was put into it.
        if not (isinstance(signature, bytes) and isinstance(values[_BODY], bytes)):
            continue
        if not source.provenance.identity.verify(signature, *_signed(basis, said)):
            continue
        stored = _Stored._make(values)
        yield RowAnswer(
            prompt=stored.prompt, run=stored.run, body=stored.body, tokens=stored.tokens, cost=stored.cost,
            seconds=stored.seconds, step=stored.first,
        )  # fmt: skip


class Means(NamedTuple):
    """How many rows of one basis have an answer, and what one took on average; `cost` None where prices are missing."""

    rows: int
    cost: float | None
    tokens: float


def means(source: RecordSource, basis: bytes) -> Means:
    query = "SELECT count(*), count(cost), avg(cost), coalesce(avg(tokens), 0) FROM answer WHERE basis = ?"
    rows, priced, cost, tokens = source.connection.execute(query, (basis,)).fetchone()
    return Means(rows=rows, cost=cost if priced == rows else None, tokens=tokens)


def _by_prompt(connection: Connection, basis: bytes, prompts: Sequence[bytes]) -> Iterator[tuple[object, ...]]:
    for start in range(0, len(prompts), _AT_ONCE):
        some = prompts[start : start + _AT_ONCE]
        marks = ",".join("?" * len(some))
        yield from connection.execute(
            f"SELECT {_COLUMNS} FROM answer WHERE basis = ? AND prompt IN ({marks})", (basis, *some)
        )


def _signed(basis: bytes, values: Sequence[object]) -> tuple[bytes, ...]:
    """What this user signs of an answer: all of it."""
    prompt, run, first, body, *took = values
    return b"answer", basis, prompt, ascii((run, first, *took)).encode(), body  # type: ignore[return-value]
