"""How requests to model servers travel: transient failures are tried again a few times, promptly and bounded."""

from __future__ import annotations

import asyncio
import ssl
import urllib.request
from functools import cache
from weakref import WeakKeyDictionary

import httpx2
from pydantic_ai.models import create_async_httpx2_client
from pydantic_ai.retries import AsyncHTTPX2TenacityTransport, RetryConfig, wait_retry_after
from tenacity import RetryCallState, retry_if_exception_type, stop_after_attempt, wait_exponential, wait_random

from agentkit.define.arrivals import KeptAnswers
from agentkit.define.metering import Metered

ATTEMPTS = 4
LONGEST_WAIT = 30.0
"""Seconds. A server that asks for a longer wait is taken at its word: its answer is the error."""

# The random part keeps clients that failed together from coming back together.
_backoff = wait_exponential(multiplier=0.25, max=4) + wait_random(0, 0.25)

_TRANSIENT = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})

# Not read timeouts: the server may have been working (and charging) all that time.
_LOST = (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.ReadError, httpx2.WriteError, httpx2.RemoteProtocolError)


def client(wire: httpx2.AsyncBaseTransport | None = None) -> httpx2.AsyncClient:
    """A client for one provider, usable on any event loop; `wire` stands in for its connections."""
    return create_async_httpx2_client(transport=patient(Metered(KeptAnswers(wire or Connections()))))


def patient(wrapped: httpx2.AsyncBaseTransport) -> httpx2.AsyncBaseTransport:
    """The transport with retries; what still fails after them is given as the server gave it."""
    config = RetryConfig(
        retry=retry_if_exception_type((httpx2.HTTPStatusError, *_LOST)),
        wait=wait_retry_after(_backoff, max_wait=LONGEST_WAIT),
        stop=stop_after_attempt(ATTEMPTS),
        retry_error_callback=_give_up,
    )
    return AsyncHTTPX2TenacityTransport(config, wrapped, _refuse_transient)


class Connections(httpx2.AsyncBaseTransport):
    """One connection pool per event loop and proxy, because a connection belongs to the loop that opened it.

    A notebook runs a cell on the kernel's loop or on a background loop, and a script on a new loop per `asyncio.run`;
    all of them use the same model object.
    """

    def __init__(self) -> None:
        self._pools: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[str | None, httpx2.AsyncHTTPTransport]]
        self._pools = WeakKeyDictionary()

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        response = await self._pool(proxy(request.url)).handle_async_request(request)
        if response.status_code not in _TRANSIENT:
            return response
        # Read now: a response that is closed unread for a retry could no longer say what the server's complaint was.
        body = await response.aread()
        await response.aclose()
        return httpx2.Response(response.status_code, headers=_plain(response.headers), content=body, request=request)

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


def _plain(headers: httpx2.Headers) -> list[tuple[str, str]]:
    """The headers without those that described the body on the wire; it is decoded now."""
    dropped = {"content-encoding", "transfer-encoding", "content-length"}
    return [(name, value) for name, value in headers.items() if name.lower() not in dropped]


def _refuse_transient(response: httpx2.Response) -> None:
    wait = response.headers.get("retry-after", "")
    too_long = wait.isdigit() and int(wait) > LONGEST_WAIT
    said_no = response.headers.get("x-should-retry") == "false"
    if response.status_code in _TRANSIENT and not too_long and not said_no:
        response.raise_for_status()


def _give_up(state: RetryCallState) -> httpx2.Response:
    assert state.outcome is not None
    error = state.outcome.exception()
    if isinstance(error, httpx2.HTTPStatusError):
        return error.response
    assert error is not None
    raise error
