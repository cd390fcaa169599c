"""Durable agents: real pydantic-ai agents whose runs are recorded in the session that is open."""

from __future__ import annotations

import asyncio
import time
import uuid
from abc import ABC
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from functools import wraps
from typing import TYPE_CHECKING, Any, cast

from opentelemetry import trace
from pydantic import TypeAdapter
from pydantic_ai import Agent, InstrumentationSettings
from pydantic_ai.agent import AbstractAgent, AgentRun, WrapperAgent
from pydantic_ai.capabilities import Instrumentation
from pydantic_ai.exceptions import ModelAPIError, RunCancelled, RunTimedOut, UnexpectedModelBehavior
from pydantic_ai.messages import ModelMessage
from pydantic_ai.models import Model
from pydantic_ai.output import OutputDataT, OutputSpec
from pydantic_ai.tools import AgentDepsT
from pydantic_ai.usage import UsageLimits
from pydantic_core import PydanticSerializationError

from agentkit.agent import card, live_names
from agentkit.agent.durability import JournalDurability, enclosing_step
from agentkit.agent.live_names import Names
from agentkit.agent.mcp_servers import refuse_sampling
from agentkit.agent.result import NOT_WHOLE, Answer, finish_reason
from agentkit.agent.resume import FastForward
from agentkit.approval import interrupt
from agentkit.approval.policy import Policy
from agentkit.budget import reservation
from agentkit.budget.budget import Budget
from agentkit.debugger.gate import Gate
from agentkit.errors import Interrupted, JournalError, Stopped, describe_error, leaves
from agentkit.events import Run, Scope
from agentkit.guards import loop_guard
from agentkit.guards.loop_detector import LoopDetector, Thresholds
from agentkit.journal.execution import inside, shorten
from agentkit.journal.keys import MessageChain, RequestParts, restore
from agentkit.models import resolve
from agentkit.runtime import describe
from agentkit.runtime.executor import outside_loops
from agentkit.runtime.guard import chain
from agentkit.runtime.run_state import RunState, frame_of_run
from agentkit.runtime.run_terms import RunOptions, asking_for, nobody_edits, run_terms
from agentkit.runtime.session import Last, Session, current, execution_of, identity_of
from agentkit.text import visible_line

_PROMPT_CHARACTERS = 2_000
_OUTPUT_CHARACTERS = 2_000
_ASKED_BY = "asked by agent "
_ANY = TypeAdapter(Any)
# The first two are on every agent. They look at each request, and at most add a message at its end.
_ONLY_APPEND = frozenset({"ToolSearch", "PendingMessageDrainCapability", "Instrumentation"})


@dataclass(kw_only=True)
class AgentPolicy:
    """How an agent's requests may be shared, which of its tools need a person, and what was remarked at its build."""

    share: Scope | None = None
    ttl: float | None = None
    approve: Policy = field(default_factory=Policy)
    breaker: Thresholds | None = None
    notes: tuple[str, ...] = ()
    last: list[Any] = field(default_factory=list)
    budget: Budget | None = None
    names: Names | None = None


class JournaledAgent(AbstractAgent[AgentDepsT, OutputDataT], ABC):
    """An agent whose runs are recorded in the open session; outside one they are plain runs.

    Type checkers see `run` and its kin as pydantic-ai declares them: what is put around them takes and gives the same.
    """

    policy: AgentPolicy

    @property
    def last(self) -> Answer[OutputDataT] | None:
        """The newest answer of this agent in this kernel, or None."""
        return self.policy.last[-1] if self.policy.last else None

    def _repr_html_(self) -> str:
        return card.as_html(self, self.policy.budget)

    def _repr_markdown_(self) -> str:
        return card.as_markdown(self, self.policy.budget)

    if not TYPE_CHECKING:
        run_sync = outside_loops(AbstractAgent.run_sync)

        @wraps(AbstractAgent.run)
        async def run(self, *args: Any, **kwargs: Any) -> Any:
            with nobody_edits():
                return await super().run(*args, **kwargs)

        @wraps(AbstractAgent.run_stream)
        @asynccontextmanager
        async def run_stream(self, *args: Any, **kwargs: Any) -> AsyncIterator[Any]:
            with nobody_edits("stream"):
                async with super().run_stream(*args, **kwargs) as result:
                    yield result


