"""An MCP server in a run: reached or named, asked for what it offers, heard when it asks the person, left in peace."""

from __future__ import annotations

import asyncio
import contextvars
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit
from weakref import WeakKeyDictionary

from pydantic_ai.agent import AbstractAgent
from pydantic_ai.exceptions import ModelRetry, ToolFailed
from pydantic_ai.tools import RunContext, ToolDefinition
from pydantic_ai.toolsets import AbstractToolset, ToolsetTool, WrapperToolset

from agentkit.approval.human_question import HumanQuestion
from agentkit.approval.interrupt import answer_of, ask_all
from agentkit.approval.policy import Question
from agentkit.errors import ServerUnreachable, UserError, leaves, reason
from agentkit.journal.execution import StepFrame, current_step, shorten
from agentkit.runtime.run_state import RunState, frame_of_run
from agentkit.text import reveal, visible_line

OFFERED = "__agentkit_offered__"
"""On a toolset that `--mcp` made: the end of the names of the tools that read its server's resources and prompts."""
_OFFER = 1_000_000
"""Characters of names, descriptions and schemas of the tools of one server, in each request and in the journal."""
_FIELDS = 50
_CHOICES = 200
_CHOICE = 1_000
_MESSAGE = 10_000
_LISTED = 40
_NAMED = 5
_LINE = 160


