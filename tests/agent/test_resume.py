"""What is on record is passed over: the same answer, usage, messages and steps as walking, and only where it holds."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic_ai import Agent, RunContext, Tool
from pydantic_ai.capabilities import AbstractCapability, Hooks, NativeTool, Thinking
from pydantic_ai.messages import ModelMessage
from pydantic_ai.toolsets import CombinedToolset, FunctionToolset
from pydantic_ai.usage import RunUsage, UsageLimits

import agentkit
from agentkit.agent.agent import DurableAgent, durable
from agentkit.agent.ask import Answer, ask
from agentkit.agent.build import build
from agentkit.agent.spec import Spec
from agentkit.errors import JournalError
from agentkit.journal.journal import Journal
from agentkit.journal.storage import JOURNAL_FILE
from agentkit.notebook.grammar import VERBS
from agentkit.runtime.session import session
from agentkit.testing import Call, ScriptedModel
from tests.replaying import assert_same, replies, said, seen, steps

TURNS = 6
PERFORMED: list[str] = []


@pytest.fixture(autouse=True)
def performed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What came to the journal's door: everything when a run is walked, one request when it is passed over."""
    PERFORMED.clear()
    original = Journal.perform

    async def counted(self: Journal, call: Any, body: Any) -> Any:
        PERFORMED.append(call.kind)
        return await original(self, call, body)

    monkeypatch.setattr(Journal, "perform", counted)
    return PERFORMED


@agentkit.tool(effects="none")
def add(a: int, b: int) -> int:
    """Add."""
    return a + b


@agentkit.tool(effects="none")
async def shout(text: str) -> str:
    """Louder."""
    return text.upper()


def counting(turns: int = TURNS, *, live: list[int] | None = None, die_at: int | None = None) -> ScriptedModel:
    def reply(messages: list[ModelMessage]) -> Any:
        n = len(replies(messages))
        if live is not None:
            live.append(n)
        if n == die_at:
            raise RuntimeError("the wire is cut")
        return Call("add", {"a": n, "b": 1}) if n < turns else f"counted to {n}"

    return ScriptedModel.by(reply)


def counter(model: ScriptedModel, *, tools: Any = (add,), instructions: str = "Count.", **more: Any) -> DurableAgent:
    return build(Spec(instructions=instructions), name="counter", tools=tools, model=model, **more)


def run(folder: Path, agent: Any, prompt: str = "count", **options: Any) -> Answer:
    async def main() -> Answer:
        return await ask(agent, prompt, **options)

    PERFORMED.clear()
    with session("test", folder=folder):
        return asyncio.run(main())


def test_a_finished_run_is_not_walked_again(tmp_path: Path) -> None:
    first = run(tmp_path, counter(counting()))
    again = run(tmp_path, counter(counting(die_at=0)))
    assert (again.output, PERFORMED) == (first.output, ["model"])
    assert [step.replayed for step in steps(again)] == [True] * (2 * TURNS + 1)
    walked = run(tmp_path, counter(counting(die_at=0)), walk=True)
    assert len(PERFORMED) == 2 * TURNS + 1
    assert_same(again, walked)


def test_a_partly_finished_run_goes_on_where_it_stopped(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError):
        run(tmp_path, counter(counting(die_at=4)))
    live: list[int] = []
    answer = run(tmp_path, counter(counting(live=live)))
    assert (answer.output, live) == (f"counted to {TURNS}", [4, 5, 6])
    # One request to begin with, then what was not on record: the last call's answer was.
    assert PERFORMED == ["model", "tool", "model", "tool", "model", "tool", "model"]
    assert [step.replayed for step in steps(answer)] == [True] * 8 + [False] * 5
    assert said(run(tmp_path, counter(counting(die_at=0)))) == said(run(tmp_path, counter(counting()), walk=True))


def test_the_newest_and_longest_record_is_gone_on_from(tmp_path: Path) -> None:
    for turn in (2, 4):
        with pytest.raises(RuntimeError):
            run(tmp_path, counter(counting(die_at=turn)))
    live: list[int] = []
    run(tmp_path, counter(counting(live=live)))
    assert live == [4, 5, 6]


