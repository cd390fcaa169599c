"""Holding calls back for a person: which, what is asked about them, and what the decision means for the run."""

from __future__ import annotations

import asyncio
import contextvars
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from pydantic import ValidationError
from pydantic_ai import DeferredToolRequests, DeferredToolResults, ToolApproved, ToolDenied
from pydantic_ai.exceptions import ApprovalRequired, CallDeferred
from pydantic_ai.messages import ModelMessage, ModelResponse, TextPart, ToolCallPart
from pydantic_ai.tools import RunContext

from agentkit.approval import decisions as decided
from agentkit.approval.human_question import HumanQuestion
from agentkit.approval.policy import (
    TYPED,
    Decision,
    Form,
    Headless,
    Need,
    Policy,
    Question,
    decide_unattended,
    find_need,
)
from agentkit.errors import ApprovalPending, InDoubt, Stopped, UserError
from agentkit.events import Kind
from agentkit.journal import wait_marks
from agentkit.journal.execution import current_step, leave_step
from agentkit.journal.operation import Operation
from agentkit.runtime.run_state import RunState, frame_of_run
from agentkit.runtime.run_terms import run_terms
from agentkit.runtime.session import Session, current
from agentkit.tools.declaration import Declaration, declaration, original_of
from agentkit.tools.digest import ToolDigest, tool_digest, value_digest

_REASON_CHARACTERS = 2_000
_BEFORE = 12
CALLED = "__agentkit_agent__"
"""Where the function of a tool that does nothing but run an agent keeps that agent."""


def ask_user(
    question: str, kind: Literal["text", "choice", "yes_no", "number"] = "text", choices: list[str] | None = None
) -> Any:
    """Ask the person who runs this a question and wait for the answer.

    Args:
        question: What to ask, in one or two sentences that can be understood alone.
        kind: What answer is wanted: free text, one of the choices, yes or no, or a number.
        choices: What to choose from, for kind "choice".
    """
    raise CallDeferred()


@dataclass(frozen=True, kw_only=True)
class WaitingCall:
    """A call that waits: the step it will be with these arguments or others, and what is known about its tool."""

    call: Operation
    changed: Callable[[Any], Operation | None]
    need: Need
    schema: Mapping[str, Any]
    code: str
    check: Callable[[Any], str | None]


# ---- at the door


async def hold(
    frame: RunState,
    name: str,
    args: Mapping[str, Any],
    ctx: RunContext[Any],
    tool: Any,
    *,
    call: Callable[[Any], Operation],
) -> None:
    """Let the call pass, or raise what makes pydantic-ai put it aside until the others of its turn are done."""
    id_, function = ctx.tool_call_id or "", function_of(tool)
    if ctx.tool_call_approved:
        if id_ in frame.passed:
            _check_record(frame, call(args))
        return
    if function is ask_user:
        frame.held[id_] = _waiting_call(frame, args, Need(lasting=False), tool, ctx, call=call)
        raise CallDeferred()
    need = await find_need(
        name,
        args,
        declared=declaration(function).approve if function is not None else None,
        destructive=_destructive(tool),
        policies=_policies(frame),
    )
    if need is not None:
        frame.held[id_] = _waiting_call(frame, args, need, tool, ctx, call=call)
        raise ApprovalRequired()


async def refuse_without_session(ctx: RunContext[Any], name: str, args: Mapping[str, Any]) -> None:
    """Outside a session nobody can be asked and no decision is kept: a call that needs one is not made."""
    tool = _find_tool(ctx, name)
    function = function_of(tool)
    need = await find_need(
        name,
        args,
        declared=declaration(function).approve if function is not None else None,
        destructive=_destructive(tool),
        policies=run_terms().policies,
    )
    if need is not None and not ctx.tool_call_approved:
        raise UserError(f"{name} needs an approval, and nothing is recorded here: run it in a session, not in mode off")


def function_of(tool: Any) -> Callable[..., Any] | None:
    """The Python function behind a toolset's tool; None for MCP and dynamic tools."""
    while (inner := getattr(tool, "source_tool", None)) is not None:
        tool = inner
    schema = getattr(getattr(tool, "call_func", None), "__self__", None)
    return getattr(schema, "function", None)


def code_of(function: Callable[..., Any]) -> ToolDigest:
    """The digest of a tool's function; of one that asks an agent, with that of the agent and its tools."""
    digest = tool_digest(original_of(function))
    called = getattr(function, CALLED, None)
    if called is None:
        return digest
    asked = value_digest(called)
    whole = hashlib.sha256(digest.digest + asked).digest()
    return replace(digest, digest=whole, reads={**digest.reads, f"agent {called.name}": asked.hex()}, older=None)


