"""What stands before a live step may wait or refuse, sees only live steps, and hears how each ended."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from agentkit.agent.ask import ask
from agentkit.agent.build import build
from agentkit.agent.spec import Spec
from agentkit.errors import Stopped
from agentkit.events import Event, Step
from agentkit.journal.execution import OnOutcome
from agentkit.journal.records import Outcome
from agentkit.runtime.guard import ModelRequestInfo, PendingStep, ToolCallInfo
from agentkit.runtime.session import session
from agentkit.testing import Call, ScriptedModel


class Watch:
    """Writes down who came by and what became of them; refuses what it is told to."""

    def __init__(self, refuse: str = "") -> None:
        self.refuse = refuse
        self.came: list[str] = []
        self.ended: list[str] = []

    @asynccontextmanager
    async def admit(self, step: PendingStep) -> AsyncIterator[OnOutcome]:
        self.came.append(step.call.kind)
        if step.call.kind == self.refuse:
            raise Stopped("not today")
        step.waits("for its turn", until=1.0)
        try:
            yield self._hear
        finally:
            self.ended.append("left")

    def _hear(self, outcome: Outcome) -> None:
        self.ended.append(outcome.status)


def lookup(place: str) -> str:
    """Look a place up."""
    return f"{place} is known"


def run(folder: Path, watch: Watch, model: ScriptedModel) -> list[Event]:
    agent = build(Spec(instructions="Look."), name="guide", tools=[lookup], model=model)
    heard: list[Event] = []
    with session("test", folder=folder) as opened:
        opened.listen(heard.append)
        opened.guards = (watch,)
        asyncio.run(_asked(agent))
    return heard


async def _asked(agent: object) -> None:
    await ask(agent, "where?")  # type: ignore[arg-type]


def replies() -> ScriptedModel:
    return ScriptedModel([Call("lookup", {"place": "Rome"}), "in Italy"])


def test_only_live_steps_pass_and_each_outcome_is_told(tmp_path: Path) -> None:
    live, again = Watch(), Watch()
    run(tmp_path, live, replies())
    assert live.came == ["model", "tool", "model"]
    assert live.ended == ["done", "left"] * 3
    run(tmp_path, again, ScriptedModel())
    assert again.came == []


def test_a_refused_step_is_not_on_disk_and_a_rerun_goes_on_from_there(tmp_path: Path) -> None:
    model = replies()
    with pytest.raises(Stopped, match="not today"):
        run(tmp_path, Watch(refuse="tool"), model)
    with session("test", folder=tmp_path) as opened:
        (stopped,) = opened.runs()
        assert stopped.status == "stopped"
        assert [event.kind for event in opened.trace(stopped.id) if isinstance(event, Step)] == ["model"]
        assert opened.in_doubt() == []
    watch = Watch()
    run(tmp_path, watch, model)
    assert watch.came == ["tool", "model"]


def test_waiting_is_told_before_the_step_begins(tmp_path: Path) -> None:
    heard = [event for event in run(tmp_path, Watch(), replies()) if isinstance(event, Step) and event.ord == 1]
    assert [(step.status, step.waiting, step.until) for step in heard] == [
        ("started", "for its turn", 1.0),
        ("started", "", None),
        ("done", "", None),
    ]


def test_a_failing_step_is_left_with_its_error(tmp_path: Path) -> None:
    watch = Watch()
    with pytest.raises(RuntimeError, match="gone"):
        run(tmp_path, watch, ScriptedModel([RuntimeError("gone")]))
    assert watch.ended == ["left"]


def test_what_is_asked_is_known_to_the_guard(tmp_path: Path) -> None:
    seen: list[object] = []

    class Curious(Watch):
        @asynccontextmanager
        async def admit(self, step: PendingStep) -> AsyncIterator[OnOutcome]:
            seen.append(step.call.about)
            yield lambda outcome: None

    run(tmp_path, Curious(), replies())
    model, tool, _ = seen
    assert isinstance(model, ModelRequestInfo) and model.model is not None and len(model.messages) == 1
    assert tool == ToolCallInfo(name="lookup", arguments={"place": "Rome"}, poll=False)
