"""Turns and health of model servers as this process takes part in them, and how a step that waits is shown."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace

from opentelemetry import trace
from pydantic_ai.exceptions import ModelAPIError

from agentkit.errors import CircuitOpen
from agentkit.journal.execution import current_step, live_event
from agentkit.models.request_context import current_request
from agentkit.models.transport import rate_limit
from agentkit.models.transport.learnt_limits import LearntLimits
from agentkit.models.transport.provider_health import Health, ProviderOpen, Ticket, default_path
from agentkit.models.transport.throttle import Admission, Busy, Throttle
from agentkit.runtime.run_state import frame_of_run

_LOOK_AGAIN = 2.0
_FAILING = frozenset({500, 502, 503, 504, 529})


@dataclass(frozen=True, kw_only=True)
class ServerLimiter:
    """Every attempt at a model server waits for its turn, and is not made while the server keeps failing."""

    throttle: Throttle
    health: Health
    learnt: LearntLimits | None = None

    async def enter(self, lane: str, tokens: int) -> Attempt:
        patience = current_request.get().patience
        until = time.monotonic() + patience
        while True:
            passed = await self.throttle.enter(lane, tokens, patience=patience)
            try:
                return Attempt(passed, self.health, self.health.admit(lane))
            except ProviderOpen as refused:
                passed.give_up()
                if time.monotonic() + refused.seconds > until:
                    raise
                await self._wait_for(refused)

    async def _wait_for(self, refused: ProviderOpen) -> None:
        """Until it is worth to ask again; a probe of somebody else may tell sooner."""
        show_wait(str(refused), time.time() + refused.seconds)
        try:
            await asyncio.sleep(min(refused.seconds, _LOOK_AGAIN) * random.uniform(0.5, 1.0))
        finally:
            show_wait("", None)


class Attempt:
    """One attempt on its way."""

    def __init__(self, passed: Admission, health: Health, ticket: Ticket) -> None:
        self._passed, self._health, self._ticket = passed, health, ticket

    def record_answer(self, status: int, headers: Mapping[str, str]) -> None:
        self._passed.record_answer(status, headers)
        if status in _FAILING:
            _tell(self._health.record_failure(self._passed.name, self._ticket, str(status)))
        elif status == 429:
            self._health.give_up(self._passed.name, self._ticket)
        else:
            _tell(self._health.record_success(self._passed.name, self._ticket))

    def record_loss(self, why: str) -> None:
        self._passed.record_loss(why)
        _tell(self._health.record_failure(self._passed.name, self._ticket, why))

    def give_up(self) -> None:
        self._passed.give_up()
        self._health.give_up(self._passed.name, self._ticket)


def _tell(change: str) -> None:
    """A change of a server's state, in the record of the run whose request showed it, and in its span."""
    if change:
        trace.get_current_span().add_event("agentkit.breaker", {"agentkit.breaker.evidence": change})
        if (frame := frame_of_run()) is not None:
            frame.notes.append(f"breaker {change}")


_here: list[ServerLimiter] = []


def turnstile() -> ServerLimiter:
    """The one of this process, through which its requests go from the first call on."""
    if not _here:
        learnt = LearntLimits(default_path())
        throttle = Throttle(waiting=show_wait, learnt=learnt)
        use(ServerLimiter(throttle=throttle, health=Health(default_path()), learnt=learnt))
    return _here[0]


def use(other: ServerLimiter | None) -> None:
    """Put another one in its place; None: a new one is made when it is needed."""
    for old in _here:
        old.health.close()
        if old.learnt is not None:
            old.learnt.close()
    _here[:] = [] if other is None else [other]
    rate_limit.install(other)


def show_wait(why: str, until: float | None) -> None:
    """Show the step that is being performed as waiting, or as going on."""
    step, frame = current_step(), frame_of_run()
    if step is None or frame is None or frame.session is None:
        return
    event = live_event(step, step.row, "started")
    frame.session.emit(replace(event, waiting=why, until=until))


@contextmanager
def explaining() -> Iterator[None]:
    """Raises CircuitOpen for a request that was not sent, because its server is not to be asked now."""
    try:
        yield
    except ModelAPIError as error:
        if (refused := _refusal(error)) is not None:
            raise refused from error
        raise


def _refusal(error: BaseException) -> CircuitOpen | None:
    for cause in _causes(error):
        if isinstance(cause, ProviderOpen | Busy):
            again = time.strftime("%H:%M:%S", time.localtime(time.time() + cause.seconds))
            return CircuitOpen(
                f"{cause}: run again from {again} on, or give the agent another model to fall back to "
                "(model='a | b | cached(7d)')",
                evidence=str(cause),
            )
    return None


def _causes(error: BaseException) -> Iterator[BaseException]:
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__ or cause.__context__