def declaration_of(tool: Any) -> Declaration:
    """What is declared of a toolset's tool: by its function, else by the hints of the server that offers it."""
    if (function := function_of(tool)) is not None:
        return declaration(function)
    hints = _hints(tool)
    if hints.get("readOnlyHint"):
        return Declaration(effects="none")
    return Declaration(effects="idempotent" if hints.get("idempotentHint") else "undeclared")


def may_ask(frame: RunState, name: str, tool: Any) -> bool:
    """Whether there may be a call of this tool that needs a person."""
    function = function_of(tool)
    declared = None if function is None else declaration(function).approve
    if function is ask_user or any(policy.names(name) for policy in _policies(frame)):
        return True
    return declared != "never" and (declared is not None or _destructive(tool))


def _policies(frame: RunState) -> tuple[Policy, ...]:
    return (*run_terms().policies, *((frame.session.policy,) if frame.session is not None else ()))


def _waiting_call(
    frame: RunState,
    args: Mapping[str, Any],
    need: Need,
    tool: Any,
    ctx: RunContext[Any],
    *,
    call: Callable[[Any], Operation],
) -> WaitingCall:
    def change(arguments: Any) -> Operation | None:
        try:
            return call(tool.args_validator.validate_python(arguments, context=ctx.validation_context))
        except ValidationError:
            return None

    definition = getattr(tool, "tool_def", None)
    return WaitingCall(
        call=call(args),
        changed=change,
        need=need,
        schema=getattr(definition, "parameters_json_schema", None) or {},
        code=about_code(frame, function_of(tool)),
        check=lambda changed: _misfit(tool, ctx, changed),
    )


def about_code(frame: RunState, function: Callable[..., Any] | None) -> str:
    """The code that a person decides about, by its digest; empty where it is somewhere else."""
    return "" if function is None else code_of(function).digest.hex()


def _misfit(tool: Any, ctx: RunContext[Any], changed: Any) -> str | None:
    try:
        tool.args_validator.validate_python(changed, context=ctx.validation_context)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        return f"{where}: {first['msg']}" if where else first["msg"]
    return None


def _destructive(tool: Any) -> bool:
    return bool(_hints(tool).get("destructiveHint"))


def _hints(tool: Any) -> Mapping[str, Any]:
    metadata = getattr(getattr(tool, "tool_def", tool), "metadata", None) or {}
    return metadata.get("annotations") or {}


def _check_record(frame: RunState, call: Operation) -> None:
    # Passed because its result is on record: it must be answered from there, whatever ran in between.
    if frame.journal.find_record(call, frame) is None:
        raise UserError(f"{call.name} needs an approval that it did not need before: run again to be asked")


# ---- the calls of one turn that were put aside


async def answers(frame: RunState, ctx: RunContext[Any], requests: DeferredToolRequests) -> DeferredToolResults | None:
    """What was decided about the calls; None when all of them are somebody else's to answer."""
    results = DeferredToolResults()
    asked: list[tuple[ToolCallPart, Question, Operation]] = []
    seen: list[bytes] = []
    for part in requests.approvals:
        held = frame.held.get(part.tool_call_id)
        if held is None and _defers_to_caller(ctx):
            continue
        question = _approval(frame, ctx, part, held)
        call = _question_call(frame, ctx, "approval", question)
        if held is not None and frame.journal.find_record(call, frame) is None:
            passes = _only_replays(frame, held, call, seen)
            if passes is not None:
                # The count goes on as if it had been asked.
                frame.journal.count(call, frame)
                frame.passed.add(part.tool_call_id)
                results.approvals[part.tool_call_id] = passes
                continue
        asked.append((part, question, call))
    for part in requests.calls:
        if part.tool_call_id in frame.held:
            question = _agent_question(frame, ctx, part)
            asked.append((part, question, _question_call(frame, ctx, "question", question)))
    decisions = await ask_all(frame, [(question, call) for _, question, call in asked])
    for (part, question, _), decision in zip(asked, decisions, strict=True):
        if question.kind == "approve":
            results.approvals[part.tool_call_id] = _approval_result(frame, decision)
        else:
            results.calls[part.tool_call_id] = answer_of(question, decision)
    return results if results.approvals or results.calls else None


def _defers_to_caller(ctx: RunContext[Any]) -> bool:
    """Whether the agent was written to end with its requests, for its caller to answer."""
    output = getattr(ctx.agent, "output_type", None)
    return output is DeferredToolRequests or (isinstance(output, Sequence) and DeferredToolRequests in output)


def _only_replays(frame: RunState, held: WaitingCall, asked: Operation, seen: list[bytes]) -> Any:
    """How a call may pass that nobody here decided about, because its own result is on record; None when it is not.

    It needed no approval when it ran, or the decision is somebody else's.
    """
    if _on_record(frame, held.call, seen):
        return True
    arguments = arguments_elsewhere(frame, asked)
    changed = None if arguments is None else held.changed(arguments)
    if changed is not None and _on_record(frame, changed, seen):
        return ToolApproved(override_args=arguments)
    return None


