"""`%%agent sandbox`: the body runs in the sandbox; only the named variables enter, and only the named ones leave."""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import Mapping
from typing import Any, cast

from pydantic_ai.agent import AbstractAgent

from agentkit.approval.policy import parse_headless
from agentkit.debugger import opening
from agentkit.errors import SpecError, UserError, nearest
from agentkit.notebook import cell_transform, namespace
from agentkit.notebook.context import Reply, VerbContext, mode_of
from agentkit.notebook.output import answer_bundle, show
from agentkit.notebook.parser import Line
from agentkit.notebook.verbs import debug
from agentkit.sandbox import program as sandboxing
from agentkit.sandbox.monty import dialect
from agentkit.sandbox.program import SandboxResult, Script, Tier


async def perform(context: VerbContext, line: Line, body: str) -> Reply:
    """Run the body as the line says, and bind what came out."""
    options = _options(context, line, body)
    if line.has("step"):
        return await _step_program(context, line, sandboxing.script(body, **options))
    result = await sandboxing.sandbox(
        body,
        **options,
        fresh=line.has("fresh"),
        mode=mode_of(line),
        headless=parse_headless(line.options["headless"]) if line.has("headless") else None,
    )
    told = dialect.notes(body) if options["tier"] == "monty" else ()
    context.remark((*context.session.remarks, *told))
    return show_result(context, result)


async def _step_program(context: VerbContext, line: Line, program: Script) -> Reply:
    """Pause before each statement and each call; what it comes to is bound when it has come to its end."""
    if cell_transform.is_other_loop(asyncio.get_running_loop()):
        raise UserError("%%agent sandbox --step needs a cell of its own, not one under another magic")
    return await debug.show_outcome(
        context, None, opening.step_program(program, fresh=line.has("fresh"), mode=mode_of(line))
    )


def _options(context: VerbContext, line: Line, body: str) -> dict[str, Any]:
    """What the line names, looked up in the notebook before anything runs."""
    if not body.strip():
        raise SpecError("the body is empty: write Python under the %%agent sandbox line")
    given = line.options
    return {
        "inputs": {name: _variable(name, context.names) for name in _names(given.get("in", ""))},
        "outputs": [_output(name, context.names) for name in _names(given.get("out", ""))],
        "calls": dict(_find_callable(name, context.names) for name in _names(given.get("call", ""))),
        "approve": given.get("approve", ""),
        "limits": given.get("limits", ""),
        "tier": cast(Tier, given.get("tier", "monty")),
        "on_print": _print,
    }


def _names(text: str) -> list[str]:
    return list(dict.fromkeys(filter(None, re.split(r"[,\s]+", text))))


def _variable(name: str, names: Mapping[str, Any]) -> Any:
    return namespace.value("in", name, names)


def _output(name: str, names: Mapping[str, Any]) -> str:
    return namespace.new_name(name, names, option="--out", free=lambda old: not callable(old) and not _is_agent(old))


def _is_agent(value: Any) -> bool:
    return isinstance(value, AbstractAgent)


def _find_callable(name: str, names: Mapping[str, Any]) -> tuple[str, Any]:
    """A function or an agent of the notebook; a method is called by its own name."""
    first, *attributes = name.split(".")
    if first not in names:
        raise UserError(f"--call: no function is called {name}{nearest(first, namespace.callables(names))}")
    value = names[first]
    for attribute in attributes:
        if not hasattr(value, attribute):
            raise UserError(f"--call: {first} has no {attribute}{nearest(attribute, dir(value))}")
        value = getattr(value, attribute)
    if not callable(value) and not _is_agent(value):
        raise UserError(f"--call: {name} is a {type(value).__name__}; a program calls functions and agents")
    return name.rpartition(".")[2], value


def _print(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def show_result(context: VerbContext, result: SandboxResult) -> Reply:
    """Bind the outputs, and show the value of the last line as a cell does."""
    if result.outputs:
        context.shell.push(dict(result.outputs))
    if result.value is None:
        return Reply()
    return Reply(
        value=result.value, show=lambda: show(answer_bundle(result.value, context.shell.display_formatter), raw=True)
    )
