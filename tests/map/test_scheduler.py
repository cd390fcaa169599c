"""The rows of a map at a server: as many at once as it bears, and none that is begun in vain."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Iterator

import pytest

from agentkit.errors import UserError
from agentkit.map.scheduler import Scheduler


def run(scheduler: Scheduler, rows: Iterator[int] | range, perform: object) -> None:
    asyncio.run(scheduler.run(rows, perform))  # type: ignore[arg-type]


def test_every_row_once_and_never_more_than_so_many() -> None:
    scheduler = Scheduler(7, model_name="m")
    done: list[int] = []
    peak = 0

    async def perform(ordinal: int) -> None:
        nonlocal peak
        peak = max(peak, scheduler.in_flight)
        await asyncio.sleep(0.001 * (ordinal % 3))
        done.append(ordinal)

    run(scheduler, range(300), perform)
    assert sorted(done) == list(range(300)) and peak == 7
    assert (scheduler.in_flight, scheduler.limit, scheduler.history) == (0, 7, ())


def test_rows_are_taken_one_by_one_as_there_is_room() -> None:
    scheduler = Scheduler(5, model_name="m")
    taken = 0

    def rows() -> Iterator[int]:
        nonlocal taken
        for ordinal in range(250_000):
            taken += 1
            yield ordinal

    async def perform(ordinal: int) -> None:
        await asyncio.sleep(0)
        assert taken <= ordinal + 1 + 5
        if ordinal == 100:
            scheduler.end()

    run(scheduler, rows(), perform)
    assert 100 < taken <= 106


def test_those_under_way_end_when_no_new_ones_are_taken() -> None:
    scheduler = Scheduler(4, model_name="m")
    begun: list[int] = []
    ended: list[int] = []

    async def perform(ordinal: int) -> None:
        begun.append(ordinal)
        if ordinal == 3:
            scheduler.end()
        await asyncio.sleep(0.05)
        ended.append(ordinal)

    run(scheduler, range(100), perform)
    assert sorted(ended) == sorted(begun) == [0, 1, 2, 3]


def test_what_a_row_raises_ends_the_map_and_no_row_begins_after_it() -> None:
    scheduler = Scheduler(10, model_name="m")
    begun: list[int] = []
    stopped: list[int] = []

    async def perform(ordinal: int) -> None:
        begun.append(ordinal)
        if ordinal == 4:
            await asyncio.sleep(0.05)
            raise RuntimeError("the disk is full")
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            stopped.append(ordinal)
            raise

    with pytest.raises(RuntimeError, match="the disk is full"):
        run(scheduler, range(1000), perform)
    assert begun == list(range(10)) and sorted(stopped) == [0, 1, 2, 3, 5, 6, 7, 8, 9]


def test_a_stop_with_500_rows_under_way_takes_less_than_half_a_second() -> None:
    scheduler = Scheduler(500, model_name="m")
    ended: list[int] = []

    async def perform(ordinal: int) -> None:
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0.01)
            ended.append(ordinal)

    async def scene() -> float:
        running = asyncio.create_task(scheduler.run(range(250_000), perform))
        while scheduler.in_flight < 500:
            await asyncio.sleep(0.01)
        began = time.perf_counter()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        return time.perf_counter() - began

    assert asyncio.run(scene()) < 0.5
    assert len(ended) == 500 and scheduler.in_flight == 0


def test_the_number_of_workers_changes_while_rows_run() -> None:
    scheduler = Scheduler(2, model_name="m")
    peaks: list[int] = []

    async def perform(ordinal: int) -> None:
        peaks.append(scheduler.in_flight)
        await asyncio.sleep(0.002)
        if ordinal == 20:
            scheduler.set_limit(9)
        if ordinal == 100:
            scheduler.set_limit(3)

    run(scheduler, range(200), perform)
    assert max(peaks[:20]) == 2 and max(peaks) == 9 and max(peaks[-60:]) == 3


@pytest.mark.parametrize("workers", [0, -1, True, 2.5, "many"])
def test_workers_that_are_none_are_refused_in_one_line(workers: object) -> None:
    with pytest.raises(UserError) as refused:
        Scheduler(workers, model_name="m")  # type: ignore[arg-type]
    assert "'auto'" in str(refused.value) and "\n" not in str(refused.value)


async def lag_of(running: Awaitable[None]) -> float:
    """The 99th percentile of how much later a task of this loop wakes than it asked to, in seconds."""
    lags: list[float] = []

    async def tick() -> None:
        while True:
            before = time.perf_counter()
            await asyncio.sleep(0.002)
            lags.append(time.perf_counter() - before - 0.002)

    ticking = asyncio.create_task(tick())
    await running
    ticking.cancel()
    await asyncio.gather(ticking, return_exceptions=True)
    return sorted(lags)[int(len(lags) * 0.99)]


def work(seconds: float) -> None:
    """Keep this thread busy; what others take of the machine is not counted."""
    until = time.thread_time() + seconds
    while time.thread_time() < until:
        pass


@pytest.mark.alone
def test_the_loop_stays_responsive_while_500_rows_are_under_way() -> None:
    """Rows of 4 ms of work, in two pieces around an answer that takes 6 s; beside all of them begun at once."""
    peak = 0

    async def perform(ordinal: int) -> None:
        nonlocal peak
        peak = max(peak, scheduler.in_flight)
        work(0.002)
        await asyncio.sleep(6.0)
        work(0.002)

    async def all_at_once() -> None:
        await asyncio.gather(*(perform(ordinal) for ordinal in range(500)))

    async def scene() -> tuple[float, float]:
        return await lag_of(scheduler.run(range(600), perform)), await lag_of(all_at_once())

    scheduler = Scheduler(500, model_name="m")
    paced, at_once = asyncio.run(scene())
    print(f"lag at the 99th percentile: {paced * 1000:.1f} ms, all at once {at_once * 1000:.1f} ms")
    assert peak > 300
    assert paced < 0.02 or paced < at_once / 2