def test_what_is_passed_over_is_counted(tmp_path: Path) -> None:
    async def main() -> tuple[int, int]:
        usage = (await counter(counting()).run("count")).usage
        return usage.requests, usage.tool_calls

    for _ in range(2):
        with session("test", folder=tmp_path):
            assert asyncio.run(main()) == (TURNS + 1, TURNS)
    assert len(PERFORMED) == 2 * TURNS + 1 + 1


def test_a_stream_is_passed_over_too(tmp_path: Path) -> None:
    run(tmp_path, counter(counting()))

    async def main() -> str:
        async with counter(counting(die_at=0)).run_stream("count") as stream:
            return str(await stream.get_output())

    PERFORMED.clear()
    with session("test", folder=tmp_path):
        assert asyncio.run(main()) == f"counted to {TURNS}"
    assert PERFORMED == ["model"]


def test_an_adopted_agent_is_passed_over_too(tmp_path: Path) -> None:
    def adopted(model: ScriptedModel) -> Any:
        return durable(Agent(model, name="adopted", tools=[add], instructions="Count."))

    first = run(tmp_path, adopted(counting()))
    again = run(tmp_path, adopted(counting(die_at=0)))
    assert (again.output, PERFORMED) == (first.output, ["model"])


def test_equal_runs_of_one_execution_keep_their_own_answers(tmp_path: Path) -> None:
    def samples(model: ScriptedModel) -> list[str]:
        async def main() -> list[str]:
            agent = counter(model)
            return [str((await agent.run("count")).output) for _ in range(3)]

        PERFORMED.clear()
        with session("test", folder=tmp_path):
            return asyncio.run(main())

    made: list[int] = []

    def reply(messages: list[ModelMessage]) -> Any:
        if len(replies(messages)) < 2:
            return Call("add", {"a": 1, "b": len(replies(messages))})
        made.append(1)
        return f"sample {len(made)}"

    first = samples(ScriptedModel.by(reply))
    assert first == ["sample 1", "sample 2", "sample 3"]
    assert samples(counting(die_at=0)) == first
    assert PERFORMED == ["model"] * 3


def test_a_sub_agents_record_is_passed_over_when_its_tool_is_called_again(tmp_path: Path) -> None:
    inner = [counter(counting())]

    @agentkit.tool(effects="none")
    async def research(topic: str) -> str:
        """Research."""
        return str((await inner[0].run(topic)).output)

    def outer(messages: list[ModelMessage]) -> Any:
        return "all done" if replies(messages) else Call("research", {"topic": "count"})

    def chief() -> DurableAgent:
        return build(Spec(instructions="Lead."), name="chief", tools=[research], model=ScriptedModel.by(outer))

    call = steps(run(tmp_path, chief()))[1]
    with session("test", folder=tmp_path) as opened:
        opened.forget(step=call.id)
    inner[0] = counter(counting(die_at=0))
    assert run(tmp_path, chief()).output == "all done"
    # The forgotten call is made again; in it the whole of the counter's run is taken from the record.
    assert PERFORMED == ["model", "tool", "model", "model"]


def test_calls_made_by_code_go_with_the_code(tmp_path: Path) -> None:
    def coder(messages: list[ModelMessage]) -> Any:
        n = len(replies(messages))
        return Call("run_code", {"code": f"add({n}, 1) + add({n}, 2)"}) if n < 3 else "done"

    def agent(model: ScriptedModel) -> DurableAgent:
        return counter(model, code=True)

    first = run(tmp_path, agent(ScriptedModel.by(coder)))
    kinds = [step.name for step in steps(first) if step.kind == "tool"]
    assert kinds == ["run_code", "add", "add"] * 3
    again = run(tmp_path, agent(counting(die_at=0)))
    assert (again.output, PERFORMED) == ("done", ["model"])
    walked = run(tmp_path, agent(counting(die_at=0)), walk=True)
    assert (seen(walked), said(walked)) == (seen(again), said(again))


# -- where it does not hold


def edited(a: int, b: int) -> int:
    """Add."""
    return b + a


edited.__name__ = "add"


def test_an_edited_tool_runs_again(tmp_path: Path) -> None:
    run(tmp_path, counter(counting()))
    answer = run(tmp_path, counter(counting(die_at=0), tools=[agentkit.tool(effects="none")(edited)]))
    live = [step.kind for step in steps(answer) if not step.replayed]
    # Early cutoff: the calls are live, what follows their unchanged results is not.
    assert live == ["tool"] * TURNS


