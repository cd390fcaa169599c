"""What a finished or half finished run of 800 turns costs to take up again, beside walking it turn by turn.

Run it with `python -m pytest -o python_files='bench_*.py' tests/benchmarks/bench_forward.py`.
"""

from __future__ import annotations

import asyncio
import shutil
import time
from pathlib import Path
from typing import NamedTuple

import pytest
from pydantic_ai.messages import ModelMessage, ModelResponse
from pytest_benchmark.fixture import BenchmarkFixture

import agentkit
from agentkit.agent.ask import ask
from agentkit.agent.build import build
from agentkit.agent.spec import Spec
from agentkit.runtime.session import session
from agentkit.testing import Call, ScriptedModel
from tests.benchmarks.figures import Figure, Samples, keep

pytestmark = pytest.mark.timeout(900)

TURNS, CUT = 800, 700
ROUNDS = 3


@agentkit.tool(effects="none")
def add(a: int, b: int) -> int:
    """Add."""
    return a + b


class Took(NamedTuple):
    """Seconds of a run, and of what of it came after its first live request had begun."""

    whole: float
    live: float


def counted(folder: Path, *, die_at: int | None = None, walk: bool = False) -> Took:
    begun: list[float] = []

    def reply(messages: list[ModelMessage]) -> Call | str:
        begun.append(time.perf_counter())
        n = sum(isinstance(message, ModelResponse) for message in messages)
        if n == die_at:
            raise RuntimeError("cut here")
        return Call("add", {"a": n, "b": 1}) if n < TURNS else "done"

    async def main() -> Took:
        agent = build(Spec(instructions="Count."), name="counter", tools=[add], model=ScriptedModel.by(reply))
        started = time.perf_counter()
        try:
            await ask(agent, "count", walk=walk)
        except RuntimeError:
            assert die_at is not None
        ended = time.perf_counter()
        return Took(ended - started, ended - begun[0] if begun else 0.0)

    with session("bench", folder=folder):
        return asyncio.run(main())


def test_a_finished_run_beside_walking_it(benchmark: BenchmarkFixture, tmp_path: Path) -> None:
    samples = Samples()
    counted(tmp_path)

    def one_round() -> None:
        samples.add("walked", counted(tmp_path, walk=True).whole)
        samples.add("forward", counted(tmp_path).whole)

    benchmark.pedantic(one_round, rounds=ROUNDS, iterations=1)
    keep(
        benchmark,
        Figure(
            what=f"rerun of a finished run of {TURNS} turns",
            ours=samples.median("forward"),
            beside="walking it",
            other=samples.median("walked"),
            unit="s",
            at_most=0.01,
        ),
    )


def test_a_cut_run_beside_its_rest(benchmark: BenchmarkFixture, tmp_path: Path) -> None:
    samples = Samples()
    cut = tmp_path / "cut"
    counted(cut, die_at=CUT)
    numbers = iter(range(2 * ROUNDS))

    def again(*, walk: bool) -> Took:
        folder = tmp_path / f"again {next(numbers)}"
        shutil.copytree(cut, folder)
        return counted(folder, walk=walk)

    def one_round() -> None:
        samples.add("resumed", again(walk=False).whole)
        samples.add("rest", again(walk=True).live)

    benchmark.pedantic(one_round, rounds=ROUNDS, iterations=1)
    keep(
        benchmark,
        Figure(
            what=f"resume at turn {CUT} of {TURNS}",
            ours=samples.median("resumed"),
            beside="its last 100 turns, having walked there",
            other=samples.median("rest"),
            unit="s",
            at_most=1.5,
        ),
    )
