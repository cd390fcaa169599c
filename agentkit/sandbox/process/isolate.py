"""Tools that declared what they need: each call in a process of its own, up the ladder of sizes, each try a step."""

from __future__ import annotations

import asyncio
import builtins
import contextvars
import json
import sys
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic_ai.capabilities import AbstractCapability
from pydantic_ai.durable_exec import JSON_CODEC, CallToolResult, DurableOperationId, ToolsetCallToolId
from pydantic_ai.exceptions import ModelRetry, ToolFailed
from pydantic_ai.messages import ToolCallPart
from pydantic_ai.tools import RunContext, ToolDefinition

from agentkit.approval.interrupt import function_of
from agentkit.errors import ChildFailed, UserError
from agentkit.events import Kind
from agentkit.journal.codec import encode_tool_result
from agentkit.journal.execution import current_run, current_step
from agentkit.journal.keys import operation_key
from agentkit.journal.operation import Operation, Payload
from agentkit.runtime.run_state import RunState, frame_of_run
from agentkit.sandbox.process.bundle import Bundle, bundle
from agentkit.sandbox.process.parent import Child, ChildEnd, memory_holds, walls_stand
from agentkit.sandbox.process.resources import (
    HAD_TOO_LITTLE,
    Box,
    Try,
    Walls,
    format_size,
    short_of,
    shortage,
    slow_at,
    too_much,
    too_slow,
)
from agentkit.text import visible
from agentkit.tools import inputs
from agentkit.tools.declaration import Declaration, declaration, original_of
from agentkit.values import typed_json
from agentkit.values.registry import to_json

_EMPTY_ROWS = 0
_PRINTED_BYTES = 256 << 10


def _say(text: str) -> None:
    # A line that is written over itself would hide what it said before.
    sys.stdout.write(visible(text.replace("\r\n", "\n").replace("\r", "\n")))


def check(function: Callable[..., Any], *, takes_ctx: bool) -> None:
    """Raise UserError for a declared tool that cannot run in a process of its own, or not as declared, here."""
    if _is_apart(function):
        _check_place(function, declaration(function), takes_ctx=takes_ctx)
        _job(function, bundle(function), {}, key="", whole=False)


def _is_apart(function: Callable[..., Any]) -> bool:
    # What stands for a tool of another machine only asks for it there.
    return declaration(function).isolate and original_of(function) is function


def _check_place(function: Callable[..., Any], declared: Declaration, *, takes_ctx: bool) -> None:
    name = function.__name__
    if takes_ctx:
        raise UserError(f"{name} cannot run in a process of its own: it takes a RunContext, which lives in the kernel")
    if declared.sizes and (why := memory_holds()) is not None:
        raise UserError(f"{name}: memory= cannot be enforced on this system: {why}")
    if declared.network is False and (why := walls_stand()) is not None:
        raise UserError(f"{name}: network=False cannot be enforced on this system: {why}")


# ---- the call


def apart(
    operation: DurableOperationId, cache_key: tuple[Any, ...], body: Callable[[], Awaitable[object]]
) -> Callable[[], Awaitable[object]]:
    """What performs an operation of an agent: `body`, or for a tool that declared it a process of its own."""
    if not isinstance(operation, ToolsetCallToolId):
        return body
    _, args, _, tool = cache_key
    function = function_of(tool)
    if function is None or not _is_apart(function):
        return body

    async def perform() -> object:
        try:
            return encode_tool_result(await call_isolated(function, args, takes_ctx=_takes_ctx(tool)))
        except ModelRetry as retry:
            return _signal("model_retry", retry.message)
        except ToolFailed as failed:
            return _signal("tool_failed", failed.message)

    return perform


class OutsideSessions(AbstractCapability[Any]):
    """Isolates the calls of an agent where nothing is recorded. In a session the step does it: a replay starts none."""

    async def wrap_tool_execute(
        self, ctx: RunContext[Any], *, call: ToolCallPart, tool_def: ToolDefinition, args: dict[str, Any], handler: Any
    ) -> Any:
        tools = None if ctx.tool_manager is None else ctx.tool_manager.tools
        tool = None if tools is None or current_run() is not None else tools.get(call.tool_name)
        function = function_of(tool)
        if function is None or not _is_apart(function):
            return await handler(args)
        return await call_isolated(function, args, takes_ctx=_takes_ctx(tool))


