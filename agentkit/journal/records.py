"""The rows of the journal as frozen values: what is written before a call, after it, and what is read back."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import NamedTuple

from agentkit.events import Effects, Kind, StepStatus, Usage

CONTROL_ERROR = "control: "
"""Marks a step that ended in a control signal (approval required, call deferred), which is never an answer."""

STALE = "stale: "
"""Begins the control signal of a model request that was answered by an old reply, because every model failed."""

UNPERFORMED = f"{CONTROL_ERROR}stopped before it was performed"

PAUSED = "paused inside it, for a person"
"""Marks a step that was waiting when it ended: it is as if it had raised an error of its own there."""

ASKED: tuple[Kind, ...] = ("approval", "question")
"""The kinds of steps that a person performs."""

LOST = "; the connection broke, so it may have been paid"
"""Ends the error of a model request that was sent and got no whole answer."""


class MessageNode(NamedTuple):
    """One message of a conversation, stored once: `digest` is of the parent's digest and this message's content."""

    digest: bytes
    parent: bytes | None
    body: bytes


class Part(NamedTuple):
    """One content-addressed ingredient of a key (tool schemas, settings, instructions), stored once."""

    digest: bytes
    body: bytes


class Use(NamedTuple):
    """Step `step` stood at place `ord` of run `run`, replayed or live; times are unix seconds."""

    run: str
    ord: int
    step: int
    replayed: bool
    started: float
    ended: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Intent:
    """What is on disk before a live step is performed.

    `abandoned`: a started row of this very owner is known to be performed by nobody, and may be taken over.
    `paid_before`: an earlier attempt, whose end is recorded, may have been paid without giving an answer.
    `source`: the file it is brought from, where it is not performed here.
    """

    key: bytes
    n: int
    kind: Kind
    name: str
    effects: Effects
    agent: str
    run: str
    ord: int
    slot: bytes | None = None
    parent: int | None = None
    parts: dict[str, str] = field(default_factory=dict)
    request: str = ""
    history: bytes | None = None
    model: str | None = None
    nodes: tuple[MessageNode, ...] = ()
    bodies: tuple[Part, ...] = ()
    fresh: bool = False
    redo: bool = False
    abandoned: bool = False
    paid_before: bool = False
    source: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """How a live step ended. `key` re-keys the row when another member of a fallback chain answered.

    `paid_twice` corrects what was assumed when the step was begun again; None leaves it. `evidence` says what the step
    read from outside, `wrote` names the files it wrote. `source` as in the intent.
    """

    step: int
    status: StepStatus
    body: bytes | None = None
    usage: Usage | None = None
    nested: dict[str, int] = field(default_factory=dict)
    shown: bytes | None = None
    error: str | None = None
    result: str = ""
    key: bytes | None = None
    model: str | None = None
    node: MessageNode | None = None
    use: Use | None = None
    paid_twice: bool | None = None
    evidence: bytes | None = None
    wrote: tuple[str, ...] = ()
    source: str = ""

    def of(self, row: Row) -> Row:
        """The row it ends, as a person is told of it."""
        return replace(
            row,
            usage=self.usage,
            result=self.result,
            shown=self.shown,
            model=self.model or row.model,
            maybe_paid_twice=row.maybe_paid_twice if self.paid_twice is None else self.paid_twice,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One step as it stands on disk. `body` is verified against its checksum before it is handed out.

    `source` is empty for what this user recorded (and, of decisions, made here), else where it is from. `evidence` is
    JSON: what a tool read from outside; None where nothing was heard.
    """

    id: int
    key: bytes
    n: int
    gen: int
    kind: Kind
    name: str
    effects: Effects
    agent: str
    run: str
    status: StepStatus
    attempt: int
    owner: str
    started: float
    ended: float | None = None
    slot: bytes | None = None
    parent: int | None = None
    parts: dict[str, str] = field(default_factory=dict)
    request: str = ""
    result: str = ""
    history: bytes | None = None
    body: bytes | None = None
    usage: Usage | None = None
    nested: dict[str, int] = field(default_factory=dict)
    shown: bytes | None = None
    error: str | None = None
    settled: str | None = None
    maybe_paid_twice: bool = False
    model: str | None = None
    reply: bytes | None = None
    source: str = ""
    evidence: bytes | None = None


class Claim(NamedTuple):
    """The row a live step may run under (`mine`), or the one somebody else runs or has finished."""

    row: Row
    mine: bool
