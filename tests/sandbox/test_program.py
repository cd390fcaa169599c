"""`agentkit.sandbox`: a program is one step, its calls are steps under it, and running it again repeats nothing."""

from __future__ import annotations

import asyncio
import datetime
import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pandas
import pytest
from pydantic import BaseModel

import agentkit
from agentkit.agent.spec import Spec
from agentkit.approval.policy import Decision
from agentkit.errors import ApprovalPending, InDoubt, JournalCorrupt, ReplayMiss, SandboxError, UserError
from agentkit.events import Step
from agentkit.sandbox.boundary import ROWS
from agentkit.sandbox.program import SandboxResult
from agentkit.testing import ScriptedModel


class Order(BaseModel):
    day: datetime.date
    what: list[str]


class World:
    """Functions that note what they did, and a journal in `folder`; each `run` is a process of its own, in mind."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.made: list[Any] = []
        self.asker: Any = None

    def calls(self) -> dict[str, Any]:
        made = self.made

        @agentkit.tool(effects="none")
        def look(at: int, far: bool = False) -> dict[str, Any]:
            """Look at something."""
            made.append(at)
            return {"at": at, "seen": datetime.date(2026, 1, at + 1), "far": far}

        @agentkit.tool(effects="once", approve="ask")
        def delete(ids: list[int]) -> str:
            """Delete rows."""
            made.append(ids)
            return f"deleted {ids}"

        @agentkit.tool(effects="none")
        def table(rows: int) -> pandas.DataFrame:
            """A table."""
            made.append(rows)
            return pandas.DataFrame({"n": range(rows)})

        async def later(n: int) -> int:
            await asyncio.sleep(0.05)
            made.append(n)
            return n * 10

        return {"look": look, "delete": delete, "table": table, "later": later}

    def run(self, source: str, *, calls: Any = None, session_mode: Any = "auto", **options: Any) -> SandboxResult:
        with agentkit.session("here", folder=self.folder, mode=session_mode) as session:
            session.asker = self.asker
            given = self.calls() if calls is None else calls
            return asyncio.run(agentkit.sandbox(textwrap.dedent(source), calls=given, **options))


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def steps(result: SandboxResult) -> list[tuple[str, str, bool]]:
    return [(step.kind, step.name, step.replayed) for step in result.events() if isinstance(step, Step)]


PROGRAM = """
one = look(1)
two = look(at=2, far=True)
print(one["seen"], two["far"])
days = {look(n)["seen"] for n in (1, 3)}
len(days)
"""


def test_a_finished_program_is_replayed_whole(world: World) -> None:
    first = world.run(PROGRAM, outputs=("one", "days"))
    assert first.value == 2 and first.printed == "2026-01-02 True\n"
    assert first.outputs["days"] == {datetime.date(2026, 1, 2), datetime.date(2026, 1, 4)}
    assert steps(first) == [("sandbox", "program", False), *[("tool", "look", False)] * 4]
    again = world.run(PROGRAM, outputs=("one", "days"))
    assert (again.value, again.outputs, again.printed) == (first.value, first.outputs, first.printed)
    assert steps(again) == [("sandbox", "program", True)] and world.made == [1, 2, 1, 3]


def test_an_edited_program_makes_only_the_calls_that_are_new(world: World) -> None:
    world.run(PROGRAM)
    edited = world.run(PROGRAM.replace("print", "look(7)\nprint").replace("(1, 3)", "(1, 3, 4)"))
    assert edited.value == 3 and world.made == [1, 2, 1, 3, 7, 4]
    assert [name for kind, name, replayed in steps(edited) if replayed] == ["look"] * 4


def test_what_is_read_after_a_change_is_read_again_and_the_change_is_not_made_again(world: World) -> None:
    world.run("look(1)\nlater(5)\nlook(2)")
    world.run("look(1)\nlater(4)\nlater(5)\nlook(2)")
    assert world.made == [1, 5, 2, 4, 2]


def test_equal_calls_are_told_apart_by_their_number(world: World) -> None:
    result = world.run("[look(1) for n in range(3)]")
    assert len(result.value) == 3 and world.made == [1, 1, 1]
    world.run("[look(1) for n in range(4)]")
    assert world.made == [1, 1, 1, 1]


def test_fresh_and_modes(world: World) -> None:
    world.run("look(1)")
    world.run("look(1)", fresh=True)
    assert world.made == [1, 1]
    with pytest.raises(ReplayMiss):
        world.run("look(2)", session_mode="replay")
    assert world.run("look(1)", mode="replay").value["at"] == 1
    assert world.run("look(1)", mode="off").run.id == "" and world.made == [1, 1, 1]


def test_the_clock_and_chance_are_those_of_the_first_run(world: World) -> None:
    source = "import datetime, random\nlook(1)\n(datetime.datetime.now(), random.random())"
    first = world.run(source)
    now = datetime.datetime.now(datetime.UTC).replace(tzinfo=None)
    assert abs(now - first.value[0]) < datetime.timedelta(minutes=1)
    edited = world.run(source + "  # edited")
    assert edited.value[0] > first.value[0] and edited.value[1] == first.value[1]
    fresh = world.run(source, fresh=True)
    assert fresh.value[0] > edited.value[0] and fresh.value[1] != first.value[1]
    assert world.run(source).value == fresh.value


def test_calls_together_are_recorded_in_the_order_of_the_program(world: World) -> None:
    source = "import asyncio\nawait asyncio.gather(*[later(n) for n in range(5)])"
    assert world.run(source).value == [0, 10, 20, 30, 40]
    world.run(source + "\n'edited'")
    assert sorted(world.made) == [0, 1, 2, 3, 4]


def test_an_agent_can_be_called(world: World) -> None:
    agent = agentkit.build(Spec.parse("Answer."), name="oracle", model=ScriptedModel.by(lambda messages: "42"))
    result = world.run("oracle('what is it?') + '!'", calls={"oracle": agent})
    assert result.value == "42!"
    assert [(one.kind, one.name) for one in result.events() if isinstance(one, Step)][1] == ("tool", "oracle")


def test_a_decision_is_asked_once_and_cannot_be_swallowed(world: World) -> None:
    source = "look(1)\ntry: said = delete([1, 2])\nexcept BaseException: said = 'swallowed'\nsaid"
    with pytest.raises(ApprovalPending):
        world.run(source)
    assert world.made == [1]
    asked: list[Any] = []

    async def approve(questions: tuple[Any, ...]) -> tuple[Decision, ...]:
        asked.extend(questions)
        return tuple(Decision(verdict="edit", arguments={"ids": [2]}) for _ in questions)

    world.asker = approve
    assert world.run(source).value == "deleted [2]" and world.made == [1, [2]]
    assert [(one.tool, one.text) for one in asked] == [("delete", "line 2: delete([1, 2])")]
    assert world.run(source + "\nsaid").value == "deleted [2]" and len(asked) == 1 and world.made == [1, [2]]


def test_a_denied_call_ends_the_program_at_its_line(world: World) -> None:
    with pytest.raises(SandboxError) as raised:
        world.run("try: delete([1])\nexcept BaseException: pass\n'went on'", headless="deny")
    assert (raised.value.fault, raised.value.line) == ("tool", 1) and "was denied by policy" in raised.value.message


def test_a_failed_call_is_seen_by_the_program_and_performed_again_by_the_next_run(world: World) -> None:
    broken = [True]

    @agentkit.tool(effects="none")
    def fetch(name: str) -> str:
        """Fetch."""
        if broken:
            raise ConnectionError("no line")
        return name

    with pytest.raises(SandboxError, match=r"tool: ConnectionError: no line .line 2."):
        world.run("x = 1\nfetch('a')", calls=[fetch])
    broken.clear()
    assert world.run("x = 1\nfetch('a')", calls=[fetch]).value == "a"


def test_a_frame_enters_as_records_or_as_a_handle_and_comes_back_as_a_frame(world: World) -> None:
    small, big = pandas.DataFrame({"n": [1, 2]}), pandas.DataFrame({"n": range(ROWS + 1)})
    source = "few = big.filter('n', '<', 3)\nsum(row['n'] for row in small) + few.agg('n', 'sum')"
    for _ in range(2):
        result = world.run(source, inputs={"small": small, "big": big}, outputs=("few",))
        assert result.value == 6 and list(result.outputs["few"]["n"]) == [0, 1, 2]
    big.loc[0, "n"] = 2
    assert world.run(source, inputs={"small": small, "big": big}, outputs=("few",)).value == 8
    assert world.run("len(table(2000))").value == 2000
    with pytest.raises(SandboxError, match="has 10,001 rows, and 10,000 can cross"):
        world.run(f"table({ROWS + 1})")


@pytest.mark.parametrize(
    ("source", "options", "said"),
    [
        ("1", {"inputs": {"bad": print}}, "bad is a builtin_function_or_method, which cannot cross"),
        ("1", {"inputs": {"not a name": 1}}, "cannot be a variable"),
        ("1", {"inputs": {"look": 1}}, "look is an input and a call"),
        ("1", {"outputs": ("a-b",)}, "cannot be a variable"),
        ("1", {"tier": "moon"}, "tier='moon': one of monty, process"),
        ("1", {"limits": "memory=1TB"}, "limits memory=1TB: write a size"),
        ("1", {"approve": "nothing"}, "names none of the calls"),
        ("1", {"calls": [lambda x: x]}, "a tool needs a name"),
        ("1", {"calls": {"f": 3}}, "a program calls functions and agents, not a int"),
        ("look('x')", {}, "code: TypeError: look(): at: Input should be a valid integer"),
        ("look(1, 2, 3)", {}, "code: TypeError: look(): too many positional arguments"),
        ("look(1)['none']", {}, "calls made before: look(at=1, far=False) → "),
    ],
)
def test_bad_input_is_told_in_one_line(world: World, source: str, options: Any, said: str) -> None:
    with pytest.raises((UserError, SandboxError)) as raised:
        world.run(source, **options)
    assert said in str(raised.value)


def test_arguments_of_other_types_and_a_time_limit(world: World) -> None:
    @agentkit.tool(effects="none", approve="ask")
    def buy(order: Order, day: datetime.date | None = None) -> list[Any]:
        """Buy."""
        return [order.what, order.day, day]

    @agentkit.tool(timeout=0.05, effects="none")
    async def slow() -> None:
        """Slow."""
        await asyncio.sleep(5)

    source = "import datetime\nd = datetime.date(2026, 1, 2)\nbuy({'day': d, 'what': ['tea']}, day=d)"
    for _ in range(2):
        bought = world.run(source, calls=[buy], headless="allow")
        assert bought.value == [["tea"], datetime.date(2026, 1, 2), datetime.date(2026, 1, 2)]
    with pytest.raises(SandboxError, match="tool: TimeoutError"):
        world.run("slow()", calls=[slow])


def test_without_a_session_nothing_is_recorded_and_nothing_approved() -> None:
    assert asyncio.run(agentkit.sandbox("n + 1", inputs={"n": 1})).value == 2

    @agentkit.tool(approve="ask")
    def send(text: str) -> str:
        """Send."""
        raise AssertionError

    with pytest.raises(SandboxError, match="needs an approval, and nothing is recorded here"):
        asyncio.run(agentkit.sandbox("try: send('x')\nexcept BaseException: pass", calls=[send]))
    with pytest.raises(SandboxError, match="needs an approval, and nothing is recorded here"):
        asyncio.run(agentkit.sandbox("_doubtful()", calls={"_doubtful": _doubtful}, approve="_doubt*"))


def test_a_call_that_was_tampered_with_in_the_journal_is_not_replayed(world: World) -> None:
    world.run("look(1)\nlook(2)")
    with sqlite3.connect(world.folder / ".agentkit" / "journal.db") as connection:
        calls = "SELECT id FROM step WHERE kind = 'tool'"
        changed = connection.execute(f"UPDATE body SET body = replace(body, '2026', '1999') WHERE step IN ({calls})")
        assert changed.rowcount == 2
    with pytest.raises(JournalCorrupt):
        world.run("look(1)\nlook(2)\n'edited'")
    assert world.made == [1, 2]


KILLED = """
import asyncio, sys
import agentkit