@dataclass
class Server(WrapperToolset[Any]):
    """An `MCPToolset` as a run uses it. What is not here is asked of the toolset itself."""

    _as_tasks: frozenset[str] | None = field(default=None, init=False)

    def __getattr__(self, name: str) -> Any:
        if name == "wrapped":
            raise AttributeError(name)
        return getattr(self.wrapped, name)

    @property
    def id(self) -> str | None:
        return self.wrapped.id

    async def __aenter__(self) -> Server:
        _listen(self.wrapped)
        try:
            await self.wrapped.__aenter__()
        except Exception as error:
            if isinstance(error, UserError):
                raise
            raise ServerUnreachable(_describe_server(self.wrapped), _describe_cause(error)) from error
        return self

    async def __aexit__(self, *args: Any) -> bool | None:
        try:
            return await self.wrapped.__aexit__(*args)
        except Exception as error:  # noqa: BLE001 - a server may go in any way
            # Whatever the run has is here. That the server is gone is a remark and no failure.
            self._remark(
                f"MCP server {_describe_server(self.wrapped)} was gone when the run ended: {_describe_cause(error)}"
            )
            return None

    async def get_tools(self, ctx: RunContext[Any]) -> dict[str, ToolsetTool[Any]]:
        if self._as_tasks is None:
            self._as_tasks = await self._only_as_tasks()
        tools = await self.wrapped.get_tools(ctx)
        # Where the client can run them as tasks, it says so of each.
        refused = [n for n, tool in tools.items() if n in self._as_tasks and not (tool.tool_def.metadata or {})["task"]]
        if refused:
            tools = {name: tool for name, tool in tools.items() if name not in refused}
            self._remark(
                f"MCP server {_describe_server(self.wrapped)}: {', '.join(refused)} not offered: it runs only as a "
                f"task, "
                "which this client cannot begin"
            )
        tools = self._bounded(tools)
        ending = getattr(self.wrapped, OFFERED, None)
        if ending is not None:
            for offered in await self._readers(ending):
                # A tool of the server with this name goes before.
                tools.setdefault(offered.name, self.wrapped.tool_for_tool_def(offered, ctx=ctx))  # type: ignore[attr-defined]
        return tools

    async def call_tool(
        self, name: str, tool_args: dict[str, Any], ctx: RunContext[Any], tool: ToolsetTool[Any]
    ) -> Any:
        match (tool.tool_def.metadata or {}).get("reads"):
            case "resource":
                return await _report_missing(self.wrapped.read_resource(_text(tool_args, "uri")))  # type: ignore[attr-defined]
            case "prompt":
                return await _report_missing(self._prompt(_text(tool_args, "name"), tool_args.get("arguments")))
        frame = frame_of_run()
        listening = _listeners.get(getattr(self.wrapped, "client", None))
        if frame is None or listening is None:
            return await self._call(name, tool_args, ctx, tool)
        with listening.during(_Call(frame=frame, ctx=ctx, server=self.id or "", tool=name)) as under_way:
            performing = asyncio.ensure_future(self._call(name, tool_args, ctx, tool))
            try:
                await asyncio.wait({performing, under_way.failed}, return_when=asyncio.FIRST_COMPLETED)
                if under_way.failed.done():
                    # The server is told to stop; the question is open, and this call is made again when it is answered.
                    return under_way.failed.result()
                return await performing
            finally:
                if not performing.done():
                    performing.cancel()
                    await asyncio.wait({performing})

    async def _call(self, name: str, tool_args: dict[str, Any], ctx: RunContext[Any], tool: ToolsetTool[Any]) -> Any:
        """Return what the server answers. That it is gone, or in short why it failed, is told to the agent."""
        server: Any = self.wrapped
        try:
            return await server.call_tool(name, tool_args, ctx, tool)
        except Exception as error:
            if server.tool_error_behavior == "error" or server.client.is_connected():
                if isinstance(error, ModelRetry | ToolFailed):
                    raise type(error)(shorten(error.message, _MESSAGE)) from error
                raise
            raise ToolFailed(f"MCP server {_describe_server(server)} is gone: {_describe_cause(error)}") from error

    def _bounded(self, tools: dict[str, ToolsetTool[Any]]) -> dict[str, ToolsetTool[Any]]:
        """The tools whose descriptions fit together; of the others it is said that they are not offered."""
        fitting, left = {}, _OFFER
        for name, tool in tools.items():
            about = tool.tool_def
            size = len(name) + len(about.description or "") + len(str(about.parameters_json_schema))
            if size <= left:
                fitting[name] = tool
                left -= size
        if (rest := len(tools) - len(fitting)) > 0:
            names = ", ".join([shorten(name, _LINE) for name in tools if name not in fitting][:_NAMED])
            self._remark(
                f"MCP server {_describe_server(self.wrapped)}: {rest} of its {len(tools)} tools not offered ({names}"
                f"{', …' if rest > _NAMED else ''}): it describes them in more than {_OFFER:,} characters"
            )
        return fitting

    async def _only_as_tasks(self) -> frozenset[str]:
        """The tools that the server runs only as a task."""
        listed = await self.wrapped.list_tools()  # type: ignore[attr-defined]
        return frozenset(tool.name for tool in listed if _support(tool) == "required")

    async def _readers(self, ending: str) -> list[ToolDefinition]:
        """The tools that read what the server has beside tools, each with a list of it."""
        server: Any = self.wrapped
        has = server.capabilities
        found: list[ToolDefinition] = []
        resources = [*await server.list_resources(), *await server.list_resource_templates()] if has.resources else []
        if resources:
            lines = _lines((getattr(one, "uri", None) or one.uri_template, one) for one in resources)
            about = f"Read a resource of the MCP server {self.id} by its URI. It has:\n{lines}"
            found.append(_reader("resource", f"read_resource{ending}", about, {"uri": {"type": "string"}}, ["uri"]))
        prompts = await server.list_prompts() if has.prompts else []
        if prompts:
            lines = _lines((f"{one.name}({_parameters(one)})", one) for one in prompts)
            about = f"Get a prompt that the MCP server {self.id} offers, filled in. It has:\n{lines}"
            given = {"type": "object", "additionalProperties": {"type": "string"}}
            schema = {"name": {"type": "string"}, "arguments": given}
            found.append(_reader("prompt", f"get_prompt{ending}", about, schema, ["name"]))
        return found

    async def _prompt(self, name: str, arguments: Mapping[str, str] | None) -> list[Any]:
        server: Any = self.wrapped
        result = await server.get_prompt(name, dict(arguments or {}))
        return [{"role": one.role, "content": getattr(one.content, "content", one.content)} for one in result.messages]

    def _remark(self, text: str) -> None:
        frame = frame_of_run()
        if frame is not None:
            frame.notes.append(frame.journal.redactor.scrub(_line(text)))


def _support(tool: Any) -> str | None:
    execution = getattr(tool, "execution", None)
    return getattr(execution, "task_support", None) or getattr(execution, "taskSupport", None)


def _reader(what: str, name: str, about: str, properties: Mapping[str, Any], required: Sequence[str]) -> ToolDefinition:
    schema = {"type": "object", "properties": dict(properties), "required": list(required)}
    metadata = {"meta": None, "annotations": {"readOnlyHint": True}, "task": False, "reads": what}
    return ToolDefinition(name=name, description=about, parameters_json_schema=schema, metadata=metadata)


def _lines(listed: Iterator[tuple[str, Any]]) -> str:
    lines = [
        shorten(f"- {name}: {about}" if (about := one.description or one.title) else f"- {name}", _LINE)
        for name, one in listed
    ]
    rest = len(lines) - _LISTED
    return "\n".join([*lines[:_LISTED], *([f"- … and {rest} more"] if rest > 0 else [])])