def _signal(kind: str, message: str) -> object:
    return JSON_CODEC.dump(CallToolResult, JSON_CODEC.load(CallToolResult, {"kind": kind, "message": message}))


def _takes_ctx(tool: Any) -> bool:
    while (inner := getattr(tool, "source_tool", None)) is not None:
        tool = inner
    return bool(getattr(getattr(getattr(tool, "call_func", None), "__self__", None), "takes_ctx", False))


async def call_isolated(
    function: Callable[..., Any],
    args: Mapping[str, Any],
    *,
    takes_ctx: bool = False,
    declared: Declaration | None = None,
) -> Any:
    """What `function` returns, as JSON. Raises ModelRetry in words an agent can act on when it had too little."""
    declared = declared or declaration(function)
    _check_place(function, declared, takes_ctx=takes_ctx)
    step = current_step()
    # What it reads is taken once: a second try is of the same call.
    job = _job(function, bundle(function), args, key="" if step is None else step.idempotency_key)
    walls: Walls = "network" if declared.network is False else "none"
    tries: list[Try] = []
    for size in declared.sizes or (None,):
        box = Box(memory=size, seconds=declared.timeout, walls=walls)
        ended = await _try(job, box, number=len(tries) + 1)
        tries.append(ended.attempt)
        if ended.attempt.how == "memory":
            continue
        return _value(function.__name__, declared, ended, tries)
    raise _too_little(declared, shortage(function.__name__, tries))


def _too_little(declared: Declaration, words: str) -> Exception:
    # What may have happened once must not be tried again, smaller or not, before somebody has looked.
    return ChildFailed(words) if declared.effects == "once" else ModelRetry(words)


def _value(name: str, declared: Declaration, ended: ChildEnd, tries: list[Try]) -> Any:
    match ended.attempt.how:
        case "done":
            if (recorder := inputs.recorder()) is not None:
                recorder.take(ended.reply.get("heard") or {"unseen": ["a process that has ended"]})
            return ended.reply["value"]
        case "timeout":
            raise _too_little(declared, too_slow(name, tries, declared.timeout or 0.0))
        case "flooded":
            raise _too_little(declared, too_much(name))
        case _:
            raise ChildFailed(f"{name}: {ended.attempt.description}")


def is_outgrown(function: Callable[..., Any] | None, declared: Declaration, body: bytes) -> bool:
    """Whether a recorded answer says that the tool had too little, and it has been given something else since."""
    if declared.effects == "once" or b'"model_retry"' not in body:
        return False
    name = getattr(function, "__name__", "")
    now = (short_of(name, declared.sizes), slow_at(name, declared.timeout or 0.0))
    message = str(json.loads(body).get("message"))
    return message.startswith(tuple(f"{name} {words}" for words in HAD_TOO_LITTLE)) and not message.startswith(now)


# ---- one try


async def _try(job: Mapping[str, Any], box: Box, *, number: int) -> ChildEnd:
    frame = frame_of_run()
    if frame is None or current_step() is None:
        return _raise_failure(await run_in_child(job, box))
    ended: list[ChildEnd] = []

    async def body() -> Any:
        ended.append(await run_in_child(job, box))
        _raise_failure(ended[-1], record=True)
        return {"said": ended[-1].attempt.description, "value": ended[-1].reply["value"], "printed": ended[-1].printed}

    try:
        performed = await frame.journal.perform(IsolatedTry.of(frame, job, box, number), body)
    except ChildFailed:
        if ended:
            return ended[-1]
        raise
    return ended[-1] if ended else _read_attempt(performed.payload, box)


@dataclass(frozen=True, kw_only=True)
class IsolatedTry(Operation):
    """One process that a call in a process of its own was given."""

    kind: Kind = "sandbox"
    counted: bool = False

    @classmethod
    def of(cls, frame: RunState, job: Mapping[str, Any], box: Box, number: int) -> IsolatedTry:
        # The call that it is a try of says what is asked: that is in its own key.
        payload = {"of": job["key"], "memory": box.memory}
        key = operation_key(name=f"try:{job['function']}", payload=payload, history=None, memo=frame.memo)
        return cls(key=key, name=f"try {number}", request=_describe_limits(box))

    def describe(self, payload: Payload) -> str:
        return str(payload["said"])


