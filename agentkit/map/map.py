"""An agent over a table: each row is a run of its own, recorded under one run that is the map."""

from __future__ import annotations

import asyncio
import math
import re
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import wait
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Generic, Literal, TypeAlias, TypedDict, Unpack

import pandas as pd
from pydantic_ai import Agent
from pydantic_ai.agent import AbstractAgent
from pydantic_ai.models import Model
from pydantic_ai.output import OutputDataT
from pydantic_ai.toolsets import FunctionToolset

from agentkit.agent.agent import JournaledAgent, durable, guard, options_of, put_down
from agentkit.agent.durability import enclosing_step
from agentkit.approval import decisions, interrupt
from agentkit.approval.policy import Question
from agentkit.budget import reservation
from agentkit.budget.budget import NANO, Budget, format_amount, nano, parse
from agentkit.errors import (
    ApprovalPending,
    BudgetExceeded,
    Interrupted,
    JournalError,
    Stopped,
    UserError,
    describe_error,
    leaves,
)
from agentkit.events import Event, Run, Step
from agentkit.journal.answers import RowAnswer
from agentkit.journal.execution import Execution, inside, shorten
from agentkit.journal.keys import MessageChain, RequestParts
from agentkit.map import sample as sampling
from agentkit.map.batch import COLLECT, BatchedRows, BatchOptions
from agentkit.map.first_request import (
    ArrivedReply,
    DirectRows,
    OutputCodec,
    RowBasis,
    basis_of,
    prompt_digest,
)
from agentkit.map.frame import ResultColumns, Status
from agentkit.map.frame_file import check_out, write
from agentkit.map.progress import Progress, Snapshot
from agentkit.map.prompt_template import PromptTemplate
from agentkit.map.rows import Piece, Table, check_key, open_table
from agentkit.map.sample import Estimate
from agentkit.map.scheduler import Scheduler
from agentkit.models import batch_api, resolve
from agentkit.runtime.run_state import RunState, frame_of_run
from agentkit.runtime.run_terms import RunOptions, run_with
from agentkit.runtime.session import current, execution_of, identity_of, surround
from agentkit.tools.digest import ToolDigest

Errors: TypeAlias = str
"""`keep` (a row that fails keeps its place), `stop` (at the first), or a share such as `5%` of all rows."""

_PROMPT_CHARACTERS = 2_000
_ERROR_CHARACTERS = 400
_QUESTIONS_AT_ONCE = 100
_ENOUGH_ROWS = 10
"""Rows on record that say what a row takes."""
_PIECE = 1_024
"""Rows that are looked up at once: what the event loop does not notice."""
_RUN_CHARACTERS = 8
_PROBES = 2
"""Rows that are asked alone behind the first one, where that did not say that rows may be batched."""
_ROWS_DONE = re.compile(r"(?P<done>[\d,]+) of (?P<rows>[\d,]+) rows done")
_ROWS_OTHER = re.compile(r"(?P<count>[\d,]+) (?P<what>\D+)")


@dataclass(frozen=True, kw_only=True, slots=True)
class MapRow(Generic[OutputDataT]):
    """One row as it ended: its place in the table, its label in the index, and what came of it.

    `cost` is in USD and `seconds` are those of the live run, also where it was `replayed`. `run` is the recorded run.
    """

    ordinal: int
    index: Any
    status: Status
    answer: OutputDataT | None = None
    error: str = ""
    cost: float | None = None
    tokens: int = 0
    seconds: float | None = None
    run: str = ""
    replayed: bool = False


@dataclass(frozen=True, kw_only=True)
class MapResult:
    """What a map gave: a frame in the order and with the index of the input, and how it went."""

    frame: pd.DataFrame
    snapshot: Snapshot
    run: str
    agent: str
    estimate: Estimate | None = None
    notes: tuple[str, ...] = ()

    @property
    def failed(self) -> pd.DataFrame:
        """The rows that failed."""
        return self.frame[self.frame["status"] == "failed"]

    @property
    def waiting(self) -> pd.DataFrame:
        """The rows that wait for a person."""
        return self.frame[self.frame["status"] == "waiting"]

    @property
    def summary(self) -> str:
        """How it went, in one line; what a chance sample says of the whole, where that is what was run."""
        return describe_result(self.snapshot) if self.estimate is None else sampling.describe(self.estimate)

    def __repr__(self) -> str:
        return "\n".join((self.summary, *self.notes))


