"""What is being performed: the run and the step it stands in, and how the code inside finds them."""

from __future__ import annotations

import json
import os
import signal
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import AbstractAsyncContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass, field
from heapq import heappop, heappush
from typing import Any, Literal, NamedTuple, TypeAlias

from agentkit.events import Mode, Step, StepStatus, Usage
from agentkit.journal.operation import Operation, Payload
from agentkit.journal.records import Outcome, Row
from agentkit.journal.response_store import PendingResponses
from agentkit.journal.shown_output import PRINTED_CHARACTERS, in_short
from agentkit.journal.single_flight import InFlight

_ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False)
_SHOWN_CHARACTERS = 400
_SHOWN_BYTES = 1 << 20
_PRINT_PAUSE_SECONDS = 0.2


class Occurrence(NamedTuple):
    """The `n`-th request of this key in one execution."""

    key: bytes
    n: int


class Occurrences:
    """Which of the equal requests of one execution comes next; what an unfinished run took is given out again first."""

    def __init__(self) -> None:
        self._next: Counter[bytes] = Counter()
        self._returned: dict[bytes, list[int]] = {}
        self._resumable: set[Occurrence] = set()

    def take(self, key: bytes) -> int:
        returned = self._returned.get(key)
        if returned:
            return heappop(returned)
        n = self._next[key]
        self._next[key] = n + 1
        return n

    def peek(self, key: bytes, distance: int = 0) -> int:
        """What `take` would give after `distance` others; nothing is taken."""
        returned = sorted(self._returned.get(key, ()))
        return returned[distance] if distance < len(returned) else self._next[key] + distance - len(returned)

    def give_back(self, taken: Occurrence) -> None:
        """The run that took it did not finish: the next equal one resumes it."""
        heappush(self._returned.setdefault(taken.key, []), taken.n)
        self._resumable.add(taken)

    def resumes(self, taken: Occurrence) -> bool:
        """Whether a run of this execution took it and did not finish."""
        return taken in self._resumable

    def copy(self) -> Occurrences:
        copied = Occurrences()
        copied._next = Counter(self._next)
        copied._returned = {key: list(returned) for key, returned in self._returned.items() if returned}
        copied._resumable = set(self._resumable)
        return copied


@dataclass(kw_only=True)
class Execution:
    """One top-level cell execution or session entry: inside it, equal requests are counted from 0.

    `began` is in unix seconds, as its records are, and `entered` is the same by a clock that nobody sets. `resting` are
    models that failed in it, and until when they are left alone.
    """

    cell: str | None = None
    id: str = field(default_factory=lambda: uuid.uuid4().hex[:8])
    began: float = field(default_factory=time.time)
    entered: float = field(default_factory=time.monotonic)
    counts: Occurrences = field(default_factory=Occurrences)
    resting: dict[str, float] = field(default_factory=dict)


@dataclass(kw_only=True)
class RunFrame:
    """The run that steps are performed for, while it runs; `sources` are the runs that performed what it replays.

    `taken` is what it and the runs inside it took of their execution's occurrences, `replied` that of the last reply of
    a model, and `broke` the error that ended its last failed step.
    """

    id: str
    agent: str
    execution: Execution
    mode: Mode = "auto"
    fresh: bool = False
    ord: int = 0
    live: int = 0
    replayed: int = 0
    missing_secrets: tuple[str, ...] = ()
    sources: set[str] = field(default_factory=set)
    taken: list[Occurrence] = field(default_factory=list)
    replied: Occurrence | None = None
    broke: BaseException | None = None

    def next_ord(self) -> int:
        self.ord += 1
        return self.ord


