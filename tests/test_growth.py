"""What a step costs does not depend on what went before it: counted where that can be, timed side by side where not.

The figures themselves are measured by `python -m tests.benchmarks`.
"""

from __future__ import annotations

import asyncio
import sqlite3
import statistics
import threading
import time
import tracemalloc
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from pydantic_ai import ModelRetry, RunContext
from pydantic_ai.messages import ModelMessage
from pydantic_ai.usage import UsageLimits

from agentkit.agent.agent import DurableAgent
from agentkit.journal import keys
from agentkit.journal.canonical import canonical
from agentkit.journal.keys import MessageChain
from agentkit.journal.storage import JOURNAL_FILE
from agentkit.runtime.session import Session, session
from agentkit.testing import Call, Output, ScriptedModel
from tests.benchmarks.agents import INSTRUCTIONS, UNLIMITED, add, script, silent
from tests.benchmarks.door import Conversation, at_the_door

pytestmark = pytest.mark.alone


def journal(folder: Path) -> Path:
    return folder / ".agentkit" / JOURNAL_FILE


def count_upwards(folder: Path, model: ScriptedModel, prompt: str) -> None:
    agent = DurableAgent(model, name="counter", instructions=INSTRUCTIONS, tools=[add])
    with session(folder=folder):
        assert asyncio.run(agent.run(prompt, usage_limits=UNLIMITED)).output == "done"


# -- counted


def test_each_message_of_a_run_is_read_once_for_its_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: Counter[str] = Counter()

    def counted(value: object, ids: dict[str, str]) -> Any:
        read[type(value).__name__] += 1
        return projected(value, ids)

    projected = canonical
    monkeypatch.setattr(keys, "canonical", counted)
    for steps in (20, 120):
        for model in (script(steps), silent()):
            read.clear()
            count_upwards(tmp_path, model, f"{steps} steps")
            # Every second step is a reply of the model, and before each reply stands a request.
            assert read["ModelRequest"] + read["ModelResponse"] == steps


def test_a_replayed_step_reads_one_record(tmp_path: Path) -> None:
    for said in (10, 1_000):
        with session(folder=tmp_path) as opened:
            asyncio.run(talk(opened, said, steps=5))
        with session(folder=tmp_path) as opened:
            asked: list[str] = []
            opened.store._connection().set_trace_callback(asked.append)
            asyncio.run(talk(opened, said, steps=5))
            assert len(asked) == 5


async def talk(opened: Session, said: int, *, steps: int) -> None:
    conversation = Conversation(at_the_door(), said=said, tag=f"{said} said", session=opened)
    for _ in range(steps):
        await conversation.step()


def test_a_message_is_stored_once_however_often_it_was_sent(tmp_path: Path) -> None:
    with session(folder=tmp_path) as opened:
        asyncio.run(talk(opened, 100, steps=20))
    once = nodes(tmp_path)
    assert once == 101 + 2 * 19
    with session(folder=tmp_path) as opened:
        asyncio.run(talk(opened, 100, steps=20))
    assert nodes(tmp_path) == once


def nodes(folder: Path) -> int:
    connection = sqlite3.connect(journal(folder))
    try:
        return int(connection.execute("SELECT count(*) FROM node").fetchone()[0])
    finally:
        connection.close()


def test_the_disk_grows_by_the_step_and_not_by_the_length_of_the_run(tmp_path: Path) -> None:
    sizes = {}
    for steps in (100, 200, 400):
        folder = tmp_path / str(steps)
        with session(folder=folder) as opened:
            asyncio.run(talk(opened, 0, steps=steps))
        sizes[steps] = journal(folder).stat().st_size
    early, late = (sizes[200] - sizes[100]) / 100, (sizes[400] - sizes[200]) / 200
    assert late < 1.2 * early


# -- chained equals full


def looks(ctx: RunContext[None], at: int) -> str:
    """Look at a number; fails at first."""
    if at == 0 and ctx.retry == 0:
        raise ModelRetry("once more")
    return f"number {at}"


CONVERSATIONS: dict[str, Sequence[Any]] = {
    "parallel calls": ([Call("looks", {"at": 1}), Call("looks", {"at": 2})], Call("looks", {"at": 3}), Output(7)),
    "a retry": (Call("looks", {"at": 0}), Call("looks", {"at": 0}), Output(7)),
    "a wrong output": (Output("no number"), Output(7)),
}


