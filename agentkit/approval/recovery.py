"""When an agent has used up its retries or its limits and somebody is there: asking what to do instead of giving up."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields, replace
from typing import Any

from pydantic import TypeAdapter, ValidationError
from pydantic.errors import PydanticSchemaGenerationError
from pydantic_ai.exceptions import UnexpectedModelBehavior, UsageLimitExceeded
from pydantic_ai.messages import ModelMessage, ModelResponse, TextPart, ToolCallPart
from pydantic_ai.run import AgentRunResult
from pydantic_ai.tools import RunContext
from pydantic_ai.usage import UsageLimits

from agentkit.approval.human_question import HumanQuestion
from agentkit.approval.interrupt import ask_all
from agentkit.approval.policy import Question
from agentkit.errors import BudgetExceeded, Stopped
from agentkit.journal.execution import Execution, shorten
from agentkit.runtime.run_state import RunState
from agentkit.runtime.session import surround, surroundings

_ATTEMPTS = 3
_ATTEMPT_CHARACTERS = 600
_RETRIES = ("retry-prompt", "retry-feedback")
_USED_UP = ("max retries count", "maximum output retries")


async def instead(frame: RunState, ctx: RunContext[Any], error: BaseException) -> AgentRunResult[Any]:
    """The result a person led the run to; `error` itself where nobody is there, or it is none of these."""
    if isinstance(error, BudgetExceeded) and error.finish:
        return AgentRunResult(output=_partial_answer(frame, error))
    if frame.session is None or frame.session.asker is None or not _is_limit_error(error):
        raise error
    question = _question(frame, ctx, error)
    payload = {"failed": str(error), "attempts": list(question.before)}
    history = frame.chain.digest(frame.messages(), trusted=False)
    (decision,) = await ask_all(
        frame, [(question, HumanQuestion.of(frame, "question", question, payload=payload, history=history))]
    )
    match decision.verdict:
        case "answer":
            return AgentRunResult(output=_output(ctx, decision.answer))
        case "hint":
            return await _run_again(frame, ctx, decision.reason, message_history=frame.messages())
        case "raise":
            with _from_the_beginning(frame):
                return await _run_again(frame, ctx, ctx.prompt, usage_limits=_double_limits(ctx.usage_limits))
        case _:
            raise Stopped(f"{decision.by} said stop: {error}")


def _partial_answer(frame: RunState, error: BudgetExceeded) -> str:
    """What there is when a run is finished at its budget: what the agent said, else what its tools gave."""
    texts = [
        part.content
        for message in frame.messages()
        if isinstance(message, ModelResponse)
        for part in message.parts
        if isinstance(part, TextPart) and part.content.strip()
    ]
    found = "\n\n".join(texts) or "\n".join(f"- {line}" for line in frame.ran)
    return f"{found}\n\n*Finished at a budget, before the agent was done.*".strip()


def _is_limit_error(error: BaseException) -> bool:
    if isinstance(error, UsageLimitExceeded):
        return True
    return isinstance(error, UnexpectedModelBehavior) and any(words in error.message for words in _USED_UP)


def _question(frame: RunState, ctx: RunContext[Any], error: BaseException) -> Question:
    adapter = _adapter(ctx)
    return Question(
        kind="bailout",
        tool="",
        text=frame.journal.redactor.scrub(_first_sentence(str(error))),
        form="text" if adapter is None else "json",
        default=isinstance(error, UsageLimitExceeded),
        before=tuple(map(frame.journal.redactor.scrub, _attempts(frame.messages()))),
        agent=frame.agent,
        check=None if adapter is None else lambda answer: _misfit(adapter, answer),
    )


def _first_sentence(text: str) -> str:
    return text.partition(". Consider")[0]


def _attempts(messages: Sequence[ModelMessage]) -> list[str]:
    """What was tried the last times, oldest first: the calls, and what was wrong with each."""
    calls: dict[str, str] = {}
    found: list[str] = []
    for part in (part for message in messages for part in message.parts):
        if isinstance(part, ToolCallPart):
            calls[part.tool_call_id] = f"{part.tool_name}({_shorten(part.args_as_json_str())})"
        elif getattr(part, "outcome", None) == "retried" or part.part_kind in _RETRIES:
            tried = calls.pop(getattr(part, "tool_call_id", ""), "the answer")
            found.append(f"{tried}: {_shorten(str(getattr(part, 'content', '')))}")
        else:
            calls.pop(getattr(part, "tool_call_id", ""), None)
    # What has no result is what failed for good.
    return [*found, *(f"{call}: the last attempt" for call in calls.values())][-_ATTEMPTS:]


def _shorten(text: str) -> str:
    return shorten(text, _ATTEMPT_CHARACTERS)


# ---- what was decided


def _adapter(ctx: RunContext[Any]) -> TypeAdapter[Any] | None:
    """What checks an answer given by hand; None where it is text, or of a kind that only a model gives."""
    wanted = getattr(ctx.agent, "output_type", str)
    if wanted is str or isinstance(wanted, Sequence):
        return None
    try:
        return TypeAdapter(wanted)
    except PydanticSchemaGenerationError:
        return None


def _misfit(adapter: TypeAdapter[Any], answer: Any) -> str | None:
    try:
        adapter.validate_python(answer)
    except ValidationError as error:
        first = error.errors()[0]
        return f"{'.'.join(map(str, first['loc'])) or 'the answer'}: {first['msg']}"
    return None


def _output(ctx: RunContext[Any], answer: Any) -> Any:
    adapter = _adapter(ctx)
    return answer if adapter is None else adapter.validate_python(answer)


async def _run_again(frame: RunState, ctx: RunContext[Any], prompt: Any, **options: Any) -> AgentRunResult[Any]:
    limits = {} if "usage_limits" in options or ctx.usage_limits is None else {"usage_limits": ctx.usage_limits}
    result: AgentRunResult[Any] = await frame.owner.run(prompt, deps=ctx.deps, **limits, **options)
    return result


def _double_limits(limits: UsageLimits | None) -> UsageLimits:
    """Twice of everything that was limited."""
    given = limits or UsageLimits()
    numbers = {
        field.name: getattr(given, field.name) * 2
        for field in fields(given)
        if isinstance(getattr(given, field.name), int | float) and not isinstance(getattr(given, field.name), bool)
    }
    return replace(given, **numbers)


@contextmanager
def _from_the_beginning(frame: RunState) -> Iterator[None]:
    """The same requests again are not further equal ones: all that the run did so far is replayed."""
    token = surround(execution=Execution(cell=frame.execution.cell, counts=frame.began.copy()))
    try:
        yield
    finally:
        surroundings.reset(token)
