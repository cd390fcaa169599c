"""The comparison's work on agentkit: requests at the engine's own door, and an agent in a session.

A replay opens the session anew, as a restarted kernel does. Timed is everything, the opening too.
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from agentkit.agent.agent import DurableAgent
from agentkit.events import Event, Step
from agentkit.runtime.session import session
from tests.benchmarks.agents import INSTRUCTIONS, UNLIMITED, add, script
from tests.benchmarks.door import Conversation, at_the_door
from tests.benchmarks.side import Performed, Side


def bare_steps(folder: Path, *, steps: int) -> Side:
    """The history grows by two messages with each of these steps; those of the other engines know of no history."""
    performed = Performed()

    async def work() -> None:
        with session(folder=folder / "bare") as opened:
            talk = Conversation(at_the_door(performed.answer), said=0, tag="bench", session=opened)
            await talk.begin()
            for _ in range(steps - 1):
                await talk.step()
            await talk.end()

    def timed() -> float:
        started = time.perf_counter()
        asyncio.run(work())
        return time.perf_counter() - started

    return Side(name="agentkit", record=timed, replay=timed, performed=performed)


def agent_run(folder: Path, *, steps: int) -> Side:
    performed = Performed()
    # It has no reply left after the recording: asked again it would raise.
    counter = DurableAgent(script(steps), name="counter", instructions=INSTRUCTIONS, tools=[add])

    def count(event: Event) -> None:
        # Not counted in the tool: what a tool reads is part of its identity, and a new count would make it a new tool.
        if isinstance(event, Step) and event.status == "started":
            performed.times[event.kind] += 1

    def timed() -> float:
        started = time.perf_counter()
        with session(folder=folder / "agent") as opened:
            opened.listen(count)
            answer = asyncio.run(counter.run("Count.", usage_limits=UNLIMITED))
        assert answer.output == "done"
        return time.perf_counter() - started

    return Side(name="agentkit", record=timed, replay=timed, performed=performed)
