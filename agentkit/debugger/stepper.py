"""A run taken step by step: it pauses before each, goes back, is edited and forked, and nothing is paid for twice."""

from __future__ import annotations

import asyncio
import contextvars
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias, cast

from pydantic_ai.agent import AbstractAgent

from agentkit.agent.ask import Answer, ask
from agentkit.budget import estimate, forecast
from agentkit.budget.forecast import Forecast
from agentkit.debugger.breakpoints import Breakpoint
from agentkit.debugger.command_log import By, Command, CommandLog, Entry
from agentkit.debugger.gate import At, Gate, Order, Pending
from agentkit.debugger.overrides import WHATS, Override, Path, What, check, format_path, read_path, with_edit
from agentkit.debugger.run_spec import Changes, RunSpec, restore_spec
from agentkit.errors import UserError, nearest
from agentkit.events import Event, Run, Step
from agentkit.journal.execution import Execution, begin_outside
from agentkit.runtime.run_terms import step_through
from agentkit.runtime.session import Last, Session, surround
from agentkit.sandbox.program import SandboxResult, Script

Came: TypeAlias = Pending | Answer | SandboxResult | None
"""Where a move leads: to the step that the run is paused before, or to what it came to."""
State: TypeAlias = Literal["paused", "done", "failed", "stopped"]
_PATIENCE = 10.0
"""Seconds a run that is let go has to end its step."""