def describe_result(snapshot: Snapshot) -> str:
    """Return in one line how many rows are done, failed, waiting and left, and what they cost."""
    counts = [f"{snapshot.done:,} of {snapshot.total:,} rows done"]
    counts += [f"{snapshot.replayed:,} from the record"] if snapshot.replayed else []
    counts += [f"{snapshot.failed:,} failed"] if snapshot.failed else []
    counts += [f"{snapshot.waiting:,} wait for a person"] if snapshot.waiting else []
    return " · ".join(counts)


def counts_of(description: str) -> Counter[str]:
    """Return what `describe_result` said came of the rows: `rows` in all, how many done, failed, waiting."""
    counts = Counter({"rows": 0})
    for part in description.split(" · "):
        if found := _ROWS_DONE.fullmatch(part):
            counts.update({"rows": _integer(found["rows"]), "done": _integer(found["done"])})
        elif (found := _ROWS_OTHER.fullmatch(part)) and found["what"] != "from the record":
            counts.update({found["what"]: _integer(found["count"])})
    return counts


def _integer(text: str) -> int:
    return int(text.replace(",", ""))


MapView: TypeAlias = "Callable[[RowMap], AbstractContextManager[None]]"
"""Shows a map while it runs (`Session.map_view`)."""

default_view: MapView | None = None
"""Where a session shows nothing itself."""


@dataclass(kw_only=True)
class _RowState:
    """What is heard of a row while it runs."""

    cost: float | None = 0.0
    tokens: int = 0
    recorded_seconds: float = 0.0
    live: int = 0
    replayed: int = 0