@pytest.mark.parametrize(
    "change",
    [
        {"instructions": "Count well."},
        {"tools": (add, shout)},
        {"output": int | str},
    ],
    ids=lambda change: next(iter(change)),
)
def test_another_question_is_asked_live(tmp_path: Path, change: dict[str, Any]) -> None:
    run(tmp_path, counter(counting()))
    live: list[int] = []
    run(tmp_path, counter(counting(live=live), **change))
    assert live == list(range(TURNS + 1))


def test_other_dependencies_are_other_calls(tmp_path: Path) -> None:
    run(tmp_path, counter(counting(), deps="one"), deps="one")
    answer = run(tmp_path, counter(counting(), deps="two"), deps="two")
    assert [step.kind for step in steps(answer) if not step.replayed] == ["tool"] * TURNS


def test_a_forgotten_step_is_asked_again(tmp_path: Path) -> None:
    first = run(tmp_path, counter(counting()))
    middle = steps(first)[6]
    with session("test", folder=tmp_path) as opened:
        opened.forget(step=middle.id)
    answer = run(tmp_path, counter(counting()))
    assert [step.ord for step in steps(answer) if not step.replayed] == [7]


def test_what_a_newer_run_replaced_is_not_passed_over(tmp_path: Path) -> None:
    run(tmp_path, counter(counting()))
    run(tmp_path, counter(counting()), fresh=True)
    newest = run(tmp_path, counter(counting()), walk=True)
    assert seen(run(tmp_path, counter(counting()))) == seen(newest)


def test_a_tool_of_the_kernel_runs_again(tmp_path: Path) -> None:
    ran: list[int] = []

    @agentkit.tool(effects="kernel")
    def keep(a: int, b: int) -> int:
        """Keep."""
        ran.append(a)
        return a + b

    agent = Tool(keep, name="add")
    for _ in range(2):
        run(tmp_path, _with(agent))
    assert ran == [*range(TURNS)] * 2


def _with(tool: Tool[Any]) -> Any:
    return durable(Agent(counting(), name="counter", tools=[tool], instructions="Count."))


def test_a_branch_is_passed_over_like_a_first_run(tmp_path: Path) -> None:
    """The tool that was edited and edited back: the longest run on record is not the one that goes on from here."""
    edited_tool = agentkit.tool(effects="none")(edited)
    run(tmp_path, counter(_echo(), tools=[add]))
    run(tmp_path, counter(_echo(), tools=[edited_tool, shout]))
    assert run(tmp_path, counter(_echo(live=False), tools=[add])).output == "1 3 5"
    assert PERFORMED == ["model"]


def _echo(*, live: bool = True) -> ScriptedModel:
    def reply(messages: list[ModelMessage]) -> Any:
        assert live
        n = len(replies(messages))
        told = [str(part.content) for message in messages for part in message.parts if part.part_kind == "tool-return"]
        return Call("add", {"a": n, "b": n + 1}) if n < 3 else " ".join(told)

    return ScriptedModel.by(reply)


def test_a_tool_that_needs_a_person_now_is_not_passed_over(tmp_path: Path) -> None:
    run(tmp_path, counter(counting()))
    again = run(tmp_path, counter(counting(die_at=0), approve="add"))
    assert PERFORMED.count("tool") == TURNS
    assert again.output == f"counted to {TURNS}"


def test_what_a_person_decided_about_a_call_holds_beside_a_run_where_nobody_was_asked(tmp_path: Path) -> None:
    denied = run(tmp_path, counter(counting(1), approve="add"), headless="deny")
    run(tmp_path, counter(counting(1)))
    again = run(tmp_path, counter(counting(1), approve="add"), headless="allow")
    assert [message["parts"] for message in said(again)] == [message["parts"] for message in said(denied)]


def test_a_tool_that_asks_by_itself_now_is_asked_about(tmp_path: Path) -> None:
    run(tmp_path, _with(Tool(add)))
    again = run(tmp_path, _with(Tool(add, requires_approval=True)), headless="deny")
    assert "was denied" in str(said(again)[2]["parts"])