@pytest.fixture
def checked(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Every digest that is asked of a chain is compared with that of the whole history; the lengths of those."""
    lengths: list[int] = []
    chained = MessageChain.digest

    def compared(self: MessageChain, messages: Sequence[ModelMessage], *, trusted: bool = True) -> bytes:
        answer = chained(self, messages, trusted=trusted)
        assert trusted
        assert answer == chained(MessageChain(), messages, trusted=False)
        lengths.append(len(messages))
        return answer

    monkeypatch.setattr(MessageChain, "digest", compared)
    yield lengths
    assert lengths


@pytest.mark.parametrize("replies", CONVERSATIONS.values(), ids=list(CONVERSATIONS))
def test_keys_chained_through_a_run_are_those_of_its_whole_history(
    tmp_path: Path, checked: list[int], replies: Sequence[Any]
) -> None:
    agent = DurableAgent(ScriptedModel([*replies, *replies]), name="checked", tools=[looks], output_type=int, retries=3)
    with session(folder=tmp_path):
        first = asyncio.run(agent.run("Go."))
        assert first.output == 7
        second = asyncio.run(agent.run("Go on.", message_history=first.all_messages()))
    assert second.output == 7
    assert max(checked) > len(first.all_messages())


def test_keys_chained_through_a_stream_are_those_of_its_whole_history(tmp_path: Path, checked: list[int]) -> None:
    agent = DurableAgent(ScriptedModel([Call("looks", {"at": 1}), "one two three"]), name="checked", tools=[looks])

    async def stream() -> str:
        async with agent.run_stream("Go.", usage_limits=UsageLimits(request_limit=5)) as streamed:
            return str(await streamed.get_output())

    with session(folder=tmp_path):
        assert asyncio.run(stream()) == "one two three"


# -- timed side by side, with room for a noisy machine


def test_a_step_costs_as_much_after_10_000_messages_as_after_100(tmp_path: Path) -> None:
    taken: dict[str, list[float]] = {}

    async def side_by_side(opened: Session, kind: str) -> None:
        conversations = {
            said: Conversation(at_the_door(), said=said, tag=f"{said} said", session=opened) for said in (100, 10_000)
        }
        for _ in range(5):
            for said, conversation in conversations.items():
                await conversation.step()
                worked = time.process_time()
                steps = [await conversation.step() for _ in range(15)]
                worked = time.process_time() - worked
                # A live step mostly waits for the disk, which others use too: what it works is compared.
                taken.setdefault(f"{kind} {said}", []).append(worked if kind == "live" else statistics.median(steps))

    for kind in ("live", "replayed"):
        with session(folder=tmp_path) as opened:
            asyncio.run(side_by_side(opened, kind))
    for kind in ("live", "replayed"):
        assert min(taken[f"{kind} 10000"]) < 2 * min(taken[f"{kind} 100"])


def test_the_loop_runs_on_while_the_disk_is_waited_for(tmp_path: Path) -> None:
    held = 0.5
    gaps: list[float] = []

    async def ticker() -> None:
        while True:
            started = time.perf_counter()
            await asyncio.sleep(0.002)
            gaps.append(time.perf_counter() - started)

    async def step_against_a_busy_disk(opened: Session) -> float:
        conversation = Conversation(at_the_door(), said=0, tag="busy", session=opened)
        await conversation.step()
        other = sqlite3.connect(opened.path, isolation_level=None, check_same_thread=False)
        other.execute("BEGIN IMMEDIATE")
        threading.Timer(held, lambda: other.execute("ROLLBACK")).start()
        ticking = asyncio.create_task(ticker())
        took = await conversation.step()
        ticking.cancel()
        other.close()
        return took

    with session(folder=tmp_path) as opened:
        assert asyncio.run(step_against_a_busy_disk(opened)) > 0.9 * held
    assert max(gaps) < held / 2


# -- passing over


def _counter(turns: int, *, live: bool) -> DurableAgent:
    def reply(messages: list[ModelMessage]) -> Any:
        assert live, "it was walked"
        n = len(messages) // 2
        return Call("add", {"a": n, "b": 1}) if n < turns else "done"

    return DurableAgent(ScriptedModel.by(reply), name="counter", instructions=INSTRUCTIONS, tools=[add])


def _passed(folder: Path, turns: int) -> tuple[float, int, int]:
    """Seconds of work, bytes of memory and questions to the disk of a run of so many turns that is on record."""
    asked: list[str] = []
    agent = _counter(turns, live=False)
    with session(folder=folder) as opened:
        opened.store._connection().set_trace_callback(asked.append)
        tracemalloc.start()
        try:
            worked = time.process_time()
            assert asyncio.run(agent.run(f"{turns} turns")).output == "done"
            return time.process_time() - worked, tracemalloc.get_traced_memory()[1], len(asked)
        finally:
            tracemalloc.stop()


def test_passing_over_costs_by_the_turn(tmp_path: Path) -> None:
    few, many = 40, 200
    for turns in (few, many):
        with session(folder=tmp_path):
            asyncio.run(_counter(turns, live=True).run(f"{turns} turns"))
    taken = {turns: [_passed(tmp_path, turns) for _ in range(3)] for turns in (few, many)}
    seconds, peak = ({turns: min(one[place] for one in taken[turns]) for turns in taken} for place in (0, 1))
    assert seconds[many] < 1.5 * many / few * seconds[few]
    assert peak[many] < 1.5 * many / few * peak[few]
    # What is on record is read by the page, and not by the step.
    assert taken[many][0][2] <= taken[few][0][2] + 2 * many // 256
