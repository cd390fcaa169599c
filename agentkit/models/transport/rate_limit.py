"""The link of the transport where each attempt takes its turn: told what it asks for and how the server answered."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator, Callable
from typing import Protocol

import httpx2

from agentkit.models.request_context import Exchange, current_request

_MODEL = re.compile(rb'"model"\s*:\s*"((?:[^"\\]|\\.)*)"')
_MODEL_IN_PATH = re.compile(r"/models/([^/:]+)")
_MOST = re.compile(rb'"(?:max_tokens|max_completion_tokens|max_output_tokens|maxOutputTokens)"\s*:\s*(\d+)')
_BYTES_PER_TOKEN = 4
_THIS_MACHINE = ("localhost", "127.0.0.1", "::1")
_REPLY_TOKENS = 256
"""What a reply is taken for that was asked for without a bound."""


class Turn(Protocol):
    """One attempt that was let through; exactly one of these ends it."""

    def record_answer(self, status: int, headers: httpx2.Headers) -> None: ...
    def record_loss(self, why: str) -> None: ...
    def give_up(self) -> None: ...


class RateLimiter(Protocol):
    """Lets attempts at one model of one server through: at once, later, or not at all (by raising)."""

    async def enter(self, lane: str, tokens: int) -> Turn: ...


_installed: list[RateLimiter] = []


def install(turnstile: RateLimiter | None) -> None:
    """Have all requests of this process take their turn here; None: nowhere."""
    _installed[:] = [] if turnstile is None else [turnstile]


class NotSent(httpx2.TransportError):
    """The attempt was not let through; the cause says why. It is not tried again."""


class RateLimitTransport(httpx2.AsyncBaseTransport):
    """Takes a turn for each attempt, and tells how it ended."""

    def __init__(self, wrapped: httpx2.AsyncBaseTransport) -> None:
        self._wrapped = wrapped

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        asked = _lane_and_tokens(request) if _installed else None
        if asked is None:
            return await self._wrapped.handle_async_request(request)
        watch = _Watch()
        try:
            turn = await _installed[0].enter(*asked)
        except Exception as error:
            raise NotSent(str(error), request=request) from error
        watch.leave()
        try:
            response = await self._wrapped.handle_async_request(request)
        except httpx2.TransportError as error:
            if isinstance(error, httpx2.ConnectError) and request.url.host in _THIS_MACHINE:
                # A server of one's own that is not started yet: asking again costs nothing, and may soon succeed.
                turn.give_up()
            else:
                turn.record_loss(str(error) or type(error).__name__)
            watch.report(0)
            raise
        except (Exception, asyncio.CancelledError):
            turn.give_up()
            raise
        turn.record_answer(response.status_code, response.headers)
        watch.follow(response)
        return response

    async def aclose(self) -> None:
        await self._wrapped.aclose()


class _Watch:
    """Measures one attempt for whoever wants to know how the server bears its requests."""

    def __init__(self) -> None:
        self._observe = current_request.get().observe
        self._asked = self._left = time.monotonic()
        self._answered: float | None = None

    def leave(self) -> None:
        self._left = time.monotonic()

    def follow(self, response: httpx2.Response) -> None:
        """Report the answer: a whole one with its length once it is read, everything else at its first byte."""
        if self._observe is None:
            return
        self._answered = time.monotonic()
        events = response.headers.get("content-type", "").startswith("text/event-stream")
        if response.is_error or events or not isinstance(response.stream, httpx2.AsyncByteStream):
            self.report(response.status_code)
        else:
            response.stream = _Measured(response.stream, lambda size: self.report(response.status_code, size))

    def report(self, status: int, size: int | None = None) -> None:
        if self._observe is not None:
            took = (time.monotonic() if self._answered is None else self._answered) - self._left
            self._observe(Exchange(status=status, waited=self._left - self._asked, seconds=took, size=size))


class _Measured(httpx2.AsyncByteStream):
    """Calls `read` once with the bytes that came, when the answer is read to its end."""

    def __init__(self, stream: httpx2.AsyncByteStream, read: Callable[[int], None]) -> None:
        self._stream, self._read = stream, read

    async def __aiter__(self) -> AsyncIterator[bytes]:
        size = 0
        async for piece in self._stream:
            size += len(piece)
            yield piece
        self._read(size)

    async def aclose(self) -> None:
        await self._stream.aclose()


def _lane_and_tokens(request: httpx2.Request) -> tuple[str, int] | None:
    """The lane of a request and the tokens it may take; None for what asks no model."""
    try:
        content = request.content
    except httpx2.RequestNotRead:
        return None
    found = _MODEL.search(content)
    in_path = _MODEL_IN_PATH.search(request.url.path)
    if request.method != "POST" or (found is None and in_path is None):
        return None
    model = json.loads(b'"' + found[1] + b'"') if found is not None else in_path[1] if in_path is not None else ""
    return lane(str(request.url), model), tokens_of(content)


def lane(url: str, model: str) -> str:
    """What one limit of a server holds for: the model at that host."""
    where = httpx2.URL(url)
    port = f":{where.port}" if where.port else ""
    return f"{model} @ {where.host}{port}"


def tokens_of(content: bytes) -> int:
    """About how many tokens a request may take: what is sent, and the most that may come back."""
    most = _MOST.search(content)
    return -(-len(content) // _BYTES_PER_TOKEN) + (int(most[1]) if most is not None else _REPLY_TOKENS)
