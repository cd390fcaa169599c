"""What agentkit adds to each step of an agent run, beside bare pydantic-ai and its durable surface with a no-op engine.

Run it with `python -m pytest -o python_files='bench_*.py' tests/benchmarks/bench_agents.py`.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from pydantic_ai import Agent
from pydantic_ai.models import Model
from pytest_benchmark.fixture import BenchmarkFixture

from agentkit.agent.agent import DurableAgent
from agentkit.runtime.session import session
from tests.benchmarks.agents import INSTRUCTIONS, UNLIMITED, add, script, silent
from tests.benchmarks.door import NoOpDurability
from tests.benchmarks.figures import Figure, Samples, bare_syncs, keep

pytestmark = pytest.mark.timeout(1800)

ROUNDS = {100: 9, 600: 5}
SYNCS = 50


def bare(model: Model) -> Agent[Any, Any]:
    return Agent(model, name="counter", instructions=INSTRUCTIONS, tools=[add])


def unrecorded(model: Model) -> Agent[Any, Any]:
    return Agent(model, name="counter", instructions=INSTRUCTIONS, tools=[add], capabilities=[NoOpDurability()])


def recorded(model: Model) -> Agent[Any, Any]:
    return DurableAgent(model, name="counter", instructions=INSTRUCTIONS, tools=[add])


def run(agent: Agent[Any, Any], prompt: str) -> None:
    answer = asyncio.run(agent.run(prompt, usage_limits=UNLIMITED))
    assert answer.output == "done"


@pytest.mark.parametrize("steps", [100, 600])
def test_what_a_step_of_an_agent_run_costs(benchmark: BenchmarkFixture, tmp_path: Path, steps: int) -> None:
    samples = Samples()
    numbers = iter(range(ROUNDS[steps]))

    def one_round() -> None:
        prompt = f"Count, for the {next(numbers)}th time."
        with samples.time("bare"):
            run(bare(script(steps)), prompt)
        with samples.time("no-op engine"):
            run(unrecorded(script(steps)), prompt)
        with bare_syncs(tmp_path) as two_syncs:
            for _ in range(SYNCS):
                samples.add("syncs", two_syncs())
        with session(folder=tmp_path) as opened:
            with samples.time("live"):
                run(recorded(script(steps)), prompt)
            (record,) = opened.runs(limit=1)
            assert len(opened.store.steps(record.id)) == steps
        with session(folder=tmp_path), samples.time("replayed"):
            run(recorded(silent()), prompt)

    benchmark.pedantic(one_round, rounds=ROUNDS[steps], iterations=1)

    def added(name: str) -> float:
        return (samples.median(name) - samples.median("bare")) / steps

    bare_step = samples.median("bare") / steps
    keep(
        benchmark,
        *(
            Figure(
                what=f"added to a step by {what}, agent run of {steps} steps",
                ours=added(name),
                beside="a step of bare pydantic-ai",
                other=bare_step,
                unit="ms",
            )
            for name, what in (
                ("no-op engine", "pydantic-ai's durable surface with a no-op engine"),
                ("live", "agentkit, live"),
                ("replayed", "agentkit, replayed"),
            )
        ),
        Figure(
            what=f"added to a live step by agentkit alone, agent run of {steps} steps",
            ours=added("live") - added("no-op engine"),
            beside="two bare fdatasyncs",
            other=samples.median("syncs"),
            unit="us",
        ),
    )
    assert samples.median("replayed") < 2 * samples.median("bare")
    assert samples.median("live") < 5 * samples.median("bare")