@agentkit.tool(effects="once")
def pay(n: int) -> int:
    "Pay."
    with open("paid.txt", "a") as file:
        file.write(f"{n}\\n")
    return n

async def main():
    with agentkit.session("here"):
        result = await agentkit.sandbox("import random\\n[pay(n) + random.randrange(1) for n in range(5)]", calls=[pay])
        print(result.value)

asyncio.run(main())
"""


@pytest.mark.parametrize("point", ["intent:3", "call:4", "record:5"])
def test_killed_anywhere_no_payment_is_made_twice(tmp_path: Path, point: str) -> None:
    """Every journaled step passes the three points: the program is the first, its clock the second, then the calls."""

    def run(**environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", KILLED],
            cwd=tmp_path,
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
        )

    assert run(AGENTKIT_CRASH_AT=point).returncode == -signal.SIGKILL
    again = run()
    paid = (tmp_path / "paid.txt").read_text().split() if (tmp_path / "paid.txt").exists() else []
    assert len(paid) == len(set(paid))
    if "InDoubt" in again.stderr:
        # A payment that was begun, and of which nobody knows whether it was made, is not made again unasked.
        with agentkit.session("here", folder=tmp_path) as session:
            (row,) = session.in_doubt()
            done = str(row.request.partition("=")[2]) in paid
            session.settle(row.id, "result" if done else "redo", int(row.request.partition("=")[2]) if done else None)
        again = run()
    assert again.stdout == "[0, 1, 2, 3, 4]\n", again.stderr
    assert (tmp_path / "paid.txt").read_text().split() == ["0", "1", "2", "3", "4"]


def test_in_doubt_is_a_control_signal_too(world: World) -> None:
    with pytest.raises(InDoubt), agentkit.session("here", folder=world.folder):
        asyncio.run(agentkit.sandbox("try: doubtful()\nexcept BaseException: pass", calls={"doubtful": _doubtful}))


def _doubtful() -> int:
    """Ends as a step in doubt does."""
    raise InDoubt(step=1, name="doubtful", reason="was cut off")
