"""What looking for secrets costs beside a live step.

Run it with `python -m pytest -o python_files='bench_*.py' tests/benchmarks/bench_redaction.py`.
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from agentkit.journal.redaction import Redactor
from agentkit.runtime.session import session
from tests.benchmarks.door import Conversation, at_the_door
from tests.benchmarks.figures import Figure, Samples, keep
from tests.journal.prompts import prompts

pytestmark = pytest.mark.timeout(900)
STEPS = 200
TEXTS = 4
"""How often a step's texts are read: its message hashed and written, its answer, and what is shown of it."""


def test_redaction_beside_a_live_step(benchmark: BenchmarkFixture, tmp_path: Path) -> None:
    samples = Samples()
    texts = prompts(STEPS)
    environment = {f"SERVICE_{number}_API_KEY": f"0123456789abcdef-{number}" for number in range(5)}
    # Without secrets, as every text was read before secrets were known by their form.
    none, all_known = Redactor({}), Redactor(environment)

    async def live() -> None:
        talk = Conversation(at_the_door(), said=100, tag="redaction", session=opened)
        await talk.begin()
        for text in texts:
            samples.add("live", await talk.step())
            for name, redactor in (("forms", none), ("forms and five variables", all_known)):
                started = time.perf_counter()
                for _ in range(TEXTS):
                    redactor.scrub(text)
                samples.add(name, time.perf_counter() - started)

    with session(folder=tmp_path) as opened:
        benchmark.pedantic(lambda: asyncio.run(live()), rounds=1, iterations=1)
    keep(
        benchmark,
        *(
            Figure(
                what=f"looking for secrets: {name}",
                ours=samples.median(name),
                beside="a live step without a model's time",
                other=samples.median("live"),
                unit="us",
                at_most=at_most,
            )
            for name, at_most in (("forms", 0.02), ("forms and five variables", 0.02))
        ),
    )
