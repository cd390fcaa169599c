"""What happens to a step that is asked for, decided from its record and from how it is asked for alone.

`decide` reads no disk, waits for nothing and knows no context: the journal gathers what it asks about and performs what
it returns. tests/journal/test_replay_table.py has the table.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias

from agentkit.events import Effects, Mode
from agentkit.journal.provenance import origin
from agentkit.journal.records import CONTROL_ERROR, LOST, PAUSED, UNPERFORMED, Row


class Record(NamedTuple):
    """What is on record of a step; `edited` when it is of another version of the code.

    `holds` says whether what it read from outside is as it was, None while nobody has looked; `changed` is which of it
    is not.
    """

    row: Row
    edited: bool = False
    holds: bool | None = None
    changed: str | None = None


class Request(NamedTuple):
    """How a step is asked for: what its code declares, how its run is made, and where.

    `owner` is this process. `resumes`: the record was made by a run of this very execution that did not finish.
    `underway`: somebody performs it just now. `lacks_secret`: an answer that was replayed before it holds a secret that
    is not here. `verifiable`: a probe can say whether it happened.
    """

    effects: Effects
    mode: Mode
    owner: str
    fresh: bool = False
    resumes: bool = False
    underway: bool = False
    read_only: bool = False
    lacks_secret: bool = False
    verifiable: bool = False


@dataclass(frozen=True, slots=True)
class Replay:
    """The recorded answer is given."""

    row: Row


@dataclass(frozen=True, slots=True)
class Compare:
    """What the record read from outside is compared with the world; then it is decided again."""

    row: Row


@dataclass(frozen=True, slots=True)
class Wait:
    """Whoever performs it is waited for; then it is looked up again."""

    row: Row


@dataclass(frozen=True, slots=True)
class Perform:
    """It is performed; `redo` sets aside what is on record."""

    redo: bool = False


@dataclass(frozen=True, slots=True)
class Verify:
    """Its probe is asked. What that finds is the result; where it finds nothing, the step is performed anew."""

    row: Row


@dataclass(frozen=True, slots=True)
class Doubt:
    """It is not repeated unasked: a person says what happened."""

    row: Row
    reason: str


@dataclass(frozen=True, slots=True)
class Refuse:
    """It cannot be performed here, whatever is on record."""

    why: Literal["not on record", "read-only", "secret missing"]


Verdict: TypeAlias = Replay | Wait | Perform | Verify | Doubt | Refuse


def decide(record: Record | None, request: Request) -> Verdict | Compare:
    """Return what happens to the step."""
    if record is not None:
        row = record.row
        asks = request.effects == "once" and row.status == "done" and row.settled is None and not record.edited
        if asks and record.holds is None:
            # What must happen once is not repeated unasked, whichever part of what it is made of has changed.
            return Compare(row)
        answer = _find_answer(record, request)
        if answer is not None:
            return answer
        if row.status == "started" and request.underway:
            return Wait(row)
    # Before anybody is asked and anything is set aside for it.
    if request.mode == "replay":
        return Refuse("not on record")
    if request.read_only:
        return Refuse("read-only")
    if request.lacks_secret:
        return Refuse("secret missing")
    return Perform() if record is None else _decide_again(record, request)


def is_trusted(row: Row, mode: Mode) -> bool:
    """Whether a record may stand for a step of this mode: one from elsewhere only where nothing is performed."""
    return not row.source or mode == "replay"


def may_have_cost(row: Row) -> bool:
    """Whether a request was under way when its record ended."""
    if row.kind != "model":
        return False
    underway = row.status in ("started", "cancelled") and row.error != UNPERFORMED
    return underway or (row.error or "").endswith(LOST)


def _find_answer(record: Record, request: Request) -> Replay | Compare | None:
    """Whether the record answers the step."""
    row = record.row
    if row.status != "done" or row.body is None or row.settled in ("redo", "stop") or not is_trusted(row, request.mode):
        return None
    if _is_edited(record, request):
        return Replay(row) if row.settled == "result" else None
    anew = request.mode == "live" or (request.fresh and request.effects != "once")
    if anew and not request.resumes:
        return None
    if request.effects == "kernel" and row.owner != request.owner:
        return Replay(row) if request.mode == "replay" else None
    # What a person settled holds, whatever has changed since.
    if row.settled == "result" or record.holds:
        return Replay(row)
    return Compare(row) if record.holds is None else None


def _decide_again(record: Record, request: Request) -> Verdict:
    """A step that was begun before, and has no answer that can be given."""
    row = record.row
    edited = _is_edited(record, request)
    if row.settled == "stop":
        return Doubt(row, "was settled as stop")
    if row.settled == "redo" and not row.source:
        return Perform(redo=True)
    if row.status == "done" and not edited and not (row.source and request.effects == "once"):
        return Perform(redo=True)
    reason = _find_doubt(record, request)
    if reason is None:
        return Perform()
    return Verify(row) if request.verifiable and not edited else Doubt(row, reason)


def _find_doubt(record: Record, request: Request) -> str | None:
    """Why the record forbids performing the step unasked; None when it may be performed."""
    row = record.row
    if _is_edited(record, request):
        return f"ran before and {record.changed or 'its code or data has changed since'}"
    if request.effects not in ("once", "undeclared"):
        return None
    if row.status != "started" and (row.error or "").startswith(CONTROL_ERROR):
        return None
    if (row.status == "failed" or row.error == PAUSED) and request.effects != "once":
        return None
    match row.status:
        case "failed":
            return f"failed before ({row.error}) and may have taken effect"
        case "cancelled":
            return "was stopped while it ran and may have taken effect"
        case "started":
            return "was started and has no recorded end"
        case "done":
            return f"was performed before, {origin(row.source)}" if row.source else None


def _is_edited(record: Record, request: Request) -> bool:
    """Whether what must happen once would now be something else."""
    return record.edited or (request.effects == "once" and record.changed is not None)
