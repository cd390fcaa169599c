"""The other end of the one door: on a cluster steps are kept by `flyte.trace`, under keys equal on every attempt."""

from __future__ import annotations

import asyncio
import json
import re
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

from agentkit.events import Usage
from agentkit.journal.execution import RunFrame, current_run
from agentkit.journal.journal import Journal, Performed
from agentkit.journal.operation import Operation, Payload
from agentkit.journal.records import Outcome, Row
from agentkit.runtime.session import Session

_OWN_ACTIONS = frozenset({"approval", "question", "sandbox"})
"""A condition is an action of the platform itself, and what a sandbox calls is traced call by call."""
_ASKED_FIRST = frozenset({"once", "undeclared"})

TraceFunction = Callable[[Callable[[str], Awaitable[str]]], Callable[[str], Awaitable[str]]]


class TracedJournal(Journal):
    """Performs as a journal does, and hands what it recorded to the platform; an attempt begins with an empty file.

    The platform knows results and no intents, so for a tool that must not be repeated unasked the beginning is a
    record of its own.
    """

    def __init__(self, *args: Any, trace: TraceFunction, **more: Any) -> None:
        super().__init__(*args, **more)
        self._trace = trace
        self._attempt_id = uuid.uuid4().hex

    async def perform(self, operation: Operation, body: Callable[[], Awaitable[Payload]]) -> Performed:
        run = current_run()
        if (
            run is None
            or operation.outer
            or operation.kind in _OWN_ACTIONS
            or self.find_record(operation, run) is not None
        ):
            return await super().perform(operation, body)
        n = run.execution.counts.peek(operation.key.key) if operation.counted else 0
        key = f"{operation.key.key.hex()}:{n}"
        begun = await self._find_beginning(operation, key)
        performed: list[Performed] = []

        async def step(key: str) -> str:
            if begun != self._attempt_id:
                await asyncio.wrap_future(self.store.begin(self.intent(operation, run, None, n=n, ord=run.ord + 1)))
            performed.append(await self._perform(operation, body))
            return self._step_text(performed[0].step)

        step.__name__ = _name(operation)
        kept = await self._trace(step)(key)
        if performed:
            return performed[0]
        await self._take_over(operation, run, json.loads(kept), n=n)
        return await self._perform(operation, body)

    async def _perform(self, operation: Operation, body: Callable[[], Awaitable[Payload]]) -> Performed:
        return await super().perform(operation, body)

    async def _find_beginning(self, operation: Operation, key: str) -> str:
        """The attempt in which the step was begun: this one, unless it must not be repeated and an earlier one did."""
        if operation.kind != "tool" or operation.effects not in _ASKED_FIRST:
            return self._attempt_id

        async def begin(key: str) -> str:
            return self._attempt_id

        begin.__name__ = f"{_name(operation)}_begins"
        return await self._trace(begin)(key)

    def _step_text(self, step: int) -> str:
        """What another attempt needs of a recorded step, as text."""
        row = self.store.step(step)
        assert row is not None and row.body is not None
        return json.dumps(
            {
                "body": row.body.decode(),
                "usage": None if row.usage is None else asdict(row.usage),
                "nested": row.nested,
                "shown": None if row.shown is None else row.shown.decode(),
                "result": row.result,
                "model": row.model,
                "key": row.key.hex(),
            }
        )

    async def _take_over(self, operation: Operation, run: RunFrame, kept: dict[str, Any], *, n: int) -> Row:
        """Put what an earlier attempt did into this attempt's record."""
        claim = await asyncio.wrap_future(self.store.begin(self.intent(operation, run, None, n=n, ord=run.ord + 1)))
        if claim.mine:
            await asyncio.wrap_future(self.store.finish(_outcome(claim.row, kept)))
        return claim.row


def _outcome(row: Row, kept: dict[str, Any]) -> Outcome:
    key = bytes.fromhex(kept["key"])
    return Outcome(
        step=row.id,
        status="done",
        body=kept["body"].encode(),
        usage=None if kept["usage"] is None else Usage(**kept["usage"]),
        nested=kept["nested"],
        shown=None if kept["shown"] is None else kept["shown"].encode(),
        result=kept["result"],
        model=kept["model"],
        key=None if key == row.key else key,
    )


def _name(operation: Operation) -> str:
    return re.sub(r"\W+", "_", f"{operation.kind}_{operation.name}").strip("_")[:60]


class TracedSession(Session):
    """A session whose record lives as long as the task's attempt; the platform keeps the steps."""

    def __init__(self, label: str, *, folder: Path, trace: TraceFunction) -> None:
        super().__init__(label, path=folder / "journal.db")
        self._trace = trace
        self.calling.turn_off("what it would keep ends with the task")

    @cached_property
    def journal(self) -> Journal:
        return TracedJournal(
            self.store,
            redactor=self.redactor,
            emit=self.emit,
            show=lambda *shown: self.show(*shown),
            trace=self._trace,
        )
