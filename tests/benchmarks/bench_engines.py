"""A replay of 1,000 steps beside the same replay on DBOS and LangGraph: bare steps, and agent runs.

Needs the `bench` extra. Run it with `python -m pytest -o python_files='bench_*.py' tests/benchmarks/bench_engines.py`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from pydantic_ai import Agent
from pytest_benchmark.fixture import BenchmarkFixture

from tests.benchmarks import agentkit_side, langgraph_side
from tests.benchmarks.agents import INSTRUCTIONS, UNLIMITED, add, script
from tests.benchmarks.dbos_side import on_dbos
from tests.benchmarks.figures import Figure, Samples, keep
from tests.benchmarks.side import Side

pytestmark = pytest.mark.timeout(3600)

STEPS = 1_000
ROUNDS = 5


def test_replaying_a_thousand_steps(benchmark: BenchmarkFixture, tmp_path: Path) -> None:
    with on_dbos(tmp_path, steps=STEPS) as dbos, langgraph_side.bare_steps(tmp_path, steps=STEPS) as langgraph:
        bare = (agentkit_side.bare_steps(tmp_path, steps=STEPS), dbos.bare, langgraph)
        agents = (
            agentkit_side.agent_run(tmp_path, steps=STEPS),
            dbos.agent,
            langgraph_side.agent_run(tmp_path, steps=STEPS),
        )
        figures = compared(benchmark, {"bare steps": bare, "an agent run": agents})
    keep(benchmark, *figures)
    for figure in figures:
        if figure.what.startswith("replay of 1,000 bare steps"):
            assert figure.ratio < 1


def compared(benchmark: BenchmarkFixture, kinds: dict[str, Sequence[Side]]) -> list[Figure]:
    samples = Samples()
    every = [(kind, side) for kind, sides in kinds.items() for side in sides]
    for kind, side in every:
        samples.add(f"recording {kind} {side.name}", side.record())
        assert side.performed.times

    def one_round() -> None:
        with samples.time("no engine"):
            asyncio.run(bare_agent_run())
        for kind, side in every:
            before = side.performed.times.copy()
            samples.add(f"replay of {kind} {side.name}", side.replay())
            assert side.performed.times == before

    benchmark.pedantic(one_round, rounds=ROUNDS, iterations=1)
    alone = Figure(
        what=f"replay of {STEPS:,} steps of an agent run",
        ours=samples.median("replay of an agent run agentkit"),
        beside="bare pydantic-ai, performing them",
        other=samples.median("no engine"),
        unit="s",
    )
    return [alone, *beside_others(samples, kinds)]


def beside_others(samples: Samples, kinds: dict[str, Sequence[Side]]) -> Iterator[Figure]:
    yield from (
        Figure(
            what=f"{what} {STEPS:,} {label}",
            ours=samples.median(f"{what} {kind} agentkit"),
            beside=side.name,
            other=samples.median(f"{what} {kind} {side.name}"),
            unit="s",
        )
        for what in ("replay of", "recording")
        for kind, label in (("bare steps", "bare steps"), ("an agent run", "steps of an agent run"))
        for side in kinds[kind][1:]
    )


async def bare_agent_run() -> None:
    """What all of the agent runs have in common: pydantic-ai's own loop, whose cost grows with the history."""
    counter = Agent(script(STEPS), name="counter", instructions=INSTRUCTIONS, tools=[add])
    answer = await counter.run("Count.", usage_limits=UNLIMITED)
    assert answer.output == "done"
