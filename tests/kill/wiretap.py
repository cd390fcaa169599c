"""The client's side of the wire: which step asks, and the moment the last byte of an answer has been read."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable

import httpx2
from pydantic_ai.models import Model
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider

from agentkit.journal.execution import idempotency_key
from agentkit.models.relay.http_transport import RelayTransport
from agentkit.models.resolve import with_own_client
from agentkit.models.transport.http_client import Connections, client
from tests.kill.workload import STEP

DIRECTLY = "x-directly"
"""The header of a request that the kernel itself made."""

_END_OF_STREAM = b"data: [DONE]\n\n"


class Tap(httpx2.AsyncBaseTransport):
    """Names the step in each request, calls `asked` as it leaves and `read(step)` once its answer is in the process."""

    def __init__(
        self, wrapped: httpx2.AsyncBaseTransport, *, asked: Callable[[], None], read: Callable[[str], None]
    ) -> None:
        self._wrapped = wrapped
        self._asked = asked
        self._read = read

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        step = idempotency_key() or ""
        request.headers[STEP] = step
        self._asked()
        response = await self._wrapped.handle_async_request(request)
        if response.status_code == httpx2.codes.OK:
            assert isinstance(response.stream, httpx2.AsyncByteStream)
            length = response.headers.get("content-length")
            response.stream = _Counted(
                response.stream, None if length is None else int(length), done=lambda: self._read(step)
            )
        return response


class Direct(httpx2.AsyncBaseTransport):
    """Says in each request that no caller made it."""

    def __init__(self, wrapped: httpx2.AsyncBaseTransport) -> None:
        self._wrapped = wrapped

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        request.headers[DIRECTLY] = "yes"
        return await self._wrapped.handle_async_request(request)


class _Counted(httpx2.AsyncByteStream):
    """Knows the last byte when it sees it, before the end of the body is announced."""

    def __init__(self, stream: httpx2.AsyncByteStream, length: int | None, *, done: Callable[[], None]) -> None:
        self._stream = stream
        self._length = length
        self._done = done

    async def __aiter__(self) -> AsyncIterator[bytes]:
        seen = 0
        async for piece in self._stream:
            seen += len(piece)
            whole = piece.endswith(_END_OF_STREAM) if self._length is None else seen == self._length
            if whole:
                self._done()
            yield piece

    async def aclose(self) -> None:
        await self._stream.aclose()


def tapped_model(url: str, *, asked: Callable[[], None], read: Callable[[str], None]) -> Model:
    """A model at `url`, as agentkit makes one, with the tap nearest to the wire."""
    wire = Tap(RelayTransport(Direct(Connections())), asked=asked, read=read)
    provider = with_own_client(OpenAIProvider(base_url=url, api_key="no-key", http_client=client(wire)))
    provider.client.max_retries = 0
    return OpenAIChatModel("small", provider=provider)


class Log:
    """Lines that a SIGKILL right after `note` cannot take back."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._file: int | None = None

    def note(self, *words: object) -> None:
        if self._file is None:
            self._file = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        os.write(self._file, (" ".join(map(str, words)) + "\n").encode())
