"""Agents that do nothing but take steps: a scripted model and one tool, called as often as is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic_ai.messages import ModelResponse, TextPart, ToolCallPart
from pydantic_ai.usage import RequestUsage, UsageLimits

from agentkit.testing import ScriptedModel
from agentkit.tools.declaration import tool

INSTRUCTIONS = "Count upwards, one call after the other."
UNLIMITED = UsageLimits(request_limit=None)


@tool(effects="none")
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


def script(steps: int) -> ScriptedModel:
    """A model whose run takes `steps` steps: half of them its requests, half of them tool calls."""
    turns = steps // 2
    first = [_call(0, 0), _call(0, 1)]
    return ScriptedModel(
        [_said(first), *(_said([_call(turn, 0)]) for turn in range(1, turns - 1)), _said([TextPart("done")])]
    )


def silent() -> ScriptedModel:
    """A model that must not be asked."""
    return ScriptedModel()


def _call(turn: int, place: int) -> ToolCallPart:
    return ToolCallPart("add", {"a": turn, "b": place}, tool_call_id=f"call_{turn}_{place}")


def _said(parts: Sequence[Any]) -> ModelResponse:
    # With a usage of its own: to estimate one, the scripted model would read the whole history at each request.
    return ModelResponse(parts=list(parts), usage=RequestUsage(input_tokens=100, output_tokens=20))
