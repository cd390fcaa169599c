"""Results across the journal's boundary: pydantic-ai's JSON codec, with tool results through the value registry."""

from __future__ import annotations

import enum
import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import fields, replace
from functools import cache
from typing import Any, cast

from pydantic_ai import ToolReturn
from pydantic_ai.durable_exec import JSON_CODEC, CallToolResult
from pydantic_ai.exceptions import UserError as LibraryUserError
from pydantic_ai.messages import ModelResponse
from pydantic_core import from_json
from pydantic_core import to_json as to_json_bytes

from agentkit.journal.execution import current_step
from agentkit.values.registry import DEPTH, check_names, is_plain, text, to_json, too_deep


class ResultCodec:
    """JSON both ways; numpy, pandas, dates and the like in tool results become JSON, the rest is refused by name."""

    def dump(self, tp: Any, value: Any) -> Any:
        if tp is CallToolResult and hasattr(value, "result"):
            value.result = _result(value.result, _describe_context())
        long = value.result if tp is CallToolResult and hasattr(value, "result") else None
        if isinstance(long, list) and is_plain(long):
            return {**_writable(JSON_CODEC.dump(tp, replace(value, result=[]))), "result": long}
        if isinstance(value, ModelResponse) and not math.isfinite(value.usage.cost or 0):
            # A price that no record can hold must not lose the reply that was paid for.
            value.usage.cost = None
        payload = _writable(JSON_CODEC.dump(tp, value))
        return _without_defaults(value, payload) if isinstance(value, ModelResponse) else payload

    def load(self, tp: Any, payload: Any) -> Any:
        long = payload.get("result") if tp is CallToolResult and isinstance(payload, dict) else None
        if not isinstance(long, list) or not is_plain(long):
            return JSON_CODEC.load(tp, payload)
        # One by one they would be looked at in Python for what none of them is: seconds for a million.
        value = JSON_CODEC.load(tp, {**payload, "result": []})
        value.result = long
        return value


RESULT_CODEC = ResultCodec()


def _without_defaults(response: ModelResponse, payload: dict[str, Any]) -> dict[str, Any]:
    """A reply without what it does not say: it is read back as the same, and takes half the room."""
    parts = zip(response.parts, payload["parts"], strict=True)
    said = {name: value for name, value in payload.items() if value is not None or name not in _optional(ModelResponse)}
    said["parts"] = [
        {name: value for name, value in part.items() if value is not None or name not in _optional(cast(Any, type(of)))}
        for of, part in parts
    ]
    said["usage"] = {name: value for name, value in payload["usage"].items() if value}
    return said


@cache
def _optional(cls: Any) -> frozenset[str]:
    """The fields that are None unless something is said."""
    return frozenset(field.name for field in fields(cls) if field.default is None)


def _writable(payload: Any) -> Any:
    """A reply that was cut in the middle of a character holds half of it, which has no bytes."""
    if isinstance(payload, str):
        return text(payload)
    if isinstance(payload, dict):
        return {_writable(name): _writable(item) for name, item in payload.items()}
    if not isinstance(payload, list) or is_plain(payload):
        return payload
    return [_writable(item) for item in payload]


def mark_replay(payload: Any) -> Any:
    """A replayed response costs nothing: what it cost when live is kept beside it."""
    metadata = {**(payload.get("metadata") or {}), "agentkit": {"replayed": True, "usage": payload.get("usage")}}
    return {**payload, "usage": {}, "metadata": metadata}


def encode_tool_result(value: object, *, name: str = "") -> Any:
    """What the journal keeps of the return value of a tool function, which a thread outside its step names."""
    plain = _result(value, f"the result of {name}" if name else _describe_context())
    loaded = RESULT_CODEC.load(CallToolResult, {"kind": _kind(value), "result": plain})
    if isinstance(plain, list) and is_plain(plain):
        return {**JSON_CODEC.dump(CallToolResult, replace(loaded, result=[])), "result": plain}
    return _writable(JSON_CODEC.dump(CallToolResult, loaded))


def signal_of(payload: Any) -> str | None:
    """The name of a control signal in the place of an answer, which must not be recorded as one."""
    kind = payload.get("kind") if isinstance(payload, dict) else None
    return kind if kind in ("approval_required", "call_deferred", "run_cancelled") else None


def _kind(value: object) -> str:
    # pydantic-ai's own rule: a plain dict that looks like a ToolReturn must not be read back as one.
    return "tool_content_result" if isinstance(value, dict) and value.get("kind") == "tool-return" else "tool_return"


def _describe_context() -> str:
    frame = current_step()
    return f"the result of {frame.row.name}" if frame else "the result"


def _name(key: object) -> str:
    """What a key is called in what is recorded."""
    return str(next(iter(from_json(to_json_bytes({key: None}, fallback=str)))))


def _result(value: Any, where: str) -> Any:
    """As JSON. A result that is only a NaN, NaT or NA is that word: of None the model would be told nothing."""
    plain = _plain(value, where)
    if plain is not None or value is None or isinstance(value, enum.Enum):
        return plain
    word = str(value)
    return "NaN" if word == "nan" else word


def _plain(value: Any, where: str, depth: int = DEPTH) -> Any:
    if isinstance(value, ToolReturn) and depth < DEPTH:
        raise LibraryUserError(
            f"The return value of tool {where.rpartition(' ')[2]!r} contains invalid nested `ToolReturn` objects. "
            "`ToolReturn` should be used directly."
        )
    if isinstance(value, bytes | bytearray):
        # The model gets bytes as text where they are text.
        with suppress(UnicodeDecodeError):
            return value.decode()
    if not isinstance(value, Mapping | list | tuple):
        return value if type(value).__module__.partition(".")[0] == "pydantic_ai" else to_json(value, where=where)
    if depth == 0:
        raise too_deep(where)
    if isinstance(value, Mapping):
        if not all(type(name) is str for name in value):
            check_names([_name(name) for name in value], list(value), where)
        return {name: _plain(item, where, depth - 1) for name, item in value.items()}
    return list(value) if is_plain(value) else [_plain(item, where, depth - 1) for item in value]
