"""How requests to model servers travel: transient failures are tried again a few times, promptly and bounded."""

from __future__ import annotations

import re

import httpx2
from pydantic_ai.models import create_async_httpx2_client
from pydantic_ai.retries import AsyncHTTPX2TenacityTransport, RetryConfig, wait_retry_after
from tenacity import RetryCallState, retry_if_exception_type, wait_exponential, wait_random

from agentkit.models.relay.http_transport import RelayTransport
from agentkit.models.request_context import current_request
from agentkit.models.transport.connections import TRANSIENT, ReadErrors
from agentkit.models.transport.connections import Connections as Connections
from agentkit.models.transport.connections import proxy as proxy
from agentkit.models.transport.rate_limit import RateLimitTransport
from agentkit.models.transport.response_capture import ResponseCapture

ATTEMPTS = 4
LONGEST_WAIT = 30.0
"""Seconds. A server that asks for a longer wait is taken at its word: its answer is the error."""

BUSY = frozenset({429, 503, 529})
_OF_MONEY = re.compile(rb"insufficient_quota|credit_balance|spend_limit|billing", re.IGNORECASE)
"""Where these are lacking, no time helps."""

# The random part keeps clients that failed together from coming back together.
_backoff = wait_exponential(multiplier=0.25, max=4) + wait_random(0, 0.25)

# Not read timeouts: the server may have been working (and charging) all that time.
_LOST = (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.ReadError, httpx2.WriteError, httpx2.RemoteProtocolError)


def client(wire: httpx2.AsyncBaseTransport | None = None) -> httpx2.AsyncClient:
    """A client for one provider, usable on any event loop; `wire` stands in for its connections."""
    kept = ResponseCapture(wire or RelayTransport(Connections()))
    return create_async_httpx2_client(transport=patient(RateLimitTransport(ReadErrors(kept))))


def patient(wrapped: httpx2.AsyncBaseTransport) -> httpx2.AsyncBaseTransport:
    """The transport with retries; what still fails after them is given as the server gave it."""
    config = RetryConfig(
        retry=retry_if_exception_type((httpx2.HTTPStatusError, *_LOST)),
        wait=wait_retry_after(_backoff, max_wait=LONGEST_WAIT),
        stop=_is_enough,
        retry_error_callback=_give_up,
    )
    return AsyncHTTPX2TenacityTransport(config, wrapped, _refuse_transient)


def _refuse_transient(response: httpx2.Response) -> None:
    wait = response.headers.get("retry-after", "")
    too_long = wait.isdigit() and int(wait) > max(LONGEST_WAIT, current_request.get().patience)
    said_no = response.headers.get("x-should-retry") == "false"
    if response.status_code in TRANSIENT and not too_long and not said_no:
        response.raise_for_status()


def _is_enough(state: RetryCallState) -> bool:
    """Some attempts; as many as its patience lasts for who waits for a server that only asks for time."""
    error = state.outcome.exception() if state.outcome is not None else None
    if current_request.get().once and not _is_undone(error):
        return True
    if state.attempt_number < ATTEMPTS:
        return False
    if not isinstance(error, httpx2.HTTPStatusError) or error.response.status_code not in BUSY:
        return True
    if _OF_MONEY.search(error.response.content):
        return True
    return (state.seconds_since_start or 0.0) >= current_request.get().patience


def _is_undone(error: BaseException | None) -> bool:
    """Whether the server certainly did nothing."""
    if isinstance(error, httpx2.HTTPStatusError):
        return error.response.status_code == httpx2.codes.TOO_MANY_REQUESTS
    return isinstance(error, httpx2.ConnectError | httpx2.ConnectTimeout)


def _give_up(state: RetryCallState) -> httpx2.Response:
    assert state.outcome is not None
    error = state.outcome.exception()
    if isinstance(error, httpx2.HTTPStatusError):
        return error.response
    assert error is not None
    raise error
