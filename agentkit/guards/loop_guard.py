"""The circuit breaker in a run: counts live steps, warns the agent, asks a person, or stops with the evidence."""

from __future__ import annotations

import hashlib
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

from opentelemetry import trace
from pydantic_ai.messages import ModelRequest, ToolReturnPart, UserPromptPart
from pydantic_ai.models import ModelRequestContext
from pydantic_ai.tools import RunContext

from agentkit.approval.decisions import read_question as asked_at
from agentkit.approval.human_question import HumanQuestion
from agentkit.approval.interrupt import ask_all, function_of
from agentkit.approval.policy import TYPED, Decision, Question
from agentkit.budget.request_estimate import cost_to_count
from agentkit.errors import ApprovalPending, CircuitPending, Stopped
from agentkit.events import Kind
from agentkit.guards.loop_detector import OFF, Finding, LoopDetector, same_call
from agentkit.journal.execution import OnOutcome, dumps
from agentkit.journal.keys import place_key
from agentkit.journal.operation import Operation, Payload
from agentkit.journal.records import ASKED, Outcome, Row
from agentkit.journal.replay import is_trusted
from agentkit.journal.settlements import WAITING
from agentkit.runtime import describe
from agentkit.runtime.guard import ModelRequestInfo, PendingStep, ToolCallInfo
from agentkit.runtime.run_state import RunState
from agentkit.tools.declaration import Declaration, declaration, loop_identity

BREAKER = "breaker"
_BEFORE = 12


class CountingGuard:
    """Tells the breaker of a run about each of its steps that was really performed."""

    @asynccontextmanager
    async def admit(self, step: PendingStep) -> AsyncIterator[OnOutcome]:
        about, breaker = step.call.about, step.run.breaker
        match about:
            case ToolCallInfo():
                yield lambda outcome: _count_call(breaker, about, step, outcome)
            case ModelRequestInfo():
                yield lambda outcome: _count_reply(breaker, about, outcome)
            case _:
                yield lambda outcome: None


GUARD = CountingGuard()


def _count_call(breaker: LoopDetector, about: ToolCallInfo, step: PendingStep, outcome: Outcome) -> None:
    breaker.count_call(
        identity=about.loop or same_call(about.name, about.arguments),
        shown=f"{about.name}({step.call.request})",
        result=hashlib.sha256(outcome.body or b"").digest(),
        poll=about.poll,
    )


def count_recorded_answer(frame: RunState, name: str, args: Any, tool: Any, payload: Payload) -> None:
    """A live reply asked for what is on record: the answer is free, and asking again and again is not."""
    function = function_of(tool)
    declared = Declaration() if function is None else declaration(function)
    frame.breaker.count_call(
        identity=loop_identity(declared, name, args) or same_call(name, args),
        shown=f"{name}({describe.format_arguments(args)})",
        result=hashlib.sha256(dumps(payload)).digest(),
        poll=declared.poll,
    )


def _count_reply(breaker: LoopDetector, about: ModelRequestInfo, outcome: Outcome) -> None:
    usage = outcome.usage
    if usage is not None:
        window = None if about.model is None else about.model.context_window
        cost = cost_to_count(about.model, usage)
        breaker.count_reply(cost=cost, input_tokens=usage.input_tokens, window=window, at=time.monotonic())


# ---- before each model request


async def before_request(frame: RunState, ctx: RunContext[Any], request: ModelRequestContext) -> None:
    """Put back what was said here before, or act on what the live steps show."""
    if frame.breaker.thresholds is OFF:
        return
    _count_refusals(frame, request)
    history = frame.chain.digest(request.messages, trusted=frame.trusted)
    key = place_key(BREAKER, history, frame.memo)
    row = frame.journal.store.find(key.key, frame.execution.counts.peek(key.key))
    spoke = row is not None and (row.status == "done" or row.error == WAITING) and is_trusted(row, frame.mode)
    if row is not None and spoke and not frame.fresh:
        await _repeat_request(frame, ctx, request, BreakerRemark(key=key, history=history, chain=frame.chain), row)
        return
    finding = frame.breaker.due()
    if finding is not None:
        await _act(frame, ctx, request, BreakerRemark(key=key, history=history, chain=frame.chain), finding)
    _tell_spans(frame)


@dataclass(frozen=True, kw_only=True)
class BreakerRemark(Operation):
    """The step that stands before a request if the breaker acted there: known by the conversation alone."""

    kind: Kind = "capability"
    name: str = BREAKER

    def describe(self, payload: Payload) -> str:
        return Decision.from_json(payload).description


