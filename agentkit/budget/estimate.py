"""What a run of an agent is going to take, from recorded runs of the same agent: a range, and how it was reached."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from pydantic_ai.models import Model
from pydantic_ai.usage import RequestUsage

from agentkit.events import FINISHED, Event, Run, Step, Usage
from agentkit.models import resolve
from agentkit.models.canned_replies import tokens
from agentkit.runtime.session import Session

_RUNS = 50
_FEW = 5
_RECENT = 5


@dataclass(frozen=True, kw_only=True)
class Range:
    """Least, middle and most; None where nothing is known."""

    least: float
    middle: float
    most: float

    def format(self, form: Any) -> str:
        least, middle, most = form(self.least), form(self.middle), form(self.most)
        return f"about {middle}" if least == most else f"{least} to {most}, most likely about {middle}"


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """Tokens, requests, seconds and USD of one more run; `cost` is None where no price is known, `how` says why."""

    agent: str
    runs: int
    requests: Range | None
    tokens: Range | None
    seconds: Range | None
    cost: Range | None
    how: tuple[str, ...]

    @property
    def description(self) -> str:
        """In a few lines."""
        if self.tokens is None or self.requests is None or self.seconds is None:
            return "\n".join([f"{self.agent}: no estimate", *(f"  · {line}" for line in self.how)])
        price = "no known price" if self.cost is None else self.cost.format(_dollars)
        requests = self.requests.format(_whole)
        facts = [
            f"{self.agent}: {price}",
            f"  {self.tokens.format(_whole)} tokens · {requests} request{'' if requests == 'about 1' else 's'} · "
            f"{self.seconds.format(_seconds)}",
        ]
        return "\n".join([*facts, *(f"  · {line}" for line in self.how)])

    def __repr__(self) -> str:
        return self.description


@dataclass(frozen=True, kw_only=True)
class _Past:
    """One recorded run: its requests as they were when they were live, and how long they took."""

    run: Run
    requests: tuple[Step, ...]
    seconds: float

    @property
    def input(self) -> int:
        return sum(_usage(step).input_tokens for step in self.requests)

    @property
    def output(self) -> int:
        return sum(_usage(step).output_tokens for step in self.requests)

    @property
    def cost(self) -> float | None:
        costs = [_usage(step).cost for step in self.requests]
        known = [cost for cost in costs if cost is not None]
        return sum(known) if len(known) == len(costs) else None


def estimate(session: Session, agent: Any, prompt: str | None = None) -> Estimate:
    """What one more run of `agent` would take; with a `prompt`, its length is taken into account."""
    name = agent.name or "agent"
    runs = [run for run in session.runs(agent=name, limit=_RUNS) if run.status in FINISHED]
    past, repeated = _different(_past(session, run) for run in runs)
    if not past:
        return _nothing(agent, name, prompt)
    how = [f"from {_count_text(len(past), 'recorded run')} of {name}" + _describe_left_out(repeated)]
    if prompt is not None and (same := next((one for one in past if one.run.prompt == prompt), None)) is not None:
        how.append(f"run {same.run.id} had this very prompt: where nothing changed it replays and costs nothing")
    longer = 0 if prompt is None else tokens(prompt) - round(median(tokens(one.run.prompt) for one in past))
    if longer:
        more = "longer" if longer > 0 else "shorter"
        how.append(f"this prompt is about {abs(longer)} tokens {more} than theirs, in each request")
    model = agent.model if isinstance(agent.model, Model) else None
    inputs = [max(0, one.input + longer * len(one.requests)) for one in past]
    costs = [_cost(one, given, model) for one, given in zip(past, inputs, strict=True)]
    how += _price_basis(past, model)
    unreported = sum(_usage(step).estimated for one in past for step in one.requests)
    if unreported:
        how.append(f"{_count_text(unreported, 'request')} whose server counted nothing: what was set aside counts")
    known = [cost for cost in costs if cost is not None]
    if len(past) < _FEW:
        how.append("few runs: the range is from the least to the most of them")
    else:
        how.append("the range leaves out the lowest and the highest tenth")
    return Estimate(
        agent=name,
        runs=len(past),
        requests=_range([len(one.requests) for one in past]),
        tokens=_range([given + one.output for given, one in zip(inputs, past, strict=True)]),
        seconds=_range([one.seconds for one in past]),
        cost=_range(known) if len(known) == len(costs) else None,
        how=tuple(how),
    )


def read_history(session: Session, agent: str) -> list[Event]:
    """What the newest runs of an agent recorded."""
    return [event for run in session.runs(agent=agent, limit=_RECENT) for event in session.trace(run.id)]


def _nothing(agent: Any, name: str, prompt: str | None) -> Estimate:
    size = tokens(prompt or "")
    how = f"no finished run of {name} is recorded yet"
    return Estimate(
        agent=name, runs=0, requests=None, tokens=None, seconds=None, cost=None,
        how=(how, f"the prompt alone is about {size} tokens in each request" if size else "run it once to know more"),
    )  # fmt: skip


def _past(session: Session, run: Run) -> _Past:
    steps = [event for event in session.trace(run.id) if isinstance(event, Step) and event.status == "done"]
    own = [step for step in steps if step.run == run.id]
    inside = [step for step in steps if step.kind == "model"]
    # A replayed call of a sub-agent stands for the requests inside it.
    whole = [step for step in own if step.kind == "tool" and step.replayed and step.usage is not None]
    return _Past(
        run=run,
        requests=tuple(step for step in (*inside, *whole) if step.usage is not None),
        seconds=sum(_seconds_of(step) for step in own),
    )


def _seconds_of(step: Step) -> float:
    if step.replayed:
        return step.recorded_seconds or 0.0
    return max(0.0, (step.ended or step.started) - step.started)


def _different(found: Iterable[_Past]) -> tuple[list[_Past], int]:
    """Runs that went over the same recorded steps are one run; how many were left out."""
    seen: dict[tuple[int, ...], _Past] = {}
    count = 0
    for one in found:
        if one.requests:
            count += 1
            seen.setdefault(tuple(step.id for step in one.requests), one)
    return list(seen.values()), count - len(seen)


def _cost(past: _Past, given: int, model: Model | None) -> float | None:
    if model is not None and past.run.model != resolve.identity(model):
        first = resolve.answering_models(model)[0]
        return resolve.list_price(first, RequestUsage(input_tokens=given, output_tokens=past.output))
    if past.cost is None or model is None or given == past.input:
        return past.cost
    first = resolve.answering_models(model)[0]
    prices = [resolve.list_price(first, RequestUsage(input_tokens=tokens_in)) for tokens_in in (given, past.input)]
    return past.cost + (prices[0] or 0.0) - (prices[1] or 0.0)


def _price_basis(past: Sequence[_Past], model: Model | None) -> list[str]:
    if model is None or all(one.run.model == resolve.identity(model) for one in past):
        return []
    others = sum(one.run.model != resolve.identity(model) for one in past)
    return [
        f"{_count_text(others, 'run')} used another model: their tokens at the list price of {resolve.identity(model)}"
    ]


def _range(values: Sequence[float]) -> Range | None:
    if not values:
        return None
    ordered = sorted(values)
    cut = len(ordered) // 10 if len(ordered) >= _FEW else 0
    kept = ordered[cut : len(ordered) - cut]
    return Range(least=kept[0], middle=median(kept), most=kept[-1])


def _usage(step: Step) -> Usage:
    return step.usage or Usage()


def _describe_left_out(repeated: int) -> str:
    return f" ({repeated} that only replayed the same steps left out)" if repeated else ""


def _count_text(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"


def _dollars(value: float) -> str:
    return "$0" if value == 0 else f"${value:.4f}" if value < 0.1 else f"${value:,.2f}"


def _whole(value: float) -> str:
    return f"{round(value):,}"


def _seconds(value: float) -> str:
    return f"{value:.1f} s"
