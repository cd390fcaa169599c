"""What the circuit breaker takes of a step: counting it, and looking before each model request.

Run it with `python -m pytest -o python_files='bench_*.py' tests/benchmarks/bench_breaker.py`.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from pathlib import Path
from typing import Any

import pytest
from pydantic_ai.messages import ModelMessage
from pytest_benchmark.fixture import BenchmarkFixture

import agentkit
from agentkit.agent.spec import Spec
from agentkit.guards import loop_guard
from agentkit.guards.loop_detector import LoopDetector, same_call
from agentkit.runtime.run_state import RunState
from agentkit.testing import Call, ScriptedModel
from tests.benchmarks.figures import Figure, keep

pytestmark = pytest.mark.timeout(900)

PROMISE = 50e-6
"""Seconds of processor time for each step: what else the machine does is not the breaker's."""
MESSAGES = 200
ROUNDS = 3


def counting(steps: int) -> float:
    """Seconds for each step that is counted and looked at."""
    breaker = LoopDetector()
    began = time.thread_time()
    for number in range(steps // 2):
        identity = same_call("search", {"q": number, "limit": 10})
        breaker.count_call(identity=identity, shown="search", result=b"%d" % number)
        breaker.count_reply(cost=0.01, input_tokens=1000, window=100_000, at=float(number))
        breaker.due()
    return (time.thread_time() - began) / steps


def test_the_breaker_per_step(benchmark: BenchmarkFixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looking: list[float] = []
    before_request = loop_guard.before_request

    async def timed(frame: RunState, ctx: Any, request: Any) -> None:
        # The request needs this digest for its own key; whoever comes first makes it.
        frame.chain.digest(request.messages, trusted=frame.trusted)
        began = time.thread_time()
        await before_request(frame, ctx, request)
        looking.append(time.thread_time() - began)

    @agentkit.tool(effects="none")
    def search(q: int) -> str:
        """Search."""
        return f"found {q}"

    def rule(messages: list[ModelMessage]) -> Any:
        return Call("search", {"q": len(messages)}) if len(messages) < MESSAGES else "done"

    def one_round() -> None:
        agent = agentkit.build(Spec.parse("Go."), name="a", tools=[search], model=ScriptedModel.by(rule))
        with agentkit.session(folder=tmp_path / str(len(looking))):
            asyncio.run(agentkit.ask(agent, "Go."))

    monkeypatch.setattr(loop_guard, "before_request", timed)
    benchmark.pedantic(one_round, rounds=ROUNDS, iterations=1)
    # A model request and a tool call are two steps, and are looked at once.
    each = statistics.median(looking) / 2 + counting(20_000)
    keep(
        benchmark,
        Figure(
            what="the breaker, for each live step",
            ours=each,
            beside="promised",
            other=PROMISE,
            unit="us",
            at_most=1.0,
        ),
    )
    assert each <= PROMISE
