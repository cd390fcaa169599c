"""The panel under each cell that ran an agent: it gathers what happens there and is redrawn while it happens."""

from __future__ import annotations

import asyncio
import contextvars
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from agentkit.events import Event, Run
from agentkit.notebook.output import INTERVAL, CellOutput
from agentkit.runtime.session import Session
from agentkit.trace import render_html as panel
from agentkit.trace.trace import Trace

BREATH = 0.5
"""Seconds between two drawings while nothing happens but time passing."""

LONG = 12
"""A finished panel with more steps than this is drawn folded."""


@dataclass(eq=False)
class CellPanel:
    """What one execution of a cell has run so far."""

    cell: str | None
    live: bool
    events: dict[tuple[str, int], Event] = field(default_factory=dict)
    context: contextvars.Context = field(default_factory=contextvars.copy_context)
    changed: bool = False
    held: set[str] = field(default_factory=set)
    """The runs that a person has paused."""
    of_maps: set[str] = field(default_factory=set)
    """The maps that are under way, and all runs inside them."""

    def __post_init__(self) -> None:
        self.output = CellOutput(live=self.live)

    def knows(self, run: str | None) -> bool:
        return run is not None and (run, -1) in self.events

    def contains(self, event: Event) -> bool:
        """Whether the event is of a run that this panel has, or of one inside it."""
        if isinstance(event, Run):
            return self.knows(event.id) or self.knows(event.parent_run)
        return self.knows(event.run)

    def begins(self, event: Event) -> bool:
        if not isinstance(event, Run) or event.cell != self.cell:
            return False
        # A map has a panel of its own, whatever the number of its rows and of the agents that these ask.
        if event.rows is None and event.row is None and event.parent_run not in self.of_maps:
            return True
        if event.status == "running":
            self.of_maps.add(event.id)
        else:
            self.of_maps.discard(event.id)
        return False

    def add(self, event: Event) -> None:
        key = (event.id, -1) if isinstance(event, Run) else (event.run, event.ord)
        self.events[key] = event
        self.changed = True

    @property
    def running(self) -> bool:
        return any(isinstance(event, Run) and event.status == "running" for event in tuple(self.events.values()))

    def draw(self, finish: Callable[..., None] | None = None) -> None:
        """Draw the present state, in the place of the cell whoever calls."""
        if not self.events:
            return
        self.changed = False
        trace = self._mark_breakpoints(Trace.of(tuple(self.events.values())))
        steps = len(self.events) - len(trace.roots)
        bundle = panel.bundle(trace, now=time.time(), open=self.running or steps <= LONG)
        self.context.run(finish or self.output.draw, bundle, metadata=panel.metadata(trace))

    def _mark_breakpoints(self, trace: Trace) -> Trace:
        """The trace; a run that stands at a breakpoint waits for a person, though no step of it does."""
        held = {root.run.id for root in trace.roots if root.state == "running"} & self.held
        if not held:
            return trace
        roots = (replace(root, state="waiting") if root.run.id in held else root for root in trace.roots)
        return replace(trace, roots=tuple(roots))


def _run_of(event: Event) -> str:
    return event.id if isinstance(event, Run) else event.run


class Panels:
    """The panels of the present cell and of earlier ones whose runs still go on."""

    def __init__(self) -> None:
        self._panels: list[CellPanel] = []
        self.newest: CellPanel | None = None
        self._sessions: weakref.WeakSet[Session] = weakref.WeakSet()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._waking = False
        self._pause = INTERVAL

    def attach(self, session: Session) -> None:
        """Listen to `session` from now on."""
        if session not in self._sessions:
            self._sessions.add(session)
            # What is stepped is shown where it is moved.
            stepped = session.bench.stepped
            session.listen(lambda event: None if _run_of(event) in stepped else self.take(event))

    def begin(self, cell: str | None, *, live: bool) -> None:
        self._panels = [old for old in self._panels if old.running]
        self.newest = CellPanel(cell=cell, live=live)
        self._panels.append(self.newest)
        try:
            self._loop = asyncio.get_running_loop()
        except RuntimeError:
            self._loop = None

    def reopen(self, panel: CellPanel) -> None:
        """What the panel's cell runs from now on is drawn in its place, though the cell has ended."""
        panel.events.clear()
        if panel not in self._panels:
            self._panels.insert(0, panel)

    def finish(self, panel: CellPanel) -> None:
        """That has ended: draw it for the last time."""
        panel.draw()
        if panel in self._panels:
            self._panels.remove(panel)

    @contextmanager
    def holding(self, run: str) -> Iterator[None]:
        """While a run stands at a breakpoint, its panel says so."""
        owner = next((one for one in self._panels if one.knows(run)), None)
        if owner is None:
            yield
            return
        owner.held.add(run)
        try:
            yield
        finally:
            owner.held.discard(run)

    @property
    def has_content(self) -> bool:
        """Whether the newest panel has anything in it."""
        return bool(self._panels) and bool(self._panels[-1].events)

    def take(self, event: Event) -> None:
        """An event from a session, on any thread."""
        newest_first = self._panels[::-1]
        # A run that an earlier cell started and that still goes on stays in the panel of that cell.
        owner = next((one for one in newest_first if one.contains(event)), None) or next(
            (one for one in newest_first if one.begins(event)), None
        )
        if owner is None:
            return
        owner.add(event)
        if owner.live and self._loop is not None and not self._waking:
            self._waking = True
            self._loop.call_soon_threadsafe(self._wake)

    def _wake(self) -> None:
        self._waking = False
        if self._loop is not None and (self._timer is None or self._timer.when() > self._loop.time() + self._pause):
            self._later(self._pause)

    def _later(self, seconds: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._loop is not None:
            self._timer = self._loop.call_later(seconds, self._tick)

    def _tick(self) -> None:
        self._timer = None
        self.redraw()
        if any(one.live and one.running for one in self._panels):
            self._later(BREATH)

    def redraw(self) -> None:
        """Draw what changed, and what runs; a panel that is slow to draw is drawn less often."""
        started = time.monotonic()
        for one in self._panels:
            if one.live and (one.changed or one.running):
                one.draw()
        self._pause = max(INTERVAL, 10 * (time.monotonic() - started))

    def end(self) -> None:
        """The cell is over: its panel gets its last drawing, unless what it started still runs."""
        if not self._panels:
            return
        present = self._panels[-1]
        if not present.live:
            present.draw(present.output.finish)
            self._panels.remove(present)
        elif not present.running:
            present.draw()
            self._panels.remove(present)
