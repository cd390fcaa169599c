"""The one door: every model, tool and human call is replayed from the record here, or performed and recorded."""

from __future__ import annotations

import asyncio
import inspect
import json
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import wait
from dataclasses import replace
from typing import Any, Literal, NamedTuple, assert_never

from pydantic_core import from_json

from agentkit.errors import ApprovalPending, InDoubt, ReplayMiss, SandboxError, SecretMissing, Stopped, describe_error
from agentkit.events import Event
from agentkit.journal import database_errors
from agentkit.journal.execution import (
    Admission,
    Occurrence,
    RunFrame,
    StepFrame,
    absorb,
    crash_point,
    current_run,
    current_step,
    dumps,
    free,
    inside_step,
    live_event,
    shorten,
    step_event,
)
from agentkit.journal.operation import Operation, Payload
from agentkit.journal.provenance import explain_restriction
from agentkit.journal.records import ASKED, CONTROL_ERROR, LOST, PAUSED, UNPERFORMED, Claim, Intent, Outcome, Row, Use
from agentkit.journal.redaction import Redactor
from agentkit.journal.replay import (
    Compare,
    Doubt,
    Perform,
    Record,
    Refuse,
    Replay,
    Request,
    Verdict,
    Verify,
    Wait,
    decide,
    is_trusted,
    may_have_cost,
)
from agentkit.journal.row_codec import unchecked_inputs
from agentkit.journal.settlements import WAITING
from agentkit.journal.shown_output import join_items
from agentkit.journal.single_flight import Flights, InFlight
from agentkit.journal.store import Store
from agentkit.journal.writer import on_disk

_JOIN_POLL_SECONDS = 0.05


class Performed(NamedTuple):
    """The answer of a step, whether it was replayed, and the step's id on disk."""

    payload: Payload
    replayed: bool
    step: int


