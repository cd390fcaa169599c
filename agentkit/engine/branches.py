"""Second branches of recorded runs: a run is restored from the journal, changed at a step, and opened there."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pydantic_ai.agent import AbstractAgent
from pydantic_ai.messages import ModelMessage, ModelRequest, UserPromptPart

from agentkit.define import models
from agentkit.durable.keys import restore
from agentkit.durable.records import Row
from agentkit.engine import forecast
from agentkit.engine.bench import Paused
from agentkit.engine.edits import Override, Path, What, check_kind, read_path, spoken, with_edit
from agentkit.engine.session import Session, execution_of
from agentkit.engine.stepper import Recipe, Stepped
from agentkit.errors import UserError
from agentkit.events import Run, Step


@dataclass(frozen=True, kw_only=True)
class Changes:
    """What is different in a fork: another prompt from the start, or edits at its step; its name on the bench."""

    prompt: str | None = None
    name: str = ""
    edits: tuple[tuple[What, Any], ...] = ()


async def fork(
    session: Session,
    source: Run,
    place: int | str,
    *,
    agent: AbstractAgent[Any, Any],
    changes: Changes,
    deps: Any = None,
) -> Stepped:
    """Open a branch of a recorded run, finished or not, paused before that step; the run itself stays as it is."""
    at = read_path(place)
    steps = [event for event in session.trace(source.id) if isinstance(event, Step)]
    own = [step for step in steps if step.run == source.id and step.numbered]
    if at[0] > len(own):
        raise UserError(f"run {source.id} has {len(own)} step{'s' * (len(own) != 1)}, no step {spoken(at)} to fork at")
    _check(changes, at, own[at[0] - 1])
    asked = _asked(session, steps, source)
    overrides: tuple[Override, ...] = () if changes.prompt is not None else _overrides(session, steps, source)
    for what, value in changes.edits:
        overrides = with_edit(overrides, Override(at=at, what=what, value=value))
    execution = execution_of(session)
    recipe = Recipe(
        agent=agent,
        prompt=asked.prompt if changes.prompt is None else changes.prompt,
        continues=source.continues,
        deps=deps,
        cell=execution.cell,
        counts=Counter(execution.counts),
    )
    run = Stepped(name=changes.name or source.agent, session=session, recipe=recipe, overrides=overrides)
    await run.open_at(at if changes.prompt is None else (1,))
    run.note = "; ".join(filter(None, [run.note, _said(session, source, 1 if changes.prompt is not None else at[0])]))
    return run


def _check(changes: Changes, at: Path, step: Step) -> None:
    kind = "tool" if step.kind == "tool" or step.name == "edit result" else "model"
    for what, value in changes.edits:
        check_kind(what, kind, spoken(at))
        if what == "model":
            models.resolve(value)


def _said(session: Session, source: Run, since: int) -> str:
    count, cost, unpriced = forecast.of_rest(session.trace(source.id), run=source.id, since=since)
    return f"forked from run {source.id} at step {since}{forecast.said(count, cost, unpriced, since=since)}"


@dataclass(frozen=True, kw_only=True)
class _Asked:
    prompt: Any
    history: Sequence[ModelMessage]


def _asked(session: Session, steps: Sequence[Step], source: Run) -> _Asked:
    """The prompt as it was given: it stands in the journal with the first request, in full and with its images."""
    first = next((step for step in steps if step.run == source.id and step.kind == "model"), None)
    row = None if first is None else session.store.step(first.id)
    if row is None or row.history is None:
        return _Asked(prompt=source.prompt, history=())
    messages = restore(session.store.messages(row.history), session.redactor)
    last = messages[-1]
    assert isinstance(last, ModelRequest)
    contents = [part.content for part in last.parts if isinstance(part, UserPromptPart)]
    prompt = contents[-1] if contents else source.prompt
    return _Asked(prompt=prompt if isinstance(prompt, str) else list(prompt), history=messages[:-1])


def _overrides(session: Session, steps: Sequence[Step], source: Run) -> tuple[Override, ...]:
    """The edits that made this run, when it was a branch itself."""
    rows = [
        session.store.step(step.id)
        for step in steps
        if step.run == source.id and step.kind == "question" and step.name.startswith("edit ")
    ]
    return tuple(Override.of_json(json.loads(row.body)) for row in rows if _answered(row) and row and row.body)


def _answered(row: Row | None) -> bool:
    return row is not None and row.status == "done"


async def take_up(session: Session, paused: Paused) -> Stepped:
    """Open a plain run that ended at a breakpoint, at the step it paused before."""
    kwargs = {name: value for name, value in paused.kwargs.items() if name not in ("event_stream_handler", "deps")}
    prompt = paused.args[0] if paused.args else kwargs.pop("user_prompt", None)
    kwargs.pop("user_prompt", None)
    recipe = Recipe(
        agent=paused.agent,
        prompt=prompt,
        deps=paused.kwargs.get("deps"),
        more=kwargs,
        cell=execution_of(session).cell,
        counts=Counter(paused.counts),
    )
    session.bench.paused.pop(paused.run, None)
    run = Stepped(name=paused.agent.name or "agent", session=session, recipe=recipe)
    await run.open_at(paused.pending.at)
    return run
