"""Fair turns at model servers: never more tokens and requests in a minute than a server allows, first come first."""

from __future__ import annotations

import asyncio
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from agentkit.errors import UserError

LONGEST_BLOCK = 30.0
"""Seconds. Where a server asks for a longer pause, those who wait are told at once, so that a chain can go on."""

_SCOUTS = 8
_SPAN = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h)")
_UNIT = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_LIMIT = re.compile(r"^(\d+(?:\.\d+)?)\s*(k|m)?\s*(tpm|rpm)$", re.IGNORECASE)


class Busy(Exception):
    """The server refuses everybody for longer than it is worth to wait."""

    def __init__(self, lane: str, seconds: float) -> None:
        self.seconds = seconds
        super().__init__(f"{lane} takes no requests for another {seconds:.0f} s (it said so itself)")


@dataclass(frozen=True, kw_only=True, slots=True)
class RateLimits:
    """Tokens and requests in any `period` seconds; None: no limit is known. `given`: by a person, not learnt."""

    tokens: int | None = None
    requests: int | None = None
    period: float = 60.0
    given: bool = False

    def __str__(self) -> str:
        known = [(self.tokens, "tpm"), (self.requests, "rpm")]
        return ", ".join(f"{number:,} {unit}" for number, unit in known if number is not None) or "no limit known"


def parse_limits(text: str, *, option: str = "limits") -> RateLimits:
    """`60k tpm, 500 rpm`"""
    found: dict[str, int] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        limit = _LIMIT.match(part)
        if limit is None or float(limit[1]) <= 0:
            raise UserError(f"{option} {part}: write tokens or requests per minute, as in 60k tpm, 500 rpm")
        scale = {"k": 1_000, "m": 1_000_000}.get((limit[2] or "").lower(), 1)
        found["tokens" if limit[3].lower() == "tpm" else "requests"] = int(float(limit[1]) * scale)
    if not found:
        raise UserError(f"{option}: which limit? For instance 60k tpm, 500 rpm")
    return RateLimits(**found, given=True)


@dataclass(kw_only=True)
class Lane:
    """What is known of one model at one server: what left for it in the last period, and who waits.

    What was sent counts until a period after its answer: whichever window the server counts in, it is never exceeded.
    """

    limits: RateLimits = field(default_factory=RateLimits)
    known: bool = False
    blocked_until: float = 0.0
    refused_at: float = float("-inf")
    refused_for: float = 0.0
    in_flight: dict[int, int] = field(default_factory=dict)
    gone: deque[tuple[float, int]] = field(default_factory=deque)
    queue: deque[_Waiter] = field(default_factory=deque)

    def delay(self, tokens: int, now: float) -> float | None:
        """Seconds until a request of so many tokens may leave; None while only the end of another one can tell."""
        if self.blocked_until > now:
            return self.blocked_until - now
        if not self.known and not self.limits.given and len(self.in_flight) >= _SCOUTS:
            return None
        self._clean(now)
        return max(
            (self._until(limit, amount, now) for limit, amount in self._bounds(tokens)), default=0.0, key=_none_last
        )

    def _bounds(self, tokens: int) -> Iterator[tuple[int, Callable[[int], int]]]:
        if self.limits.tokens is not None:
            # What is larger than the whole limit goes alone, and the server says what it thinks of it.
            yield self.limits.tokens - min(tokens, self.limits.tokens), int
        if self.limits.requests is not None:
            yield self.limits.requests - 1, lambda tokens: 1

    def _until(self, room: int, amount: Callable[[int], int], now: float) -> float | None:
        used = sum(map(amount, self.in_flight.values())) + sum(amount(tokens) for _, tokens in self.gone)
        if used <= room:
            return 0.0
        for when, tokens in self.gone:
            used -= amount(tokens)
            if used <= room:
                return max(0.0, when + self.limits.period - now)
        return None

    def _clean(self, now: float) -> None:
        while self.gone and self.gone[0][0] <= now - self.limits.period:
            self.gone.popleft()


def _none_last(delay: float | None) -> float:
    return float("inf") if delay is None else delay


@dataclass(kw_only=True, eq=False)
class _Waiter:
    tokens: int
    since: float
    loop: asyncio.AbstractEventLoop
    news: asyncio.Event = field(default_factory=asyncio.Event)

    def wake(self) -> None:
        with suppress(RuntimeError):  # its loop has ended: it waits no longer
            self.loop.call_soon_threadsafe(self.news.set)


