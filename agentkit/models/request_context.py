"""What is known of the model request that is being made: who sends it, where its answer is kept, who may answer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, TypeAlias

if TYPE_CHECKING:
    # The caller imports this module, and starts in a third of the time without pydantic-ai.
    from pydantic_ai.messages import ModelResponse

Cause: TypeAlias = Literal[
    "outage", "rate limit", "context overflow", "content filter", "budget", "refused", "passed over"
]


class Failed(NamedTuple):
    """A member that did not answer, why, and in which words; one that rests was not even asked."""

    model: str
    cause: Cause
    said: str
    window: int | None = None
    rests: bool = False


@dataclass(kw_only=True)
class Attempts:
    """What happened on the way through the chain for one request; `answered` is the member that did.

    `resting` says of members that failed lately until when (`time.monotonic`) they are not asked again.
    """

    failed: list[Failed] = field(default_factory=list)
    answered: str | None = None
    begun: bool = False
    resting: dict[str, float] = field(default_factory=dict)


class ResponseSink(Protocol):
    """Where the answers to the requests of one step are kept until the step is recorded; `request` is a digest."""

    def find(self, request: bytes) -> bytes | None: ...
    def keep(self, request: bytes, answer: bytes) -> None: ...
    def where(self, request: bytes) -> Path | None: ...
    def mark_request(self) -> None: ...
    def leaves(self) -> None: ...
    def mark_refusal(self) -> None: ...
    def once(self, request: bytes) -> str: ...
    def mark_join(self) -> None: ...
    def lose(self) -> None: ...


class RelayAddress(NamedTuple):
    """Where the caller listens, and the token that it wants to see."""

    address: str
    token: str


class Relay(Protocol):
    """How a request finds the caller; None where requests are made directly."""

    async def line(self, *, again: bool = False) -> RelayAddress | None: ...
    def mark_dead(self, line: RelayAddress) -> None: ...


FindReply: TypeAlias = Callable[[float], "ModelResponse | str"]
"""Finds a recorded reply to the request that is at most so many seconds old, or says why there is none."""


class Exchange(NamedTuple):
    """One attempt at a model server: the status it was answered with, 0 if it was not.

    `waited` are the seconds until it was its turn, `seconds` those from then to the first byte of the answer. `size`
    are the bytes of an answer that came whole; None for one that came in pieces, where the first byte says enough.
    """

    status: int
    waited: float
    seconds: float
    size: int | None


@dataclass(frozen=True, kw_only=True)
class RequestContext:
    """`responses` and `relay` are those of the step that is performed; outside one a request is made directly.

    `affordable` are the members that a budget lets pass (None: all of them). `observe` is told of each attempt;
    `patience` are the seconds that a request rather waits for a server than fails, beyond what it waits anyway.
    `once`: where it is not known whether the server did what was asked, it is not asked again.
    `deltas` is who is handed a streamed answer as it arrives.
    """

    relay: Relay | None = None
    responses: ResponseSink | None = None
    attempts: Attempts | None = None
    affordable: frozenset[str] | None = None
    last_resort: FindReply | None = None
    observe: Callable[[Exchange], None] | None = None
    patience: float = 0.0
    once: bool = False
    deltas: object = None


_OUTSIDE = RequestContext()
current_request: ContextVar[RequestContext] = ContextVar("agentkit_request", default=_OUTSIDE)


def update_request(**changes: Any) -> None:
    """Change these fields of RequestContext from here on in this context."""
    current_request.set(replace(current_request.get(), **changes))


@contextmanager
def request_with(**changes: Any) -> Iterator[None]:
    """Change these fields of RequestContext inside the block; what else changes in it stays."""
    before = current_request.get()
    update_request(**changes)
    try:
        yield
    finally:
        update_request(**{name: getattr(before, name) for name in changes})
