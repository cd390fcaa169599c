"""The notebook's names an agent was built from: what they mean now takes the place of what they meant then."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakSet

from pydantic import PydanticUndefinedAnnotation, PydanticUserError
from pydantic_ai import Agent, Tool
from pydantic_ai.exceptions import UserError as LibraryUserError
from pydantic_ai.toolsets import AbstractToolset

from agentkit.errors import UserError
from agentkit.tools.declaration import declaration

_NO_SCHEMA = (LibraryUserError, PydanticUserError, PydanticUndefinedAnnotation, TypeError)


class Unbound(LookupError):
    """The notebook has no such name any more."""


Find = Callable[[str], Any]
"""The object that a name means now; Unbound, or UserError for one that cannot serve."""


@dataclass(kw_only=True)
class Bound:
    """What an agent holds under a name: the object, and the tool that was made of it."""

    held: Any
    tool: Tool[Any] | None = None


@dataclass(kw_only=True, eq=False)
class Names:
    """The names of one agent: its tools by their names, its output and deps, and how to look each of them up.

    `make` makes a tool of a function or an agent. `remarks` say in one line each what a person should know of the next
    run, and `problem` why there can be none.
    """

    agent: Agent[Any, Any]
    tools: dict[str, Bound]
    output: str | None = None
    deps: str | None = None
    find_tool: Find
    find_output: Find
    find_deps: Find
    make: Callable[[Any], Tool[Any]]
    remarks: list[str] = field(default_factory=list)
    problem: str = ""

    def refresh(self) -> None:
        """Take over what the names mean now."""
        self.problem = ""
        self.remarks.clear()
        try:
            for name, bound in self.tools.items():
                self._refresh_tool(name, bound)
            if self.output is not None:
                self._refresh_output(self.output)
        except UserError as error:
            self.problem = f"{self.agent.name}: {error}"

    def with_deps(self, kwargs: Mapping[str, Any]) -> Mapping[str, Any]:
        """The keywords of a run, with the deps of the notebook where it was given none."""
        if self.deps is None or kwargs.get("deps") is not None:
            return kwargs
        try:
            return {**kwargs, "deps": self.find_deps(self.deps)}
        except Unbound:
            self.remarks.append(f"{self.deps} is no longer a name of the notebook: there are no deps")
            return kwargs

    def _refresh_tool(self, name: str, bound: Bound) -> None:
        try:
            found = self.find_tool(name)
        except Unbound:
            self.remarks.append(f"{name} is no longer a name of the notebook: the tool stays as it was built")
            return
        if found is bound.held:
            if bound.tool is not None:
                # What it declares is the notebook's too (`verify=`, `approve=`), and may not serve any more.
                declaration(bound.tool.function)
            return
        if isinstance(found, AbstractToolset) or bound.tool is None:
            raise UserError(f"its toolset {name} was made again: build the agent again with agentkit.build(…)")
        try:
            made = self.make(found)
        except (UserError, *_NO_SCHEMA) as error:
            raise UserError(f"its tool {name} was made again, and {error}") from error
        tools = self.agent._function_toolset.tools
        if made.name != bound.tool.name and made.name in tools:
            raise UserError(
                f"{name} is now {made.name}, which it has already: build the agent again with agentkit.build(…)"
            )
        # In its place: the order of the tools is part of what the model is told.
        order = [made.name if tool == bound.tool.name else tool for tool in tools]
        tools.pop(bound.tool.name, None)
        self.agent._function_toolset.add_tool(made)
        for tool in order:
            tools[tool] = tools.pop(tool)
        bound.held, bound.tool = found, made

    def _refresh_output(self, text: str) -> None:
        try:
            found = self.find_output(text)
        except Unbound as gone:
            self.remarks.append(f"{gone} is no longer a name of the notebook: the output stays as it was built")
            return
        agent = self.agent
        if found is agent._output_type or found == agent._output_type:
            return
        try:
            made = Agent(output_type=found, retries={"output": agent._max_output_retries})
        except _NO_SCHEMA as error:
            raise UserError(f"its output {text} cannot serve any more: {str(error).splitlines()[0]}") from error
        # pydantic-ai changes the output of an agent that exists for one run only, and not beside validators.
        agent._output_type, agent._output_schema = made._output_type, made._output_schema
        agent._output_toolset = made._output_toolset
        vars(agent._function_toolset)["output_schema"] = made._output_schema


_all: WeakSet[Names] = WeakSet()


def follow(names: Names) -> None:
    """From now on every run sees what these names mean when it starts."""
    _all.add(names)


def as_now(own: Names | None, kwargs: Mapping[str, Any]) -> Mapping[str, Any]:
    """The keywords of a run that begins, for which every name means what it does now; UserError where one cannot.

    Whatever agent the run comes to, called as a tool or from a tool's code, is the notebook's.
    """
    for names in tuple(_all):
        names.refresh()
    if own is None:
        return kwargs
    if own.problem:
        raise UserError(own.problem)
    return own.with_deps(kwargs)
