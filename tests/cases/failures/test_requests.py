"""What is said of a request that a model server fails, however the run is written: one case, one line."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic_ai import Agent
from pydantic_ai.agent import AbstractAgent
from pydantic_ai.exceptions import FallbackExceptionGroup, ModelAPIError

import agentkit
from agentkit.agent.spec import Spec
from tests.serving import Fault, Serving, serving

FAILED = (ModelAPIError, FallbackExceptionGroup)
KEY = "sk-live-0123456789abcdef0123456789abcdef"
Run = Callable[[AbstractAgent[Any, Any], str], Coroutine[Any, Any, Any]]


@pytest.fixture
def server() -> Iterator[Serving]:
    with serving() as running:
        yield running


def model(server: Serving) -> str:
    return server.model().replace("//", f"//:{KEY}@")


# -- how it is run


async def run(agent: AbstractAgent[Any, Any], prompt: str) -> Any:
    return (await agent.run(prompt)).output


async def in_thread(agent: AbstractAgent[Any, Any], prompt: str) -> Any:
    return (await asyncio.to_thread(agent.run_sync, prompt)).output


async def run_stream(agent: AbstractAgent[Any, Any], prompt: str) -> Any:
    async with agent.run_stream(prompt) as result:
        return await result.get_output()


async def iterate(agent: AbstractAgent[Any, Any], prompt: str) -> Any:
    async with agent.iter(prompt) as nodes:
        async for _ in nodes:
            pass
    assert nodes.result is not None
    return nodes.result.output


async def ask(agent: AbstractAgent[Any, Any], prompt: str) -> Any:
    return (await agentkit.ask(agent, prompt)).output


async def gathered(agent: AbstractAgent[Any, Any], prompt: str) -> Any:
    return await asyncio.gather(run(agent, prompt), run(agent, "another"))


RUNS: dict[str, Run] = {
    "run": run, "run_sync": in_thread, "run_stream": run_stream, "iter": iterate, "ask": ask, "gather": gathered,
}  # fmt: skip

FAULTS = {
    "401": (Fault(status=401), "answered 401: the key is missing or refused"),
    "404": (Fault(status=404), "answered 404: no such model or path"),
    "503": (Fault(status=503, headers={"x-should-retry": "false"}), "answered 503: the server failed"),
    "cut": (Fault(cut="before", match="hello"), "cut the connection"),
}


@pytest.mark.parametrize("how", RUNS)
@pytest.mark.parametrize("fault", FAULTS)
def test_the_error_names_agent_model_and_url(tmp_path: Path, server: Serving, fault: str, how: str) -> None:
    treated, says = FAULTS[fault]
    server.script(*[treated] * 9)
    agent = agentkit.build(Spec.parse("You answer."), name="analyst", model=model(server))
    with agentkit.session(folder=tmp_path), pytest.raises(FAILED) as failed:
        asyncio.run(RUNS[how](agent, "hello"))
    (note,) = failed.value.__notes__
    assert note.startswith("asked by agent 'analyst': model 'small'") and says in note and server.url in note
    assert KEY not in note and "\n" not in note


def test_an_unreachable_server_and_an_echoed_key(tmp_path: Path, server: Serving) -> None:
    agent = agentkit.durable(
        Agent(agentkit.build(Spec.parse("x"), name="x", model=model(server)).model, name="adopted")
    )
    server.close()
    with agentkit.session(folder=tmp_path), pytest.raises(FAILED) as failed:
        agent.run_sync(f"my key is {KEY}")
    (note,) = failed.value.__notes__
    assert note.startswith(f"asked by agent 'adopted': model 'small': cannot reach {server.url}")
    assert KEY not in note


def test_each_member_of_a_chain_is_named(tmp_path: Path, server: Serving) -> None:
    server.script(*[Fault(status=503, headers={"x-should-retry": "false"})] * 2)
    agent = agentkit.build(Spec.parse("x"), name="steady", model=f"{server.model('a')} | {server.model('b')}")
    with agentkit.session(folder=tmp_path), pytest.raises(FAILED) as failed:
        agent.run_sync("hello")
    (note,) = failed.value.__notes__
    assert "model 'a' at" in note and "; then model 'b' at" in note


def test_the_agent_that_asked_is_named_not_those_around_it(tmp_path: Path, server: Serving) -> None:
    helper = agentkit.build(Spec.parse("x"), name="helper", model=server.model("small"))
    boss = agentkit.build(Spec.parse("x"), name="boss", model=server.model("large"), tools=[helper])
    server.script(Fault(), Fault(status=401))
    with agentkit.session(folder=tmp_path), pytest.raises(FAILED) as failed:
        boss.run_sync('do helper {"prompt": "hello"}\nsay done')
    (note,) = failed.value.__notes__
    assert note.startswith("asked by agent 'helper': model 'small' at")
