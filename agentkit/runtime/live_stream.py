"""Live deltas: what a model streams reaches the caller as it arrives, while one step records the whole."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any

from pydantic_ai.durable_exec._utils import DurableModel  # the public surface has no seam for live deltas
from pydantic_ai.exceptions import UserError as LibraryUserError
from pydantic_ai.messages import ModelMessage, ModelResponse, ModelResponseStreamEvent
from pydantic_ai.models import (
    CompletedStreamedResponse,
    Model,
    ModelRequestContext,
    ModelRequestParameters,
    StreamedResponse,
)
from pydantic_ai.models.fallback import FallbackModel
from pydantic_ai.models.wrapper import WrapperModel
from pydantic_ai.settings import ModelSettings
from pydantic_ai.tools import RunContext
from pydantic_ai.usage import RequestUsage

from agentkit.models.request_context import current_request, request_with

_AHEAD = 256
"""How many events a model may be ahead of whoever reads them."""


@dataclass(frozen=True)
class _StreamEnd:
    """The stream is over: the step's task has the response, or the error."""


@dataclass(kw_only=True)
class Deltas:
    """What the step that performs a streamed request hands on: its events, and the stream they come from."""

    events: asyncio.Queue[ModelResponseStreamEvent | _StreamEnd]
    source: StreamedResponse | None = None


def current_deltas() -> Deltas | None:
    """What the request that is made in this context hands on."""
    deltas = current_request.get().deltas
    return deltas if isinstance(deltas, Deltas) else None


async def forward_deltas(ctx: RunContext[Any], events: AsyncIterable[ModelResponseStreamEvent]) -> None:
    """Inside the step that performs a streamed request: hand each event on as it arrives."""
    deltas = current_deltas()
    async for event in events:
        if deltas is not None:
            # Whoever reads slowly is not run ahead of without end.
            await deltas.events.put(event)


class SourceModel(WrapperModel):
    """Inside the step that performs a streamed request: the model, whose stream is handed on when it opens."""

    @asynccontextmanager
    async def request_stream(self, *args: Any, **kwargs: Any) -> AsyncGenerator[StreamedResponse]:
        async with self.wrapped.request_stream(*args, **kwargs) as source:
            deltas = current_deltas()
            if deltas is not None:
                deltas.source = source
            yield source


class LiveStream(CompletedStreamedResponse):
    """A streamed response that is still being recorded: events as they arrive, the recorded response at the end."""

    def __init__(
        self,
        deltas: Deltas,
        step: asyncio.Task[Any],
        parameters: ModelRequestParameters,
        *,
        sent: Callable[[ModelResponse], ModelRequestParameters],
    ) -> None:
        super().__init__(ModelResponse(parts=[]), model_request_parameters=parameters, replay_events=[])
        self._deltas = deltas
        self._step = step
        self._sent = sent
        self._closed = False

    @property
    def _live(self) -> StreamedResponse | None:
        return None if self._finished else self._deltas.source

    async def _iter_buffered(self, events: list[ModelResponseStreamEvent]) -> AsyncIterator[ModelResponseStreamEvent]:
        queue = self._deltas.events
        streamed = False
        while not (self._step.done() and queue.empty()):
            event = await queue.get()
            if self._closed:
                return
            if isinstance(event, _StreamEnd):
                break
            streamed = True
            self._parts_manager.apply_event(event)
            yield event
        if self._closed:
            return
        self.response = await self._step
        self.state = self.response.state
        if not streamed:
            async for event in self._replay():
                yield event
        self._finished = True

    async def _replay(self) -> AsyncIterator[ModelResponseStreamEvent]:
        replay = CompletedStreamedResponse(
            self.response, model_request_parameters=self._sent(self.response), replay_events=True
        )
        async for event in replay:
            self._parts_manager.apply_event(event)
            yield event

    async def close_stream(self) -> None:
        # pydantic-ai's wrappers call this, and never `cancel`.
        self._closed = True
        self._step.cancel()

    def get(self) -> ModelResponse:
        if self._finished:
            return self.response
        live = self._live
        if live is None:
            return super().get()
        if hasattr(live, "canonical_system"):
            # pydantic-ai 2.62 knows of none.
            self.canonical_system = live.canonical_system
        self.provider_response_id = live.provider_response_id
        self.provider_details = live.provider_details
        # Not that of a finished response: of what came so far.
        return StreamedResponse.get(self)

    @property
    def usage(self) -> RequestUsage:
        return super().usage if (live := self._live) is None else live.usage

    @property
    def model_name(self) -> str:
        return super().model_name if (live := self._live) is None else live.model_name

    @property
    def provider_name(self) -> str | None:
        return super().provider_name if (live := self._live) is None else live.provider_name

    @property
    def provider_url(self) -> str | None:
        return super().provider_url if (live := self._live) is None else live.provider_url

    @property
    def timestamp(self) -> datetime:
        return super().timestamp if (live := self._live) is None else live.timestamp


def _parameters_of(
    model: Model, settings: ModelSettings | None, parameters: ModelRequestParameters, response: ModelResponse
) -> ModelRequestParameters:
    """The parameters as the model that answered took them: whether a text may be the output is decided there."""
    while not isinstance(model, FallbackModel) and isinstance(model, WrapperModel):
        model = model.wrapped
    if isinstance(model, FallbackModel):
        named = [member for member in model.models if member.model_name == response.model_name]
        return _parameters_of((named or model.models)[0], settings, parameters, response)
    try:
        return model.prepare_request(settings, parameters)[1]
    except LibraryUserError:
        # It could not be asked any more, and needs not: what it said is on record.
        return parameters


class LiveModel(DurableModel):
    """pydantic-ai's durable model, with the caller's own stream fed while the step runs."""

    @classmethod
    def of(cls, model: DurableModel) -> LiveModel:
        return cls(
            model.wrapped,
            request_segment=model._request_segment,
            request_stream_segment=model._request_stream_segment,
            compact_messages_segment=model._compact_messages_segment,
            cancel_suspended_response_segment=model._cancel_suspended_response_segment,
        )

    def _with_serving_wrapper(self, wrap: Callable[[Model], Model]) -> Model:
        served = super()._with_serving_wrapper(wrap)
        return LiveModel.of(served) if isinstance(served, DurableModel) and served is not self else served

    @asynccontextmanager
    async def request_stream(
        self,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
        run_context: RunContext[Any] | None = None,
    ) -> AsyncGenerator[CompletedStreamedResponse]:
        queue: asyncio.Queue[ModelResponseStreamEvent | _StreamEnd] = asyncio.Queue(maxsize=_AHEAD)
        deltas = Deltas(events=queue)
        context = ModelRequestContext(
            model=self.wrapped,
            messages=messages,
            model_settings=model_settings,
            model_request_parameters=model_request_parameters,
        )
        with request_with(deltas=deltas):
            step = asyncio.ensure_future(self._request_stream_segment(context))
        step.add_done_callback(lambda _: None if queue.full() else queue.put_nowait(_StreamEnd()))
        sent = partial(_parameters_of, self.wrapped, model_settings, model_request_parameters)
        try:
            yield LiveStream(deltas, step, model_request_parameters, sent=sent)
        finally:
            if not step.done():
                step.cancel()
                with suppress(asyncio.CancelledError):
                    await step
            elif not step.cancelled():
                step.exception()  # retrieved, so that an error the caller never asked for is not logged as lost
