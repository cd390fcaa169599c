"""What a second run answers when something changed in between, or the first was stopped, or another runs beside it."""

from __future__ import annotations

import asyncio
import json
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from pydantic_ai.exceptions import ModelHTTPError

from agentkit.agent.agent import DurableAgent
from agentkit.agent.build import build
from agentkit.agent.spec import Spec
from agentkit.errors import InDoubt, JournalFull
from agentkit.runtime.session import Session, session
from agentkit.testing import ScriptedModel
from agentkit.tools.declaration import tool
from tests.serving import Fault, Serving, serving

Run = Callable[[], Awaitable[Any]]
HAPPENED: list[str] = []


@pytest.fixture(autouse=True)
def far_side() -> None:
    HAPPENED.clear()


def agent(model: Any, *tools: Any) -> DurableAgent:
    return build(Spec(instructions="Do it."), name="worker", tools=tools, model=model)


def asked(model: ScriptedModel) -> list[str]:
    return [str(request.messages[-1].parts[-1].content) for request in model.requests]  # type: ignore[union-attr]


def echo(**options: Any) -> ScriptedModel:
    return ScriptedModel.by(lambda messages: f"answer to {messages[-1].parts[-1].content}", **options)  # type: ignore[union-attr]


async def outputs(worker: DurableAgent, *prompts: str) -> list[str]:
    return [str((await worker.run(prompt)).output) for prompt in prompts]


def within(folder: Path, work: Callable[[Session], Awaitable[Any]]) -> Any:
    async def main(opened: Session) -> Any:
        return await work(opened)

    with session("test", folder=folder) as opened:
        return asyncio.run(main(opened))


# -- something was edited in between


def test_a_prompt_that_was_edited_gets_its_own_answer(tmp_path: Path) -> None:
    within(tmp_path, lambda _: outputs(agent(echo()), "start", "A"))
    model = echo()
    again = within(tmp_path, lambda _: outputs(agent(model), "start", "B"))
    assert again == ["answer to start", "answer to B"]
    assert asked(model) == ["B"]


def test_two_branches_keep_their_answers_when_their_delays_are_swapped(tmp_path: Path) -> None:
    async def branches(model: ScriptedModel, delays: dict[str, float]) -> list[str]:
        worker = agent(model)

        async def branch(name: str) -> str:
            await asyncio.sleep(delays[name])
            return (await outputs(worker, name))[0]

        return list(await asyncio.gather(branch("one"), branch("two")))

    expected = ["answer to one", "answer to two"]
    assert within(tmp_path, lambda _: branches(echo(), {"one": 0.0, "two": 0.05})) == expected
    model = echo()
    assert within(tmp_path, lambda _: branches(model, {"one": 0.05, "two": 0.0})) == expected
    assert asked(model) == []


def test_an_inserted_step_is_asked_and_the_rest_is_reused(tmp_path: Path) -> None:
    within(tmp_path, lambda _: outputs(agent(echo()), "first", "last"))
    model = echo()
    within(tmp_path, lambda _: outputs(agent(model), "first", "inserted", "last"))
    assert asked(model) == ["inserted"]


def test_a_429_is_an_attempt_and_never_an_answer(tmp_path: Path) -> None:
    # Longer than anybody waits, so that the first run ends with it.
    refusal = Fault(status=429, headers={"retry-after": "3600"})
    with serving() as server:
        server.script(refusal)
        with pytest.raises(ModelHTTPError):
            within(tmp_path, lambda _: outputs(agent(server.model()), "hello"))
        assert within(tmp_path, lambda _: outputs(agent(server.model()), "hello")) == ["You said: hello"]
        assert [entry.status for entry in server.ledger()] == [429, 200]
    with session(folder=tmp_path) as opened:
        assert opened.store.double_payments() == []


# -- the connection broke


@pytest.mark.parametrize("cut", ["before", "middle"])
def test_what_the_server_may_charge_without_an_answer_is_listed(tmp_path: Path, cut: Any) -> None:
    with serving() as server:
        server.script(*[Fault(cut=cut)] * (4 if cut == "before" else 1))
        with suppress(Exception):
            within(tmp_path, lambda _: outputs(agent(server.model()), "hello"))
        assert within(tmp_path, lambda _: outputs(agent(server.model()), "hello")) == ["You said: hello"]
    with session(folder=tmp_path) as opened:
        assert len(opened.store.double_payments()) == 1


# -- stopped


async def stopped(run: Awaitable[Any], when: Callable[[], bool]) -> None:
    """Press Stop once `when` is true."""
    task = asyncio.ensure_future(run)
    while not when() and not task.done():
        await asyncio.sleep(0.005)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def test_a_request_that_was_stopped_is_asked_again_and_listed(tmp_path: Path) -> None:
    with serving(delay=0.3) as server:

        async def work(opened: Session) -> list[str]:
            worker = agent(server.model())
            await stopped(outputs(worker, "hello"), lambda: bool(server.ledger()))
            opened.start_cell()
            return await outputs(worker, "hello")

        assert within(tmp_path, work) == ["You said: hello"]
        assert len(server.ledger()) == 2
    with session(folder=tmp_path) as opened:
        assert [row.attempt for row in opened.store.double_payments()] == [2]


