"""Runs that are cancelled: inside a tool, inside a stream, before the first token; each ends soon, with what it had."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from typing import Any

import pytest
from pydantic_ai import Agent, CancellationToken, RunCancelled, RunContext
from pydantic_ai.messages import ModelMessage, ModelResponse, ToolCallPart
from pydantic_ai.models.function import AgentInfo, FunctionModel
from pydantic_ai.models.test import TestModel

SECONDS = 10.0


async def within(work: Awaitable[Any]) -> Any:
    return await asyncio.wait_for(work, SECONDS)


def begin(agent: Agent[None, Any], **options: Any) -> asyncio.Task[Any]:
    return asyncio.create_task(agent.run("go", **options))


class Waiting:
    """Something that has begun, and never ends by itself."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()

    async def wait(self) -> None:
        self.begun.set()
        await asyncio.Event().wait()


def calls_a_tool(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
    return ModelResponse(parts=[ToolCallPart("work", {})])


async def stopped_by(how: str, task: asyncio.Task[Any], token: CancellationToken) -> list[ModelMessage]:
    if how == "token":
        token.cancel()
        with pytest.raises(RunCancelled) as cancelled:
            await within(task)
        return cancelled.value.all_messages()
    task.cancel()
    with pytest.raises(asyncio.CancelledError) as ended:
        await within(task)
    kept = RunCancelled.from_cancellation(ended.value)
    assert kept is not None
    return kept.all_messages()


@pytest.mark.parametrize("how", ["token", "task"])
def test_a_run_is_cancelled_before_the_first_token(how: str) -> None:
    async def main() -> int:
        waiting, token = Waiting(), CancellationToken()

        async def reply(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
            await waiting.wait()
            raise AssertionError

        task = begin(Agent(FunctionModel(reply), name="a"), cancellation_token=token)
        await within(waiting.begun.wait())
        return len(await stopped_by(how, task, token))

    assert asyncio.run(main()) == 1


@pytest.mark.parametrize("how", ["token", "task"])
def test_a_run_is_cancelled_inside_a_tool(how: str) -> None:
    async def main() -> list[str]:
        waiting, token = Waiting(), CancellationToken()
        agent = Agent(FunctionModel(calls_a_tool), name="a")

        @agent.tool_plain
        async def work() -> None:
            await waiting.wait()

        task = begin(agent, cancellation_token=token)
        await within(waiting.begun.wait())
        return [message.kind for message in await stopped_by(how, task, token)]

    assert asyncio.run(main())[:2] == ["request", "response"]


@pytest.mark.parametrize("how", ["token", "task"])
def test_a_run_is_cancelled_inside_a_stream(how: str) -> None:
    async def main() -> str:
        waiting, token = Waiting(), CancellationToken()

        async def stream(messages: list[ModelMessage], info: AgentInfo) -> AsyncIterator[str]:
            yield "some text"
            await waiting.wait()

        async def handler(ctx: RunContext[Any], events: Any) -> None:
            async for _ in events:
                pass

        agent = Agent(FunctionModel(stream_function=stream), name="a")
        task = begin(agent, cancellation_token=token, event_stream_handler=handler)
        await within(waiting.begun.wait())
        # What was yielded must have arrived.
        await asyncio.sleep(0.1)
        response = (await stopped_by(how, task, token))[-1]
        assert isinstance(response, ModelResponse)
        return f"{response.text} {response.state} {response.model_name} {response.usage.output_tokens}"

    assert asyncio.run(main()) == "some text interrupted function::stream 2"


def test_a_token_cancelled_before_starts_nothing() -> None:
    token = CancellationToken()
    token.cancel()
    with pytest.raises(RunCancelled) as cancelled:
        asyncio.run(within(Agent(TestModel(), name="a").run("go", cancellation_token=token)))
    assert cancelled.value.all_messages() == []


def test_one_token_cancels_many_runs() -> None:
    async def main() -> Any:
        waiting, token = [Waiting(), Waiting()], CancellationToken()

        async def reply(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
            await next(one for one in waiting if not one.begun.is_set()).wait()
            raise AssertionError

        agent = Agent(FunctionModel(reply), name="a")
        tasks = [asyncio.create_task(agent.run(prompt, cancellation_token=token)) for prompt in ("one", "two")]
        for one in waiting:
            await within(one.begun.wait())
        token.cancel()
        return await within(asyncio.gather(*tasks, return_exceptions=True))

    assert all(isinstance(result, RunCancelled) for result in asyncio.run(main()))


async def words(messages: list[ModelMessage], info: AgentInfo) -> AsyncIterator[str]:
    for word in ("one ", "two ", "three ", "four "):
        yield word


def figures(response: ModelResponse) -> tuple[str | None, int, bool]:
    return response.model_name, response.usage.input_tokens, response.usage.output_tokens > 0


def test_a_live_stream_has_its_model_and_its_usage() -> None:
    async def main() -> list[Any]:
        async with Agent(FunctionModel(stream_function=words), name="a").run_stream("x") as result:
            return [figures(result.response) async for _ in result.stream_text(debounce_by=None)]

    assert set(asyncio.run(main())) == {("function::words", 50, True)}


@pytest.mark.parametrize("how", ["break", "cancel"])
def test_an_interrupted_response_has_its_model_and_its_usage(how: str) -> None:
    async def main() -> ModelResponse:
        async with Agent(FunctionModel(stream_function=words), name="a").run_stream("x") as result:
            async for _ in result.stream_text(debounce_by=None):
                if how == "cancel":
                    await result.cancel()
                break
            return result.response

    response = asyncio.run(main())
    assert figures(response) == ("function::words", 50, True)
    assert response.state == ("interrupted" if how == "cancel" else "incomplete")
