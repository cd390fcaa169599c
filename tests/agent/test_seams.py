"""Where features meet: forks, secrets that come late, replies and results that cannot be written as they are."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel
from pydantic_ai import Agent
from pydantic_ai.exceptions import ModelAPIError
from pydantic_ai.messages import ModelMessage, ModelResponse, TextPart, ToolCallPart, ToolReturnPart
from pydantic_ai.models.fallback import FallbackModel
from pydantic_ai.usage import RequestUsage

import agentkit
from agentkit.agent.agent import DurableAgent, durable
from agentkit.agent.ask import ask
from agentkit.agent.spec import Spec
from agentkit.budget import admin
from agentkit.budget.budget import Budget, parse
from agentkit.budget.reservation import budgets_of
from agentkit.errors import AgentKitError, BudgetExceeded, InDoubt, JournalError, UserError
from agentkit.events import Run, Step
from agentkit.models import resolve
from agentkit.runtime.session import Session, current
from agentkit.testing import Call, ScriptedModel
from agentkit.trace.explain import explain

CUT = "half of \ud83d"


class World:
    """A session's folder, what was paid and done in it, and an agent whose model asks for `first`, then says `last`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.asked = 0
        self.done: list[Any] = []

    def agent(self, first: Any, *tools: Any, last: Any = "fin") -> DurableAgent:
        def answer(messages: list[ModelMessage]) -> Any:
            self.asked += 1
            done = any(isinstance(part, ToolReturnPart) for message in messages for part in message.parts)
            return last if done else first

        return agentkit.build(
            Spec(instructions="Work."), name="worker", model=ScriptedModel.by(answer, cost=0.1), tools=tools
        )

    def run(self, agent: DurableAgent, prompt: str = "go") -> Any:
        with agentkit.session("test", folder=self.folder):
            return asyncio.run(ask(agent, prompt))

    def on_disk(self, text: str) -> list[str]:
        return [file.name for file in self.folder.rglob("*") if file.is_file() and text.encode() in file.read_bytes()]


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


@agentkit.tool(effects="none")
def look(at: int) -> int:
    """Look."""
    return at


def test_a_forked_process_runs_sync_tools_in_threads_of_its_own(world: World) -> None:
    with agentkit.session("test", folder=world.folder):
        agent = world.agent(Call("look", {"at": 1}), look)
        assert asyncio.run(agent.run("before")).output == "fin"
        child = os.fork()
        if not child:
            try:
                os._exit(0 if asyncio.run(agent.run("in the child")).output == "fin" else 1)
            finally:
                os._exit(2)
        ended = _ended(child, seconds=20)
        assert ended == 0
        assert asyncio.run(agent.run("after")).output == "fin"
    # The next process replays what the child has recorded.
    asked = world.asked
    assert world.run(agent, "in the child").output == "fin"
    assert world.asked == asked


def test_runs_in_a_thread_pool_are_journaled_and_replayed(world: World) -> None:
    for _ in range(2):
        with agentkit.session("test", folder=world.folder) as opened, ThreadPoolExecutor(4) as pool:
            agent = world.agent(Call("look", {"at": 1}), look)
            answers = list(pool.map(agent.run_sync, "abcd"))
            assert [answer.output for answer in answers] == ["fin"] * 4
            recorded = {run.prompt for run in opened.runs()}
    assert recorded == set("abcd")
    assert world.asked == 8


def test_a_thread_is_inside_no_session_where_two_threads_have_one_each(world: World) -> None:
    found: list[Any] = []

    def elsewhere() -> None:
        with agentkit.session("other", folder=world.folder / "other"), ThreadPoolExecutor(1) as pool:
            found.append(pool.submit(current).result())

    with agentkit.session("test", folder=world.folder) as opened, ThreadPoolExecutor(1) as pool:
        assert pool.submit(current).result() is opened
        pool.submit(elsewhere).result()
        assert found == [None]
        assert pool.submit(current).result() is opened
    assert current() is None


