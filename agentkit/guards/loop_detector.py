"""The circuit breaker of one run: what its live steps show (repeats, money, context), and when that is too much."""

from __future__ import annotations

import json
import re
from collections import Counter, deque
from dataclasses import dataclass, field, replace
from statistics import median
from typing import Literal, TypeAlias

from agentkit.errors import UserError, nearest

Trip: TypeAlias = Literal["repeats", "cost", "context"]
Level: TypeAlias = Literal["warn", "ask", "open"]
State: TypeAlias = Literal["closed", "warned", "asked", "open", "half-open"]

_RANK: dict[State, int] = {"closed": 0, "half-open": 0, "warned": 1, "asked": 2, "open": 3}
_STATE: dict[Level, State] = {"warn": "warned", "ask": "asked", "open": "open"}
_HISTORY = 30
_MEDIAN_OF = 20
_LEAST_CALLS = 5
_LEAST_USD = 0.05
_LEAST_TOKENS = 4_000
_NEARLY_FULL = 0.95
_SHOWN = 160


@dataclass(frozen=True, kw_only=True, slots=True)
class Thresholds:
    """When the trips act.

    `repeats`: warn, ask, open at so many equal calls with equal results and nothing new between them; `poll` stands
    for the first of the three where the tool is marked `poll`. `usd_per_minute` opens; `surge` is how many times the
    median of the last live calls one may cost. `growth` is the ratio by which the context may grow for `turns` in a
    row; `window` the share of the model's window it may fill. A value of 0 switches its trip off.
    """

    repeats: tuple[int, int, int] = (3, 5, 8)
    poll: int = 30
    usd_per_minute: float = 5.0
    surge: float = 5.0
    growth: float = 1.5
    turns: int = 3
    window: float = 0.8

    def __str__(self) -> str:
        shown = {
            "repeats": "/".join(map(str, self.repeats)),
            "poll": str(self.poll),
            "usd/min": f"{self.usd_per_minute:g}",
            "surge": f"{self.surge:g}",
            "growth": f"{self.growth:g}/{self.turns}",
            "window": f"{self.window:.0%}",
        }
        return " ".join(f"{name}={value}" for name, value in shown.items())


OFF = Thresholds(repeats=(0, 0, 0), poll=0, usd_per_minute=0, surge=0, growth=0, window=0)


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One trip that acts now: how, on what evidence, and what the agent is told when it is only warned."""

    trip: Trip
    level: Level
    evidence: str
    advice: str
    count: int = 0
    mark: tuple[str, str] = ("", "")


@dataclass(frozen=True, kw_only=True, slots=True)
class Transition:
    """A change of one trip's state, for the record and the spans."""

    trip: Trip
    before: State
    after: State
    evidence: str


