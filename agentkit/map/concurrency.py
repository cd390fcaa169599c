"""How many rows at once a server bears: slow start, additive growth, cuts on refusals and on slower answers.

The rules are those of Inspect's adaptive controller, with latency as a second signal: a *round* is as many answers as
the limit; only at its end the limit grows, and only if it was what held the rows back.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Literal, TypeAlias

Reason: TypeAlias = Literal["slow_start", "steady_up", "rate_limit", "latency", "manual"]

MOST = 500
_KEPT_CHANGES = 200
_LEAST_ROUND = 4
_FULL = 0.8
"""Share of the limit that must have been in use for it to grow."""
_CUT = 0.8
_GROWTH = 0.05
_STEP = 5
_SLOWER, _MUCH_SLOWER = 1.5, 2.5
"""Times the usual latency: above the first the limit does not grow, above the second it is cut."""
_ITS_OWN_PACE = 3
"""After so many cuts that made no answer quicker, the server is slow by itself, whatever we do."""
_DRIFT = 1.02
"""A round's rise of what counts as usual, so that one lucky round is not the measure for ever."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Bounds:
    """Where the limit of `auto` begins, and between what it stays; `cooldown` seconds lie between two cuts."""

    least: int = 1
    start: int = 20
    most: int = MOST
    cooldown: float = 15.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """A change of the limit: `at` is in seconds of the clock it was made with."""

    at: float
    before: int
    after: int
    reason: Reason


class ConcurrencyLimit:
    """The limit as it stands, moved by what is told of each answer. It measures nothing and waits for nothing."""

    def __init__(
        self,
        bounds: Bounds,
        *,
        start: int | None = None,
        clock: Callable[[], float] = time.monotonic,
        changed: Callable[[Change], None] = lambda change: None,
    ) -> None:
        self.bounds = bounds
        self.limit = min(bounds.most, max(bounds.least, bounds.start if start is None else start))
        self.changes: deque[Change] = deque(maxlen=_KEPT_CHANGES)
        self._clock = clock
        self._changed = changed
        # A limit that was learnt before has been found by refusals: it is not doubled.
        self._slow_start = start is None
        self._cut_at = float("-inf")
        self._usual: float | None = None
        self._before_cut: float | None = None
        self._vain_cuts = 0
        self._new_round()

    def _new_round(self) -> None:
        self._answers = 0
        self._peak = 0
        self._held = 0
        self._latencies: list[float] = []

    def set_limit(self, limit: int) -> None:
        """Set the limit by hand; from there it moves on."""
        self._move(limit, "manual")
        self._new_round()

    def count_begin(self, in_flight: int) -> None:
        self._peak = max(self._peak, in_flight)

    def count_answer(self, latency: float, *, held: bool = False) -> None:
        """Count an answer. `latency` may be in any unit, the same for all; `held`: it waited for its turn before."""
        if self._cools():
            return
        self._answers += 1
        self._held += held
        self._latencies.append(latency)
        if self._answers >= max(self.limit, _LEAST_ROUND):
            self._end_round()

    def count_refusal(self) -> None:
        """Count a 429: too many requests, by us."""
        self._slow_start = False
        cut = not self._cools()
        self._new_round()
        if cut:
            self._cut(_CUT, "rate_limit")

    def count_failure(self) -> None:
        """Count a server that is overloaded or broken: no reason to grow, and none to cut what was learnt."""
        self._new_round()

    def _cools(self) -> bool:
        return self._clock() - self._cut_at < self.bounds.cooldown

    def _end_round(self) -> None:
        typical = median(self._latencies)
        slower = 1.0 if not self._usual else typical / self._usual
        full = self._peak >= _FULL * self.limit
        # Where most requests waited for their turn at the server, more rows would only wait too.
        held = self._held > self._answers / 2
        self._new_round()
        if slower > _MUCH_SLOWER and self.limit > self.bounds.least:
            self._slow_start = False
            self._cut_for_latency(typical, slower)
            return
        self._vain_cuts, self._before_cut = 0, None
        self._usual = typical if self._usual is None else min(typical, self._usual * _DRIFT)
        if full and not held and slower <= _SLOWER:
            self._grow()

    def _cut_for_latency(self, typical: float, slower: float) -> None:
        vain = self._before_cut is not None and typical > 0.9 * self._before_cut
        self._vain_cuts = self._vain_cuts + 1 if vain else 0
        self._before_cut = typical
        if self._vain_cuts >= _ITS_OWN_PACE:
            self._usual, self._before_cut, self._vain_cuts = typical, None, 0
            return
        self._cut(max(0.5, _SLOWER / slower), "latency")

    def _cut(self, factor: float, reason: Reason) -> None:
        self._cut_at = self._clock()
        cut = int(self.limit * factor)
        self._move(cut // _STEP * _STEP if cut > 2 * _STEP else min(cut, self.limit - 1), reason)

    def _grow(self) -> None:
        if self._slow_start:
            self._move(2 * self.limit, "slow_start")
            return
        grown = self.limit + max(1, round(_GROWTH * self.limit))
        self._move(-(-grown // _STEP) * _STEP if grown > 2 * _STEP else grown, "steady_up")

    def _move(self, limit: int, reason: Reason) -> None:
        before, self.limit = self.limit, min(self.bounds.most, max(self.bounds.least, limit))
        if self.limit != before:
            change = Change(at=self._clock(), before=before, after=self.limit, reason=reason)
            self.changes.append(change)
            self._changed(change)
