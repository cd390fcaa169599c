"""What a model request may take, before it is sent: input by length, output by its bound or experience, list prices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pydantic_ai import BinaryContent
from pydantic_ai.messages import ImageUrl, ModelMessage
from pydantic_ai.usage import RequestUsage

from agentkit.defend.budget import Amounts, nano
from agentkit.define import models
from agentkit.define.replies import overhead
from agentkit.engine.guards import ModelAsked

UNKNOWN_OUTPUT = 500
"""Output tokens expected of an agent that has not answered yet and whose requests have no max_tokens."""

_BYTES_PER_TOKEN = 3
_MEDIA_TOKENS = 1_500
_PER_REQUEST = 8


@dataclass(frozen=True, kw_only=True)
class Weight:
    """What a request may take when `member` answers it; without a price its amounts hold no money."""

    member: str
    amounts: Amounts
    priced: bool


def weigh(asked: ModelAsked, *, expected_output: int | None) -> tuple[Weight, ...]:
    """For each model that may answer, in order. An answer longer than expected is what can exceed it."""
    tokens_in = _input(asked)
    bound = (asked.settings or {}).get("max_tokens")
    tokens_out = int(bound) if bound else UNKNOWN_OUTPUT if expected_output is None else expected_output
    if asked.model is None:
        return (Weight(member="", amounts=Amounts(tokens=tokens_in + tokens_out, requests=1), priced=False),)
    usage = RequestUsage(input_tokens=tokens_in, output_tokens=tokens_out)
    return tuple(_weight(member, usage) for member in models.answering(asked.model))


def _weight(member: Any, usage: RequestUsage) -> Weight:
    dollars = models.list_price(member, usage)
    tokens = usage.input_tokens + usage.output_tokens
    amounts = Amounts(usd=0 if dollars is None else nano(dollars), tokens=tokens, requests=1)
    return Weight(member=models.identity(member), amounts=amounts, priced=dollars is not None)


def heaviest(weights: Sequence[Weight]) -> Amounts:
    """What is enough whichever of them answers."""
    return Amounts(
        usd=max((weight.amounts.usd for weight in weights), default=0),
        tokens=max((weight.amounts.tokens for weight in weights), default=0),
        requests=1,
    )


def _input(asked: ModelAsked) -> int:
    text, media = _size(asked.messages)
    return _PER_REQUEST + -(-text // _BYTES_PER_TOKEN) + media * _MEDIA_TOKENS + overhead(asked.parameters) * 4 // 3


def _size(messages: Sequence[ModelMessage]) -> tuple[int, int]:
    """Bytes of text and how many images and files."""
    size = media = 0
    for part in (part for message in messages for part in message.parts):
        content = getattr(part, "content", None)
        items = content if isinstance(content, list | tuple) else (content,)
        for item in items:
            if isinstance(item, BinaryContent | ImageUrl):
                media += 1
            elif item is not None:
                size += len((item if isinstance(item, str) else repr(item)).encode())
        size += len(str(getattr(part, "args", None) or "")) + len(str(getattr(part, "tool_name", "")))
    return size, media