class Journal:
    """Answers operations from a store, or performs and records them; tells those who listen about each change."""

    def __init__(
        self,
        store: Store,
        *,
        redactor: Redactor,
        emit: Callable[[Event], None],
        show: Callable[[dict[str, Any], str], None] = lambda bundle, source: None,
        is_heard: Callable[[], bool] = lambda: True,
    ) -> None:
        self.store = store
        self.redactor = redactor
        self._emit = emit
        self._is_heard = is_heard
        self._show = show
        self._flights = Flights()
        self.settle_doubt: Callable[[InDoubt], Awaitable[bool]] = _settle_nothing
        self.admission: Admission = free

    async def perform(self, operation: Operation, body: Callable[[], Awaitable[Payload]]) -> Performed:
        """The recorded answer of `operation`, else the live answer of `body`, recorded before it is returned.

        Raises InDoubt when the step must not be repeated unasked, ReplayMiss in `replay` mode, and JournalError when
        the record cannot be read or written, in which case `body` was not called.
        """
        run = current_run()
        if run is None:
            raise RuntimeError("a step was performed outside a run")
        n = self.count(operation, run)
        ord = run.next_ord()
        started = time.time()
        # What is on record needs nobody's turn.
        landings = self._flights.landings
        record, verdict = self._decide(self._find(operation, n), operation, run)
        if isinstance(verdict, Replay):
            return _note_reply(self._replay(verdict.row, operation, run, ord=ord, started=started), operation, run, n)
        while True:
            flight, mine = self._flights.take_off(operation.key.key, n)
            if not mine:
                await flight.wait()
                continue
            try:
                if self._flights.landings != landings:
                    record = self._find(operation, n)
                performed = await self._attempt(flight, record, operation, run, body, ord=ord, started=started)
            except InDoubt as doubtful:
                if not await self.settle_doubt(doubtful):
                    raise
                performed = None
            finally:
                if not flight.handed_over:
                    self._flights.land(flight)
            if performed is not None:
                return _note_reply(performed, operation, run, n)

    async def enter(self, row: Row, operation: Operation, body: Callable[[], Awaitable[Payload]]) -> Performed:
        """A recorded step with the steps inside it, which come to this door again; its own record stays as it is."""
        run = current_run()
        assert run is not None
        self.count(operation, run)
        ord, started = run.next_ord(), time.time()
        # What is inside counts for itself.
        performed = self._replay(replace(row, nested={}, usage=None), operation, run, ord=ord, started=started)
        with inside_step(self._frame(row, None, operation, run, ord=ord)):
            await body()
        return performed

    async def _attempt(
        self,
        flight: InFlight,
        record: Record | None,
        operation: Operation,
        run: RunFrame,
        body: Callable[[], Awaitable[Payload]],
        *,
        ord: int,
        started: float,
    ) -> Performed | None:
        """Do what is decided; None when another process has been at it, so that it is to be looked up again."""
        underway = record is not None and self._is_underway(record.row)
        record, verdict = self._decide(record, operation, run, underway=underway)
        redo = False
        match verdict:
            case Replay(row):
                return self._replay(row, operation, run, ord=ord, started=started)
            case Wait(row):
                await self._wait_for_other(row)
                return None
            case Verify(row):
                answer = await operation.verify()
                if answer is not None:
                    await asyncio.wrap_future(self.store.settle(row.id, "result", self._body(answer)))
                    return self._replay(self._reload(row), operation, run, ord=ord, started=time.time())
                redo = True
            case Perform():
                redo = verdict.redo
            case Doubt(row, reason):
                raise InDoubt(step=row.id, name=operation.name, reason=reason)
            case Refuse():
                raise self._refusal(verdict, record, operation, run)
            case _:
                assert_never(verdict)
        before = None if record is None else record.row
        shared = await self._from_cache(operation)
        admission = free if shared is not None else self.admission
        async with admission(operation, run, ord) as told:
            claim = await self._claim(self.intent(operation, run, before, n=flight.n, ord=ord, redo=redo))
            if not claim.mine:
                if self._is_underway(claim.row):
                    await self._wait_for_other(claim.row)
                return None
            if shared is not None:
                return await self._adopt(shared, operation, claim.row, run, ord=ord, started=started)
            frame = self._frame(claim.row, before, operation, run, ord=ord)
            frame.told = told
            return await self._live(flight, frame, operation, body)

    # -- one at a time

    def _is_underway(self, row: Row) -> bool:
        """Whether somebody else performs this step just now."""
        if row.status != "started":
            return False
        if row.owner == self.store.owner:
            # A row of our own that is not in flight was given up: its result could not be written.
            return self._flight_of(row) is not None
        return self.store.is_alive(row.owner)

    def _flight_of(self, row: Row) -> InFlight | None:
        """The flight that performs it under another key than it is looked up by."""
        flight = self._flights.get(row.key, row.n)
        return flight if flight is not None and flight.key != row.key else None

    async def _wait_for_other(self, row: Row) -> None:
        """Wait a little for whoever performs this step."""
        flight = self._flight_of(row) if row.owner == self.store.owner else None
        await (asyncio.sleep(_JOIN_POLL_SECONDS) if flight is None else flight.wait())

    async def _claim(self, intent: Intent) -> Claim:
        """The row to perform under. When stopped meanwhile, it is given back: nothing was performed, so no doubt."""
        future = self.store.begin(intent)
        try:
            return await on_disk(future)
        except asyncio.CancelledError:
            if not future.cancelled() and future.exception() is None and (claim := future.result()).mine:
                wait([self.store.finish(Outcome(step=claim.row.id, status="cancelled", error=UNPERFORMED))])
            raise

    # -- looking up

    def count(self, operation: Operation, run: RunFrame) -> int:
        """Which of the equal requests of this execution this one is; the next will be another."""
        return self._take(operation.key.key, run) if operation.counted else 0

    def _take(self, key: bytes, run: RunFrame) -> int:
        outer = current_step()
        if outer is not None:
            for frame in outer.lineage():
                frame.nested[key.hex()] += 1
        taken = Occurrence(key, run.execution.counts.take(key))
        run.taken.append(taken)
        return taken.n

    def resume_later(self, run: RunFrame, *, but: Occurrence | None = None) -> None:
        """Give back what an unfinished run took, so that the next equal one goes on where it ended.

        `but` is the reply that it ended for: the next one asks for another.
        """
        outer = current_step()
        around = () if outer is None else tuple(outer.lineage())
        for taken in run.taken:
            if taken == but:
                continue
            run.execution.counts.give_back(taken)
            for frame in around:
                frame.nested[taken.key.hex()] -= 1
        run.taken.clear()

    def _find(self, operation: Operation, n: int) -> Record | None:
        for key in (operation.key.key, *operation.alternatives):
            row = self.store.find(key, n)
            if row is not None:
                return Record(row, holds=None if operation.reads_outside else True)
        # What must happen once is not repeated unasked when its code has changed.
        row = self.store.find_slot(operation.key.slot, n) if operation.effects == "once" else None
        return None if row is None else Record(row, edited=True)

    def _decide(
        self, record: Record | None, operation: Operation, run: RunFrame, *, underway: bool = False
    ) -> tuple[Record | None, Verdict]:
        """What happens to the step, and its record with what was learnt about it."""
        row = None if record is None else record.row
        request = Request(
            effects=operation.effects,
            mode=run.mode,
            owner=self.store.owner,
            fresh=run.fresh,
            resumes=row is not None
            and row.started >= run.execution.began
            and run.execution.counts.resumes(Occurrence(operation.key.key, row.n)),
            underway=underway,
            read_only=self.store.read_only,
            lacks_secret=bool(run.missing_secrets),
            verifiable=operation.verifiable,
        )
        verdict = decide(record, request)
        if isinstance(verdict, Compare):
            row = verdict.row
            changed = self.find_change(row, operation)
            outgrown = run.mode != "replay" and row.body is not None and operation.stale(row.body)
            record = Record(row, holds=changed is None and not outgrown, changed=changed)
            verdict = decide(record, request)
            assert not isinstance(verdict, Compare)
        return record, verdict

    def find_decision(self, operation: Operation, run: RunFrame) -> Row | None:
        """What is on record of the question `operation`, where it was answered by somebody else or in another place."""
        record = self._find(operation, run.execution.counts.peek(operation.key.key) if operation.counted else 0)
        elsewhere = record is not None and not is_trusted(record.row, run.mode)
        return record.row if record is not None and elsewhere and record.row.status == "done" else None

    def find_record(self, operation: Operation, run: RunFrame, *, ahead: int = 0) -> Row | None:
        """The row that would answer `operation`, made after `ahead` equal ones; None when it would be performed.

        Nothing is counted or noted.
        """
        found = self._find(operation, run.execution.counts.peek(operation.key.key, ahead) if operation.counted else 0)
        _, verdict = self._decide(found, operation, run)
        return verdict.row if isinstance(verdict, Replay) else None

    def find_change(self, row: Row, operation: Operation) -> str | None:
        """Why a recorded answer of `operation` no longer holds: what it read from outside is not as it was."""
        return None if row.evidence is None else operation.find_change(row, from_json(row.evidence))

    # -- replaying

    def _replay(self, row: Row, operation: Operation, run: RunFrame, *, ord: int, started: float) -> Performed:
        assert row.body is not None
        payload = from_json(row.body)
        if b"<secret:" in row.body:
            payload, missing = self.redactor.restore(payload)
            run.missing_secrets += tuple(missing)
        if row.history == operation.history:
            operation.known()
        self._note_replay(row, run, ord=ord, started=started, unchecked=operation.unchecked())
        return Performed(operation.as_replayed(payload), True, row.id)

    def pass_over(self, row: Row, run: RunFrame, *, counted: bool, unchecked: tuple[str, ...] = ()) -> None:
        """Note a recorded step as replayed, in its turn, where nobody needs its answer."""
        if counted:
            self._take(row.key, run)
        if row.kind == "model":
            run.replied = Occurrence(row.key, row.n)
        self._note_replay(row, run, ord=run.next_ord(), started=time.time(), unchecked=unchecked)

    def _note_replay(
        self, row: Row, run: RunFrame, *, ord: int, started: float, unchecked: tuple[str, ...] = ()
    ) -> None:
        self._credit(row, run)
        absorb(current_step(), row.usage)
        for bundle in json.loads(row.shown) if row.shown else ():
            # What was printed stands in the row of the step.
            if "stream" not in bundle:
                self._show(bundle, row.source)
        run.replayed += 1
        run.sources.add(row.run)
        ended = time.time()
        if not self.store.read_only:
            self.store.note((Use(run.id, ord, row.id, True, started, ended),))
        if not self._is_heard():
            return
        recorded = unchecked_inputs(row.evidence)
        unchecked = tuple(dict.fromkeys((*recorded, *unchecked)))
        event = step_event(
            row, run, ord, status="done", replayed=True, started=started, ended=ended, unchecked=unchecked
        )
        # The row may be older than what is known of secrets now.
        self._emit(self.redactor.scrub_event(event))

    def _credit(self, row: Row, run: RunFrame) -> None:
        """Count the steps that a replayed step performed inside itself when it was live."""
        for key, times in row.nested.items():
            for _ in range(times):
                self._take(bytes.fromhex(key), run)

    # -- going live

    def _refusal(self, refuse: Refuse, record: Record | None, operation: Operation, run: RunFrame) -> Exception:
        match refuse.why:
            case "not on record":
                restriction = self.store.replay_only_reason
                detail = self._explain_miss(record, operation, run)
                detail += f"; {explain_restriction(restriction)}" if restriction else ""
                return ReplayMiss(name=f"{operation.kind} {operation.name}", detail=detail)
            case "read-only":
                return database_errors.read_only(self.store.path)
            case "secret missing":
                return SecretMissing(run.missing_secrets[0], f"{operation.kind} {operation.name}")

    def _explain_miss(self, record: Record | None, operation: Operation, run: RunFrame) -> str:
        """In one line, why nothing on record answers it: its own holds none, or the nearest key differs in parts."""
        if record is not None:
            row = record.row
            changed = self.find_change(row, operation) if row.status == "done" else None
            why = f" ({row.error.splitlines()[0]})" if row.error else ""
            state = f"its recording is step {row.id}, which is {row.status}{why}"
            return changed or f"{state}: only what is done is replayed"
        rows = self.store.nearest(kind=operation.kind, name=operation.name, agent=run.agent, limit=1)
        if not rows:
            return f"nothing is recorded for {operation.name} of {run.agent}"
        differs = [part for part, value in operation.key.parts.items() if rows[0].parts.get(part) != value]
        return f"the nearest recording is step {rows[0].id}; different: {', '.join(differs) or 'its place (n)'}"

    def intent(
        self, operation: Operation, run: RunFrame, before: Row | None, *, n: int, ord: int, redo: bool = False
    ) -> Intent:
        """What is written before it is performed, the `n`-th equal one; `before` is what is on record of it."""
        outer = current_step()
        parent = operation.batch if operation.batch is not None or outer is None else outer.row.id
        return Intent(
            key=operation.key.key,
            n=n,
            slot=operation.key.slot,
            kind=operation.kind,
            name=operation.name,
            effects=operation.effects,
            agent=run.agent,
            run=run.id,
            ord=ord,
            parent=parent,
            parts=operation.key.parts,
            request=shorten(self.redactor.scrub(operation.request)),
            history=operation.history,
            model=operation.model,
            nodes=operation.nodes(),
            bodies=operation.key.bodies,
            fresh=run.fresh or run.mode == "live",
            redo=redo,
            paid_before=before is not None and may_have_cost(before) and not self._is_unsent(before),
            abandoned=before is not None and before.status == "started" and before.owner == self.store.owner,
        )

    def _is_unsent(self, row: Row) -> bool:
        return self.store.inbox.is_unsent(row) or self.store.came_with_batch(row)

    def _reload(self, row: Row) -> Row:
        again = self.store.step(row.id)
        assert again is not None
        return again

    async def _from_cache(self, operation: Operation) -> Payload | None:
        if operation.cache is None:
            return None
        body = await asyncio.to_thread(operation.cache.get, operation.key.key)
        return None if body is None else json.loads(body)

    async def _adopt(
        self, payload: Payload, operation: Operation, row: Row, run: RunFrame, *, ord: int, started: float
    ) -> Performed:
        """Record an answer that the call cache already had: nothing is performed and nothing is spent."""
        reading = operation.read(payload)
        use = Use(run.id, ord, row.id, True, started, time.time())
        await asyncio.wrap_future(
            self.store.finish(
                Outcome(
                    step=row.id,
                    status="done",
                    body=self._body(payload),
                    usage=reading.usage,
                    node=reading.node,
                    use=use,
                )
            )
        )
        run.replayed += 1
        again = self._reload(row)
        self._emit(
            step_event(again, run, ord, status="done", replayed=True, started=started, ended=use.ended, shared=True)
        )
        return Performed(operation.as_replayed(payload), True, row.id)

    def _frame(self, row: Row, before: Row | None, operation: Operation, run: RunFrame, *, ord: int) -> StepFrame:
        frame = StepFrame(
            row=row,
            ord=ord,
            run=run,
            started=time.time(),
            idempotency_key=f"{row.key.hex()[:32]}-{row.n}-{row.gen}",
            outer=current_step(),
            paid_before=before.maybe_paid_twice if before is not None and before.id == row.id else None,
        )
        if operation.kind == "model":
            frame.responses = self.store.inbox.of(row, clean=self.redactor.clean)
        if operation.encode is not None:
            encode = operation.encode

            def finish(value: object) -> None:
                if inspect.isawaitable(value):
                    # A plain function that gave work to await: it goes on outside the thread.
                    frame.thread = None
                else:
                    self._finish_in_thread(frame, operation, encode(value))

            frame.finish_in_thread = finish
        return frame

    async def _live(
        self, flight: InFlight, frame: StepFrame, operation: Operation, body: Callable[[], Awaitable[Payload]]
    ) -> Performed:
        frame.run.live += 1
        frame.flight = flight
        frame.changed = lambda: self._emit(
            live_event(frame, replace(frame.row, shown=self._output_bytes(frame)), "started")
        )
        self._emit(live_event(frame, frame.row, "started"))
        if operation.sends and frame.responses is not None:
            frame.responses.wait()
        crash_point("intent")
        try:
            with inside_step(frame):
                with operation.watching():
                    payload = await body()
                if operation.kind == "tool" and not frame.recorded:
                    # It reads files, which may be large.
                    await asyncio.to_thread(operation.evidence)
        except asyncio.CancelledError:
            self._record_cancellation(frame, flight)
            raise
        except BaseException as error:
            frame.run.broke = error
            await self._record_failure(frame, error)
            raise
        crash_point("call")
        await self._record(frame, operation, payload)
        crash_point("record")
        return Performed(payload, False, frame.row.id)

    async def _record(self, frame: StepFrame, operation: Operation, payload: Payload) -> None:
        if (signal_name := operation.control(payload)) is not None:
            await self._finish(frame, status="failed", error=f"{CONTROL_ERROR}{signal_name}")
            return
        if frame.recorded:
            return
        try:
            outcome = self._outcome(frame, operation, payload)
        except (ValueError, TypeError, RecursionError) as error:
            # What cannot be written is the error of this step, never one in doubt.
            await self._record_failure(frame, error)
            raise
        written = self.store.finish(outcome)
        try:
            await on_disk(written)
        finally:
            if written.exception() is None:
                self._record_outcome(frame, outcome)
        if operation.cache is not None and outcome.body is not None and operation.cacheable(payload):
            await asyncio.to_thread(operation.cache.put, operation.key.key, outcome.body, operation.ttl)

    def _record_outcome(self, frame: StepFrame, outcome: Outcome) -> None:
        frame.recorded = True
        if frame.row.kind == "model":
            absorb(frame.outer, outcome.usage)
        if frame.responses is not None:
            frame.responses.drop()
        frame.told(outcome)
        ended = outcome.use.ended if outcome.use is not None else None
        self._emit(live_event(frame, outcome.of(frame.row), "done", ended))

    def _outcome(self, frame: StepFrame, operation: Operation, payload: Payload) -> Outcome:
        reading = operation.read(payload)
        body = self._body(payload)
        evidence = operation.evidence()
        return Outcome(
            step=frame.row.id,
            status="done",
            body=body,
            evidence=None if evidence is None else self._body(evidence),
            wrote=tuple(one["path"] for one in (evidence or {}).get("wrote", ())),
            usage=reading.usage or frame.inner,
            nested=dict(frame.nested),
            shown=self._output_bytes(frame),
            result=shorten(self.redactor.scrub(operation.describe(payload))),
            key=reading.key,
            model=reading.model,
            node=reading.node,
            use=Use(frame.run.id, frame.ord, frame.row.id, False, frame.started, time.time()),
            paid_twice=_is_double_payment(frame),
        )

    def _output_bytes(self, frame: StepFrame) -> bytes | None:
        return self._body(join_items(tuple(frame.shown), frame.printed)) if frame.shown else None

    def _body(self, payload: Payload) -> bytes:
        body = dumps(payload)
        # Nearly every answer holds no secret, and is read through once instead of being made anew.
        return body if self.redactor.clean(body.decode()) else dumps(self.redactor.scrub_json(payload))

    def _finish_in_thread(self, frame: StepFrame, operation: Operation, payload: Payload) -> None:
        """Record a tool's result from the thread that did the work, whether or not anybody still waits for it."""
        if operation.control(payload) is not None:
            return
        outcome = self._outcome(frame, operation, payload)
        self.store.finish(outcome).result()
        self._record_outcome(frame, outcome)

    def _record_cancellation(self, frame: StepFrame, flight: InFlight) -> None:
        if frame.thread is None:
            error = PAUSED if frame.paused else "stopped"
            wait([self.store.finish(self._end(frame, "cancelled", error))])
            self._tell(frame, status="cancelled", error=error)
            return
        # The thread goes on and records its end; whoever asks again waits for it.
        flight.handed_over = True
        frame.thread.add_done_callback(lambda thread: self._after_thread(frame, flight, performed=thread.result()))

    def _after_thread(self, frame: StepFrame, flight: InFlight, *, performed: bool) -> None:
        try:
            if not frame.recorded:
                error = "the tool raised after it was stopped" if performed else UNPERFORMED
                self.store.finish(self._end(frame, "failed" if performed else "cancelled", error)).result()
        finally:
            self._flights.land(flight)

    async def _record_failure(self, frame: StepFrame, error: BaseException) -> None:
        # Where in a program it was stands below the cell; the record has one line.
        said = f"{type(error).__name__}: {error.headline}" if isinstance(error, SandboxError) else describe_error(error)
        text = shorten(self.redactor.scrub(said))
        if frame.responses is not None:
            # An answer that cannot be used must not be given again.
            frame.responses.drop()
            text += LOST if frame.responses.lost else ""
        if isinstance(error, ApprovalPending) and frame.row.kind in ASKED:
            await self._finish(frame, status="cancelled", error=WAITING)
            return
        # A program that stops to be gone on with did not fail.
        stopped = frame.row.kind == "sandbox" and isinstance(error, Stopped)
        await self._finish(frame, status="cancelled" if stopped else "failed", error=text)

    async def _finish(self, frame: StepFrame, *, status: Literal["failed", "cancelled"], error: str) -> None:
        written = self.store.finish(self._end(frame, status, error))
        try:
            await on_disk(written)
        finally:
            # Stopped while it was written, it has ended all the same.
            if written.exception() is None:
                self._tell(frame, status=status, error=error)

    def _end(self, frame: StepFrame, status: Literal["failed", "cancelled"], error: str) -> Outcome:
        use = Use(frame.run.id, frame.ord, frame.row.id, False, frame.started, time.time())
        shown, nested = self._output_bytes(frame), dict(frame.nested)
        return Outcome(step=frame.row.id, status=status, error=error, nested=nested, shown=shown, use=use)

    def _tell(self, frame: StepFrame, *, status: Literal["failed", "cancelled"], error: str) -> None:
        row = replace(frame.row, error=error, shown=self._output_bytes(frame))
        self._emit(live_event(frame, row, status, time.time()))


def _is_double_payment(frame: StepFrame) -> bool | None:
    """What the wire says about double payment; None leaves what was assumed when the step was begun."""
    if frame.responses is None:
        return None
    if frame.responses.lost_and_asked_again:
        return True
    return frame.paid_before if frame.responses.answered else None


def _note_reply(performed: Performed, operation: Operation, run: RunFrame, n: int) -> Performed:
    if operation.kind == "model":
        run.replied = Occurrence(operation.key.key, n)
    return performed


async def _settle_nothing(doubtful: InDoubt) -> bool:
    """There is nobody to settle it."""
    return False
