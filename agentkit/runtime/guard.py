"""The chain of guards that every live step passes before it is performed: each may let it in, wait, or refuse."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

from pydantic_ai.messages import ModelMessage
from pydantic_ai.models import Model, ModelRequestParameters
from pydantic_ai.settings import ModelSettings

from agentkit.events import Step, StepStatus
from agentkit.journal.execution import Admission, OnOutcome, RunFrame
from agentkit.journal.operation import Operation
from agentkit.journal.records import Outcome
from agentkit.runtime.run_state import RunState
from agentkit.runtime.session import Session


@dataclass(frozen=True, kw_only=True)
class ModelRequestInfo:
    """What is known of a model request before it is sent (`Operation.about` of a step of kind `model`).

    `model` is None when it is known by name only; its members are tried in order when it is a fallback chain.
    `batch` is the one that its reply arrived with: then nothing is sent, and nobody can refuse it any more.
    """

    model: Model | None
    messages: Sequence[ModelMessage]
    settings: ModelSettings | None
    parameters: ModelRequestParameters
    batch: str = ""


@dataclass(frozen=True, kw_only=True)
class ModelBatchInfo:
    """What is known of the requests of a batch (`Operation.about` of a step of kind `batch`).

    `batch` is its token; `sent`: it is at the provider already, so nobody can refuse it any more.
    """

    batch: str
    requests: Iterable[ModelRequestInfo]
    sent: bool


@dataclass(frozen=True, kw_only=True)
class ToolCallInfo:
    """What is known of a tool call before it is made (`Operation.about` of a step of kind `tool`)."""

    name: str
    arguments: Any
    poll: bool
    loop: str = ""


@dataclass(frozen=True, kw_only=True)
class PendingStep:
    """A live step that asks to be performed, and the place in its run where it stands."""

    call: Operation
    run: RunState
    ord: int
    session: Session
    came: float = field(default_factory=time.time)

    def waits(self, why: str, *, until: float | None = None) -> None:
        """Show the step as waiting; it is on disk only once it is let in."""
        self._tell("started", waiting=why, until=until)

    def show_refusal(self, why: str) -> None:
        """Show that the step was not let in."""
        self._tell("cancelled", error=why)

    def _tell(
        self, status: StepStatus, *, error: str | None = None, waiting: str = "", until: float | None = None
    ) -> None:
        now = time.time()
        self.session.emit(
            Step(
                run=self.run.id,
                ord=self.ord,
                id=0,
                kind=self.call.kind,
                name=self.call.name,
                status=status,
                replayed=False,
                effects=self.call.effects,
                started=self.came,
                ended=None if waiting else now,
                request=self.call.request,
                error=error,
                waiting=waiting,
                until=until,
            )
        )


class Guard(Protocol):
    """One link of the chain: entered before the step (it may wait, or raise Stopped) and left when it is over.

    What it yields hears the recorded outcome, from any thread; a step that fails is left with its error instead.
    """

    def admit(self, step: PendingStep) -> AbstractAsyncContextManager[OnOutcome]: ...


def chain(session: Session, guards: Callable[[], Sequence[Guard]]) -> Admission:
    """The journal's admission: `guards` in order, the first one asked first."""

    @asynccontextmanager
    async def admission(call: Operation, run: RunFrame, ord: int) -> AsyncIterator[OnOutcome]:
        step = PendingStep(call=call, run=cast(RunState, run), ord=ord, session=session)
        async with AsyncExitStack() as entered:
            try:
                told = [await entered.enter_async_context(guard.admit(step)) for guard in guards()]
            except BaseException as error:
                step.show_refusal(str(error) or "stopped before it was performed")
                raise
            yield lambda outcome: _tell_all(told, outcome)

    return admission


def _tell_all(told: Sequence[OnOutcome], outcome: Outcome) -> None:
    for one in told:
        one(outcome)
