"""Plain pydantic-ai tests, each of what an adopted agent once did otherwise; they know nothing of agentkit."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from pydantic_ai import Agent, FunctionToolset, ToolReturn
from pydantic_ai.exceptions import UnexpectedModelBehavior, UserError
from pydantic_ai.messages import ModelMessage, ModelResponse, TextPart, ToolCallPart
from pydantic_ai.models.function import AgentInfo, DeltaToolCall, FunctionModel
from pydantic_ai.models.test import TestModel


def calling(name: str = "f") -> FunctionModel:
    """A model that calls one tool, and then says what it got."""

    def reply(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        for part in messages[-1].parts:
            if part.part_kind == "tool-return":
                return ModelResponse(parts=[TextPart(part.model_response_str())])
        return ModelResponse(parts=[ToolCallPart(name, {})])

    return FunctionModel(reply)


def answer(function: Any) -> str:
    agent = Agent(calling(), name="a")
    agent.tool_plain(name="f")(function)
    return asyncio.run(agent.run("go")).output


async def work() -> str:
    return "awaited"


def gives_work() -> Any:
    return work()


def test_a_plain_function_may_give_something_to_await() -> None:
    assert answer(gives_work) == "awaited"


def test_bytes_are_text_to_the_model() -> None:
    assert answer(lambda: b"hello") == "hello"


def test_a_tool_return_in_a_list_is_refused() -> None:
    with pytest.raises(UserError, match="The return value of tool 'f' contains invalid nested `ToolReturn`"):
        answer(lambda: [ToolReturn("x")])


def test_a_tool_return_is_taken_apart() -> None:
    assert answer(lambda: ToolReturn("x", content="more")) == "x"


@pytest.mark.parametrize("how", ["run", "override"])
def test_the_model_may_come_with_the_run(how: str) -> None:
    agent = Agent(name="n")
    if how == "run":
        assert asyncio.run(agent.run("x", model=TestModel())).output == "success (no tool calls)"
    else:
        with agent.override(model=TestModel()):
            assert asyncio.run(agent.run("x")).output == "success (no tool calls)"


def test_toolsets_need_no_id() -> None:
    one, other = FunctionToolset[None](), FunctionToolset[None]()
    one.add_function(lambda: "1", name="one")
    other.add_function(lambda: "2", name="two")
    agent = Agent(TestModel(), name="n", toolsets=[one, other])
    assert asyncio.run(agent.run("x")).output == '{"one":"1","two":"2"}'


def streaming(*chunks: Any) -> FunctionModel:
    async def stream(messages: list[ModelMessage], info: AgentInfo) -> AsyncIterator[Any]:
        for place, chunk in enumerate(chunks):
            if isinstance(chunk, dict):
                yield {place: DeltaToolCall(info.output_tools[0].name, str(chunk["args"]))}
            else:
                yield chunk

    return FunctionModel(stream_function=stream)


Pair = tuple[str, str]
PAIR: Any = Pair
GOOD = {"args": '{"response": ["a", "b"]}'}


async def streamed(agent: Agent[None, Any]) -> list[Any]:
    async with agent.run_stream("x") as result:
        return [output async for output in result.stream_output(debounce_by=None)]


@pytest.mark.parametrize("chunks", [[GOOD], ["text ", GOOD], ["much ", "text ", GOOD]])
def test_a_streamed_output_comes_with_or_without_text(chunks: list[Any]) -> None:
    agent = Agent(streaming(*chunks), name="s", output_type=PAIR)
    assert asyncio.run(streamed(agent))[-1] == ("a", "b")


def test_a_streamed_output_that_does_not_fit_is_an_error() -> None:
    agent = Agent(streaming({"args": '{"response": ["a"]}'}), name="s", output_type=PAIR, retries=0)
    with pytest.raises(UnexpectedModelBehavior):
        asyncio.run(streamed(agent))


def test_a_stream_is_not_run_ahead_of() -> None:
    produced = 0

    async def stream(messages: list[ModelMessage], info: AgentInfo) -> AsyncIterator[str]:
        nonlocal produced
        for _ in range(5_000):
            produced += 1
            yield "x "

    async def main() -> int:
        async with Agent(FunctionModel(stream_function=stream), name="s").run_stream("x") as result:
            async for _ in result.stream_text(delta=True, debounce_by=None):
                await asyncio.sleep(1.5)
                break
            return produced

    assert asyncio.run(main()) < 1_000
