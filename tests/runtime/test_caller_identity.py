"""What is recorded for one caller or one thread answers nobody else, unless it is shared."""

from __future__ import annotations

import asyncio
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import pytest
from pydantic_ai.messages import ModelMessage

from agentkit.agent.agent import DurableAgent
from agentkit.agent.build import build
from agentkit.agent.spec import Spec
from agentkit.budget.reservation import budgets_of
from agentkit.errors import BudgetExceeded, UserError
from agentkit.runtime.session import Session, session
from agentkit.testing import Call, ScriptedModel
from agentkit.tools.declaration import tool

sent: ContextVar[list[str]] = ContextVar("sent")


@tool(effects="once")
async def send(to: str) -> str:
    """Send a letter."""
    sent.get().append(to)
    return f"letter {len(sent.get())}"


@tool(effects="none", share="project")
async def look(where: str) -> str:
    """Look up."""
    sent.get().append(where)
    return f"look {len(sent.get())}"


class World:
    """A server's agent, with what it paid for."""

    def __init__(self, folder: Path, one: Any = send, **options: Any) -> None:
        self.folder = folder
        self.requests = 0
        self.sent: list[str] = []
        arguments = {"to": "ann"} if one is send else {"where": "ann"}

        def reply(messages: list[ModelMessage]) -> Any:
            self.requests += 1
            asked = any(part.part_kind == "tool-return" for part in messages[-1].parts)
            return f"done {self.requests}" if asked else Call(one.__name__, arguments)

        model = ScriptedModel.by(reply)
        self.agent: DurableAgent = build(Spec(instructions="x"), name="a", tools=[one], model=model, **options)

    def ask(self, **options: Any) -> str:
        """One request in a new process of the server."""

        async def main() -> str:
            sent.set(self.sent)
            return str((await self.agent.run("go")).output)

        with session("served", folder=self.folder, **options):
            return asyncio.run(main())

    @property
    def paid(self) -> tuple[int, int]:
        return self.requests, len(self.sent)


ANN, BOB = {"caller": "ann"}, {"caller": "bob"}
T1, T2 = {"thread": "1"}, {"thread": "2"}
CASES: list[tuple[str, dict[str, Any], dict[str, Any], bool]] = [
    ("nobody is named", {}, {}, True),
    ("one caller", ANN, ANN, True),
    ("two callers", ANN, BOB, False),
    ("a caller after nobody", {}, ANN, False),
    ("nobody after a caller", ANN, {}, False),
    ("two threads", T1, T2, False),
    ("a caller in a thread, twice", {**ANN, **T1}, {**ANN, **T1}, True),
    ("a caller in two threads", {**ANN, **T1}, {**ANN, **T2}, False),
    ("two callers in threads of one name", {**ANN, **T1}, {**BOB, **T1}, False),
    ("a thread named as a caller", {"caller": "1"}, T1, False),
    ("served, and nobody is named", {"served": True}, {"served": True}, False),
    ("served, and one caller", {"served": True, **ANN}, {"served": True, **ANN}, False),
    ("served, and one thread", {"served": True, **ANN, **T1}, {"served": True, **ANN, **T1}, True),
]


@pytest.mark.parametrize(("first", "second", "answered"), [case[1:] for case in CASES], ids=[c[0] for c in CASES])
def test_a_record_answers_the_one_it_was_made_for(
    tmp_path: Path, first: dict[str, Any], second: dict[str, Any], answered: bool
) -> None:
    world = World(tmp_path)
    before = world.ask(**first)
    after = world.ask(**second)
    assert (after == before) is answered
    assert world.paid == ((2, 1) if answered else (4, 2))


def test_each_request_of_a_server_is_its_own(tmp_path: Path) -> None:
    world = World(tmp_path)

    async def serve(opened: Session) -> list[str]:
        sent.set(world.sent)

        async def handle(caller: str | None, thread: str | None) -> str:
            with opened.identity(caller, thread):
                return str((await world.agent.run("go")).output)

        asked = [("ann", "1"), ("bob", "1"), ("ann", "2"), (None, None), (None, None)]
        return [*await asyncio.gather(*(handle(*who) for who in asked)), await handle("ann", "1")]

    with session("served", folder=tmp_path) as opened:
        *answers, again = asyncio.run(serve(opened))
        assert sorted({run.caller for run in opened.runs()}) == ["", "ann", "bob"]
        assert len(opened.runs(caller="ann")) == 3
        assert len(opened.runs(caller="ann", thread="2")) == 1
    assert len(set(answers)) == 5
    # The same request of the same caller in the same thread is the same request.
    assert again == answers[0]
    assert world.paid == (10, 5)


def test_what_is_shared_is_shared_between_callers(tmp_path: Path) -> None:
    world = World(tmp_path, look)
    world.ask(**ANN)
    world.ask(**BOB)
    assert world.paid == (4, 1)
    shared = World(tmp_path / "2", look, share="project")
    assert shared.ask(**ANN) == shared.ask(**BOB)
    assert shared.paid == (2, 1)


def test_an_agent_that_is_shared_repeats_what_has_effects_for_each_caller(tmp_path: Path) -> None:
    world = World(tmp_path, share="project")
    world.ask(**ANN)
    world.ask(**BOB)
    assert world.sent == ["ann", "ann"]


def test_a_sub_agent_works_for_the_caller_of_its_agent(tmp_path: Path) -> None:
    inner = World(tmp_path)

    def reply(messages: list[ModelMessage]) -> Any:
        asked = any(part.part_kind == "tool-return" for part in messages[-1].parts)
        return "asked" if asked else Call("a", {"prompt": "go"})

    model = ScriptedModel.by(reply)
    inner.agent = build(Spec(instructions="x"), name="o", tools=[inner.agent], model=model)
    for who in (ANN, BOB, ANN):
        inner.ask(**who)
    assert inner.paid == (4, 2)
    with session("served", folder=tmp_path) as opened:
        assert [run.caller for run in opened.runs(agent="a")] == ["bob", "ann"]


def test_what_a_caller_spends_is_told_apart_and_counts_for_the_agent(tmp_path: Path) -> None:
    world = World(tmp_path, budget="5 requests/day")
    for who in (ANN, BOB):
        world.ask(**who)
    with session("served", folder=tmp_path, caller="cid") as opened:
        book = budgets_of(opened).ledger
        assert book is not None
        agent = budgets_of(opened).node("a")
        callers = [agent.child("caller", name) for name in ("ann", "bob", "cid")]
        assert [book.spending(node, "day").requests for node in (agent, *callers)] == [4, 2, 2, 0]
    with pytest.raises(BudgetExceeded):
        # Two requests of each: the fifth is allowed, the sixth is not, whoever asks.
        world.ask(caller="cid")


@pytest.mark.parametrize("wrong", ["", 3, "a\nb", "x" * 201, "a\x1fagent:b"])
def test_a_caller_that_is_no_name_is_refused_in_one_line(tmp_path: Path, wrong: Any) -> None:
    with pytest.raises(UserError, match=r"^caller=.*says whose run it is$"):
        session(folder=tmp_path, caller=wrong)
    with session(folder=tmp_path) as opened, pytest.raises(UserError, match=r"^thread="), opened.identity(thread=wrong):
        pass
