"""Some rows by chance, and what they say of all: what the whole table will cost and take, with an interval."""

from __future__ import annotations

import hashlib
import heapq
import json
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist, fmean, stdev

from agentkit.map.table import Table

CONFIDENCE = 0.9
_FIRST_ROWS = 64


def sample(table: Table, size: int) -> tuple[int, ...]:
    """Return `size` ordinals by chance, in order; all of them where the table has no more.

    They depend on the columns and the first rows alone: the same table has the same sample in every kernel. A larger
    sample holds the smaller one, so that what it cost is not paid again.
    """
    first = next(table.pieces(size=_FIRST_ROWS))
    rows = [first.row(place) for place in range(len(first))]
    content = json.dumps([table.columns, rows], ensure_ascii=True, default=str)
    # Only random() is the same in every version of Python; sample() and shuffle() are not promised to be.
    chance = random.Random(int.from_bytes(hashlib.sha256(content.encode()).digest(), "big"))
    ranks = [chance.random() for _ in range(table.length)]
    return tuple(sorted(heapq.nsmallest(size, range(table.length), key=ranks.__getitem__)))


@dataclass(frozen=True, kw_only=True)
class Total:
    """The sum over all rows: the likely value, and between what it lies with a confidence of 90 %.

    `low` and `high` are None where one row alone was seen.
    """

    likely: float
    low: float | None
    high: float | None


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What all `rows` will use, from the `sampled` ones. `cost` is in USD, None where a price is not known."""

    rows: int
    sampled: int
    failed: int
    cost: Total | None
    tokens: Total
    seconds: Total | None
    """The wall time of all rows with as many workers as in the sample."""

    @property
    def rate(self) -> float | None:
        """Rows per second of wall time."""
        return self.rows / self.seconds.likely if self.seconds is not None and self.seconds.likely > 0 else None


def estimate(
    *,
    rows: int,
    costs: Sequence[float | None],
    tokens: Sequence[int],
    seconds: Sequence[float | None],
    workers: float,
    failed: int = 0,
) -> Estimate:
    """Return what all `rows` will use, from what each row of a sample used, the failed ones among them.

    Rows follow one another on `workers`, so that the wall time is the sum of the rows' seconds by their number
    (Little's law). Rows without a duration, which were replayed from a record that has none, say nothing of the time.
    """
    priced = [cost for cost in costs if cost is not None]
    timed = [duration for duration in seconds if duration is not None]
    return Estimate(
        rows=rows,
        sampled=len(tokens),
        failed=failed,
        cost=total(priced, rows) if priced and len(priced) == len(costs) else None,
        tokens=total(list(map(float, tokens)), rows),
        seconds=total([duration / workers for duration in timed], rows) if timed else None,
    )


def total(values: Sequence[float], rows: int) -> Total:
    """Return the total of all `rows` from a simple random sample of them without replacement.

    N·ȳ ± t · N · s/√n · √(1 − n/N), with t of n − 1 degrees of freedom: Cochran, Sampling Techniques, 3rd edition
    (1977), sections 2.6 to 2.8. Where a few rows make most of the sum, the interval is moved by N · m₃/(6 s² n), as
    Johnson, Modified t Tests and Confidence Intervals for Asymmetrical Populations, JASA 73 (1978), does. It is never
    below what the sample itself used.
    """
    count, mean = len(values), fmean(values)
    likely = mean * rows
    left = max(0.0, 1 - count / rows)
    if not left:
        return Total(likely=likely, low=likely, high=likely)
    if count < 2:
        return Total(likely=likely, low=None, high=None)
    deviation = stdev(values)
    half = quantile_t((1 + CONFIDENCE) / 2, count - 1) * rows * deviation / math.sqrt(count) * math.sqrt(left)
    third = fmean((value - mean) ** 3 for value in values)
    variance = deviation**2
    shift = rows * left * third / (6 * variance * count) if variance > 0 else 0.0
    return Total(likely=likely, low=max(likely + shift - half, sum(values)), high=likely + shift + half)


def quantile_t(probability: float, freedom: int) -> float:
    """Return the quantile of Student's t: exact for 1 and 2 degrees of freedom, to 0.5 % for more.

    Abramowitz and Stegun, Handbook of Mathematical Functions (1964), 26.7.5.
    """
    if freedom == 1:
        return math.tan(math.pi * (probability - 0.5))
    if freedom == 2:
        return (2 * probability - 1) / math.sqrt(2 * probability * (1 - probability))
    z = NormalDist().inv_cdf(probability)
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + sum(term / float(freedom) ** power for power, term in enumerate(terms, start=1))


def describe(estimate: Estimate) -> str:
    """Return the estimate in one line for a person."""
    parts: list[str] = []
    if estimate.cost is not None:
        parts.append(f"about {_money(estimate.cost.likely)} USD{_interval(estimate.cost)}")
    else:
        parts.append(f"about {_count(estimate.tokens.likely)} tokens (no price is known)")
    if estimate.seconds is not None:
        at = f" at {_rate(estimate.rate)} rows a second" if estimate.rate is not None else ""
        parts.append(f"{_duration(estimate.seconds.likely)}{at}")
    whole = estimate.sampled >= estimate.rows
    source = (
        "all of them were run" if whole else f"from {estimate.sampled:,} row{'s' * (estimate.sampled != 1)} by chance"
    )
    failed = f", of which {estimate.failed:,} failed" * (estimate.failed > 0)
    return f"{estimate.rows:,} row{'s' * (estimate.rows != 1)}: {', '.join(parts)} ({source}{failed})"


def _interval(total: Total) -> str:
    if total.low is None or total.high is None or total.high - total.low <= total.likely / 1000:
        return ""
    digits = 0 if total.high >= 100 else _digits(total.high)
    return f" ({total.low:,.{digits}f} to {total.high:,.{digits}f})"


def _money(amount: float) -> str:
    return f"{amount:,.{_digits(amount)}f}"


def _digits(amount: float) -> int:
    return 2 if amount >= 1 or amount == 0 else 4 if amount >= 0.01 else 6


def _count(number: float) -> str:
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.1f}{letter}"
    return f"{number:.0f}"


def _rate(rate: float | None) -> str:
    rate = rate or 0.0
    return f"{rate:,.0f}" if rate >= 10 else f"{rate:.2g}"


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min"
    days, hours = divmod(hours, 24)
    return f"{days} d {hours} h"
