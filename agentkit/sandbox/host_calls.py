"""A call that a sandbox program makes of the host: approved, paused at, performed and recorded like an agent's."""

from __future__ import annotations

import asyncio
import hashlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pydantic import ValidationError
from pydantic_ai import Tool
from pydantic_ai.agent import AbstractAgent
from pydantic_ai.exceptions import ModelRetry

from agentkit.agent.build import as_tool
from agentkit.agent.loop_operation import StepEdit
from agentkit.agent.tool_call import ToolCall
from agentkit.approval import interrupt
from agentkit.approval.human_question import HumanQuestion
from agentkit.approval.policy import Need, Policy, Question, find_need
from agentkit.debugger.gate import StepRequest
from agentkit.errors import AgentKitError, UserError
from agentkit.journal.operation import Operation
from agentkit.runtime import describe
from agentkit.runtime.run_state import RunState
from agentkit.runtime.run_terms import run_terms
from agentkit.sandbox import boundary
from agentkit.sandbox.dataframe_handle import FrameHandle
from agentkit.sandbox.monty.driver import CallFailed, HostCall, as_call_error, call_error
from agentkit.sandbox.process import isolate
from agentkit.tools.declaration import Declaration, check, declaration
from agentkit.values.registry import to_json

_BEFORE = 12


