"""Results across the journal's boundary: pydantic-ai's JSON codec, with tool results through the value registry."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic_ai.durable_exec import JSON_CODEC, CallToolResult

from agentkit.durable.frames import current_step
from agentkit.values import to_json


class ResultCodec:
    """JSON both ways; numpy, pandas, dates and the like in tool results become JSON, the rest is refused by name."""

    def dump(self, tp: Any, value: Any) -> Any:
        if tp is CallToolResult and hasattr(value, "result"):
            value.result = _plain(value.result)
        return JSON_CODEC.dump(tp, value)

    def load(self, tp: Any, payload: Any) -> Any:
        return JSON_CODEC.load(tp, payload)


RESULT_CODEC = ResultCodec()


def as_replayed(payload: Any) -> Any:
    """A replayed response costs nothing: what it cost when live is kept beside it."""
    metadata = {**(payload.get("metadata") or {}), "agentkit": {"replayed": True, "usage": payload.get("usage")}}
    return {**payload, "usage": {}, "metadata": metadata}


def encode_tool_result(value: object) -> Any:
    """What the journal keeps of a tool function's return value."""
    return JSON_CODEC.dump(
        CallToolResult, JSON_CODEC.load(CallToolResult, {"kind": _kind(value), "result": _plain(value)})
    )


def _kind(value: object) -> str:
    # pydantic-ai's own rule: a plain dict that looks like a ToolReturn must not be read back as one.
    return "tool_content_result" if isinstance(value, dict) and value.get("kind") == "tool-return" else "tool_return"


def _plain(value: Any) -> Any:
    if type(value).__module__.partition(".")[0] == "pydantic_ai":
        return value
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    frame = current_step.get()
    return to_json(value, where=f"the result of {frame.row.name}" if frame else "the result")
