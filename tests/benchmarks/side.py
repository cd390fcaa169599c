"""One engine in a comparison: the same work recorded once, and replayed as often as is asked for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.benchmarks.door import PAYLOAD


@dataclass
class Performed:
    """How often a step was really performed: a replay must not add to it."""

    times: Counter[str] = field(default_factory=Counter)

    def answer(self) -> object:
        """The answer of a bare step: 2 KB of JSON."""
        self.times["step"] += 1
        return PAYLOAD

    def add(self, a: int, b: int) -> int:
        self.times["tool"] += 1
        return a + b


@dataclass(frozen=True, kw_only=True)
class Side:
    """`record` performs every step; `replay` answers them all from the record. Both return the seconds they took."""

    name: str
    record: Callable[[], float]
    replay: Callable[[], float]
    performed: Performed
