"""What a model request may take, before it is sent: input by length, output by its bound or experience, list prices."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic_ai import BinaryContent
from pydantic_ai.messages import ImageUrl, ModelMessage, ModelResponse
from pydantic_ai.models import Model
from pydantic_ai.settings import ModelSettings
from pydantic_ai.usage import RequestUsage

from agentkit.budget.budget import Amounts, nano
from agentkit.events import Usage
from agentkit.models import resolve
from agentkit.models.canned_replies import estimate, overhead
from agentkit.runtime.guard import ModelRequestInfo

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
    usage: RequestUsage = field(default_factory=RequestUsage)


def weigh(asked: ModelRequestInfo, *, expected_output: int | None, batched: bool = False) -> tuple[Weight, ...]:
    """For each model that may answer, in order. An answer longer than expected is what can exceed it."""
    tokens_in = _input(asked)
    bound = (asked.settings or {}).get("max_tokens")
    tokens_out = int(bound) if bound else UNKNOWN_OUTPUT if expected_output is None else expected_output
    usage = RequestUsage(input_tokens=tokens_in, output_tokens=tokens_out)
    if asked.model is None:
        amounts = Amounts(tokens=tokens_in + tokens_out, requests=1)
        return (Weight(member="", amounts=amounts, priced=False, usage=usage),)
    members = resolve.answering_models(asked.model)
    return tuple(_weight(member, usage, asked.settings, batched=batched) for member in members)


def estimate_missing_usage(asked: ModelRequestInfo, response: ModelResponse) -> RequestUsage | None:
    """Return what a reply counts for whose server did not say what it took, None where it did: unknown is not 0.

    What was set aside for the request counts, or the length of the reply where that is more.
    """
    usage = response.usage
    answered = estimate((), response).output_tokens
    if usage.input_tokens and (usage.output_tokens or not answered):
        return None
    (weight, *_) = weigh(asked, expected_output=None)
    # A new one: the reply's own says that a request was not measured, for which there is no price.
    return RequestUsage(
        input_tokens=usage.input_tokens or weight.usage.input_tokens,
        output_tokens=usage.output_tokens or max(answered, weight.usage.output_tokens),
    )


def weigh_batch(requests: Iterable[ModelRequestInfo], *, expected_output: int | None) -> Weight:
    """What the requests of a batch take together."""
    weights = [weigh(asked, expected_output=expected_output, batched=True)[0] for asked in requests]
    return Weight(
        member=weights[0].member if weights else "",
        amounts=Amounts(
            usd=sum(weight.amounts.usd for weight in weights),
            tokens=sum(weight.amounts.tokens for weight in weights),
            requests=len(weights),
        ),
        priced=all(weight.priced for weight in weights),
    )


def cost_to_count(model: Model | None, usage: Usage) -> float | None:
    """Return the price of a request, or where nobody knows it the dearest list price of those that may answer."""
    if usage.cost is not None or model is None:
        return usage.cost
    counted = RequestUsage(input_tokens=usage.input_tokens, output_tokens=usage.output_tokens)
    prices = [resolve.list_price(member, counted) for member in resolve.answering_models(model)]
    return max((price for price in prices if price is not None), default=None)


def _weight(member: Any, usage: RequestUsage, settings: ModelSettings | None, *, batched: bool) -> Weight:
    dollars = resolve.list_price(member, usage, settings, batched=batched)
    tokens = usage.input_tokens + usage.output_tokens
    amounts = Amounts(usd=0 if dollars is None else nano(dollars), tokens=tokens, requests=1)
    return Weight(member=resolve.identity(member), amounts=amounts, priced=dollars is not None, usage=usage)


def heaviest(weights: Sequence[Weight]) -> Amounts:
    """What is enough whichever of them answers."""
    return Amounts(
        usd=max((weight.amounts.usd for weight in weights), default=0),
        tokens=max((weight.amounts.tokens for weight in weights), default=0),
        requests=max((weight.amounts.requests for weight in weights), default=1),
    )


def _input(asked: ModelRequestInfo) -> int:
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
