"""Budgets in a run: each live model request is reserved on every scope above it, and what happens at a limit."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import Any, NamedTuple

from pydantic_ai.models import Model
from pydantic_core import from_json

from agentkit.approval import decisions
from agentkit.approval.human_question import HumanQuestion
from agentkit.approval.interrupt import ask_all
from agentkit.approval.policy import TYPED, Decision, Question
from agentkit.budget import admin
from agentkit.budget.budget import (
    NANO,
    Amounts,
    Budget,
    BudgetScope,
    Limit,
    format_amount,
    format_command,
    merge,
    nano,
    parse,
    place,
    scope_of,
)
from agentkit.budget.ledger import Hold, Ledger, Scope, Shortfall, Stand, default_path, ledger
from agentkit.budget.request_estimate import Weight, cost_to_count, heaviest, weigh, weigh_batch
from agentkit.errors import ApprovalPending, BudgetAsks, BudgetExceeded, JournalError, UserError
from agentkit.events import Event, Gauge, Step, Usage
from agentkit.journal.execution import OnOutcome
from agentkit.journal.operation import Operation
from agentkit.journal.records import Outcome, Row
from agentkit.journal.store import Store
from agentkit.models.request_context import request_with
from agentkit.runtime.guard import ModelBatchInfo, ModelRequestInfo, PendingStep, ToolCallInfo
from agentkit.runtime.run_state import RunState
from agentkit.runtime.session import Session


class Raise(NamedTuple):
    """At the recorded step `step` this limit of a scope was raised to these."""

    step: int
    node: BudgetScope
    limit: Limit
    to: tuple[Limit, ...]


class Raises:
    """What was raised in the runs that the steps of one run are replayed from, as it comes to be replayed."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._known: set[str] = set()
        self._waiting: list[Raise] = []

    def before(self, step: int, frame: RunState) -> list[Raise]:
        """What was raised before this recorded step was performed, and not handed out before."""
        for run in frame.sources - self._known:
            self._known.add(run)
            self._waiting += filter(None, map(self._raise, self._store.questions_in(run, "budget")))
        due = [one for one in self._waiting if one.step < step]
        self._waiting = [one for one in self._waiting if one.step >= step]
        return due

    def _raise(self, row: Row) -> Raise | None:
        about = self._store.part(bytes.fromhex(row.parts["payload"]))
        if row.status != "done" or row.body is None or about is None or row.source:
            return None
        decision, asked = Decision.from_json(from_json(row.body)), from_json(about)
        if decision.verdict != "raise" or not decision.answer:
            return None
        (limit,) = parse(asked["limit"])
        return Raise(row.id, BudgetScope(asked["budget"]), limit, parse(str(decision.answer), window=limit.window))


_LONGEST_NAP = 0.5
_REMEMBERED = 20
_BEFORE = 12
_SINCE = "limit since"
"""In a question: when its limit was set. Where a clock was set back, the times of two records say no order."""


