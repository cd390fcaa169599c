"""Which rows run now: a bounded number at once, as many as the server and this process's event loop bear."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from typing import Literal, TypeAlias

from agentkit.errors import UserError
from agentkit.map.concurrency import MOST, Bounds, Change, ConcurrencyLimit, Reason
from agentkit.models.request_context import Exchange, request_with
from agentkit.models.transport.learnt_limits import LearntLimit
from agentkit.runtime.server_limits import turnstile

Workers: TypeAlias = int | Literal["auto"]
Perform: TypeAlias = Callable[[int], Awaitable[None]]

PATIENCE = 600.0
"""Seconds that a row waits for a server that asks for a pause, or fails, before it fails itself."""

_RESPONSIVE = 0.005
"""Seconds. A turn of the event loop that takes longer has enough to do: no row begins in the next one."""
_LONGEST_CALM = 0.05
_HELD = 0.05
"""Seconds. A request that waited longer for its turn was held back by the server's limit."""
_NOISE = 0.05
"""Seconds. What the way to a server and this machine add to an answer now and then is no change of the server."""
_LEARNT: frozenset[Reason] = frozenset({"steady_up", "rate_limit", "latency"})
"""Reasons for a change that the server gave; the others are a guess and a person's wish."""
_OVERLOADED = frozenset({0, 500, 502, 503, 504, 529})
_HEAD_BYTES = 1_000
"""About what an answer holds beside its text: a longer text takes longer, and is not a slower server."""


class Scheduler:
    """Runs the rows of one map. `workers`: so many at once, or `auto` for as many as the server bears.

    `waited` is told the seconds that a request waited for its turn at the server, `resized` the limit when it changes.
    """

    def __init__(
        self,
        workers: Workers,
        *,
        model_name: str,
        bounds: Bounds | None = None,
        patience: float = PATIENCE,
        waited: Callable[[float], None] = lambda seconds: None,
        resized: Callable[[int], None] = lambda workers: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if workers != "auto" and (type(workers) is not int or workers < 1):
            raise UserError(f"workers={workers!r}: write how many rows at once (1 or more), or 'auto'")
        self.model_name = model_name
        self._learnt = turnstile().learnt
        if workers == "auto":
            self._control: ConcurrencyLimit | None = ConcurrencyLimit(
                bounds or Bounds(), start=self._start(), clock=clock, changed=self._apply
            )
            self.limit = self._control.limit
        else:
            self._control = None
            self.limit = workers
        self.in_flight = 0
        # A chain goes on to its next member sooner than it waits long for one.
        self._patience = 0.0 if "|" in model_name else patience
        self._waited = waited
        self._resized = resized
        self._resized(self.limit)
        self._ended = False
        self._news = asyncio.Event()

    @property
    def _name(self) -> str:
        return f"rows at once of {self.model_name}"

    def _start(self) -> int | None:
        """The limit that this or another kernel learnt lately."""
        learnt = None if self._learnt is None else self._learnt.find(self._name)
        return None if learnt is None or learnt.period else learnt.number

    @property
    def history(self) -> tuple[Change, ...]:
        """The newest changes of the limit, oldest first; none for a fixed number of workers."""
        return () if self._control is None else tuple(self._control.changes)

    def end(self) -> None:
        """Begin no more rows; those that are under way end."""
        self._ended = True
        self._news.set()

    def set_limit(self, workers: int) -> None:
        """Change the limit while rows run; `auto` moves on from there."""
        if self._control is not None:
            self._control.set_limit(workers)
        else:
            self.limit = max(1, min(workers, MOST))
            self._resized(self.limit)
            self._news.set()

    async def run(self, ordinals: Iterable[int], perform: Perform) -> None:
        """Perform each row once, in order of beginning; return when the last one has ended.

        What `perform` raises ends the map: the rows under way are stopped and awaited, then it is raised. The same when
        this task is cancelled.
        """
        left = iter(ordinals)
        running: set[asyncio.Task[None]] = set()
        failures: list[BaseException] = []

        def note_end(task: asyncio.Task[None]) -> None:
            running.discard(task)
            self.in_flight = len(running)
            if not task.cancelled() and (error := task.exception()) is not None:
                failures.append(error)
                self._ended = True
            self._news.set()

        try:
            with request_with(observe=self._observe, patience=self._patience):
                while (ordinal := await self._next(left, running)) is not None:
                    task = asyncio.ensure_future(perform(ordinal))
                    running.add(task)
                    self.in_flight = len(running)
                    task.add_done_callback(note_end)
                    if self._control is not None:
                        self._control.count_begin(self.in_flight)
                while running and not failures:
                    await self._hear()
        finally:
            await _stop(running)
        if failures:
            raise failures[0]

    async def _next(self, left: Iterator[int], running: set[asyncio.Task[None]]) -> int | None:
        """The next row once there is room for it; None when no more begin."""
        calm = False
        while not self._ended:
            if len(running) >= self.limit:
                await self._hear()
            elif calm:
                return next(left, None)
            else:
                await _calm_down()
                calm = True
        return None

    async def _hear(self) -> None:
        self._news.clear()
        await self._news.wait()

    def _apply(self, change: Change) -> None:
        self.limit = change.after
        self._resized(self.limit)
        self._news.set()
        if self._learnt is not None and change.reason in _LEARNT:
            self._learnt.keep(self._name, LearntLimit(change.after, 0.0))

    def _observe(self, exchange: Exchange) -> None:
        if exchange.waited > _HELD:
            self._waited(exchange.waited)
        if self._control is None:
            return
        if exchange.status == 429:
            self._control.count_refusal()
        elif exchange.status in _OVERLOADED:
            self._control.count_failure()
        else:
            size = 0 if exchange.size is None else exchange.size
            self._control.count_answer((_NOISE + exchange.seconds) / (_HEAD_BYTES + size), held=exchange.waited > _HELD)


async def _calm_down() -> None:
    """Give everybody else a turn of the event loop, and more turns while these are long; never for ever."""
    before = began = time.perf_counter()
    while True:
        await asyncio.sleep(0)
        now = time.perf_counter()
        if now - before < _RESPONSIVE or now - began > _LONGEST_CALM:
            return
        before = now


async def _stop(running: set[asyncio.Task[None]]) -> None:
    """Cancel the rows under way, and wait until each has ended."""
    tasks = list(running)
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.gather(*tasks, return_exceptions=True)