def test_what_the_breaker_said_in_another_run_is_put_back(tmp_path: Path) -> None:
    def agent(breaker: str, *, die_at: int | None = None) -> DurableAgent:
        def over_and_over(messages: list[ModelMessage]) -> Any:
            n = len(replies(messages))
            if n == die_at:
                raise RuntimeError("the wire is cut")
            return Call("add", {"a": 1, "b": 1}) if n < 5 else "done"

        return counter(ScriptedModel.by(over_and_over), breaker=breaker)

    with pytest.raises(RuntimeError):
        run(tmp_path, agent("repeats=3/20/30", die_at=3))
    # The longest on record, and nothing was said in it.
    run(tmp_path, agent("off"))
    again, walked = (run(tmp_path, agent("repeats=3/20/30"), walk=walk) for walk in (False, True))
    assert any(step.name == "breaker" and step.replayed for step in steps(again))
    assert [message["parts"] for message in said(again)] == [message["parts"] for message in said(walked)]


# -- a journal that somebody has been at


def _damage(folder: Path, *statements: str) -> None:
    connection = sqlite3.connect(folder / ".agentkit" / JOURNAL_FILE)
    try:
        for statement in statements:
            assert connection.execute(statement).rowcount > 0
        connection.commit()
    finally:
        connection.close()


_MIDDLE = "(SELECT step FROM use WHERE ord = 6)"
_MESSAGE = "(SELECT history FROM step WHERE id = (SELECT step FROM use WHERE ord = 7))"


@pytest.mark.parametrize("of", ["tool", "model"])
def test_a_corrupt_step_stops_the_run_where_it_is_needed(tmp_path: Path, of: str) -> None:
    run(tmp_path, counter(counting()))
    place = _MIDDLE if of == "tool" else _MIDDLE.replace("6", "7")
    _damage(tmp_path, f"UPDATE body SET body = replace(CAST(body AS TEXT), '3', '4') WHERE step = {place}")
    live: list[int] = []
    with pytest.raises(JournalError, match="does not match its checksum"):
        run(tmp_path, counter(counting(live=live)))
    assert live == []


def test_a_corrupt_step_that_nobody_comes_to_is_in_nobodys_way(tmp_path: Path) -> None:
    first = run(tmp_path, counter(counting()))
    _damage(tmp_path, f"UPDATE body SET body = CAST('[]' AS BLOB) WHERE step = {_MIDDLE}")
    with session("test", folder=tmp_path) as opened:
        opened.forget(step=steps(first)[2].id)

    def reply(messages: list[ModelMessage]) -> Any:
        return "enough"

    assert run(tmp_path, counter(ScriptedModel.by(reply))).output == "enough"


@pytest.mark.parametrize(
    "statement",
    [
        f"DELETE FROM node WHERE digest = {_MESSAGE}",
        f"UPDATE node SET body = replace(CAST(body AS TEXT), '3', '4') WHERE digest = {_MESSAGE}",
        f"DELETE FROM node WHERE digest = (SELECT parent FROM node WHERE digest = {_MESSAGE})",
        "DELETE FROM use WHERE ord = 6",
        "DELETE FROM use WHERE ord = 7",
        "UPDATE use SET step = (SELECT step FROM use WHERE ord = 8) WHERE ord = 6",
        "UPDATE use SET step = (SELECT step FROM use WHERE ord = 9) WHERE ord = 7",
    ],
)
def test_what_is_missing_or_out_of_place_is_walked(tmp_path: Path, statement: str) -> None:
    first = run(tmp_path, counter(counting()))
    _damage(tmp_path, statement)
    again = run(tmp_path, counter(counting(die_at=0)))
    assert len(PERFORMED) > 1
    walked = run(tmp_path, counter(counting(die_at=0)), walk=True)
    assert (said(again), seen(again)) == (said(walked), seen(walked))
    assert said(again)[-1]["parts"] == said(first)[-1]["parts"]


# -- what may be dynamic


def _instructed() -> Any:
    agent = counter(counting())

    @agent.instructions
    def more(ctx: RunContext[Any]) -> str:
        return "Slowly."

    return agent


def _prepared() -> Any:
    async def prepare(ctx: RunContext[Any], definition: Any) -> Any:
        return definition

    return _with(Tool(add, prepare=prepare))


def _instructed_toolset() -> Any:
    return durable(_plain(toolsets=[FunctionToolset([shout], id="more", instructions=lambda ctx: "Slowly.")]))


class _Toolset(FunctionToolset[Any]):
    """May offer anything."""


