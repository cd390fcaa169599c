"""The part of `statistics` that is exact here: sums are kept as whole numbers until the last division."""

import math as _math
from collections import Counter as _Counter
from decimal import Decimal as _Decimal
from typing import Any

StatisticsError = ValueError


def mean(data: Any) -> Any:
    numbers = _numbers(data, "mean requires at least one data point", 1)
    top, bottom = _total(numbers)
    return _converted(top, bottom * len(numbers), numbers)


def fmean(data: Any) -> Any:
    numbers = list(data)
    if not numbers:
        raise ValueError("fmean requires at least one data point")
    return _math.fsum(numbers) / len(numbers)


def median(data: Any) -> Any:
    ordered = _ordered(data)
    half = len(ordered) // 2
    return ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2


def median_low(data: Any) -> Any:
    ordered = _ordered(data)
    return ordered[(len(ordered) - 1) // 2]


def median_high(data: Any) -> Any:
    ordered = _ordered(data)
    return ordered[len(ordered) // 2]


def mode(data: Any) -> Any:
    counted = _Counter(list(data)).most_common(1)
    if not counted:
        raise ValueError("no mode for empty data")
    return counted[0][0]


def multimode(data: Any) -> Any:
    counted = _Counter(list(data))
    most = max([*counted.values(), 0])
    return [value for value, count in counted.items() if count == most]


def quantiles(data: Any, *, n: Any = 4, method: Any = "exclusive") -> Any:
    if n < 1:
        raise ValueError("n must be at least 1")
    ordered = sorted(data)
    if len(ordered) < 2:
        raise ValueError("must have at least two data points")
    if method == "inclusive":
        return _inclusive(ordered, n)
    if method != "exclusive":
        raise ValueError(f"Unknown method: {method!r}")
    result = []
    for i in range(1, n):
        j = min(max(i * (len(ordered) + 1) // n, 1), len(ordered) - 1)
        delta = i * (len(ordered) + 1) - j * n
        result.append((ordered[j - 1] * (n - delta) + ordered[j] * delta) / n)
    return result


def _inclusive(ordered: Any, n: Any) -> Any:
    result = []
    for i in range(1, n):
        j, delta = divmod(i * (len(ordered) - 1), n)
        result.append((ordered[j] * (n - delta) + ordered[j + 1] * delta) / n)
    return result


def variance(data: Any) -> Any:
    numbers = _numbers(data, "variance requires at least two data points", 2)
    top, bottom = _squares(numbers)
    return _converted(top, bottom * (len(numbers) - 1), numbers)


def pvariance(data: Any) -> Any:
    numbers = _numbers(data, "pvariance requires at least one data point", 1)
    top, bottom = _squares(numbers)
    return _converted(top, bottom * len(numbers), numbers)


def stdev(data: Any) -> Any:
    numbers = _numbers(data, "stdev requires at least two data points", 2)
    top, bottom = _squares(numbers)
    return _root(top, bottom * (len(numbers) - 1))


def pstdev(data: Any) -> Any:
    numbers = _numbers(data, "pstdev requires at least one data point", 1)
    top, bottom = _squares(numbers)
    return _root(top, bottom * len(numbers))


def _numbers(data: Any, short: Any, least: Any) -> Any:
    numbers = list(data)
    for number in numbers:
        if not isinstance(number, (int, float)):
            raise TypeError(f"statistics takes ints and floats here, not {type(number).__name__}")
        if isinstance(number, float) and not _math.isfinite(number):
            raise ValueError("statistics takes finite numbers here: drop nan and inf first")
    if len(numbers) < least:
        raise ValueError(short)
    return numbers


def _ordered(data: Any) -> Any:
    ordered = sorted(data)
    if not ordered:
        raise ValueError("no median for empty data")
    return ordered


def _ratio(number: Any) -> Any:
    if isinstance(number, float):
        return _Decimal(number).as_integer_ratio()
    return int(number), 1


def _total(numbers: Any) -> Any:
    """The exact sum, as (numerator, denominator)."""
    tops: dict[Any, Any] = {}
    for number in numbers:
        top, bottom = _ratio(number)
        tops[bottom] = tops.get(bottom, 0) + top
    # Denominators of floats are powers of two, so the largest is a multiple of all.
    most = max(tops)
    return sum([top * (most // bottom) for bottom, top in tops.items()]), most


def _squares(numbers: Any) -> Any:
    """The exact sum of the squared distances from the mean, as (numerator, denominator)."""
    count = len(numbers)
    ratios = [_ratio(number) for number in numbers]
    most = max([bottom for _, bottom in ratios])
    tops = [top * (most // bottom) for top, bottom in ratios]
    return count * sum([top * top for top in tops]) - sum(tops) ** 2, count * most * most


def _converted(top: Any, bottom: Any, numbers: Any) -> Any:
    if top % bottom == 0 and not any([isinstance(number, float) for number in numbers]):
        return top // bottom
    return _quotient(top, bottom)


def _quotient(top: Any, bottom: Any) -> Any:
    common = _math.gcd(top, bottom)
    return (top // common) / (bottom // common)


def _root(top: Any, bottom: Any) -> Any:
    """The square root of a fraction, rounded once."""
    common = _math.gcd(top, bottom)
    top, bottom = top // common, bottom // common
    if top == 0:
        return 0.0
    shift = (_bits(top) - _bits(bottom) - 109) // 2
    if shift >= 0:
        return (_whole_root(top, bottom << 2 * shift) << shift) / 1
    return _whole_root(top << -2 * shift, bottom) / (1 << -shift)


def _whole_root(top: Any, bottom: Any) -> Any:
    root = _math.isqrt(top // bottom)
    return root | (1 if root * root * bottom != top else 0)


def _bits(number: Any) -> Any:
    return len(bin(number)) - 2
