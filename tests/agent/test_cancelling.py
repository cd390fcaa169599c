"""A cancelled run of an agent: it ends soon, says so in its record, and the next equal one goes on from there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from pydantic_ai import Agent, CancellationToken, RunCancelled, RunContext
from pydantic_ai.exceptions import UserError as LibraryUserError
from pydantic_ai.messages import ModelMessage, ModelResponse, TextPart, ToolCallPart
from pydantic_ai.models.function import AgentInfo, FunctionModel

from agentkit.agent.agent import durable
from agentkit.runtime.session import session
from agentkit.tools.declaration import tool

SECONDS = 20.0


def calls_once(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
    returned = any(part.part_kind == "tool-return" for part in messages[-1].parts)
    return ModelResponse(parts=[TextPart("done") if returned else ToolCallPart("work", {})])


def test_a_run_that_a_token_stopped_is_taken_up(tmp_path: Path) -> None:
    asked = 0

    def counted(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        nonlocal asked
        asked += 1
        return calls_once(messages, info)

    plain: Agent[None, str] = Agent(FunctionModel(counted), name="a")
    begun, free = asyncio.Event(), asyncio.Event()

    @plain.tool_plain
    @tool(effects="none")
    async def work() -> str:
        """Work."""
        begun.set()
        await free.wait()
        return "worked"

    async def stopped() -> None:
        token = CancellationToken()
        run = asyncio.create_task(durable(plain).run("go", cancellation_token=token))
        await asyncio.wait_for(begun.wait(), SECONDS)
        token.cancel()
        with pytest.raises(RunCancelled):
            await asyncio.wait_for(run, SECONDS)

    async def taken_up() -> str:
        free.set()
        return str((await asyncio.wait_for(durable(plain).run("go"), SECONDS)).output)

    with session(folder=tmp_path) as opened:
        asyncio.run(stopped())
        assert [run.status for run in opened.runs()] == ["stopped"]
    assert asked == 1
    with session(folder=tmp_path):
        assert asyncio.run(taken_up()) == "done"
    assert asked == 2


def test_a_journaled_tool_that_cancels_its_run_is_refused_at_once(tmp_path: Path) -> None:
    agent: Agent[None, str] = Agent(FunctionModel(calls_once), name="a")

    @agent.tool
    async def work(ctx: RunContext[None]) -> None:
        ctx.cancel()
        await asyncio.Event().wait()

    with session(folder=tmp_path), pytest.raises(LibraryUserError, match="`cancel` is not supported inside a durable"):
        asyncio.run(asyncio.wait_for(durable(agent).run("go"), SECONDS))


def test_a_stream_that_is_cancelled_while_it_waits_ends(tmp_path: Path) -> None:
    async def main() -> list[str]:
        begun = asyncio.Event()

        async def stream(messages: list[ModelMessage], info: AgentInfo) -> AsyncIterator[str]:
            yield "some text"
            begun.set()
            await asyncio.Event().wait()

        async def cancel(result: Any) -> None:
            await begun.wait()
            await asyncio.sleep(0.1)
            await result.cancel()

        agent: Agent[None, str] = Agent(FunctionModel(stream_function=stream), name="a")
        async with durable(agent).run_stream("x") as result:
            cancelling = asyncio.create_task(cancel(result))
            texts = [text async for text in result.stream_text(debounce_by=None)]
            await cancelling
        return texts

    with session(folder=tmp_path):
        assert asyncio.run(asyncio.wait_for(main(), SECONDS)) == ["some text"]