class Budgets:
    """The guard that holds the runs of one session to their budgets. Without any budget it does nothing."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._runs: dict[str, RunState] = {}
        self._cells: defaultdict[str, Amounts] = defaultdict(Amounts)
        self._answers: defaultdict[str, deque[int]] = defaultdict(lambda: deque(maxlen=_REMEMBERED))
        self._built: dict[BudgetScope, Budget | None] = {}
        self._since: dict[str, float] = {}
        try:
            book = self.ledger
        except (OSError, JournalError):
            # Replays need no ledger; a live step that needs it says what is wrong with it.
            book = None
        # When limits were set last before this session: what is set from now on is newer.
        self._before = None if book is None else book.later(book.newest)
        self._asking: defaultdict[tuple[asyncio.AbstractEventLoop, BudgetScope], asyncio.Lock] = defaultdict(
            asyncio.Lock
        )
        self._declined: set[tuple[str, BudgetScope, Limit]] = set()
        self._raises: dict[str, Raises] = {}
        # What is set aside for batches until their replies are recorded, by their tokens.
        self._batches: dict[str, Reservation] = {}
        # Where a ledger could not be kept: nothing is refused for it until a live step would need it.
        self._unkept: dict[BudgetScope, JournalError] = {}
        session.listen(self._hear)

    @property
    def ledger(self) -> Ledger | None:
        """The user's ledger, once anything is limited."""
        return admin.book()

    @property
    def project(self) -> str:
        """What the project of this session is called in the tree: the folder of its journal."""
        return str(self._session.folder.resolve())

    # ---- limits

    def node(self, *agents: str) -> BudgetScope:
        """Where an agent of this session stands; without a name, the session's notebook."""
        return place(project=self.project, label=self._session.label, agents=agents)

    def set_default(self, name: str, budget: Budget | None) -> None:
        """An agent's budget is what its build says, until `%agent budget` says something else."""
        node = self.node(name)
        self._since[name] = float("inf")
        if budget is not None or self.ledger is not None:
            book = ledger(default_path())
            with self._keeping(node):
                book.later(partial(self._take_over, book, node, budget)).result()
                self._since[name] = book.later(book.newest).result()

    @contextmanager
    def _keeping(self, node: BudgetScope) -> Iterator[None]:
        """Let what is replayed do without the ledger; a live step at `node` or below meets the same error."""
        try:
            yield
        except JournalError as error:
            self._unkept[node] = error
        else:
            self._unkept.pop(node, None)

    def _take_over(self, book: Ledger, node: BudgetScope, budget: Budget | None) -> None:
        given = budget or Budget()
        if book.budget(node) != given:
            book.set(node, given.limits, at_limit=given.at_limit)
        self._built[node] = budget

    # ---- runs

    async def enter(self, frame: RunState, budget: Budget | None, *, within: bool) -> None:
        """A run begins; `within`: inside a step of the run around it."""
        outer = frame.outer
        if outer is None or frame.maps:
            frame.place = self.node(frame.agent)
            if (caller := frame.whose.caller) is not None:
                frame.place = frame.place.child("caller", self._session.redactor.scrub(caller))
            if frame.maps:
                frame.place = frame.place.child("map", "")
        else:
            frame.place = outer.place.child("agent", frame.agent) if within else outer.place
        self._runs[frame.id] = frame
        book = ledger(default_path()) if budget is not None else self.ledger
        if book is not None:
            with self._keeping(self._own(frame)):
                await asyncio.wrap_future(book.later(partial(self._begin, book, frame, budget)))

    def _own(self, frame: RunState) -> BudgetScope:
        """Where an agent's own limits stand: they are those of all its callers together, and of all rows of a map."""
        alone = frame.outer is None or frame.outer.maps
        return self.node(frame.agent) if alone and not frame.maps else frame.place

    def _begin(self, book: Ledger, frame: RunState, budget: Budget | None) -> None:
        place = self._own(frame)
        if frame.maps:
            # Its limits are those of this very map: none is left of an earlier one.
            self._take_over(book, place, budget)
        elif budget is not None and self._built.get(place) is not budget:
            since = self._since.get(frame.agent)
            if since is None:
                before = self._before
                since = 0.0 if before is None or before.exception() is not None else before.result()
            if book.set_at(place) > since:
                # What was typed since it was built holds, also where its first run is inside another agent's.
                self._built[place] = budget
            else:
                self._take_over(book, place, budget)
        frame.gauges = _gauges(book, frame)

    def leave(self, frame: RunState) -> None:
        self._runs.pop(frame.id, None)
        self._raises.pop(frame.id, None)

    def _hear(self, event: Event) -> None:
        """What is replayed counts in its run and cell, so that a rerun reaches its limit where the run before did."""
        if not isinstance(event, Step) or not event.replayed or event.shared or event.usage is None:
            return
        frame = self._runs.get(event.run)
        outer = None if frame is None or frame.outer is None or frame.outer.maps else frame.outer
        if frame is None or (outer is not None and outer.place == frame.place):
            # An agent that is led on after it got stuck goes over its own steps again: they are counted already.
            return
        usage, model = event.usage, getattr(frame.owner, "model", None)
        cost = cost_to_count(model if event.kind == "model" and isinstance(model, Model) else None, usage)
        took = Amounts(
            usd=nano(cost or 0.0), tokens=usage.input_tokens + usage.output_tokens, requests=event.kind == "model"
        )
        self._cells[frame.execution.id] = _plus(self._cells[frame.execution.id], took)
        above: RunState | None = frame
        while above is not None:
            above.replayed_amounts = _plus(above.replayed_amounts, took)
            above = above.outer
        if frame.gauges:
            self._raise_again(frame, event)

    def _raise_again(self, frame: RunState, event: Step) -> None:
        """Behind the place where a person raised a limit, what is replayed was held to the new one."""
        raises = self._raises.setdefault(frame.id, Raises(self._session.store))
        for one in raises.before(event.id, frame):
            now = _plain(one.limit, one.limit.amount)
            kind = (one.node.label, one.limit.measure, one.limit.window, now)
            if any((gauge.scope, gauge.measure, gauge.window, gauge.limit) == kind for gauge in frame.gauges):
                _restate(frame, one.node, one.to)

    def _scopes(self, frame: RunState) -> tuple[Scope, ...]:
        chain = [frame]
        while chain[-1].outer is not None:
            chain.append(chain[-1].outer)
        by_place = {one.place: one for one in chain}
        # What is limited for each run is so for each row of a map.
        root = next((one for one in reversed(chain) if not one.maps), frame)
        cell = Stand(
            id=frame.execution.id, began=frame.execution.entered, replayed=self._cells[frame.execution.id]
        )  # fmt: skip
        return tuple(
            Scope(node=node, run=_stand(by_place.get(node, root)), cell=cell) for node in frame.place.lineage()
        )

    # ---- the guard

    @asynccontextmanager
    async def admit(self, step: PendingStep) -> AsyncIterator[OnOutcome]:
        for node in step.run.place.lineage():
            if (unkept := self._unkept.get(node)) is not None:
                raise unkept
        asked, book = step.call.about, self.ledger
        if book is None or not isinstance(asked, ModelRequestInfo | ToolCallInfo | ModelBatchInfo):
            yield _ignore_outcome
            return
        if isinstance(asked, ModelBatchInfo):
            async with self._admit_batch(step, book, asked):
                yield _ignore_outcome
            return
        if isinstance(asked, ModelRequestInfo) and asked.batch:
            async with self._admit_reply(step, book, asked) as hear:
                yield hear
            return
        reservation = Reservation(self, book, step, self._scopes(step.run))
        if isinstance(asked, ToolCallInfo):
            # A call costs nothing itself: only the time of its run can be used up.
            await reservation.reserve([Weight(member="", amounts=Amounts(), priced=True)])
            yield _ignore_outcome
            return
        expected = self._answers[step.run.agent]
        weights = weigh(asked, expected_output=max(expected, default=None))
        allowed = await reservation.reserve(weights)
        try:
            with request_with(affordable=allowed):
                yield reservation.on_outcome
        except asyncio.CancelledError:
            # It was stopped under way: what was sent may have to be paid.
            reservation.settle(reservation.held.amounts if reservation.held is not None else None)
            raise
        finally:
            await reservation.finish()
        if reservation.output is not None:
            expected.append(reservation.output)

    @asynccontextmanager
    async def _admit_batch(self, step: PendingStep, book: Ledger, asked: ModelBatchInfo) -> AsyncIterator[None]:
        """Set aside what all of its requests may take, until their replies have been counted one by one."""
        reservation = Reservation(self, book, step, self._scopes(step.run))
        expected = max(self._answers[step.run.agent], default=None)
        weight = await asyncio.to_thread(weigh_batch, asked.requests, expected_output=expected)
        if asked.sent:
            await reservation.hold(weight.amounts)
        else:
            await reservation.reserve([weight])
        self._batches[asked.batch] = reservation
        try:
            yield
        finally:
            del self._batches[asked.batch]
            await reservation.finish()

    @asynccontextmanager
    async def _admit_reply(self, step: PendingStep, book: Ledger, asked: ModelRequestInfo) -> AsyncIterator[OnOutcome]:
        """Count a reply that arrived with a batch: it is not refused, because it is paid."""
        reservation = self._batches.get(asked.batch)
        if reservation is None:
            reservation = Reservation(self, book, step, self._scopes(step.run))
            await reservation.hold(Amounts())
        counted: list[Future[None]] = []
        expected = self._answers[step.run.agent]
        part = Amounts()
        if reservation.held is not None and reservation.held.id:
            part = weigh(asked, expected_output=max(expected, default=None), batched=True)[0].amounts

        def hear(outcome: Outcome) -> None:
            if outcome.status == "done" and outcome.usage is not None:
                counted.append(reservation.commit_part(part, outcome.usage))
                if not outcome.usage.estimated:
                    expected.append(outcome.usage.output_tokens)

        yield hear
        for one in counted:
            await asyncio.shield(asyncio.wrap_future(one))

    async def decide(self, step: PendingStep, refused: Shortfall, budget: Budget) -> None:
        """Ask the person who is there; returns when the limit was raised."""
        loop = asyncio.get_running_loop()
        async with self._asking[loop, refused.node]:
            book = ledger(default_path())
            now = await asyncio.wrap_future(book.later(partial(book.budget, refused.node)))
            if now != budget or refused.limit not in now.limits:
                # Somebody raised it while this one waited to ask, or before it had looked what the limit is.
                return
            limit = (step.run.execution.id, refused.node, refused.limit)
            if limit in self._declined:
                raise BudgetExceeded(_describe_excess(step.run.agent, refused))
            try:
                since = await asyncio.wrap_future(book.later(partial(book.set_at, refused.node)))
                raised = await _ask_to_raise(step, refused, budget, since=since)
            except BudgetExceeded:
                # Whoever else reaches this limit in this cell need not ask too.
                self._declined.add(limit)
                raise
            given = merge(budget.limits, parse(raised, window=refused.limit.window))
            change = partial(book.set, refused.node, given, at_limit=budget.at_limit)
            await asyncio.wrap_future(book.later(change))
            _restate(step.run, refused.node, given)


