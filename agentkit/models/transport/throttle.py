"""Fair turns at model servers: never more tokens and requests in a minute than a server allows, first come first."""

from __future__ import annotations

import asyncio
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from agentkit.errors import UserError
from agentkit.models.transport.learnt_limits import LearntLimit, LearntLimits
from agentkit.values.durations import UNITS

LONGEST_BLOCK = 30.0
"""Seconds. Where a server asks for a longer pause, those who wait are told at once, so that a chain can go on."""

_SCOUTS = 8
_FIRST_STEP, _LARGEST_STEP = 0.005, 0.32
_LONGEST_PAUSE = 16
"""Periods without a try beyond the limit, after tries that were refused."""
_MARGIN, _WINDOW_SHIFT = 0.02, 0.1
"""A window of the server is not exactly ours, it lies some tenths of a second beside it: so much of a limit is left."""
_EXCHANGE_RATES = (0.2, 2.0)
_FEWEST_PASSED = 10
"""Who is refused after fewer requests than these is refused for what others sent, and learns nothing from it."""
_SPAN = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h)")
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
class FoundLimit:
    """How many requests in `period` seconds a server lets pass that does not say so: as many as before it refused one.

    Where it holds requests back and none is refused, it is tried a little beyond: `step` more at `probe`, later more.
    """

    requests: int
    period: float
    probe: float
    step: float = _FIRST_STEP
    pause: int = 1
    pressed: bool = False
    refused: float = float("-inf")

    def grow(self, now: float) -> None:
        if self.pressed and now >= self.probe:
            self.requests += max(1, round(self.step * self.requests))
            self.step = min(2 * self.step, _LARGEST_STEP)
            self.pressed, self.probe = False, now + self.period

    def refuse(self, requests: int, now: float) -> None:
        self.requests, self.step, self.pressed = requests, _FIRST_STEP, False
        if now - self.refused > self.period:  # the first of those that left together
            self.pause = min(2 * self.pause, _LONGEST_PAUSE)
        self.refused, self.probe = now, now + self.pause * self.period


@dataclass(kw_only=True)
class Lane:
    """What is known of one model at one server: what left for it in the last period, and who waits.

    What was sent counts until a period after its answer: whichever window the server counts in, it is never exceeded.
    """

    limits: RateLimits = field(default_factory=RateLimits)
    found: FoundLimit | None = None
    known: bool = False
    blocked_until: float = 0.0
    refused_at: float = float("-inf")
    refused_for: float = 0.0
    in_flight: dict[int, Departure] = field(default_factory=dict)
    gone: deque[Departure] = field(default_factory=deque)
    queue: deque[_Waiter] = field(default_factory=deque)
    tokens_in_flight: int = 0
    tokens_gone: int = 0
    exchange_rate: float = 1.0
    """Tokens that the server counts for one that is counted here."""
    opened: float | None = None

    def delay(self, tokens: int, now: float) -> float | None:
        """Seconds until a request of so many tokens may leave; None while only the end of another one can tell."""
        if self.blocked_until > now:
            return self.blocked_until - now
        if not self.known and not self.limits.given and len(self.in_flight) >= _SCOUTS:
            return None
        self._clean(now)
        return max((0.0, *self._delays(tokens, now)), key=_none_last)

    def _delays(self, tokens: int, now: float) -> Iterator[float | None]:
        if self.limits.tokens is not None:
            yield self._until_tokens(tokens, self.limits.tokens, now)
        if self.limits.requests is not None:
            yield self._until_requests(self.limits.requests, self.limits.period, now)
        if self.found is not None and not self.limits.given:
            self.found.grow(now)
            delay = self._until_requests(self.found.requests, self.found.period, now)
            self.found.pressed = self.found.pressed or delay != 0.0
            yield delay

    def _until_tokens(self, tokens: int, limit: int, now: float) -> float | None:
        # What is larger than the whole limit goes alone, and the server says what it thinks of it.
        # A limit that a person gave is kept in our own count too.
        limit = round(limit / (max(1.0, self.exchange_rate) if self.limits.given else self.exchange_rate))
        over = self.tokens_in_flight + self.tokens_gone - (limit - min(tokens, limit))
        if over <= 0:
            return 0.0
        for departure in self.gone:
            over -= departure.tokens
            if over <= 0:
                return max(0.0, departure.answered + self.limits.period - now)
        return None

    def _until_requests(self, limit: int, period: float, now: float) -> float | None:
        room = limit - 1 - len(self.in_flight)
        if room < 0:
            return None
        # So many of the newest may still count; the one before them must not.
        return 0.0 if len(self.gone) <= room else max(0.0, self.gone[-1 - room].answered + period - now)

    def send(self, number: int, tokens: int, now: float) -> None:
        self.opened = now if self.opened is None else self.opened
        self.tokens_in_flight += tokens
        used = self.tokens_in_flight + self.tokens_gone
        self.in_flight[number] = Departure(number=number, tokens=tokens, used=used, sent=now)

    def arrive(self, number: int, now: float, *, sent: bool) -> None:
        departure = self.in_flight.pop(number, None)
        if departure is None:
            return
        self.tokens_in_flight -= departure.tokens
        if sent:
            self.gone.append(replace(departure, answered=now))
            self.tokens_gone += departure.tokens

    def compare_tokens(self, number: int, used: int) -> None:
        """Learn how the server counts from what it says was used: what a reply may take is a guess here.

        More than it was taken for is believed at once, less only little by little.
        """
        departure = self.in_flight.get(number)
        if departure is None:
            return
        rate = (1 + _MARGIN + _WINDOW_SHIFT / self.limits.period) * used / max(1, departure.used)
        low, high = _EXCHANGE_RATES
        self.exchange_rate = min(high, max(low, rate, 0.9 * self.exchange_rate + 0.1 * rate))

    def find_limit(self, number: int, wait: float | None, now: float) -> None:
        """Learn from a refusal how many requests are let through: those that were, in the period before it left."""
        refused = self.in_flight.get(number)
        if refused is None or self.opened is None or self.limits.given:
            return
        period = self.limits.period if self.found is None else self.found.period
        since_first = refused.sent - self.opened
        if self.found is None and wait is not None and since_first + wait < period / 2:
            # It is over sooner than a whole period would be: the server counts in a shorter one.
            period = max(1.0, since_first + wait)
        passed = sum(gone.sent > refused.sent - period for gone in self.gone)
        passed += sum(other < number for other in self.in_flight)
        if passed < _FEWEST_PASSED:
            return
        if self.found is None:
            self.found = FoundLimit(requests=passed, period=period, probe=now + period, refused=now)
        else:
            self.found.refuse(passed, now)

    def _clean(self, now: float) -> None:
        while self.gone and self.gone[0].answered <= now - self.limits.period:
            self.tokens_gone -= self.gone.popleft().tokens


