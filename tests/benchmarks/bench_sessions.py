"""What a long life does to a journal: 1,000 runs of 10 steps beside 10 runs, opened, first hit, and size on disk.

Run it with `python -m pytest -o python_files='bench_*.py' tests/benchmarks/bench_sessions.py`.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from agentkit.journal.storage import JOURNAL_FILE
from agentkit.runtime.session import Session, session
from tests.benchmarks.door import Conversation, at_the_door
from tests.benchmarks.figures import Figure, Samples, keep

pytestmark = pytest.mark.timeout(1800)

STEPS = 10
RUNS = (10, 1_000)
TOGETHER = 25
"""Runs that are filled in at the same time, as `asyncio.gather` would: their writes share syncs."""


def test_a_session_of_a_thousand_runs(benchmark: BenchmarkFixture, tmp_path: Path) -> None:
    samples = Samples()
    for runs in RUNS:
        with session(folder=tmp_path / str(runs)) as opened:
            asyncio.run(fill(opened, runs))

    def one_round() -> None:
        for runs in RUNS:
            with session(folder=tmp_path / str(runs)) as opened:
                with samples.time(f"open {runs}"):
                    assert opened.store.owner
                with samples.time(f"first hit {runs}"):
                    asyncio.run(again(opened, runs // 2))
                with samples.time(f"list {runs}"):
                    assert len(opened.runs(limit=10)) == 10

    benchmark.pedantic(one_round, rounds=15, iterations=1, warmup_rounds=2)
    few, many = RUNS
    size = {runs: (tmp_path / str(runs) / ".agentkit" / JOURNAL_FILE).stat().st_size / (runs * STEPS) for runs in RUNS}
    keep(
        benchmark,
        *(
            Figure(
                what=f"{what}, session of {many:,} runs of {STEPS} steps",
                ours=samples.median(f"{name} {many}"),
                beside=f"in a session of {few}",
                other=samples.median(f"{name} {few}"),
                unit="ms",
            )
            for what, name in (("opening", "open"), ("first hit", "first hit"), ("newest ten runs", "list"))
        ),
        Figure(
            what=f"on disk per step that says 2.2 KB, session of {many:,} runs",
            ours=size[many],
            beside=f"in a session of {few}",
            other=size[few],
            unit="bytes",
        ),
    )
    assert samples.median(f"open {many}") < 2 * samples.median(f"open {few}")
    assert samples.median(f"first hit {many}") < 2 * samples.median(f"first hit {few}")
    assert size[many] < 1.25 * size[few]


async def fill(opened: Session, runs: int) -> None:
    for first in range(0, runs, TOGETHER):
        await asyncio.gather(*(one_run(opened, run) for run in range(first, min(first + TOGETHER, runs))))


async def one_run(opened: Session, run: int) -> None:
    talk = conversation(opened, run)
    await talk.begin()
    for _ in range(STEPS - 1):
        await talk.step()
    await talk.end()


async def again(opened: Session, run: int) -> None:
    """The first step of a recorded run: what a person waits for who runs a cell again."""
    await conversation(opened, run).step()


def conversation(opened: Session, run: int) -> Conversation:
    return Conversation(at_the_door(), said=0, tag=f"run {run}", session=opened)
