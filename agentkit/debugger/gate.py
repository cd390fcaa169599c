"""The gate: every model request and tool call of a stepped run waits here until it is let through."""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeAlias

from pydantic_ai.messages import InstructionPart, ModelMessage, ModelMessagesTypeAdapter, ModelResponse, ToolCallPart
from pydantic_ai.models import ModelRequestContext, ModelRequestParameters
from pydantic_ai.tools import RunContext

from agentkit.debugger.breakpoints import Breakpoint
from agentkit.debugger.overrides import (
    LASTING,
    Override,
    Path,
    add_hint,
    format_path,
    reply_of,
    valid_arguments,
    valid_messages,
)
from agentkit.errors import RunPaused
from agentkit.events import Effects
from agentkit.journal import wait_marks
from agentkit.journal.codec import RESULT_CODEC, encode_tool_result
from agentkit.journal.execution import current_place, current_run, current_step, dumps, inside_place
from agentkit.journal.journal import Journal, Performed
from agentkit.journal.keys import Key
from agentkit.journal.operation import Operation, Payload
from agentkit.journal.records import Part, Row
from agentkit.journal.redaction import Redactor
from agentkit.journal.store import Store
from agentkit.models import resolve
from agentkit.values.registry import Unconvertible, to_json

At: TypeAlias = Literal["model", "tool", "all"]
INSIDE = "edits"
"""The part of a call's key that holds the edits made inside it."""
Waits: TypeAlias = Literal["model", "tool", "line"]
"""What may stand at a gate: a request, a call, or a statement of a sandbox program."""
NOT_RECORDED = "it is not recorded, so it would be live"


@dataclass(frozen=True, kw_only=True)
class StepRequest:
    """A step at the gate, as it is about to be asked for; `record` makes the journal's step of an edit made here.

    `enters`: the call does nothing but run an agent, whose own steps come to the gate, so that to go in costs nothing.
    """

    kind: Waits
    name: str
    messages: Sequence[ModelMessage]
    record: Callable[[str, Any], Operation]
    arguments: dict[str, Any] | None = None
    validator: Any = None
    schema: Mapping[str, Any] | None = None
    call_id: str | None = None
    parameters: ModelRequestParameters | None = None
    model: Any = None
    effects: Effects = "none"
    enters: bool = False
    shown: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, kw_only=True)
class Pending:
    """The step that a run is paused before: what it is, in full, and whether the record would answer it.

    `row` is the recorded step that would be replayed, `given` the edit that stands in its place; `cause` says why
    the run paused here, where it is not just the next step.
    """

    at: Path
    agent: str
    run: str
    step_request: StepRequest
    row: Row | None = None
    given: Override | None = None
    edits: tuple[Override, ...] = ()
    request: str = ""
    cause: str = ""

    @property
    def kind(self) -> Waits:
        return self.step_request.kind

    @property
    def name(self) -> str:
        return self.step_request.name

    @property
    def messages(self) -> tuple[ModelMessage, ...]:
        return tuple(self.step_request.messages)

    @property
    def arguments(self) -> dict[str, Any] | None:
        return self.step_request.arguments

    @property
    def free(self) -> bool:
        """Whether passing costs nothing: it is recorded, a person gave the answer, or it only computes."""
        return self.kind == "line" or self.row is not None or self.given is not None

    @property
    def beside(self) -> tuple[ToolCallPart, ...]:
        """All calls of the turn that this tool call belongs to, in order."""
        last = next((message for message in reversed(self.messages) if isinstance(message, ModelResponse)), None)
        return () if last is None or self.kind != "tool" else tuple(last.tool_calls)

    def messages_json(self) -> list[Any]:
        """The messages as `%%agent edit --messages` takes them."""
        return list(ModelMessagesTypeAdapter.dump_python(list(self.messages), mode="json"))

    def __str__(self) -> str:
        return f"step {format_path(self.at)}, {self.kind} {self.name}"


@dataclass(kw_only=True)
class Order:
    """How far a run may go: to `target`, over `left` more steps (None: on and on), and whether live steps may happen.

    Steps deeper than `depth` (inside the agents that a step calls) are passed without a pause.
    """

    live: bool
    left: int | None = 0
    depth: int = 1
    target: Path | None = None
    until: Breakpoint | None = None


