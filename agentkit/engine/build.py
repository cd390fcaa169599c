"""From a spec and the notebook's functions to a durable agent."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from typing import Any

from pydantic_ai import Tool
from pydantic_ai.agent import AbstractAgent
from pydantic_ai.models import Model
from pydantic_ai.toolsets import AbstractToolset

from agentkit.defend import approval
from agentkit.define import models
from agentkit.define.digest import tool_digest
from agentkit.define.spec import Spec
from agentkit.define.tools import Declaration, check, declaration
from agentkit.engine.agent import DurableAgent, Policy
from agentkit.engine.asking import ask_user
from agentkit.engine.session import current
from agentkit.errors import MissingExtra, UserError, nearest
from agentkit.events import Scope


def build(
    spec: Spec,
    *,
    name: str,
    tools: Sequence[Any] = (),
    model: str | Model | None = None,
    output: Any = None,
    deps: Any = None,
    mcp: Sequence[str] = (),
    share: Scope | None = None,
    ttl: float | None = None,
    approve: str | Sequence[str] = (),
    ask: bool = False,
) -> DurableAgent:
    """A durable agent named `name`, as `spec` describes it.

    `tools` are functions, agents (called as sub-agents) and pydantic-ai toolsets; `mcp` names servers by URL or a JSON
    file. `approve` names the tools whose calls need a person, with `*` for anything; `ask` lets the agent ask the
    person questions. Raises UserError, in one line, for what cannot be built.
    """
    functions = [tool for tool in tools if callable(tool) and not isinstance(tool, AbstractAgent | AbstractToolset)]
    subagents = [tool for tool in tools if isinstance(tool, AbstractAgent)]
    toolsets = [tool for tool in tools if isinstance(tool, AbstractToolset)]
    unknown = [tool for tool in tools if tool not in (*functions, *subagents, *toolsets)]
    if unknown:
        raise UserError(f"--tools takes functions, agents and toolsets, not {type(unknown[0]).__name__}")
    check(functions)
    return DurableAgent.from_fields(
        spec.fields,
        model=models.resolve(_model_of(spec, model)),
        name=name,
        instructions=spec.instructions or None,
        output_type=str if output is None else output,
        deps_type=object if deps is None else type(deps),
        tools=[
            *(_tool(function) for function in (*functions, *((ask_user,) if ask else ()))),
            *(_sub_agent(agent) for agent in subagents),
        ],
        toolsets=[*toolsets, *(server for place in mcp for server in _mcp_servers(place))],
        policy=Policy(
            share=share,
            ttl=ttl,
            approve=_approvals(approve, functions, subagents, others=bool(toolsets or mcp)),
            notes=_notes(functions),
        ),
    )


def _approvals(
    approve: str | Sequence[str], functions: Sequence[Callable[..., Any]], subagents: Sequence[Any], *, others: bool
) -> approval.Policy:
    patterns = approval.parse_patterns(approve if isinstance(approve, str) else ",".join(approve)) if approve else ()
    names = [*(function.__name__ for function in functions), *(str(agent.name) for agent in subagents)]
    for pattern in patterns:
        # What toolsets and servers offer is known at the first run only.
        if not others and not any(fnmatchcase(name, pattern) for name in names):
            known = ", ".join(names) or "none"
            raise UserError(f"--approve {pattern} names no tool of this agent{nearest(pattern, names)}; it has {known}")
    return approval.Policy(patterns=patterns)


def _model_of(spec: Spec, model: str | Model | None) -> str | Model | None:
    if model is not None:
        return model
    session = current()
    return spec.model or (session.model if session is not None else None)


def _tool(function: Callable[..., Any]) -> Tool[Any]:
    declared = declaration(function)
    with warnings.catch_warnings():
        # Frames and arrays have no schema; they cross by the registry of converters.
        warnings.filterwarnings("ignore", message="Could not generate return schema", category=UserWarning)
        return Tool(function, timeout=declared.timeout, metadata={"agentkit": {"effects": declared.effects}})


def _sub_agent(agent: AbstractAgent[Any, Any]) -> Tool[Any]:
    if not agent.name:
        raise UserError("a sub-agent needs a name: build it with %%agent build NAME, or Agent(..., name='…')")

    async def ask_agent(prompt: str) -> Any:
        result = await agent.run(prompt)
        return result.output

    # After a crash inside it the sub-agent's own steps are replayed, so the call itself may simply be made again.
    ask_agent.__agentkit__ = Declaration(effects="none", outer=True)  # type: ignore[attr-defined]
    return Tool(
        ask_agent, name=agent.name, description=f"Ask the agent {agent.name}: {agent.description or ''}".strip()
    )


def _mcp_servers(place: str) -> list[AbstractToolset[Any]]:
    try:
        from pydantic_ai.mcp import MCPToolset, load_mcp_toolsets
    except ImportError as error:
        raise MissingExtra("mcp", "mcp") from error
    if place.startswith(("http://", "https://")):
        return [MCPToolset(place, id=place.rstrip("/").rpartition("//")[2])]
    return list(load_mcp_toolsets(place))


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
