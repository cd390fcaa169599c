"""A model that gives the replies it was told to give, for tests of agents."""

from __future__ import annotations

import asyncio
import inspect
import json
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any, TypeAlias

from pydantic_ai import RunContext
from pydantic_ai.messages import ModelMessage, ModelResponse, ModelResponsePart, TextPart, ToolCallPart
from pydantic_ai.models import Model, ModelRequestParameters, StreamedResponse
from pydantic_ai.profiles import ModelProfile
from pydantic_ai.settings import ModelSettings

from agentkit.errors import UserError
from agentkit.models.canned_replies import WordByWord, estimate, fresh


@dataclass(frozen=True)
class Call:
    """The model asks for one tool call."""

    tool: str
    args: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Output:
    """The model gives the structured output: through the output tool if the agent has one, as JSON text if not."""

    value: Any


@dataclass(frozen=True)
class Asked:
    """One request as the model saw it."""

    messages: tuple[ModelMessage, ...]
    params: ModelRequestParameters
    settings: ModelSettings | None


Reply: TypeAlias = "str | Call | Output | ModelResponse | Sequence[str | Call] | BaseException | type[BaseException]"
Rule: TypeAlias = "Callable[[list[ModelMessage]], Reply | Awaitable[Reply]]"
Scripted: TypeAlias = "Reply | Callable[[list[ModelMessage], ModelRequestParameters], Reply | Awaitable[Reply]]"


class ScriptedModel(Model):
    """Gives `replies` in the order they are asked for; `ScriptedModel.by(rule)` answers by content instead.

    A reply is a text, a `Call` or several (parallel), an `Output`, a `ModelResponse`, an exception to raise, or a
    function of `(messages, params)` that returns one of these. `delay` is the seconds each reply takes, spread over
    its words when it is streamed. `cost` is the price in USD written on each reply; without it a reply is unpriced.
    `requests` holds what was asked, in order. Safe to use from several threads and loops at once.
    """

    # Pytest would collect a class by its name only; this one is not a test.
    __test__ = False

    def __init__(
        self,
        replies: Iterable[Scripted] = (),
        *,
        model_name: str = "scripted",
        delay: float = 0.0,
        cost: float | None = None,
    ) -> None:
        super().__init__(profile=ModelProfile(supports_json_schema_output=True, supports_json_object_output=True))
        self.requests: list[Asked] = []
        self._replies: Iterator[Scripted] = iter(replies)
        self._name = model_name
        self._delay = delay
        self._cost = cost
        self._lock = threading.Lock()

    @classmethod
    def by(
        cls, rule: Rule, *, model_name: str = "scripted", delay: float = 0.0, cost: float | None = None
    ) -> ScriptedModel:
        """A model whose reply depends only on what it is asked, so concurrent requests may come in any order."""
        return cls(_forever(rule), model_name=model_name, delay=delay, cost=cost)

    @property
    def model_name(self) -> str:
        return self._name

    @property
    def system(self) -> str:
        return "scripted"

    @property
    def cost_of_reply(self) -> float | None:
        """What a reply is going to cost, as far as it was said."""
        return self._cost

    async def request(
        self,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
    ) -> ModelResponse:
        reply = await self._answer(messages, model_settings, model_request_parameters)
        await asyncio.sleep(self._delay)
        return reply

    @asynccontextmanager
    async def request_stream(
        self,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
        run_context: RunContext[Any] | None = None,
    ) -> AsyncGenerator[StreamedResponse]:
        reply = await self._answer(messages, model_settings, model_request_parameters)
        yield WordByWord(model_request_parameters=model_request_parameters, reply=reply, seconds=self._delay)

    async def _answer(
        self, messages: list[ModelMessage], settings: ModelSettings | None, params: ModelRequestParameters
    ) -> ModelResponse:
        settings, params = self.prepare_request(settings, params)
        scripted = self._next(Asked(messages=tuple(messages), params=params, settings=settings))
        if callable(scripted) and not isinstance(scripted, type):
            scripted = scripted(messages, params)
        reply = await scripted if inspect.isawaitable(scripted) else scripted
        if isinstance(reply, BaseException) or (isinstance(reply, type) and issubclass(reply, BaseException)):
            raise reply
        return self._sign(_response(reply, messages=messages, params=params), messages)

    def _next(self, asked: Asked) -> Any:
        with self._lock:
            self.requests.append(asked)
            try:
                return next(self._replies)
            except StopIteration:
                number = len(self.requests)
        scripted = "1 reply was" if number == 2 else f"{number - 1} replies were"
        raise UserError(
            f"{self._name}: request {number} came but only {scripted} scripted: "
            "add a reply, or use ScriptedModel.by(rule)"
        )

    def _sign(self, reply: ModelResponse, messages: list[ModelMessage]) -> ModelResponse:
        usage = reply.usage if reply.usage.has_values() else estimate(messages, reply)
        if self._cost is not None and usage.cost is None:
            usage = replace(usage, cost=Decimal(str(self._cost)))
        return replace(reply, usage=usage, model_name=reply.model_name or self._name, provider_name=self.system)


def _forever(rule: Rule) -> Iterator[Scripted]:
    while True:
        yield lambda messages, _params: rule(messages)


def _response(reply: Any, *, messages: list[ModelMessage], params: ModelRequestParameters) -> ModelResponse:
    if isinstance(reply, ModelResponse):
        return fresh(reply)
    items = list(reply) if isinstance(reply, (list, tuple)) else [reply]
    # The length of the history makes ids that never repeat inside one conversation, and are the same on every run.
    return ModelResponse(
        parts=[_part(item, call_id=f"call_{len(messages)}_{place}", params=params) for place, item in enumerate(items)]
    )


def _part(item: Any, *, call_id: str, params: ModelRequestParameters) -> ModelResponsePart:
    match item:
        case str():
            return TextPart(item)
        case Call():
            return ToolCallPart(item.tool, dict(item.args), tool_call_id=call_id)
        case Output() if params.output_tools:
            return ToolCallPart(params.output_tools[0].name, _as_args(item.value, params), tool_call_id=call_id)
        case Output():
            return TextPart(json.dumps(item.value))
        case _:
            raise UserError(
                f"a scripted reply is a str, Call, Output, ModelResponse, exception or function, not {item!r}"
            )


def _as_args(value: Any, params: ModelRequestParameters) -> dict[str, Any]:
    key = params.output_tools[0].outer_typed_dict_key
    return {key: value} if key else dict(value)