@dataclass(kw_only=True, eq=False)
class Gate:
    """What lets the steps of one run, and of the runs inside it, pass or wait."""

    order: Order
    overrides: tuple[Override, ...] = ()
    at: At = "all"
    fresh: bool = False
    reached: Path = ()
    breakpoints: Callable[[], Iterable[Breakpoint]] = tuple
    spent: Callable[[str], Mapping[str, float]] = lambda run: {"cost": 0.0, "tokens": 0.0}
    opened: Callable[[str], None] = lambda run: None
    pausing: Callable[[Pending], RunPaused] | None = None
    attend: Callable[[Gate, Pending], Awaitable[Order | None]] | None = None
    root: str = ""
    pending: Pending | None = None
    trail: list[Pending] = field(default_factory=list)
    paused: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self._counts: Counter[Path] = Counter()
        self._turns: Counter[Path] = Counter()
        self._turn = asyncio.Lock()
        self._started = time.monotonic()
        self._go: asyncio.Future[None] | None = None
        self._loop = asyncio.get_running_loop()

    # -- from the outside

    def enter(self, run: str) -> None:
        """A run of this gate begins: the first one is the stepped one, others are inside its steps."""
        self.root = self.root or run
        self.opened(run)

    def release(self, order: Order) -> None:
        """Let the pending step go, and what follows as far as `order` says."""
        self.order = order
        self.paused.clear()
        self.pending = None
        if self._go is not None and not self._go.done():
            self._go.set_result(None)

    @property
    def within_reach(self) -> bool:
        """Whether the run that asks can wait here: one that a thread runs on a loop of its own cannot."""
        return asyncio.get_running_loop() is self._loop

    @property
    def edits_messages(self) -> bool:
        """Whether messages that were already sent may change, so that keys cannot be chained from the last one."""
        return any(edit.what in ("messages", "hint", "instructions") for edit in self.overrides)

    # -- from the run

    async def wait_at_step(
        self,
        journal: Journal,
        step_request: StepRequest,
        call_of: Callable[[], Operation],
        body: Callable[[], Awaitable[Payload]],
    ) -> Performed:
        """Wait until the step may be taken, then take it: from the edit that stands there, the record, or live."""
        path = self._next_place(take=True)
        run = current_run()
        assert run is not None
        edits = self._edits(path)
        self._turns[path[:-1]] += step_request.kind == "model"
        given = next((edit for edit in edits if edit.what in ("reply", "result")), None)
        call = self._branch(call_of(), path, journal.redactor)
        async with self._turn:
            run.fresh = self._asks_anew(path)
            row = journal.find_record(call, run) if given is None else None
            seen = Pending(
                at=path, agent=run.agent, run=run.id, step_request=replace(step_request, effects=call.effects), row=row,
                given=given, edits=edits, request=call.request,
            )  # fmt: skip
            await self._admit(seen, journal.store)
            run.fresh = self._asks_anew(path)
            goes_into = row is not None and not run.fresh and self._goes_into(path, step_request)
            self.reached = max(self.reached, path)
        with self.inside(path):
            for edit in edits:
                if edit.at == path and edit is not given:
                    await self._record_override(journal, step_request, edit)
            if given is not None:
                performed = await self._record_override(journal, step_request, given)
                return performed._replace(payload=_override_payload(given))
            if row is not None and goes_into:
                return await journal.enter(row, call, body)
            return await journal.perform(call, body)

    @contextmanager
    def inside(self, path: Path) -> Iterator[None]:
        """What comes next happens within that step."""
        with inside_place(path):
            yield

    async def wait_at_line(self, step_request: StepRequest, store: Store) -> Path:
        """Wait until what is no step of the record may go on, and its place."""
        run = current_run()
        assert run is not None
        path = self._next_place(take=True)
        async with self._turn:
            await self._admit(Pending(at=path, agent=run.agent, run=run.id, step_request=step_request), store)
            self.reached = max(self.reached, path)
        return path

    def change_arguments(self, step_request: StepRequest) -> None:
        """Put a person's arguments into the call that is about to stand at the gate, before anybody is asked of it."""
        for edit in self._edits(self._next_place(take=False)):
            if edit.what == "arguments" and step_request.arguments is not None:
                valid = valid_arguments(edit.value, step_request.validator, step_request.name, step_request.schema)
                step_request.arguments.clear()
                step_request.arguments.update(valid)

    async def revise(self, ctx: RunContext[Any], request: ModelRequestContext) -> None:
        """Put what a person edited into a model request that is being prepared."""
        for edit in self._edits(self._next_place(take=False)):
            match edit.what:
                case "messages":
                    changed = valid_messages(edit.value)
                case "hint":
                    changed = add_hint(request.messages, edit.value)
                case "model":
                    request.model = resolve.resolve(edit.value)
                    continue
                case "instructions":
                    parts = [InstructionPart(content=edit.value)]
                    request.model_request_parameters = replace(
                        request.model_request_parameters, instruction_parts=parts
                    )
                    continue
                case _:
                    continue
            # The history keeps the edit: what follows is asked with it too.
            ctx.messages[:] = changed
            request.messages[:] = changed

    # -- inside

    def _next_place(self, *, take: bool) -> Path:
        inside = current_place()
        number = self._counts[inside] + 1
        if take:
            self._counts[inside] = number
        return (*inside, number)

    def _edits(self, path: Path) -> tuple[Override, ...]:
        return tuple(
            edit
            for edit in self.overrides
            if edit.at == path or (edit.what in LASTING and edit.at[:-1] == path[:-1] and edit.at < path)
        )

    def _branch(self, call: Operation, path: Path, redactor: Redactor) -> Operation:
        """A call with edits inside it is another call: what comes of it belongs to this branch alone."""
        inside = [edit.as_json() for edit in self.overrides if edit.at[: len(path)] == path != edit.at]
        if not inside:
            return call
        told = dumps(redactor.scrub_json(inside))
        kept = Part(hashlib.sha256(told).digest(), told)
        key, slot = (hashlib.sha256(part + kept.digest).digest() for part in (call.key.key, call.key.slot))
        parts, bodies = {**call.key.parts, INSIDE: kept.digest.hex()}, (*call.key.bodies, kept)
        return replace(call, key=Key(key=key, slot=slot, parts=parts, bodies=bodies), cache=None)

    def _goes_into(self, path: Path, step_request: StepRequest) -> bool:
        """Whether somebody wants to see the steps inside a recorded call."""
        order = self.order
        if not step_request.enters:
            return False
        if order.target is not None:
            return len(order.target) > len(path) and order.target[: len(path)] == path
        return order.left is not None and order.depth > len(path)

    def _asks_anew(self, path: Path) -> bool:
        return self.fresh and self.order.live and path > self.reached

    async def _record_override(self, journal: Journal, step_request: StepRequest, edit: Override) -> Performed:
        value = edit.as_json()

        async def body() -> Payload:
            return value

        return await journal.perform(step_request.record(f"edit {edit.what}", value), body)

    async def _admit(self, step: Pending, store: Store) -> None:
        cause = self._stops(step)
        if self._is_visible(step):
            self.trail.append(step)
        if cause is None:
            return
        async with wait_marks.waiting(store):
            await self._wait(replace(step, cause=cause))

    async def _wait(self, seen: Pending) -> None:
        if self.pausing is not None:
            order = None if self.attend is None else await self.attend(self, seen)
            if order is None:
                raise self.pausing(seen)
            self.order = order
            return
        self.pending = seen
        self._go = asyncio.get_running_loop().create_future()
        self.paused.set()
        with self._pausing(seen.at):
            try:
                await self._go
            finally:
                self._go = None

    @contextmanager
    def _pausing(self, at: Path) -> Iterator[None]:
        """Whoever else wants the steps that this pause is inside is told so, and does not wait for ever."""
        step = current_step()
        flights = [] if step is None else [frame.flight for frame in step.lineage() if frame.flight is not None]
        for flight in flights:
            flight.held = f"run {self.root} is paused inside this step, at {format_path(at)}: go on with it, or stop it"
        try:
            yield
        finally:
            for flight in flights:
                flight.held = ""

    def _is_visible(self, step: Pending) -> bool:
        return self.at in ("all", step.kind) and len(step.at) <= max(self.order.depth, len(self.order.target or ()))

    def _stops(self, step: Pending) -> str | None:
        """Why the run pauses before this step ('' when it is simply the next one); None when it goes on."""
        order = self.order
        if order.target is not None:
            return _on_the_way(step, order.target)
        if self.pausing is not None and step.free:
            return None
        if (met := self._find_breakpoint(step)) is not None:
            return met
        if not step.free and not order.live:
            return NOT_RECORDED
        if order.left is None or not self._is_visible(step):
            return None
        if order.left == 0:
            return ""
        order.left -= 1
        return None

    def _find_breakpoint(self, step: Pending) -> str | None:
        """The breakpoint, or the end of `--until`, that this step is."""
        waited_for = [*self.breakpoints(), *([self.order.until] if self.order.until else [])]
        if not waited_for:
            return None
        facts = self._facts(step, with_spent=any({"cost", "tokens"} & one.facts for one in waited_for))
        met = next((one for one in waited_for if one.holds(facts)), None)
        return None if met is None else f"breakpoint {met.text}"

    def _facts(self, step: Pending, *, with_spent: bool) -> dict[str, Any]:
        spent = self.spent(self.root) if with_spent else {}
        return {
            "cost": 0.0,
            "tokens": 0,
            **spent,
            "seconds": time.monotonic() - self._started,
            "step": step.at[-1],
            "turn": self._turns[step.at[:-1]],
            "depth": len(step.at),
            "kind": step.kind,
            "tool": step.name if step.kind == "tool" else None,
            "model": step.name if step.kind == "model" else None,
            "agent": step.agent,
        }


def _on_the_way(step: Pending, target: Path) -> str | None:
    if step.at == target:
        return ""
    if step.at > target:
        return f"step {format_path(target)} was not met on the way"
    leads_there = step.at == target[: len(step.at)] and step.step_request.effects in ("none", "idempotent", "kernel")
    return None if step.free or leads_there else NOT_RECORDED


def _override_payload(edit: Override) -> Payload:
    if edit.what == "result":
        return encode_tool_result(edit.value)
    return RESULT_CODEC.dump(ModelResponse, reply_of(edit.value, edit.at))


def arguments_json(arguments: Mapping[str, Any] | None) -> str:
    """A tool's arguments as a person edits them."""
    try:
        plain = to_json(dict(arguments or {}), where="the arguments")
    except Unconvertible:
        plain = {name: repr(value) for name, value in (arguments or {}).items()}
    return json.dumps(plain, indent=1, ensure_ascii=False)
