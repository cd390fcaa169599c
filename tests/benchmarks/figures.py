"""What was measured: each figure beside the one it is compared with, both taken in turn within the same minute."""

from __future__ import annotations

import os
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from pytest_benchmark.fixture import BenchmarkFixture

PAGE = b"x" * 8192
"""What is written before a bare sync: as much as one page of the journal."""

_SCALES = {"us": 1e6, "ms": 1e3, "s": 1.0, "bytes": 1.0}


@dataclass(frozen=True, kw_only=True)
class Figure:
    """`ours` beside `other`, in seconds or bytes. `at_most` is the ratio that was promised, where one was."""

    what: str
    ours: float
    beside: str
    other: float
    unit: Literal["us", "ms", "s", "bytes"]
    at_most: float | None = None

    @property
    def ratio(self) -> float:
        return self.ours / self.other

    @property
    def promise(self) -> str:
        if self.at_most is None:
            return ""
        return f"at most {self.at_most:g}: {'met' if self.ratio <= self.at_most else 'missed'}"

    def shown(self, value: float) -> str:
        scaled = value * _SCALES[self.unit]
        return f"{scaled:,.0f} {self.unit}" if abs(scaled) >= 100 else f"{scaled:.3g} {self.unit}"


@dataclass
class Samples:
    """Seconds by name, taken in turn so that whatever else the machine does meets them all."""

    taken: defaultdict[str, list[float]] = field(default_factory=lambda: defaultdict(list))

    def add(self, name: str, seconds: float) -> None:
        self.taken[name].append(seconds)

    @contextmanager
    def time(self, name: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self.add(name, time.perf_counter() - started)

    def median(self, name: str) -> float:
        return statistics.median(self.taken[name])


def keep(benchmark: BenchmarkFixture, *figures: Figure) -> None:
    """Put the figures into the report that `python -m tests.benchmarks` makes its table of."""
    benchmark.extra_info["figures"] = [asdict(figure) for figure in figures]


@contextmanager
def bare_syncs(folder: Path) -> Iterator[Callable[[], float]]:
    """Two appended pages, each synced: the least that an intent and a result on disk can cost here."""
    file = os.open(folder / "bare", os.O_CREAT | os.O_WRONLY | os.O_APPEND)

    def pair() -> float:
        started = time.perf_counter()
        for _ in range(2):
            os.write(file, PAGE)
            os.fdatasync(file)
        return time.perf_counter() - started

    try:
        yield pair
    finally:
        os.close(file)
