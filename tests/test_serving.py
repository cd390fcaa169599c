"""The loopback server under pydantic-ai's own OpenAI clients, in both protocols."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pytest
from pydantic import BaseModel
from pydantic_ai import Agent, ModelAPIError, ModelHTTPError
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.openai import OpenAIProvider

from tests.serving import Fault, Serving, control, serving

ORDERS = """Please work.
do double {"n": 1} & double {"n": 2}
do double {"n": 10}
say doubled three numbers"""

Protocol = Literal["chat", "responses"]


class Pair(BaseModel):
    a: int
    b: str


@pytest.fixture
def server() -> Iterator[Serving]:
    with serving() as running:
        yield running


def agent_of(protocol: Protocol, url: str) -> Agent:
    provider = OpenAIProvider(base_url=url, api_key="x")
    provider.client.max_retries = 0
    model = OpenAIChatModel if protocol == "chat" else OpenAIResponsesModel
    agent = Agent(model("small", provider=provider))

    @agent.tool_plain
    def double(n: int) -> int:
        return 2 * n

    return agent


@pytest.mark.parametrize("protocol", ["chat", "responses"])
def test_it_calls_tools_and_answers(server: Serving, protocol: Protocol) -> None:
    result = agent_of(protocol, server.url).run_sync(ORDERS)
    assert result.output == "doubled three numbers"
    assert [entry.turn for entry in server.ledger()] == [0, 1, 2]
    assert all(entry.sent and entry.sent >= entry.received for entry in server.ledger())
    assert result.usage.output_tokens > 0


@pytest.mark.parametrize("protocol", ["chat", "responses"])
def test_it_streams_words_and_tool_calls(server: Serving, protocol: Protocol) -> None:
    async def main() -> list[str]:
        async with agent_of(protocol, server.url).run_stream(ORDERS) as stream:
            return [text async for text in stream.stream_text(delta=True, debounce_by=None)]

    assert asyncio.run(main()) == ["doubled ", "three ", "numbers"]
    assert [entry.stream for entry in server.ledger()] == [True, True, True]


@pytest.mark.parametrize("protocol", ["chat", "responses"])
def test_it_echoes_without_orders_and_carries_a_conversation(server: Serving, protocol: Protocol) -> None:
    agent = agent_of(protocol, server.url)
    first = agent.run_sync("hello")
    assert first.output == "You said: hello"
    assert agent.run_sync("again", message_history=first.all_messages()).output == "You said: again"


def test_it_fills_an_output_tool(server: Serving) -> None:
    agent = Agent(agent_of("chat", server.url).model, output_type=Pair)
    assert agent.run_sync('go\nsay {"a": 1, "b": "x"}').output == Pair(a=1, b="x")


def test_faults_come_in_order_and_by_match(server: Serving) -> None:
    agent = agent_of("chat", server.url)
    server.script(Fault(match="beta", status=500), Fault(status=429, headers={"retry-after": "7"}))
    with pytest.raises(ModelHTTPError, match="429"):
        agent.run_sync("alpha")
    with pytest.raises(ModelHTTPError, match="500"):
        agent.run_sync("beta")
    assert agent.run_sync("alpha").output == "You said: alpha"
    assert [entry.status for entry in server.ledger()] == [429, 500, 200]


@pytest.mark.parametrize("cut", ["before", "middle"])
def test_a_cut_connection_is_an_error_and_is_never_counted_as_sent(
    server: Serving, cut: Literal["before", "middle"]
) -> None:
    server.script(Fault(cut=cut))
    with pytest.raises(ModelAPIError):
        agent_of("chat", server.url).run_sync("hello")
    assert [entry.sent for entry in server.ledger()] == [None]


def test_equal_requests_have_equal_digests(server: Serving) -> None:
    agent = agent_of("chat", server.url)
    for prompt in ("one", "one", "two"):
        agent.run_sync(prompt)
    one, again, two = (entry.digest for entry in server.ledger())
    assert one == again != two


def test_it_runs_in_another_process_and_obeys_control() -> None:
    child = subprocess.Popen(
        [sys.executable, "-m", "tests.serving"],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parent.parent,
    )
    try:
        assert child.stdout is not None
        url = child.stdout.readline().strip()
        root = url.removesuffix("/v1")
        control(root, "_script", {"delay": 0.03, "faults": [{"status": 503}]})
        with pytest.raises(ModelHTTPError, match="503"):
            agent_of("chat", url).run_sync("hello")
        assert control(root, "effect/mail") == {"count": 1}
        assert control(root, "effect/mail") == {"count": 2}
        entries = control(root, "_ledger")
        assert [(entry["kind"], entry["status"]) for entry in entries] == [
            ("chat", 503),
            ("effect", 200),
            ("effect", 200),
        ]
        control(root, "_reset")
        assert control(root, "_ledger") == []
    finally:
        child.kill()
        child.wait()
        child.stdout.close()  # type: ignore[union-attr]
