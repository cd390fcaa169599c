"""The vocabulary of the record: what a run and a step are, frozen, and nothing else.

The engine sends these to listeners as they change (the newest value for the same identity wins) and the journal gives
back the same types, so a panel drawn while running and one drawn from disk are the same fold.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

Kind: TypeAlias = Literal[
    "model", "tool", "discovery", "validate", "capability", "sandbox", "approval", "question", "batch"
]
Effects: TypeAlias = Literal["none", "idempotent", "once", "kernel", "undeclared"]
Mode: TypeAlias = Literal["auto", "live", "replay", "off"]
Scope: TypeAlias = Literal["project", "user", "shared"]

StepStatus: TypeAlias = Literal["started", "done", "failed", "cancelled"]
"""`started` has an intent and no recorded end: running, or in doubt when its owner is dead."""

RunStatus: TypeAlias = Literal["running", "done", "truncated", "filtered", "failed", "stopped"]
"""`truncated` and `filtered` have an answer that is not whole: its tokens ended, or a content filter ended it."""

FINISHED: frozenset[RunStatus] = frozenset({"done", "truncated", "filtered"})
"""The statuses of a run that has an answer."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Usage:
    """Tokens and money of one model request. `cost` is in USD; None means no price is known (never shown as 0).

    `estimated`: the server did not say how many tokens it counted, so what was set aside for the request counts.
    `list_price`: it was asked in a service tier whose price is not known, so `cost` is the standard one.
    """

    input_tokens: int = 0
    output_tokens: int = 0
    cost: float | None = None
    estimated: bool = False
    list_price: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Gauge:
    """A limit that a run is held to, and how much of it was used when the run began.

    Money is in USD, time in seconds. `window` is run, cell, day, month, total or minute; for one of `run` or `cell`
    what the run replays counts too. `before` is the limit that a person raised to this one.
    """

    scope: str
    measure: str
    window: str
    limit: float
    used: float = 0.0
    before: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """One durable unit inside a run, as it stands now. Identity is (`run`, `ord`).

    Times are unix seconds of *this* run (a replayed step is fast); `recorded_seconds` is what the live step took.
    `usage` is what was recorded when the step was live: it counts as spent when `replayed` is false, saved otherwise.
    `request`, `result` and `shown` (what a tool printed and displayed) are bounded, redacted texts for showing.
    `within` is the `ord` of the step of the same run that it was made in, such as the code of an agent that calls its
    tools. `waiting` is what a step that is not under way yet waits for (its `id` is 0: it is not on disk), and `until`
    when that is expected to be over. `unchecked` names what it reads in ways that nobody can see, so that a replay of
    it may be out of date. `source` is where a record is from that this user did not make: a file's name, or
    `elsewhere`.
    """

    run: str
    ord: int
    id: int
    kind: Kind
    name: str
    status: StepStatus
    replayed: bool
    effects: Effects = "none"
    started: float = 0.0
    ended: float | None = None
    recorded_seconds: float | None = None
    usage: Usage | None = None
    attempt: int = 1
    shared: bool = False
    maybe_paid_twice: bool = False
    request: str = ""
    result: str = ""
    error: str | None = None
    shown: str = ""
    within: int | None = None
    waiting: str = ""
    until: float | None = None
    unchecked: tuple[str, ...] = ()
    source: str = ""

    @property
    def numbered(self) -> bool:
        """Whether it is one of the steps that a person takes and counts: a request, a call, or what stands for one."""
        return self.within is None and (self.kind in ("model", "tool") or self.name in ("edit result", "edit reply"))


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """One execution of an agent on one prompt. Identity is `id`.

    A sub-agent's run names the step it ran inside by `parent_run` and `parent_ord`. `continues` is the id of the run
    whose conversation it carries on. `notes` are one-line remarks for the person (diverged, tool flagged, paid twice).
    `walked` says why a run that is on record was nevertheless walked step by step; empty when it was not.
    `gauges` are the budgets it was held to. `source` is where its record is from, if this user did not make it.
    `caller` and `thread` say for whom it ran, where a session was told. A run that maps an agent over a table has the
    number of its `rows`; the run of a row has its place in the table as `row`, and the map as `parent_run`.
    """

    id: str
    agent: str
    status: RunStatus
    label: str = "default"
    cell: str | None = None
    prompt: str = ""
    model: str = ""
    mode: Mode = "auto"
    started: float = 0.0
    ended: float | None = None
    continues: str | None = None
    parent_run: str | None = None
    parent_ord: int | None = None
    output: str = ""
    error: str | None = None
    notes: tuple[str, ...] = field(default=())
    walked: str = ""
    gauges: tuple[Gauge, ...] = field(default=())
    source: str = ""
    caller: str = ""
    thread: str = ""
    rows: int | None = None
    row: int | None = None


Event: TypeAlias = Run | Step


def short_model(identity: str, among: Collection[str]) -> str:
    """A model's name without provider and address, where no other one of these is called the same."""
    names = [_without_place(one) for one in {*among, identity}]
    return _without_place(identity) if names.count(_without_place(identity)) == 1 else identity


def _without_place(identity: str) -> str:
    """The name alone; of a chain those of all its members."""
    return " | ".join(one.split(" @ ")[0].split(":", 1)[-1] for one in identity.split(" | "))