class RowMap:
    """One map: checked when it is made, before anything is paid; `run` performs it.

    `results` holds what is known of each row so far, `progress` how far it is.
    """

    def __init__(
        self,
        agent: AbstractAgent[Any, Any],
        rows: object,
        prompt: str,
        *,
        values: Mapping[str, str] | None = None,
        name: str = "rows",
        key: str | None = None,
        workers: int | Literal["auto"] = "auto",
        errors: Errors = "keep",
        budget: str | Budget | None = None,
        out: str | Path | None = None,
        limit: int | None = None,
        sample: int | None = None,
        fresh: bool = False,
        batch: bool | BatchOptions = False,
        deps: Any = None,
    ) -> None:
        session = current()
        if session is None:
            raise UserError("no session is open: use `with agentkit.session(...)` or %load_ext agentkit")
        self.session = session
        self.agent: JournaledAgent[Any, Any] = durable(agent)
        self.name = self.agent.name or "agent"
        self.table: Table = open_table(rows, name=name)
        self.template = PromptTemplate.parse(prompt, self.table, values=values)
        self.prompt = prompt.strip()
        if key is not None:
            check_key(self.table, key)
        self.key = key
        self._most_failures = _most_failures(errors, self.table.length)
        self.errors = errors
        self.budget = Budget(limits=parse(budget)) if isinstance(budget, str) else budget
        if out is not None:
            check_out(out, self.table)
        self.out = out
        self.sample = _count(sample, "sample", self.table.length)
        self.limit = _count(limit, "limit", self.table.length)
        if self.limit is not None and self.sample is not None:
            raise UserError("limit and sample: one of them, the first rows or some by chance")
        self.fresh = fresh
        self.batch = BatchOptions() if batch is True else batch or None
        if self.batch is not None:
            _check_batch(self.agent)
        self._deps = deps
        self.results = ResultColumns(self.agent.output_type, self.table)
        chosen = self.limit if self.limit is not None else self.table.length
        self.ordinals: Collection[int] = (
            range(chosen) if self.sample is None else sampling.sample(self.table, self.sample)
        )
        self.progress = Progress(len(self.ordinals))
        self.scheduler = Scheduler(
            workers,
            model_name=_model_name(self.agent),
            waited=self.progress.add_server_wait,
            resized=self.progress.set_workers,
        )
        self.run_id = ""
        self.ended = ""
        self._on_row: Callable[[MapRow[Any]], Awaitable[None]] | None = None
        self._codec = OutputCodec(self.agent.output_type)
        self._hashed: dict[Callable[..., Any], ToolDigest] = {}
        self._basis: RowBasis | None = None
        self._direct: DirectRows | None = None
        self._asked_first = False
        self._obstacle = ""
        self._arrived: dict[int, ArrivedReply] = {}
        self._sampled: list[MapRow[Any]] = []
        self._steps: dict[int, int] = {}
        self._known: dict[int, RowAnswer] = {}
        # By run, and by the place of the step where the row has no run of its own.
        self._states: dict[tuple[str, int], _RowState] = {}
        self._waiting: dict[int, tuple[str, ...]] = {}
        self._notes: list[str] = []

    # -- the whole

    async def run(self, on_row: Callable[[MapRow[Any]], Awaitable[None]] | None = None) -> MapResult:
        """Perform the map; what is recorded is replayed. `on_row` is told of each row as it ends."""
        self._on_row = on_row
        view = self.session.map_view or default_view
        with nullcontext() if view is None else view(self):
            try:
                async with self._recording() as frame:
                    await self._run_rows(frame, self.ordinals)
                    while self._waiting and await self._ask_for_all():
                        waiting, self._waiting = sorted(self._waiting), {}
                        await self._run_rows(frame, waiting)
            except (asyncio.CancelledError, KeyboardInterrupt):
                self.ended = self.ended or "it was stopped"
                raise
            finally:
                self.progress.finish(self.ended)
        result = self.result()
        if self.out is not None:
            write(result.frame, self.out)
        return result

    def result(self) -> MapResult:
        """What is known by now, also where the map was stopped."""
        snapshot = self.progress.snapshot()
        return MapResult(
            frame=self.results.frame(),
            snapshot=snapshot,
            run=self.run_id,
            agent=self.name,
            estimate=None if self.sample is None else self._estimate(),
            notes=(*self.template.notes, *self._notes),
        )

    def _estimate(self) -> Estimate:
        """What the rows of the sample say of all."""
        live = sum(row.seconds or 0.0 for row in self._sampled if not row.replayed)
        spent = max(self.progress.snapshot().seconds, 0.001)
        return sampling.estimate(
            rows=self.table.length,
            costs=[row.cost for row in self._sampled],
            tokens=[row.tokens for row in self._sampled],
            seconds=[row.seconds for row in self._sampled],
            workers=max(1.0, live / spent) if live else float(self.scheduler.limit),
            failed=sum(row.status == "failed" for row in self._sampled),
        )

    async def _run_rows(self, frame: RunState | None, ordinals: Collection[int]) -> None:
        if self.batch is not None and frame is None:
            raise UserError("nothing is recorded in mode off, so a batch could not be collected: leave out batch")
        if self.batch is None and frame is not None:
            self._note_open_batches()
        prompts: dict[int, tuple[str, Any]] = {}
        rows = self._rows(frame, ordinals, prompts)

        async def perform(ordinal: int) -> None:
            prompt, label = prompts.pop(ordinal)
            if (known := self._known.pop(ordinal, None)) is not None:
                await self._take_known(ordinal, label, known)
            else:
                await self._row(frame, ordinal, prompt, label)

        # The first row says what all rows have in common: then what is on record of the others is one lookup.
        await self.scheduler.run(islice(rows, 1), perform)
        if frame is not None and not frame.fresh:
            self._check_budget()
        if self.batch is not None and frame is not None and frame.mode != "replay":
            await self._batch_rows(frame, self.batch, rows, prompts, perform)
        else:
            await self.scheduler.run(rows, perform)

    def _check_budget(self) -> None:
        """Raise UserError where the rows on record say that all rows will not fit in the budget of the map."""
        if self.budget is None or self._basis is None or self.ended:
            return
        means = self.session.store.row_means(self._basis.digest)
        if means.rows < _ENOUGH_ROWS:
            return
        per_row = {"usd": None if means.cost is None else means.cost * NANO, "tokens": means.tokens}
        for limit in self.budget.limits:
            took = per_row.get(limit.measure)
            if limit.window != "run" or took is None or took * len(self.ordinals) <= limit.amount:
                continue
            whole = format_amount(limit.measure, math.ceil(took * len(self.ordinals)))
            raise UserError(
                f"budget {limit.text}: {len(self.ordinals):,} rows will take about {whole}, as {means.rows:,} rows on "
                f"record say: raise it, or take the first rows only (limit={int(limit.amount / took):,})"
            )

    def _note_open_batches(self) -> None:
        count = sum(row.agent == self.name for row in self.session.store.open_batches(COLLECT))
        if count:
            what = "a batch of this agent is" if count == 1 else f"{count} batches of this agent are"
            self._notes.append(
                f"{what} sent and not collected: rows in it were asked alone; with batch it is collected"
            )

    async def _batch_rows(
        self,
        frame: RunState,
        options: BatchOptions,
        rows: Iterator[int],
        prompts: dict[int, tuple[str, Any]],
        perform: Callable[[int], Awaitable[None]],
    ) -> None:
        """Ask all rows but the first ones in batches; those say that each is one request."""
        for _ in range(_PROBES):
            if self._direct is not None or self._obstacle or self.ended:
                break
            self._asked_first = False
            await self.scheduler.run(islice(rows, 1), perform)
        if self.ended:
            return
        direct = self._direct
        if direct is None:
            why = self._obstacle or f"none of its first {_PROBES + 1} rows was answered by one request"
            if (ordinal := next(rows, None)) is None:
                return
            prompts.pop(ordinal)
            raise UserError(_not_batched(self.name, why))
        # The places below are those of its rows.
        frame.ord = max(frame.ord, self.table.length + 1)
        batched = BatchedRows(
            options, direct=direct, frame=frame, progress=self.progress, perform=partial(self._perform_batched, frame),
            refused=self._end, note=self._notes.append, ended=lambda: bool(self.ended),
        )  # fmt: skip
        await batched.run((ordinal, *prompts.pop(ordinal)) for ordinal in rows)

    async def _perform_batched(
        self, frame: RunState, ordinal: int, prompt: str, label: Any, arrived: ArrivedReply | None
    ) -> None:
        if (known := self._known.pop(ordinal, None)) is not None:
            await self._take_known(ordinal, label, known)
            return
        if arrived is not None:
            self._arrived[ordinal] = arrived
        await self._row(frame, ordinal, prompt, label)

    def _rows(
        self, frame: RunState | None, ordinals: Collection[int], prompts: dict[int, tuple[str, Any]]
    ) -> Iterator[int]:
        """The rows that are not answered by the record at once, each with its prompt in `prompts`."""
        whole = isinstance(ordinals, range) and len(ordinals) == self.table.length
        chosen = ordinals if isinstance(ordinals, range) else frozenset(ordinals)
        first = True
        for piece in self.table.pieces(size=_PIECE, only=None if whole else ordinals, columns=self.template.columns):
            rendered = self.template.render(piece)
            places = [place for place in range(len(piece)) if whole or piece.start + place in chosen]
            if first and places:
                first = False
                place = places.pop(0)
                prompts[piece.start + place] = (rendered[place], piece.index[place])
                yield piece.start + place
            for place in self._left_after_lookup(frame, piece, rendered, places):
                prompts[piece.start + place] = (rendered[place], piece.index[place])
                yield piece.start + place

    def _left_after_lookup(
        self, frame: RunState | None, piece: Piece, rendered: Sequence[str], places: list[int]
    ) -> list[int]:
        if frame is None or self._basis is None or frame.fresh or frame.mode == "live":
            return places
        digests = {place: prompt_digest(rendered[place]) for place in places}
        found = {
            answer.prompt: answer
            for answer in self.session.store.row_answers(self._basis.digest, list(dict.fromkeys(digests.values())))
        }
        known = [place for place in places if digests[place] in found]
        if self._on_row is not None:
            # Each is told in its turn.
            self._known.update({piece.start + place: found[digests[place]] for place in known})
            return places
        answers = [found[digests[place]] for place in known]
        misfits = self.results.put_json(
            [piece.start + place for place in known],
            [answer.body for answer in answers],
            costs=[answer.cost for answer in answers],
            tokens=[answer.tokens for answer in answers],
            seconds=[answer.seconds for answer in answers],
            runs=[answer.run for answer in answers],
        )
        again = set(misfits)
        counted = [answer for place, answer in zip(known, answers, strict=True) if piece.start + place not in again]
        cost, tokens = sum(answer.cost or 0.0 for answer in counted), sum(answer.tokens for answer in counted)
        self.progress.replay_many(len(counted), cost, tokens)
        # What was paid before counts in the limits of the map, so that it stops where it stopped before.
        frame.replayed_amounts = replace(
            frame.replayed_amounts,
            usd=frame.replayed_amounts.usd + nano(cost),
            tokens=frame.replayed_amounts.tokens + tokens,
            requests=frame.replayed_amounts.requests + len(counted),
        )
        left = again | {piece.start + place for place in places if digests[place] not in found}
        return [place for place in places if piece.start + place in left]

    # -- one row

    async def _take_known(self, ordinal: int, label: Any, known: RowAnswer) -> None:
        adapter = self._codec.adapter
        assert adapter is not None
        row: MapRow[Any] = MapRow(
            ordinal=ordinal, index=label, status="done", answer=adapter.validate_json(known.body), cost=known.cost,
            tokens=known.tokens, seconds=known.seconds, run=known.run, replayed=True,
        )  # fmt: skip
        await self._put(row, "")

    async def _row(self, frame: RunState | None, ordinal: int, prompt: str, label: Any) -> None:
        self.progress.begin(ordinal)
        opened: list[RunState] = []
        began = time.monotonic()
        status: Status = "done"
        answer: Any = None
        error_text, kind = "", ""
        try:
            answer = await self._ask(frame, ordinal, prompt, opened)
        except BudgetExceeded as reached:
            self.progress.abandon(ordinal)
            self._end(str(reached))
            return
        except ApprovalPending as pending:
            status, error_text = "waiting", f"waits for a person: {pending.asked}"
            self._waiting[ordinal] = pending.steps
        except (JournalError, Interrupted, asyncio.CancelledError):
            # No row can be recorded, or somebody ends all of it.
            self.progress.abandon(ordinal)
            raise
        except Exception as error:  # noqa: BLE001 - one row that fails is a result of the map
            status = "failed"
            error_text = shorten(self.session.redactor.scrub(describe_error(error)), _ERROR_CHARACTERS)
            kind = _kind(error)
        place = (opened[-1].id, ordinal + 1 if opened[-1].maps else 0) if opened else ("", 0)
        seen = self._states.pop(place, None) or _RowState()
        replayed = status == "done" and seen.live == 0 and seen.replayed > 0
        row: MapRow[Any] = MapRow(
            ordinal=ordinal,
            index=label,
            status=status,
            answer=answer,
            error=error_text,
            cost=seen.cost,
            tokens=seen.tokens,
            seconds=seen.recorded_seconds if replayed else time.monotonic() - began,
            run=place[0],
            replayed=replayed,
        )
        if status == "done" and opened:
            self._keep_answer(row, prompt, opened[-1])
        await self._put(row, kind)

    async def _put(self, row: MapRow[Any], kind: str) -> None:
        self.results.put(
            row.ordinal,
            status=row.status,
            answer=row.answer,
            error=row.error,
            cost=row.cost,
            tokens=row.tokens,
            seconds=row.seconds,
            run=row.run,
        )
        assert row.status in ("done", "failed", "waiting")
        self.progress.end(
            row.ordinal,
            status=row.status,
            replayed=row.replayed,
            error_kind=kind,
            cost=row.cost,
            tokens=row.tokens,
            seconds=row.seconds or 0.0,
            label=str(row.index),
        )
        if self.sample is not None:
            self._sampled.append(row)
        if self._on_row is not None:
            await self._on_row(row)
        if row.status == "failed" and self.results.count("failed") > self._most_failures:
            self._end(f"{self.results.count('failed'):,} rows failed (errors={self.errors!r})")

    async def _ask(self, frame: RunState | None, ordinal: int, prompt: str, opened: list[RunState]) -> Any:
        given = {} if self._deps is None else {"deps": self._deps}
        if frame is None:
            return (await self.agent.run(prompt, **given)).output
        if self._direct is not None:
            opened.append(frame)
            self._states[frame.id, ordinal + 1] = _RowState()
            arrived = self._arrived.pop(ordinal, None)
            reply = await self._direct.ask(ordinal, prompt, _execution_of_row(frame), arrived)
            if reply.output is not None:
                self._steps[ordinal] = reply.step
                return reply.output[0]
            # Its first request is on record now: the loop goes on from there.
            del self._states[frame.id, ordinal + 1]
            opened.clear()
        # Equal prompts are one question, and each row resumes alone: what is counted is counted in the row.
        surround(execution=_execution_of_row(frame))
        options = RunOptions(
            fresh=frame.fresh, mode=frame.mode, headless=frame.headless, row=ordinal, entered=opened.append
        )
        with run_with(options):
            output = (await self.agent.run(prompt, **given)).output
        if self._direct is None and not self._asked_first:
            self._asked_first = True
            self._learn(frame, opened[-1], prompt, output)
        return output

    def _learn(self, frame: RunState, row: RunState, prompt: str, output: object) -> None:
        """What the first row's run says of the others: their basis, and whether they need the loop."""
        first = row.first_request
        if first is None:
            return
        self._basis = basis_of(first, prompt, self._codec, row, self._hashed)
        self._obstacle = DirectRows.obstacle(first, prompt, self._codec, row=row, map=frame)
        direct = None if self._basis is None else DirectRows.of(first, prompt, self._codec, row=row, map=frame)
        if direct is not None and direct.gives(output):
            self._direct = direct

    def _keep_answer(self, row: MapRow[Any], prompt: str, frame: RunState) -> None:
        """Note what the row was answered, for one lookup of all rows next time."""
        step = self._steps.pop(row.ordinal, None)
        basis = self._basis
        if step is None:
            first = frame.first_request
            basis = None if first is None else basis_of(first, prompt, self._codec, frame, self._hashed)
        body = None if basis is None else self._codec.dump(row.answer)
        if basis is None or body is None or self.session.store.read_only:
            return
        redactor = self.session.redactor
        if not (redactor.clean(body.decode()) and redactor.clean(prompt)):
            return
        answer = RowAnswer(
            prompt=prompt_digest(prompt), run=row.run, body=body, tokens=row.tokens, cost=row.cost,
            seconds=row.seconds or 0.0, step=step,
        )  # fmt: skip
        self.session.store.put_answer(basis.digest, answer, basis.codes)

    # -- ends before the last row

    def _end(self, why: str) -> None:
        if not self.ended:
            self.ended = why
            self._notes.append(f"stopped: {why}; run it again to go on, only what is left is paid")
        self.scheduler.end()

    async def _ask_for_all(self) -> bool:
        """Put the questions of all waiting rows to the person at once; whether anything was decided."""
        asker = self.session.asker
        if asker is None or self.ended:
            return False
        ids = list(dict.fromkeys(step for steps in self._waiting.values() for step in steps))[:_QUESTIONS_AT_ONCE]
        records = [decisions.find(self.session.store, id_) for id_ in ids]
        questions: tuple[Question, ...] = tuple(record.question for record in records if record.waits)
        if not questions:
            return False
        given = await asker(questions)
        if given is None:
            return False
        for question, decision in zip(questions, given, strict=True):
            self.session.decide(question, decision)
        return True

    # -- its record

    @asynccontextmanager
    async def _recording(self) -> AsyncIterator[RunState | None]:
        session = self.session
        options = options_of(session)
        if options.mode == "off":
            with inside(None):
                yield None
            return
        frame = self._frame(options)
        session.journal.settle_doubt = interrupt.settle_doubt
        guard(session)
        record = self._open(frame)
        budgets = reservation.budgets_of(session)
        unlisten = session.listen(self._hear)
        error: BaseException | None = None
        try:
            await budgets.enter(frame, self.budget, within=enclosing_step() is not None)
            with inside(frame), Agent.using_thread_executor(session.executor):
                yield frame
        except BaseException as raised:
            error = raised
            raise
        finally:
            unlisten()
            budgets.leave(frame)
            await self._close(replace(record, gauges=frame.gauges), error)

    def _frame(self, options: RunOptions) -> RunState:
        session, outer = self.session, frame_of_run()
        execution = execution_of(session)
        whose = identity_of(session) if outer is None else outer.whose
        session.keep_secret(resolve.keys(self.agent.model) if isinstance(self.agent.model, Model) else ())
        self.run_id = uuid.uuid4().hex[:_RUN_CHARACTERS]
        return RunState(
            id=self.run_id,
            agent=self.name,
            execution=execution,
            mode=options.mode or session.mode,
            fresh=options.fresh or self.fresh,
            journal=session.journal,
            chain=MessageChain(redactor=session.redactor),
            memo=RequestParts(redactor=session.redactor, identity=whose.parts),
            whose=whose,
            cache=session.cache,
            session=session,
            owner=self.agent,
            began=execution.counts.copy(),
            headless=options.headless,
            outer=outer,
            maps=True,
        )

    def _open(self, frame: RunState) -> Run:
        session, model = self.session, self.agent.model
        outer = enclosing_step()
        record = Run(
            id=frame.id,
            agent=self.name,
            status="running",
            label=session.label,
            cell=frame.execution.cell,
            prompt=shorten(session.redactor.scrub(self.prompt), _PROMPT_CHARACTERS),
            model=resolve.identity(model) if isinstance(model, Model) else str(model or ""),
            mode=frame.mode,
            started=time.time(),
            parent_run=outer[0] if outer else None,
            parent_ord=outer[1] if outer else None,
            caller=session.redactor.scrub(frame.whose.caller or ""),
            thread=session.redactor.scrub(frame.whose.thread or ""),
            rows=len(self.ordinals),
        )
        if not session.store.read_only:
            session.store.open_run(record)
        session.emit(record)
        return record

    async def _close(self, record: Run, error: BaseException | None) -> None:
        session, snapshot = self.session, self.progress.snapshot()
        stopped = isinstance(error, asyncio.CancelledError | GeneratorExit | Stopped) or self.ended
        named = error is not None and not isinstance(error, asyncio.CancelledError | GeneratorExit)
        ended = replace(
            record,
            status="stopped" if stopped else "failed" if error is not None else "done",
            ended=time.time(),
            output=describe_result(snapshot),
            error=shorten(session.redactor.scrub(describe_error(error))) if named and error is not None else None,
            notes=tuple(session.redactor.scrub(note) for note in self._notes),
        )
        if not session.store.read_only:
            written = session.store.close_run(ended, history=None, output=None, nodes=())
            if isinstance(error, asyncio.CancelledError | GeneratorExit):
                # Nobody who looks after the stop finds it running.
                wait([written])
            else:
                await put_down(session, ended, written)
        session.emit(ended)

    def _hear(self, event: Event) -> None:
        """Add up what the runs of a row, and the runs inside them, take."""
        if isinstance(event, Run):
            if event.parent_run == self.run_id and event.row is not None:
                self._states.setdefault((event.id, 0), _RowState())
            elif event.parent_run is not None and (outer := self._states.get((event.parent_run, 0))) is not None:
                # It is part of the row around it for as long as it runs.
                self._states.setdefault((event.id, 0), outer)
                if event.status != "running":
                    del self._states[event.id, 0]
            return
        state = self._states.get((event.run, event.ord if event.run == self.run_id else 0))
        if state is not None and event.status == "done":
            _add(state, event)


