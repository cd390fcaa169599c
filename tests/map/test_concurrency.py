"""The limit of `auto`: found quickly, kept below what is refused, and given back when a server is itself again."""

from __future__ import annotations

import pytest

from agentkit.map.concurrency import Bounds, Change, ConcurrencyLimit


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def answer(control: ConcurrencyLimit, *, rounds: int = 1, latency: float = 1.0, held: bool = False) -> None:
    """Whole rounds in which the limit is used in full."""
    for _ in range(rounds):
        for _ in range(max(control.limit, 4)):
            control.count_begin(control.limit)
            control.count_answer(latency, held=held)


def last(control: ConcurrencyLimit) -> str:
    return control.changes[-1].reason


def test_it_doubles_until_it_is_refused_and_then_creeps(clock: Clock) -> None:
    control = ConcurrencyLimit(Bounds(), clock=clock)
    answer(control, rounds=2)
    assert control.limit == 80
    control.count_refusal()
    assert control.limit == 60  # 64, in steps of 5
    clock.now += 16
    answer(control)
    assert control.limit == 65
    assert [change.reason for change in control.changes] == ["slow_start", "slow_start", "rate_limit", "steady_up"]


def test_refusals_that_come_together_cut_once(clock: Clock) -> None:
    control = ConcurrencyLimit(Bounds(), clock=clock)
    for _ in range(20):
        control.count_refusal()
    answer(control, rounds=5)  # those that left before it
    assert list(control.changes) == [Change(at=0.0, before=20, after=15, reason="rate_limit")]


def test_it_stays_within_its_bounds(clock: Clock) -> None:
    control = ConcurrencyLimit(Bounds(least=2, start=4, most=50, cooldown=1), clock=clock)
    for _ in range(20):
        clock.now += 2
        control.count_refusal()
    assert control.limit == 2
    clock.now += 2
    answer(control, rounds=60)
    assert control.limit == 50


def test_a_limit_that_holds_nobody_back_does_not_grow(clock: Clock) -> None:
    control = ConcurrencyLimit(Bounds(), clock=clock)
    for _ in range(200):
        control.count_begin(15)
        control.count_answer(1.0)
    answer(control, rounds=3, held=True)
    assert control.limit == 20 and not control.changes


def test_an_overloaded_server_neither_cuts_nor_lets_grow(clock: Clock) -> None:
    control = ConcurrencyLimit(Bounds(), clock=clock)
    for _ in range(30):
        for _ in range(15):
            control.count_begin(20)
            control.count_answer(1.0)
        control.count_failure()
    assert control.limit == 20


def test_a_server_that_slows_down_is_followed_down_and_up(clock: Clock) -> None:
    control = ConcurrencyLimit(Bounds(cooldown=1), clock=clock)
    answer(control, rounds=2)
    assert control.limit == 80
    clock.now += 2
    answer(control, latency=5.0)
    assert control.limit == 40 and last(control) == "latency"
    clock.now += 2
    answer(control, latency=1.0, rounds=4)
    assert control.limit >= 55 and last(control) == "steady_up"


def test_a_server_that_is_slow_by_itself_is_not_cut_to_nothing(clock: Clock) -> None:
    control = ConcurrencyLimit(Bounds(cooldown=1), clock=clock)
    answer(control, rounds=2)
    for _ in range(40):
        clock.now += 2
        answer(control, latency=5.0)
    assert last(control) == "steady_up" and control.limit >= 80


def test_a_learnt_limit_is_where_it_starts(clock: Clock) -> None:
    control = ConcurrencyLimit(Bounds(), start=120, clock=clock)
    answer(control)
    assert control.limit == 130
    assert ConcurrencyLimit(Bounds(), start=10**9).limit == 500


def test_a_limit_set_by_hand(clock: Clock) -> None:
    control = ConcurrencyLimit(Bounds(), clock=clock)
    control.set_limit(7)
    assert control.limit == 7 and last(control) == "manual"