def _ended(child: int, *, seconds: float) -> int:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.05)
    os.kill(child, 9)
    os.waitpid(child, 0)
    raise AssertionError("the child hangs")


@pytest.mark.parametrize(
    "reply",
    [
        CUT,
        ModelResponse(parts=[TextPart(CUT), ToolCallPart("look", {"at": 1})]),
    ],
    ids=["answer", "beside a call"],
)
def test_half_a_character_in_a_reply_is_recorded_and_paid_once(world: World, reply: Any) -> None:
    first = world.run(world.agent(reply, look, last="fin"))
    asked = world.asked
    assert first.output in ("fin", "half of \\ud83d")
    assert world.run(world.agent(reply, look, last="fin")).output == first.output
    assert world.asked == asked


def test_arguments_nested_beyond_reading_are_recorded_and_paid_once(world: World) -> None:
    nested = '{"at": ' + "[" * 3000 + "]" * 3000 + "}"
    agent = world.agent(ModelResponse(parts=[ToolCallPart("look", nested)]), look)
    assert [world.run(agent).output for _ in range(2)] == ["fin", "fin"]
    assert world.asked == 2
    with agentkit.session("test", folder=world.folder) as opened:
        assert opened.in_doubt() == []


def of_kind(kind: str) -> object:
    nested: list[Any] = []
    for _ in range(5000):
        nested = [nested]
    itself: dict[str, Any] = {}
    itself["me"] = itself
    return {"digits": 10**5000, "deep": nested, "itself": itself}[kind]


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("digits", "the result of made is a number of more than 4,300 digits"),
        ("deep", "the result of made is nested more than 100 deep"),
        ("itself", "the result of made is nested more than 100 deep, or contains itself"),
    ],
)
@pytest.mark.parametrize("threaded", [True, False])
def test_a_result_that_cannot_be_written_is_the_error_of_its_tool(
    world: World, kind: str, said: str, threaded: bool
) -> None:
    @agentkit.tool(effects="once")
    def made(kind: str) -> object:
        """Make something."""
        return of_kind(kind)

    async def made_async(kind: str) -> object:
        """Make something."""
        return of_kind(kind)

    made_async.__name__ = "made"
    chosen = made if threaded else agentkit.tool(effects="once")(made_async)
    with pytest.raises(UserError, match=said):
        world.run(world.agent(Call("made", {"kind": kind}), chosen))
    with agentkit.session("test", folder=world.folder) as opened:
        assert opened.in_doubt() == []
        (failed,) = [step for step in opened.trace(opened.runs()[0].id) if isinstance(step, Step) and step.error]
        assert failed.status == "failed" and said in str(failed.error)


def test_half_a_character_in_a_result_is_written_out(world: World) -> None:
    @agentkit.tool(effects="none")
    def names(folder: str) -> dict[str, list[str]]:
        """File names that are no UTF-8."""
        return {"names": ["caf\udce9.txt"]}

    agent = world.agent(Call("names", {"folder": "."}), names)
    assert world.run(agent).output == "fin"
    asked = world.asked
    assert world.run(agent).output == "fin"
    assert world.asked == asked


