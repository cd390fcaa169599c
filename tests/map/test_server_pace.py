"""Maps at a real server that refuses, slows down, breaks and recovers: its allowance is used, and hardly exceeded."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from pydantic_ai.exceptions import AgentRunError

import agentkit
from agentkit.agent.agent import DurableAgent
from agentkit.agent.spec import Spec
from agentkit.map.concurrency import Bounds
from agentkit.map.scheduler import Scheduler
from agentkit.models.transport.provider_health import Health, Rules
from agentkit.models.transport.throttle import Throttle
from agentkit.runtime import server_limits
from agentkit.runtime.server_limits import ServerLimiter
from tests.serving import Entry, Fault, Quota, Serving, serving

pytestmark = pytest.mark.alone

MINUTE = 6.0
"""What a minute is here, in seconds."""


@pytest.fixture(autouse=True)
def limiter(tmp_path: Path) -> Iterator[ServerLimiter]:
    throttle = Throttle(period=MINUTE, waiting=server_limits.show_wait)
    health = Health(tmp_path / "providers.db", rules=Rules(open_for=0.5))
    server_limits.use(ServerLimiter(throttle=throttle, health=health))
    yield server_limits.turnstile()
    server_limits.use(None)


class Map:
    """Rows of one agent at a server, and how they ended."""

    def __init__(self, scheduler: Scheduler, agent: DurableAgent, *, words: int = 0) -> None:
        self.scheduler = scheduler
        self.errors: list[AgentRunError] = []
        self.done: list[int] = []
        self._agent = agent
        self._more = " word" * words

    async def perform(self, ordinal: int) -> None:
        try:
            await self._agent.run(f"number {ordinal}{self._more}")
        except AgentRunError as error:
            self.errors.append(error)
        self.done.append(ordinal)

    async def run(self, rows: int, *, seconds: float = 120.0) -> None:
        """So many rows, stopped after some seconds."""
        running = asyncio.create_task(self.scheduler.run(range(rows), self.perform))
        await asyncio.wait([running], timeout=seconds)
        if not running.done():
            running.cancel()
        await asyncio.gather(running, return_exceptions=True)


def auto(**bounds: float) -> Scheduler:
    return Scheduler("auto", model_name="small", bounds=Bounds(**{"cooldown": MINUTE / 4, **bounds}))  # type: ignore[arg-type]


@contextmanager
def mapping(folder: Path, url: str, scheduler: Scheduler, *, words: int = 0) -> Iterator[Map]:
    with agentkit.session(folder=folder):
        yield Map(scheduler, agentkit.build(Spec.parse("You answer."), name="many", model=f"{url}#small"), words=words)


def settled(server: Serving, minutes: int) -> list[Entry]:
    """The requests of these minutes after the first one, in which the limit is found."""
    ledger = server.ledger()
    start = ledger[0].received + MINUTE
    return [entry for entry in ledger if start <= entry.received < start + minutes * MINUTE]


def statuses(entries: list[Entry]) -> dict[int, int]:
    found = [entry.status for entry in entries]
    return {status: found.count(status) for status in found}


def test_the_requests_that_a_server_allows_are_used_and_not_exceeded(tmp_path: Path) -> None:
    """It tells nobody how many they are: a 429 is all it says."""
    allowed, minutes = 60, 2
    with (
        serving(quota=Quota(tokens=10**9, requests=allowed, period=MINUTE, told=False), delay=0.05) as server,
        mapping(tmp_path, server.url, auto()) as map,
    ):
        asyncio.run(map.run(10_000, seconds=(minutes + 1.2) * MINUTE))
        found = statuses(settled(server, minutes))
    assert found[200] >= 0.9 * allowed * minutes
    assert found.get(429, 0) <= 0.01 * found[200]
    assert map.errors == []


@pytest.mark.parametrize("told", [True, False], ids=["told", "not told"])
def test_the_tokens_that_a_server_allows_are_used_and_not_exceeded(tmp_path: Path, told: bool) -> None:
    allowed, minutes = 20_000, 2
    quota = Quota(tokens=allowed, period=MINUTE, told=told)
    with (
        serving(quota=quota, delay=0.05) as server,
        mapping(tmp_path, server.url, auto(), words=200) as map,
    ):
        asyncio.run(map.run(10_000, seconds=(minutes + 1.2) * MINUTE))
        entries = settled(server, minutes)
        each = (sum(len(entry.prompt) for entry in entries) / len(entries) + 150) / 4 + 16
    found = statuses(entries)
    assert found[200] * each >= 0.9 * allowed * minutes
    assert found.get(429, 0) <= 0.01 * found[200]
    assert map.errors == []


def test_a_long_pause_is_waited_for_once(
    tmp_path: Path, limiter: ServerLimiter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Outside of maps a pause that long is the answer: a chain goes on to its next member."""
    monkeypatch.setattr("agentkit.models.transport.throttle.LONGEST_BLOCK", 1.0)
    monkeypatch.setattr("agentkit.models.transport.http_client.LONGEST_WAIT", 1.0)
    with serving() as server, mapping(tmp_path, server.url, Scheduler(8, model_name="small")) as map:
        server.script(Fault(match="number 3", status=429, headers={"retry-after": "3"}))
        began = time.monotonic()
        asyncio.run(map.run(30))
        took = time.monotonic() - began
        assert statuses(server.ledger()) == {200: 30, 429: 1}
    assert map.errors == [] and sorted(map.done) == list(range(30))
    assert 3.0 <= took < 5.5


def test_rows_wait_while_a_server_is_down(tmp_path: Path) -> None:
    """Only those that were under way may see it: the others begin when it is back."""
    with serving() as server, mapping(tmp_path, server.url, Scheduler(8, model_name="small")) as map:
        server.script(*[Fault(status=503)] * 12)
        asyncio.run(map.run(60))
        assert statuses(server.ledger()) == {200: 60, 503: 12}
    assert map.errors == [] and sorted(map.done) == list(range(60))


def test_a_refusal_for_lack_of_money_is_not_waited_for(tmp_path: Path) -> None:
    with serving() as server, mapping(tmp_path, server.url, Scheduler(2, model_name="small")) as map:
        server.script(*[Fault(status=429, code="insufficient_quota", headers={"retry-after-ms": "1"})] * 8)
        asyncio.run(map.run(2))
        assert statuses(server.ledger()) == {429: 8}
    assert len(map.errors) == 2


def test_a_server_that_slows_down_is_followed_down_and_up_again(tmp_path: Path) -> None:
    scheduler = auto(start=8, most=16, cooldown=0.5)
    limits: list[int] = []

    async def scene() -> None:
        running = asyncio.create_task(map.run(100_000, seconds=90))
        for delay, seconds in ((0.3, 6.0), (1.5, 8.0), (0.3, 12.0)):
            server.delay = delay
            await asyncio.sleep(seconds)
            limits.append(scheduler.limit)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    with serving(delay=0.3) as server, mapping(tmp_path, server.url, scheduler) as map:
        asyncio.run(scene())
    quick, slow, again = limits
    assert slow <= 0.6 * quick and again >= 1.5 * slow, [
        (change.before, change.after, change.reason) for change in scheduler.history
    ]
    assert "latency" in {change.reason for change in scheduler.history}