def _describe_limits(box: Box) -> str:
    memory = [] if box.memory is None else [format_size(box.memory)]
    network = ["no network"] if box.walls != "none" else []
    return ", ".join([*memory, *network]) or "a process of its own"


def _read_attempt(payload: Any, box: Box) -> ChildEnd:
    """A try that was recorded, though its call was not: the kernel died between the two."""
    attempt = Try(asked=box.memory, peak=0, seconds=0.0, how="done")
    return ChildEnd(attempt=attempt, reply={"value": payload["value"]}, printed=payload["printed"])


def _raise_failure(ended: ChildEnd, *, record: bool = False) -> ChildEnd:
    """Raise what the tool raised; with `record` also whatever else kept it from giving a result."""
    match ended.attempt.how:
        case "raised":
            raise _rebuilt(ended.reply)
        case "refused":
            raise UserError(f"a process of its own cannot be limited as declared here: {ended.attempt.text}")
        case "stopped":
            raise asyncio.CancelledError
        case "done":
            return ended
        case _:
            if record:
                raise ChildFailed(ended.attempt.description)
            return ended


_NOT_OF_A_MESSAGE = (UnicodeError, BaseExceptionGroup, StopIteration, StopAsyncIteration)
"""Errors that are made of more than a message, or that mean something else where they are raised again."""


def _rebuilt(reply: Mapping[str, Any]) -> BaseException:
    """The error as the kernel would have seen it, where its type is one of Python's own or pydantic-ai's signals."""
    kind, message = reply["kind"], reply["message"]
    if reply["module"].startswith("pydantic_ai") and kind in ("ModelRetry", "ToolFailed"):
        return ModelRetry(message) if kind == "ModelRetry" else ToolFailed(message)
    found = getattr(builtins, kind, None) if reply["module"] == "builtins" else None
    if isinstance(found, type) and issubclass(found, Exception) and not issubclass(found, _NOT_OF_A_MESSAGE):
        error: Exception = found(message)
    else:
        error = RuntimeError(f"{kind}: {message}")
    error.add_note(f"in the tool's own process:\n{reply['trace']}")
    return error


async def run_in_child(
    job: Mapping[str, Any], box: Box, *, heard: Callable[[str], None] = _say, most: int = _PRINTED_BYTES
) -> ChildEnd:
    """Run the job in a child; when this is cancelled, the child and all it has started end.

    `heard` is told what it prints while it runs, up to `most` bytes.
    """
    loop, context = asyncio.get_running_loop(), contextvars.copy_context()
    child = Child(job, box, heard=lambda text: _tell(loop, context, heard, text), most=most)
    try:
        return await asyncio.wrap_future(child.begin())
    except asyncio.CancelledError:
        child.stop()
        raise


def _tell(
    loop: asyncio.AbstractEventLoop, context: contextvars.Context, heard: Callable[[str], None], text: str
) -> None:
    try:
        loop.call_soon_threadsafe(heard, text, context=context)
    except RuntimeError:
        # The loop is closed: whoever would have read it is gone.
        return


def _job(
    function: Callable[..., Any], needs: Bundle, args: Mapping[str, Any], *, key: str, whole: bool = True
) -> dict[str, Any]:
    name = function.__name__
    return {
        "kind": "tool",
        "function": name,
        "units": [{"file": unit.file, "line": unit.line, "text": unit.text} for unit in needs.units],
        "imports": [list(each) for each in needs.imports],
        "values": {read: _pack(name, read, value, whole=whole) for read, value in needs.values.items()},
        "args": {each: to_json(value, where=f"{name}({each}=)") for each, value in args.items()},
        "key": key,
    }


def _pack(tool: str, name: str, value: Any, *, whole: bool) -> Any:
    try:
        return typed_json.pack(value if whole else _sample(value), where=name)
    except typed_json.Unpackable as error:
        raise UserError(
            f"{tool} cannot run in a process of its own: {error}; make it inside the tool, or let it read its content"
        ) from error


def _sample(value: Any) -> Any:
    """A frame or array without its rows: enough to see whether its kind can be handed over."""
    return value[:_EMPTY_ROWS] if hasattr(value, "dtypes") or hasattr(value, "dtype") else value