class Throttle:
    """The lanes of this process, used from any thread and event loop."""

    def __init__(
        self,
        *,
        period: float = 60.0,
        waiting: Callable[[str, float | None], None] = lambda why, until: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._lock = threading.Lock()
        self._lanes: dict[str, Lane] = {}
        self._given: dict[str, RateLimits] = {}
        self._period = period
        self._waiting = waiting
        self._clock = clock
        self._number = 0

    def give(self, model: str, limits: RateLimits | None) -> None:
        """Limits for all lanes of a model (`gpt-5`) or one lane (`gpt-5 @ host`); None: those the server tells."""
        with self._lock:
            self._given.pop(model, None) if limits is None else self._given.__setitem__(model, limits)
            meant = {name: lane for name, lane in self._lanes.items() if model in (name, name.partition(" @ ")[0])}
            for name, lane in meant.items():
                lane.limits = self._limits(name)
            waiters = [lane.queue[0] for lane in meant.values() if lane.queue]
        for waiter in waiters:
            waiter.wake()

    def lanes(self) -> dict[str, Lane]:
        with self._lock:
            return dict(self._lanes)

    def _limits(self, name: str) -> RateLimits:
        given = self._given.get(name) or self._given.get(name.partition(" @ ")[0])
        return given or RateLimits(period=self._period)

    async def enter(self, name: str, tokens: int) -> Admission:
        """Wait for the turn of a request of so many tokens; Busy when the server asks for a long pause meanwhile."""
        waiter = _Waiter(tokens=tokens, since=self._clock(), loop=asyncio.get_running_loop())
        with self._lock:
            lane = self._lanes.get(name)
            if lane is None:
                lane = self._lanes[name] = Lane(limits=self._limits(name))
            lane.queue.append(waiter)
        told = False
        try:
            while True:
                waiter.news.clear()
                with self._lock:
                    first = lane.queue[0] is waiter
                    refused = lane.refused_at >= waiter.since
                    delay = lane.delay(tokens, self._clock()) if first else None
                    if first and delay is not None and delay <= 0 and not refused:
                        return self._pass(name, lane, waiter)
                    ahead = lane.queue.index(waiter)
                if refused:
                    raise Busy(name, lane.refused_for)
                if not told or delay is not None:
                    told = True
                    self._waiting(_describe_wait(name, lane, ahead), None if delay is None else time.time() + delay)
                with suppress(TimeoutError):
                    await asyncio.wait_for(waiter.news.wait(), delay)
        finally:
            self._leave(lane, waiter)
            if told:
                self._waiting("", None)

    def _pass(self, name: str, lane: Lane, waiter: _Waiter) -> Admission:
        self._number += 1
        lane.in_flight[self._number] = waiter.tokens
        return Admission(self, name, lane, self._number)

    def _leave(self, lane: Lane, waiter: _Waiter) -> None:
        with self._lock:
            with suppress(ValueError):
                lane.queue.remove(waiter)
            following = lane.queue[0] if lane.queue else None
        if following is not None:
            following.wake()

    def end_attempt(self, lane: Lane, number: int, *, sent: bool = True) -> None:
        with self._lock:
            tokens = lane.in_flight.pop(number, None)
            if tokens is not None and sent:
                lane.gone.append((self._clock(), tokens))
            following = lane.queue[0] if lane.queue else None
        if following is not None:
            following.wake()

    def learn(self, lane: Lane, status: int, headers: Mapping[str, str]) -> None:
        with self._lock:
            lane.known = True
            if status == 429:
                wait = parse_retry_after(headers)
                if wait is not None and wait > LONGEST_BLOCK:
                    # Those who wait now need not be told one by one; who comes later may know better, and asks.
                    lane.refused_at, lane.refused_for = self._clock(), wait
                else:
                    lane.blocked_until = max(lane.blocked_until, self._clock() + (1.0 if wait is None else wait))
            if not lane.limits.given:
                lane.limits = _from_headers(headers, lane.limits)


class Admission:
    """A request on its way."""

    def __init__(self, throttle: Throttle, name: str, lane: Lane, number: int) -> None:
        self._throttle, self.name, self._lane, self._number = throttle, name, lane, number

    def record_answer(self, status: int, headers: Mapping[str, str]) -> None:
        self._throttle.learn(self._lane, status, headers)
        self._throttle.end_attempt(self._lane, self._number, sent=status != 429)

    def record_loss(self, why: str) -> None:
        self._throttle.end_attempt(self._lane, self._number)

    def give_up(self) -> None:
        self._throttle.end_attempt(self._lane, self._number)


def _describe_wait(name: str, lane: Lane, ahead: int) -> str:
    model = name.partition(" @ ")[0]
    line = f", {ahead} ahead" if ahead else ""
    if lane.blocked_until > time.monotonic():
        return f"waits for {model}: the server asked for a pause{line}"
    return f"waits for {model}{line} ({lane.limits})"


# ---- what servers say


def parse_retry_after(headers: Mapping[str, str]) -> float | None:
    """The seconds of `retry-after`, as a number or a date, or of its millisecond sibling."""
    if (milliseconds := headers.get("retry-after-ms", "")).replace(".", "", 1).isdigit():
        return float(milliseconds) / 1000
    text = headers.get("retry-after", "")
    if text.replace(".", "", 1).isdigit():
        return float(text)
    with suppress(ValueError):
        return max(0.0, (parsedate_to_datetime(text) - datetime.now(UTC)).total_seconds())
    return None


def _from_headers(headers: Mapping[str, str], before: RateLimits) -> RateLimits:
    """The limits as OpenAI and its kin, or Anthropic, put them on every answer."""
    tokens = _number(headers, "x-ratelimit-limit-tokens", "anthropic-ratelimit-tokens-limit")
    requests = _number(headers, "x-ratelimit-limit-requests", "anthropic-ratelimit-requests-limit")
    if tokens is None and requests is None:
        return before
    # Limits of a day come under the same name: their counter takes longer than some minutes to be full again.
    slow = {kind: (span(headers.get(f"x-ratelimit-reset-{kind}", "")) or 0.0) > 600 for kind in ("tokens", "requests")}
    return RateLimits(
        tokens=None if slow["tokens"] else tokens,
        requests=None if slow["requests"] else requests,
        period=before.period,
    )


def _number(headers: Mapping[str, str], *names: str) -> int | None:
    return next((int(text) for name in names if (text := headers.get(name, "")).isdigit() and int(text)), None)


def span(text: str) -> float | None:
    """The seconds of `6m0s`, `1s`, `20ms`."""
    found = _SPAN.findall(text)
    return sum(float(number) * _UNIT[unit] for number, unit in found) if found else None
