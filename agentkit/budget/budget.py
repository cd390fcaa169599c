"""Limits on money, tokens, requests and time: how they are typed and said, and which of them contradict each other."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from functools import lru_cache
from typing import Literal, TypeAlias, get_args

from agentkit.errors import UserError, nearest

Measure: TypeAlias = Literal["usd", "tokens", "requests", "seconds"]
Window: TypeAlias = Literal["minute", "run", "cell", "day", "month", "total"]
AtLimit: TypeAlias = Literal["ask", "wait", "fallback", "stop"]
Level: TypeAlias = Literal["user", "project", "notebook", "eval", "agent", "caller", "map"]

AT_LIMIT: tuple[AtLimit, ...] = get_args(AtLimit)
NANO = 1_000_000_000
"""Money is counted in billionths of a dollar and time in milliseconds: whole numbers do not drift."""

_EXAMPLE = "0.50usd, 20k tokens, 60k tpm, 30 requests, 10min; each may end in /run, /cell, /day, /month or /total"
_UNITS: dict[str, tuple[Measure, int]] = {
    **dict.fromkeys(("usd", "$", "dollar", "dollars"), ("usd", NANO)),
    **dict.fromkeys(("cent", "cents"), ("usd", NANO // 100)),
    **dict.fromkeys(("token", "tokens", "tok"), ("tokens", 1)),
    **dict.fromkeys(("tpm",), ("tokens", 1)),
    **dict.fromkeys(("request", "requests", "req"), ("requests", 1)),
    **dict.fromkeys(("s", "sec", "second", "seconds"), ("seconds", 1_000)),
    **dict.fromkeys(("min", "minute", "minutes"), ("seconds", 60_000)),
    **dict.fromkeys(("h", "hour", "hours"), ("seconds", 3_600_000)),
}
_MANY = {"": 1, "k": 1_000, "m": 1_000_000, "g": 1_000_000_000}
_TERM = re.compile(
    r"(?P<sign>[-+]?)\s*(?P<dollar>\$?)\s*(?P<number>\d[\d_]*(?:\.\d+)?|\.\d+)\s*(?P<many>[kKmMgG](?![a-zA-Z]))?\s*"
    r"(?P<unit>[a-zA-Z$]*)\s*(?:(?:/|\bper\b|\ba\b|\bin\b)\s*(?P<window>[a-zA-Z]+))?$"
)
_WIDTH: dict[Window, int] = {"minute": 0, "run": 1, "cell": 2, "day": 3, "month": 4, "total": 5}
_IN: dict[Window, str] = {"minute": "per minute", "total": "in total"}


@dataclass(frozen=True, kw_only=True, slots=True, order=True)
class Limit:
    """At most `amount` of one measure in one window; `amount` is in its smallest unit."""

    measure: Measure
    window: Window
    amount: int

    @property
    def text(self) -> str:
        """As it is typed."""
        if self.window == "minute":
            return f"{_short(self.amount)} tpm"
        return f"{amount_text(self.measure, self.amount)}/{self.window}"

    @property
    def label(self) -> str:
        """As a sentence has it."""
        if self.window == "minute":
            return f"{_short(self.amount)} tokens per minute"
        return f"{amount_text(self.measure, self.amount)} {_IN.get(self.window, f'per {self.window}')}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Budget:
    """The limits of one scope, and what happens when one of them is reached."""

    limits: tuple[Limit, ...] = ()
    at_limit: AtLimit | None = None

    @property
    def text(self) -> str:
        return ", ".join(limit.text for limit in self.limits)


@dataclass(frozen=True, kw_only=True, slots=True)
class Amounts:
    """What a step is expected to take, or took: nano-USD, tokens and requests."""

    usd: int = 0
    tokens: int = 0
    requests: int = 0

    def of(self, measure: Measure) -> int:
        return 0 if measure == "seconds" else int(getattr(self, measure))


_STEP = "\x1f"


class BudgetScope(str):
    """A scope of the tree, named by the way to it: the level and name of each scope from the user down."""

    __slots__ = ()

    @property
    def level(self) -> Level:
        return self.rpartition(_STEP)[2].partition(":")[0]  # type: ignore[return-value]

    @property
    def name(self) -> str:
        return self.rpartition(_STEP)[2].partition(":")[2]

    @property
    def label(self) -> str:
        if self.level == "map":
            return f"the map of {self.rpartition(_STEP)[0].rpartition(':')[2]}"
        return self.name or self.level if self.level in ("agent", "eval", "caller") else f"the {self.level}"

    @property
    def depth(self) -> int:
        return self.count(_STEP)

    def child(self, level: Level, name: str) -> BudgetScope:
        return BudgetScope(f"{self}{_STEP}{level}:{name}")

    def lineage(self) -> Iterator[BudgetScope]:
        """From the user down to this one."""
        steps = self.split(_STEP)
        yield from (BudgetScope(_STEP.join(steps[: place + 1])) for place in range(len(steps)))


USER = BudgetScope("user:")


def place(*, project: str, label: str, agents: Sequence[str] = ()) -> BudgetScope:
    """Where a run stands: user > project > notebook (or eval) > agent > sub-agent."""
    node = USER.child("project", project)
    first, _, rest = label.partition("/")
    if first == "eval":
        node = node.child("eval", "")
        node = node.child("eval", rest) if rest else node
    else:
        node = node.child("notebook", label)
    for agent in agents:
        node = node.child("agent", agent)
    return node


# ---- as it is typed


@lru_cache(maxsize=512)
def parse(text: str, *, option: str = "budget", window: Window = "run") -> tuple[Limit, ...]:
    """`0.50usd, 20k tokens/day, 60k tpm` as limits; what names no window counts per `window`. UserError in one line."""
    terms = [term.strip() for term in text.split(",")]
    if not any(terms):
        raise UserError(f"{option}: no limit is given; write for instance {_EXAMPLE}")
    limits = [_limit(term, option=option, window=window) for term in terms if term]
    seen: dict[tuple[Measure, Window], Limit] = {}
    for limit in limits:
        kept = seen.setdefault((limit.measure, limit.window), limit)
        if kept is not limit:
            raise UserError(f"{option}: {kept.label} and {limit.label} contradict each other; give one of them")
    _check_windows(limits, option)
    return tuple(sorted(limits, key=lambda limit: (get_args(Measure).index(limit.measure), _WIDTH[limit.window])))


def _limit(term: str, *, option: str, window: Window) -> Limit:
    found = _TERM.match(term)
    if found is None:
        raise UserError(f"{option} {term!r} cannot be read: write for instance {_EXAMPLE}")
    unit = "usd" if found["dollar"] and not found["unit"] else found["unit"].lower()
    if unit not in _UNITS:
        raise UserError(f"{option} {term!r}: {_describe_unknown(unit)}; write for instance {_EXAMPLE}")
    measure, smallest = _UNITS[unit]
    amount = round(Decimal(found["number"].replace("_", "")) * _MANY[(found["many"] or "").lower()] * smallest)
    if found["sign"] == "-" or amount <= 0:
        raise UserError(f"{option} {term!r}: a limit is more than 0; `off` takes all limits of a scope away")
    chosen = _window(found["window"], term, measure, unit, option=option, default=window)
    return Limit(measure=measure, window=chosen, amount=amount)


def _describe_unknown(unit: str) -> str:
    return f"what is {unit!r}?{nearest(unit, _UNITS)}" if unit else "of what?"


def _window(given: str | None, term: str, measure: Measure, unit: str, *, option: str, default: Window) -> Window:
    if unit == "tpm":
        if given is not None:
            raise UserError(f"{option} {term!r}: tpm is tokens per minute already")
        return "minute"
    if given is None:
        return "run" if measure == "seconds" else default
    window = given.lower()
    if window not in _WIDTH or (window == "minute" and measure != "tokens"):
        known = tuple(_WIDTH)[1:]
        raise UserError(f"{option} {term!r}: per {given}? One of {', '.join(known)}{nearest(window, known)}")
    if measure == "seconds" and window not in ("run", "cell"):
        raise UserError(f"{option} {term!r}: time is limited per run or per cell")
    return window


def _check_windows(limits: Iterable[Limit], option: str) -> None:
    """A limit that a narrower one of the same scope could never reach contradicts it."""
    known = list(limits)
    for narrow in known:
        for wide in known:
            if _exceeds(narrow, wide):
                raise UserError(f"{option}: {narrow.label} is more than {wide.label}; lower it or leave it out")


def _exceeds(inner: Limit, outer: Limit) -> bool:
    """Whether `inner` allows what `outer`, which counts at least as long, does not. A minute only bounds a minute."""
    if inner.measure != outer.measure or (inner.window == "minute") != (outer.window == "minute"):
        return False
    return _WIDTH[inner.window] <= _WIDTH[outer.window] and inner.amount > outer.amount


def check_tree(
    node: BudgetScope, limits: Sequence[Limit], others: Iterable[tuple[BudgetScope, Sequence[Limit]]]
) -> None:
    """UserError when a scope would be allowed more than one above it allows, or less than one below it was given."""
    for other, theirs in others:
        for mine in limits:
            for limit in theirs:
                if node.startswith(f"{other}{_STEP}") and _exceeds(mine, limit):
                    raise UserError(
                        f"{node.label}: {mine.label} is more than {other.label} allows ({limit.label}): lower it, "
                        f"or raise that first with {format_command(other, limit, mine.amount)}"
                    )
                if other.startswith(f"{node}{_STEP}") and _exceeds(limit, mine):
                    raise UserError(
                        f"{node.label}: {mine.label} is less than {other.label} was given ({limit.label}): raise it, "
                        f"or lower that first with {format_command(other, limit, mine.amount)}"
                    )


def format_command(node: BudgetScope, limit: Limit, amount: int) -> str:
    """The command that sets this limit of a scope to another amount, as in a shell."""
    if node.level == "map":
        return f"budget='{replace(limit, amount=amount).text}'"
    return f"`agentkit budget {scope_of(node)} {replace(limit, amount=amount).text}`"


def scope_of(node: BudgetScope) -> str:
    """How a scope is called on the line: a sub-agent by the way to it, since it has limits of its own there."""
    way = [one.name for one in node.lineage() if one.level == "agent"]
    return "/".join(way) or node.level


def merge(old: Sequence[Limit], new: Sequence[Limit]) -> tuple[Limit, ...]:
    """`old` with what `new` says of the same measure and window in its place."""
    changed = {(limit.measure, limit.window): limit for limit in (*old, *new)}
    return tuple(changed.values())


def parse_at_limit(text: str, *, option: str = "at_limit") -> AtLimit:
    if text not in AT_LIMIT:
        raise UserError(f"{option}={text!r}: one of {', '.join(AT_LIMIT)}{nearest(text, AT_LIMIT)}")
    return text


def dump(limits: Iterable[Limit]) -> str:
    """As the ledger keeps limits; `load` reads it."""
    return " ".join(f"{limit.measure}:{limit.window}:{limit.amount}" for limit in limits)


@lru_cache(maxsize=512)
def load(kept: str) -> tuple[Limit, ...]:
    fields = (part.split(":") for part in kept.split())
    return tuple(Limit(measure=m, window=w, amount=int(a)) for m, w, a in fields)  # type: ignore[arg-type]


# ---- as it is said


def amount_text(measure: Measure, amount: int) -> str:
    """An amount with its unit, as it can be typed."""
    match measure:
        case "usd":
            return f"{usd_text(amount)}usd"
        case "tokens":
            return f"{_short(amount)} tokens"
        case "requests":
            return f"{amount} request{'s' * (amount != 1)}"
        case "seconds":
            seconds = amount / 1000
            return f"{seconds / 60:g}min" if seconds >= 60 and seconds % 6 == 0 else f"{seconds:g}s"


def format_amount(measure: Measure, amount: int) -> str:
    """An amount as a sentence has it: money with as many digits as matter, tokens to the token."""
    if measure == "usd" and amount:
        digits = max(2, 10 - len(str(amount)) + 1) if amount < NANO // 10 else 4
        rounded = round(amount, digits - 9)
        return f"{usd_text(rounded or amount)}usd"
    return f"{amount:,} tokens" if measure == "tokens" else amount_text(measure, amount)


def usd_text(nano: int) -> str:
    """Dollars: at least two digits behind the point, and as many more as say something."""
    whole, rest = divmod(nano, NANO)
    digits = f"{rest:09d}".rstrip("0")
    return f"{whole}.{digits:0<2}" if nano else "0"


def _short(number: int) -> str:
    if number >= 1_000_000 and number % 100_000 == 0:
        return f"{Decimal(number) / 1_000_000:f}M"
    if number >= 1_000 and number % 1_000 == 0:
        return f"{number // 1_000}k"
    return str(number)


def nano(dollars: float) -> int:
    """Rounded up: what is counted is never less than what was paid."""
    whole = dollars * NANO
    return int(whole) + (whole > int(whole))