class DurableAgent(JournaledAgent[AgentDepsT, OutputDataT], Agent[AgentDepsT, OutputDataT]):
    """A pydantic-ai agent whose runs are journaled in the open session; outside one it is a plain agent."""

    if not TYPE_CHECKING:

        @wraps(Agent.__init__)
        def __init__(self, *args: Any, policy: AgentPolicy | None = None, **kwargs: Any) -> None:
            self.policy = policy or AgentPolicy()
            capabilities = [*(kwargs.pop("capabilities", None) or ()), JournalDurability()]
            super().__init__(*args, capabilities=capabilities, **kwargs)

        @wraps(Agent.iter)
        @asynccontextmanager
        async def iter(self, *args: Any, **kwargs: Any) -> AsyncGenerator[AgentRun[Any, Any]]:
            kwargs = dict(live_names.as_now(self.policy.names, kwargs))
            async with (
                _recording_run(self, self.policy, args, kwargs),
                super().iter(*args, **_defaults(self, kwargs)) as run,
            ):
                _bind(run)
                yield run

    @classmethod
    def from_fields(
        cls, fields: Mapping[str, Any], *, policy: AgentPolicy, output: OutputSpec[OutputDataT], **options: Any
    ) -> DurableAgent[Any, OutputDataT]:
        """Return a durable agent made of AgentSpec fields; `options` are those of `Agent.from_spec`."""
        agent = Agent.from_spec(
            {"model": None, **fields}, output_type=output, capabilities=[JournalDurability()], **options
        )
        # `from_spec` makes an `Agent` whatever class it is called on.
        agent.__class__ = cls
        durable_agent = cast(DurableAgent[Any, OutputDataT], agent)
        durable_agent.policy = policy
        return durable_agent

    @property
    def notes(self) -> tuple[str, ...]:
        """Remarks for the person from building this agent."""
        return self.policy.notes


class AdoptedAgent(JournaledAgent[AgentDepsT, OutputDataT], WrapperAgent[AgentDepsT, OutputDataT]):
    """An agent made elsewhere, durable through a capability added to each of its runs."""

    def __init__(self, wrapped: AbstractAgent[AgentDepsT, OutputDataT], policy: AgentPolicy | None = None) -> None:
        super().__init__(wrapped)
        self.policy = policy or AgentPolicy()

    if not TYPE_CHECKING:

        @wraps(WrapperAgent.iter)
        @asynccontextmanager
        async def iter(self, *args: Any, **kwargs: Any) -> AsyncGenerator[AgentRun[Any, Any]]:
            durability = JournalDurability(name=self.name or "agent")
            given = _defaults(self, kwargs)
            given["capabilities"] = [*(given.get("capabilities") or ()), durability]
            async with _recording_run(self, self.policy, args, kwargs), super().iter(*args, **given) as run:
                _bind(run)
                yield run


def durable(agent: AbstractAgent[AgentDepsT, OutputDataT]) -> JournaledAgent[AgentDepsT, OutputDataT]:
    """Adopt an agent made elsewhere: its runs are journaled in the open session.

    What `agent` gives and takes stays as it is, for type checkers too. An agent of `agentkit.build`, or one that was
    adopted already, is returned as it is.
    """
    return agent if isinstance(agent, JournaledAgent) else AdoptedAgent(agent)


