"""Asking an agent once: prompt in, recorded answer out, with its conversation and its events."""

from __future__ import annotations

from collections.abc import AsyncIterable, Callable, Mapping, Sequence
from typing import Any

from pydantic_ai.agent import AbstractAgent
from pydantic_ai.messages import (
    AgentStreamEvent,
    ModelMessagesTypeAdapter,
    PartDeltaEvent,
    PartStartEvent,
    TextPart,
    TextPartDelta,
    UserContent,
)
from pydantic_ai.output import OutputDataT
from pydantic_ai.tools import AgentDepsT

from agentkit.agent.agent import JournaledAgent, messages_of
from agentkit.agent.result import Answer as Answer
from agentkit.approval.policy import Headless
from agentkit.errors import UserError
from agentkit.events import FINISHED, Mode, Run
from agentkit.runtime.run_terms import RunOptions, run_with
from agentkit.runtime.session import Session, current, execution_of

_UNRECORDED = Run(id="", agent="", status="done", mode="off")
"""Stands for the run of an answer in mode `off`, which leaves no record."""


async def ask(
    agent: AbstractAgent[AgentDepsT, OutputDataT],
    prompt: str | Sequence[UserContent],
    *,
    continues: str | None = None,
    fresh: bool = False,
    mode: Mode | None = None,
    headless: Headless | None = None,
    walk: bool = False,
    deps: AgentDepsT | None = None,
    on_text: Callable[[str], None] | None = None,
    conversation: str | None = None,
    more: Mapping[str, Any] | None = None,
) -> Answer[OutputDataT]:
    """Run `agent` on `prompt` in the open session.

    `continues` is the id of the run whose conversation is carried on; "" means the last run of this agent in this
    kernel before this cell. `headless` is what happens to a call that needs a person where there is none: it stays
    open (`suspend`), is denied or allowed. `walk` takes every recorded step one by one, where otherwise those that
    still hold are passed over at once. `conversation` is one to carry on that was kept as text. `on_text` is called
    each time a reply's text grows, with the whole of it so far (cumulative, not the delta); it begins anew with each
    reply of the model, and a replayed one comes as a whole. `more` are other keywords of the agent's own `run`. Raises
    UserError when there is no such conversation, and whatever the run raises.
    """
    session = current()
    if session is None:
        raise UserError("no session is open: use `with agentkit.session(...)` or %load_ext agentkit")
    parent = None if continues is None else parent_run(session, agent, continues)
    history = None if parent is None else messages_of(session, parent)
    if conversation is not None:
        history = ModelMessagesTypeAdapter.validate_json(conversation)
    if parent is not None and not history:
        raise UserError(f"run {parent} has no finished conversation to continue: session.runs() lists those that have")
    seen: list[Run] = []
    unlisten = session.listen(lambda event: seen.append(event) if isinstance(event, Run) else None)
    options = RunOptions(continues=parent, fresh=fresh, mode=mode, headless=headless, walk=walk)
    try:
        given = {"message_history": history, "deps": deps, **(more or {})}
        with run_with(options):
            result = await agent.run(prompt, event_stream_handler=_text_handler(on_text) if on_text else None, **given)
    finally:
        unlisten()
    run = next((run for run in reversed(seen) if run.id in options.opened), _UNRECORDED)
    answer = Answer(output=result.output, run=run, messages=tuple(result.all_messages()), session=session)
    if isinstance(agent, JournaledAgent):
        agent.policy.last[:] = [answer]
    return answer


def parent_run(session: Session, agent: AbstractAgent[Any, Any], continues: str) -> str:
    """The run that `continues` means: a given id, or the last one of this agent before this cell."""
    if continues:
        if session.store.run(continues) is None:
            known = ", ".join(run.id for run in session.runs(agent=agent.name, limit=5)) or "none yet"
            raise UserError(f"no run {continues!r} in the journal; recent runs of {agent.name}: {known}")
        return continues
    cell = execution_of(session).cell
    mine = [last for name, last in session.last_runs if name == agent.name]
    recorded = _find_parent(session, agent, cell)
    if recorded is not None and any(last.cell == cell for last in mine):
        return _latest_of_cell(session, recorded, mine)
    before = [last for last in mine if cell is None or last.cell != cell]
    if before:
        return before[-1].run
    if recorded is not None:
        return recorded.id
    earlier = [run for run in session.runs(agent=agent.name, label=session.label) if run.status in FINISHED]
    if not earlier:
        raise UserError(f"continues='': {agent.name} has no earlier run to continue")
    return earlier[0].id


def _find_parent(session: Session, agent: AbstractAgent[Any, Any], cell: str | None) -> Run | None:
    """What this very cell continued when it was last executed."""
    if cell is None:
        return None
    for run in session.runs(agent=agent.name, label=session.label):
        if run.cell == cell and run.continues is not None:
            return session.store.run(run.continues)
    return None


def _latest_of_cell(session: Session, recorded: Run, mine: Sequence[Any]) -> str:
    same = [last.run for last in mine if recorded.cell is not None and last.cell == recorded.cell]
    return same[-1] if same else recorded.id


def _text_handler(on_text: Callable[[str], None]) -> Any:
    async def handle(ctx: Any, events: AsyncIterable[AgentStreamEvent]) -> None:
        text = ""
        async for event in events:
            if isinstance(event, PartStartEvent) and isinstance(event.part, TextPart):
                text += event.part.content
            elif isinstance(event, PartDeltaEvent) and isinstance(event.delta, TextPartDelta):
                text += event.delta.content_delta
            else:
                continue
            on_text(text)

    return handle
