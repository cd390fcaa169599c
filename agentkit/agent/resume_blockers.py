"""Why a run has to be walked: whatever its next request may depend on beside what its record holds."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from pydantic_ai import Agent
from pydantic_ai.agent import AbstractAgent, WrapperAgent
from pydantic_ai.messages import InstructionPart
from pydantic_ai.toolsets import (
    AbstractToolset,
    CombinedToolset,
    FunctionToolset,
    PrefixedToolset,
    RenamedToolset,
    WrapperToolset,
)

# What a run may be given and still be decided by what its steps are keyed by.
_KNOWN = frozenset(
    {
        "user_prompt",
        "message_history",
        "deps",
        "model",
        "output_type",
        "infer_name",
        "conversation_id",
        "run_id",
        "usage",
        "retries",
    }
)
_VALUES: Mapping[str, Callable[[Any], bool]] = {
    "instructions": lambda given: all(isinstance(one, str | InstructionPart) for one in _several(given)),
    "model_settings": lambda given: isinstance(given, Mapping),
    "metadata": lambda given: isinstance(given, Mapping),
}
"""What else it may be given, as long as it is a value and not a function."""

# These only say something that is the same in each request, or look at it.
_STATIC_CAPABILITIES = frozenset(
    {
        "ToolSearch",
        "PendingMessageDrainCapability",
        "Instrumentation",
        "Thinking",
        "Caching",
        "Citations",
        "UseThreadExecutor",
    }
)
_OF_THE_PROVIDER = frozenset({"NativeTool", "WebSearch", "WebFetch", "XSearch", "ImageGeneration"})


def obstacle(agent: AbstractAgent[Any, Any], given: Mapping[str, Any]) -> str:
    """Why the next request of this run may depend on more than its record; "" when it cannot."""
    inner = _unwrap(agent)
    if not isinstance(inner, Agent):
        return f"a {type(inner).__name__} may decide anything"
    reasons = (*_from_run(given), *_from_agent(inner), *_from_toolsets(inner.toolsets))
    return next(iter(reasons), "")


def servers(agent: AbstractAgent[Any, Any]) -> list[Any]:
    """The MCP servers behind the tools of an agent, whatever names their tools are given."""
    found: list[Any] = []
    for toolset in _unwrap(agent).toolsets:
        toolset.apply(lambda leaf: found.append(leaf) if is_server(leaf) else None)
    return found


def is_server(toolset: object) -> bool:
    # Its module needs what only the extra `mcp` installs.
    return (type(toolset).__module__, type(toolset).__name__) == ("pydantic_ai.mcp", "MCPToolset")


def is_early(agent: AbstractAgent[Any, Any]) -> bool:
    """Whether a reply may be the last one although it calls tools."""
    return getattr(_unwrap(agent), "end_strategy", "") == "early"


def leaf_of(tool: Any, name: str) -> tuple[Any, str]:
    """The toolset a tool comes from, and its name there; `name` is what the agent calls it."""
    while (inner := getattr(tool, "source_tool", None)) is not None:
        tool = inner
    toolset = tool.toolset
    while isinstance(toolset, WrapperToolset):
        if isinstance(toolset, PrefixedToolset):
            name = name.removeprefix(f"{toolset.prefix}_")
        elif isinstance(toolset, RenamedToolset):
            name = toolset.name_map.get(name, name)
        toolset = toolset.wrapped
    return toolset, name


def _unwrap(agent: AbstractAgent[Any, Any]) -> AbstractAgent[Any, Any]:
    while isinstance(agent, WrapperAgent):
        agent = agent.wrapped
    return agent


def _several(given: Any) -> Sequence[Any]:
    return given if isinstance(given, Sequence) and not isinstance(given, str) else (given,)


def _from_run(given: Mapping[str, Any]) -> Iterator[str]:
    for name, value in given.items():
        if name == "event_stream_handler" and getattr(value, "__module__", "") == "agentkit.agent.ask":
            continue
        if name == "capabilities":
            yield from _from_capabilities(value or ())
        elif name not in _KNOWN and value is not None and not (name in _VALUES and _VALUES[name](value)):
            yield f"run(…, {name}=…) is given"


def _from_agent(agent: Agent[Any, Any]) -> Iterator[str]:
    state = vars(agent)
    for name in ("_instructions", "_system_prompt_functions", "_system_prompt_dynamic_functions", "_dynamic_toolsets"):
        if not _all_text(state.get(name)):
            yield f"its {name.strip('_').replace('_', ' ')} are functions"
    if callable(agent.model_settings):
        yield "its model settings are a function"
    for name, value in state.items():
        if name.startswith("_override_") and name != "_override_model" and value.get(None) is not None:
            yield f"agent{name.replace('_override_', '.override(')}=…) is in force"
    yield from _from_capabilities(agent.root_capability.capabilities)


def _all_text(values: Iterable[Any] | None) -> bool:
    # Newer releases say beside an instruction where it comes from.
    return all(isinstance(getattr(value, "instruction", value), str | InstructionPart) for value in values or ())


def _from_capabilities(capabilities: Iterable[Any]) -> Iterator[str]:
    for capability in capabilities:
        kind = type(capability)
        package = kind.__module__.partition(".")[0]
        if package != "agentkit" and not (package == "pydantic_ai" and _is_static(kind.__name__, capability)):
            yield f"its capability {kind.__name__} may change what is sent"


def _is_static(kind: str, capability: Any) -> bool:
    if kind in _OF_THE_PROVIDER:
        return capability.get_toolset() is None and not any(map(callable, capability.get_native_tools()))
    return kind in _STATIC_CAPABILITIES


def _from_toolsets(toolsets: Iterable[AbstractToolset[Any]]) -> Iterator[str]:
    for toolset in toolsets:
        if type(toolset) in (PrefixedToolset, RenamedToolset):
            yield from _from_toolsets([toolset.wrapped])  # type: ignore[attr-defined]
        elif type(toolset) is CombinedToolset:
            yield from _from_toolsets(toolset.toolsets)
        elif isinstance(toolset, FunctionToolset) and type(toolset).__module__.partition(".")[0] == "pydantic_ai":
            yield from _from_functions(toolset)
        elif not is_server(toolset):
            yield f"its toolset {toolset.label} may offer other tools each time"


def _from_functions(toolset: FunctionToolset[Any]) -> Iterator[str]:
    if not _all_text(vars(toolset).get("_instructions")):
        yield f"the instructions of its toolset {toolset.label} are functions"
    for name, tool in toolset.tools.items():
        if tool.prepare is not None:
            yield f"its tool {name} has a prepare function"
        if tool.args_validator is not None:
            yield f"its tool {name} has an args_validator"
