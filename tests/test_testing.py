"""ScriptedModel under a real pydantic-ai agent."""

from __future__ import annotations

import asyncio

import pytest
from pydantic import BaseModel
from pydantic_ai import Agent, NativeOutput, PromptedOutput
from pydantic_ai.messages import ModelMessage, ModelRequest, ModelResponse, TextPart, ThinkingPart, UserPromptPart
from pydantic_ai.models import ModelRequestParameters
from pydantic_ai.usage import RequestUsage

from agentkit.errors import UserError
from agentkit.testing import Call, Output, ScriptedModel


class City(BaseModel):
    name: str
    people: int


def _prompt(messages: list[ModelMessage]) -> str:
    first = messages[0]
    assert isinstance(first, ModelRequest)
    return next(str(part.content) for part in first.parts if isinstance(part, UserPromptPart))


def test_replies_come_in_order_and_tools_are_called() -> None:
    model = ScriptedModel([[Call("double", {"n": 2}), Call("double", {"n": 3})], "ten in all"])
    agent = Agent(model)
    seen: list[int] = []

    @agent.tool_plain
    def double(n: int) -> int:
        seen.append(n)
        return 2 * n

    result = agent.run_sync("go")
    assert result.output == "ten in all"
    assert sorted(seen) == [2, 3]
    assert [len(asked.messages) for asked in model.requests] == [1, 3]
    assert model.requests[0].params.function_tools[0].name == "double"


def test_an_exhausted_script_says_so() -> None:
    model = ScriptedModel(["one"])
    agent = Agent(model)
    agent.run_sync("a")
    with pytest.raises(UserError, match="request 2 came but only 1 reply was scripted"):
        agent.run_sync("b")


@pytest.mark.parametrize("error", [ConnectionError("cut"), ConnectionError])
def test_exceptions_are_raised(error: Exception) -> None:
    agent = Agent(ScriptedModel([error, "later"]))
    with pytest.raises(ConnectionError):
        agent.run_sync("a")
    assert agent.run_sync("a").output == "later"


def test_a_function_sees_the_messages_and_the_parameters() -> None:
    def shout(messages: list[ModelMessage], params: ModelRequestParameters) -> str:
        return f"{_prompt(messages).upper()} {params.output_mode}"

    assert Agent(ScriptedModel([shout])).run_sync("hello").output == "HELLO text"


def test_a_rule_answers_concurrent_requests_by_content() -> None:
    async def rule(messages: list[ModelMessage]) -> str:
        await asyncio.sleep(0.01 * (5 - int(_prompt(messages))))
        return f"answer {_prompt(messages)}"

    agent = Agent(ScriptedModel.by(rule))

    async def main() -> list[str]:
        results = await asyncio.gather(*(agent.run(str(n)) for n in range(5)))
        return [result.output for result in results]

    assert asyncio.run(main()) == [f"answer {n}" for n in range(5)]


def test_streaming_goes_word_by_word_and_takes_its_time() -> None:
    agent = Agent(ScriptedModel(["alpha beta  gamma\n\n- delta"], delay=0.08))

    async def main() -> tuple[list[str], float]:
        begin = asyncio.get_running_loop().time()
        async with agent.run_stream("go") as stream:
            texts = [text async for text in stream.stream_text(delta=True, debounce_by=None)]
        return texts, asyncio.get_running_loop().time() - begin

    texts, seconds = asyncio.run(main())
    assert "".join(texts) == "alpha beta  gamma\n\n- delta"
    assert len(texts) == 5
    assert seconds >= 0.08


def test_streamed_tool_calls_run() -> None:
    agent = Agent(ScriptedModel([Call("double", {"n": 4}), "done"]))
    seen: list[int] = []

    @agent.tool_plain
    def double(n: int) -> int:
        seen.append(n)
        return 2 * n

    async def main() -> str:
        async with agent.run_stream("go") as stream:
            return await stream.get_output()

    assert asyncio.run(main()) == "done"
    assert seen == [4]


@pytest.mark.parametrize("kind", [City, NativeOutput(City), PromptedOutput(City)])
def test_structured_output_in_every_mode(kind: object) -> None:
    agent = Agent(ScriptedModel([Output({"name": "Oslo", "people": 7})]), output_type=kind)  # type: ignore[call-overload]
    assert agent.run_sync("which").output == City(name="Oslo", people=7)


def test_a_plain_typed_output_is_wrapped_for_its_tool() -> None:
    agent = Agent(ScriptedModel([Output([1, 2])]), output_type=list[int])
    assert agent.run_sync("which").output == [1, 2]


def test_usage_is_deterministic_and_a_price_is_written_when_given() -> None:
    def once(cost: float | None) -> RequestUsage:
        result = Agent(ScriptedModel(["four words of text"], cost=cost)).run_sync("a prompt")
        reply = result.all_messages()[-1]
        assert isinstance(reply, ModelResponse)
        return reply.usage

    assert once(None).input_tokens == once(None).input_tokens == 2
    assert once(None).output_tokens == 5
    assert once(None).cost is None
    assert float(once(0.25).cost or 0) == 0.25


def test_a_ready_response_is_not_shared_between_two_runs() -> None:
    ready = ModelResponse(parts=[ThinkingPart("hm"), TextPart("yes")], usage=RequestUsage(input_tokens=9))
    agent = Agent(ScriptedModel([ready, ready]))
    first, second = agent.run_sync("a").all_messages()[-1], agent.run_sync("b").all_messages()[-1]
    assert first is not second and first is not ready
    assert isinstance(second, ModelResponse) and second.usage.input_tokens == 9
    assert ready.run_id is None


def test_a_reply_of_an_unknown_kind_is_refused() -> None:
    with pytest.raises(UserError, match="a scripted reply is a str"):
        Agent(ScriptedModel([3.5])).run_sync("a")  # type: ignore[list-item]