@dataclass(kw_only=True)
class LoopDetector:
    """The state of the trips of one run. Only live steps are told to it; `due` says what is to be done about them."""

    thresholds: Thresholds = field(default_factory=Thresholds)

    def __post_init__(self) -> None:
        self._repeats = _Repeats()
        self._costs: deque[tuple[float, float]] = deque(maxlen=200)
        self._cost: tuple[int, str] = (0, "")
        self._growing = 0
        self._tokens: list[int] = []
        self._share = 0.0
        self._states: dict[Trip, State] = {}
        self._allowed: dict[Trip, int] = {}
        self._transitions: list[Transition] = []

    # -- what happened

    def count_call(self, *, identity: str, shown: str, result: bytes, poll: bool = False) -> None:
        """A tool was really called; `identity` is equal for calls that ask for the same."""
        self._repeats.take(identity, result, shown=shown, poll=poll)

    def count_refusal(self, *, tool: str, shown: str) -> None:
        """A call was not made because its arguments were wrong, or there is no such tool."""
        self._repeats.take(f"{tool} refused", b"", shown=f"{shown}, refused for its arguments,", poll=False)

    def count_reply(self, *, cost: float | None, input_tokens: int, window: int | None, at: float) -> None:
        """A model request was really answered, `at` in seconds of a clock that nobody sets."""
        if cost is not None:
            self._spend(cost, at)
        self._grow(input_tokens, window)

    # -- what is to be done

    def due(self) -> Finding | None:
        """The gravest thing that was not acted on before; to be asked before each model request."""
        if self.thresholds is OFF:
            return None
        found = [one for one in (self._of_repeats(), self._of_cost(), self._of_context()) if one is not None]
        new = [one for one in found if self._rises(one)]
        for trip in self._states:
            if trip not in {one.trip for one in found} and self._states[trip] != "closed":
                self._move(trip, "closed", "progress was made")
                self._allowed.pop(trip, None)
        if not new:
            return None
        gravest = max(new, key=lambda one: _RANK[_STATE[one.level]])
        self._move(gravest.trip, _STATE[gravest.level], gravest.evidence)
        return gravest

    def once(self, finding: Finding) -> None:
        """Half-open: exactly one more, then it opens again unless something new came of it."""
        self._allowed[finding.trip] = finding.count
        self._move(finding.trip, "half-open", "continue once")

    def resume(self, trip: str, count: int, mark: tuple[str, str]) -> None:
        """Half-open as it was when a person let it pass once, in a run that only replayed until here."""
        if trip == "repeats":
            self._repeats.restore(count, mark)
            self._allowed["repeats"] = count
            self._states["repeats"] = "half-open"

    def restart_count(self, finding: Finding) -> None:
        """Somebody said what to do instead: counted from the beginning."""
        self._forget(finding.trip)
        self._move(finding.trip, "closed", "steered")

    def double_limit(self, finding: Finding) -> None:
        """From now on this trip allows twice as much."""
        self.double(finding.trip)
        self._forget(finding.trip)
        self._move(finding.trip, "closed", "limit raised")

    def double(self, trip: str) -> None:
        given = self.thresholds
        match trip:
            case "repeats":
                warn, ask, opened = given.repeats
                self.thresholds = replace(given, repeats=(2 * warn, 2 * ask, 2 * opened), poll=2 * given.poll)
            case "cost":
                self.thresholds = replace(given, usd_per_minute=2 * given.usd_per_minute, surge=2 * given.surge)
            case "context":
                self.thresholds = replace(given, growth=2 * given.growth, window=min(1.0, 2 * given.window))

    def transitions(self) -> list[Transition]:
        """The changes of state since this was last asked."""
        taken, self._transitions = self._transitions, []
        return taken

    def state(self, trip: Trip) -> State:
        return self._states.get(trip, "closed")

    # -- inside

    def _rises(self, finding: Finding) -> bool:
        if (allowed := self._allowed.get(finding.trip)) is not None:
            return finding.count > allowed
        return _RANK[_STATE[finding.level]] > _RANK[self.state(finding.trip)]

    def _move(self, trip: Trip, after: State, evidence: str) -> None:
        before = self.state(trip)
        if after == "half-open" or before != after:
            self._transitions.append(Transition(trip=trip, before=before, after=after, evidence=evidence))
        self._states[trip] = after

    def _forget(self, trip: Trip) -> None:
        self._allowed.pop(trip, None)
        match trip:
            case "repeats":
                self._repeats = _Repeats()
            case "cost":
                self._cost = (0, "")
                self._costs.clear()
            case "context":
                self._growing, self._tokens, self._share = 0, [], 0.0

    def _of_repeats(self) -> Finding | None:
        warn, ask, opened = self.thresholds.repeats
        if not opened:
            return None
        more = max(0, self.thresholds.poll - warn) if self._repeats.polls else 0
        count = self._repeats.count
        level = _level(count, (warn + more, ask + more, opened + more))
        if level is None:
            return None
        return Finding(
            trip="repeats",
            level=level,
            count=self._repeats.count,
            mark=self._repeats.mark,
            evidence=self._repeats.evidence,
            advice=f"{self._repeats.evidence}. Calling it again will bring nothing new: use what you have, try "
            "something else, or say what is missing.",
        )

    def _spend(self, cost: float, at: float) -> None:
        earlier = [spent for _, spent in list(self._costs)[-_MEDIAN_OF:] if spent > 0]
        self._costs.append((at, cost))
        given, (times, _) = self.thresholds, self._cost
        minute = sum(spent for when, spent in self._costs if when > at - 60)
        if given.usd_per_minute and minute > given.usd_per_minute:
            self._cost = (times + 2, f"${minute:.2f} spent in the last minute, above ${given.usd_per_minute:g}")
            return
        usual = median(earlier) if len(earlier) >= _LEAST_CALLS else 0.0
        if given.surge and usual and cost >= _LEAST_USD and cost > given.surge * usual:
            said = f"the last request cost ${cost:.2f}, {cost / usual:.0f} times the ${usual:.3f} usual in this run"
            self._cost = (times + 1, said)
            return
        self._cost = (0, "")

    def _of_cost(self) -> Finding | None:
        times, evidence = self._cost
        if not times:
            return None
        return Finding(
            trip="cost",
            level="open" if times > 1 else "warn",
            count=times,
            evidence=evidence,
            advice=f"{evidence}. Send and ask for less: shorter tool results, fewer repeated documents.",
        )

    def _grow(self, tokens: int, window: int | None) -> None:
        before = self._tokens[-1] if self._tokens else 0
        grew = bool(before) and tokens >= _LEAST_TOKENS and tokens >= self.thresholds.growth * before
        self._growing = self._growing + 1 if grew else 0
        self._tokens = [*self._tokens[-8:], tokens]
        self._share = tokens / window if window else 0.0

    def _of_context(self) -> Finding | None:
        given = self.thresholds
        full = bool(given.window) and self._share >= given.window
        grows = bool(given.growth) and self._growing >= given.turns
        if not (full or grows):
            return None
        if full:
            evidence = f"the context fills {self._share:.0%} of the model's window ({self._tokens[-1]:,} tokens)"
        else:
            sizes = " → ".join(f"{tokens:,}" for tokens in self._tokens[-self._growing - 1 :])
            evidence = (
                f"the context grew {given.growth:g} times or more, {self._growing} turns in a row: {sizes} tokens"
            )
        opened = self._share >= _NEARLY_FULL or self._growing > given.turns
        return Finding(
            trip="context",
            level="open" if opened else "warn",
            count=len(self._costs) + self._growing + self._tokens[-1],
            evidence=evidence,
            advice=f"{evidence}. Ask tools for less (filters, limits, summaries) and come to an answer.",
        )


