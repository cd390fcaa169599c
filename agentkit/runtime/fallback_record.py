"""A model request on its way through a fallback chain: what it may fall back on, and what is noted of who answered."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from opentelemetry import trace
from pydantic_ai.messages import ModelMessage, ModelResponse
from pydantic_ai.models import ModelRequestParameters
from pydantic_ai.tools import ToolDefinition
from pydantic_ai.usage import RequestUsage
from pydantic_core import from_json

from agentkit.events import short_model
from agentkit.journal.codec import RESULT_CODEC
from agentkit.journal.journal import Performed
from agentkit.journal.keys import Key
from agentkit.journal.records import STALE, Row
from agentkit.journal.replay import is_trusted
from agentkit.models.request_context import Attempts, current_request, update_request
from agentkit.runtime import describe, server_limits
from agentkit.runtime.run_state import RunState

_UNUSABLE = ("content_filter", "error", "length")


def find(frame: RunState, key: Key, parameters: ModelRequestParameters, age: float) -> ModelResponse | str:
    """The newest reply of at most `age` seconds to this request, by this model else by any; or why there is none."""
    writing = [tool.name for tool in parameters.function_tools if not _only_reads(tool)]
    if writing:
        return f"a cached reply is not given where tools may write ({', '.join(writing[:3])})"
    rows = [
        row for row in frame.journal.store.answers(key.slot, since=time.time() - age) if is_trusted(row, frame.mode)
    ]
    for row in sorted(rows, key=lambda row: (row.key != key.key, -(row.ended or 0))):
        found = _response(frame, row)
        if found is not None:
            return found
    return "no reply to this request is recorded that is new enough"


def _only_reads(tool: ToolDefinition) -> bool:
    metadata = tool.metadata or {}
    if "agentkit" in metadata:
        return bool(metadata["agentkit"].get("effects") == "none")
    hints = metadata.get("annotations") or {}
    return bool(hints.get("readOnlyHint"))


def _response(frame: RunState, row: Row) -> ModelResponse | None:
    payload, missing = frame.journal.redactor.restore(from_json(row.body or b"null"))
    if missing or not isinstance(payload, dict) or payload.get("finish_reason") in _UNUSABLE:
        return None
    response: ModelResponse = RESULT_CODEC.load(ModelResponse, payload)
    age = max(0.0, time.time() - (row.ended or row.started))
    label = {"stale": True, "age_seconds": round(age, 1), "from": row.model or row.name, "step": row.id}
    metadata = {**(response.metadata or {}), "agentkit": label}
    return replace(response, usage=RequestUsage(), metadata=metadata)


def label_of(payload: Any) -> dict[str, Any] | None:
    """What a stale reply says of itself; None for any other."""
    label = ((payload.get("metadata") if isinstance(payload, dict) else None) or {}).get("agentkit")
    return label if isinstance(label, dict) and label.get("stale") else None


def control(payload: Any) -> str | None:
    """Keeps a stale reply from being recorded as an answer."""
    label = label_of(payload)
    return None if label is None else f"{STALE}{describe_cached(label)}"


def describe_cached(label: dict[str, Any]) -> str:
    return f"cached reply, {format_age(label['age_seconds'])} old, by {label['from']}"


def format_age(seconds: float) -> str:
    """How old, in one unit."""
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"


def oldest(messages: Sequence[ModelMessage]) -> float | None:
    """The age in seconds of the oldest stale reply among `messages`; None when all are what models said now."""
    labels = [(message.metadata or {}).get("agentkit") for message in messages if isinstance(message, ModelResponse)]
    ages = [label["age_seconds"] for label in labels if isinstance(label, dict) and label.get("stale")]
    return max(ages, default=None)


def begin(frame: RunState, key: Key, parameters: ModelRequestParameters, tried: Attempts) -> None:
    """From here on in this context: the way of this request, which is noted in `tried`."""
    server_limits.turnstile()
    update_request(attempts=tried, last_resort=lambda age: find(frame, key, parameters, age))


def describe_reply(payload: Any, asked: str, answered: str | None, names: Mapping[str, str]) -> str:
    """The reply in words; a step is called after the first of the chain, so that another one is named here."""
    by = answered or names.get(payload.get("model_name") or "", asked)
    return (
        describe.describe(payload)
        if by == asked
        else f"by {short_model(by, (asked, *names.values()))}: {describe.describe(payload)}"
    )


def note(frame: RunState, performed: Performed) -> None:
    """Who answered in the place of whom, and how old a cached reply is."""
    tried = current_request.get().attempts
    if performed.replayed or tried is None:
        return
    label = label_of(performed.payload)
    # One that rests was noted when it failed, and who answers stands in the row of the step.
    if tried.failed and (label is not None or not all(one.rests for one in tried.failed)):
        known = [*(one.model for one in tried.failed), tried.answered or ""]
        failed = ", ".join(f"{short_model(one.model, known)} ({one.cause}: {one.said})" for one in tried.failed)
        answered = short_model(tried.answered or "", known) if label is None else describe_cached(label)
        text = frame.journal.redactor.scrub(f"{failed} → answered by {answered}")
        if text not in frame.notes:
            frame.notes.append(text)
    if label is not None:
        trace.get_current_span().set_attributes(
            {"agentkit.cache.stale": True, "agentkit.cache.age_seconds": label["age_seconds"]}
        )
