"""A conversation as the planner reads it: the prompt, what the tools gave, what went wrong."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic_ai.messages import (
    ModelMessage,
    ModelRequest,
    ModelResponse,
    RetryFeedbackPart,
    RetryPromptPart,
    ToolCallPart,
    ToolReturnPart,
    UserPromptPart,
)
from pydantic_core import to_jsonable_python

from agentkit.define.planner.words import Prompt

_LONGEST_TEXT = 20_000
_FRAMEWORK = "<pyai:"
"""pydantic-ai fences what it says itself in a user's place, such as why an output was refused."""


@dataclass(frozen=True, kw_only=True)
class Result:
    """What one call gave: a JSON value, or an error text when not `ok`."""

    tool: str
    args: Mapping[str, Any]
    value: Any
    ok: bool = True

    def same_call(self, tool: str, args: Mapping[str, Any]) -> bool:
        return self.tool == tool and dict(self.args) == dict(args)


@dataclass(frozen=True, kw_only=True)
class Talk:
    """`results` came since the prompt, `earlier` before it; `before` are the older prompts, newest first.

    `complaints` are what was wrong with an output given for this prompt.
    """

    prompt: Prompt
    before: tuple[Prompt, ...]
    results: tuple[Result, ...]
    earlier: tuple[Result, ...]
    complaints: tuple[str, ...]
    turns: int
    attachments: int

    @classmethod
    def of(cls, messages: Sequence[ModelMessage], *, tools: frozenset[str]) -> Talk:
        """Read the messages; only results of `tools` count, those of output tools are complaints."""
        asked = [place for place, message in enumerate(messages) if _is_prompt(message)]
        last = asked[-1] if asked else 0
        texts = [_prompt_text(messages[place]) for place in asked]
        calls = {
            part.tool_call_id: part
            for message in messages
            if isinstance(message, ModelResponse)
            for part in message.parts
            if isinstance(part, ToolCallPart)
        }
        now = messages[last:]
        return cls(
            prompt=Prompt(texts[-1] if texts else ""),
            before=tuple(Prompt(text) for text in reversed(texts[:-1])),
            results=tuple(_results(now, calls, tools)),
            earlier=tuple(_results(messages[:last], calls, tools)),
            complaints=tuple(_complaints(now, tools)),
            turns=sum(isinstance(message, ModelResponse) for message in now),
            attachments=_attachments(messages[last]) if asked else 0,
        )

    @property
    def good(self) -> tuple[Result, ...]:
        return tuple(result for result in self.results if result.ok)

    def called(self, tool: str, args: Mapping[str, Any]) -> bool:
        return any(result.same_call(tool, args) for result in self.results)


def _is_prompt(message: ModelMessage) -> bool:
    return isinstance(message, ModelRequest) and any(_user_text(part) is not None for part in message.parts)


def _user_text(part: object) -> str | None:
    """What a person wrote; None for anything else, also for what the framework says in the person's place."""
    if not isinstance(part, UserPromptPart):
        return None
    items = [part.content] if isinstance(part.content, str) else part.content
    text = "\n".join(text for item in items if isinstance(text := getattr(item, "content", item), str))
    return None if _FRAMEWORK in text else text


def _prompt_text(message: ModelMessage) -> str:
    texts = [text for part in message.parts if (text := _user_text(part)) is not None]
    return "\n".join(texts)[:_LONGEST_TEXT]


def _attachments(message: ModelMessage) -> int:
    """How many images or files came with the prompt."""
    contents = [part.content for part in message.parts if isinstance(part, UserPromptPart)]
    return sum(
        not isinstance(getattr(item, "content", item), str)
        for content in contents
        if not isinstance(content, str)
        for item in content
    )


def _results(
    messages: Sequence[ModelMessage], calls: Mapping[str, ToolCallPart], tools: frozenset[str]
) -> Iterator[Result]:
    for message in messages:
        for part in message.parts:
            if isinstance(part, (ToolReturnPart, RetryPromptPart)) and part.tool_name in tools:
                call = calls.get(part.tool_call_id)
                ok = isinstance(part, ToolReturnPart) and part.outcome == "success"
                value = _value(part.content) if ok else _complaint(part)
                yield Result(tool=part.tool_name, args=call.args_as_dict() if call else {}, value=value, ok=ok)


def _complaints(messages: Sequence[ModelMessage], tools: frozenset[str]) -> Iterator[str]:
    for message in messages:
        for part in message.parts:
            match part:
                case RetryFeedbackPart():
                    yield str(part.content)
                case UserPromptPart() if _user_text(part) is None:
                    yield str(part.content)
                case RetryPromptPart() if part.tool_name not in tools:
                    yield _complaint(part)
                case ToolReturnPart(outcome="retried") if part.tool_name not in tools:
                    yield _complaint(part)


def _complaint(part: ToolReturnPart | RetryPromptPart) -> str:
    content = part.content
    if isinstance(content, list):
        content = "; ".join(str(error.get("msg", error)) for error in content if isinstance(error, Mapping))
    return str(content)


def _value(content: Any) -> Any:
    value = to_jsonable_python(content, fallback=str)
    if isinstance(value, str) and value[:1] in ("{", "["):
        try:
            return json.loads(value)
        except ValueError:
            return value
    return value