def _add(state: _RowState, step: Step) -> None:
    if step.replayed:
        state.replayed += 1
        state.recorded_seconds += step.recorded_seconds or 0.0
    else:
        state.live += 1
    usage = step.usage
    if usage is None:
        if step.kind == "model":
            state.cost = None
        return
    state.tokens += usage.input_tokens + usage.output_tokens
    state.cost = None if state.cost is None or usage.cost is None else state.cost + usage.cost


def _execution_of_row(frame: RunState) -> Execution:
    execution = frame.execution
    return Execution(
        cell=execution.cell, id=execution.id, began=execution.began, entered=execution.entered,
        resting=execution.resting,
    )  # fmt: skip


def _count(given: int | None, option: str, length: int) -> int | None:
    if given is None:
        return None
    if type(given) is not int or given < 1:
        raise UserError(f"{option}={given!r}: a number of rows, 1 or more")
    return min(given, length)


def _most_failures(errors: Errors, length: int) -> float:
    """How many rows may fail before the map ends."""
    match errors:
        case "keep":
            return float("inf")
        case "stop":
            return 0
    with suppress(ValueError):
        if errors.endswith("%") and 0 <= (share := float(errors.removesuffix("%"))) <= 100:
            return length * share / 100
    raise UserError(f"errors={errors!r}: keep, stop, or a share of the rows such as 5%")


