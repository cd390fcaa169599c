"""The one thread that writes: everything that waits goes to disk in one transaction, with one sync."""

from __future__ import annotations

import asyncio
import queue
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, wait
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeVar

from agentkit.errors import AgentKitError, JournalFull
from agentkit.journal import database_errors, transactions
from agentkit.journal.records import Use
from agentkit.journal.storage import StorageLocation
from agentkit.journal.transactions import Writing

T = TypeVar("T")
Urgency = Literal["intent", "result", "plain"]
"""An intent is refused when its result might not fit; a result may use the room set aside and cannot be cancelled."""

_NOTE_SECONDS: Final = 0.5
# The log is begun anew after each: a sync of blocks that the file has already costs less than one that makes it grow.
_CHECKPOINT_BATCHES: Final = 50


@dataclass(frozen=True, slots=True, eq=False)
class _Item:
    work: Callable[[Writing], Any]
    urgency: Urgency
    future: Future[Any]


class Writer:
    """`guard` is held while a transaction is open: a lock where reader and writer share a connection (`shared`).

    `submit`, `later` and `stop` are called by one thread at a time.
    """

    def __init__(
        self,
        place: StorageLocation,
        *,
        connect: Callable[[], Writing],
        guard: AbstractContextManager[object],
        shared: bool,
    ) -> None:
        self._place = place
        self._connect = connect
        self._guard = guard
        self._shared = shared
        self._queue: queue.SimpleQueue[_Item | Literal["wake", "end"]] = queue.SimpleQueue()
        self._uses: deque[Use] = deque()
        self._thread: threading.Thread | None = None
        self._batches = 0

    def submit(self, work: Callable[[Writing], T], urgency: Urgency = "plain") -> Future[T]:
        future: Future[T] = Future()
        if urgency == "result":
            # Out of reach of a cancelled task: what was paid for is recorded.
            future.set_running_or_notify_cancel()
        self._ensure_thread()
        self._queue.put(_Item(work, urgency, future))
        return future

    def later(self, uses: Sequence[Use]) -> None:
        """Written with the next transaction, or alone after half a second."""
        first = not self._uses
        self._uses.extend(uses)
        if first:
            self._ensure_thread()
            self._queue.put("wake")

    def stop(self) -> int:
        """Write what waits and end the thread; a later `submit` starts another. Returns how many notes are left."""
        if self._thread is not None and self._thread is not threading.current_thread():
            self._queue.put("end")
            self._thread.join()
            self._thread = None
        return len(self._uses)

    def _ensure_thread(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._serve, name="agentkit-journal", daemon=True)
            self._thread.start()

    def _serve(self) -> None:
        to: Writing | None = None
        for batch in self._next_batches():
            live = [item for item in batch if item.urgency == "result" or item.future.set_running_or_notify_cancel()]
            try:
                with self._guard:
                    to = to or self._connect()
                    self._write(to, live)
                    self._checkpoint(to)
            except Exception as error:  # noqa: BLE001 - it belongs to those who wait, and the thread must live on
                _fail(live, database_errors.translate(error, self._place.path))
        if to is not None and not self._shared:
            to.connection.close()

    def _next_batches(self) -> Iterator[list[_Item]]:
        """All that waits, each time something does; nothing but notes once they are due."""
        due: float | None = None
        ending = False
        while not ending:
            batch: list[_Item] = []
            for token in self._tokens(due):
                if token == "end":
                    ending = True
                elif token == "wake":
                    due = due or time.monotonic() + _NOTE_SECONDS
                else:
                    batch.append(token)
            if batch or (due is not None and (ending or time.monotonic() >= due)):
                due = None
                yield batch

    def _tokens(self, due: float | None) -> Iterator[_Item | Literal["wake", "end"]]:
        try:
            yield self._queue.get(timeout=None if due is None else max(0.0, due - time.monotonic()))
            while True:
                yield self._queue.get_nowait()
        except queue.Empty:
            return

    def _write(self, to: Writing, batch: list[_Item]) -> None:
        self._place.check()
        batch = self._with_room(to, batch)
        uses = self._take_uses()
        try:
            to.connection.execute("BEGIN IMMEDIATE")
        except sqlite3.Error:
            self._keep(uses)
            raise
        if self._together(to, batch, uses):
            return
        # One of them broke the transaction: each alone, so that it breaks only its own.
        self._alone_uses(to, uses)
        for item in batch:
            self._write_alone(to, item)

    def _with_room(self, to: Writing, batch: list[_Item]) -> list[_Item]:
        if not any(item.urgency == "intent" for item in batch):
            return batch
        try:
            self._place.reserve(to.connection)
        except JournalFull as error:
            _fail([item for item in batch if item.urgency == "intent"], error)
            return [item for item in batch if item.urgency != "intent"]
        return batch

    def _together(self, to: Writing, batch: list[_Item], uses: list[Use]) -> bool:
        settled: list[tuple[_Item, Any, AgentKitError | None]] = []
        try:
            if uses:
                transactions.put_uses(to.connection, uses)
            if len(batch) == 1 and not uses:
                settled.append((batch[0], batch[0].work(to), None))
            else:
                settled += [(item, *_write_item(to, item)) for item in batch]
            to.connection.execute("COMMIT")
        except Exception:  # noqa: BLE001 - nothing is settled yet; `_write_alone` meets it again and hands it to its owner
            _roll_back(to)
            return False
        for item, value, refusal in settled:
            if refusal is None:
                item.future.set_result(value)
            else:
                item.future.set_exception(refusal)
        return True

    def _write_alone(self, to: Writing, item: _Item) -> None:
        try:
            value = _transact(to, item.work)
        except Exception as error:  # noqa: BLE001 - it belongs to the one who waits
            problem = database_errors.translate(error, self._place.path)
            if isinstance(problem, JournalFull) and item.urgency == "result" and self._place.give_room():
                self._write_alone(to, item)
                return
            item.future.set_exception(problem)
            return
        item.future.set_result(value)

    def _alone_uses(self, to: Writing, uses: list[Use]) -> None:
        try:
            _transact(to, lambda to: transactions.put_uses(to.connection, uses))
        except sqlite3.Error:
            # They do not stand in the way of a result; who closes the journal is told when they are left over.
            self._keep(uses)

    def _take_uses(self) -> list[Use]:
        uses: list[Use] = []
        while self._uses:
            uses.append(self._uses.popleft())
        return uses

    def _keep(self, uses: list[Use]) -> None:
        self._uses.extendleft(reversed(uses))
        self._queue.put("wake")

    def _checkpoint(self, to: Writing) -> None:
        """Between batches, so that nobody waits for it."""
        self._batches += 1
        if self._batches >= _CHECKPOINT_BATCHES:
            self._batches = 0
            to.connection.execute("PRAGMA wal_checkpoint(PASSIVE)")


def _write_item(to: Writing, item: _Item) -> tuple[Any, AgentKitError | None]:
    """A refusal undoes this item alone; an error of SQLite undoes them all."""
    to.connection.execute("SAVEPOINT item")
    try:
        value = item.work(to)
    except AgentKitError as refusal:
        to.connection.execute("ROLLBACK TO item")
        to.connection.execute("RELEASE item")
        return None, refusal
    to.connection.execute("RELEASE item")
    return value, None


def _transact(to: Writing, work: Callable[[Writing], T]) -> T:
    to.connection.execute("BEGIN IMMEDIATE")
    try:
        value = work(to)
        to.connection.execute("COMMIT")
    except BaseException:
        _roll_back(to)
        raise
    return value


def _roll_back(to: Writing) -> None:
    if to.connection.in_transaction:
        to.connection.execute("ROLLBACK")


def _fail(items: Sequence[_Item], error: Exception) -> None:
    for item in items:
        if not item.future.done():
            item.future.set_exception(error)


async def on_disk(future: Future[T]) -> T:
    """What was written, once it is. A stopped task still waits that moment: nobody finds a write half done."""
    try:
        return await asyncio.wrap_future(future)
    except asyncio.CancelledError:
        wait([future])
        raise
