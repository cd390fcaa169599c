"""Requests that never left: refused, or stopped while they were being connected; none is listed as perhaps paid."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import agentkit
from agentkit.agent.agent import DurableAgent
from agentkit.agent.spec import Spec
from agentkit.models.transport.provider_health import Health, Rules
from agentkit.models.transport.throttle import RateLimits, Throttle
from agentkit.runtime import server_limits
from agentkit.runtime.session import Session
from tests import serving as servers
from tests.serving import serving

pytestmark = pytest.mark.usefixtures("either_way")

RUNS = 20


@pytest.fixture(autouse=True)
def turns(tmp_path: Path) -> Iterator[Throttle]:
    throttle = Throttle(period=1.0, waiting=server_limits.show_wait)
    health = Health(tmp_path / "providers.db", rules=Rules(failures=10_000))
    server_limits.use(server_limits.ServerLimiter(throttle=throttle, health=health))
    yield throttle
    server_limits.use(None)


def agent_at(port: int) -> DurableAgent:
    return agentkit.build(Spec.parse("You answer."), name="many", model=f"http://127.0.0.1:{port}/v1#small")


async def all_of(agent: DurableAgent, runs: int = RUNS) -> list[str]:
    return [str(result.output) for result in await asyncio.gather(*(agent.run(f"number {n}") for n in range(runs)))]


@contextmanager
def deaf() -> Iterator[int]:
    """A port that answers nobody: who comes waits to be let in."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listening:
        port = listening.getsockname()[1]
        waiting = [socket.socket() for _ in range(3)]
        for one in waiting:
            one.setblocking(False)
            one.connect_ex(("127.0.0.1", port))
        try:
            yield port
        finally:
            for one in waiting:
                one.close()


def listed(session: Session) -> int:
    return len(session.store.double_payments())


def test_what_was_stopped_while_it_was_connected_is_not_listed(tmp_path: Path, turns: Throttle) -> None:
    async def stopped() -> None:
        running = asyncio.create_task(all_of(agent))
        await asyncio.sleep(1.0)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running

    with agentkit.session(folder=tmp_path) as session:
        with deaf() as port:
            agent = agent_at(port)
            turns.give("small", RateLimits(tokens=None, requests=1000, period=1.0, given=True))
            asyncio.run(stopped())
        with serving(port=port) as server:
            session.start_cell()
            assert asyncio.run(all_of(agent)) == [f"You said: number {n}" for n in range(RUNS)]
            assert (len(server.ledger()), listed(session)) == (RUNS, 0)


def test_what_was_refused_is_not_listed(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with agentkit.session(folder=tmp_path) as session:
        agent = agent_at(port)
        with pytest.raises(Exception, match="onnect"):
            asyncio.run(all_of(agent))
        with serving(port=port) as server:
            session.start_cell()
            assert len(asyncio.run(all_of(agent))) == RUNS
            assert (len(server.ledger()), listed(session)) == (RUNS, 0)


def test_a_throttled_gather_of_200_at_a_backlog_of_5(
    tmp_path: Path, turns: Throttle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(servers._Server, "request_queue_size", 5)
    turns.give("small", RateLimits(tokens=60_000, period=1.0, given=True))
    with serving() as server, agentkit.session(folder=tmp_path) as session:
        assert len(asyncio.run(all_of(agent_at(int(server.root.rpartition(":")[2])), 200))) == 200
        assert (listed(session), len(server.ledger()), session.remarks) == (0, 200, [])
