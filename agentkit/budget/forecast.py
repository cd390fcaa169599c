"""What the next step of a run, or the rest of it, is expected to cost, from what is known before it is asked."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from statistics import median

from pydantic_ai.messages import ModelResponse
from pydantic_ai.usage import RequestUsage

from agentkit.debugger.gate import Pending
from agentkit.events import Event, Step
from agentkit.models import resolve
from agentkit.models.canned_replies import estimate, overhead


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """Tokens and USD; `output_tokens` and `cost` are None where nothing is known to tell them from.

    `least` and `most` are the costs of the shortest and the longest answer it was told from, and `how` says which.
    """

    input_tokens: int = 0
    output_tokens: int | None = None
    cost: float | None = None
    least: float | None = None
    most: float | None = None
    how: str = ""


def of_step(
    pending: Pending, events: Iterable[Event], *, earlier: Callable[[], Iterable[Event]] = tuple
) -> Forecast | None:
    """A model request: its input as it stands, and as much output as the run's requests had; None for a tool call.

    Where the run has no answer yet, it is told from those of `earlier` runs of the agent.
    """
    if pending.kind != "model":
        return None
    asked = estimate(pending.messages, ModelResponse(parts=[])).input_tokens
    asked += 0 if pending.step_request.parameters is None else overhead(pending.step_request.parameters)
    answers, of = _answers(events), "this run"
    if not answers:
        answers, of = _answers(earlier()), f"recorded runs of {pending.agent}"
    if not answers:
        return Forecast(input_tokens=asked, cost=_price(pending, asked, 0))
    middle = round(median(answers))
    return Forecast(
        input_tokens=asked,
        output_tokens=middle,
        cost=_price(pending, asked, middle),
        least=_price(pending, asked, min(answers)),
        most=_price(pending, asked, max(answers)),
        how=f"as {len(answers)} answer{'s' * (len(answers) != 1)} of {of}",
    )


def _answers(events: Iterable[Event]) -> list[int]:
    return [step.usage.output_tokens for step in _requests(events) if step.usage is not None]


def of_rest(events: Iterable[Event], *, run: str, since: int) -> tuple[int, float, int]:
    """How many recorded steps of `run` come from place `since` on, what they cost, and how many have no price."""
    steps = [event for event in events if isinstance(event, Step) and event.numbered]
    own = [step for step in steps if step.run == run][since - 1 :]
    first = min((step.ord for step in own), default=0)
    paid = [step for step in steps if step.kind == "model" and (step.run != run or step.ord >= first)]
    costs = [step.usage.cost for step in paid if step.usage is not None]
    return len(own), sum(cost for cost in costs if cost is not None), sum(cost is None for cost in costs)


def describe(count: int, cost: float, unpriced: int, *, since: int) -> str:
    """What `of_rest` found, to be put behind a sentence; nothing when nothing will be live."""
    if count == 0:
        return ""
    costs = [f"${cost:.4f}" if cost else "$0"] if cost or not unpriced else []
    costs += [f"{unpriced} unpriced request{'s' * (unpriced != 1)}"] if unpriced else []
    return f"; from step {since} on {count} step{'s' * (count != 1)} may be live, before: {' + '.join(costs)}"


def _requests(events: Iterable[Event]) -> list[Step]:
    return [event for event in events if isinstance(event, Step) and event.kind == "model" and event.status == "done"]


def _price(pending: Pending, asked: int, answered: int) -> float | None:
    model = pending.step_request.model
    if model is None:
        return None
    return resolve.list_price(resolve.members(model)[0], RequestUsage(input_tokens=asked, output_tokens=answered))
