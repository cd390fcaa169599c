"""A sandbox program as a journaled run: the program is one step, and each call it makes of the host one under it."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import time
import uuid
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from typing import Any, Literal, TypeAlias

from pydantic_ai import Agent

from agentkit.agent.agent import (
    gate_of,
    guard,
    options_of,
    put_down,
    settle_occurrences,
)
from agentkit.agent.durability import enclosing_step
from agentkit.approval import interrupt
from agentkit.approval.policy import Headless, Policy, parse_patterns
from agentkit.budget import reservation
from agentkit.debugger.gate import StepRequest
from agentkit.debugger.overrides import Path
from agentkit.errors import Interrupted, SandboxError, Stopped, UserError
from agentkit.events import Event, Kind, Mode, Run
from agentkit.guards.loop_detector import LoopDetector
from agentkit.journal.execution import dumps, inside, shorten
from agentkit.journal.keys import MessageChain, RequestParts, tool_key
from agentkit.journal.operation import Operation, Payload
from agentkit.runtime.run_state import RunState, frame_of_run
from agentkit.runtime.run_terms import RunOptions, asking_for, run_with
from agentkit.runtime.session import Session, current, execution_of, identity_of
from agentkit.sandbox import boundary
from agentkit.sandbox.dataframe_handle import FrameHandle
from agentkit.sandbox.deterministic_clock import TOLD_CALLS, deterministic_clock
from agentkit.sandbox.host_calls import Before, HostTool, host_tools, perform_call
from agentkit.sandbox.limits import Limits
from agentkit.sandbox.monty import driver as driver
from agentkit.sandbox.process.program_tier import run_in_process
from agentkit.text import visible
from agentkit.tools.digest import value_digest
from agentkit.values.typed_json import NOTHING, Entered, Parcel, declare

NAME = "sandbox"
Tier: TypeAlias = Literal["monty", "process"]

_PROMPT_CHARACTERS = 2_000
_SHORT = 200


@dataclass(frozen=True, kw_only=True)
class SandboxResult:
    """What a sandbox program came to: its `outputs` by name, the `value` of its last line, and what it `printed`."""

    outputs: dict[str, Any]
    value: Any
    printed: str
    run: Run
    session: Session | None = field(default=None, repr=False)

    @property
    def output(self) -> Any:
        """The outputs that were asked for, else the value of the last line."""
        return self.outputs or self.value

    def events(self) -> list[Event]:
        """The run and its steps, as recorded."""
        return [] if self.session is None or not self.run.id else self.session.trace(self.run.id)


@dataclass(frozen=True, kw_only=True)
class Script:
    """A program with all it gets, checked: nothing of it has run yet. It can be run, and stepped like an agent."""

    source: str
    inputs: Mapping[str, Any]
    outputs: tuple[str, ...]
    tools: Mapping[str, HostTool]
    approve: Policy
    limits: Limits
    tier: Tier
    classes: Entered = NOTHING
    on_print: Callable[[str], None] = lambda text: None
    name: str = NAME

    async def run_again(self, *, fresh: bool, mode: Mode | None) -> SandboxResult:
        """Run it once more from its start, as a person steps through it."""
        with run_with(RunOptions(fresh=fresh, mode=mode)):
            return await _run(self)


async def sandbox(
    source: str,
    *,
    inputs: Mapping[str, Any] | None = None,
    outputs: Sequence[str] | Mapping[str, Any] = (),
    calls: Mapping[str, Any] | Sequence[Any] = (),
    approve: str | Sequence[str] = (),
    limits: Limits | str = "",
    tier: Tier = "monty",
    fresh: bool = False,
    mode: Mode | None = None,
    headless: Headless | None = None,
    on_print: Callable[[str], None] = lambda text: None,
) -> SandboxResult:
    """Run Python that you do not trust: in a sandbox without files, network, environment or clock.

    Only `inputs` enter and only the variables named in `outputs` leave; with `tier="process"` a dict of them says of
    which class each is, where that did not go in as an input. `calls` are the functions and agents of yours
    that it may call. Each call is a recorded step: run again, what was performed is replayed. `approve` names the calls
    that need a person; `limits` is such as "memory=256MB,time=10s,calls=200". Raises SandboxError when the program
    fails, UserError for what cannot be run, and Stopped when a person has to decide first.
    """
    program = script(
        source,
        inputs=inputs,
        outputs=outputs,
        calls=calls,
        approve=approve,
        limits=limits,
        tier=tier,
        on_print=on_print,
    )
    with run_with(RunOptions(fresh=fresh, mode=mode, headless=headless)):
        return await _run(program)


def script(
    source: str,
    *,
    inputs: Mapping[str, Any] | None = None,
    outputs: Sequence[str] | Mapping[str, Any] = (),
    calls: Mapping[str, Any] | Sequence[Any] = (),
    approve: str | Sequence[str] = (),
    limits: Limits | str = "",
    tier: Tier = "monty",
    on_print: Callable[[str], None] = lambda text: None,
) -> Script:
    """The program, checked before anything of it runs; UserError or SandboxError says in one line what is wrong."""
    if tier not in _RUNNERS:
        raise UserError(f"tier={tier!r}: one of {', '.join(_RUNNERS)}")
    given = limits if isinstance(limits, Limits) else Limits.parse(limits)
    tools = host_tools(calls)
    if tools and tier == "process":
        raise UserError(
            f"calls: with tier='process' the program cannot call {min(tools)}; give it the data as an input"
        )
    if taken := sorted(set(inputs or {}) & set(tools)):
        raise UserError(f"{taken[0]} is an input and a call: give one of them another name")
    for name in (*(inputs or {}), *outputs):
        if not name.isidentifier():
            raise UserError(f"{name!r} cannot be a variable of the program: use letters, digits and _")
    entered = {name: _ENTER[tier](value, where=name) for name, value in (inputs or {}).items()}
    return Script(
        source=source,
        inputs=entered,
        outputs=tuple(dict.fromkeys(outputs)),
        tools=tools,
        approve=_approvals(approve, tools),
        limits=given,
        tier=tier,
        classes=_classes(entered, outputs, tier),
        on_print=on_print,
    )


def _classes(entered: Mapping[str, Any], outputs: Sequence[str] | Mapping[str, Any], tier: Tier) -> Entered:
    """The classes whose instances may come back, settled before anything of the program runs."""
    declared = dict(outputs) if isinstance(outputs, Mapping) else {}
    if declared and tier != "process":
        raise UserError("outputs: a class for each is of tier='process'; what leaves the first tier is plain data")
    known = {
        name: kind for value in entered.values() if isinstance(value, Parcel) for name, kind in value.classes.items()
    }
    return Entered({**known, **declare(declared.values())})


def _approvals(approve: str | Sequence[str], tools: Mapping[str, HostTool]) -> Policy:
    text = approve if isinstance(approve, str) else ",".join(approve)
    policy = Policy(patterns=parse_patterns(text) if text else ())
    for pattern in policy.patterns:
        if not any(Policy(patterns=(pattern,)).names(name) for name in tools):
            raise UserError(f"approve={pattern!r} names none of the calls; they are {', '.join(tools) or 'none'}")
    return policy


_RUNNERS: dict[str, Callable[..., Any]] = {"monty": driver.run, "process": run_in_process}
"""What runs a program of each tier: the arguments and the answer are those of `defend.sandbox.run`."""
_ENTER: dict[str, Callable[..., Any]] = {"monty": boundary.enter, "process": Parcel.of}


# ---- the run


async def _run(script: Script) -> SandboxResult:
    session = current()
    if session is None or (options := options_of(session)).mode == "off":
        with inside(None):
            return await _ProgramRun(script, None).live()
    async with _recording(session, script, options) as frame:
        result = await _ProgramRun(script, frame).perform()
    return replace(result, run=session.store.run(frame.id) or result.run, session=session)


@contextlib.asynccontextmanager
async def _recording(session: Session, script: Script, options: RunOptions) -> AsyncIterator[RunState]:
    gate = gate_of(session, script, (script.source,), {})
    frame = _frame(session, script, options, gate)
    session.journal.settle_doubt = interrupt.settle_doubt
    guard(session)
    if gate is not None:
        gate.enter(frame.id)
    options.opened.append(frame.id)
    run = _open_run(session, script, frame)
    budgets = reservation.budgets_of(session)
    try:
        await budgets.enter(frame, None, within=enclosing_step() is not None)
        with inside(frame), asking_for(script.approve), Agent.using_thread_executor(session.executor):
            yield frame
    except BaseException as error:
        settle_occurrences(frame, error, finished=False)
        await _close_run(session, run, error)
        raise
    finally:
        budgets.leave(frame)
    settle_occurrences(frame, None, finished=True)
    await _close_run(session, run, None)


def _frame(session: Session, script: Script, options: RunOptions, gate: Any) -> RunState:
    execution, outer = execution_of(session), frame_of_run()
    whose = identity_of(session) if outer is None else outer.whose
    session.keep_secret()
    return RunState(
        id=uuid.uuid4().hex[:8],
        agent=script.name,
        execution=execution,
        mode=options.mode or session.mode,
        fresh=options.fresh,
        journal=session.journal,
        chain=MessageChain(redactor=session.redactor),
        memo=RequestParts(redactor=session.redactor, identity=whose.parts),
        whose=whose,
        cache=session.cache,
        gate=gate,
        session=session,
        owner=script,
        began=execution.counts.copy(),
        headless=options.headless,
        breaker=LoopDetector(thresholds=session.breaker),
        outer=outer,
    )


def _open_run(session: Session, script: Script, frame: RunState) -> Run:
    outer = enclosing_step()
    run = Run(
        id=frame.id,
        agent=script.name,
        status="running",
        label=session.label,
        cell=frame.execution.cell,
        prompt=shorten(session.redactor.scrub(script.source), _PROMPT_CHARACTERS),
        mode=frame.mode,
        started=time.time(),
        parent_run=outer[0] if outer else None,
        parent_ord=outer[1] if outer else None,
        caller=session.redactor.scrub(frame.whose.caller or ""),
        thread=session.redactor.scrub(frame.whose.thread or ""),
    )
    if not session.store.read_only:
        session.store.open_run(run)
    session.emit(run)
    return run


async def _close_run(session: Session, run: Run, error: BaseException | None) -> None:
    stopped = isinstance(error, asyncio.CancelledError | GeneratorExit | Stopped | Interrupted)
    told = error.headline if isinstance(error, SandboxError) else str(error)
    named = error is not None and not isinstance(error, asyncio.CancelledError | GeneratorExit)
    text = shorten(session.redactor.scrub(f"{type(error).__name__}: {told}")) if named else None
    status: Any = "done" if error is None else "stopped" if stopped else "failed"
    ended = replace(run, status=status, ended=time.time(), error=text)
    if not session.store.read_only:
        written = session.store.close_run(ended, history=None, output=None, nodes=())
        if not isinstance(error, asyncio.CancelledError | GeneratorExit):
            await put_down(session, ended, written)
    session.emit(ended)


@dataclass(frozen=True, kw_only=True)
class SandboxProgram(Operation):
    """The step that a whole program is."""

    kind: Kind = "sandbox"
    name: str = "program"

    def describe(self, payload: Payload) -> str:
        given = ", ".join(f"{name} = {shorten(_plain(value), 120)}" for name, value in payload["outputs"].items())
        value = "" if payload["value"] is None else shorten(_plain(payload["value"]), 200)
        return given or value or shorten(payload["printed"].strip(), 200)


class _ProgramRun:
    """One run of a script; `frame` is None where nothing is recorded."""

    def __init__(self, script: Script, frame: RunState | None) -> None:
        self._script = script
        self._frame = frame
        self._printed: list[str] = []
        self._place: Path = ()
        self._told = 0
        self._before = Before(approve=script.approve)

    async def perform(self) -> SandboxResult:
        """From the record, else live."""
        frame = self._frame
        assert frame is not None
        if self._is_debug_run:
            # Gone through again, its calls are what replays.
            return await self.live()
        performed = await frame.journal.perform(self._step(frame), self._payload)
        result = self._result(performed.payload)
        if performed.replayed and result.printed:
            self._script.on_print(result.printed)
        return result

    async def live(self) -> SandboxResult:
        return self._result(await self._payload())

    def _step(self, frame: RunState) -> Operation:
        script = self._script
        code = {name: interrupt.code_of(tool.function).digest.hex() for name, tool in script.tools.items()}
        key = tool_key(
            name=NAME,
            args={
                "program": script.source,
                "inputs": {name: _digest(value) for name, value in script.inputs.items()},
                "outputs": list(script.outputs),
                "tier": script.tier,
            },
            digest=_runtime().encode(),
            history=None,
            call=frame.execution.cell,
            reads=code,
            memo=frame.memo,
        )
        return SandboxProgram(key=key, request=script.source)

    async def _payload(self) -> Any:
        script = self._script
        program = driver.Program(
            source=script.source,
            inputs=script.inputs,
            functions=frozenset(script.tools),
            outputs=script.outputs,
            classes=script.classes,
        )
        frame = self._frame
        place = None if frame is None else frame.execution.cell
        world = await deterministic_clock(frame, script.source, place=place)
        try:
            ended = await _RUNNERS[script.tier](
                program,
                world=world,
                call=self._call,
                limits=script.limits,
                printed=self._print,
                pause=self._pause if self._is_debug_run else None,
            )
        except SandboxError as error:
            raise error.after(() if self._frame is None else self._frame.ran[-TOLD_CALLS:]) from None
        outputs = {
            name: boundary.to_record(value, where=f"{name} (an output)") for name, value in ended.outputs.items()
        }
        return {
            "value": _value_record(ended.value),
            "outputs": outputs,
            "printed": "".join(self._printed),
            "calls": ended.calls,
        }

    def _result(self, payload: Any) -> SandboxResult:
        frames = {name: value for name, value in self._script.inputs.items() if isinstance(value, FrameHandle)}
        kept = {**payload["outputs"], "": payload["value"]}
        read = {
            name: boundary.from_record(value, frames=frames, classes=self._script.classes)
            for name, value in kept.items()
        }
        value = read.pop("")
        return SandboxResult(outputs=read, value=value, printed=visible(payload["printed"]), run=_UNRECORDED)

    @property
    def _is_debug_run(self) -> bool:
        """Whether a person goes through this program, and not through an agent that happens to run it."""
        frame = self._frame
        return frame is not None and frame.gate is not None and frame.gate.root == frame.id and not frame.gate.pausing

    async def _pause(self, stop: driver.Stop) -> None:
        frame, line = self._frame, stop.statement.line
        assert frame is not None and frame.gate is not None
        shown = (
            ("printed", visible("".join(self._printed[self._told :]))),
            ("changed", "\n".join(f"{name} = {text}" for name, text in stop.changed.items())),
            (f"line {line}", stop.statement.text),
        )
        self._told = len(self._printed)
        step_request = StepRequest(
            kind="line", name=str(line), messages=(), record=_no_edit, shown=tuple(s for s in shown if s[1])
        )
        self._place = await frame.gate.wait_at_line(step_request, frame.journal.store)

    def _print(self, text: str) -> None:
        self._printed.append(text)
        if not self._is_debug_run:
            # Gone through step by step, it is shown at the next stop: the cell that began it has ended.
            self._script.on_print(visible(text))

    async def _call(self, call: driver.HostCall) -> Any:
        frame, tool = self._frame, self._script.tools[call.name]
        if frame is None or frame.gate is None or not self._place:
            return await perform_call(frame, tool, call, source=self._script.source, before=self._before)
        with frame.gate.inside(self._place):
            return await perform_call(frame, tool, call, source=self._script.source, before=self._before)


def _no_edit(name: str, edit: Any) -> Operation:
    raise UserError("a statement of a program cannot be edited: edit the cell and run it again")


_UNRECORDED = Run(id="", agent=NAME, status="done", mode="off")


def _digest(value: Any) -> str:
    if isinstance(value, FrameHandle):
        return value_digest(value.frame).hex()
    kept = dumps(boundary.to_record(value, where="an input"))
    # What is short stands there itself, so that `why` can say what changed.
    return kept.decode() if len(kept) <= _SHORT else hashlib.sha256(kept).hexdigest()


def _value_record(value: Any) -> Any:
    try:
        return boundary.to_record(value, where="the last line")
    except boundary.Uncrossable:
        # It is shown only: a function that the last line happens to name is no reason to fail.
        return shorten(repr(value))


def _runtime() -> str:
    return version("pydantic-monty")


def _plain(record: Any) -> str:
    """A recorded value for a line of text: what has a type beyond JSON as its text, or by the type's name."""
    if not isinstance(record, dict) or "$" not in record:
        return str(record)
    inner = record.get("v", record.get("of"))
    if record["$"] == "parcel":
        return _plain(inner)
    return inner if isinstance(inner, str) else f"({record['$']})"