def _parameters(prompt: Any) -> str:
    return ", ".join(one.name if one.required else f"{one.name}?" for one in prompt.arguments or ())


def _text(arguments: Mapping[str, Any], name: str) -> str:
    value = arguments.get(name)
    if not isinstance(value, str):
        raise ModelRetry(f"{name} must be a text")
    return value


async def _report_missing(reading: Any) -> Any:
    """What is read; what the server does not have is told to the agent, which may ask for something else."""
    from pydantic_ai.mcp import MCPError

    try:
        return await reading
    except (MCPError, ValueError) as error:
        raise ModelRetry(shorten(str(error), _MESSAGE)) from error


def _describe_server(toolset: Any) -> str:
    """The server with what it is reached by."""
    transport = getattr(toolset.client, "transport", None)
    where = getattr(transport, "command", None)
    if (url := getattr(transport, "url", None)) is not None:
        parts = urlsplit(str(url))
        # What is before the host and behind the path may be a key.
        where = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
        if str(toolset.id) in str(url):
            return str(where)
    return f"{toolset.id} ({where})" if where else str(toolset.id)


def _describe_cause(error: BaseException) -> str:
    return _line("; ".join(dict.fromkeys(reason(one) or type(one).__name__ for one in leaves(error))))


def _line(text: str) -> str:
    """What a server says, in one line that steers no screen."""
    return shorten(" ".join(visible_line(text.replace("\n", " ")).split()))


# ---- what a server asks while it works


@dataclass(frozen=True, kw_only=True)
class _Call:
    """A call that a server is busy with. `failed` gets why it cannot go on: nobody has answered yet, or said stop."""

    frame: RunState
    ctx: RunContext[Any]
    server: str
    tool: str
    step: StepFrame | None = field(default_factory=current_step)
    context: contextvars.Context = field(default_factory=contextvars.copy_context)
    failed: asyncio.Future[Any] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


_listeners: WeakKeyDictionary[Any, _Listener] = WeakKeyDictionary()


def _listen(toolset: AbstractToolset[Any]) -> None:
    """Hear what the server asks the person, unless somebody else does."""
    client = getattr(toolset, "client", None)
    if client is None or client in _listeners or "elicitation_callback" in getattr(client, "_session_kwargs", {}):
        return
    _listeners[client] = listener = _Listener()
    client.set_elicitation_callback(listener.answer)


class _Listener:
    """The calls a client makes, and whom among them a question of its server belongs to."""

    def __init__(self) -> None:
        self._calls: list[_Call] = []

    @contextmanager
    def during(self, call: _Call) -> Iterator[_Call]:
        self._calls.append(call)
        try:
            yield call
        finally:
            self._calls.remove(call)
            if not call.failed.done():
                call.failed.cancel()

    async def answer(self, message: str, _: Any, params: Any, __: Any) -> Any:
        """The answer to a question of the server, as MCP wants it."""
        call = self._calling_step()
        if call is None:
            return _result("decline")
        if not _askable(params):
            remark = f"MCP server {call.server} asked for what cannot be put to a person; it was declined"
            call.frame.notes.append(call.frame.journal.redactor.scrub(_line(remark)))
            return _result("decline")
        asking = call.context.run(asyncio.ensure_future, _answers(call, shorten(message, _MESSAGE), params))
        try:
            return await asking
        except asyncio.CancelledError:
            asking.cancel()
            raise
        except Exception as error:  # noqa: BLE001 - the call that it was asked for raises it
            if not call.failed.done():
                call.failed.set_exception(error)
            return _result("cancel")

    def _calling_step(self) -> _Call | None:
        """The call that is asked about. Calls of one turn ask with one history, so any of them will do."""
        step = current_step()
        if own := [call for call in self._calls if call.step is step]:
            return own[0]
        frames = {call.frame.id for call in self._calls}
        return self._calls[0] if len(frames) == 1 else None


async def _answers(call: _Call, message: str, params: Any) -> Any:
    asked = [_question(call, message, name, about) for name, about in _fields(params)]
    history = call.frame.chain.digest(call.ctx.messages, trusted=call.frame.trusted)
    questions = [
        (question, HumanQuestion.of(call.frame, "question", question, payload=question.arguments, history=history))
        for question, _ in asked
    ]
    decisions = await ask_all(call.frame, questions)
    given = {
        name: _value(answer_of(question, decision), about, schema)
        for (question, about), decision, (name, schema) in zip(asked, decisions, _fields(params), strict=True)
    }
    if "" in given:
        return _result("accept" if given[""] else "decline")
    required = set(_schema(params).get("required", ()))
    return _result("accept", {name: value for name, value in given.items() if value != "" or name in required})


