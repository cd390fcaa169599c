"""The connections to model servers: one pool per event loop and proxy, and light to import."""

from __future__ import annotations

import asyncio
import ssl
import urllib.request
from functools import cache
from weakref import WeakKeyDictionary

import httpx2

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
        return await self.through(proxy(request.url), request)

    async def through(self, proxy: str | None, request: httpx2.Request) -> httpx2.Response:
        return await self._pool(proxy).handle_async_request(request)

    async def aclose(self) -> None:
        for pool in self._pools.pop(asyncio.get_running_loop(), {}).values():
            await pool.aclose()

    def _pool(self, through: str | None) -> httpx2.AsyncHTTPTransport:
        pools = self._pools.setdefault(asyncio.get_running_loop(), {})
        if through not in pools:
            limits = httpx2.Limits(max_connections=1000, max_keepalive_connections=100)
            pools[through] = httpx2.AsyncHTTPTransport(verify=_trust(), limits=limits, proxy=through)
        return pools[through]


def proxy(url: httpx2.URL) -> str | None:
    """The proxy the environment names for this URL; a client with its own transport does not look for one itself."""
    # A server on this machine is never behind the proxy, and many environments forget to say so in NO_PROXY.
    if url.host in ("localhost", "127.0.0.1", "::1") or urllib.request.proxy_bypass(url.host):
        return None
    proxies = urllib.request.getproxies()
    return proxies.get(url.scheme) or proxies.get("all")


@cache
def _trust() -> ssl.SSLContext:
    # Reading the certificates takes 20 ms, too much for every event loop anew.
    return httpx2.create_ssl_context()
