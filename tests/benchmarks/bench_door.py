"""What one step costs at the engine's own door, live and replayed, and that it stays flat as the history grows.

Run it with `python -m pytest -o python_files='bench_*.py' tests/benchmarks/bench_door.py`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from agentkit.agent.durability import JournalDurability
from agentkit.runtime.session import Session, session
from tests.benchmarks.door import Conversation, NoOpDurability, at_the_door, at_the_surface
from tests.benchmarks.figures import Figure, Samples, bare_syncs, keep

pytestmark = pytest.mark.timeout(900)

HISTORIES = (100, 1_000, 10_000)
ROUNDS = 5
STEPS = 40


def test_a_step_at_the_door(benchmark: BenchmarkFixture, tmp_path: Path) -> None:
    samples = Samples()
    numbers = iter(range(ROUNDS))

    def one_round() -> None:
        tag = str(next(numbers))
        with session(folder=tmp_path) as opened:
            asyncio.run(live(opened, tag))
        with session(folder=tmp_path) as opened:
            asyncio.run(replayed(opened, tag))

    async def live(opened: Session, tag: str) -> None:
        with bare_syncs(tmp_path) as two_syncs:
            talks = await begun(opened, tag)
            for said, talk in talks.items():
                for _ in range(STEPS):
                    samples.add(f"syncs beside {said}", two_syncs())
                    samples.add(f"live {said}", await talk.step())

    async def replayed(opened: Session, tag: str) -> None:
        talks = await begun(opened, tag)
        for said, talk in talks.items():
            for _ in range(STEPS):
                samples.add(f"replayed {said}", await talk.step())

    benchmark.pedantic(one_round, rounds=ROUNDS, iterations=1)
    least, most = HISTORIES[0], HISTORIES[-1]
    keep(
        benchmark,
        *(
            Figure(
                what=f"live step, history of {said:,}",
                ours=samples.median(f"live {said}"),
                beside="two bare fdatasyncs",
                other=samples.median(f"syncs beside {said}"),
                unit="us",
                at_most=2.5,
            )
            for said in HISTORIES
        ),
        *(
            Figure(
                what=f"replayed step, history of {said:,}",
                ours=samples.median(f"replayed {said}"),
                beside="the 100 us promised",
                other=1e-4,
                unit="us",
                at_most=1.0,
            )
            for said in HISTORIES
        ),
        *(
            Figure(
                what=f"growth of a {kind} step, history of {most:,}",
                ours=samples.median(f"{kind} {most}"),
                beside=f"at {least:,}",
                other=samples.median(f"{kind} {least}"),
                unit="us",
                at_most=1.5,
            )
            for kind in ("live", "replayed")
        ),
    )
    assert samples.median(f"replayed {most}") < 2 * samples.median(f"replayed {least}")
    assert samples.median(f"live {most}") < 2 * samples.median(f"live {least}")


async def begun(opened: Session, tag: str) -> dict[int, Conversation]:
    talks = {said: Conversation(at_the_door(), said=said, tag=f"{tag} {said}", session=opened) for said in HISTORIES}
    for talk in talks.values():
        await talk.begin()
        await talk.step()
    return talks


def test_a_request_from_the_durable_surface_down(benchmark: BenchmarkFixture, tmp_path: Path) -> None:
    samples = Samples()
    numbers = iter(range(ROUNDS))

    def one_round() -> None:
        tag = str(next(numbers))
        with session(folder=tmp_path) as opened:
            asyncio.run(side_by_side(opened, tag, "live"))
        with session(folder=tmp_path) as opened:
            asyncio.run(side_by_side(opened, tag, "replayed"))

    async def side_by_side(opened: Session, tag: str, kind: str) -> None:
        ours, none = at_the_surface(JournalDurability), at_the_surface(NoOpDurability)
        for said in HISTORIES:
            talks = {
                f"{kind} {said}": Conversation(ours, said=said, tag=f"{tag} {said}", session=opened),
                f"no engine, {kind} {said}": Conversation(none, said=said, tag=f"{tag} {said}", session=None),
            }
            for talk in talks.values():
                await talk.begin()
            for _ in range(STEPS):
                for name, talk in talks.items():
                    samples.add(name, await talk.step())

    benchmark.pedantic(one_round, rounds=ROUNDS, iterations=1)
    keep(
        benchmark,
        *(
            Figure(
                what=f"{kind} request from pydantic-ai's durable surface down, history of {said:,}",
                ours=samples.median(f"{kind} {said}"),
                beside="with a no-op engine",
                other=samples.median(f"no engine, {kind} {said}"),
                unit="us",
            )
            for kind in ("live", "replayed")
            for said in HISTORIES
        ),
    )
    # Without an engine the model is asked; a replay does not ask it and is not slower by much for all its reading.
    assert samples.median(f"replayed {HISTORIES[-1]}") < 5 * samples.median(f"no engine, replayed {HISTORIES[-1]}")


def test_the_loop_is_not_stopped_by_syncs(benchmark: BenchmarkFixture, tmp_path: Path) -> None:
    samples = Samples()
    numbers = iter(range(ROUNDS))

    def one_round() -> None:
        with session(folder=tmp_path) as opened:
            asyncio.run(side_by_side(opened, str(next(numbers))))

    async def side_by_side(opened: Session, tag: str) -> None:
        ours = Conversation(at_the_surface(JournalDurability), said=100, tag=tag, session=opened)
        none = Conversation(at_the_surface(NoOpDurability), said=100, tag=tag, session=None)
        await ours.begin()
        await none.begin()
        started = time.perf_counter()
        samples.add("live", await longest_stall(lambda: requests(ours, until=lambda: len(taken) == 200)))
        ends = 2 * time.perf_counter() - started
        samples.add("no engine", await longest_stall(lambda: requests(none, until=lambda: time.perf_counter() > ends)))

    taken: list[float] = []

    async def requests(talk: Conversation, *, until: Callable[[], bool]) -> None:
        taken.clear()
        while not until():
            taken.append(await talk.step())
            # Without a journal there is nothing to wait for, and the loop would never get a turn.
            await asyncio.sleep(0)

    benchmark.pedantic(one_round, rounds=ROUNDS, iterations=1)
    keep(
        benchmark,
        Figure(
            what="longest stall of the loop during 200 live requests",
            ours=samples.median("live"),
            beside="during as long of requests with a no-op engine",
            other=samples.median("no engine"),
            unit="ms",
        ),
    )
    # Generous: both are mostly what else the machine does. tests/test_growth.py holds the disk, and the loop runs on.
    assert samples.median("live") < 10 * samples.median("no engine")


async def longest_stall(work: Callable[[], Awaitable[object]]) -> float:
    """How long the loop was late at most, for a task that wants to run every millisecond while `work` is done."""
    tick = 1e-3
    late = [0.0]

    async def ticker() -> None:
        while True:
            started = time.perf_counter()
            await asyncio.sleep(tick)
            late.append(time.perf_counter() - started - tick)

    ticking = asyncio.create_task(ticker())
    await work()
    ticking.cancel()
    return max(late)
