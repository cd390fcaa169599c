"""The last resort of a chain: a reply from the journal to the same request, labelled as stale and never kept as new."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from pydantic_ai.messages import ModelMessage, ModelResponse
from pydantic_ai.models import ModelRequestParameters
from pydantic_ai.tools import ToolDefinition
from pydantic_ai.usage import RequestUsage
from pydantic_core import from_json

from agentkit.durable.journal import trusted
from agentkit.durable.keys import Key
from agentkit.durable.records import STALE, Row
from agentkit.engine.codec import RESULT_CODEC
from agentkit.engine.frame import AgentRunFrame

_UNUSABLE = ("content_filter", "error", "length")


def find(frame: AgentRunFrame, key: Key, parameters: ModelRequestParameters, age: float) -> ModelResponse | str:
    """The newest reply of at most `age` seconds to this request, by this model else by any; or why there is none."""
    writing = [tool.name for tool in parameters.function_tools if not _only_reads(tool)]
    if writing:
        return f"a cached reply is not given where tools may write ({', '.join(writing[:3])})"
    rows = [row for row in frame.journal.store.answers(key.slot, since=time.time() - age) if trusted(row, frame)]
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


def _response(frame: AgentRunFrame, row: Row) -> ModelResponse | None:
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
    return None if label is None else f"{STALE}{said(label)}"


def said(label: dict[str, Any]) -> str:
    return f"cached reply, {aged(label['age_seconds'])} old, by {label['from']}"


def aged(seconds: float) -> str:
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
