"""Answers of model servers, kept from the moment their last byte is read: what was paid for and is not recorded yet."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import AsyncIterator, Callable

import httpx2

from agentkit.models.request_context import current_request

_END = (
    # Inside a text these stand with a backslash before each quote.
    rb'"(?:finish_reason|finishReason|stop_reason)"\s*:\s*"[^"]',
    rb"(?m:^data:\s*\[DONE\])",
    rb"(?m:^event:\s*(?:message_stop|error)\b)",
    rb'"type"\s*:\s*"(?:message_stop|response\.(?:completed|incomplete|failed|cancelled))"',
    # What went wrong is said in the stream: whoever reads it raises.
    rb'(?m:^data:\s*\{\s*"(?:error|type"\s*:\s*"error)")',
    # The counts of a whole chat come last, in an event without a choice.
    rb'"choices"\s*:\s*\[\s*\][^\n]*"usage"\s*:\s*\{|"usage"\s*:\s*\{[^\n]*"choices"\s*:\s*\[\s*\]',
)
_ENDED = re.compile(b"|".join(_END))
_KNOWN = re.compile(rb'"(?:choices|candidates)"\s*:|"type"\s*:\s*"(?:message_start|response\.[a-z_.]+)"')


def is_cut(events: bytes) -> bool:
    """Return whether this stream broke off: it says nothing, or begins an answer and does not say how it ended.

    What is in no protocol that is known here is taken for whole.
    """
    if not events.strip():
        return True
    return _KNOWN.search(events) is not None and _ENDED.search(events) is None


_LAST_EVENTS = (b"data: [DONE]", b"event: response.completed", b"event: message_stop")
"""How the last event of a stream begins, where a protocol has one: known before the connection says it is the end."""

HONOURS = "AGENTKIT_IDEMPOTENT"
"""Environment variable: hosts, with commas between, that do once what comes twice under one Idempotency-Key."""

_NEVER_LEFT = (
    httpx2.ConnectError,
    httpx2.ConnectTimeout,
    httpx2.PoolTimeout,
    httpx2.ProxyError,
    httpx2.UnsupportedProtocol,
)

_KEPT_HEADERS = ("content-type", "x-request-id", "request-id")


class ResponseCapture(httpx2.AsyncBaseTransport):
    """Keeps each whole answer before anybody sees the end of it, and gives it again to a step that died with it."""

    def __init__(self, wrapped: httpx2.AsyncBaseTransport) -> None:
        self._wrapped = wrapped

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        place = current_request.get().responses
        # What is only looked up (the state of a background answer) costs nothing and is different each time.
        digest = None if place is None or request.method != "POST" else digest_of(request)
        if place is not None and request.method == "GET":
            # Nor is the step that looks paid for: what it looks for was, when it was begun.
            place.mark_request()
            place.mark_join()
        if place is None or digest is None:
            return await self._wrapped.handle_async_request(request)
        known = place.find(digest)
        if known is not None:
            return _unpack(known, request)
        place.mark_request()
        keyed = _honours_keys(request.url)
        if keyed:
            request.headers["idempotency-key"] = place.once(digest)
            # However often it is asked there, it is paid once.
            place.mark_join()
        lost = _nothing if keyed else place.lose
        try:
            response = await self._wrapped.handle_async_request(request)
        except _NEVER_LEFT:
            place.mark_refusal()
            raise
        except httpx2.TransportError:
            lost()
            raise
        if response.is_error:
            place.mark_refusal()
        if response.status_code == httpx2.codes.OK and isinstance(response.stream, httpx2.AsyncByteStream):
            headers = response.headers
            response.stream = Collected(
                response.stream, headers, whole=lambda body: place.keep(digest, pack(headers, body)), lost=lost
            )
        return response

    async def aclose(self) -> None:
        await self._wrapped.aclose()


class Collected(httpx2.AsyncByteStream):
    """Calls `whole` once with the body, before the piece that completes it is handed on; `lost` when it breaks off.

    A server may also end a stream in good order before the answer has ended: that breaks off too.
    """

    def __init__(
        self,
        stream: httpx2.AsyncByteStream,
        headers: httpx2.Headers,
        *,
        whole: Callable[[bytes], None],
        lost: Callable[[], None],
    ) -> None:
        self._stream = stream
        self._headers = headers
        self._length = int(headers["content-length"]) if headers.get("content-length", "").isdigit() else None
        self._whole: Callable[[bytes], None] | None = whole
        self._lost = lost

    async def __aiter__(self) -> AsyncIterator[bytes]:
        body = bytearray()
        try:
            async for piece in self._stream:
                body += piece
                if self._is_whole(body):
                    self._end(body)
                yield piece
            if self._length is None:
                self._end(body)
        except httpx2.TransportError:
            self._lost()
            raise

    async def aclose(self) -> None:
        await self._stream.aclose()

    def _is_whole(self, body: bytearray) -> bool:
        if self._length is not None:
            return len(body) == self._length
        if not body.endswith(b"\n\n"):
            return False
        return body.startswith(_LAST_EVENTS, body.rfind(b"\n\n", 0, -2) + 2)

    def _end(self, body: bytearray) -> None:
        whole, self._whole = self._whole, None
        if whole is None:
            return
        if "text/event-stream" in self._headers.get("content-type", "") and is_cut(_decode(self._headers, body)):
            raise httpx2.RemoteProtocolError("the stream ended before the answer did")
        whole(bytes(body))


def _nothing() -> None:
    """What is lost costs nothing where it can be asked for again."""


def _honours_keys(url: httpx2.URL) -> bool:
    return url.host in {host.strip() for host in os.environ.get(HONOURS, "").split(",")} - {""}


def digest_of(request: httpx2.Request) -> bytes | None:
    try:
        content = request.content
    except httpx2.RequestNotRead:
        # A body that is streamed up is not at hand; such a request is simply asked again.
        return None
    return hashlib.sha256(b"\n".join((request.method.encode(), str(request.url).encode(), content))).digest()


def pack(headers: httpx2.Headers, body: bytes) -> bytes:
    """The decoded body behind one line of the headers that matter for reading it."""
    kept = {name: headers[name] for name in _KEPT_HEADERS if name in headers}
    return json.dumps(kept).encode() + b"\n" + _decode(headers, body)


def _decode(headers: httpx2.Headers, body: bytes | bytearray) -> bytes:
    return httpx2.Response(200, headers=headers, content=bytes(body)).content


def _unpack(answer: bytes, request: httpx2.Request) -> httpx2.Response:
    headers, _, body = answer.partition(b"\n")
    return httpx2.Response(200, headers=json.loads(headers), stream=Once(body), request=request)


class Once(httpx2.AsyncByteStream):
    def __init__(self, body: bytes) -> None:
        self._body = body

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield self._body
