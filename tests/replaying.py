"""What two runs of one record are held against each other by: steps, messages, usage and what a person is shown."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields, replace
from typing import Any
from unittest import mock

from pydantic_ai.messages import ModelMessage, ModelResponse
from pydantic_core import to_jsonable_python

from agentkit.agent.ask import Answer
from agentkit.events import Event, Run, Step
from agentkit.journal.journal import Journal
from agentkit.trace import render_html
from agentkit.trace.trace import Trace

_CLOCKS = frozenset({"started", "ended", "recorded_seconds", "run"})
_LATER = 60.0


@contextmanager
def at_the_door() -> Iterator[list[str]]:
    """What comes to the journal's door: everything when a run is walked, one request when it is passed over."""
    came: list[str] = []
    original = Journal.perform

    async def counted(self: Journal, call: Any, body: Any) -> Any:
        came.append(call.kind)
        return await original(self, call, body)

    with mock.patch.object(Journal, "perform", counted):
        yield came


def replies(messages: Sequence[ModelMessage]) -> list[ModelResponse]:
    return [message for message in messages if isinstance(message, ModelResponse)]


def steps(answer: Answer) -> list[Step]:
    return [event for event in answer.events() if isinstance(event, Step)]


def seen(answer: Answer, *, without: frozenset[str] = frozenset()) -> list[tuple[Any, ...]]:
    """All that is known of the steps but their clocks, those of sub-agents included."""
    names = [each.name for each in fields(Step) if each.name not in _CLOCKS | without]
    return [tuple(getattr(step, name) for name in names) for step in steps(answer)]


def said(answer: Answer) -> list[Any]:
    """The messages without their clocks and the ids of runs."""
    return [_without(message) for message in to_jsonable_python(answer.messages)]


def _without(value: Any) -> Any:
    if isinstance(value, dict):
        dropped = ("timestamp", "run_id", "conversation_id")
        return {name: _without(item) for name, item in value.items() if name not in dropped}
    return [_without(item) for item in value] if isinstance(value, list) else value


def shown(answer: Answer) -> dict[str, str]:
    """The panel below the cell, as if everything had happened at one moment."""
    events = answer.events()
    names = {event.id: f"run {place}" for place, event in enumerate(events) if isinstance(event, Run)}
    return render_html.bundle(Trace.of([_at_one_moment(event, names) for event in events]), now=_LATER)


def _at_one_moment(event: Event, names: dict[str, str]) -> Event:
    if isinstance(event, Step):
        return replace(event, run=names[event.run], started=1.0, ended=1.0, recorded_seconds=1.0)
    parent = None if event.parent_run is None else names[event.parent_run]
    # Why a run was walked is said by `why`.
    return replace(event, id=names[event.id], parent_run=parent, started=1.0, ended=1.0, walked="", continues=None)


def assert_same(one: Answer, other: Answer) -> None:
    assert one.output == other.output
    assert seen(one) == seen(other)
    assert said(one) == said(other)
    assert shown(one) == shown(other)
