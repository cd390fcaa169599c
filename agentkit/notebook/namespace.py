"""Names typed on a magic line, looked up in the notebook: agents, tools, types, values; the nearest name is offered."""

from __future__ import annotations

import builtins
import keyword
import re
from collections.abc import Callable, Mapping
from typing import Any

from pydantic import PydanticSchemaGenerationError, PydanticUndefinedAnnotation, TypeAdapter
from pydantic_ai.agent import AbstractAgent
from pydantic_ai.models import Model
from pydantic_ai.toolsets import AbstractToolset

from agentkit.agent.live_names import Unbound
from agentkit.errors import UserError, nearest
from agentkit.models import resolve
from agentkit.values.durations import parse_duration


def agents(names: Mapping[str, Any]) -> dict[str, AbstractAgent[Any, Any]]:
    return {name: value for name, value in _own(names).items() if isinstance(value, AbstractAgent)}


def agent(name: str, names: Mapping[str, Any]) -> AbstractAgent[Any, Any]:
    """The agent bound to `name`."""
    value = names.get(name)
    if isinstance(value, AbstractAgent):
        return value
    known = agents(names)
    if name in names:
        raise UserError(f"{name} is a {type(value).__name__}, not an agent; agents here: {', '.join(known) or 'none'}")
    hint = nearest(name, known) or f"; make it with %%agent build {name}"
    raise UserError(f"no agent is called {name}{hint}")


def tools(text: str, names: Mapping[str, Any]) -> list[Any]:
    """What `--tools a, b.c` names."""
    return [tool(name, names) for name in tool_names(text)]


def tool_names(text: str) -> list[str]:
    return [name for name in re.split(r"[,\s]+", text) if name]


def name_of(value: Any) -> str:
    """What a model calls a function or an agent by."""
    return str(value.name) if isinstance(value, AbstractAgent) else getattr(value, "__name__", "")


def current_value(name: str, names: Mapping[str, Any], find: Callable[[str, Mapping[str, Any]], Any]) -> Any:
    """What a name means now; Unbound where the notebook has none of it."""
    if (first := name.partition(".")[0]) not in names:
        raise Unbound(first)
    return find(name, names)


def output_now(text: str, names: Mapping[str, Any]) -> Any:
    """As `output`; Unbound where a name in it is gone."""
    try:
        found = output(text, names)
    except UserError as error:
        if isinstance(error.__cause__, NameError):
            raise Unbound(error.__cause__.name) from error
        raise
    check_output(text, found)
    return found


def tool(name: str, names: Mapping[str, Any]) -> Any:
    first, *attributes = name.split(".")
    if first not in names:
        raise UserError(f"--tools: no tool is called {name}{nearest(first, callables(names))}")
    value = names[first]
    for attribute in attributes:
        if not hasattr(value, attribute):
            raise UserError(f"--tools: {first} has no {attribute}{nearest(attribute, dir(value))}")
        value = getattr(value, attribute)
    if not callable(value) and not isinstance(value, AbstractAgent | AbstractToolset):
        raise UserError(f"--tools: {name} is a {type(value).__name__}; tools are functions, agents and toolsets")
    return value


def callables(names: Mapping[str, Any]) -> list[str]:
    kinds = (AbstractAgent, AbstractToolset)
    return [
        name
        for name, value in _own(names).items()
        if isinstance(value, kinds) or (callable(value) and not isinstance(value, type))
    ]


def output(text: str, names: Mapping[str, Any]) -> Any:
    """The type `--output` asks for: a name or a type expression of the notebook."""
    try:
        # The person's own type expression, in the person's own kernel.
        value = eval(text, {**names})
    except NameError as error:
        hint = nearest(str(error.name), types(names))
        raise UserError(f"--output {text}: {error.name} is not defined{hint}") from error
    except Exception as error:
        raise UserError(f"--output {text}: not a type ({type(error).__name__}: {error})") from error
    if isinstance(value, str | int | float | bytes | dict) or value is None or value == []:
        raise UserError(f"--output {text}: {value!r} is not a type; give a pydantic model or a type like list[int]")
    return value


def check_output(text: str, value: Any) -> None:
    """Whether pydantic can make a schema of it; functions and lists of types are pydantic-ai's to judge."""
    if (callable(value) and not isinstance(value, type)) or isinstance(value, list):
        return
    try:
        TypeAdapter(value)
    except (PydanticSchemaGenerationError, PydanticUndefinedAnnotation, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"--output {text}: no schema can be made of it ({reason}); give a pydantic model") from error


def types(names: Mapping[str, Any]) -> list[str]:
    return [name for name, value in _own(names).items() if isinstance(value, type)]


def model(text: str, names: Mapping[str, Any]) -> str | Model:
    """A model string, or a model object of the notebook by its name."""
    value = names.get(text)
    return value if isinstance(value, Model) else text


def usable_model(where: str, text: str, names: Mapping[str, Any]) -> str | Model:
    """What `model` finds; a model that cannot be had is a UserError in the words of `where` it was typed."""
    found = model(text, names)
    try:
        resolve.resolve(found)
    except UserError as error:
        error.args = (f"{where}: {error}", *error.args[1:])
        raise
    return found


def value(option: str, name: str, names: Mapping[str, Any]) -> Any:
    if name not in names:
        raise UserError(f"--{option}: {name} is not defined in the notebook{nearest(name, _own(names))}")
    return names[name]


def new_name(name: str, names: Mapping[str, Any], *, option: str, free: Callable[[Any], bool]) -> str:
    """`name` if it may be bound: a Python name, no built-in, and not a variable for which `free` is false."""
    if not name.isidentifier() or keyword.iskeyword(name):
        raise UserError(f"{option}: {name!r} cannot be a variable: use letters, digits and _")
    if hasattr(builtins, name):
        raise UserError(f"{option}: {name} is a Python built-in: choose another name")
    if name in names and not free(names[name]):
        kind = type(names[name]).__name__
        raise UserError(f"{option}: {name} is already a {kind} in this notebook: choose another name, or del {name}")
    return name


def seconds(text: str) -> float:
    duration = parse_duration(text)
    if duration is None:
        raise UserError(f"--ttl {text}: write a time such as 90s, 30m, 12h, 7d")
    return duration


def _own(names: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in names.items() if not name.startswith("_") and name not in _SHELL}


_SHELL = frozenset({"In", "Out", "exit", "quit", "get_ipython", "open"})
