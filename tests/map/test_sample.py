"""A sample by chance, and what it says of the whole."""

from __future__ import annotations

import random

import pandas
import pytest

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
