"""The comparison's work on LangGraph: tasks in an entrypoint, with the SQLite checkpointers, durability "sync".

A replay is LangGraph's resumption: the entrypoint ends in an error, as a crash would end it, and is invoked again on
the same thread. Timed is the whole invocation, which reads what the tasks had written first.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.func import entrypoint, task
from pydantic_ai import Agent
from pydantic_ai.durable_exec import JSON_CODEC
from pydantic_ai.messages import ModelMessage, ModelResponse
from pydantic_ai.models import ModelRequestParameters
from pydantic_ai.models.wrapper import WrapperModel
from pydantic_ai.settings import ModelSettings

from tests.benchmarks.agents import INSTRUCTIONS, UNLIMITED, script
from tests.benchmarks.side import Performed, Side

THREAD: Any = {"configurable": {"thread_id": "bench"}}


class Unfinished(Exception):
    """Ends an entrypoint before LangGraph takes it for done."""


@contextmanager
def bare_steps(folder: Path, *, steps: int) -> Iterator[Side]:
    performed = Performed()

    def answer(number: int) -> object:
        return performed.answer()

    step = task(answer)

    def count(prompt: str) -> None:
        for number in range(steps):
            step(number).result()
        raise Unfinished

    with SqliteSaver.from_conn_string(str(folder / "langgraph.sqlite")) as saver:
        counting = entrypoint(checkpointer=saver)(count)

        def invoke(given: str | None) -> float:
            started = time.perf_counter()
            with suppress(Unfinished):
                counting.invoke(given, THREAD, durability="sync")
            return time.perf_counter() - started

        yield Side(
            name="LangGraph (SqliteSaver)",
            record=lambda: invoke("Count."),
            replay=lambda: invoke(None),
            performed=performed,
        )


def agent_run(folder: Path, *, steps: int) -> Side:
    """The same pydantic-ai agent, each request to its model and each call of its tool a task."""
    performed = Performed()
    # It has no reply left after the recording: asked again it would raise.
    scripted = script(steps)

    async def answer(
        messages: list[ModelMessage], settings: ModelSettings | None, params: ModelRequestParameters
    ) -> Any:
        return JSON_CODEC.dump(ModelResponse, await scripted.request(messages, settings, params))

    async def plus(a: int, b: int) -> int:
        return performed.add(a, b)

    ask, added = task(answer), task(plus)

    class Asks(WrapperModel):
        async def request(
            self,
            messages: list[ModelMessage],
            model_settings: ModelSettings | None,
            model_request_parameters: ModelRequestParameters,
        ) -> ModelResponse:
            response = JSON_CODEC.load(ModelResponse, await ask(messages, model_settings, model_request_parameters))
            assert isinstance(response, ModelResponse)
            return response

    async def add(a: int, b: int) -> int:
        """Add two numbers."""
        return int(await added(a, b))

    counter = Agent(Asks(scripted), name="counter", instructions=INSTRUCTIONS, tools=[add])

    async def count(prompt: str) -> None:
        finished = await counter.run(prompt, usage_limits=UNLIMITED)
        assert finished.output == "done"
        raise Unfinished

    async def invoke(given: str | None) -> float:
        async with AsyncSqliteSaver.from_conn_string(str(folder / "langgraph-agent.sqlite")) as saver:
            counting = entrypoint(checkpointer=saver)(count)
            started = time.perf_counter()
            with suppress(Unfinished):
                await counting.ainvoke(given, THREAD, durability="sync")
            return time.perf_counter() - started

    return Side(
        name="LangGraph (AsyncSqliteSaver)",
        record=lambda: asyncio.run(invoke("Count.")),
        replay=lambda: asyncio.run(invoke(None)),
        performed=performed,
    )
