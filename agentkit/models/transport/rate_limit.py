"""The link of the transport where each attempt takes its turn: told what it asks for and how the server answered."""

from __future__ import annotations

import asyncio
import json
import re
from typing import Protocol

import httpx2

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
        try:
            turn = await _installed[0].enter(*asked)
        except Exception as error:
            raise NotSent(str(error), request=request) from error
        try:
            response = await self._wrapped.handle_async_request(request)
        except httpx2.TransportError as error:
            if isinstance(error, httpx2.ConnectError) and request.url.host in _THIS_MACHINE:
                # A server of one's own that is not started yet: asking again costs nothing, and may soon succeed.
                turn.give_up()
            else:
                turn.record_loss(str(error) or type(error).__name__)
            raise
        except (Exception, asyncio.CancelledError):
            turn.give_up()
            raise
        turn.record_answer(response.status_code, response.headers)
        return response

    async def aclose(self) -> None:
        await self._wrapped.aclose()


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