class Reservation:
    """One step on its way past the limits."""

    def __init__(self, budgets: Budgets, book: Ledger, step: PendingStep, scopes: tuple[Scope, ...]) -> None:
        self._budgets = budgets
        self._book = book
        self._step = step
        self._scopes = scopes
        self._settled: Future[None] | None = None
        self.held: Hold | None = None
        self.output: int | None = None

    # ---- before

    async def reserve(self, weights: Sequence[Weight]) -> frozenset[str] | None:
        """Set aside what the request may take; the members that may answer it, None for all. Raises BudgetExceeded."""
        possible = tuple(weights)
        while True:
            possible = await self._add_prices(possible)
            found = await self._try(heaviest(possible) if possible[0].amounts.requests else Amounts())
            if isinstance(found, Hold):
                self.held = found
                return None if len(possible) == len(weights) else frozenset(weight.member for weight in possible)
            possible = await self._at_limit(found, possible)

    async def _try(self, need: Amounts) -> Hold | Shortfall:
        future = self._book.later(partial(self._book.reserve, self._scopes, need))
        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            if not future.cancelled():
                future.add_done_callback(self._give_back)
            raise

    def _give_back(self, future: Future[Hold | Shortfall]) -> None:
        if future.exception() is None and isinstance(held := future.result(), Hold):
            # Whichever thread this is: the file is worked on by its own.
            self._book.later(partial(self._book.release, held))

    async def _add_prices(self, weights: tuple[Weight, ...]) -> tuple[Weight, ...]:
        if all(weight.priced for weight in weights):
            return weights
        limited = await asyncio.wrap_future(self._book.later(self._money_limit))
        if limited is None:
            return weights
        known = tuple(weight for weight in weights if weight.priced)
        if not known:
            raise BudgetExceeded(_describe_missing_price(weights[0].member or self._step.call.name, *limited))
        return known

    def _money_limit(self) -> tuple[BudgetScope, Limit] | None:
        for scope in self._scopes:
            for limit in self._book.budget(scope.node).limits:
                if limit.measure == "usd":
                    return scope.node, limit
        return None

    async def _at_limit(self, refused: Shortfall, possible: tuple[Weight, ...]) -> tuple[Weight, ...]:
        """What to try with next; raises BudgetExceeded when there is nothing."""
        if refused.until is not None and (_passes_soon(refused) or refused.at_limit in (None, "wait")):
            await self._wait(refused, refused.until)
            return possible
        if refused.at_limit == "fallback" and (cheaper := _cheaper(possible, refused.limit)):
            return cheaper
        session = self._step.session
        attended = session.asker is not None and refused.at_limit != "stop" and refused.limit.measure != "seconds"
        if not attended:
            raise BudgetExceeded(_describe_excess(self._step.run.agent, refused))
        book = self._book
        budget = await asyncio.wrap_future(book.later(partial(book.budget, refused.node)))
        await self._budgets.decide(self._step, refused, budget)
        return possible

    async def _wait(self, refused: Shortfall, until: float) -> None:
        if refused.limit.window == "minute":
            self._step.waits(f"{refused.limit.label} of {refused.node.label}", until=until)
        nap = until - time.time()
        await asyncio.sleep(min(max(nap, 0.01), _LONGEST_NAP))

    async def hold(self, amounts: Amounts) -> None:
        """Set it aside without asking whether there is room: it was sent before."""
        self.held = await asyncio.wrap_future(self._book.later(partial(self._book.hold, self._scopes, amounts)))

    # ---- after

    def on_outcome(self, outcome: Outcome) -> None:
        """What was recorded, from whichever thread."""
        usage, held = outcome.usage, self.held
        if outcome.status != "done" or usage is None or held is None:
            return
        if not usage.estimated:
            self.output = usage.output_tokens
        self.settle(_taken(usage, held.amounts))

    def commit_part(self, part: Amounts, usage: Usage) -> Future[None]:
        """Count one reply of a batch in the place of its part of what was set aside."""
        assert self.held is not None
        return self._book.later(partial(self._book.commit_part, self.held, part, _taken(usage, part)))

    def settle(self, took: Amounts | None) -> None:
        if self._settled is None and self.held is not None:
            book, held = self._book, self.held
            work = partial(book.release, held) if took is None else partial(book.commit, held, took)
            self._settled = book.later(work)

    async def finish(self) -> None:
        self.settle(None)
        if self._settled is not None:
            await asyncio.shield(asyncio.wrap_future(self._settled))


