"""How a stepped run is opened: from a prompt, or where a plain run paused at a breakpoint."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pydantic_ai.agent import AbstractAgent

from agentkit.agent.agent import durable
from agentkit.debugger.debug_registry import Paused
from agentkit.debugger.gate import At
from agentkit.debugger.run_spec import RunSpec, spec_of_paused
from agentkit.debugger.stepper import DebugRun
from agentkit.errors import UserError
from agentkit.events import Mode
from agentkit.runtime.session import Session, current, execution_of
from agentkit.sandbox.program import Script


async def step(
    agent: AbstractAgent[Any, Any],
    prompt: Any,
    *,
    at: At = "all",
    until: str = "",
    continues: str | None = None,
    mode: Mode | None = None,
    fresh: bool = False,
    deps: Any = None,
    on_text: Callable[[str], None] | None = None,
    name: str = "",
) -> DebugRun:
    """Open a run of `agent` that is paused before its first step (or, with `until`, where that is met).

    `on_text` is called with the whole text of a reply so far, as by `agentkit.ask`.
    """
    session = _session()
    execution = execution_of(session)
    recipe = RunSpec(
        agent=durable(agent), prompt=prompt, continues=continues, mode=mode, fresh=fresh, deps=deps, on_text=on_text,
        cell=execution.cell, counts=execution.counts.copy(),
    )  # fmt: skip
    run = DebugRun(name=name or agent.name or "agent", session=session, recipe=recipe, at=at)
    await run.open(until=until)
    return run


async def step_program(program: Script, *, fresh: bool = False, mode: Mode | None = None) -> DebugRun:
    """Open a sandbox program that is paused before its first statement."""
    session = _session()
    execution = execution_of(session)
    recipe = RunSpec(
        agent=program, prompt=program.source, mode=mode, fresh=fresh,
        cell=execution.cell, counts=execution.counts.copy(),
    )  # fmt: skip
    run = DebugRun(name=program.name, session=session, recipe=recipe)
    await run.open()
    return run


async def take_up(session: Session, paused: Paused) -> DebugRun:
    """Open a plain run that ended at a breakpoint, at the step it paused before."""
    session.bench.paused.pop(paused.run, None)
    run = DebugRun(name=paused.agent.name or "agent", session=session, recipe=spec_of_paused(session, paused))
    await run.open_at(paused.pending.at)
    return run


def _session() -> Session:
    session = current()
    if session is None:
        raise UserError("no session is open: use `with agentkit.session(...)` or %load_ext agentkit")
    return session