@dataclass(kw_only=True)
class StepFrame:
    """A step in progress: what runs inside it counts as its own, and a thread may record its end.

    `thread` resolves when that thread has recorded it or failed; false when it was never begun. `paid_before` says
    whether the step was possibly paid twice before this attempt, if that is known; `paused` that a person is waited for
    inside it. `told` hears what was recorded. `shown` are MIME bundles and what was printed (`stream` and `text`, of
    `printed` characters in all), in order; `changed` tells those who look that there is more of it.
    """

    row: Row
    ord: int
    run: RunFrame
    started: float
    idempotency_key: str
    outer: StepFrame | None = None
    nested: Counter[str] = field(default_factory=Counter)
    inner: Usage | None = None
    shown: list[dict[str, Any]] = field(default_factory=list)
    printed: int = 0
    changed: Callable[[], None] = lambda: None
    changed_at: float = 0.0
    responses: PendingResponses | None = None
    paid_before: bool | None = None
    finish_in_thread: Callable[[object], None] | None = None
    thread: Future[bool] | None = None
    recorded: bool = False
    paused: bool = False
    flight: InFlight | None = None
    told: Callable[[Outcome], None] = lambda outcome: None

    def lineage(self) -> Iterator[StepFrame]:
        frame: StepFrame | None = self
        while frame is not None:
            yield frame
            frame = frame.outer


OnOutcome: TypeAlias = Callable[[Outcome], None]
"""Hears how an admitted step ended, from whichever thread records it."""

Admission: TypeAlias = Callable[[Operation, RunFrame, int], AbstractAsyncContextManager[OnOutcome]]
"""Entered before a live step at a place of a run: it may wait, or refuse by raising Stopped; nothing is on disk yet."""


def free(operation: Operation, run: RunFrame, ord: int) -> AbstractAsyncContextManager[OnOutcome]:
    """Admits every step."""
    return nullcontext(lambda outcome: None)


class Frame(NamedTuple):
    """What is performed here: a run, the step inside it, and the place of that step where a person steps through."""

    run: RunFrame | None = None
    step: StepFrame | None = None
    place: tuple[int, ...] = ()


_OUTSIDE = Frame()
_frame: ContextVar[Frame] = ContextVar("agentkit_frame", default=_OUTSIDE)


def current_run() -> RunFrame | None:
    """The run that is performed in this context."""
    return _frame.get().run


def current_step() -> StepFrame | None:
    """The step that is performed in this context."""
    return _frame.get().step


def current_place() -> tuple[int, ...]:
    """The place, among the steps of a run that a person steps through, of what is performed in this context."""
    return _frame.get().place


def begin_outside() -> None:
    """From here on, nothing is performed in this context."""
    _frame.set(_OUTSIDE)


def leave_step() -> None:
    """From here on, this context is in its run and in no step of it."""
    _frame.set(_frame.get()._replace(step=None))


@contextmanager
def inside(run: RunFrame | None) -> Iterator[None]:
    """Perform steps for `run` in this context; None performs unrecorded."""
    with _set(_frame.get()._replace(run=run)):
        yield


@contextmanager
def inside_step(step: StepFrame) -> Iterator[None]:
    """What is performed in this context is inside `step`."""
    with _set(_frame.get()._replace(step=step)):
        yield


@contextmanager
def inside_place(place: tuple[int, ...]) -> Iterator[None]:
    """What comes next in this context stands within the step at `place`."""
    with _set(_frame.get()._replace(place=place)):
        yield


@contextmanager
def _set(frame: Frame) -> Iterator[None]:
    token = _frame.set(frame)
    try:
        yield
    finally:
        _frame.reset(token)


def idempotency_key() -> str | None:
    """The key of the step now running, equal on every attempt of it; None outside a step."""
    frame = current_step()
    return None if frame is None else frame.idempotency_key


def absorb(outer: StepFrame | None, usage: Usage | None) -> None:
    """Count what a step inside `outer` cost as that of the steps around it: replayed alone, they save all of it."""
    if outer is None or usage is None:
        return
    for frame in outer.lineage():
        frame.inner = usage if frame.inner is None else _sum(frame.inner, usage)


def _sum(one: Usage, other: Usage) -> Usage:
    return Usage(
        input_tokens=one.input_tokens + other.input_tokens,
        output_tokens=one.output_tokens + other.output_tokens,
        cost=None if one.cost is None or other.cost is None else one.cost + other.cost,
        estimated=one.estimated or other.estimated,
        list_price=one.list_price or other.list_price,
    )


