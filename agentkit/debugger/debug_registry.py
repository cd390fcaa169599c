"""The bench of a session: the runs that are being stepped, the breakpoints, and plain runs that paused at one."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, count
from typing import Any, Protocol

from agentkit.debugger.breakpoints import Breakpoint
from agentkit.debugger.gate import Gate, Order, Pending
from agentkit.errors import RunPaused, UserError, nearest
from agentkit.journal.execution import Occurrences


class RegisteredRun(Protocol):
    """A stepped run, as far as the bench must know it."""

    @property
    def name(self) -> str: ...
    @property
    def runs(self) -> Sequence[str]: ...
    @property
    def pending(self) -> Pending | None: ...
    def abandon(self) -> None: ...


@dataclass(frozen=True, kw_only=True)
class Paused:
    """A plain run that ended at a breakpoint: what was asked of whom, and the step it paused before."""

    agent: Any
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    counts: Occurrences
    pending: Pending
    run: str
    since: float = field(default_factory=time.time)


@dataclass(kw_only=True)
class DebugRegistry:
    """`open` are the stepped runs, the one that moved last at the end; `paused` the plain runs, by their id.

    `attend` asks the person in front of the notebook how a plain run goes on; None when it turns out there is nobody.
    """

    open: list[Any] = field(default_factory=list)
    breakpoints: list[Breakpoint] = field(default_factory=list)
    paused: dict[str, Paused] = field(default_factory=dict)
    stepped: set[str] = field(default_factory=set)
    attend: Callable[[Gate, Pending], Awaitable[Order | None]] | None = None

    def put(self, run: RegisteredRun) -> None:
        """Make it the one that moves by default; an older one of this name gives way."""
        for old in [old for old in self.open if old is not run and old.name == run.name]:
            old.abandon()
            self.open.remove(old)
        self.last(run)

    def last(self, run: RegisteredRun) -> None:
        self.open[:] = [one for one in self.open if one is not run] + [run]

    def take_off(self, run: RegisteredRun) -> None:
        run.abandon()
        self.open[:] = [one for one in self.open if one is not run]

    def free_name(self, name: str) -> str:
        """`name`, or with a number behind it where another run of this name is paused."""
        taken = {one.name for one in self.open if one.pending is not None}
        return next(each for each in chain([name], (f"{name}-{number}" for number in count(2))) if each not in taken)

    def find(self, word: str = "") -> Any:
        """The stepped run of this name or run id, or the last one; None when there is no such run."""
        for one in reversed(self.open):
            if not word or one.name == word or word in one.runs:
                return one
        return None

    def pick(self, word: str = "") -> Any:
        """As `find`, but raises UserError that says what is there."""
        found = self.find(word)
        if found is not None:
            return found
        names = [one.name for one in self.open]
        if word and names:
            raise UserError(f"no run {word} is being stepped{nearest(word, names)}; open: {', '.join(names)}")
        raise UserError(f"no run{f' {word}' if word else ''} is being stepped: open it with agentkit.step(…) first")

    def find_paused(self, word: str = "") -> Paused | None:
        """The plain run that paused last at a breakpoint, of this agent or run id, and was not taken up yet."""
        for one in reversed(self.paused.values()):
            if not word or word in (one.run, one.agent.name):
                return one
        return None

    def gate_for(self, agent: Any, args: Sequence[Any], kwargs: Mapping[str, Any], counts: Occurrences) -> Gate:
        """The gate of a plain run: it does not wait, it ends the run at a breakpoint before a live step."""

        def pause_error(pending: Pending) -> RunPaused:
            self.paused[gate.root] = Paused(
                agent=agent, args=tuple(args), kwargs=dict(kwargs), counts=counts, pending=pending, run=gate.root
            )
            return RunPaused(run=gate.root, agent=pending.agent, step=str(pending), cause=pending.cause)

        gate = Gate(
            order=Order(live=True, left=None),
            breakpoints=lambda: self.breakpoints,
            pausing=pause_error,
            attend=self.attend,
        )
        return gate

    def close(self) -> None:
        for run in self.open:
            run.abandon()
        self.open.clear()
        self.paused.clear()