@dataclass(eq=False, kw_only=True)
class DebugRun:
    """A run between its steps. `pending` is the step it is paused before; `answer` is there once it is done.

    Its methods move it; each returns when the run is paused again, or has ended.
    """

    name: str
    session: Session
    recipe: RunSpec
    at: At = "all"
    overrides: tuple[Override, ...] = ()
    runs: list[str] = field(default_factory=list)
    state: State = "stopped"
    answer: Answer | SandboxResult | None = None
    error: BaseException | None = None
    note: str = ""
    log: CommandLog | None = None

    def __post_init__(self) -> None:
        self._gate: Gate | None = None
        self._driver: asyncio.Task[Answer | SandboxResult] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._place: Path = ()
        self._reached: Path = ()
        self._branch: list[str] = []
        self._acted: set[str] = set()
        self._moving = False
        self._events: dict[tuple[str, int], Event] = {}
        self._inside: set[str] = set()
        self._unlisten: Callable[[], None] = _nothing
        self.moved = time.time()

    # -- what it looks like

    @property
    def pending(self) -> Pending | None:
        """The step the run is paused before."""
        return None if self._gate is None or self.state != "paused" else self._gate.pending

    @property
    def run(self) -> str:
        """The id of the run in the journal; a branch that is opened again is another run."""
        return self.runs[-1] if self.runs else ""

    @property
    def furthest(self) -> str:
        """The run of this branch in which most steps were taken: going back begins another one."""
        if not self._branch:
            return self.run
        return max(reversed(self._branch), key=lambda run: len(self.session.store.steps(run)))

    @property
    def places(self) -> tuple[str, ...]:
        """The steps of this branch that `goto` reaches for free, and the pending one."""
        taken = self.session.store.steps(self.furthest)
        own = sum(step.numbered and step.status == "done" for step in taken)
        furthest = self.session.store.run(self.furthest)
        # Where it was left is paused before, too.
        own += furthest is not None and furthest.status != "done"
        return tuple(map(format_path, sorted({*((place,) for place in range(1, own + 1)), *self._trail()})))

    @property
    def forecast(self) -> Forecast | None:
        """What the pending step is expected to cost, were it live."""
        step = self.pending
        if step is None:
            return None
        return forecast.of_step(step, self.events(), earlier=lambda: estimate.read_history(self.session, step.agent))

    def events(self) -> list[Event]:
        """The run and its steps so far, with the runs inside them."""
        return list(self._events.values())

    def __repr__(self) -> str:
        where = f"paused before {self.pending}" if self.pending else self.state
        return f"<{self.name}: {where}, run {self.run}>"

    # -- moves

    async def next(self, n: int = 1, *, into: bool = False, out: bool = False) -> Came:
        """Take the pending step and `n - 1` more; `into` the agent it calls, or `out` of the one it is in."""
        return await self.act(Command(verb="next", n=n, into=into, out=out))

    async def run_on(self, *, until: str = "") -> Came:
        """Go on to the end, to a breakpoint, or until tool=NAME, turn=N or cost=USD."""
        return await self.act(Command(verb="continue", until=until))

    async def back(self, n: int = 1) -> Came:
        """Pause before the step `n` steps earlier; nothing is paid for it."""
        return await self.act(Command(verb="back", n=n))

    async def goto(self, step: int | str) -> Came:
        """Pause before that step, which is recorded; nothing is paid for it."""
        return await self.act(Command(verb="goto", to=str(step)))

    async def edit(self, what: What, value: Any, *, step: int | str | None = None) -> Came:
        """Put something else in the place of the pending step, or of an earlier one; the old branch stays recorded."""
        place = self.editable(step)
        return await self.act(Command(verb="edit", edit=Override(at=place, what=what, value=value).as_json()))

    async def fork(self, step: int | str, *, name: str = "", **changes: Any) -> DebugRun:
        """Begin another branch at a step, with a `prompt`, or with what `edit` takes; this run stays as it is."""
        agent = self.recipe.agent
        if isinstance(agent, Script):
            raise UserError(f"{self.name} is a program, not an agent: to try another branch, edit the cell")
        source = self.session.store.run(self.furthest)
        if source is None:
            raise UserError(f"{self.name} has not been recorded yet: take a step first")
        prompt = changes.pop("prompt", None)
        if unknown := sorted(set(changes) - set(WHATS)):
            raise UserError(f"fork: unknown {unknown[0]}{nearest(unknown[0], WHATS)}; possible: {', '.join(WHATS)}")
        asked = Changes(
            prompt=prompt,
            name=name or self.session.bench.free_name(self.name),
            edits=tuple(cast(list[tuple[What, Any]], list(changes.items()))),
        )
        recipe = self.recipe
        return await fork(self.session, source, step, agent=agent, changes=asked, deps=recipe.deps)

    async def stop(self) -> None:
        """Let it go: what is recorded stays, and opening it again comes back here."""
        await self._halt()
        self.session.bench.take_off(self)

    async def act(self, move: Command, *, by: By = "code", cell: str | None = None) -> Came:
        """Make a move. A verb cell that is run again makes its recorded moves again, and never goes live."""
        self._check_loop()
        if self._moving:
            raise UserError(
                f"{self.name} is taking a step: wait until it is paused again, or stop the cell that moves it"
            )
        self._moving = True
        try:
            return await self._act(move, by=by, cell=cell)
        finally:
            self._moving = False

    async def _act(self, move: Command, *, by: By, cell: str | None) -> Came:
        self.session.bench.last(self)
        self.moved = time.time()
        log = self._open_log()
        self.note = ""
        if by != "cell" or not self._runs_again(cell):
            await self._make(move, live=True)
            log.add(Entry(move=move, by=by, cell=cell))
            return self.pending or self.answer
        entries = log.of_cell(cell)
        if not entries or entries[0].move != move:
            entries = [Entry(move=move, by=by, cell=cell)]
        await self._make_again(entries)
        await self._make_again(log.clicks())
        return self.pending or self.answer

    async def _make_again(self, entries: Sequence[Entry]) -> None:
        for entry in entries:
            before = self.pending
            if self.note or before is None:
                return
            await self._make(entry.move, live=False)
            if self.pending is not None and not self.pending.free and self.pending.at == before.at:
                return
            self._open_log().add(entry)

    async def _make(self, move: Command, *, live: bool) -> None:
        match move.verb:
            case "open":
                await self._open_at_start(move, live=live)
            case "next" | "continue":
                await self._forward(move, live=live)
            case "back":
                await self._back(move.n)
            case "goto":
                await self._goto(read_path(move.to))
            case "edit":
                assert move.edit is not None
                await self._edit(Override.of_json(move.edit))

    # -- opening

    async def open(self, *, until: str = "") -> Came:
        """Pause before the first step, and make the clicks of last time again."""
        log = self._open_log()
        log.cursor = 0
        self._acted.clear()
        first = Entry(move=Command(verb="open", until=until), by="click")
        again = log.next_entry == first
        await self._make(first.move, live=not again)
        log.add(first)
        self.session.bench.put(self)
        await self._make_again(log.clicks())
        return self.pending or self.answer

    async def open_at(self, place: Path) -> Came:
        """Pause before that step of what is recorded; UserError when there is none."""
        await self._reopen(Order(live=False, target=place, depth=len(place)))
        step = self.pending
        if step is None or step.at > place:
            await self._halt()
            at = format_path(place[:1])
            raise UserError(f"step {format_path(place)}: there is no such step, or step {at} is replayed as a whole")
        self._open_log()
        self.session.bench.put(self)
        if step.cause:
            self.note = f"paused earlier than step {format_path(place)}: {step.cause}"
        return step

    async def _open_at_start(self, move: Command, *, live: bool) -> None:
        until = Breakpoint.parse(move.until) if move.until else None
        await self._reopen(Order(live=live, left=0 if until is None else None, until=until, depth=self.recipe.depth))

    def _open_log(self) -> CommandLog:
        if self.log is None:
            identity = self.recipe.identity([one.as_json() for one in self.overrides], self.at)
            session = self.session
            name, others = self.recipe.agent.name or "agent", (self.recipe.mode or session.mode) == "replay"
            self.log = CommandLog.read(session.store, session.redactor, name, identity, others=others)
        return self.log

    # -- forward

    async def _forward(self, move: Command, *, live: bool) -> None:
        if self.state == "done":
            raise UserError(
                f"{self.name} is done: run.back(), goto STEP, or fork {self.run} STEP open it again at a step"
            )
        if move.n < 1:
            raise UserError(f"next {move.n}: give how many steps, 1 or more")
        until = Breakpoint.parse(move.until) if move.until else None
        if self.pending is None:
            await self._reopen(Order(live=False, target=self._place or (1,), depth=max(1, len(self._place))))
        step = self.pending
        if step is None or self._gate is None:
            return
        if not live and not step.free and not (move.into and step.step_request.enters):
            self.note = (
                f"{step} is not recorded, and a cell that is run again goes over recorded steps only: "
                "run it once more to perform the step"
            )
            return
        depth = max(1 if move.out else self.recipe.depth, len(step.at) + move.into - move.out)
        left = None if move.verb == "continue" or move.out else move.n - 1
        order = Order(live=live, left=0 if move.out else left, depth=depth, until=until)
        self._gate.release(order)
        await self._until_pause()

    # -- back, and elsewhere: open again, replaying up to the place

    async def _back(self, n: int) -> None:
        if n < 1:
            raise UserError(f"back {n}: give how many steps, 1 or more")
        seen = self._trail()
        place = len(seen) - n - (self.pending is not None)
        if place < 0:
            raise UserError(f"back {n}: only {len(seen) - (self.pending is not None)} steps lie before this one")
        await self._reach(seen[place])

    async def _goto(self, place: Path) -> None:
        places = self.places
        if format_path(place) not in places and format_path(place[:1]) not in (places if len(place) > 1 else ()):
            raise UserError(
                f"step {format_path(place)}: this branch has no such step; it has {', '.join(places) or 'none'}"
            )
        await self._reach(place)

    def _trail(self) -> list[Path]:
        return [] if self._gate is None else [step.at for step in self._gate.trail]

    def _list_steps(self) -> str:
        return ", ".join(map(format_path, self._trail())) or "none"

    async def _reach(self, place: Path) -> None:
        before = self._trail()
        await self._reopen(Order(live=False, target=place, depth=len(place)))
        if self.pending is not None and self.pending.at != place:
            self.note = f"paused before step {format_path(self.pending.at)}: {self.pending.cause}"
            if place not in before:
                self.note += f"; step {format_path(place)} was not reached before"

    # -- editing

    def editable(self, step: int | str | None, *, last: bool = False) -> Path:
        """The step that an edit is for: the one named, the last one taken, else the pending one."""
        if step is not None:
            return read_path(step)
        trail = self._trail()
        if self.pending is not None and not last:
            return self.pending.at
        taken = trail[: len(trail) - (self.pending is not None)]
        if taken:
            return taken[-1]
        raise UserError(f"{self.name} has taken no step yet: edit the pending one, or run.next() first")

    def find_step(self, place: Path) -> Pending:
        """The step of this branch that stands there."""
        seen = {step.at: step for step in (() if self._gate is None else self._gate.trail)}
        if place not in seen:
            raise UserError(f"step {format_path(place)} cannot be edited: this branch has met {self._list_steps()}")
        return seen[place]

    async def _edit(self, edit: Override) -> None:
        met = self.find_step(edit.at)
        step_request = met.step_request
        check(edit, kind=met.kind, name=met.name, validator=step_request.validator, schema=step_request.schema)
        back_to = self.pending.at if self.pending is not None else edit.at
        old = self.furthest
        rest = forecast.describe(
            *forecast.of_rest(self.session.trace(old), run=old, since=edit.at[0]), since=edit.at[0]
        )
        self.overrides = with_edit(self.overrides, edit)
        self._branch = []
        await self._reopen(Order(live=False, target=max(edit.at, min(back_to, _after(edit.at))), depth=len(edit.at)))
        if self.pending is not None:
            self.note = f"forked from run {old} at step {format_path(edit.at)}: that branch stays{rest}"

    # -- the driver: one task for one opening, whichever cells move it

    async def _reopen(self, order: Order) -> None:
        await self._halt()
        self._unlisten()
        self._loop = asyncio.get_running_loop()
        self.answer, self.error = None, None
        gate = Gate(
            order=order,
            overrides=self.overrides,
            at=self.at,
            fresh=self.recipe.fresh,
            reached=self._reached,
            breakpoints=lambda: self.session.bench.breakpoints,
            spent=self._spending,
            opened=self._on_run_start,
        )
        self._gate = gate
        self._events, self._inside = {}, set()
        self._unlisten = self.session.listen(self._hear)
        self._driver = asyncio.create_task(self._drive(gate), context=contextvars.copy_context())
        await self._until_pause()

    async def _drive(self, gate: Gate) -> Answer | SandboxResult:
        recipe = self.recipe
        surround(session=self.session, execution=Execution(cell=recipe.cell, counts=recipe.counts.copy()))
        step_through(gate)
        begin_outside()
        if isinstance(recipe.agent, Script):
            return await recipe.agent.run_again(fresh=recipe.fresh, mode=recipe.mode)
        return await ask(
            recipe.agent, recipe.prompt, continues=recipe.continues, mode=recipe.mode, fresh=recipe.fresh,
            deps=recipe.deps, on_text=recipe.on_text, more=recipe.more,
        )  # fmt: skip

    def _on_run_start(self, run: str) -> None:
        self.session.bench.stepped.add(run)
        self._inside.add(run)
        if self._gate is not None and self._gate.root == run:
            self.runs.append(run)
            self._branch.append(run)

    def _hear(self, event: Event) -> None:
        key = (event.id, -1) if isinstance(event, Run) else (event.run, event.ord)
        if key[0] in self._inside:
            self._events[key] = event

    def _spending(self, run: str) -> dict[str, float]:
        live = [event for event in self.events() if isinstance(event, Step) and not event.replayed]
        usages = [step.usage for step in live if step.usage is not None]
        return {
            "cost": sum(usage.cost or 0.0 for usage in usages),
            "tokens": sum(usage.input_tokens + usage.output_tokens for usage in usages),
        }

    async def _until_pause(self) -> None:
        """Until the run is paused or has ended. Stopped meanwhile, the run is stopped too; its place is kept."""
        gate, driver = self._gate, self._driver
        assert gate is not None and driver is not None
        waiting = asyncio.ensure_future(gate.paused.wait())
        try:
            await asyncio.wait({waiting, driver}, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            await self._halt()
            raise
        finally:
            waiting.cancel()
            self._reached = max(self._reached, gate.reached)
            self._place = gate.pending.at if gate.pending is not None else gate.reached
        if not self.session.store.read_only:
            # Whoever reads the journal at a pause, to go elsewhere or to fork, finds all of this branch.
            await asyncio.wrap_future(self.session.store.flush())
        if driver.done():
            self._on_driver_end(driver)
        else:
            self.state = "paused"

    def _on_driver_end(self, driver: asyncio.Task[Answer | SandboxResult]) -> None:
        self._driver = None
        if driver.cancelled():
            self.state = "stopped"
            return
        self.error = driver.exception()
        if self.error is not None:
            self.state = "failed"
            raise self.error
        self.state, self.answer = "done", driver.result()
        last = Last(run=self.answer.run.id, cell=self.recipe.cell)
        self.session.last_runs.append((self.recipe.agent.name or "agent", last))

    async def _halt(self) -> None:
        driver, self._driver = self._driver, None
        if self.state == "paused":
            self.state = "stopped"
        if driver is None or driver.done():
            return
        driver.cancel()
        await asyncio.wait({driver}, timeout=_PATIENCE)

    def abandon(self) -> None:
        """Let it go without waiting: its kernel or session ends, or another run takes its place."""
        self._unlisten()
        driver, self._driver = self._driver, None
        self.state = "stopped" if self.state == "paused" else self.state
        if driver is not None and self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(driver.cancel)

    def _check_loop(self) -> None:
        if self._driver is not None and self._loop is not asyncio.get_running_loop():
            raise UserError(
                f"{self.name} is stepped on another event loop: move it in a cell of its own, not under another "
                "magic or inside a function"
            )

    def _runs_again(self, cell: str | None) -> bool:
        log = self._open_log()
        if cell is None:
            coming = log.next_entry
            return coming is not None and coming.by == "cell" and coming.cell is None
        if cell in self._acted:
            return False
        self._acted.add(cell)
        return log.knows(cell)


def _nothing() -> None:
    """There is nothing to end yet."""


def _after(place: Path) -> Path:
    return (*place[:-1], place[-1] + 1)


async def fork(
    session: Session,
    source: Run,
    place: int | str,
    *,
    agent: AbstractAgent[Any, Any],
    changes: Changes,
    deps: Any = None,
) -> DebugRun:
    """Open a branch of a recorded run, finished or not, paused before that step; the run itself stays as it is."""
    at = read_path(place)
    recipe, overrides = restore_spec(session, source, at, agent=agent, changes=changes, deps=deps)
    name = changes.name or session.bench.free_name(source.agent)
    run = DebugRun(name=name, session=session, recipe=recipe, overrides=overrides)
    at = at if changes.prompt is None else (1,)
    await run.open_at(at)
    rest = forecast.describe(*forecast.of_rest(session.trace(source.id), run=source.id, since=at[0]), since=at[0])
    run.note = "; ".join(filter(None, [run.note, f"forked from run {source.id} at step {format_path(at)}{rest}"]))
    return run
