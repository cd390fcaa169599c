"""One agent on several models: the same prompts, each some times, journaled; and a judge that grades the answers."""

from __future__ import annotations

import asyncio
import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pydantic import BaseModel, Field
from pydantic_ai import Agent
from pydantic_ai.agent import AbstractAgent
from pydantic_ai.models import Model

from agentkit.agent.agent import durable
from agentkit.agent.ask import Answer, ask
from agentkit.errors import UserError, describe_error
from agentkit.events import Step
from agentkit.models import resolve
from agentkit.runtime.session import current

_JUDGE = """You grade one answer to one task. Judge only what is asked: is the answer right, complete and to the point?
Length and style count for nothing. Give the reason first, then a score from 0 (useless) to 1 (nothing to improve)."""


WORDS = 1_000
"""So many of an answer are compared with those of others."""


class Grade(BaseModel):
    """What a judge says of one answer."""

    reason: str = Field(description="Why, in one or two sentences.")
    score: float = Field(ge=0, le=1, description="0: useless, 1: nothing to improve.")


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """One answer of one model. Seconds, tokens and cost are those of the live run, also where it was replayed."""

    model: str
    prompt: int
    repeat: int
    output: Any = None
    seconds: float | None = None
    cost: float | None = None
    input_tokens: int = 0
    output_tokens: int = 0
    replayed: bool = False
    agreement: float | None = None
    score: float | None = None
    reason: str = ""
    run: str = ""
    error: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """All samples, what was asked, and what a person should know about how it was judged."""

    agent: str
    prompts: tuple[str, ...]
    samples: tuple[Sample, ...]
    notes: tuple[str, ...] = ()


async def compare(
    agent: AbstractAgent[Any, Any],
    prompts: Sequence[Any],
    chosen: Sequence[str | Model] | Mapping[str, str | Model],
    *,
    repeat: int = 1,
    judge: str | Model | None = None,
    deps: Any = None,
) -> Comparison:
    """Ask `agent` each of `prompts` on each model, `repeat` times, in the open session; what is recorded replays.

    `chosen` are the models, or what they are to be called with each.
    One sample that fails is a row with its error; the others go on.
    """
    named = chosen if isinstance(chosen, Mapping) else {_name(one): one for one in chosen}
    if len(named) != len(chosen) or not named:
        raise UserError("models: name each model once, with commas between: openai:gpt-5,offline")
    resolved = [resolve.resolve(one) for one in named.values()]
    durably = durable(agent)
    names = list(named)
    lanes = [
        _repeat(durably, name, model, number, prompt, repeat=repeat, deps=deps)
        for name, model in zip(names, resolved, strict=True)
        for number, prompt in enumerate(prompts)
    ]
    samples = [sample for lane in await asyncio.gather(*lanes) for sample in lane]
    samples = _majority(samples)
    notes: tuple[str, ...] = ()
    if judge is not None:
        grader = resolve.resolve(judge)
        samples = await _grade(samples, [str(prompt) for prompt in prompts], grader)
        notes = _partial(grader, names, resolved)
    return Comparison(
        agent=agent.name or "agent", prompts=tuple(map(str, prompts)), samples=tuple(samples), notes=notes
    )


def _name(model: str | Model) -> str:
    return model if isinstance(model, str) else resolve.identity(model)


async def _repeat(
    agent: AbstractAgent[Any, Any], name: str, model: Model, number: int, prompt: Any, *, repeat: int, deps: Any
) -> list[Sample]:
    # One after the other: each is the n-th equal request, and is found again as that.
    found = []
    for again in range(repeat):
        empty = Sample(model=name, prompt=number, repeat=again)
        try:
            answer = await ask(agent, prompt, deps=deps, more={"model": model})
        except Exception as error:  # noqa: BLE001 - one model that fails is a result of the comparison
            found.append(replace(empty, error=_scrub(describe_error(error))))
        else:
            found.append(_measure(empty, answer))
    return found


def _scrub(text: str) -> str:
    session = current()
    return text if session is None else session.redactor.scrub(text)


def _measure(sample: Sample, answer: Answer) -> Sample:
    steps = [event for event in answer.events() if isinstance(event, Step)]
    asked = [step for step in steps if step.kind == "model" and step.usage is not None]
    costs = [step.usage.cost for step in asked if step.usage is not None]
    return replace(
        sample,
        output=answer.output,
        run=answer.run.id,
        seconds=sum(_seconds(step) for step in steps if step.numbered and step.run == answer.run.id),
        cost=None if any(cost is None for cost in costs) else sum(cost or 0.0 for cost in costs),
        input_tokens=sum(step.usage.input_tokens for step in asked if step.usage is not None),
        output_tokens=sum(step.usage.output_tokens for step in asked if step.usage is not None),
        replayed=bool(steps) and all(step.replayed for step in steps),
    )


def _seconds(step: Step) -> float:
    if step.replayed:
        return step.recorded_seconds or 0.0
    return 0.0 if step.ended is None else step.ended - step.started


# ---- agreement


def _majority(samples: Sequence[Sample]) -> list[Sample]:
    return [replace(one, agreement=_agreement(one, samples)) for one in samples]


def _agreement(one: Sample, samples: Sequence[Sample]) -> float | None:
    """How alike the answers of the other models to this prompt are, from 0 to 1; with one model, its other answers."""
    same = [other for other in samples if other is not one and other.prompt == one.prompt and not other.error]
    others = [other for other in same if other.model != one.model] or same
    if one.error or not others:
        return None
    return sum(alike(one.output, other.output) for other in others) / len(others)


def alike(one: Any, other: Any) -> float:
    """1 for equal values; for texts the share of words in common order, whatever their case and punctuation.

    Of long texts the first words are compared: it takes a time that grows with their square.
    """
    if not (isinstance(one, str) and isinstance(other, str)):
        return 1.0 if one == other else 0.0
    mine, theirs = (re.findall(r"\w+", text.casefold()) for text in (one, other))
    if mine == theirs:
        return 1.0
    mine, theirs = mine[:WORDS], theirs[:WORDS]
    return difflib.SequenceMatcher(None, mine, theirs, autojunk=False).ratio()


# ---- the judge


async def _grade(samples: Sequence[Sample], prompts: Sequence[str], judge: Model) -> list[Sample]:
    grader = durable(Agent(judge, name="judge", instructions=_JUDGE, output_type=Grade))

    async def grade(sample: Sample) -> Sample:
        if sample.error:
            return sample
        try:
            given = await ask(grader, f"# Task\n{prompts[sample.prompt]}\n\n# Answer\n{sample.output}")
        except Exception as error:  # noqa: BLE001 - an answer without a grade is shown as that
            return replace(sample, reason=_scrub(f"not graded: {describe_error(error)}"))
        return replace(sample, score=given.output.score, reason=given.output.reason)

    return list(await asyncio.gather(*map(grade, samples)))


def _partial(judge: Model, names: Sequence[str], compared: Sequence[Model]) -> tuple[str, ...]:
    """Judges favour answers of their own kind: said where it may be so."""
    kin = [name for name, model in zip(names, compared, strict=True) if _family(model) == _family(judge)]
    if not kin:
        return ()
    return (f"the judge is of the same family as {', '.join(kin)}: judges favour their own, choose another one",)


def _family(model: Model) -> str:
    return resolve.members(model)[0].system