def arguments_elsewhere(frame: RunState, asked: Operation) -> Any:
    """What somebody else, or this user in another place, changed the arguments to; None when nobody did."""
    row = frame.journal.find_decision(asked, frame)
    decision = None if row is None or row.body is None else Decision.from_json(json.loads(row.body))
    if decision is None or decision.verdict != "edit":
        return None
    arguments, missing = frame.journal.redactor.restore(decision.arguments)
    return None if missing else arguments


def _on_record(frame: RunState, call: Operation, seen: list[bytes]) -> bool:
    key = call.key.key
    ahead = seen.count(key)
    seen.append(key)
    return frame.journal.find_record(call, frame, ahead=ahead) is not None


def _approval_result(frame: RunState, decision: Decision) -> Any:
    match decision.verdict:
        case "approve":
            return True
        case "edit":
            arguments, missing = frame.journal.redactor.restore(decision.arguments)
            frame.missing_secrets += tuple(missing)
            return ToolApproved(override_args=arguments)
        case _:
            why = f": {decision.reason}" if decision.reason else ""
            return ToolDenied(f"This call was denied by {describe_person(decision)}{why}. It was not made.")


def answer_of(question: Question, decision: Decision) -> Any:
    """What was answered; Stopped when the person said stop instead."""
    if decision.verdict == "stop":
        raise Stopped(f"{decision.by} said stop at the question: {question.text}")
    return decision.answer


def describe_person(decision: Decision) -> str:
    """Who decided, as the agent is told."""
    return "the person" if decision.by.startswith("you") else decision.by


# ---- the question


def _approval(frame: RunState, ctx: RunContext[Any], part: ToolCallPart, held: WaitingCall | None) -> Question:
    definition = None if ctx.tool_manager is None else ctx.tool_manager.get_tool_def(part.tool_name)
    return Question(
        kind="approve",
        tool=part.tool_name,
        arguments=frame.journal.redactor.scrub_json(_arguments(part)),
        text="" if held is None else held.need.why,
        schema=held.schema if held is not None else getattr(definition, "parameters_json_schema", None) or {},
        reason=_reason(ctx.messages),
        before=tuple(frame.ran[-_BEFORE:]),
        agent=frame.agent,
        lasting=held is None or held.need.lasting,
        code=held.code if held is not None else about_code(frame, function_of(_find_tool(ctx, part.tool_name))),
        check=None if held is None else held.check,
    )


def _find_tool(ctx: RunContext[Any], name: str) -> Any:
    return None if ctx.tool_manager is None or ctx.tool_manager.tools is None else ctx.tool_manager.tools.get(name)


def _agent_question(frame: RunState, ctx: RunContext[Any], part: ToolCallPart) -> Question:
    given = _arguments(part)
    choices = tuple(map(str, given.get("choices") or ()))
    form: Form = given.get("kind") or ("choice" if choices else "text")
    return Question(
        kind="ask",
        tool=part.tool_name,
        arguments=given,
        text=frame.journal.redactor.scrub(str(given.get("question", ""))),
        form="text" if form == "choice" and not choices else form,
        choices=choices,
        reason=_reason(ctx.messages),
        before=tuple(frame.ran[-_BEFORE:]),
        agent=frame.agent,
    )


def _arguments(part: ToolCallPart) -> dict[str, Any]:
    try:
        return part.args_as_dict()
    except ValueError:
        return {"arguments": part.args}


def _reason(messages: Sequence[ModelMessage]) -> str:
    """What the agent said in the reply that asks for the call."""
    last = next((message for message in reversed(messages) if isinstance(message, ModelResponse)), None)
    parts = [] if last is None else [part.content for part in last.parts if isinstance(part, TextPart)]
    return "\n".join(parts).strip()[:_REASON_CHARACTERS]


def _question_call(frame: RunState, ctx: RunContext[Any], kind: Kind, question: Question) -> Operation:
    history = frame.chain.digest(ctx.messages, trusted=frame.trusted)
    payload = {"tool": question.tool, "arguments": question.arguments}
    return HumanQuestion.of(frame, kind, question, payload=payload, history=history)


# ---- asking


