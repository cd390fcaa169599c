"""How a reply that is already known is handed out as a model would: whole or word by word, with estimated tokens."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from pydantic_ai.messages import (
    ModelMessage,
    ModelRequest,
    ModelRequestPart,
    ModelResponse,
    ModelResponsePart,
    ModelResponseStreamEvent,
    TextPart,
    ThinkingPart,
    ToolCallPart,
)
from pydantic_ai.models import ModelRequestParameters, StreamedResponse
from pydantic_ai.usage import RequestUsage

_WORD = re.compile(r"\s*\S+\s*")
_CHARACTERS_PER_TOKEN = 4


def tokens(text: str) -> int:
    """About how many tokens a text is: one for every four characters, rounded up."""
    return -(-len(text) // _CHARACTERS_PER_TOKEN)


def estimate(messages: Sequence[ModelMessage], reply: ModelResponse) -> RequestUsage:
    """The tokens that sending these messages and reading this reply would take, by length."""
    asked = sum(_message_tokens(message) for message in messages)
    return RequestUsage(input_tokens=asked, output_tokens=_message_tokens(reply))


def overhead(params: ModelRequestParameters) -> int:
    """The tokens that the instructions and the descriptions of the tools take in every request."""
    told = [part.content for part in params.instruction_parts or ()]
    told += [
        f"{tool.name} {tool.description or ''} {json.dumps(tool.parameters_json_schema)}"
        for tool in (*params.function_tools, *params.output_tools)
    ]
    return sum(tokens(text) for text in told)


def _message_tokens(message: ModelMessage) -> int:
    match message:
        case ModelRequest():
            return sum(tokens(_request_text(part)) for part in message.parts)
        case ModelResponse():
            return sum(tokens(_response_text(part)) for part in message.parts)


def _request_text(part: ModelRequestPart) -> str:
    content = getattr(part, "content", "")
    if isinstance(content, str):
        return content
    if isinstance(content, (list, tuple)):
        return " ".join(item for item in content if isinstance(item, str)) or repr(content)
    return json.dumps(content, default=str)


def _response_text(part: ModelResponsePart) -> str:
    match part:
        case TextPart() | ThinkingPart():
            return part.content
        case ToolCallPart():
            return part.tool_name + part.args_as_json_str()
        case _:
            return repr(part)


def fresh(reply: ModelResponse) -> ModelResponse:
    """A copy nobody else holds: pydantic-ai writes run ids and usage into the response it is given."""
    return replace(reply, parts=[replace(part) for part in reply.parts], timestamp=datetime.now(tz=UTC))


@dataclass
class WordByWord(StreamedResponse):
    """A known reply as a stream: text by words, everything else in one event; `seconds` is spread over the words."""

    reply: ModelResponse
    seconds: float = 0.0
    _opened: datetime = field(default_factory=lambda: datetime.now(tz=UTC), init=False)

    def __post_init__(self) -> None:
        self._usage = self.reply.usage
        self.finish_reason = self.reply.finish_reason

    async def _get_event_iterator(self) -> AsyncIterator[ModelResponseStreamEvent]:
        words = sum(len(_words(part)) for part in self.reply.parts)
        pause = self.seconds / words if words else 0.0
        for index, part in enumerate(self.reply.parts):
            async for event in self._part_events(index, part, pause):
                yield event

    async def _part_events(
        self, index: int, part: ModelResponsePart, pause: float
    ) -> AsyncIterator[ModelResponseStreamEvent]:
        words = _words(part)
        if not words:
            yield self._parts_manager.handle_part(vendor_part_id=index, part=replace(part))
        for word in words:
            await asyncio.sleep(pause)
            for event in self._word_events(index, part, word):
                yield event

    def _word_events(self, index: int, part: ModelResponsePart, word: str) -> Iterator[ModelResponseStreamEvent]:
        if isinstance(part, ThinkingPart):
            return self._parts_manager.handle_thinking_delta(vendor_part_id=index, content=word)
        return self._parts_manager.handle_text_delta(vendor_part_id=index, content=word)

    async def close_stream(self) -> None:
        """There is no connection behind a known reply."""

    @property
    def model_name(self) -> str:
        return self.reply.model_name or "known"

    @property
    def provider_name(self) -> str | None:
        return self.reply.provider_name

    @property
    def provider_url(self) -> str | None:
        return None

    @property
    def timestamp(self) -> datetime:
        return self._opened


def _words(part: ModelResponsePart) -> list[str]:
    return _WORD.findall(part.content) if isinstance(part, (TextPart, ThinkingPart)) else []