def _schema(params: Any) -> Mapping[str, Any]:
    return getattr(params, "requested_schema", None) or getattr(params, "requestedSchema", None) or {}


def _askable(params: Any) -> bool:
    """Whether what is wanted is some fields, each with a short default and a few choices that can be told apart."""
    fields = _schema(params).get("properties", {})
    if not isinstance(fields, Mapping) or len(fields) > _FIELDS:
        return False
    for name, about in fields.items():
        if len(name) > _CHOICE or not isinstance(about, Mapping):
            return False
        if len(str(about.get("default"))) > _MESSAGE:
            return False
        titled, named = about.get("oneOf") or about.get("anyOf") or [], about.get("enumNames") or []
        listed = about.get("enum") or []
        if not all(isinstance(each, list) and len(each) <= _CHOICES for each in (titled, named, listed)):
            return False
        if not all(isinstance(one, Mapping) for one in titled):
            return False
        wanted = len([one for one in titled if "const" in one] if titled else listed)
        shown = _options(about)
        if len(shown) < wanted or any(len(each) > _CHOICE for each in shown):
            return False
    return True


def _fields(params: Any) -> list[tuple[str, Mapping[str, Any]]]:
    """What is wanted, by its name; "" for nothing but a yes."""
    return list(_schema(params).get("properties", {}).items()) or [("", {"type": "boolean"})]


def _question(call: _Call, message: str, name: str, about: Mapping[str, Any]) -> tuple[Question, Mapping[str, Any]]:
    options = _options(about)
    title = str(about.get("title") or name)
    told = ": ".join(str(one) for one in (title, about.get("description")) if one)
    kind = about.get("type")
    text = f"MCP server {call.server} asks: {message}" + (f" ({told})" if told else "")
    redactor = call.frame.journal.redactor
    question = Question(
        kind="ask",
        tool=call.tool,
        arguments={"server": call.server, "question": redactor.scrub(message), "field": name},
        text=redactor.scrub(shorten(text)),
        form=(
            "choice"
            if options
            else "yes_no"
            if kind == "boolean"
            else "number"
            if kind in ("number", "integer")
            else "json"
            if kind == "array"
            else "text"
        ),
        choices=tuple(options),
        default=about.get("default"),
        before=tuple(call.frame.ran[-12:]),
        agent=call.frame.agent,
    )
    return question, options


def _choice(name: object) -> str:
    return " ".join(visible_line(reveal(str(name)).replace("\n", " ").replace("\t", " ")).split())


def _options(about: Mapping[str, Any]) -> dict[str, Any]:
    """What may be chosen, as it is shown and as it is sent."""
    if titled := about.get("oneOf") or about.get("anyOf"):
        return {_choice(one.get("title") or one.get("const")): one.get("const") for one in titled if "const" in one}
    names = about.get("enumNames") or about.get("enum") or ()
    return {_choice(name): value for name, value in zip(names, about.get("enum") or (), strict=False)}


def _value(answer: Any, options: Mapping[str, Any], about: Mapping[str, Any]) -> Any:
    if options:
        return options[answer]
    if answer is None:
        # Nothing was written, and an empty text is not kept.
        return ""
    whole = about.get("type") == "integer" and isinstance(answer, float) and answer.is_integer()
    return int(answer) if whole else answer


def _result(action: str, content: Mapping[str, Any] | None = None) -> Any:
    from mcp.types import ElicitResult

    return ElicitResult(action=action, content=None if content is None else dict(content))  # type: ignore[arg-type]


def refuse_sampling(agent: AbstractAgent[Any, Any]) -> None:
    """Raises UserError when a server of the agent was given a model to ask."""
    # Without the package no agent has such a server, and importing it takes a while.
    package = sys.modules.get("pydantic_ai.mcp")
    if package is None:
        return

    def look(toolset: AbstractToolset[Any]) -> None:
        if isinstance(toolset, package.MCPToolset) and toolset.sampling_model is not None:
            raise UserError(
                f"MCP server {toolset.id or toolset.label}: what it asks of the model it was given would be paid and "
                "not recorded; build the toolset without sampling_model, and leave out set_mcp_sampling_model()"
            )

    for toolset in agent.toolsets:
        toolset.apply(look)