@dataclass(frozen=True, kw_only=True)
class HostTool:
    """A function or agent of the notebook, under the name that the program calls it by."""

    name: str
    tool: Tool[Any]
    function: Callable[..., Any]

    @property
    def declaration(self) -> Declaration:
        return declaration(self.function)

    def arguments(self, call: HostCall) -> dict[str, Any]:
        """The arguments by name, as the function wants them; CallFailed says what does not fit."""
        if any(isinstance(value, FrameHandle) for value in (*call.args, *call.kwargs.values())):
            raise self._usage_error("a frame cannot be passed on: pass frame.head(n)")
        try:
            boundary.to_record([*call.args, *call.kwargs.values()], where="an argument")
            bound = inspect.signature(self.function).bind(*call.args, **call.kwargs)
            return self.valid(_flat(bound))
        except (TypeError, boundary.Uncrossable) as error:
            raise self._usage_error(str(error)) from error
        except ValidationError as error:
            raise self._usage_error(_misfit(error)) from error

    def _usage_error(self, why: str) -> CallFailed:
        return CallFailed("TypeError", f"{self.name}(): {why}", fault="code")

    def valid(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        found: dict[str, Any] = self.tool.function_schema.validator.validate_python(dict(arguments))
        return found

    def misfit(self, arguments: Any) -> str | None:
        """What is wrong with changed arguments, or None."""
        try:
            self.valid(arguments)
        except ValidationError as error:
            return _misfit(error)
        return None


def _flat(bound: inspect.BoundArguments) -> dict[str, Any]:
    named = dict(bound.arguments)
    for parameter in bound.signature.parameters.values():
        if parameter.kind is parameter.VAR_KEYWORD:
            named.update(named.pop(parameter.name, {}))
    return named


def _misfit(error: ValidationError) -> str:
    first = error.errors()[0]
    where = ".".join(map(str, first["loc"]))
    return f"{where}: {first['msg']}" if where else first["msg"]


def host_tools(calls: Mapping[str, Any] | Sequence[Any]) -> dict[str, HostTool]:
    """What the program may call, by name; UserError for what cannot be called."""
    named = dict(calls) if isinstance(calls, Mapping) else {_name(one): one for one in calls}
    functions = [one for one in named.values() if not isinstance(one, AbstractAgent)]
    for one in functions:
        if not callable(one):
            raise UserError(f"a program calls functions and agents, not a {type(one).__name__}")
    check(functions)
    return {name: _host_tool(name, one) for name, one in named.items()}


def _name(one: Any) -> str:
    return str(getattr(one, "name", None) or getattr(one, "__name__", None) or type(one).__name__)


def _host_tool(name: str, one: Any) -> HostTool:
    if not name.isidentifier():
        raise UserError(f"{name!r} cannot be called: use letters, digits and _")
    tool = as_tool(one)
    if tool.takes_ctx:
        raise UserError(
            f"{name} takes a RunContext, which only an agent has: give it to an agent that is built with code=True"
        )
    return HostTool(name=name, tool=tool, function=tool.function)


@dataclass(kw_only=True)
class Before:
    """What a program's calls have changed so far: one that only reads is asked anew when that is not the same.

    `approve` names the calls that need a person, besides those that say so themselves.
    """

    approve: Policy
    changed: bytes = b""

    def place(self, frame: RunState, tool: HostTool, arguments: Mapping[str, Any]) -> str | None:
        """What keeps this call apart from an equal one: its cell and, for one that reads, what was done before it.

        A call that changes something stays the same call whatever stands before it: it must not be made twice.
        """
        cell = frame.execution.cell
        if tool.declaration.effects == "none":
            return f"{cell or ''}:{self.changed.hex()}" if self.changed else cell
        made = frame.memo.part([tool.name, dict(arguments)]).digest
        self.changed = hashlib.sha256(self.changed + made).digest()
        return cell


async def perform_call(frame: RunState | None, tool: HostTool, call: HostCall, *, source: str, before: Before) -> Any:
    """What the call answers, from the record or live.

    Raises CallFailed for what the program may see. What a person, a limit or a stop decides ends the program instead.
    """
    arguments = tool.arguments(call)
    if frame is None:
        return await _call_without_record(tool, arguments, call, source, policy=before.approve)
    step_request = _step_request(frame, tool, arguments)
    if frame.gate is not None:
        frame.gate.change_arguments(step_request)
    place = before.place(frame, tool, arguments)
    arguments = await _allow(frame, tool, arguments, call, source, place=place)
    step_request = replace(step_request, arguments=arguments)

    async def body() -> Any:
        return _encode(tool, await _perform(tool, arguments))

    def step() -> Operation:
        return _step(frame, tool, arguments, place)

    try:
        if frame.gate is None:
            performed = await frame.journal.perform(step(), body)
        else:
            performed = await frame.gate.wait_at_step(frame.journal, step_request, step, body)
    except (AgentKitError, CallFailed):
        raise
    except Exception as error:
        raise as_call_error(error) from error
    frame.ran.append(describe.in_one_line(tool.name, arguments, performed.payload))
    return boundary.from_record(performed.payload["result"])


async def _call_without_record(
    tool: HostTool, arguments: dict[str, Any], call: HostCall, source: str, *, policy: Policy
) -> Any:
    policies = (*run_terms().policies, policy)
    if await find_need(tool.name, arguments, declared=tool.declaration.approve, destructive=False, policies=policies):
        raise call_error(call, source, "tool", f"{tool.name} needs an approval, and nothing is recorded here")
    try:
        value = await _perform(tool, arguments)
    except AgentKitError:
        raise
    except Exception as error:
        raise as_call_error(error) from error
    return boundary.from_record(_encode(tool, value)["result"])


async def _perform(tool: HostTool, arguments: dict[str, Any]) -> Any:
    if not tool.declaration.isolate:
        async with asyncio.timeout(tool.declaration.timeout):
            return await tool.tool.function_schema.call(dict(arguments), None)  # type: ignore[arg-type]
    try:
        return await isolate.call_isolated(tool.function, arguments)
    except ModelRetry as retry:
        raise CallFailed("RuntimeError", retry.message) from retry


def _encode(tool: HostTool, value: Any) -> dict[str, Any]:
    """What is kept of a result. A replay gives the program the same values, of the same kinds."""
    where = f"the result of {tool.name}"
    try:
        entered = boundary.enter(value, where=where)
    except boundary.Uncrossable as error:
        raise CallFailed("TypeError", str(error)) from error
    if isinstance(entered, FrameHandle):
        raise CallFailed(
            "ValueError", f"{where} has {entered.rows:,} rows, and {boundary.ROWS:,} can cross: return fewer"
        )
    return {"kind": "tool_return", "result": boundary.to_record(entered, where=where)}


def _step(frame: RunState, tool: HostTool, arguments: dict[str, Any], place: str | None) -> Operation:
    return ToolCall.of(
        frame,
        f"sandbox:{tool.name}",
        arguments,
        name=tool.name,
        function=tool.function,
        declared=tool.declaration,
        history=None,
        place=place,
        encode=None if tool.tool.function_schema.is_async else lambda value: _encode(tool, value),
    )


def _step_request(frame: RunState, tool: HostTool, arguments: dict[str, Any]) -> StepRequest:
    return StepRequest(
        kind="tool",
        name=tool.name,
        messages=(),
        record=lambda name, edit: StepEdit.at(frame, name, edit, None),
        arguments=arguments,
        validator=tool.tool.function_schema.validator,
        schema=tool.tool.function_schema.json_schema,
    )


# ---- approval


async def _allow(
    frame: RunState, tool: HostTool, arguments: dict[str, Any], call: HostCall, source: str, *, place: str | None
) -> dict[str, Any]:
    """The arguments that the call may be made with. Denied, the program ends there: it cannot catch or fake it."""
    policies = (*run_terms().policies, *((frame.session.policy,) if frame.session is not None else ()))
    need = await find_need(
        tool.name, arguments, declared=tool.declaration.approve, destructive=False, policies=policies
    )
    if need is None:
        return arguments
    question = _question(frame, tool, arguments, call, need)
    payload = {"tool": tool.name, "arguments": question.arguments, "place": place}
    asked = HumanQuestion.of(frame, "approval", question, payload=payload, history=None)
    if frame.journal.find_record(asked, frame) is None:
        # It needed no approval when it ran, or somebody else gave it: now it only replays.
        changed = interrupt.arguments_elsewhere(frame, asked)
        if changed is not None and tool.misfit(changed) is None and _on_record(frame, tool, tool.valid(changed), place):
            arguments = tool.valid(changed)
        if _on_record(frame, tool, arguments, place):
            # The count goes on as if it had been asked.
            frame.journal.count(asked, frame)
            return arguments
    (decision,) = await interrupt.ask_all(frame, [(question, asked)])
    match decision.verdict:
        case "approve":
            return arguments
        case "edit":
            changed, missing = frame.journal.redactor.restore(decision.arguments)
            frame.missing_secrets += tuple(missing)
            return tool.valid(changed)
        case _:
            because = f": {decision.reason}" if decision.reason else ""
            raise call_error(
                call,
                source,
                "tool",
                f"{tool.name} was denied by {interrupt.describe_person(decision)}{because}; it was not called",
            )


def _on_record(frame: RunState, tool: HostTool, arguments: dict[str, Any], place: str | None) -> bool:
    return frame.journal.find_record(_step(frame, tool, arguments, place), frame) is not None


def _question(frame: RunState, tool: HostTool, arguments: dict[str, Any], call: HostCall, need: Need) -> Question:
    text = frame.journal.redactor.scrub(f"line {call.line}: {call.text}")
    return Question(
        kind="approve",
        tool=tool.name,
        arguments=frame.journal.redactor.scrub_json(to_json(arguments, where=f"the arguments of {tool.name}")),
        text=f"{text} ({need.why})" if need.why else text,
        schema=tool.tool.function_schema.json_schema,
        before=tuple(frame.ran[-_BEFORE:]),
        agent=frame.agent,
        lasting=need.lasting,
        code=interrupt.about_code(frame, tool.function),
        check=tool.misfit,
    )
