"""Runs that get nowhere: warned, asked about or stopped with evidence; a replay says it again and counts nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic_ai.messages import ModelMessage, ModelRequest, UserPromptPart

import agentkit
from agentkit.agent.agent import DurableAgent
from agentkit.agent.ask import Answer
from agentkit.agent.spec import Spec
from agentkit.approval import decisions
from agentkit.approval.policy import Decision, Question
from agentkit.errors import CircuitOpen, Stopped, UserError
from agentkit.events import Step
from agentkit.runtime.session import Session
from agentkit.testing import Call, ScriptedModel

Rule = Callable[[list[ModelMessage]], Any]


def steering(messages: list[ModelMessage]) -> list[str]:
    said = [
        part.content
        for message in messages
        if isinstance(message, ModelRequest)
        for part in message.parts
        if isinstance(part, UserPromptPart)
    ]
    return [str(text) for text in said[1:]]


class World:
    """An agent that calls `search` again and again until it is told something, or for `most` turns."""

    def __init__(self, folder: Path, *, stops_when: str = "never", most: int = 30, **build: Any) -> None:
        self.folder, self.stops_when, self.most, self.build = folder, stops_when, most, build
        self.made: list[str] = []
        self.requests = 0
        self.seen: list[list[str]] = []

    def rule(self, messages: list[ModelMessage]) -> Any:
        self.requests += 1
        said = steering(messages)
        self.seen.append(said)
        turn = sum(message.kind == "response" for message in messages)
        if any(self.stops_when in text for text in said) or turn >= self.most:
            return f"gave up after {turn}"
        return Call("search", {"q": "x"})

    def agent(self) -> DurableAgent:
        made = self.made

        @agentkit.tool(effects="none")
        def search(q: str) -> str:
            """Search."""
            made.append(q)
            return "nothing"

        return agentkit.build(
            Spec.parse("You search."), name="seeker", tools=[search], model=ScriptedModel.by(self.rule), **self.build
        )

    @property
    def calls(self) -> int:
        return len(self.made)

    def session(self) -> Session:
        return agentkit.session("here", folder=self.folder)

    def run(self, reply: Callable[[Question], Decision] | None = None) -> Answer:
        async def ask(questions: tuple[Question, ...]) -> tuple[Decision, ...]:
            return tuple(map(reply, questions))  # type: ignore[arg-type]

        with self.session() as session:
            session.asker = None if reply is None else ask
            return asyncio.run(agentkit.ask(self.agent(), "Find x."))

    def decide(self, decision: Decision) -> None:
        with self.session() as session:
            (one,) = [one for one in decisions.everything(session.store) if one.decision is None]
            session.decide(one.question, decision)


def steps(answer: Answer) -> list[tuple[str, bool]]:
    return [(event.kind, event.replayed) for event in answer.events() if isinstance(event, Step)]


def test_three_equal_calls_are_met_with_one_message(tmp_path: Path) -> None:
    world = World(tmp_path, stops_when="[agentkit]")
    answer = world.run()
    assert (answer.output, world.calls) == ("gave up after 3", 3)
    (said,) = world.seen[-1]
    assert "search(q='x') gave the same result 3 times in a row" in said
    assert "breaker repeats closed → warned" in answer.run.notes[0]


def test_a_replay_puts_the_message_back_and_pays_nothing(tmp_path: Path) -> None:
    world = World(tmp_path, stops_when="[agentkit]")
    first, asked = world.run(), world.requests
    again = world.run()
    assert (again.output, world.requests, world.calls) == (first.output, asked, 3)
    assert [kind for kind, _ in steps(again)] == [kind for kind, _ in steps(first)]
    assert all(replayed for _, replayed in steps(again))
    assert [kind for kind, _ in steps(first)].count("capability") == 1


def test_where_nobody_is_it_opens_at_eight_with_evidence(tmp_path: Path) -> None:
    world = World(tmp_path)
    with pytest.raises(CircuitOpen) as opened:
        world.run()
    assert (world.calls, world.requests) == (8, 8)
    assert opened.value.evidence == "search(q='x') gave the same result 8 times in a row"
    assert "--once | --raise | --hint TEXT | --stop" in str(opened.value)
    with pytest.raises(CircuitOpen):
        world.run()
    assert (world.calls, world.requests) == (8, 8)


def test_a_decision_lets_the_rerun_go_on_from_there(tmp_path: Path) -> None:
    world = World(tmp_path, stops_when="use the index")
    with pytest.raises(CircuitOpen):
        world.run()
    world.decide(Decision(verdict="hint", reason="use the index"))
    answer = world.run()
    assert (answer.output, world.calls, world.requests) == ("gave up after 8", 8, 9)
    paid = world.requests
    assert world.run().output == answer.output
    assert world.requests == paid


def test_continue_once_is_once_after_a_restart_too(tmp_path: Path) -> None:
    world = World(tmp_path)
    for calls in (8, 9, 10):
        with pytest.raises(CircuitOpen):
            world.run()
        assert world.calls == calls
        world.decide(Decision(verdict="once"))


def test_stop_stops_for_good(tmp_path: Path) -> None:
    world = World(tmp_path)
    with pytest.raises(CircuitOpen):
        world.run()
    world.decide(Decision(verdict="stop"))
    for _ in range(2):
        with pytest.raises(Stopped, match=r"^you said stop: search"):
            world.run()
    assert world.calls == 8


def test_a_person_is_asked_at_five(tmp_path: Path) -> None:
    asked: list[Question] = []

    def reply(question: Question) -> Decision:
        asked.append(question)
        return Decision(verdict="hint", reason="enough")

    world = World(tmp_path, stops_when="enough")
    assert world.run(reply).output == "gave up after 5"
    assert [question.text for question in asked] == ["search(q='x') gave the same result 5 times in a row"]
    assert world.run().output == "gave up after 5"


def test_a_raise_doubles_the_thresholds(tmp_path: Path) -> None:
    asked: list[int] = []

    def reply(question: Question) -> Decision:
        asked.append(world.calls)
        return Decision(verdict="raise") if len(asked) == 1 else Decision(verdict="stop")

    world = World(tmp_path)
    with pytest.raises(Stopped):
        world.run(reply)
    assert asked == [5, 15]


def test_thresholds_of_the_agent_and_off(tmp_path: Path) -> None:
    world = World(tmp_path / "a", breaker="repeats=2/3/4")
    with pytest.raises(CircuitOpen):
        world.run()
    assert world.calls == 4
    assert World(tmp_path / "b", breaker="off").run().output == "gave up after 30"
    with pytest.raises(UserError, match="must rise"):
        World(tmp_path / "c", breaker="repeats=8/5/3").run()


def test_a_rerun_that_only_replays_counts_nothing(tmp_path: Path) -> None:
    world = World(tmp_path, most=2)
    assert world.run().output == "gave up after 2"
    world.most = 4
    # The two replayed calls do not count: only two live ones are made now, and nobody is warned.
    assert World.run(world).output == "gave up after 2"


def test_asking_again_for_what_is_on_record_counts(tmp_path: Path) -> None:
    """The tool answers from its first result each time, for nothing; the model that asks is paid each time."""

    @agentkit.tool(effects="none", share="project")
    def lookup(q: str) -> str:
        """Look up."""
        return "nothing"

    model = ScriptedModel.by(lambda messages: Call("lookup", {"q": "x"}))
    agent = agentkit.build(Spec.parse("You look."), name="looker", tools=[lookup], model=model)
    with agentkit.session(folder=tmp_path), pytest.raises(CircuitOpen):
        asyncio.run(agentkit.ask(agent, "Look x up."))
    assert len(model.requests) == 8


def test_a_loop_key_says_which_calls_are_the_same(tmp_path: Path) -> None:
    calls: list[int] = []

    @agentkit.tool(effects="none", loop_key="path")
    def read(path: str, attempt: int) -> str:
        """Read."""
        calls.append(attempt)
        return "no such file"

    def rule(messages: list[ModelMessage]) -> Any:
        return Call("read", {"path": "a.csv", "attempt": len(messages)})

    agent = agentkit.build(Spec.parse("You read."), name="reader", tools=[read], model=ScriptedModel.by(rule))
    with agentkit.session(folder=tmp_path), pytest.raises(CircuitOpen):
        asyncio.run(agentkit.ask(agent, "Read a.csv."))
    assert len(calls) == 8


def test_calls_with_wrong_arguments_are_a_loop_too(tmp_path: Path) -> None:
    @agentkit.tool(effects="none")
    def plot(width: int) -> str:
        """Plot."""
        return "done"

    asked = []

    def rule(messages: list[ModelMessage]) -> Any:
        asked.append(messages)
        return Call("plot", {"width": "wide"})

    agent = agentkit.build(
        Spec.parse("---\nretries: 50\n---\nYou plot."), name="plotter", tools=[plot], model=ScriptedModel.by(rule)
    )
    with agentkit.session(folder=tmp_path), pytest.raises(CircuitOpen, match="refused for its arguments"):
        asyncio.run(agentkit.ask(agent, "Plot."))
    assert len(asked) == 8


def test_money_per_minute_stops_a_run(tmp_path: Path) -> None:
    model = ScriptedModel.by(lambda messages: Call("step", {"n": len(messages)}), cost=0.5)

    @agentkit.tool(effects="none")
    def step(n: int) -> int:
        """Step."""
        return n

    agent = agentkit.build(Spec.parse("Go."), name="spender", tools=[step], model=model, breaker="usd/min=2")
    with agentkit.session(folder=tmp_path), pytest.raises(CircuitOpen, match=r"\$2.50 spent in the last minute"):
        asyncio.run(agentkit.ask(agent, "Go."))
    assert len(model.requests) == 5


def test_transitions_are_events_of_the_span(tmp_path: Path) -> None:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracer = provider.get_tracer("test")
    world = World(tmp_path, stops_when="[agentkit]")
    with tracer.start_as_current_span("outside"):
        world.run()
    (span,) = exporter.get_finished_spans()
    assert [event.name for event in span.events] == ["agentkit.breaker"]
    attributes = span.events[0].attributes or {}
    assert attributes["agentkit.breaker.after"] == "warned"
