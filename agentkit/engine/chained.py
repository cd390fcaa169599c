"""A model request on its way through a fallback chain: what it may fall back on, and what is noted of who answered."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from opentelemetry import trace
from pydantic_ai.models import ModelRequestParameters

from agentkit.define.chain import Attempts, attempts, last_resort
from agentkit.durable.journal import Performed
from agentkit.durable.keys import Key
from agentkit.engine import lastresort, said, throttling
from agentkit.engine.frame import AgentRunFrame
from agentkit.events import short_model


def begin(frame: AgentRunFrame, key: Key, parameters: ModelRequestParameters) -> Attempts:
    """From here on in this context: the way of this request."""
    throttling.turnstile()
    tried = Attempts(resting=frame.execution.resting)
    attempts.set(tried)
    last_resort.set(lambda age: lastresort.find(frame, key, parameters, age))
    return tried


def described(payload: Any, asked: str, answered: str | None, names: Mapping[str, str]) -> str:
    """The reply in words; a step is called after the first of the chain, so that another one is named here."""
    by = answered or names.get(payload.get("model_name") or "", asked)
    return (
        said.said(payload) if by == asked else f"by {short_model(by, (asked, *names.values()))}: {said.said(payload)}"
    )


def note(frame: AgentRunFrame, performed: Performed) -> None:
    """Who answered in the place of whom, and how old a cached reply is."""
    tried = attempts.get()
    if performed.replayed or tried is None:
        return
    label = lastresort.label_of(performed.payload)
    # One that rests was noted when it failed, and who answers stands in the row of the step.
    if tried.failed and (label is not None or not all(one.rests for one in tried.failed)):
        known = [*(one.model for one in tried.failed), tried.answered or ""]
        failed = ", ".join(f"{short_model(one.model, known)} ({one.cause}: {one.said})" for one in tried.failed)
        answered = short_model(tried.answered or "", known) if label is None else lastresort.said(label)
        text = frame.journal.redactor.scrub(f"{failed} → answered by {answered}")
        if text not in frame.notes:
            frame.notes.append(text)
    if label is not None:
        trace.get_current_span().set_attributes(
            {"agentkit.cache.stale": True, "agentkit.cache.age_seconds": label["age_seconds"]}
        )
