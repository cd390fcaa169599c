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


def begin(frame: AgentRunFrame, key: Key, parameters: ModelRequestParameters) -> Attempts:
    """From here on in this context: the way of this request."""
    throttling.turnstile()
    tried = Attempts()
    attempts.set(tried)
    last_resort.set(lambda age: lastresort.find(frame, key, parameters, age))
    return tried


def described(payload: Any, asked: str, answered: str | None, names: Mapping[str, str]) -> str:
    """The reply in words; a step is called after the first of the chain, so that another one is named here."""
    by = answered or names.get(payload.get("model_name") or "", asked)
    return said.said(payload) if by == asked else f"by {by}: {said.said(payload)}"


def note(frame: AgentRunFrame, performed: Performed) -> None:
    """Who answered in the place of whom, and how old a cached reply is."""
    tried = attempts.get()
    if performed.replayed or tried is None or not tried.failed:
        return
    failed = ", ".join(f"{one.model} ({one.cause}: {one.said})" for one in tried.failed)
    label = lastresort.label_of(performed.payload)
    answered = tried.answered if label is None else lastresort.said(label)
    frame.notes.append(frame.journal.redactor.scrub(f"{failed} → answered by {answered}"))
    if label is not None:
        trace.get_current_span().set_attributes(
            {"agentkit.cache.stale": True, "agentkit.cache.age_seconds": label["age_seconds"]}
        )