class _Repeats:
    """Calls since something new was learnt: each pair of what was asked and what came back, with how often."""

    def __init__(self) -> None:
        self._window: deque[tuple[str, bytes]] = deque(maxlen=_HISTORY)
        self._counts: Counter[tuple[str, bytes]] = Counter()
        self._shown: dict[str, str] = {}
        self._last = ("", b"")
        self.polls = False

    def restore(self, count: int, mark: tuple[str, str]) -> None:
        pair = (mark[0], bytes.fromhex(mark[1]))
        self._window.append(pair)
        self._counts[pair] = count
        self._last = pair

    def take(self, identity: str, result: bytes, *, shown: str, poll: bool) -> None:
        pair = (identity, result)
        if pair not in self._window:
            self._counts.clear()
            self._shown.clear()
        self._window.append(pair)
        self._counts[pair] += 1
        self._shown[identity] = shown
        self._last, self.polls = pair, poll

    @property
    def mark(self) -> tuple[str, str]:
        return self._last[0], self._last[1].hex()

    @property
    def count(self) -> int:
        return self._counts[self._last]

    @property
    def evidence(self) -> str:
        names = [self._shown.get(identity, identity)[:_SHOWN] for identity, _ in self._counts]
        if len(names) > 1:
            return f"{' and '.join(names[:3])} in turns, {self.count} times each, with the same results"
        return f"{names[0]} gave the same result {self.count} times in a row"


def _level(count: int, ladder: tuple[int, int, int]) -> Level | None:
    warn, ask, opened = ladder
    if count >= opened:
        return "open"
    if count >= ask:
        return "ask"
    return "warn" if count >= warn else None


def same_call(tool: str, arguments: object) -> str:
    """What identifies a call: the tool and its arguments, in whatever order they were written."""
    return f"{tool} {json.dumps(arguments, sort_keys=True, default=repr)}"


# ---- as typed

_NAMES = ("repeats", "poll", "usd/min", "surge", "growth", "window", "off")


def parse_thresholds(text: str, *, base: Thresholds | None = None, option: str = "breaker") -> Thresholds:
    """`repeats=3/5/8 poll=30 usd/min=2 surge=5 growth=1.5/3 window=80%`, or `off`; the rest stays as in `base`."""
    found = base or Thresholds()
    words = [word for word in re.split(r"[\s,]+", text.strip()) if word]
    if not words:
        raise UserError(f"{option}: what? For instance repeats=3/5/8 usd/min=2, or off")
    for word in words:
        name, equals, value = word.partition("=")
        if name == "off" and not equals:
            found = OFF
        elif name not in _NAMES or not value:
            raise UserError(f"{option} {word}: one of {', '.join(_NAMES)}, with a value{nearest(name, _NAMES)}")
        else:
            found = _set(found, name, value, where=f"{option} {word}")
    return found


def _set(found: Thresholds, name: str, value: str, *, where: str) -> Thresholds:
    if value == "off":
        return replace(found, **_OFF_VALUES[name])  # type: ignore[arg-type]
    numbers = _numbers(value, where=where)
    match name, numbers:
        case "repeats", [warn, ask, opened]:
            if not 1 < warn < ask < opened:
                raise UserError(f"{where}: the three must rise from 2 on: warn before ask before open, as in 3/5/8")
            return replace(found, repeats=(int(warn), int(ask), int(opened)))
        case "poll", [most]:
            return replace(found, poll=int(most))
        case "usd/min", [usd]:
            return replace(found, usd_per_minute=usd)
        case "surge", [times] if times > 1:
            return replace(found, surge=times)
        case "growth", [ratio, turns] if ratio > 1:
            return replace(found, growth=ratio, turns=int(turns))
        case "window", [share] if 0 < share <= 100:
            return replace(found, window=share / 100 if "%" in value else share)
        case _:
            raise UserError(f"{where}: write it as in {Thresholds()}")


_OFF_VALUES: dict[str, dict[str, object]] = {
    "repeats": {"repeats": (0, 0, 0)},
    "poll": {"poll": 0},
    "usd/min": {"usd_per_minute": 0.0},
    "surge": {"surge": 0.0},
    "growth": {"growth": 0.0},
    "window": {"window": 0.0},
}


def _numbers(value: str, *, where: str) -> list[float]:
    try:
        numbers = [float(part) for part in value.removesuffix("%").split("/")]
    except ValueError:
        numbers = []
    if not numbers or any(not 0 < number < 1e9 for number in numbers):
        raise UserError(f"{where}: positive numbers, as in {Thresholds()}")
    return numbers
