"""A stream that fails live, over a real server: the user sees what a bare agent shows, and a rerun what the first saw."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel
from pydantic_ai import Agent, ModelRetry
from pydantic_ai.agent import AbstractAgent

import agentkit
from agentkit.models import resolve
from tests.serving import Fault, Serving, serving


class City(BaseModel):
    name: str


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What came to the user: the last text, what it ended with, and whether the block was entered."""

    texts: tuple[str, ...]
    error: str
    entered: bool


@pytest.fixture
def server() -> Iterator[Serving]:
    with serving() as running:
        yield running


async def watched(agent: AbstractAgent[Any, Any], prompt: str) -> Seen:
    texts: list[str] = []
    entered = False
    try:
        stream: AbstractAsyncContextManager[Any] = agent.run_stream(prompt)
        async with stream as result:
            entered = True
            outputs: AsyncIterator[Any] = result.stream_output(debounce_by=None)
            async for output in outputs:
                texts.append(str(output))
    except Exception as error:  # noqa: BLE001 - which one is what is compared
        return Seen(texts=tuple(texts[-1:]), error=type(error).__name__, entered=entered)
    return Seen(texts=tuple(texts[-1:]), error="", entered=entered)


def refused(text: str) -> str:
    raise ModelRetry("not good enough")


def made(server: Serving, kind: str) -> Agent[None, Any]:
    model = resolve.resolve(server.model())
    match kind:
        case "text":
            return Agent(model, name="a")
        case "structured":
            return Agent(model, name="a", output_type=City)
        case "refused":
            agent: Agent[None, Any] = Agent(model, name="a", retries=1)
            agent.output_validator(refused)
            return agent
        case "tool":
            agent = Agent(model, name="a")
            agent.tool_plain(double)
            return agent
    raise AssertionError(kind)


def double(n: int) -> int:
    """Double a number."""
    return 2 * n


@dataclass(frozen=True, kw_only=True)
class Case:
    """`asked` are the turns that a rerun asks for again, once nothing is in the way."""

    kind: str
    prompt: str
    faults: tuple[Fault, ...] = ()
    asked: tuple[int, ...] = ()


_DOWN = Fault(status=503, headers={"x-should-retry": "false"})
_DOUBLES = 'do double {"n": 2}\nwrite 40'
FAILED = {
    "cut in the middle": Case(kind="text", prompt="write 40", faults=(Fault(cut="middle"),), asked=(0,)),
    "cut in the second request": Case(kind="tool", prompt=_DOUBLES, faults=(Fault(), Fault(cut="middle")), asked=(1,)),
    "down at the second request": Case(kind="tool", prompt=_DOUBLES, faults=(Fault(), _DOWN), asked=(1,)),
    "a key refused": Case(kind="text", prompt="hello", faults=(Fault(status=401),), asked=(0,)),
}
MISFIT = {
    "an output that never fits": Case(kind="structured", prompt='say {"wrong": 1}'),
    "a validator that refuses": Case(kind="refused", prompt="hello"),
}


def seen(server: Serving, agent: AbstractAgent[Any, Any], case: Case, *faults: Fault) -> tuple[Seen, list[int]]:
    """What the user saw, and for which turns the server was asked."""
    server.reset()
    server.script(*faults)
    return asyncio.run(watched(agent, case.prompt)), [entry.turn for entry in server.ledger()]


def adopted(server: Serving, folder: Path, case: Case, *faults: Fault) -> tuple[Seen, list[int]]:
    with agentkit.session(folder=folder):
        return seen(server, agentkit.durable(made(server, case.kind)), case, *faults)


@pytest.mark.parametrize("case", FAILED.values(), ids=FAILED)
def test_what_a_provider_fails_is_seen_as_bare_and_asked_again(tmp_path: Path, server: Serving, case: Case) -> None:
    whole, _ = seen(server, made(server, case.kind), case)
    bare = seen(server, made(server, case.kind), case, *case.faults)
    assert bare[0].error and bare[0] != whole
    assert adopted(server, tmp_path, case, *case.faults) == bare
    assert adopted(server, tmp_path, case) == (whole, list(case.asked))
    assert adopted(server, tmp_path, case) == (whole, [])


@pytest.mark.parametrize("case", MISFIT.values(), ids=MISFIT)
def test_what_the_model_fails_is_seen_as_bare_and_the_same_again(tmp_path: Path, server: Serving, case: Case) -> None:
    bare = seen(server, made(server, case.kind), case)
    assert bare[0].error
    assert adopted(server, tmp_path, case) == bare
    assert adopted(server, tmp_path, case) == (bare[0], [])


def test_a_stream_without_an_end_is_an_error_that_a_bare_agent_does_not_see(tmp_path: Path, server: Serving) -> None:
    case = Case(kind="text", prompt="write 40")
    whole, _ = seen(server, made(server, case.kind), case)
    endless = Fault(without=("finish", "usage", "done"))
    live, asked = adopted(server, tmp_path, case, endless)
    assert live.error and asked == [0]
    assert adopted(server, tmp_path, case) == (whole, [0])