class _Hook(AbstractCapability[Any]):
    """Does nothing, which nobody can know."""


def _foreign_toolset() -> Any:
    return counter(counting(), tools=[FunctionToolset([add], id="more").filtered(lambda ctx, definition: True)])


@pytest.mark.parametrize(
    ("agent", "why"),
    [
        (_instructed, "its instructions are functions"),
        (_prepared, "its tool add has a prepare function"),
        (_foreign_toolset, "may offer other tools each time"),
        (_instructed_toolset, "the instructions of its toolset"),
        (lambda: durable(_plain(toolsets=[_Toolset([shout], id="more")])), "may offer other tools each time"),
        (lambda: durable(_plain(capabilities=[NativeTool(lambda ctx: None)])), "NativeTool may change what is sent"),
        (lambda: durable(_plain(capabilities=[_Hook()])), "its capability _Hook may change what is sent"),
        (lambda: durable(_plain(capabilities=[Hooks()])), "its capability Hooks may change what is sent"),
        (lambda: durable(_plain(model_settings=lambda ctx: {"temperature": 0.0})), "its model settings are a function"),
    ],
)
def test_what_may_be_dynamic_is_walked_and_said(tmp_path: Path, agent: Callable[[], Any], why: str) -> None:
    first = run(tmp_path, agent())
    assert first.run.walked == ""
    again = run(tmp_path, agent())
    assert len(PERFORMED) == 2 * TURNS + 1
    assert why in again.run.walked
    assert again.output == first.output


def _plain(**more: Any) -> Any:
    return Agent(counting(), name="counter", tools=[add], instructions="Count.", **more)


@pytest.mark.parametrize(
    "agent",
    [
        lambda: durable(_plain(capabilities=[Thinking(effort="low")])),
        lambda: durable(_plain(toolsets=[FunctionToolset([shout], id="more", instructions="Slowly.").prefixed("x")])),
        lambda: durable(_plain(toolsets=[CombinedToolset([FunctionToolset([shout], id="more")])])),
    ],
    ids=["effort", "prefix", "combined"],
)
def test_what_only_says_something_is_passed_over(tmp_path: Path, agent: Callable[[], Any]) -> None:
    run(tmp_path, agent())
    passed = run(tmp_path, agent())
    assert (PERFORMED, passed.run.walked) == (["model"], "")
    assert_same(passed, run(tmp_path, agent(), walk=True))


@pytest.mark.parametrize(
    "more",
    [
        {"model_settings": {"temperature": 0.5}},
        {"instructions": "Slowly."},
        {"usage": RunUsage(requests=7)},
        {"metadata": {"for": "a test"}},
        {"run_id": "mine"},
    ],
    ids=lambda more: next(iter(more)),
)
def test_a_value_given_to_a_run_is_passed_over(tmp_path: Path, more: dict[str, Any]) -> None:
    run(tmp_path, counter(counting()), more=more)
    passed = run(tmp_path, counter(counting(die_at=0)), more=more)
    assert (PERFORMED, passed.run.walked) == (["model"], "")
    assert_same(passed, run(tmp_path, counter(counting(die_at=0)), more=more, walk=True))


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"more": {"model_settings": lambda ctx: {"temperature": 0.5}}}, "run(…, model_settings=…) is given"),
        ({"more": {"instructions": lambda ctx: "Slowly."}}, "run(…, instructions=…) is given"),
        ({"walk": True}, "walk was given"),
        ({"more": {"usage_limits": UsageLimits(request_limit=90)}}, "run(…, usage_limits=…) is given"),
    ],
)
def test_what_a_run_is_given_may_make_it_walk(tmp_path: Path, options: dict[str, Any], why: str) -> None:
    agent = counter(counting())
    run(tmp_path, agent, **options)
    assert why in run(tmp_path, agent, **options).run.walked
    assert len(PERFORMED) == 2 * TURNS + 1


def test_nodes_are_walked_by_whoever_looks_at_them(tmp_path: Path) -> None:
    async def main() -> int:
        async with counter(counting()).iter("count") as nodes:
            return len([node async for node in nodes])

    with session("test", folder=tmp_path):
        first = asyncio.run(main())
    with session("test", folder=tmp_path):
        assert asyncio.run(main()) == first > 2 * TURNS


def test_walk_is_an_option_of_run() -> None:
    assert "walk" in VERBS["run"].options
