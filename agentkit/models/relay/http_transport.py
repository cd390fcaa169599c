"""Model requests made by the caller, a process of its own: what it has begun, it ends, also when the kernel dies."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import time
from collections.abc import AsyncIterator, Callable
from typing import Any, Literal, TypeAlias

import httpx2

from agentkit.models.request_context import Relay, RelayAddress, current_request
from agentkit.models.transport.connections import proxy, when_it_leaves
from agentkit.models.transport.response_capture import Once, digest_of

Sort: TypeAlias = Literal[b"J", b"C", b"B", b"H", b"D", b"E", b"X", b"P"]
"""JSON order or reply, call, its body; head, data, end and error of an answer; a pulse while it is waited for."""

PULSE_SECONDS = 1.0
_SILENT_SECONDS = 4.0
"""A caller that is not heard of in two such spans is taken for dead. One may be the kernel's own, when it was busy."""

_QUEUE_SECONDS = 2 * _SILENT_SECONDS
_QUEUE_TICK = 0.005

_HEADER = struct.Struct(">cI")


def frame(sort: Sort, content: bytes | dict[str, Any]) -> bytes:
    data = content if isinstance(content, bytes) else json.dumps(content).encode()
    return _HEADER.pack(sort, len(data)) + data


async def read_frame(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    """The next frame's sort and content; asyncio.IncompleteReadError when the other side is gone."""
    sort, length = _HEADER.unpack(await reader.readexactly(_HEADER.size))
    return sort, await reader.readexactly(length)


class RelayTransport(httpx2.AsyncBaseTransport):
    """Sends what is asked inside a step through the caller, and everything else as it was sent before."""

    def __init__(self, direct: httpx2.AsyncBaseTransport) -> None:
        self._direct = direct

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        now = current_request.get()
        place, by = now.responses, now.relay
        digest = digest_of(request) if place is not None and by is not None and request.method == "POST" else None
        file = None if place is None or digest is None else place.where(digest)
        if by is None or place is None or file is None or (opened := await _open(by)) is None:
            if place is None:
                return await self._direct.handle_async_request(request)
            with when_it_leaves(request, place.leaves):
                return await self._direct.handle_async_request(request)
        line, reader, writer = opened
        order = {
            "token": line.token,
            "file": str(file),
            "method": request.method,
            "url": str(request.url),
            "headers": [(name.decode("latin-1"), value.decode("latin-1")) for name, value in request.headers.raw],
            "timeout": request.extensions.get("timeout"),
            "proxy": proxy(request.url),
        }
        answer = _Answer(reader, writer, lambda: by.mark_dead(line))
        try:
            writer.write(frame(b"C", order) + frame(b"B", request.content))
            if json.loads(await answer.next(b"J"))["joined"]:
                place.mark_join()
            return await _response(answer, request)
        except BaseException:
            await answer.aclose()
            raise

    async def aclose(self) -> None:
        await self._direct.aclose()


async def _open(by: Relay) -> tuple[RelayAddress, asyncio.StreamReader, asyncio.StreamWriter] | None:
    """A connection to the caller. One that is gone had nothing of ours under way: another is begun without a word."""
    for again in (False, True):
        line = await by.line(again=again)
        if line is None:
            return None
        try:
            return line, *await asyncio.open_unix_connection(sock=await _connect(line.address), limit=2**20)
        except OSError:
            if again:
                by.mark_dead(line)
    return None


async def _connect(address: str) -> socket.socket:
    """Return a socket that the caller will accept.

    Raise TimeoutError when its queue stays full, another OSError when the caller is gone.

    asyncio takes EAGAIN, which says that a Unix socket's queue is full, for a connection under way, and gives back a
    socket that is not connected.
    """
    connecting = socket.socket(socket.AF_UNIX)
    connecting.setblocking(False)
    until = time.monotonic() + _QUEUE_SECONDS
    try:
        while True:
            try:
                connecting.connect(address)
            except BlockingIOError:
                if time.monotonic() > until:
                    raise TimeoutError("the caller accepts no connection") from None
                await asyncio.sleep(_QUEUE_TICK)
            else:
                return connecting
    except BaseException:
        connecting.close()
        raise


async def _response(answer: _Answer, request: httpx2.Request) -> httpx2.Response:
    head = json.loads(await answer.next(b"H"))
    headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in head["headers"]]
    reason = {"reason_phrase": head["reason"].encode("latin-1")} if head.get("reason") else {}
    stream: httpx2.AsyncByteStream = answer
    if "text/event-stream" not in httpx2.Headers(headers).get("content-type", ""):
        # Read now: when the caller dies in its middle, the request can still be made again unseen.
        stream = Once(b"".join([piece async for piece in answer]))
        await answer.aclose()
    return httpx2.Response(head["status"], headers=headers, stream=stream, request=request, extensions=reason)


class _Answer(httpx2.AsyncByteStream):
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, died: Callable[[], None]) -> None:
        self._reader = reader
        self._writer = writer
        self._died = died
        self._loop = asyncio.get_running_loop()
        self._heard = self._waiting = False
        self._watch = self._loop.call_later(_SILENT_SECONDS, self._listen, False)

    def _listen(self, silent: bool) -> None:
        quiet = self._waiting and not self._heard
        if quiet and silent:
            # What waits is told that it has ended; a process that is stopped would never close the connection.
            self._writer.transport.abort()
            return
        self._heard = False
        self._watch = self._loop.call_later(_SILENT_SECONDS, self._listen, quiet)

    async def next(self, *expected: bytes) -> bytes:
        sort, content = await self._frame()
        if sort not in expected:
            raise httpx2.RemoteProtocolError(f"the caller said {sort!r} where {expected} was due")
        return content

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while True:
            sort, content = await self._frame()
            if sort == b"E":
                return
            yield content

    async def aclose(self) -> None:
        self._watch.cancel()
        self._writer.close()

    async def _frame(self) -> tuple[bytes, bytes]:
        self._waiting = True
        try:
            sort, content = await read_frame(self._reader)
            while sort == b"P":
                self._heard = True
                sort, content = await read_frame(self._reader)
        except (asyncio.IncompleteReadError, OSError) as error:
            self._died()
            raise httpx2.ReadError("the process that made this call (the caller) has ended") from error
        self._heard, self._waiting = True, False
        if sort == b"X":
            said = json.loads(content)
            raise _error(said["type"])(said["message"])
        return sort, content


def _error(name: str) -> type[httpx2.RequestError]:
    kind = getattr(httpx2, name, None)
    return kind if isinstance(kind, type) and issubclass(kind, httpx2.RequestError) else httpx2.ReadError


def peer_of(connected: socket.socket) -> tuple[int, int | None]:
    """The process and the user at the other end; the user is None where only the folder's rights say it."""
    if hasattr(socket, "SO_PEERCRED"):
        pid, uid, _ = struct.unpack("3i", connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        return pid, uid
    # macOS: SOL_LOCAL, LOCAL_PEERPID.
    return struct.unpack("i", connected.getsockopt(0, 2, 4))[0], None
