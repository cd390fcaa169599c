"""Requests, replies and results of tools as a person reads them, in a line or less."""

from __future__ import annotations

import json
from typing import Any

from pydantic_ai.messages import ModelMessage

from agentkit.journal.execution import shorten

_ONE_LINE = 200


def in_one_line(name: str, args: Any, payload: Any) -> str:
    """A call that was made, with its result."""
    result = shorten(describe_result(payload), _ONE_LINE)
    return f"{name}({shorten(format_arguments(args), _ONE_LINE)})" + (f" → {result}" if result else "")


def describe(payload: Any) -> str:
    """A reply as a person reads it: its text, and the calls it asks for."""
    return " ".join(filter(None, (_describe_part(part) for part in payload.get("parts", ()))))


def _describe_part(part: Any) -> str:
    if "tool_name" not in part:
        content = part.get("content")
        return content if isinstance(content, str) and part.get("part_kind") == "text" else ""
    args = part.get("args")
    if isinstance(args, str):
        try:
            args = json.loads(args or "{}")
        except (ValueError, RecursionError):
            return f"→ {part['tool_name']}({args})"
    return f"→ {part['tool_name']}({format_arguments(args or {})})"


def describe_result(payload: Any) -> str:
    """A tool's result as a person reads it; a control signal by its name and message."""
    if payload.get("kind") in ("tool_return", "tool_content_result"):
        result = payload.get("result")
        return result if isinstance(result, str) else json.dumps(result, ensure_ascii=False)
    return f"{payload.get('kind', '')}: {payload.get('message') or payload.get('title') or ''}".rstrip(": ")


def output(value: object) -> str:
    """An answer as its own class writes it, if that works: a bad `__str__` must not cost the answer."""
    try:
        return str(value)
    except Exception as error:  # noqa: BLE001 - it is foreign code
        return f"[a {type(value).__name__} that cannot be shown: {type(error).__name__}]"


def last_text(messages: list[ModelMessage]) -> str:
    """What was said last, as a person reads it."""
    for part in reversed(messages[-1].parts if messages else ()):
        content = getattr(part, "content", None)
        if content is not None:
            return content if isinstance(content, str) else repr(content)
    return ""


def format_arguments(args: Any) -> str:
    """The arguments of a call as Python writes them."""
    return ", ".join(f"{name}={value!r}" for name, value in args.items()) if isinstance(args, dict) else repr(args)
