"""A sample by chance, and what it says of the whole."""

from __future__ import annotations

import random

import pandas
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentkit.map.rows import open_table
from agentkit.map.sample import describe, estimate, quantile_t, sample, total


def test_the_same_table_has_the_same_sample_and_a_larger_one_holds_it() -> None:
    frame = pandas.DataFrame({"n": range(1000), "text": [f"row {n}" for n in range(1000)]})
    fifty = sample(open_table(frame), 50)
    assert fifty == sample(open_table(frame.copy()), 50) == tuple(sorted(set(fifty)))
    assert len(fifty) == 50
    assert set(fifty) < set(sample(open_table(frame), 100))
    assert fifty != sample(open_table(frame.assign(n=range(1, 1001))), 50)
    assert sample(open_table(frame.head(3)), 50) == (0, 1, 2)


@pytest.mark.parametrize(
    ("freedom", "expected"), [(1, 6.3138), (2, 2.9200), (3, 2.3534), (5, 2.0150), (10, 1.8125), (49, 1.6766)]
)
def test_the_quantiles_of_t_are_those_of_the_tables(freedom: int, expected: float) -> None:
    assert quantile_t(0.95, freedom) == pytest.approx(expected, rel=0.005)


def test_nine_of_ten_intervals_hold_the_total_of_a_skewed_table() -> None:
    chance = random.Random(7)
    costs = [chance.lognormvariate(-6, 0.6) for _ in range(20_000)]
    held = 0
    for _ in range(1000):
        found = total(chance.sample(costs, 50), len(costs))
        assert found.low is not None
        assert found.high is not None
        held += found.low <= sum(costs) <= found.high
    assert 0.87 <= held / 1000 <= 0.93


def test_the_estimate_is_one_line() -> None:
    costs = [0.001, 0.0015] * 25
    found = estimate(rows=250_000, costs=costs, tokens=[400] * 50, seconds=[1.5] * 50, workers=48)
    assert describe(found) == (
        "250,000 rows: about 312.50 USD (298 to 327), 2 h 10 min at 32 rows a second (from 50 rows by chance)"
    )


def test_what_is_not_known_is_not_said() -> None:
    unpriced = estimate(rows=2_000, costs=[0.1, None], tokens=[900, 1_100], seconds=[None, None], workers=4, failed=1)
    assert describe(unpriced) == (
        "2,000 rows: about 2.0M tokens (no price is known) (from 2 rows by chance, of which 1 failed)"
    )
    one = estimate(rows=10, costs=[0.002], tokens=[10], seconds=[30.0], workers=1)
    assert one.cost is not None and one.cost.low is None
    assert describe(one) == "10 rows: about 0.0200 USD, 5 min at 0.033 rows a second (from 1 row by chance)"
    free = estimate(rows=10, costs=[0.0] * 5, tokens=[10] * 5, seconds=[0.0] * 5, workers=1)
    assert describe(free) == "10 rows: about 0.00 USD, 1 s (from 5 rows by chance)"


def test_a_sample_of_all_is_no_estimate() -> None:
    found = estimate(rows=3, costs=[0.01, 0.02, 0.06], tokens=[1, 2, 3], seconds=[1.0, 2.0, 3.0], workers=2)
    assert found.cost is not None
    assert (found.cost.low, found.cost.likely, found.cost.high) == pytest.approx((0.09, 0.09, 0.09))
    assert describe(found) == "3 rows: about 0.0900 USD, 3 s at 1 rows a second (all of them were run)"


@given(st.lists(st.floats(0, 1e3), min_size=2, max_size=40), st.integers(0, 10_000))
def test_an_interval_holds_what_the_sample_used(values: list[float], more: int) -> None:
    found = total(values, len(values) + more)
    assert found.low is not None and found.high is not None
    assert sum(values) * (1 - 1e-9) <= found.low
    assert found.low <= found.high * (1 + 1e-9)