def _count_refusals(frame: RunState, request: ModelRequestContext) -> None:
    """Calls that were refused for their arguments leave no step: they are seen in what is sent back to the model."""
    last = request.messages[-1] if request.messages else None
    if not frame.asked_live or not isinstance(last, ModelRequest):
        return
    for part in last.parts:
        retry = part.retry if isinstance(part, ToolReturnPart) else None
        if isinstance(part, ToolReturnPart) and retry is not None and retry.cause != "model_retry":
            frame.breaker.count_refusal(tool=part.tool_name, shown=f"{part.tool_name}(…)")


async def _repeat_request(
    frame: RunState, ctx: RunContext[Any], request: ModelRequestContext, look: Operation, row: Row
) -> None:
    if row.kind not in ASKED:
        performed = await frame.journal.perform(look, _decide_without_record)
        _say(ctx, request, Decision.from_json(performed.payload))
        return
    kept = asked_at(frame.journal.store, row)
    if kept is None:
        return
    question = replace(kept.question, id="")
    decision = await _ask_person(frame, question, look)
    mark = question.arguments or {}
    if decision.verdict == "once":
        frame.breaker.resume(mark["trip"], mark["count"], tuple(mark["mark"]))
    elif decision.verdict == "raise":
        frame.breaker.double(mark["trip"])
    _obey(frame, ctx, request, decision, None, question.text)


async def _decide_without_record() -> Payload:
    raise Stopped("what the breaker said here is not recorded any more: run again")


async def _act(
    frame: RunState, ctx: RunContext[Any], request: ModelRequestContext, look: Operation, finding: Finding
) -> None:
    attended = frame.session is not None and frame.session.asker is not None
    if finding.level == "warn":
        said = Decision(verdict="hint", reason=f"[agentkit] {finding.advice}", by=BREAKER)

        async def body() -> Payload:
            return said.to_json()

        await frame.journal.perform(replace(look, request=f"{finding.trip}: {finding.evidence}"), body)
        _say(ctx, request, said)
    elif finding.level == "open" or attended:
        question = _question(frame, finding)
        decision = await _ask_person(frame, question, look)
        _obey(frame, ctx, request, decision, finding, finding.evidence)


def _question(frame: RunState, finding: Finding) -> Question:
    scrub = frame.journal.redactor.scrub
    return Question(
        kind="circuit",
        tool=BREAKER,
        arguments={"trip": finding.trip, "count": finding.count, "mark": [scrub(part) for part in finding.mark]},
        text=scrub(finding.evidence),
        default=True,
        before=tuple(frame.ran[-_BEFORE:]),
        agent=frame.agent,
    )


async def _ask_person(frame: RunState, question: Question, look: Operation) -> Decision:
    call = HumanQuestion.of(frame, "question", question, payload={}, history=look.history)
    # Found again by its place alone, before it is known whether anything was asked there.
    key = replace(call.key, key=look.key.key, slot=look.key.slot)
    call = replace(call, key=key, request=question.text)
    try:
        (decision,) = await ask_all(frame, [(question, call)])
    except ApprovalPending as pending:
        how = TYPED["circuit"]
        raise CircuitPending(steps=pending.steps, agent=frame.agent, evidence=question.text, how=how) from None
    return decision


def _obey(
    frame: RunState,
    ctx: RunContext[Any],
    request: ModelRequestContext,
    decision: Decision,
    finding: Finding | None,
    evidence: str,
) -> None:
    match decision.verdict:
        case "stop":
            raise Stopped(f"{decision.by} said stop: {evidence}")
        case "hint":
            _say(ctx, request, decision)
            if finding is not None:
                frame.breaker.restart_count(finding)
        case "raise" if finding is not None:
            frame.breaker.double_limit(finding)
        case "once" if finding is not None:
            frame.breaker.once(finding)


def _say(ctx: RunContext[Any], request: ModelRequestContext, decision: Decision) -> None:
    """One message more, at the end; the conversation keeps it."""
    said = ModelRequest(parts=[UserPromptPart(decision.reason)], run_id=ctx.run_id)
    request.messages = [*request.messages, said]
    ctx.messages.append(said)


def _tell_spans(frame: RunState) -> None:
    for change in frame.breaker.transitions():
        said = f"{change.trip} {change.before} → {change.after}: {change.evidence}"
        frame.notes.append(f"breaker {frame.journal.redactor.scrub(said)}")
        trace.get_current_span().add_event(
            "agentkit.breaker",
            {
                "agentkit.breaker.trip": change.trip,
                "agentkit.breaker.before": change.before,
                "agentkit.breaker.after": change.after,
                "agentkit.breaker.evidence": change.evidence,
            },
        )
