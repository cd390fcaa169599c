"""The connections to model servers: one pool per event loop and proxy, and light to import."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import struct
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any
from weakref import WeakKeyDictionary

import httpx2

_THIS_MACHINE = ("localhost", "127.0.0.1", "::1")
_ACKNOWLEDGED, _AT = struct.Struct("=Q"), 120
"""Bytes acknowledged by the other side, in Linux' struct tcp_info."""

TRANSIENT = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})


class ReadErrors(httpx2.AsyncBaseTransport):
    """Reads what a server complains of as soon as it arrives: whoever closes the response can still say what it was."""

    def __init__(self, wrapped: httpx2.AsyncBaseTransport) -> None:
        self._wrapped = wrapped

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        response = await self._wrapped.handle_async_request(request)
        if response.is_error:
            try:
                await response.aread()
            finally:
                await response.aclose()
        return response

    async def aclose(self) -> None:
        await self._wrapped.aclose()


class Connections(httpx2.AsyncBaseTransport):
    """One connection pool per event loop and proxy, because a connection belongs to the loop that opened it.

    A notebook runs a cell on the kernel's loop or on a background loop, and a script on a new loop per `asyncio.run`;
    all of them use the same model object.
    """

    def __init__(self) -> None:
        self._pools: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[str | None, httpx2.AsyncHTTPTransport]]
        self._pools = WeakKeyDictionary()

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        return await self.send_through(proxy(request.url), request)

    async def send_through(self, proxy: str | None, request: httpx2.Request) -> httpx2.Response:
        if proxy is not None or request.url.host not in _THIS_MACHINE:
            return await self._pool(proxy).handle_async_request(request)
        with _Fresh(request) as fresh:
            try:
                return await self._pool(proxy).handle_async_request(request)
            except (httpx2.NetworkError, httpx2.RemoteProtocolError, httpx2.ReadTimeout) as error:
                if fresh.is_untouched():
                    raise httpx2.ConnectError(f"the server lets nobody in ({error})", request=request) from error
                raise

    async def aclose(self) -> None:
        for pool in self._pools.pop(asyncio.get_running_loop(), {}).values():
            await pool.aclose()

    def _pool(self, through: str | None) -> httpx2.AsyncHTTPTransport:
        pools = self._pools.setdefault(asyncio.get_running_loop(), {})
        if through not in pools:
            limits = httpx2.Limits(max_connections=1000, max_keepalive_connections=100)
            pools[through] = httpx2.AsyncHTTPTransport(verify=_trust(), limits=limits, proxy=through)
        return pools[through]


class _Fresh:
    """The connection that is opened for a request, and whether the other side ever took a byte of it.

    A server whose queue is full looks connected, and resets later: nothing has left then. Only where no packet is lost
    on the way does a missing acknowledgement say so, and only Linux tells.
    """

    def __init__(self, request: httpx2.Request) -> None:
        self._request, self._given = request, request.extensions
        self._socket: socket.socket | None = None
        self._before: int | None = None

    def __enter__(self) -> _Fresh:
        self._request.extensions = {**self._given, "trace": self._trace}
        return self

    def __exit__(self, *raised: object) -> None:
        self._request.extensions = self._given
        if self._socket is not None:
            self._socket.close()

    def is_untouched(self) -> bool:
        return self._before is not None and self._acknowledgement() == self._before

    async def _trace(self, event: str, info: dict[str, Any]) -> None:
        if event == "connection.connect_tcp.complete" and hasattr(socket, "TCP_INFO"):
            opened = info["return_value"].get_extra_info("socket")
            # The connection closes its own as soon as it breaks.
            self._socket = socket.socket(fileno=os.dup(opened.fileno()))
            self._before = self._acknowledgement()
        if "trace" in self._given:
            await self._given["trace"](event, info)

    def _acknowledgement(self) -> int | None:
        assert self._socket is not None
        told = self._socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
        return int(_ACKNOWLEDGED.unpack_from(told, _AT)[0]) if len(told) >= _AT + _ACKNOWLEDGED.size else None


@contextmanager
def when_it_leaves(request: httpx2.Request, call: Callable[[], None]) -> Iterator[None]:
    """Have `call` called when the first byte of the request is written: what only waits to be connected never left."""
    given = request.extensions

    async def trace(event: str, info: dict[str, Any]) -> None:
        if event.endswith("send_request_headers.started") and info["request"].method != b"CONNECT":
            call()
        if "trace" in given:
            await given["trace"](event, info)

    request.extensions = {**given, "trace": trace}
    try:
        yield
    finally:
        request.extensions = given


def proxy(url: httpx2.URL) -> str | None:
    """The proxy the environment names for this URL; a client with its own transport does not look for one itself."""
    # A server on this machine is never behind the proxy, and many environments forget to say so in NO_PROXY.
    if url.host in _THIS_MACHINE or urllib.request.proxy_bypass(url.host):
        return None
    proxies = urllib.request.getproxies()
    return proxies.get(url.scheme) or proxies.get("all")


@cache
def _trust() -> ssl.SSLContext:
    # Reading the certificates takes 20 ms, too much for every event loop anew.
    return httpx2.create_ssl_context()