def _taken(usage: Usage, reserved: Amounts) -> Amounts:
    """What a reply took; one whose price or tokens nobody knows counts as what was set aside for it."""
    dollars = reserved.usd if usage.cost is None else nano(usage.cost)
    tokens = usage.input_tokens + usage.output_tokens
    if usage.estimated:
        dollars, tokens = max(dollars, reserved.usd), max(tokens, reserved.tokens)
    return Amounts(usd=dollars, tokens=tokens, requests=1)


def _ignore_outcome(outcome: Outcome) -> None:
    """Nothing was reserved."""


def _stand(frame: RunState) -> Stand:
    return Stand(id=frame.id, began=frame.opened, replayed=frame.replayed_amounts)


def _plus(one: Amounts, other: Amounts) -> Amounts:
    return Amounts(
        usd=one.usd + other.usd, tokens=one.tokens + other.tokens, requests=one.requests + other.requests
    )  # fmt: skip


def _gauges(book: Ledger, frame: RunState) -> tuple[Gauge, ...]:
    return tuple(
        Gauge(
            scope=standing.node.label,
            measure=standing.limit.measure,
            window=standing.limit.window,
            limit=_plain(standing.limit, standing.limit.amount),
            used=0.0 if standing.limit.window in ("run", "cell") else _plain(standing.limit, standing.used),
        )
        for standing in book.standings(list(frame.place.lineage()))
        if standing.limit is not None
    )