@dataclass(frozen=True, kw_only=True, slots=True)
class Departure:
    """A request that left, when it was answered, and the tokens of all that counted when it left."""

    number: int
    tokens: int
    used: int
    sent: float
    answered: float = float("inf")


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
        learnt: LearntLimits | None = None,
    ) -> None:
        self._lock = threading.Lock()
        self._learnt = learnt
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

    def _found(self, name: str) -> FoundLimit | None:
        """What another kernel found; this one tries beyond it after its first period."""
        learnt = None if self._learnt is None else self._learnt.find(_requests_of(name))
        if learnt is None or not 1.0 <= learnt.period <= self._period:
            return None
        now = self._clock()
        return FoundLimit(requests=learnt.number, period=learnt.period, probe=now + learnt.period)

    def _limits(self, name: str) -> RateLimits:
        given = self._given.get(name) or self._given.get(name.partition(" @ ")[0])
        return given or RateLimits(period=self._period)

    async def enter(self, name: str, tokens: int, *, patience: float = 0.0) -> Admission:
        """Wait for the turn of a request of so many tokens.

        Busy when the server asks for a long pause meanwhile; one that is no longer than `patience` is waited for.
        """
        waiter = _Waiter(tokens=tokens, since=self._clock(), loop=asyncio.get_running_loop())
        with self._lock:
            lane = self._lanes.get(name)
            if lane is None:
                lane = self._lanes[name] = Lane(limits=self._limits(name), found=self._found(name))
            lane.queue.append(waiter)
        told = False
        try:
            while True:
                waiter.news.clear()
                with self._lock:
                    first, now = lane.queue[0] is waiter, self._clock()
                    pause = lane.refused_at + lane.refused_for - now if lane.refused_for <= patience else 0.0
                    refused = lane.refused_at >= waiter.since and lane.refused_for > patience
                    delay = pause if pause > 0 else lane.delay(tokens, now)
                    delay = delay if first else None
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
        lane.send(self._number, waiter.tokens, self._clock())
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
            lane.arrive(number, self._clock(), sent=sent)
            following = lane.queue[0] if lane.queue else None
        if following is not None:
            following.wake()

    def learn(self, name: str, lane: Lane, number: int, status: int, headers: Mapping[str, str]) -> None:
        told: list[_Waiter] = []
        found: FoundLimit | None = None
        with self._lock:
            lane.known = True
            if status == 429:
                wait = parse_retry_after(headers)
                lane.find_limit(number, wait, self._clock())
                found = lane.found
                if wait is not None and wait > LONGEST_BLOCK:
                    # Those who wait now need not be told one by one; who comes later may know better, and asks.
                    lane.refused_at, lane.refused_for = self._clock(), wait
                    told = list(lane.queue)
                else:
                    lane.blocked_until = max(lane.blocked_until, self._clock() + (1.0 if wait is None else wait))
            if not lane.limits.given:
                lane.limits = _from_headers(headers, lane.limits)
            if status == 200 and (used := _used_tokens(headers)) is not None:
                lane.compare_tokens(number, used)
        for waiter in told:
            waiter.wake()
        if found is not None and self._learnt is not None:
            self._learnt.keep(_requests_of(name), LearntLimit(found.requests, found.period))


class Admission:
    """A request on its way."""

    def __init__(self, throttle: Throttle, name: str, lane: Lane, number: int) -> None:
        self._throttle, self.name, self._lane, self._number = throttle, name, lane, number

    def record_answer(self, status: int, headers: Mapping[str, str]) -> None:
        self._throttle.learn(self.name, self._lane, self._number, status, headers)
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


def _requests_of(name: str) -> str:
    return f"requests of {name}"


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


def _used_tokens(headers: Mapping[str, str]) -> int | None:
    limit = _number(headers, "x-ratelimit-limit-tokens", "anthropic-ratelimit-tokens-limit")
    left = headers.get("x-ratelimit-remaining-tokens", headers.get("anthropic-ratelimit-tokens-remaining", ""))
    return limit - int(left) if limit is not None and left.isdigit() else None


def _number(headers: Mapping[str, str], *names: str) -> int | None:
    return next((int(text) for name in names if (text := headers.get(name, "")).isdigit() and int(text)), None)


def span(text: str) -> float | None:
    """The seconds of `6m0s`, `1s`, `20ms`."""
    found = _SPAN.findall(text)
    return sum(float(number) * UNITS[unit] for number, unit in found) if found else None