def record_output(bundle: dict[str, Any]) -> None:
    """Keep what the step now running shows (a MIME bundle of JSON values), so that a replay shows it again."""
    frame = current_step()
    if frame is None:
        return
    room = _SHOWN_BYTES - sum(len(str(kept)) for kept in frame.shown)
    if len(str(bundle)) > room:
        bundle = {"text/plain": f"[agentkit] {len(str(bundle))} bytes of output were shown and not kept"}
    frame.shown.append(bundle)


def record_print(stream: str, text: str) -> bool:
    """Keep what the tool now running prints with its step; False where none runs, and it is to be printed as ever."""
    frame = current_step()
    if frame is None or frame.row.kind != "tool" or frame.recorded:
        return False
    room = PRINTED_CHARACTERS - frame.printed
    frame.printed += len(text)
    if room > 0 and text:
        frame.shown.append({"stream": stream, "text": text[:room]})
    if time.monotonic() - frame.changed_at > _PRINT_PAUSE_SECONDS:
        frame.changed_at = time.monotonic()
        frame.changed()
    return True


def shorten(text: str, limit: int = _SHOWN_CHARACTERS) -> str:
    """`text` cut to `limit` characters, saying how many are left out."""
    return text if len(text) <= limit else f"{text[:limit]}… ({len(text) - limit} more characters)"


def dumps(payload: Payload) -> bytes:
    return _ENCODER.encode(payload).encode()


def crash_point(name: Literal["intent", "call", "record"]) -> None:
    """Die here when AGENTKIT_CRASH_AT says so: the kill tests' way to stop at an exact instruction."""
    wanted = os.environ.get("AGENTKIT_CRASH_AT")
    if wanted is None:
        return
    point, _, nth = wanted.partition(":")
    if point == name:
        _crash_counts[name] += 1
        if _crash_counts[name] == int(nth or 1):
            os.kill(os.getpid(), signal.SIGKILL)


_crash_counts: Counter[str] = Counter()


def step_event(
    row: Row,
    run: RunFrame,
    ord: int,
    *,
    status: StepStatus,
    replayed: bool,
    started: float,
    ended: float | None = None,
    shared: bool = False,
    unchecked: tuple[str, ...] = (),
) -> Step:
    """The step as it stands now, for those who listen, told where it was asked for."""
    within = _within(run, current_step())
    return _event(
        row, run, ord, status=status, replayed=replayed, started=started, ended=ended, shared=shared, within=within,
        unchecked=unchecked,
    )  # fmt: skip


def live_event(frame: StepFrame, row: Row, status: StepStatus, ended: float | None = None) -> Step:
    """The same of a step under way; what tells of it may be the step itself, or a thread that is in no step."""
    within = _within(frame.run, frame.outer)
    return _event(
        row, frame.run, frame.ord, status=status, replayed=False, started=frame.started, ended=ended, within=within
    )


def _event(
    row: Row,
    run: RunFrame,
    ord: int,
    *,
    status: StepStatus,
    replayed: bool,
    started: float,
    ended: float | None,
    within: int | None,
    shared: bool = False,
    unchecked: tuple[str, ...] = (),
) -> Step:
    recorded = None if row.ended is None else row.ended - row.started
    return Step(
        run=run.id,
        ord=ord,
        id=row.id,
        kind=row.kind,
        name=row.name,
        status=status,
        replayed=replayed,
        effects=row.effects,
        started=started,
        ended=ended,
        recorded_seconds=recorded,
        # Live, the steps inside a tool's step stand beside it with what they cost.
        usage=row.usage if replayed or row.kind == "model" else None,
        attempt=row.attempt,
        shared=shared,
        maybe_paid_twice=row.maybe_paid_twice,
        request=row.request,
        result=row.result,
        error=row.error,
        shown=in_short(row.shown) if row.kind == "tool" else "",
        within=within,
        unchecked=unchecked,
        source=row.source if replayed else "",
    )


def _within(run: RunFrame, outer: StepFrame | None) -> int | None:
    made_by_code = outer is not None and outer.run is run and outer.row.kind == "tool"
    return outer.ord if outer is not None and made_by_code else None
