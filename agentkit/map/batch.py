"""Rows of one request sent in batches, which a provider answers within a day for less: sent once, collected once.

A batch is two steps of the map's run. The outer one is begun before anything is sent, with the keys of its rows and a
token of its own, and ends when the reply of each row is recorded; the inner one sends it, and its result is the handle.
Killed anywhere between, the rerun finds the outer step without an end: by its token it learns whether the batch was
created, and it collects what that one holds.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from pydantic import TypeAdapter
from pydantic_ai.exceptions import ModelAPIError, ModelHTTPError
from pydantic_ai.exceptions import UserError as LibraryUserError
from pydantic_ai.messages import ModelResponse
from pydantic_ai.models.batch import Batch, BatchRequest, BatchResult, EncodedBatchRequest
from pydantic_core import from_json

from agentkit.errors import BudgetExceeded, Stopped, UserError
from agentkit.events import Effects, Kind
from agentkit.journal.execution import Execution, current_step, inside, inside_step, leave_step
from agentkit.journal.keys import operation_key
from agentkit.journal.operation import Operation, Payload
from agentkit.map.first_request import ArrivedReply, DirectRows
from agentkit.map.progress import BatchStanding, Progress
from agentkit.map.scheduler import Scheduler
from agentkit.models import batch_api, resolve
from agentkit.models.request_context import request_with
from agentkit.runtime import server_limits
from agentkit.runtime.guard import ModelBatchInfo, ModelRequestInfo
from agentkit.runtime.run_state import RunState

COLLECT, CREATE = "collect", "create"
"""The names of the two steps of a batch."""

_AT_ONCE = 8
"""Batches of a map that are waited for at once."""
_RECORDING = 32
"""Rows whose replies are recorded at once."""
_BREATH = 5
"""Rows that are made ready between two turns of the event loop."""
_GROWTH = 1.5
_FAILED_CHECKS = 3
"""Checks of a batch in a row that may fail before the map gives up waiting."""
_SENT_AGAIN = 2
"""How often a row is sent again that expired, or failed for a reason that passes."""
_NOT_FOUND = 404

_HANDLE: TypeAdapter[Batch] = TypeAdapter(Batch)


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchOptions:
    """How rows are batched: so many in one, looked at after `poll` seconds, then up to `longest_poll` later."""

    rows: int = 10_000
    poll: float = 30.0
    longest_poll: float = 600.0

    def __post_init__(self) -> None:
        if self.rows < 1 or not 0 < self.poll <= self.longest_poll:
            raise UserError(
                f"BatchOptions(rows={self.rows}, poll={self.poll:g}, longest_poll={self.longest_poll:g}): at least one "
                "row, and a poll of more than 0 seconds that is no longer than longest_poll"
            )


class PerformRow(Protocol):
    """Performs a row of the map to its end."""

    def __call__(self, ordinal: int, prompt: str, label: Any, arrived: ArrivedReply | None, /) -> Awaitable[None]: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class _BatchRow:
    """A row with what it is known by in the journal."""

    ordinal: int
    prompt: str
    label: Any
    key: str


@dataclass(kw_only=True)
class _Plan:
    """One batch: what is recorded of it, and those of its rows that this map asks. `encoded` until it is sent.

    `step` is what its collection is on record.
    """

    token: str
    rows: list[_BatchRow] = field(default_factory=list)
    encoded: list[EncodedBatchRequest] = field(default_factory=list)
    size: int = 0
    payload: Mapping[str, Any] = field(default_factory=dict)
    earlier: bool = False
    batch: Batch | None = None
    step: int = 0

    def name(self, row: _BatchRow) -> str:
        """What the row is called at the provider: letters, digits and a hyphen, 49 characters."""
        return f"{row.key[:32]}-{self.token}"

    @property
    def length(self) -> int:
        return len(self.payload["rows"].split())


class _NeverSent(Exception):
    """A batch that was about to be sent when its process ended."""


class _Gone(Exception):
    """The provider knows nothing of a batch any more."""


@dataclass(frozen=True, kw_only=True)
class BatchCollection(Operation):
    """A batch from before it is sent until the reply of each of its rows is recorded."""

    kind: Kind = "batch"
    name: str = COLLECT
    counted: bool = False
    outer: bool = True
    info: ModelBatchInfo

    @property
    def about(self) -> ModelBatchInfo:
        return self.info

    def control(self, payload: Payload) -> str | None:
        # It stays open for them.
        return f"{payload['left']} of its rows were not asked for here" if payload.get("left") else None


@dataclass(frozen=True, kw_only=True)
class BatchCreation(Operation):
    """What sends a batch: it happens once, and the provider says whether it did. The result is the handle."""

    kind: Kind = "batch"
    name: str = CREATE
    counted: bool = False
    effects: Effects = "once"
    found: Callable[[], Awaitable[Batch | None]] | None

    @property
    def verifiable(self) -> bool:
        return self.found is not None

    async def verify(self) -> Payload | None:
        batch = None if self.found is None else await self.found()
        return None if batch is None else _dump(batch)


class BatchedRows:
    """Asks the rows of one map in batches. `perform` ends a row; `refused` hears that a budget leaves no room."""

    def __init__(
        self,
        options: BatchOptions,
        *,
        direct: DirectRows,
        frame: RunState,
        progress: Progress,
        perform: PerformRow,
        refused: Callable[[str], None],
        note: Callable[[str], None],
        ended: Callable[[], bool],
    ) -> None:
        self._options = options
        self._direct = direct
        self._model = direct.model
        self._identity = resolve.identity(direct.model)
        self._frame = frame
        self._journal = frame.journal
        self._progress = progress
        self._perform = perform
        self._refused = refused
        self._note = note
        self._ended = ended
        self._size = min(options.rows, direct.model.batch_max_requests or 1)
        self._bytes = direct.model.batch_max_bytes
        # Rows with the prompt of one that is asked already, by the key of that one.
        self._equal: dict[str, list[_BatchRow]] = {}
        self._outer = current_step()

    async def run(self, rows: Iterator[tuple[int, str, Any]]) -> None:
        """Perform all rows: those on record at once, the others as their batches end."""
        waiting: set[asyncio.Task[None]] = set()
        try:
            async for plan in self._plans(rows):
                while len(waiting) >= _AT_ONCE:
                    waiting = await _first_of(waiting)
                waiting.add(asyncio.ensure_future(self._answer(plan)))
            while waiting:
                waiting = await _first_of(waiting)
        finally:
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)

    # -- which rows are sent, and in which batch

    async def _plans(self, rows: Iterator[tuple[int, str, Any]]) -> AsyncIterator[_Plan]:
        earlier = self._earlier()
        holds = {key: plan for plan in earlier for key in plan.payload["rows"].split()}
        plan = _Plan(token=secrets.token_hex(8))
        for place, (ordinal, prompt, label) in enumerate(rows):
            if self._ended():
                break
            if place % _BREATH == 0:
                await asyncio.sleep(0)
            request = self._direct.request(ordinal, prompt, Execution())
            row = _BatchRow(ordinal=ordinal, prompt=prompt, label=label, key=request.asked.key.key.hex())
            if row.key in self._equal:
                self._equal[row.key].append(row)
                continue
            if self._journal.find_record(request.asked, request.frame) is not None:
                await self._perform(row.ordinal, row.prompt, row.label, None)
                continue
            self._equal[row.key] = []
            if row.key in holds:
                holds[row.key].rows.append(row)
                continue
            if not await self._add(plan, row):
                yield self._close(plan)
                plan = _Plan(token=secrets.token_hex(8))
                await self._add(plan, row)
            if len(plan.rows) >= self._size:
                yield self._close(plan)
                plan = _Plan(token=secrets.token_hex(8))
        if plan.rows:
            yield self._close(plan)
        for known in earlier:
            # Killed between the record of its last row and its own: nothing is left to be collected.
            if known.rows or await self._count_left(known, most=1) == 0:
                yield known

    async def _add(self, plan: _Plan, row: _BatchRow) -> bool:
        """Add the row, unless the provider does not take it with those that are in."""
        request = self._direct.request(row.ordinal, row.prompt, Execution())
        try:
            encoded = await self._model.batch_encode(
                BatchRequest(
                    custom_id=plan.name(row), messages=request.messages, model_settings=request.settings,
                    model_request_parameters=request.parameters,
                )
            )  # fmt: skip
        except LibraryUserError as error:
            raise UserError(f"batch: {error}") from error
        size = self._model.batch_request_size(encoded)
        other_group = bool(plan.encoded) and plan.encoded[0].group != encoded.group
        if other_group or (self._bytes is not None and plan.rows and plan.size + size > self._bytes):
            return False
        plan.rows.append(row)
        plan.encoded.append(encoded)
        plan.size += size
        return True

    def _close(self, plan: _Plan) -> _Plan:
        digest = hashlib.sha256()
        for encoded in plan.encoded:
            digest.update(f"{encoded.custom_id} {encoded.body}\n".encode())
        plan.payload = {
            "token": plan.token,
            "model": self._identity,
            "group": _without_credential(plan.encoded[0].group),
            "digest": digest.hexdigest(),
            "rows": " ".join(row.key for row in plan.rows),
        }
        return plan

    def _earlier(self) -> list[_Plan]:
        """The batches that are begun and not collected, of whichever run."""
        store = self._journal.store
        found: list[_Plan] = []
        for row in store.open_batches(COLLECT):
            body = store.part(bytes.fromhex(row.parts["payload"]))
            payload = {} if body is None else from_json(body)
            if payload.get("model") != self._identity or row.source:
                continue
            plan = _Plan(token=payload["token"], payload=payload, earlier=True)
            if self._collection(plan).key.key == row.key:
                found.append(plan)
        return found

    # -- one batch

    async def _answer(self, plan: _Plan, tries: int = 0) -> None:
        """Send a batch, wait for it, record its replies; what may be answered next time is sent again."""
        again = await self._collect(plan)
        if again and tries < _SENT_AGAIN and not self._ended():
            next_one = _Plan(token=secrets.token_hex(8))
            for row, _ in again:
                await self._add(next_one, row)
            await self._answer(self._close(next_one), tries + 1)
            return
        for row, arrived in again:
            await self._end(row, arrived)

    async def _collect(self, plan: _Plan) -> list[tuple[_BatchRow, ArrivedReply]]:
        again: list[tuple[_BatchRow, ArrivedReply]] = []

        async def collect() -> Payload:
            collecting = current_step()
            assert collecting is not None
            plan.step = collecting.row.id
            if not plan.rows:
                return {"sent": True, "left": 0}
            try:
                plan.batch = await self._create(plan)
                ended = await self._wait(plan, plan.batch)
                results = await self._results(plan, ended)
            except (_NeverSent, _Gone) as lost:
                again.extend((row, self._missing(plan)) for row in plan.rows)
                return {"sent": isinstance(lost, _Gone), "left": 0}
            again.extend(await self._record(plan, results))
            return {"sent": True, "batch": ended.id, "left": await self._count_left(plan)}

        try:
            with inside(self._frame):
                performed = await self._journal.perform(self._collection(plan), collect)
        except BudgetExceeded as reached:
            self._refused(f"{reached} (a batch of {plan.length:,} rows at once: one that is sent cannot be stopped)")
            return []
        except asyncio.CancelledError:
            if plan.batch is not None and plan.batch.status != "ended":
                self._note(
                    f"batch {plan.batch.id} of {plan.length:,} rows goes on at {plan.batch.provider_name}: run it "
                    "again to collect it, nothing is paid twice"
                )
            raise
        finally:
            if plan.batch is not None:
                self._progress.drop_batch(plan.batch.id)
        if performed.replayed:
            # Another kernel has collected it meanwhile.
            for row in plan.rows:
                request = self._direct.request(row.ordinal, row.prompt, Execution())
                if self._journal.find_record(request.asked, request.frame) is None:
                    again.append((row, self._missing(plan)))
                else:
                    await self._end(row, None)
        return again

    def _collection(self, plan: _Plan) -> BatchCollection:
        key = operation_key(name="batch", payload=dict(plan.payload), history=None, memo=self._frame.memo)
        sent = plan.earlier and self._journal.store.find(self._creation(plan).key.key, 0) is not None
        requests = _Requests(self._direct, plan.rows)
        return BatchCollection(
            key=key,
            request=f"{plan.length:,} rows, {plan.payload['model']}",
            info=ModelBatchInfo(batch=plan.token, requests=requests, sent=sent),
        )

    def _creation(self, plan: _Plan) -> BatchCreation:
        key = operation_key(name="batch create", payload=plan.token, history=None, memo=self._frame.memo)

        async def find() -> Batch | None:
            row = self._journal.store.find(key.key, 0)
            with _outside_of_steps():
                return await batch_api.find_batch(
                    self._model, token=plan.token, requests=plan.length, group=plan.payload["group"],
                    since=0.0 if row is None else row.started,
                )  # fmt: skip

        can = batch_api.can_be_found(self._model)
        return BatchCreation(key=key, request=f"{plan.length:,} rows", found=find if can else None)

    async def _create(self, plan: _Plan) -> Batch:
        """The handle of the batch: from the record, from the provider, or made now. Raises _NeverSent."""
        call = self._creation(plan)
        if plan.earlier and self._journal.store.find(call.key.key, 0) is None:
            raise _NeverSent

        async def create() -> Payload:
            if plan.earlier:
                raise _NeverSent
            with _outside_of_steps(once=True):
                return _dump(await self._model.batch_create(plan.encoded))

        try:
            performed = await self._journal.perform(call, create)
        except ModelAPIError as error:
            refused = isinstance(error, ModelHTTPError) and error.status_code < 500
            more = "" if refused else "; whether it was created all the same is looked up when you run it again"
            raise Stopped(f"the batch of {plan.length:,} rows was not taken: {resolve.explain(error)}{more}") from error
        plan.encoded.clear()
        return _load(performed.payload)

    async def _wait(self, plan: _Plan, batch: Batch) -> Batch:
        checks = failures = 0
        self._show(plan, batch, None)
        while batch.status != "ended":
            if checks or not plan.earlier:
                await asyncio.sleep(min(self._options.longest_poll, self._options.poll * _GROWTH ** min(checks, 50)))
            checks += 1
            try:
                with _outside_of_steps():
                    batch = await self._model.batch_status(batch)
                    counts = None if batch.status == "ended" else await batch_api.count_answered(self._model, batch)
            except ModelAPIError as error:
                failures += 1
                if _is_gone(error):
                    raise self._gone(batch) from error
                if failures > _FAILED_CHECKS or not batch_api.is_transient(error):
                    raise self._unreachable(batch, error) from error
                continue
            failures = 0
            plan.batch = batch
            self._show(plan, batch, counts)
        return batch

    async def _results(self, plan: _Plan, batch: Batch) -> dict[str, BatchResult]:
        try:
            with _outside_of_steps():
                results = {result.custom_id: result for result in await self._model.batch_results(batch)}
        except ModelAPIError as error:
            raise (self._gone(batch) if _is_gone(error) else self._unreachable(batch, error)) from error
        if results and not any(name.endswith(plan.token) for name in results):
            # It was taken for this one by its size and its time: this one was never sent.
            raise _NeverSent
        return results

    def _gone(self, batch: Batch) -> _Gone:
        self._note(
            f"batch {batch.id} is not at {batch.provider_name} any more: its rows were asked again, and paid twice"
        )
        return _Gone()

    def _unreachable(self, batch: Batch, error: ModelAPIError) -> Stopped:
        return Stopped(
            f"batch {batch.id} cannot be looked at: {resolve.explain(error)}; it goes on at {batch.provider_name}, "
            "run it again to collect it"
        )

    def _show(self, plan: _Plan, batch: Batch, counts: batch_api.Counts | None) -> None:
        self._progress.set_batch(
            BatchStanding(
                id=batch.id,
                provider=batch.provider_name,
                status=str((batch.provider_details or {}).get("status", batch.status)),
                rows=plan.length,
                answered=None if counts is None else counts.done + counts.failed,
                failed=0 if counts is None else counts.failed,
                created=batch.created_at.timestamp(),
            )
        )

    # -- its replies

    async def _record(self, plan: _Plan, results: Mapping[str, BatchResult]) -> list[tuple[_BatchRow, ArrivedReply]]:
        """Record each reply as the step of its row; the rows that are to be sent again."""
        again: list[tuple[_BatchRow, ArrivedReply]] = []

        async def end(place: int) -> None:
            # A row is no part of the step that its batch is.
            leave_step()
            row = plan.rows[place]
            arrived, passes = self._read(plan, row, results.get(plan.name(row)))
            if passes:
                again.append((row, arrived))
                return
            with nullcontext() if self._outer is None else inside_step(self._outer):
                await self._end(row, arrived)

        await Scheduler(_RECORDING, model_name=self._model.model_name).run(range(len(plan.rows)), end)
        return again

    async def _count_left(self, plan: _Plan, *, most: int | None = None) -> int:
        """How many rows of the batch were neither asked for here nor recorded before; counts up to `most`."""
        asked = {row.key for row in plan.rows}
        left = 0
        for place, key in enumerate(plan.payload["rows"].split()):
            if left == most:
                break
            if place % _BREATH == 0:
                await asyncio.sleep(0)
            if key not in asked:
                row = self._journal.store.find(bytes.fromhex(key), 0)
                left += row is None or row.status not in ("done", "failed")
        return left

    def _read(self, plan: _Plan, row: _BatchRow, result: BatchResult | None) -> tuple[ArrivedReply, bool]:
        """What came for a row, and whether it may be answered when it is sent again."""
        if result is None:
            return self._missing(plan), True
        request = self._direct.request(row.ordinal, row.prompt, Execution())
        asked = BatchRequest(
            custom_id=result.custom_id, messages=request.messages, model_settings=request.settings,
            model_request_parameters=request.parameters,
        )  # fmt: skip

        def read() -> ModelResponse:
            return self._model.batch_decode(result, asked)

        passes = False
        if result.status != "succeeded":
            try:
                read()
            except ModelAPIError as error:
                # One that was cancelled was meant to stop.
                passes = result.status == "expired" or (result.status == "errored" and batch_api.is_transient(error))
        return ArrivedReply(batch=plan.token, step=plan.step, read=read), passes

    def _missing(self, plan: _Plan) -> ArrivedReply:
        where = f"batch {plan.batch.id}" if plan.batch is not None else "its batch"

        def read() -> ModelResponse:
            raise ModelAPIError(self._model.model_name, f"{where} ended without a reply to this row")

        return ArrivedReply(batch=plan.token, step=plan.step, read=read)

    async def _end(self, row: _BatchRow, arrived: ArrivedReply | None) -> None:
        await self._perform(row.ordinal, row.prompt, row.label, arrived)
        equal = self._equal.get(row.key, [])
        while equal:
            same = equal.pop()
            await self._perform(same.ordinal, same.prompt, same.label, arrived)
        self._equal.pop(row.key, None)


class _Requests(Iterable[ModelRequestInfo]):
    """The requests of a batch, made one by one for whoever weighs them."""

    def __init__(self, direct: DirectRows, rows: Sequence[_BatchRow]) -> None:
        self._direct = direct
        self._rows = rows

    def __iter__(self) -> Iterator[ModelRequestInfo]:
        return (self._direct.info(row.prompt) for row in self._rows)


async def _first_of(tasks: set[asyncio.Task[None]]) -> set[asyncio.Task[None]]:
    """Wait until one of them has ended; raise what it raised."""
    done, left = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    try:
        for task in done:
            task.result()
    except BaseException:
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
        raise
    return left


@contextmanager
def _outside_of_steps(*, once: bool = False) -> Iterator[None]:
    """What goes to the provider here is no answer of a step. `once`: it is not sent twice where it may have arrived."""
    with request_with(relay=None, responses=None, once=once), server_limits.explaining():
        yield


def _is_gone(error: ModelAPIError) -> bool:
    return isinstance(error, ModelHTTPError) and error.status_code == _NOT_FOUND


def _without_credential(group: str) -> str:
    """Not even a digest of a key is recorded; who collects a batch need not have the key that sent it."""
    said = from_json(group)
    return _TEXT.dump_json({**said, "credential": ""}).decode() if isinstance(said, dict) else group


_TEXT: TypeAdapter[dict[str, Any]] = TypeAdapter(dict[str, Any])


def _dump(batch: Batch) -> Payload:
    return _HANDLE.dump_python(replace(batch, group=_without_credential(batch.group)), mode="json")


def _load(payload: Payload) -> Batch:
    return _HANDLE.validate_python(payload)