def test_stopped_at_any_moment_a_run_can_be_run_again(tmp_path: Path) -> None:
    """At every await of the run, the one while the intent is written among them: nothing is waited for for ever."""

    @tool(effects="none")
    async def look(name: str) -> str:
        """Look something up."""
        return f"saw {name}"

    prompt = 'do look {"name": "x"}'
    with serving() as server:

        async def work(opened: Session) -> list[str]:
            worker = agent(server.model(), look)
            for wait in range(40):
                opened.start_cell()
                task = asyncio.ensure_future(outputs(worker, prompt))
                for _ in range(wait):
                    await asyncio.sleep(0)
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task
            opened.start_cell()
            return await asyncio.wait_for(outputs(worker, prompt), timeout=20)

        assert within(tmp_path, work) == [f"You said: {prompt} saw x"]


def slow_once(began: threading.Event) -> Any:
    @tool(effects="once")
    def send(name: str) -> str:
        """Send something that cannot be taken back."""
        began.set()
        time.sleep(0.3)
        HAPPENED.append(name)
        return f"sent {name}"

    return send


SEND = 'do send {"name": "x"}'
SENT = f"You said: {SEND} sent x"


def test_a_rerun_joins_the_thread_that_a_stop_left_running(tmp_path: Path) -> None:
    began = threading.Event()
    with serving() as server:

        async def work(opened: Session) -> list[str]:
            worker = agent(server.model(), slow_once(began))
            await stopped(outputs(worker, SEND), began.is_set)
            assert HAPPENED == [], "the thread was to be running still"
            opened.start_cell()
            return await outputs(worker, SEND)

        assert within(tmp_path, work) == [SENT]
    assert HAPPENED == ["x"]


def test_what_a_stopped_runs_thread_did_is_recorded_before_the_session_closes(tmp_path: Path) -> None:
    began = threading.Event()
    with serving() as server:
        worker = agent(server.model(), slow_once(began))
        within(tmp_path, lambda _: stopped(outputs(worker, SEND), began.is_set))
        assert HAPPENED == ["x"]
        assert within(tmp_path, lambda _: outputs(worker, SEND)) == [SENT]
    assert HAPPENED == ["x"]


def test_an_async_once_tool_that_was_stopped_is_in_doubt(tmp_path: Path) -> None:
    @tool(effects="once")
    async def send(name: str) -> str:
        """Send something that cannot be taken back."""
        HAPPENED.append(name)
        await asyncio.sleep(10)
        return f"sent {name}"

    with serving() as server:
        worker = agent(server.model(), send)
        within(tmp_path, lambda _: stopped(outputs(worker, SEND), lambda: bool(HAPPENED)))
        with pytest.raises(InDoubt, match="was stopped while it ran") as doubt:
            within(tmp_path, lambda _: outputs(worker, SEND))
        with session(folder=tmp_path) as opened:
            opened.settle(doubt.value.step, "result", "sent x")
        assert within(tmp_path, lambda _: outputs(worker, SEND)) == [SENT]
    assert HAPPENED == ["x"]


# -- two at once


@pytest.fixture(scope="module", params=["directly", "through one caller"])
def together(request: pytest.FixtureRequest) -> dict[str, Any]:
    through = ["--caller"] if request.param == "through one caller" else []
    command = [sys.executable, "-m", "tests.kill.together", "--rounds=2", *through]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return {**json.loads(done.stdout.splitlines()[-1]), "shared": bool(through)}


def test_two_processes_on_one_journal_do_everything_once(together: dict[str, Any]) -> None:
    both = together["both"]
    assert both["outputs_equal"]
    assert set(both["effects"].values()) == {1}
    assert both["asked"] == both["expected"], "a model request was paid by both"
    assert both["listed"] == 0
    assert both["callers"] == together["shared"]


def test_when_one_of_two_is_killed_or_both_nothing_is_lost_or_doubled(together: dict[str, Any]) -> None:
    assert together["problems"] == []
    assert (together["lost"], together["doubled"], together["unlisted"]) == (0, 0, 0)
    # Where one goes on, its caller does.
    assert set(together["callers"]["one"]) == {int(together["shared"])}
    if together["shared"]:
        assert together["asked_again"]["kernel"] == 0


def test_two_tasks_that_ask_the_same_at_once_pay_once_where_the_step_is_shared(tmp_path: Path) -> None:
    @tool(effects="none", share="project")
    async def look(name: str) -> str:
        """Look something up."""
        HAPPENED.append(name)
        await asyncio.sleep(0.05)
        return f"saw {name}"

    prompts = ['one\ndo look {"name": "x"}', 'two\ndo look {"name": "x"}']

    async def both(server: Serving) -> list[list[str]]:
        worker = agent(server.model(), look)
        return await asyncio.gather(*(outputs(worker, prompt) for prompt in prompts))

    with serving() as server:
        found = within(tmp_path, lambda _: both(server))
    assert [output for (output,) in found] == [f"You said: {prompt} saw x" for prompt in prompts]
    assert HAPPENED == ["x"]


# -- the disk was full for a moment


def test_a_result_that_could_not_be_written_is_in_doubt_and_not_waited_for(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    @tool(effects="once")
    async def send(name: str) -> str:
        """Send something that cannot be taken back."""
        HAPPENED.append(name)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1, hard))
        return f"sent {name}"

    async def work(opened: Session) -> int:
        worker = agent(server.model(), send)
        with pytest.raises(JournalFull):
            await outputs(worker, SEND)
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        opened.start_cell()
        with pytest.raises(InDoubt) as doubt:
            await asyncio.wait_for(outputs(worker, SEND), timeout=10)
        return doubt.value.step

    with serving() as server:
        try:
            step = within(tmp_path, work)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        with session(folder=tmp_path) as opened:
            opened.settle(step, "result", "sent x")
        assert within(tmp_path, lambda _: outputs(agent(server.model(), send), SEND)) == [SENT]
    assert HAPPENED == ["x"]