def _check_batch(agent: AbstractAgent[Any, Any]) -> None:
    """Raise UserError where it is known before anything is sent that rows of this agent cannot be batched."""
    model = agent.model if isinstance(agent.model, Model) else None
    if (missing := batch_api.explain_missing_batch_api(model)) is not None:
        raise UserError(f"{agent.name or 'agent'} cannot be batched: {missing}")
    offers = [toolset for toolset in agent.toolsets if not isinstance(toolset, FunctionToolset) or toolset.tools]
    if offers:
        names = ", ".join(name for toolset in offers for name in getattr(toolset, "tools", ()))
        raise UserError(_not_batched(agent.name or "agent", f"it has tools{f' ({names})' if names else ''}"))


def _not_batched(name: str, why: str) -> str:
    return (
        f"{name} cannot be batched, because {why}: a batch answers one request of each row within a day, and each "
        "further request of a row would be one more batch; leave out batch"
    )


def _model_name(agent: AbstractAgent[Any, Any]) -> str:
    model = agent.model
    return model.model_name if isinstance(model, Model) else str(model or "")


def _kind(error: BaseException) -> str:
    """What failures are counted by: the class of the error, with the status where a server said one."""
    first = next(leaves(error))
    status = getattr(first, "status_code", None)
    return f"{type(first).__name__} {status}" if isinstance(status, int) else type(first).__name__