def test_a_reply_that_cannot_be_recorded_ends_its_step(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreadable(*args: object) -> str:
        raise ValueError("no such thing")

    monkeypatch.setattr("agentkit.runtime.fallback_record.describe_reply", unreadable)
    with pytest.raises((ValueError, AgentKitError), match="no such thing"):
        world.run(world.agent("hello"))
    with agentkit.session("test", folder=world.folder) as opened:
        assert opened.in_doubt() == []


def test_a_run_whose_journal_was_deleted_is_not_told_as_running(world: World) -> None:
    told: list[Run] = []
    with agentkit.session("test", folder=world.folder) as opened:
        opened.listen(lambda event: told.append(event) if isinstance(event, Run) else None)
        agent = world.agent("hello")
        asyncio.run(agent.run("before"))
        shutil.rmtree(world.folder / ".agentkit")
        for asked in (agent.run("after"), agentkit.sandbox("1 + 1")):
            told.clear()
            with pytest.raises(JournalError, match="was deleted"):
                asyncio.run(asked)
            assert told[-1].status == "failed" and "was deleted" in str(told[-1].error)


def test_the_command_that_a_stopped_sub_agent_names_lets_it_go_on(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AGENTKIT_BUDGETS", str(world.folder / "budgets.db"))

    def step(messages: list[ModelMessage]) -> Any:
        world.asked += 1
        seen = sum(isinstance(part, ToolReturnPart) for message in messages for part in message.parts)
        return Call("look", {"at": seen}) if seen < 2 else "looked"

    model = ScriptedModel.by(step, cost=0.1)
    spec = Spec(instructions="Work.")
    helper = agentkit.build(spec, name="helper", model=model, tools=[look], budget="0.25usd")
    boss = world.agent([Call("helper", {"prompt": "one"}), Call("helper", {"prompt": "two"})], helper)
    for _ in range(2):
        with pytest.raises(BudgetExceeded, match="helper stopped at its budget") as stopped:
            world.run(boss)
    assert world.asked == 1 + 4
    (scope, limits) = re.findall(r"`agentkit budget (\S+) ([^`]+)`", str(stopped.value))[0]
    assert scope == "worker/helper"
    with agentkit.session("test", folder=world.folder) as opened:
        # Before the first run of this session, as after a restart.
        admin.change(budgets_of(opened).node(*scope.split("/")), limits, option="", at_limit=None)
        assert asyncio.run(boss.run("go")).output == "fin"
    assert world.asked == 1 + 4 + 2 + 1


def test_a_failed_chain_is_on_record_with_what_each_member_said(world: World) -> None:
    chain = FallbackModel(ScriptedModel([ModelAPIError("a", "gone")]), ScriptedModel([ModelAPIError("b", "busy")]))
    agent = agentkit.build(Spec(instructions="Work."), name="worker", model=chain)
    with agentkit.session("test", folder=world.folder) as opened:
        with pytest.raises(Exception, match="All models"):
            asyncio.run(agent.run("go"))
        (run,) = opened.runs()
        (step,) = [event for event in opened.trace(run.id) if isinstance(event, Step)]
    assert run.error == step.error == "ModelAPIError: gone; then ModelAPIError: busy"


def test_a_server_that_is_not_there_is_named_with_the_reason(world: World) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        agent = agentkit.build(Spec(instructions="Work."), name="worker", model=f"http://127.0.0.1:{port}/v1#mine")
        with agentkit.session("test", folder=world.folder) as opened:
            with pytest.raises(ModelAPIError):
                asyncio.run(agent.run("go"))
            assert "no connection to mine: " in str(opened.runs()[0].error)
            assert "refused" in str(opened.runs()[0].error) or "failed" in str(opened.runs()[0].error)


@pytest.mark.parametrize("counted", [10**30, 2**63 - 1, -50_000])
def test_a_wrong_count_of_tokens_loses_no_reply_and_gives_no_budget_back(
    world: World, monkeypatch: pytest.MonkeyPatch, counted: int
) -> None:
    monkeypatch.setenv("AGENTKIT_BUDGETS", str(world.folder / "budgets.db"))
    reply = ModelResponse(parts=[TextPart("said")], usage=RequestUsage(input_tokens=counted, output_tokens=1))
    agent = world.agent(reply)
    agent.policy.budget = Budget(limits=parse("100k tokens/day"))
    assert [world.run(agent).output for _ in range(2)] == ["said", "said"]
    assert world.asked == 1
    with agentkit.session("test", folder=world.folder) as opened:
        (standing,) = admin.standings(budgets_of(opened).node("worker"))
    assert standing.used >= 1 and standing.held == 0


@pytest.mark.parametrize("cost", [-5.0, float("nan"), 1e300])
def test_a_price_that_cannot_be_is_none(cost: float) -> None:
    reply = ModelResponse(parts=[], usage=RequestUsage(input_tokens=1), model_name="gpt-5")
    reply.usage.cost = cost  # type: ignore[assignment]
    assert resolve.price(reply) is None


def test_why_knows_what_was_recorded_before_a_run_that_came_less_far(world: World) -> None:
    def sized(size: int) -> Any:
        @agentkit.tool(effects="once")
        def measure(at: int) -> int:
            """Measure."""
            return at * size

        return measure

    world.run(world.agent(Call("measure", {"at": 1}), sized(2)))
    edited = world.agent(Call("measure", {"at": 1}), sized(3))
    with pytest.raises(InDoubt) as doubt:
        world.run(edited)
    with agentkit.session("test", folder=world.folder) as opened:
        opened.settle(doubt.value.step, "redo")
        answer = asyncio.run(ask(edited, "go"))
        told = [str(reason) for reason in explain(opened.store, answer.run.id)]
    assert told[0].startswith(f"step 2 tool measure: live, unlike step {doubt.value.step}: size was 2 and is 3")


def test_a_tool_whose_next_finds_nothing_fails_and_does_not_hang(world: World) -> None:
    @agentkit.tool(effects="none")
    def first(at: int) -> int:
        """The first number above."""
        return next(number for number in range(3) if number > at)

    async def main() -> Any:
        return await asyncio.wait_for(world.agent(Call("first", {"at": 9}), first).run("go"), 10)

    with agentkit.session("test", folder=world.folder) as opened:
        with pytest.raises(RuntimeError, match="`next` found nothing; give it a default"):
            asyncio.run(main())
        assert opened.in_doubt() == []


def test_run_sync_where_a_loop_runs_says_what_to_write(world: World) -> None:
    async def cell(agent: Any) -> None:
        agent.run_sync("go")

    for agent in (world.agent("hello"), durable(Agent(ScriptedModel(["hello"]), name="worker"))):
        with agentkit.session("test", folder=world.folder):
            with pytest.raises(UserError, match=r"as in a cell: await worker.run\(…\)"):
                asyncio.run(cell(agent))
            assert agent.run_sync("go").output == "hello"


def test_a_step_that_is_stopped_while_its_failure_is_written_is_told_as_failed(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[Step] = []

    async def main(opened: Session) -> None:
        run = asyncio.ensure_future(world.agent(Call("fail", {"at": 1}), fail).run("go"))
        finish = opened.store.finish

        def stopped_meanwhile(outcome: Any) -> Any:
            written = finish(outcome)
            if outcome.status == "failed":
                run.cancel()
            return written

        monkeypatch.setattr(opened.store, "finish", stopped_meanwhile)
        with pytest.raises((asyncio.CancelledError, ValueError)):
            await run

    @agentkit.tool(effects="none")
    async def fail(at: int) -> int:
        """Fail."""
        raise ValueError("no")

    with agentkit.session("test", folder=world.folder) as opened:
        opened.listen(lambda event: told.append(event) if isinstance(event, Step) and event.kind == "tool" else None)
        asyncio.run(main(opened))
    assert [event.status for event in told] == ["started", "failed"]


class Unspeakable(BaseModel):
    """An answer that cannot be printed."""

    number: int

    def __str__(self) -> str:
        raise RuntimeError("no words")

    __repr__ = __str__


def test_an_answer_that_cannot_be_printed_is_an_answer(world: World) -> None:
    model = ScriptedModel([Call("final_result", {"number": 7})])
    agent = agentkit.build(Spec(instructions="Work."), name="worker", model=model, output=Unspeakable)
    for _ in range(2):
        with agentkit.session("test", folder=world.folder) as opened:
            assert asyncio.run(agent.run("go")).output.number == 7
            assert opened.runs()[0].status == "done" and "Unspeakable" in opened.runs()[0].output