def _with_amounts(gauge: Gauge, amounts: Mapping[tuple[str, str], float]) -> Gauge:
    now = amounts.get((gauge.measure, gauge.window), gauge.limit)
    if now == gauge.limit:
        return gauge
    before = gauge.limit if gauge.before is None else gauge.before
    return replace(gauge, limit=now, before=before if now > before else None)


def _restate(frame: RunState, node: BudgetScope, limits: Sequence[Limit]) -> None:
    """The runs under way show the new limits of a scope."""
    amounts = {(str(limit.measure), str(limit.window)): _plain(limit, limit.amount) for limit in limits}
    above: RunState | None = frame
    while above is not None:
        above.gauges = tuple(
            _with_amounts(gauge, amounts) if gauge.scope == node.label else gauge for gauge in above.gauges
        )
        above.restate()
        above = above.outer


def _plain(limit: Limit, amount: int) -> float:
    return amount / NANO if limit.measure == "usd" else amount / 1000 if limit.measure == "seconds" else float(amount)


def _passes_soon(refused: Shortfall) -> bool:
    """Whether only what others have set aside is in the way."""
    return refused.used + refused.need <= refused.limit.amount


def _cheaper(possible: Sequence[Weight], limit: Limit) -> tuple[Weight, ...]:
    """The members behind the first one that take less of what is limited."""
    most = possible[0].amounts.of(limit.measure)
    return tuple(weight for weight in possible[1:] if weight.amounts.of(limit.measure) < most)


# ---- words


def _describe_excess(agent: str, refused: Shortfall) -> str:
    limit = refused.limit
    need = f", the next request may take {format_amount(limit.measure, refused.need)}" if refused.need else ""
    held = f", {format_amount(limit.measure, refused.held)} set aside" if refused.held else ""
    whose = "its budget" if refused.node.label == agent else f"the budget of {refused.node.label}"
    return (
        f"{agent} stopped at {whose}, {limit.label}: {format_amount(limit.measure, refused.used)} used{held}{need}; "
        f"raise "
        f"it with {format_command(refused.node, limit, _enough(refused))} and run again, only what is left is paid"
    )


def _enough(refused: Shortfall) -> int:
    """Twice the limit, or whatever the next step needs if that is more."""
    least = refused.used + refused.held + refused.need
    amount = refused.limit.amount * 2
    while amount < least:
        amount *= 2
    return amount


