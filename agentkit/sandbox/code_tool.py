"""The code tool: an agent writes Python that calls its own tools, and each of those calls is a step like any other."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Any

from pydantic import ValidationError
from pydantic_ai.exceptions import ModelRetry, ToolFailed
from pydantic_ai.messages import ToolCallPart, ToolReturn
from pydantic_ai.tools import RunContext, ToolDenied

from agentkit.errors import AgentKitError, SandboxError, UserError
from agentkit.runtime.run_state import frame_of_run
from agentkit.sandbox import boundary
from agentkit.sandbox.deterministic_clock import TOLD_CALLS, deterministic_clock
from agentkit.sandbox.limits import Limits
from agentkit.sandbox.monty import dialect
from agentkit.sandbox.monty import driver as driver
from agentkit.tools.declaration import Declaration
from agentkit.values.registry import describe_left_out, to_json

NAME = "run_code"
LIMITS = Limits(time=30.0, calls=100, printed=64 << 10)
_SHOWN = 20_000


def code_tool(patterns: tuple[str, ...] = ("*",)) -> Callable[..., Any]:
    """`run_code`, from which those tools of the agent may be called that one of `patterns` names."""

    async def run_code(ctx: RunContext[Any], code: str) -> Any:
        return await _Code(ctx, patterns).run(code)

    run_code.__doc__ = _DESCRIPTION.format(guide=dialect.guide())
    # What it does to the world is done by the tools it calls, each of which is a step of its own.
    run_code.__agentkit__ = Declaration(effects="none")  # type: ignore[attr-defined]
    return run_code


_DESCRIPTION = """Run Python code that may call your other tools, in a sandbox.

Call them as functions with keyword arguments, for example `rows = search(query="x")`: no import, no await needed. The
value of the last line and what is printed come back; nothing else does. Each call of this tool begins empty: no
variables are kept. There are no files, no network and no environment.

{guide}

Args:
    code: The Python code.
"""


class _Code:
    """One piece of an agent's code under way."""

    def __init__(self, ctx: RunContext[Any], patterns: tuple[str, ...]) -> None:
        self._ctx = ctx
        self._tools = _callable_tools(ctx, patterns)
        self._printed: list[str] = []
        self._made: list[str] = []
        self._code = ""

    async def run(self, code: str) -> Any:
        self._code = code
        program = driver.Program(source=code, functions=frozenset(self._tools))
        world = await deterministic_clock(frame_of_run(), code, place=_history(self._ctx))
        try:
            ended = await driver.run(program, world=world, call=self._call, limits=LIMITS, printed=self._printed.append)
        except SandboxError as error:
            return self._describe_failure(error)
        return self._format_value(ended.value)

    def _format_value(self, value: Any) -> Any:
        """What the model is given: the value alone where nothing was printed."""
        answer = _plain(value)
        printed = _head_and_tail("".join(self._printed))
        return {"printed": printed, "value": answer} if printed else answer

    def _describe_failure(self, error: SandboxError) -> str:
        printed = _head_and_tail("".join(self._printed))
        told = [str(error.after(self._made[-TOLD_CALLS:])), *([f"printed before: {printed}"] if printed else [])]
        if self._made:
            told.append("The calls above were made: do not repeat those that change something.")
        return "\n".join(told)

    async def _call(self, call: driver.HostCall) -> Any:
        tool = self._tools[call.name]
        arguments = _arguments(call, tool)
        part = ToolCallPart(call.name, arguments, tool_call_id=f"{self._ctx.tool_call_id}.{call.number}")
        try:
            answer = await self._handle_call(part)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            raise driver.CallFailed("TypeError", f"{call.name}(): {where}: {first['msg']}", fault="code") from error
        except (ModelRetry, ToolFailed) as error:
            raise driver.CallFailed("ValueError", str(error)) from error
        except Exception as error:
            # What ends a run (a person, a limit, a stop) never reaches the code, which could go on as if nothing was.
            if isinstance(error, AgentKitError) or type(error).__module__.partition(".")[0] == "pydantic_ai":
                raise
            raise driver.as_call_error(error) from error
        if isinstance(answer, ToolDenied):
            raise driver.call_error(call, self._code, "tool", f"{call.name}: {answer.message}")
        return self._record_answer(call, arguments, answer)

    async def _handle_call(self, part: ToolCallPart) -> Any:
        manager, usage, limits = self._ctx.tool_manager, self._ctx.usage, self._ctx.usage_limits
        assert manager is not None
        if limits is not None:
            # This call counts once it has succeeded, and so does the one of `run_code` around it.
            limits.check_before_tool_call(replace(usage, tool_calls=usage.tool_calls + 2))
        usage.tool_calls += 1
        try:
            return await manager.handle_call(part, wrap_validation_errors=False)
        finally:
            usage.tool_calls -= 1

    def _record_answer(self, call: driver.HostCall, arguments: Mapping[str, Any], answer: Any) -> Any:
        value = answer.return_value if isinstance(answer, ToolReturn) else answer
        self._made.append(f"{call.name}({', '.join(f'{name}={value!r}' for name, value in arguments.items())})"[:200])
        if (cut := describe_left_out(value)) is not None:
            raise driver.CallFailed(
                "ValueError", f"the result of {call.name} is too long to cross whole ({cut}): ask for less"
            )
        try:
            return boundary.enter(value, where=f"the result of {call.name}")
        except boundary.Uncrossable as error:
            raise driver.CallFailed("TypeError", str(error)) from error


def _callable_tools(ctx: RunContext[Any], patterns: tuple[str, ...]) -> dict[str, Any]:
    tools = {} if ctx.tool_manager is None else ctx.tool_manager.tools or {}
    return {
        name: tool
        for name, tool in tools.items()
        if name.isidentifier()
        and tool.tool_def.kind in ("function", "unapproved")
        and name != NAME
        and any(fnmatchcase(name, pattern) for pattern in patterns)
    }


def _arguments(call: driver.HostCall, tool: Any) -> dict[str, Any]:
    """The arguments by name; those given by place are named in the order of the tool's schema."""
    names = list(tool.tool_def.parameters_json_schema.get("properties", {}))
    if len(call.args) > len(names):
        wrong = f"{call.name}() takes {len(names)} arguments ({', '.join(names)}), {len(call.args)} were given"
        raise driver.CallFailed("TypeError", wrong, fault="code")
    placed = dict(zip(names, call.args, strict=False))
    if twice := sorted(set(placed) & set(call.kwargs)):
        raise driver.CallFailed("TypeError", f"{call.name}() got {twice[0]} twice", fault="code")
    # The tool's schema describes JSON, and its validator reads dates and the like from text.
    try:
        return {name: to_json(value, where=name) for name, value in {**placed, **call.kwargs}.items()}
    except UserError as error:
        raise driver.CallFailed("TypeError", f"{call.name}(): {error}", fault="code") from error


def _plain(value: Any) -> Any:
    try:
        return to_json(value, where="the value of the code")
    except UserError:
        # A function or a class, say: what it is called is all there is to tell.
        return repr(value)[:_SHOWN]


def _history(ctx: RunContext[Any]) -> str:
    frame = frame_of_run()
    return "" if frame is None else frame.chain.digest(ctx.messages, trusted=frame.trusted).hex()


def _head_and_tail(text: str) -> str:
    if len(text) <= _SHOWN:
        return text
    half = _SHOWN // 2
    return f"{text[:half]}\n… ({len(text) - _SHOWN:,} characters left out)\n{text[-half:]}"