def _defaults(agent: AbstractAgent[Any, Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """What agentkit gives a run that its caller did not: no limit of 50 requests, and spans where somebody listens."""
    given = dict(kwargs)
    if given.get("usage_limits") is None:
        given["usage_limits"] = UsageLimits(request_limit=None)
    if _records_spans(agent):
        # What was said may hold secrets: who wants it in spans instruments the agent.
        spans = Instrumentation(InstrumentationSettings(include_content=False, include_binary_content=False))
        given["capabilities"] = [*(given.get("capabilities") or ()), spans]
    return given


def _records_spans(agent: AbstractAgent[Any, Any]) -> bool:
    if isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider) or Agent._instrument_default:
        return False
    return not any(isinstance(capability, Instrumentation) for capability in agent.root_capability.capabilities)


@dataclass
class _Recording:
    frame: RunState
    record: Run
    session: Session

    def restate(self) -> None:
        """Tell how the limits of the run stand, which is kept with it."""
        self.record = replace(self.record, gauges=self.frame.gauges)
        self.session.emit(self.record)


def _bind(run: AgentRun[Any, Any]) -> None:
    frame = frame_of_run()
    if frame is not None:
        frame.agent_run = run
        frame.state = run.ctx.state
        frame.messages = lambda: list(run.ctx.state.message_history)


@asynccontextmanager
async def _recording_run(
    agent: AbstractAgent[Any, Any], policy: AgentPolicy, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> AsyncIterator[None]:
    with asking_for(policy.approve):
        async with _journaling(agent, policy, args, kwargs):
            yield


@asynccontextmanager
async def _journaling(
    agent: AbstractAgent[Any, Any], policy: AgentPolicy, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> AsyncIterator[None]:
    session = current()
    if session is None or (options := options_of(session)).mode == "off":
        with inside(None):
            yield
        return
    refuse_sampling(agent)
    gate = gate_of(session, agent, args, kwargs)
    recording = _open(session, agent, policy, options, args, kwargs, gate=gate)
    budgets = reservation.budgets_of(session)
    try:
        await budgets.enter(recording.frame, policy.budget, within=recording.record.parent_ord is not None)
    except BaseException as error:
        budgets.leave(recording.frame)
        await _close(session, recording, error)
        raise
    if recording.frame.gauges:
        recording.restate()
    try:
        with inside(recording.frame), Agent.using_thread_executor(session.executor), _one_by_one(gate):
            try:
                yield
            except BaseException as error:
                _name_request(session, recording.frame.agent, error)
                await _close(session, recording, error)
                raise
        await _close(session, recording, None)
        _keep(session, policy, recording)
    finally:
        budgets.leave(recording.frame)


def gate_of(session: Session, agent: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Gate | None:
    """The gate of this run: that of the run around it, of the stepping it belongs to, or of the breakpoints."""
    outer = frame_of_run()
    if outer is not None:
        return outer.gate if outer.gate is not None and outer.gate.within_reach else None
    stepped = run_terms().gate
    if stepped is not None or not session.bench.breakpoints:
        return stepped
    return session.bench.gate_for(agent, args, kwargs, execution_of(session).counts.copy())


@contextmanager
def _one_by_one(gate: Gate | None) -> Iterator[None]:
    """At a gate the tool calls of one turn come in their order: none is under way when another one pauses."""
    if gate is None:
        yield
        return
    with Agent.parallel_tool_call_execution_mode("sequential"):
        yield


def options_of(session: Session) -> RunOptions:
    """How a run that begins now is to be run."""
    outer = frame_of_run()
    if outer is not None and not outer.maps:
        return RunOptions(fresh=outer.fresh, mode=outer.mode, headless=outer.headless, walk=outer.walk)
    options = run_terms().options
    return options if options.mode is not None else replace(options, mode=session.mode)


def _prompt(args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
    prompt = args[0] if args else kwargs.get("user_prompt")
    if prompt is None or isinstance(prompt, str):
        return prompt or ""
    return " ".join(item if isinstance(item, str) else f"[{type(item).__name__}]" for item in prompt)


def _open(
    session: Session,
    agent: AbstractAgent[Any, Any],
    policy: AgentPolicy,
    options: RunOptions,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    *,
    gate: Gate | None,
) -> _Recording:
    prompt, model = _prompt(args, kwargs), kwargs.get("model") or agent.model
    added = kwargs.get("capabilities") or ()
    execution, outer = execution_of(session), frame_of_run()
    whose = identity_of(session) if outer is None else outer.whose
    session.keep_secret(resolve.keys(model) if isinstance(model, Model) else ())
    frame = RunState(
        id=uuid.uuid4().hex[:8],
        agent=agent.name or "agent",
        execution=execution,
        mode=options.mode or session.mode,
        fresh=options.fresh,
        journal=session.journal,
        chain=MessageChain(redactor=session.redactor),
        memo=RequestParts(redactor=session.redactor, identity=whose.parts),
        whose=whose,
        trusted=bool(run_terms().way)
        and not _may_edit_messages((*agent.root_capability.capabilities, *added))
        and not (gate is not None and gate.edits_messages),
        cache=session.cache,
        share=policy.share,
        ttl=policy.ttl,
        gate=gate,
        session=session,
        owner=agent,
        began=execution.counts.copy(),
        headless=options.headless,
        walk=options.walk,
        breaker=LoopDetector(thresholds=policy.breaker or session.breaker),
        outer=outer,
        row=options.row,
        notes=[] if policy.names is None else list(policy.names.remarks),
    )
    session.journal.settle_doubt = interrupt.settle_doubt
    guard(session)
    frame.forward = _forward(frame, kwargs)
    if gate is not None:
        gate.enter(frame.id)
    options.opened.append(frame.id)
    options.entered(frame)
    record = _record(session, frame, options, prompt=prompt, model=model)
    if not session.store.read_only:
        session.store.open_run(record)
    session.emit(record)
    recording = _Recording(frame, record, session)
    frame.restate = recording.restate
    return recording


def _record(session: Session, frame: RunState, options: RunOptions, *, prompt: str, model: object) -> Run:
    """What is known of a run when it begins."""
    outer = enclosing_step()
    mapped_by = frame.outer.id if frame.outer is not None and frame.outer.maps else None
    return Run(
        id=frame.id,
        agent=frame.agent,
        status="running",
        label=session.label,
        cell=frame.execution.cell,
        prompt=shorten(session.redactor.scrub(prompt), _PROMPT_CHARACTERS),
        model=resolve.identity(model) if isinstance(model, Model) else str(model or ""),
        mode=frame.mode,
        started=time.time(),
        continues=options.continues,
        parent_run=mapped_by or (outer[0] if outer else None),
        parent_ord=outer[1] if outer and not mapped_by else None,
        row=options.row if mapped_by else None,
        caller=session.redactor.scrub(frame.whose.caller or ""),
        thread=session.redactor.scrub(frame.whose.thread or ""),
    )


def guard(session: Session) -> None:
    """Every live step of this session passes its guards."""
    session.journal.admission = chain(session, lambda: (*session.guards, loop_guard.GUARD))


def _forward(frame: RunState, kwargs: Mapping[str, Any]) -> FastForward | None:
    """Whoever steps, looks at the nodes or asks anew has the run walked."""
    if frame.gate is not None or frame.walk or frame.fresh or not run_terms().way:
        return None
    return FastForward.of(frame, kwargs, streams=run_terms().way == "stream")


def _may_edit_messages(capabilities: Iterable[Any]) -> bool:
    """Whether one of these may change messages that were already sent (history processors, request hooks)."""
    for capability in capabilities:
        kind = type(capability)
        package = kind.__module__.partition(".")[0]
        if package == "agentkit" or (package == "pydantic_ai" and kind.__name__ in _ONLY_APPEND):
            continue
        for hook in ("before_model_request", "wrap_model_request", "before_node_run"):
            owner = getattr(getattr(kind, hook, None), "__module__", "")
            if not owner.endswith("capabilities.abstract"):
                return True
    return False


def _keep(session: Session, policy: AgentPolicy, recording: _Recording) -> None:
    """The answer, for `agent.last`."""
    if (run := recording.frame.agent_run) is not None and (result := run.result) is not None:
        messages = tuple(result.all_messages())
        policy.last[:] = [Answer(output=result.output, run=recording.record, messages=messages, session=session)]


async def _close(session: Session, recording: _Recording, error: BaseException | None) -> None:
    frame, run = recording.frame, recording.frame.agent_run
    result = None if run is None or error is not None else run.result
    settle_occurrences(frame, error, finished=result is not None)
    cut = NOT_WHOLE.get(finish_reason(result.all_messages())) if result else None
    if cut is not None:
        frame.notes.append(cut.note)
    ended = replace(
        recording.record,
        status=_status(error, finished=result is not None) if cut is None else cut.status,
        ended=time.time(),
        output=shorten(session.redactor.scrub(describe.output(result.output)), _OUTPUT_CHARACTERS) if result else "",
        error=None if error is None else shorten(session.redactor.scrub(describe_error(error))),
        walked=_why_no_fast_forward(frame),
        notes=tuple(frame.notes),
    )
    if not session.store.read_only:
        head = frame.chain.head(result.all_messages(), trusted=frame.trusted) if result else None
        written = session.store.close_run(
            ended,
            history=head.digest if head else None,
            output=_dump_output(result.output, session) if result else None,
            nodes=head.nodes if head else (),
        )
        if not isinstance(error, asyncio.CancelledError | GeneratorExit):
            await put_down(session, ended, written)
    if frame.execution is session.execution and recording.record.parent_run is None:
        session.last_runs.append((frame.agent, Last(run=frame.id, cell=frame.execution.cell)))
    recording.record = ended
    session.emit(ended)


def settle_occurrences(frame: RunState, error: BaseException | None, *, finished: bool) -> None:
    """Let the next equal run be another sample when this one finished, and resume this one when it did not.

    Where the model's last reply is the reason (it fits no output, it asks for a tool that keeps failing) the run is
    resumed at that request, which is then asked anew: replayed, it would end in the same error for ever.
    """
    if finished:
        if frame.outer is not None and frame.outer.execution is frame.execution:
            frame.outer.taken += frame.taken
        return
    replied = isinstance(error, UnexpectedModelBehavior) and not _comes_of(error, frame.broke)
    frame.journal.resume_later(frame, but=frame.replied if replied else None)


def _comes_of(error: BaseException | None, cause: BaseException | None) -> bool:
    while error is not None and error is not cause:
        error = error.__cause__ or error.__context__
    return error is not None


async def put_down(session: Session, ended: Run, written: Future[None]) -> None:
    """Wait until the end of a run is on disk; where it cannot be, those who look at the run are told all the same."""
    try:
        await asyncio.wrap_future(written)
    except JournalError as error:
        session.emit(replace(ended, status="failed", error=ended.error or shorten(describe_error(error))))
        raise


def _name_request(session: Session, agent: str, error: BaseException) -> None:
    """Note on an error of a model's request which agent asked which server, and what can be done."""
    failed = [each for each in leaves(error) if isinstance(each, ModelAPIError)]
    # What a sub-agent's request ended with may come through the runs around it.
    if failed and not any(note.startswith(_ASKED_BY) for note in getattr(error, "__notes__", ())):
        lines = "; then ".join(resolve.explain(each) for each in failed)
        error.add_note(visible_line(session.redactor.scrub(f"{_ASKED_BY}{agent!r}: {lines}")))


def _why_no_fast_forward(frame: RunState) -> str:
    if frame.walk:
        return "walk was given"
    return "" if frame.forward is None else frame.forward.walked


def _status(error: BaseException | None, *, finished: bool) -> Any:
    match error:
        case None:
            return "done" if finished else "stopped"
        case RunTimedOut():
            return "failed"
        case asyncio.CancelledError() | GeneratorExit() | RunCancelled() | Stopped() | Interrupted():
            return "stopped"
        case _:
            return "failed"


def _dump_output(output: object, session: Session) -> bytes | None:
    try:
        text = _ANY.dump_json(output)
    except PydanticSerializationError:
        # The output is an object of the notebook's; the messages that led to it are recorded all the same.
        return None
    return session.redactor.scrub(text.decode()).encode()


def messages_of(session: Session, run: str) -> list[ModelMessage]:
    """The conversation of a finished run, restored from the journal."""
    digest = session.store.run_history(run)
    if digest is None:
        return []
    return restore(session.store.messages(digest), session.redactor)