class MapOptions(TypedDict, total=False):
    """What `map` takes beside agent, rows and prompt."""

    values: Mapping[str, str] | None
    key: str | None
    workers: int | Literal["auto"]
    errors: Errors
    budget: str | Budget | None
    batch: bool | BatchOptions
    out: str | Path | None
    limit: int | None
    sample: int | None
    fresh: bool
    deps: Any


async def map(
    agent: AbstractAgent[Any, OutputDataT],
    rows: object,
    prompt: str,
    *,
    values: Mapping[str, str] | None = None,
    key: str | None = None,
    workers: int | Literal["auto"] = "auto",
    errors: Errors = "keep",
    budget: str | Budget | None = None,
    out: str | Path | None = None,
    limit: int | None = None,
    sample: int | None = None,
    fresh: bool = False,
    batch: bool | BatchOptions = False,
    deps: Any = None,
) -> MapResult:
    """Run `agent` on each row of a table, and return the answers as a frame in the order of the input.

    `rows` is a DataFrame, an Arrow table, a polars frame, the path of a parquet, CSV or JSONL file, or any iterable of
    mappings. `prompt` is a text with `{{ row.column }}`, `{{ row }}` and `{{ index }}`; `values` has the text of any
    other `{{ expression }}` in it, by its source. Rows whose prompts are equal are asked once. What is on record is
    not paid again: a map that was stopped or killed goes on where it ended, and an edited prompt asks only the rows
    whose prompt differs.

    `errors` says what a failed row means: `keep` (it keeps its place with its `error`, and is asked again next time),
    `stop`, or a share such as `"5%"`. `budget` limits the whole map (`"5usd"`, `"2m tokens"`). `sample` runs so many
    rows by chance and estimates what all would cost and take; `limit` runs the first rows only. `key` names a column
    whose values tell rows apart, and which must not repeat. `batch` sends rows of one request in batches, which the
    provider answers within a day for less; stopped or killed, the map collects them when it runs again. Raises
    UserError before anything is paid when the table, the prompt or an option cannot be used.
    """
    row_map = RowMap(
        agent, rows, prompt, values=values, key=key, workers=workers, errors=errors, budget=budget, out=out,
        limit=limit, sample=sample, fresh=fresh, batch=batch, deps=deps,
    )  # fmt: skip
    return await row_map.run()


async def map_stream(
    agent: AbstractAgent[Any, OutputDataT],
    rows: object,
    prompt: str,
    **options: Unpack[MapOptions],
) -> AsyncIterator[MapRow[OutputDataT]]:
    """Yield each row as it ends, in no certain order; `options` are those of `map`.

    Who reads slowly holds the map back: no more than a few rows wait to be read.
    """
    row_map = RowMap(agent, rows, prompt, **options)
    ended: asyncio.Queue[MapRow[OutputDataT]] = asyncio.Queue(maxsize=1)
    running = asyncio.create_task(row_map.run(ended.put))
    try:
        while not running.done():
            row = asyncio.ensure_future(ended.get())
            # Not an end of its own in the queue: who leaves early reads nothing that is put there.
            await asyncio.wait({row, running}, return_when=asyncio.FIRST_COMPLETED)
            if row.done():
                yield row.result()
            else:
                row.cancel()
        while not ended.empty():
            yield ended.get_nowait()
        await running
    finally:
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running
