"""How far a map is: what is counted, and figures that are only given when they are known."""

from __future__ import annotations

import sys
import time
import tracemalloc

import pytest

from agentkit.map.progress import BIN_EDGES, KINDS, OTHER_KINDS, SLOWEST, Progress, Pulse, Snapshot


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def live(progress: Progress, clock: Clock, rows: range, *, each: float = 0.5, cost: float | None = 0.01) -> None:
    for ordinal in rows:
        progress.begin(ordinal)
        clock.now += each
        progress.end(ordinal, status="done", cost=cost, tokens=10, seconds=each, label=f"row {ordinal}")


def test_nothing_is_claimed_before_it_is_known(clock: Clock) -> None:
    progress = Progress(1000, clock=clock)
    assert progress.snapshot() == Snapshot(total=1000)
    live(progress, clock, range(9))
    before = progress.snapshot()
    assert (before.rate, before.eta, before.expected) == (None, None, None)
    live(progress, clock, range(9, 10))
    after = progress.snapshot()
    assert after.rate == pytest.approx(2.0)
    assert after.eta == pytest.approx(495.0)
    assert after.expected == pytest.approx(10.0)
    assert (after.live, after.done, after.left, after.tokens) == (10, 10, 990, 100)


def test_replays_are_no_measure_of_how_long_it_takes(clock: Clock) -> None:
    progress = Progress(1_000_000, clock=clock)
    progress.replay_many(500_000, 50.0, 9_000)
    clock.now += 1
    assert progress.snapshot().eta is None
    live(progress, clock, range(500_000, 500_020))
    for ordinal in range(500_020, 520_020):
        progress.begin(ordinal)
        progress.end(ordinal, status="done", replayed=True, cost=0.001, tokens=10, seconds=0.0)
    seen = progress.snapshot()
    assert (seen.live, seen.replayed) == (20, 520_000)
    assert seen.rate == pytest.approx(2.0) and seen.eta == pytest.approx((1_000_000 - 520_020) / 2)
    assert seen.spent == pytest.approx(0.2) and seen.saved == pytest.approx(70.0) and seen.tokens == 200
    assert sum(seen.histogram) == 20


def test_the_rate_is_that_of_the_last_minute(clock: Clock) -> None:
    progress = Progress(10_000, clock=clock)
    live(progress, clock, range(1000), each=0.1)
    assert progress.snapshot().rate == pytest.approx(10, rel=0.02)
    live(progress, clock, range(1000, 1070), each=1.0)
    assert progress.snapshot().rate == pytest.approx(1, rel=0.05)
    clock.now += 61
    silent = progress.snapshot()
    assert (silent.rate, silent.eta) == (None, None)


def test_a_server_that_answers_once_a_minute_in_bursts_has_the_rate_of_the_minute(clock: Clock) -> None:
    progress = Progress(6_000, clock=clock)
    rates = []
    for minute in range(3):
        live(progress, clock, range(600 * minute, 600 * (minute + 1)), each=0.01)
        clock.now += 54
        rates.append(progress.snapshot().rate)
    assert rates == [pytest.approx(10, rel=0.05)] * 3


def test_failures_keep_their_kind_and_are_bounded(clock: Clock) -> None:
    progress = Progress(1000, clock=clock)
    for ordinal in range(500):
        progress.begin(ordinal)
        progress.end(ordinal, status="failed", error_kind=f"Error{ordinal % 100}", cost=0.0)
    seen = progress.snapshot()
    assert seen.failed == 500 and len(seen.failures) == KINDS + 1
    assert seen.failures[0] == (OTHER_KINDS, 500 - 5 * KINDS)
    assert seen.ended == 500 and seen.left == 500


def test_a_row_that_waited_for_a_person_is_counted_once(clock: Clock) -> None:
    progress = Progress(2, clock=clock)
    progress.begin(0)
    progress.end(0, status="waiting", cost=0.5)
    waiting = progress.snapshot()
    assert (waiting.waiting, waiting.done, waiting.left, waiting.in_flight) == (1, 0, 1, 0)
    progress.begin(0)
    assert (progress.snapshot().waiting, progress.snapshot().in_flight) == (0, 1)
    progress.end(0, status="done", cost=0.25)
    done = progress.snapshot()
    assert (done.waiting, done.done, done.left, done.spent) == (0, 1, 1, 0.75)


def test_a_price_that_is_not_known_is_not_zero(clock: Clock) -> None:
    progress = Progress(100, clock=clock)
    live(progress, clock, range(20), cost=None)
    unpriced = progress.snapshot()
    assert (unpriced.unpriced, unpriced.spent, unpriced.expected) == (20, 0.0, None)
    live(progress, clock, range(20, 40), cost=0.5)
    assert progress.snapshot().expected == pytest.approx(10 + 60 * 0.5)


def test_the_slowest_and_the_histogram(clock: Clock) -> None:
    progress = Progress(100, clock=clock)
    for ordinal in range(100):
        progress.begin(ordinal)
        progress.end(ordinal, status="done", cost=0.0, seconds=float(ordinal), label="x" * 500)
    seen = progress.snapshot()
    assert [row.ordinal for row in seen.slowest] == list(range(99, 99 - SLOWEST, -1))
    assert all(len(row.label) <= 80 for row in seen.slowest)
    assert len(seen.histogram) == len(BIN_EDGES) + 1 and sum(seen.histogram) == 100
    assert seen.histogram[:5] == (1, 0, 0, 0, 1)


def test_a_map_that_has_ended_stands_still(clock: Clock) -> None:
    progress = Progress(100, clock=clock)
    live(progress, clock, range(20))
    progress.finish("budget reached")
    ended = progress.snapshot()
    clock.now += 1000
    assert progress.snapshot() == ended
    assert (ended.finished, ended.reason, ended.eta, ended.seconds) == (True, "budget reached", None, 10.0)
    assert ended.rate == pytest.approx(2.0)


def test_a_table_of_unknown_length(clock: Clock) -> None:
    progress = Progress(None, clock=clock)
    live(progress, clock, range(20))
    seen = progress.snapshot()
    assert (seen.total, seen.left, seen.eta, seen.expected) == (None, None, None, None)
    assert seen.rate == pytest.approx(2.0)


def test_a_row_costs_the_same_whatever_came_before() -> None:
    """Neither time nor memory grows with the rows that ended."""

    def fold(rows: range) -> float:
        began = time.perf_counter()
        for ordinal in rows:
            progress.begin(ordinal)
            progress.end(ordinal, status="done", cost=0.001, tokens=9, seconds=ordinal % 7, label="row")
        return time.perf_counter() - began

    progress = Progress(300_000)
    first = min(fold(range(start, start + 5_000)) for start in range(0, 20_000, 5_000))
    tracemalloc.start()
    fold(range(20_000, 100_000))
    grown, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    last = min(fold(range(start, start + 5_000)) for start in range(100_000, 120_000, 5_000))
    assert last < 3 * first
    assert grown < 200_000 + 100 * sys.getsizeof(1.0)


def test_a_pulse_is_due_at_most_four_times_a_second(clock: Clock) -> None:
    pulse, drawn = Pulse(clock=clock), 0
    for _ in range(1000):
        drawn += pulse.is_due()
        clock.now += 0.01
    assert 38 <= drawn <= 41
