"""What a run is made of again: of what was asked, of the journal for a second branch, of a run that paused."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic_ai.agent import AbstractAgent
from pydantic_ai.messages import UserPromptPart

from agentkit.debugger.debug_registry import Paused
from agentkit.debugger.gate import INSIDE
from agentkit.debugger.overrides import Override, Path, What, check, format_path, with_edit
from agentkit.errors import UserError
from agentkit.events import Mode, Run, Step
from agentkit.journal.execution import Occurrences
from agentkit.journal.keys import RequestParts, restore
from agentkit.models import resolve
from agentkit.runtime.session import Session, execution_of
from agentkit.sandbox.program import Script


@dataclass(frozen=True, kw_only=True)
class RunSpec:
    """All it takes to run the same run again from its start: whom to ask what, and where equal requests are counted."""

    agent: AbstractAgent[Any, Any] | Script
    prompt: Any
    continues: str | None = None
    mode: Mode | None = None
    fresh: bool = False
    deps: Any = None
    on_text: Callable[[str], None] | None = None
    more: Mapping[str, Any] = field(default_factory=dict)
    cell: str | None = None
    counts: Occurrences = field(default_factory=Occurrences)

    @property
    def depth(self) -> int:
        """How deep its own steps lie: the calls of a program stand under its statements."""
        return 2 if isinstance(self.agent, Script) else 1

    def identity(self, *apart: object) -> bytes:
        """Equal for the same question of the same cell, in this kernel or another."""
        asked = RequestParts().part([self.agent.name, self.prompt, self.continues, *apart]).digest
        return hashlib.sha256(asked + (self.cell or "").encode()).digest()


@dataclass(frozen=True, kw_only=True)
class Changes:
    """What is different in a fork: another prompt from the start, or edits at its step; its name on the bench."""

    prompt: str | None = None
    name: str = ""
    edits: tuple[tuple[What, Any], ...] = ()


def restore_spec(
    session: Session, source: Run, at: Path, *, agent: AbstractAgent[Any, Any], changes: Changes, deps: Any
) -> tuple[RunSpec, tuple[Override, ...]]:
    """The recorded run from its start, with its own edits and these; UserError when it has no such step."""
    steps = [event for event in session.trace(source.id) if isinstance(event, Step)]
    own = [step for step in steps if step.run == source.id and step.numbered]
    if at[0] > len(own):
        raise UserError(
            f"run {source.id} has {len(own)} step{'s' * (len(own) != 1)}, no step {format_path(at)} to fork at"
        )
    _check(changes, at, own[at[0] - 1])
    overrides: tuple[Override, ...] = () if changes.prompt is not None else _overrides(session, steps, source)
    for what, value in changes.edits:
        overrides = with_edit(overrides, Override(at=at, what=what, value=value))
    execution = execution_of(session)
    recipe = RunSpec(
        agent=agent,
        prompt=_prompt(session, steps, source) if changes.prompt is None else changes.prompt,
        continues=source.continues,
        deps=deps,
        cell=execution.cell,
        counts=execution.counts.copy(),
    )
    return recipe, overrides


def _check(changes: Changes, at: Path, step: Step) -> None:
    if len(at) > 1:
        return
    kind = "tool" if step.kind == "tool" or step.name == "edit result" else "model"
    for what, value in changes.edits:
        check(Override(at=at, what=what, value=value), kind=kind, name=step.name, validator=None, schema=None)
        if what == "model":
            resolve.resolve(value)


def _prompt(session: Session, steps: Sequence[Step], source: Run) -> Any:
    """The prompt as it was given: it stands in the journal with the first request, in full and with its images."""
    first = next((step for step in steps if step.run == source.id and step.kind == "model"), None)
    row = None if first is None else session.store.step(first.id)
    if row is None or row.history is None:
        return source.prompt
    messages = restore(session.store.messages(row.history), session.redactor)
    asked = [part.content for part in messages[-1].parts if isinstance(part, UserPromptPart)]
    prompt = asked[0] if asked else source.prompt
    return prompt if isinstance(prompt, str) else list(prompt)


def _overrides(session: Session, steps: Sequence[Step], source: Run) -> tuple[Override, ...]:
    """The edits that made this run, when it was a branch itself; those inside a call are kept with the call."""
    store, given = session.store, []
    for row in (store.step(step.id) for step in steps if step.run == source.id):
        # What somebody else put in the place of a step is no edit of this user's.
        if row is None or (row.source and session.mode != "replay"):
            continue
        if row.kind == "question" and row.name.startswith("edit ") and row.body is not None:
            given.append(json.loads(row.body))
        if (inside := row.parts.get(INSIDE)) is not None:
            given += json.loads(store.part(bytes.fromhex(inside)) or b"[]")
    return tuple(Override.of_json(session.redactor.restore(each)[0]) for each in given)


def spec_of_paused(session: Session, paused: Paused) -> RunSpec:
    """The plain run that ended at a breakpoint, from its start."""
    more = {name: value for name, value in paused.kwargs.items() if name not in _GIVEN}
    prompt = paused.args[0] if paused.args else paused.kwargs.get("user_prompt")
    return RunSpec(
        agent=paused.agent,
        prompt=prompt,
        deps=paused.kwargs.get("deps"),
        more=more,
        cell=execution_of(session).cell,
        counts=paused.counts.copy(),
    )


_GIVEN = ("user_prompt", "deps", "event_stream_handler")