async def ask_all(frame: RunState, questions: Sequence[tuple[Question, Operation]]) -> list[Decision]:
    """The decisions, in order: those on record, and the rest from whoever can be asked, all of them together."""
    gathering = _Gathering(frame, len(questions))
    tasks = (gathering.answer(question, call) for question, call in questions)
    results = await asyncio.gather(*tasks, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return [result for result in results if not isinstance(result, BaseException)]


class _Gathering:
    """The questions of one turn: asked as soon as it is known of each whether it is on record."""

    def __init__(self, frame: RunState, expected: int) -> None:
        self._frame = frame
        self._expected = expected
        self._open: list[tuple[Question, asyncio.Future[Decision]]] = []
        self._task: asyncio.Task[None] | None = None
        # What asks is not something that a step shows, to be shown again when it is replayed.
        self._context = contextvars.copy_context()
        self._context.run(leave_step)

    async def answer(self, question: Question, call: Operation) -> Decision:
        asked = False

        async def body() -> Any:
            nonlocal asked
            asked = True
            return (await self._ask(question)).to_json()

        try:
            performed = await self._frame.journal.perform(call, body)
        finally:
            if not asked:
                self._expected -= 1
                self._begin()
        decision = Decision.from_json(performed.payload)
        if asked:
            return decision
        made = replace(question, id=str(performed.step))
        try:
            return decided.apply_decision(self._frame.journal.store, self._frame.journal.redactor, made, decision)
        except UserError as error:
            raise pending_error([made], why=str(error)) from error

    async def _ask(self, question: Question) -> Decision:
        step = current_step()
        assert step is not None
        question = replace(question, id=str(step.row.id))
        session = self._frame.session
        if session is not None and (always := session.find_standing(question)) is not None:
            self._expected -= 1
            self._begin()
            return always
        future: asyncio.Future[Decision] = asyncio.get_running_loop().create_future()
        self._open.append((question, future))
        self._begin()
        try:
            async with wait_marks.waiting(self._frame.journal.store):
                return await future
        except asyncio.CancelledError:
            if self._task is not None:
                self._task.cancel()
            raise

    def _begin(self) -> None:
        if self._open and len(self._open) == self._expected and self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._all(), context=self._context)

    async def _all(self) -> None:
        questions = tuple(question for question, _ in self._open)
        try:
            decisions = await put(
                self._frame.session or current(), questions, headless=self._frame.headless, later=self._frame.in_map
            )
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - each that waits raises it
            for _, future in self._open:
                if not future.done():
                    future.set_exception(error) if isinstance(error, Exception) else future.cancel()
            return
        for (_, future), decision in zip(self._open, decisions, strict=True):
            if not future.done():
                future.set_result(decision)


async def put(
    session: Session | None, questions: tuple[Question, ...], *, headless: Headless | None, later: bool = False
) -> tuple[Decision, ...]:
    """Have `questions` decided: by the person, else by the policy; ApprovalPending when it leaves one open.

    `later`: a map asks for all its rows together. Only a budget is asked for at once: no row can go on without it.
    """
    asker = None if session is None else session.asker
    if later and any(question.kind != "budget" for question in questions):
        asker = None
    given = None if asker is None or session is None else await asker(questions)
    if given is not None and session is not None:
        return tuple(session.decide(question, decision) for question, decision in zip(questions, given, strict=True))
    policy: Headless = headless or ("suspend" if session is None else session.headless)
    by_policy = {question.id: decide_unattended(question, policy) for question in questions}
    left = [question for question in questions if by_policy[question.id] is None]
    if left:
        raise pending_error(left)
    return tuple(decision for decision in by_policy.values() if decision is not None)


def pending_error(questions: Sequence[Question], *, why: str = "") -> ApprovalPending:
    names = list(dict.fromkeys(question.tool or question.kind for question in questions))
    how = " or ".join(dict.fromkeys(TYPED[question.kind] for question in questions))
    asked = f"{why}: {', '.join(names)}" if why else ", ".join(names)
    return ApprovalPending(steps=[question.id for question in questions], asked=asked, how=how)


# ---- steps in doubt


async def settle_doubt(doubtful: InDoubt) -> bool:
    """Ask what happened with a step that has no recorded end; false when nobody can be asked, or it stays stopped."""
    frame = frame_of_run()
    session = None if frame is None else frame.session
    if frame is None or session is None or session.asker is None:
        return False
    row = session.store.step(doubtful.step)
    if row is None or row.settled == "stop":
        return False
    question = Question(
        kind="doubt",
        tool=row.name,
        arguments={"step": row.id, "called with": row.request},
        text=f"Step {row.id} ({row.name}) {doubtful.reason}.",
        before=tuple(frame.ran[-_BEFORE:]),
        agent=frame.agent,
    )
    payload = {"step": row.id, "attempt": row.attempt, "status": row.status}
    call = HumanQuestion.of(frame, "question", question, payload=payload, history=None, counted=False)
    (decision,) = await ask_all(frame, [(replace(question, id=""), call)])
    action = decision.verdict
    if action not in ("redo", "result", "stop"):
        return False
    session.settle(row.id, action, decision.answer)
    if action == "stop":
        raise InDoubt(step=row.id, name=row.name, reason="was settled as stop")
    return True