def _describe_missing_price(model: str, node: BudgetScope, limit: Limit) -> str:
    return (
        f"{model} has no known price and the budget of {node.label} is {limit.label}: limit tokens or requests instead "
        f"(budget='20k tokens'), choose a model with a price, or lift it ({_lift_command(node)})"
    )


def _lift_command(node: BudgetScope) -> str:
    return f"`agentkit budget {scope_of(node)} off`"


async def _ask_to_raise(step: PendingStep, refused: Shortfall, budget: Budget, *, since: float) -> str:
    """The limits that the person raised it to; `since` is when the present ones were set. Raises BudgetExceeded when
    they did not raise them."""
    frame, limit = step.run, refused.limit
    store = frame.journal.store
    scrub = frame.journal.redactor.scrub
    free_text = getattr(frame.owner, "output_type", str) is str
    question = Question(
        kind="budget",
        tool="budget",
        arguments={
            "budget of": refused.node.label,
            "limit": limit.label,
            "used": format_amount(limit.measure, refused.used),
            "needed next": format_amount(limit.measure, refused.need),
            _SINCE: _stamp(since),
        },
        text=f"The budget of {refused.node.label} is {limit.label}. Used so far: "
        f"{format_amount(limit.measure, refused.used)}; "
        f"the next request may take {format_amount(limit.measure, refused.need)}.",
        default=replace(limit, amount=_enough(refused)).text,
        choices=("finish",) if free_text else (),
        before=tuple(scrub(line) for line in frame.ran[-_BEFORE:]),
        agent=frame.agent,
        check=lambda limits: _too_little(limits, refused),
    )
    # The same question is asked once for each limit: raised, the next one has another.
    payload = {"budget": refused.node, "limit": limit.text}
    call = HumanQuestion.of(frame, "question", question, payload=payload, history=step.call.history)
    row = store.find(call.key.key, 0)
    earlier = None if row is None or row.status != "done" else decisions.read_question(store, row)
    try:
        (decision,) = await ask_all(frame, [(question, replace(call, request=question.text, counted=False))])
    except ApprovalPending as pending:
        asked = f"{frame.agent} reached the budget of {refused.node.label} ({limit.label}) and"
        raise BudgetAsks(steps=pending.steps, asked=asked, how=TYPED["budget"]) from None
    match decision.verdict:
        case "raise" if earlier is not None and _outdated(earlier.question, decision, since):
            # Somebody lowered it after that: nobody raises it again but a person.
            await _forget(frame, call)
            return await _ask_to_raise(step, refused, budget, since=since)
        case "raise":
            return str(decision.answer)
        case "stop":
            # Run again, the limit is met again: then the person is asked again.
            await _forget(frame, call)
            raise BudgetExceeded(_describe_excess(frame.agent, refused))
        case "finish":
            raise BudgetExceeded(_describe_excess(frame.agent, refused), finish=True)
        case _:
            raise UserError(f"{decision.verdict}: a budget can be raised, or the run finished or stopped")


def _outdated(question: Question, decision: Decision, since: float) -> bool:
    """Whether the limits that are in force `since` then are not those that the person was asked about."""
    kept = question.arguments.get(_SINCE) if isinstance(question.arguments, Mapping) else None
    return kept != _stamp(since) if kept is not None else decision.at < since


def _stamp(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="microseconds")


async def _forget(frame: RunState, call: Operation) -> None:
    store = frame.journal.store
    if (row := store.find(call.key.key, 0)) is not None:
        await asyncio.wrap_future(store.forget(step=row.id))


def _too_little(limits: Any, refused: Shortfall) -> str | None:
    limit = next((one for one in limits if (one.measure, one.window) == _kind(refused.limit)), None)
    least = refused.used + refused.held + refused.need
    if limit is None:
        return f"raise: say how many {refused.limit.measure} per {refused.limit.window}, as in {refused.limit.text}"
    if limit.amount < least:
        return (
            f"raise: {limit.label} is not enough for the next request, {format_amount(limit.measure, least)} would be"
        )
    return None


def _kind(limit: Limit) -> tuple[str, str]:
    return limit.measure, limit.window


def budgets_of(session: Session) -> Budgets:
    """The guard of a session, made when it is first needed."""
    for guard in session.guards:
        if isinstance(guard, Budgets):
            return guard
    made = Budgets(session)
    session.guards = (made, *session.guards)
    return made
