"""An agent's own code: it calls the agent's tools in the sandbox, each call a step that no code can fake or swallow."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic_ai.exceptions import UsageLimitExceeded
from pydantic_ai.messages import ModelMessage, ToolReturnPart
from pydantic_ai.usage import UsageLimits

import agentkit
from agentkit.agent.agent import DurableAgent
from agentkit.agent.ask import Answer
from agentkit.agent.spec import Spec
from agentkit.approval.policy import Decision
from agentkit.errors import ApprovalPending, UserError
from agentkit.events import Event, Step
from agentkit.testing import Call, ScriptedModel

SWALLOWING = """
looked = [look(at=n) for n in range(2)]
try:
    deleted = delete(ids=[1, 2])
except BaseException as error:
    deleted = f"swallowed {error}"
f"{looked} {deleted}"
"""


class World:
    """Tools that note what they did, and an agent whose model runs `code` and says what came back."""

    def __init__(self, folder: Path, code: str, *, pieces: int = 1) -> None:
        self.folder = folder
        self.done: list[Any] = []
        self.requests = 0
        self.told: list[Event] = []
        self._code = code
        self._pieces = pieces

    def agent(self, **build: Any) -> DurableAgent:
        done = self.done

        def answer(messages: list[ModelMessage]) -> Any:
            self.requests += 1
            results = [part for part in messages[-1].parts if isinstance(part, ToolReturnPart)]
            codes = [Call("run_code", {"code": self._code})] * self._pieces
            return "; ".join(str(part.content) for part in results) if results else codes

        @agentkit.tool(effects="once", approve="ask")
        def delete(ids: list[int]) -> str:
            """Delete rows."""
            done.append(ids)
            return f"deleted {ids}"

        @agentkit.tool(effects="none")
        def look(at: int) -> str:
            """Look at a row."""
            done.append(at)
            if at > 100:
                raise LookupError(f"no row {at}")
            return f"row {at}"

        options = {"tools": [delete, look], "code": True, **build}
        return agentkit.build(Spec.parse("You clean."), name="cleaner", model=ScriptedModel.by(answer), **options)

    def run(self, *, build: Any = None, asker: Any = None, **run: Any) -> Answer:
        with agentkit.session("here", folder=self.folder) as session:
            session.asker = asker
            session.listen(self.told.append)
            return asyncio.run(agentkit.ask(self.agent(**(build or {})), "Clean up.", **run))


def decide(decision: Decision) -> Callable[..., Any]:
    async def ask(questions: tuple[Any, ...]) -> tuple[Decision, ...]:
        return tuple(decision for _ in questions)

    return ask


def steps(answer: Answer) -> list[tuple[str, bool, int | None]]:
    return [(step.name, step.replayed, step.within) for step in answer.events() if isinstance(step, Step)]


def test_each_call_is_a_step_under_the_code(tmp_path: Path) -> None:
    world = World(tmp_path, "rows = [look(at=n) for n in range(3)]\nprint('two')\nlook(7), rows")
    answer = world.run()
    assert answer.text == "{'printed': 'two\\n', 'value': ['row 7', ['row 0', 'row 1', 'row 2']]}"
    _, code, *calls, last = steps(answer)
    assert [name for name, *_ in (code, *calls)] == ["run_code", "look", "look", "look", "look"]
    assert {within for *_, within in calls} == {2} and code[2] is None and last[2] is None
    # The panel hears of it while it happens: from the thread of a tool that is not async, too.
    told = [(step.ord, step.within) for step in world.told if isinstance(step, Step) and step.status == "done"]
    assert told == [(1, None), (3, 2), (4, 2), (5, 2), (6, 2), (2, None), (7, None)]
    again = world.run()
    assert again.text == answer.text and all(replayed for _, replayed, _ in steps(again))
    assert (world.done, world.requests) == ([0, 1, 2, 7], 2)


def test_an_approval_parks_the_code_and_goes_on_in_another_process_of_mind(tmp_path: Path) -> None:
    world = World(tmp_path, SWALLOWING)
    with pytest.raises(ApprovalPending):
        world.run()
    assert world.done == [0, 1]
    with agentkit.session("here", folder=tmp_path) as session:
        (question,) = session.store.questions(limit=5)
        session.store.decide(question.id, b'{"verdict":"approve","by":"you","at":0}', said="approved").result()
    later = World(tmp_path, SWALLOWING)
    answer = later.run()
    assert answer.text == "['row 0', 'row 1'] deleted [1, 2]"
    assert (later.done, later.requests) == ([[1, 2]], 1)


@pytest.mark.parametrize(
    ("decision", "done", "said"),
    [
        (Decision(verdict="approve"), [0, 1, [1, 2]], "deleted [1, 2]"),
        (Decision(verdict="edit", arguments={"ids": [9]}), [0, 1, [9]], "deleted [9]"),
        (Decision(verdict="deny", reason="not today"), [0, 1], "denied by the person: not today. It was not made."),
    ],
)
def test_a_decision_cannot_be_swallowed(tmp_path: Path, decision: Decision, done: list[Any], said: str) -> None:
    world = World(tmp_path, SWALLOWING)
    answer = world.run(asker=decide(decision))
    assert said in answer.text and "swallowed" not in answer.text and world.done == done
    assert World(tmp_path, SWALLOWING).run().text == answer.text


def test_a_usage_limit_cannot_be_swallowed(tmp_path: Path) -> None:
    code = "for n in range(50):\n    try: look(at=n)\n    except BaseException: pass\n'went on'"
    world = World(tmp_path, code)
    with pytest.raises(UsageLimitExceeded):
        world.run(more={"usage_limits": UsageLimits(tool_calls_limit=5)})
    assert len(world.done) == 4


def test_errors_are_told_with_their_line_and_the_calls_made(tmp_path: Path) -> None:
    answer = World(tmp_path, "a = look(at=1)\nb = look(at=101)").run()
    assert "tool: LookupError: no row 101 (line 2)" in answer.text and "^^^" in answer.text
    assert "calls made before: look(at=1)" in answer.text and "do not repeat" in answer.text


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("class A(B): pass", "dialect: "),
        ("for n in range(101): look(at=n % 7)", "limit: more than 100 host calls (line 1)"),
        ("look(at='x')", "code: TypeError: look(): at: Input should be a valid integer"),
        ("look(1, 2)", "code: TypeError: look() takes 1 arguments (at), 2 were given"),
        ("run_code(code='1')", "code: NameError: name 'run_code'"),
        ("while True: print('x' * 9999)", "limit: more than 65,536 bytes printed"),
    ],
)
def test_whose_error_it_is_is_told(tmp_path: Path, code: str, said: str) -> None:
    assert said in World(tmp_path, code).run().text


def test_the_code_calls_only_what_it_may(tmp_path: Path) -> None:
    answer = World(tmp_path, "look(at=1)\ndelete(ids=[1])").run(build={"call": "look"})
    assert "NameError: name 'delete' is not defined" in answer.text
    with pytest.raises(UserError, match=r"call='lok' names no tool of this agent .did you mean look"):
        World(tmp_path, "").agent(call="lok")
    with pytest.raises(UserError, match="add code=True"):
        World(tmp_path, "").agent(code=False, call="look")


def test_the_model_is_told_what_the_installed_sandbox_has(tmp_path: Path) -> None:
    agent = World(tmp_path, "").agent()
    (tool,) = [tool for tool in agent._function_toolset.tools.values() if tool.name == "run_code"]
    told = tool.description or ""
    assert all(word in told for word in ("itertools", "statistics", "json", "keyword arguments"))
    assert "Args" not in told and list(tool.function_schema.json_schema["properties"]) == ["code"]


def test_calls_at_once_and_code_at_once(tmp_path: Path) -> None:
    code = "import asyncio\nawait asyncio.gather(*[look(at=n) for n in range(4)])"
    world = World(tmp_path, code, pieces=3)
    answer = world.run()
    assert answer.text == "; ".join(["['row 0', 'row 1', 'row 2', 'row 3']"] * 3)
    assert sorted(world.done) == sorted([0, 1, 2, 3] * 3)
    assert world.run().text == answer.text and len(world.done) == 12


def test_agents_in_parallel_each_have_a_sandbox_of_their_own(tmp_path: Path) -> None:
    worlds = [World(tmp_path, f"total = sum(range({number}000))\nlook(at={number}), total") for number in range(6)]

    async def all_of_them() -> list[Any]:
        return await asyncio.gather(*(agentkit.ask(world.agent(), "Clean up.") for world in worlds))

    with agentkit.session("here", folder=tmp_path):
        answers = asyncio.run(all_of_them())
    assert [answer.text for answer in answers] == [
        str([f"row {number}", sum(range(number * 1000))]) for number in range(6)
    ]
