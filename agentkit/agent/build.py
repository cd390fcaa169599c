"""From a spec and the notebook's functions to a durable agent."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from fnmatch import fnmatchcase
from typing import Any, cast

from pydantic_ai import Tool
from pydantic_ai.agent import AbstractAgent
from pydantic_ai.models import Model
from pydantic_ai.output import OutputDataT, OutputSpec
from pydantic_ai.tools import AgentDepsT
from pydantic_ai.toolsets import AbstractToolset, FunctionToolset, PrefixedToolset

from agentkit.agent.agent import AgentPolicy, DurableAgent
from agentkit.agent.mcp_servers import OFFERED
from agentkit.agent.spec import Spec
from agentkit.approval import policy
from agentkit.approval.interrupt import CALLED, ask_user
from agentkit.budget.budget import Budget, parse, parse_at_limit
from agentkit.budget.reservation import budgets_of
from agentkit.errors import MissingExtra, UserError, nearest
from agentkit.events import Scope
from agentkit.guards.loop_detector import parse_thresholds
from agentkit.models import resolve
from agentkit.runtime.session import current
from agentkit.sandbox.code_tool import code_tool
from agentkit.sandbox.process import isolate
from agentkit.tools.declaration import Declaration, check, declaration, seconds
from agentkit.tools.digest import tool_digest


def build(
    spec: Spec,
    *,
    name: str,
    tools: Sequence[Any] = (),
    model: str | Model | None = None,
    output: OutputSpec[OutputDataT] | None = str,  # type: ignore[assignment]  # what the default means to a checker
    deps: AgentDepsT | None = None,
    mcp: Sequence[str] = (),
    share: Scope | None = None,
    ttl: float | str | None = None,
    approve: str | Sequence[str] = (),
    ask: bool = False,
    code: bool = False,
    call: str | Sequence[str] = (),
    breaker: str | None = None,
    budget: str | None = None,
    at_limit: str | None = None,
) -> DurableAgent[AgentDepsT, OutputDataT]:
    """A durable agent named `name`, as `spec` describes it.

    `output` is what it answers: a type, or what else pydantic-ai takes as `output_type`. `deps` is an example of what
    its tools get from each run. `share` says who may reuse its model's answers, and `ttl` for how long: seconds, or
    "12h", "7d". `tools` are functions, agents (called as sub-agents) and pydantic-ai toolsets; `mcp` names servers by
    URL or a JSON file. `approve` names the tools whose calls need a person, with `*` for anything, those of its
    sub-agents too; `ask` lets the agent ask the person questions. `code` gives it `run_code`: it writes Python that
    calls its tools, or those named in `call`, in a sandbox. `breaker` sets thresholds of the circuit breaker, as in
    "repeats=3/5/8 usd/min=2", or "off". `budget` limits each run ("0.50usd, 20k tokens, 60k tpm, 30 requests,
    10min"), or each cell, day, month or all ("5usd/day"); `at_limit` is what happens there: ask, wait, fallback or
    stop. Raises UserError, in one line, for what cannot be built.
    """
    functions, subagents, toolsets = _sort_tools(tools)
    named = [*(function.__name__ for function in functions), *(str(agent.name) for agent in subagents)]
    inside = [_tool_names(agent) for agent in subagents]
    within = [name for found in inside for name in found or ()]
    others = bool(toolsets or mcp)
    held = _patterns("approve", approve, [*named, *within], others=others or None in inside)
    agent: DurableAgent[AgentDepsT, OutputDataT] = DurableAgent.from_fields(
        spec.fields,
        model=resolve.resolve(_model_of(spec, model)),
        name=name,
        instructions=spec.instructions or None,
        output=cast("OutputSpec[OutputDataT]", str if output is None else output),
        deps_type=object if deps is None else type(deps),
        tools=[
            *(_tool(function) for function in (*functions, *((ask_user,) if ask else ()))),
            *(_sub_agent(agent) for agent in subagents),
            *_code_tools(code, _patterns("call", call, named, others=others)),
        ],
        toolsets=[*toolsets, *_mcp_servers(mcp)],
        policy=AgentPolicy(
            share=share,
            ttl=seconds(ttl, given="ttl={!r}"),
            approve=policy.Policy(patterns=held),
            budget=_budget(budget, at_limit),
            breaker=None if breaker is None else parse_thresholds(breaker),
            notes=_notes(functions),
        ),
    )
    if (session := current()) is not None:
        budgets_of(session).set_default(name, agent.policy.budget)
    return agent


def _code_tools(code: bool, may_call: tuple[str, ...]) -> list[Tool[Any]]:
    if may_call and not code:
        raise UserError("call: it names what the agent's code may call, so add code=True")
    return [_tool(code_tool(may_call or ("*",)))] if code else []


def _sort_tools(tools: Sequence[Any]) -> tuple[list[Callable[..., Any]], list[Any], list[Any]]:
    """The functions, agents and toolsets among them."""
    functions = [tool for tool in tools if callable(tool) and not isinstance(tool, AbstractAgent | AbstractToolset)]
    subagents = [tool for tool in tools if isinstance(tool, AbstractAgent)]
    toolsets = [tool for tool in tools if isinstance(tool, AbstractToolset)]
    unknown = [tool for tool in tools if tool not in (*functions, *subagents, *toolsets)]
    if unknown:
        raise UserError(f"tools takes functions, agents and toolsets, not {type(unknown[0]).__name__}")
    check(functions)
    return functions, subagents, toolsets


def _budget(limits: str | None, at_limit: str | None) -> Budget | None:
    if limits is None and at_limit is not None:
        raise UserError(f"at_limit={at_limit!r} says what happens at a limit, but there is none: add budget='0.50usd'")
    if limits is None:
        return None
    return Budget(limits=parse(limits), at_limit=None if at_limit is None else parse_at_limit(at_limit))


def _patterns(option: str, given: str | Sequence[str], names: Sequence[str], *, others: bool) -> tuple[str, ...]:
    """The tools that an option names, as patterns; those of an agent that is known in full must name one."""
    text = given if isinstance(given, str) else ",".join(given)
    patterns = policy.parse_patterns(text, option=option) if text else ()
    for pattern in patterns:
        # What toolsets and servers offer is known at the first run only.
        if not others and not any(fnmatchcase(name, pattern) for name in names):
            known = ", ".join(names) or "none"
            raise UserError(
                f"{option}={pattern!r} names no tool of this agent{nearest(pattern, names)}; it has {known}"
            )
    return patterns


def _tool_names(agent: AbstractAgent[Any, Any]) -> list[str] | None:
    """The tools of an agent and of those it calls; None where a toolset says only at a run what it offers."""
    names: list[str] = []
    for toolset in agent.toolsets:
        if not isinstance(toolset, FunctionToolset):
            return None
        for name, tool in toolset.tools.items():
            called = getattr(tool.function, CALLED, None)
            found = [] if called is None else _tool_names(called)
            if found is None:
                return None
            names += [name, *found]
    return names


def _model_of(spec: Spec, model: str | Model | None) -> str | Model | None:
    if model is not None:
        return model
    session = current()
    # What stands in the environment is said to stand there, if it cannot be had.
    default = None if session is None or session.model == os.environ.get("AGENTKIT_MODEL") else session.model
    return spec.model or default


def _tool(function: Callable[..., Any]) -> Tool[Any]:
    declared = declaration(function)
    with warnings.catch_warnings():
        # Frames and arrays have no schema; they cross by the registry of converters.
        warnings.filterwarnings("ignore", message="Could not generate return schema", category=UserWarning)
        timeout = None if declared.isolate else declared.timeout
        tool = Tool(function, timeout=timeout, metadata={"agentkit": {"effects": declared.effects}})
    isolate.check(function, takes_ctx=tool.takes_ctx)
    return tool


def as_tool(one: Callable[..., Any] | AbstractAgent[Any, Any]) -> Tool[Any]:
    """A function, or an agent to ask, as a pydantic-ai tool."""
    return _sub_agent(one) if isinstance(one, AbstractAgent) else _tool(one)


def require_tool(one: Callable[..., Any] | AbstractAgent[Any, Any]) -> Tool[Any]:
    """As `as_tool`; UserError for what cannot be one."""
    if not isinstance(one, AbstractAgent):
        check([one])
    return as_tool(one)


def _sub_agent(agent: AbstractAgent[Any, Any]) -> Tool[Any]:
    if not agent.name:
        raise UserError("a sub-agent needs a name: agentkit.build(…, name='…'), or Agent(…, name='…')")

    async def ask_agent(prompt: str) -> Any:
        result = await agent.run(prompt)
        return result.output

    # After a crash inside it the sub-agent's own steps are replayed, so the call itself may simply be made again.
    ask_agent.__agentkit__ = Declaration(effects="none", outer=True)  # type: ignore[attr-defined]
    setattr(ask_agent, CALLED, agent)
    return Tool(
        ask_agent, name=agent.name, description=f"Ask the agent {agent.name}: {agent.description or ''}".strip()
    )


def _mcp_servers(places: Sequence[str]) -> Iterator[AbstractToolset[Any]]:
    """The servers that `mcp` names; each also offers to read its resources and prompts, where it has any."""
    without_prefix = 0
    for place in places:
        for server in _mcp_servers_of(place):
            if isinstance(server, PrefixedToolset):
                setattr(server.wrapped, OFFERED, "")
            else:
                without_prefix += 1
                # Two servers that are named by their URL have no prefix to tell their tools apart.
                setattr(server, OFFERED, "" if without_prefix == 1 else f"_{without_prefix}")
            yield server


def _mcp_servers_of(place: str) -> list[AbstractToolset[Any]]:
    try:
        from pydantic_ai.mcp import MCPToolset, load_mcp_toolsets
    except ImportError as error:
        raise MissingExtra("mcp", "mcp") from error
    if place.startswith(("http://", "https://")):
        return [MCPToolset(place, id=place.rstrip("/").rpartition("//")[2])]
    try:
        return list(load_mcp_toolsets(place))
    except FileNotFoundError as error:
        raise UserError(f"mcp={place!r}: there is no such file; give one, or a URL that begins with http") from error
    except ValueError as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"mcp={place!r}: not a list of MCP servers in JSON ({reason})") from error


def _notes(functions: Sequence[Callable[..., Any]]) -> tuple[str, ...]:
    notes = []
    undeclared = [function.__name__ for function in functions if declaration(function).effects == "undeclared"]
    if undeclared:
        notes.append(
            f"effects undeclared: {', '.join(undeclared)} (after a crash inside one you will be asked; "
            'declare @agentkit.tool(effects="none" | "idempotent" | "once"))'
        )
    for function in functions:
        digest = tool_digest(function)
        if digest.assigns and declaration(function).effects != "kernel":
            names = ", ".join(digest.assigns)
            notes.append(f'{function.__name__} assigns notebook globals ({names}): declare effects="kernel"')
        if digest.unhashed:
            notes.append(f"{function.__name__} reads what cannot be hashed: {'; '.join(digest.unhashed)}")
    return tuple(notes)
